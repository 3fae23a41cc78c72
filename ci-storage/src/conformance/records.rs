//! What every [`Records`] does.

use std::sync::Arc;

use bytes::Bytes;
use ci_core::ErrorKind;
use ci_core::id::{Digest, JobId};
use ci_core::records::{Batch, Condition, Fence, Key, Record, Records};
use futures_util::future::join_all;

use super::kind;

type Backend = Arc<dyn Records>;

async fn put(records: &Backend, key: &Key, value: &str) -> Record {
    let value = Bytes::from(value.to_owned());
    let version = records.commit(Batch::new().put(key.clone(), value.clone())).await.expect("committed");
    Record { key: key.clone(), value, version }
}

async fn get(records: &Backend, key: &Key) -> Option<Record> {
    records.get(key).await.expect("read")
}

async fn list(records: &Backend, prefix: &Key) -> Vec<Record> {
    records.list(prefix, None, 1_000).await.expect("listed")
}

/// Values of any bytes and size come back as they are.
pub async fn a_record_is_read_as_it_was_written(records: Backend) {
    let large: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let values = [Bytes::new(), Bytes::from_static(b"\0\xff'\";--\n"), Bytes::from(large)];
    for (number, value) in values.into_iter().enumerate() {
        let key = Key::new("any").part("a/b %'").number(number as u64);
        assert_eq!(get(&records, &key).await, None);
        let version = records.commit(Batch::new().put(key.clone(), value.clone())).await.expect("committed");
        assert_eq!(get(&records, &key).await, Some(Record { key, value, version }));
    }
}

/// In the order in which they are asked for, and `None` for those that are not there.
pub async fn many_records_are_read_in_their_order(records: Backend) {
    let keys = ["c", "a", "missing", "b", "a"].map(Key::new);
    for key in ["a", "b", "c"] {
        put(&records, &Key::new(key), key).await;
    }
    let found = records.get_all(&keys).await.expect("read");
    let found: Vec<_> =
        found.iter().map(|record| record.as_ref().map(|record| record.key.as_str())).collect();
    assert_eq!(found, [Some("c"), Some("a"), None, Some("b"), Some("a")]);
    assert!(records.get_all(&[]).await.expect("read").is_empty());
}

/// The last put counts, and a delete of nothing is no error.
pub async fn a_put_replaces_and_a_delete_removes(records: Backend) {
    let key = Key::new("a");
    put(&records, &key, "one").await;
    let two = put(&records, &key, "two").await;
    assert_eq!(get(&records, &key).await, Some(two));
    for _ in 0..2 {
        records.commit(Batch::new().delete(key.clone())).await.expect("deleted");
        assert_eq!(get(&records, &key).await, None);
    }
}

/// One version for all records of a commit, and a larger one for the next, deletes or not.
pub async fn versions_only_grow_and_are_those_of_the_commit(records: Backend) {
    let (a, b) = (Key::new("a"), Key::new("b"));
    let both = Batch::new().put(a.clone(), "1").put(b.clone(), "1");
    let first = records.commit(both.clone()).await.expect("committed");
    assert_eq!(get(&records, &a).await.expect("there").version, first);
    assert_eq!(get(&records, &b).await.expect("there").version, first);
    records.commit(Batch::new().delete(a.clone()).delete(b.clone())).await.expect("deleted");
    let second = records.commit(both).await.expect("committed");
    assert!(second > first, "also for what was deleted in between");
}

/// If one condition does not hold, nothing is written.
pub async fn a_batch_happens_whole_or_not_at_all(records: Backend) {
    let (here, kept, new) = (Key::new("here"), Key::new("kept"), Key::new("new"));
    let before = [put(&records, &here, "1").await, put(&records, &kept, "1").await];
    let batch = Batch::new()
        .require(Condition::Is(kept.clone(), before[1].version))
        .require(Condition::Absent(here.clone()))
        .put(new.clone(), "x")
        .put(kept.clone(), "x")
        .delete(here.clone());
    assert_eq!(kind(records.commit(batch).await), Some(ErrorKind::Conflict));
    assert_eq!(get(&records, &new).await, None);
    assert_eq!([get(&records, &here).await, get(&records, &kept).await], before.map(Some));
}

/// `Absent` holds where nothing was and where it was deleted.
pub async fn absent_holds_only_where_nothing_is(records: Backend) {
    let key = Key::new("a");
    let batch = Batch::new().require(Condition::Absent(key.clone())).put(key.clone(), "1");
    records.commit(batch.clone()).await.expect("nothing is there");
    assert_eq!(kind(records.commit(batch.clone()).await), Some(ErrorKind::Conflict));
    records.commit(Batch::new().delete(key)).await.expect("deleted");
    records.commit(batch).await.expect("nothing is there any more");
}

/// `Is` holds for the latest version only, and for none where nothing is, even if the same bytes come back.
pub async fn is_holds_only_for_the_version_that_is_there(records: Backend) {
    let key = Key::new("a");
    let first = put(&records, &key, "same").await.version;
    let batch = |version| Batch::new().require(Condition::Is(key.clone(), version)).put(key.clone(), "same");
    let second = records.commit(batch(first)).await.expect("the first is there");
    assert_eq!(kind(records.commit(batch(first)).await), Some(ErrorKind::Conflict));
    records.commit(Batch::new().delete(key.clone())).await.expect("deleted");
    assert_eq!(kind(records.commit(batch(second)).await), Some(ErrorKind::Conflict));
    put(&records, &key, "same").await;
    assert_eq!(kind(records.commit(batch(second)).await), Some(ErrorKind::Conflict));
}

/// A fence of a job that nobody has leased holds never, whatever else does.
pub async fn a_fence_of_no_lease_is_refused(records: Backend) {
    let key = Key::new("a");
    let held = Condition::Held(Fence { job: JobId::random(), token: 0 });
    let refused = kind(records.commit(Batch::new().require(held).put(key.clone(), "1")).await);
    // A store without a queue beside it cannot know any lease.
    assert!(matches!(refused, Some(ErrorKind::Fenced | ErrorKind::Unsupported)), "{refused:?}");
    assert_eq!(get(&records, &key).await, None);
}

/// Of many commits that want the same key to be absent, exactly one happens.
pub async fn of_commits_that_race_one_wins(records: Backend) {
    let key = Key::new("a");
    let commits = (0..16_u8).map(|number| {
        records.commit(Batch::new().require(Condition::Absent(key.clone())).put(key.clone(), vec![number]))
    });
    let done = join_all(commits).await;
    let winners: Vec<usize> = (0..done.len()).filter(|index| done[*index].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{done:?}");
    assert!(done.into_iter().filter_map(kind).all(|lost| lost == ErrorKind::Conflict));
    assert_eq!(usize::from(get(&records, &key).await.expect("there").value[0]), winners[0]);
}

/// Below a key lies what has one more part: no neighbour with a longer name, and not the key itself.
pub async fn a_list_has_what_lies_below_in_the_order_of_keys(records: Backend) {
    let prefix = Key::new("a").part("b");
    let below = [
        prefix.clone().number(2),
        prefix.clone().number(10),
        prefix.clone().part("-"),
        prefix.clone().part("A"),
        prefix.clone().part("a/b"),
        prefix.clone().part("b").part("c"),
        prefix.clone().part("ü"),
    ];
    let beside = ["b-", "b.x", "b0", "bb", "b/", "B"].map(|part| Key::new("a").part(part).part("x"));
    for key in below.iter().chain(&beside).chain([&prefix, &Key::new("a")]) {
        put(&records, key, "1").await;
    }
    let listed: Vec<Key> = list(&records, &prefix).await.into_iter().map(|record| record.key).collect();
    let mut expected = below.to_vec();
    expected.sort();
    assert_eq!(listed, expected);
    let of_record = get(&records, &expected[0]).await.expect("there");
    assert_eq!(list(&records, &prefix).await[0], of_record, "whole records");
}

/// Pages make up the whole, also when the key they go on after is gone meanwhile.
pub async fn a_list_goes_on_after_a_key(records: Backend) {
    let prefix = Key::new("a");
    let keys: Vec<Key> = (0..7).map(|number| prefix.clone().number(number)).collect();
    for key in &keys {
        put(&records, key, "1").await;
    }
    let page = async |after: Option<&Key>, limit| {
        let page = records.list(&prefix, after, limit).await.expect("listed");
        page.into_iter().map(|record| record.key).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 3).await, keys[..3]);
    assert_eq!(page(Some(&keys[2]), 3).await, keys[3..6]);
    records.commit(Batch::new().delete(keys[5].clone())).await.expect("deleted");
    assert_eq!(page(Some(&keys[5]), 3).await, keys[6..]);
    assert_eq!(page(Some(&keys[6]), 3).await, []);
    assert_eq!(page(Some(&Key::new("0")), 1).await, keys[..1], "a key that sorts before the prefix");
    assert_eq!(page(Some(&Key::new("b")), 1).await, [], "a key that sorts behind it");
    assert_eq!(page(None, 0).await, []);
}

/// A purge says how many there were, and leaves neighbours and the prefix itself.
pub async fn a_purge_takes_all_that_lies_below_and_nothing_else(records: Backend) {
    let prefix = Key::new("a").part("b");
    for number in 0..20 {
        put(&records, &prefix.clone().number(number), "1").await;
    }
    let others = [prefix.clone(), Key::new("a").part("b-").part("x"), Key::new("a").part("c")];
    for key in &others {
        put(&records, key, "1").await;
    }
    assert_eq!(records.purge(&prefix).await.expect("purged"), 20);
    assert_eq!(list(&records, &prefix).await, []);
    for key in &others {
        assert!(get(&records, key).await.is_some(), "{key}");
    }
    assert_eq!(records.purge(&prefix).await.expect("purged"), 0);
}

/// What was purged, or deleted before the purge, lies in no file any more; what was not still does.
pub async fn what_was_purged_is_nowhere(records: Backend) {
    let (gone, kept) = (Key::new("gone"), Key::new("kept"));
    // No two of them have any part in common.
    let needle = |what: &str, number: u64| Digest::of(format!("{what} {number}").as_bytes()).to_string();
    // Many, small and large, so that a store that keeps pages has to split and merge them.
    for number in 0..200_u64 {
        let size = if number.is_multiple_of(40) { 9_000 } else { 80 };
        for (key, what) in [(&gone, "gone"), (&kept, "kept")] {
            let value = needle(what, number).repeat(size / 40);
            put(&records, &key.clone().number(number), &value).await;
        }
    }
    let found = async |what: &str, number: u64| records.scan_raw(needle(what, number).as_bytes()).await;
    match found("gone", 7).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => return,
        found => assert!(found.expect("looked") > 0, "the search finds what is there"),
    }
    for number in (0..200).filter(|number| number % 3 == 0) {
        records.commit(Batch::new().delete(gone.clone().number(number))).await.expect("deleted");
    }
    records.purge(&gone).await.expect("purged");
    for number in (0..200).step_by(10).chain([3, 7, 199]) {
        assert_eq!(found("gone", number).await.expect("looked"), 0, "number {number}");
        assert!(found("kept", number).await.expect("looked") > 0, "number {number}");
    }
}

/// What was replaced or deleted one by one is nowhere after the store was asked to forget it, and what is there stays.
pub async fn what_was_scrubbed_is_nowhere(records: Backend) {
    let (replaced, deleted, kept) = (Key::new("replaced"), Key::new("deleted"), Key::new("kept"));
    let needle = |what: &str, number: u64| Digest::of(format!("{what} {number}").as_bytes()).to_string();
    for number in 0..60_u64 {
        for (key, what) in [(&replaced, "gone"), (&deleted, "lost"), (&kept, "kept")] {
            put(&records, &key.clone().number(number), &needle(what, number)).await;
        }
    }
    for number in 0..60 {
        put(&records, &replaced.clone().number(number), &needle("next", number)).await;
        records.commit(Batch::new().delete(deleted.clone().number(number))).await.expect("deleted");
    }
    match records.scrub().await {
        Err(error) if error.kind() == ErrorKind::Unsupported => return,
        scrubbed => scrubbed.expect("scrubbed"),
    }
    let found = async |what: &str, number: u64| records.scan_raw(needle(what, number).as_bytes()).await;
    for number in 0..60 {
        for (what, is_there) in [("gone", false), ("lost", false), ("next", true), ("kept", true)] {
            match found(what, number).await {
                Err(error) if error.kind() == ErrorKind::Unsupported => return,
                places => assert_eq!(places.expect("looked") > 0, is_there, "{what} {number}"),
            }
        }
    }
    assert_eq!(list(&records, &replaced).await.len() + list(&records, &kept).await.len(), 120);
}

/// Fewer than eight bytes lie anywhere by chance.
pub async fn few_bytes_are_not_looked_for(records: Backend) {
    let refused = kind(records.scan_raw(b"1234567").await);
    assert!(matches!(refused, Some(ErrorKind::Invalid | ErrorKind::Unsupported)), "{refused:?}");
}
