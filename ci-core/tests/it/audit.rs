//! The audit log: what is changed is noticed.

use std::cell::Cell;
use std::num::NonZeroU64;
use std::sync::Arc;

use ci_core::audit::{Audit, Checkpoint, Entry, Head, SigningKey};
use ci_core::memory::{Anchor, Rig};
use ci_core::operator::Operator;
use ci_core::records::{Batch, Key, Record};
use ci_core::secret::FreshnessAnchor as _;
use ci_core::{ErrorKind, Result};

use crate::{ours, refused, theirs};

fn entry(number: u64) -> Key {
    Key::new("audit").part(ours().tenant().as_str()).part("entry").number(number)
}

fn head() -> Key {
    Key::new("audit").part(ours().tenant().as_str()).part("head")
}

/// Writes five entries, lets somebody with access to the database do `harm`, and says what verifying finds.
async fn after(harm: impl Fn(&[Record]) -> Batch) -> Result<Option<ErrorKind>> {
    let rig = Rig::new()?;
    for number in 0..5 {
        rig.audit.record(ours().tenant(), Entry::new("thing.done", "ada").about("number", number)).await?;
    }
    assert_eq!(rig.audit.verify(ours().tenant()).await?.count, 5);
    let mut records = Vec::new();
    for number in 0..5 {
        records.push(rig.database.get(&entry(number)).await?.expect("an entry"));
    }
    rig.database.commit(harm(&records)).await?;
    Ok(rig.audit.verify(ours().tenant()).await.err().map(|error| error.kind()))
}

fn altered(record: &Record) -> Vec<u8> {
    String::from_utf8_lossy(&record.value).replace("ada", "eve").into_bytes()
}

#[tokio::test]
async fn an_untouched_log_is_whole() -> Result<()> {
    assert_eq!(after(|_| Batch::new()).await?, None);
    Ok(())
}

#[tokio::test]
async fn a_changed_entry_is_noticed() -> Result<()> {
    for number in 0..5 {
        let found = after(|records| {
            let record = &records[usize::try_from(number).expect("small")];
            Batch::new().put(record.key.clone(), altered(record))
        });
        assert_eq!(found.await?, Some(ErrorKind::Tampered), "{number}");
    }
    assert_eq!(after(|_| Batch::new().put(entry(2), "not an entry")).await?, Some(ErrorKind::Tampered));
    Ok(())
}

#[tokio::test]
async fn a_removed_entry_is_noticed() -> Result<()> {
    for number in 0..5 {
        let found = after(|_| Batch::new().delete(entry(number)));
        assert_eq!(found.await?, Some(ErrorKind::Tampered), "{number}");
    }
    let all = |_: &[Record]| (0..5).fold(Batch::new(), |batch, number| batch.delete(entry(number)));
    assert_eq!(after(all).await?, Some(ErrorKind::Tampered));
    assert_eq!(after(|_| Batch::new().delete(head())).await?, Some(ErrorKind::Tampered));
    Ok(())
}

#[tokio::test]
async fn a_moved_entry_is_noticed() -> Result<()> {
    let swapped = after(|records| {
        let (two, three) = (&records[2], &records[3]);
        Batch::new().put(two.key.clone(), three.value.clone()).put(three.key.clone(), two.value.clone())
    });
    assert_eq!(swapped.await?, Some(ErrorKind::Tampered));
    let closed_up = after(|records| Batch::new().put(entry(3), records[4].value.clone()).delete(entry(4)));
    assert_eq!(closed_up.await?, Some(ErrorKind::Tampered));
    let elsewhere = after(|records| Batch::new().put(entry(9), records[4].value.clone()).delete(entry(4)));
    assert_eq!(elsewhere.await?, Some(ErrorKind::Tampered));
    Ok(())
}

#[tokio::test]
async fn an_added_entry_is_noticed() -> Result<()> {
    let copy = after(|records| Batch::new().put(entry(5), records[4].value.clone()));
    assert_eq!(copy.await?, Some(ErrorKind::Tampered));
    let between = after(|records| Batch::new().put(entry(2).part("x"), records[2].value.clone()));
    assert_eq!(between.await?, Some(ErrorKind::Tampered));
    Ok(())
}

#[tokio::test]
async fn two_writers_at_once_make_one_chain() -> Result<()> {
    let rig = Rig::new()?;
    let (tenant, rounds) = (ours().tenant().clone(), Cell::new(0));
    let slow = rig.audit.attempt(&tenant, Entry::new("slow", "ada"), async |batch| {
        rounds.set(rounds.get() + 1);
        if rounds.get() == 1 {
            // Somebody else is faster between reading the head and writing the entry.
            rig.audit.record(&tenant, Entry::new("fast", "bob")).await?;
        }
        rig.database.commit(batch).await.map(|_| ())
    });
    slow.await?;
    assert_eq!(rounds.get(), 2);
    assert_eq!(rig.audit.verify(&tenant).await?.count, 2);
    let act = rig.operator.act(&tenant, "audit.read").await?;
    let entries = rig.audit.entries(&act, &tenant, 0).await?;
    let actions: Vec<_> = entries.iter().map(|logged| logged.entry.action.as_str()).collect();
    assert_eq!(actions, ["fast", "slow", "audit.read"]);
    Ok(())
}

#[tokio::test]
async fn a_chain_longer_than_a_page_is_verified_to_its_end() -> Result<()> {
    let rig = Rig::new()?;
    for number in 0..1_001 {
        rig.audit.record(ours().tenant(), Entry::new("thing.done", "ada").about("number", number)).await?;
    }
    assert_eq!(rig.audit.verify(ours().tenant()).await?.count, 1_001);
    rig.database.commit(Batch::new().delete(entry(1_000))).await?;
    assert_eq!(refused(rig.audit.verify(ours().tenant()).await), ErrorKind::Tampered);
    Ok(())
}

#[tokio::test]
async fn every_tenant_has_a_chain_of_its_own() -> Result<()> {
    let rig = Rig::new()?;
    rig.audit.record(ours().tenant(), Entry::new("thing.done", "ada")).await?;
    rig.database.commit(Batch::new().delete(entry(0))).await?;
    assert_eq!(refused(rig.audit.verify(ours().tenant()).await), ErrorKind::Tampered);
    assert_eq!(rig.audit.verify(theirs().tenant()).await?.count, 0);
    Ok(())
}

#[tokio::test]
async fn there_is_one_operator() -> Result<()> {
    let rig = Rig::new()?;
    assert_eq!(refused(Operator::new(&rig.audit)), ErrorKind::Conflict);
    assert_eq!(refused(Operator::new(&rig.audit.clone())), ErrorKind::Conflict);
    let other = Audit::new(rig.records(), rig.clock.clone());
    assert!(Operator::new(&other).is_ok(), "a service that is put together twice is two services");
    Ok(())
}

#[tokio::test]
async fn a_log_that_was_put_back_is_noticed_by_its_anchor() -> Result<()> {
    let (rig, anchor, tenant) = (Rig::new()?, Anchor::default(), ours().tenant().clone());
    assert_eq!(rig.audit.verify_fresh(&tenant, &anchor).await?.count, 0);
    let place = Key::new("audit").part(tenant.as_str());
    assert_eq!(anchor.latest(&place).await?, None, "nothing to remember yet");
    rig.audit.record(&tenant, Entry::new("thing.done", "job")).await?;
    let saved = rig.database.list(&Key::new("audit"), None, 100).await?;
    for count in [2, 3] {
        rig.audit.record(&tenant, Entry::new("thing.done", "job")).await?;
        assert_eq!(rig.audit.verify_fresh(&tenant, &anchor).await?.count, count);
        assert_eq!(rig.audit.verify_fresh(&tenant, &anchor).await?.count, count, "once more");
        assert_eq!(anchor.latest(&place).await?.map(|mark| mark.number), Some(count));
    }
    let old = saved.into_iter().fold(Batch::new(), |batch, record| batch.put(record.key, record.value));
    rig.database.commit(old.delete(entry(1)).delete(entry(2))).await?;
    assert_eq!(rig.audit.verify(&tenant).await?.count, 1, "the chain fits");
    assert_eq!(refused(rig.audit.verify_fresh(&tenant, &anchor).await), ErrorKind::Tampered);
    for _ in 0..3 {
        rig.audit.record(&tenant, Entry::new("thing.denied", "job")).await?;
    }
    assert_eq!(rig.audit.verify(&tenant).await?.count, 4, "another log fits, and is longer");
    assert_eq!(refused(rig.audit.verify_fresh(&tenant, &anchor).await), ErrorKind::Tampered);
    Ok(())
}

#[tokio::test]
async fn an_auditor_without_the_store_notices_what_was_cut_or_rewritten() -> Result<()> {
    let (rig, tenant) = (Rig::new()?, ours().tenant().clone());
    let key = Arc::new(SigningKey::random("ci.example.org/audit")?);
    let audit = rig.audit.clone().with_checkpoints(key.clone(), NonZeroU64::new(100).expect("not zero"));
    for number in 0..3 {
        audit.record(&tenant, Entry::new("thing.done", "ada").about("number", number)).await?;
    }
    let note = audit.checkpoint(&tenant).await?.to_string();
    let checkpoint = Checkpoint::open(&note, &key.verifying_key(&tenant))?;
    let act = rig.operator.act(&tenant, "audit.exported").await?; // one more, which is not signed
    let entries = audit.export(&act, &tenant, 0).await?;
    assert!(entries.iter().all(|entry| !entry.contains(&b'\n')), "each is a line");

    let chain = checkpoint.verify(&entries)?;
    assert_eq!(*chain.head(), audit.verify(&tenant).await?);
    assert_eq!(checkpoint.verify(&entries[..3])?.head().count, 3);
    for cut in 0..3 {
        assert_eq!(refused(checkpoint.verify(&entries[..cut])), ErrorKind::Tampered, "{cut}");
    }
    assert_eq!(refused(checkpoint.verify(&entries[1..])), ErrorKind::Tampered);

    // A chain that fits together, and is another one.
    let other = Rig::new()?;
    for number in 10..20 {
        other.audit.record(&tenant, Entry::new("thing.done", "ada").about("number", number)).await?;
    }
    let act = other.operator.act(&tenant, "audit.exported").await?;
    let rewritten = other.audit.export(&act, &tenant, 0).await?;
    assert_eq!(refused(checkpoint.verify(&rewritten)), ErrorKind::Tampered);
    Ok(())
}

#[tokio::test]
async fn a_log_that_the_operator_restored_is_accepted() -> Result<()> {
    let (rig, tenant, anchor) = (Rig::new()?, ours().tenant().clone(), Anchor::default());
    for _ in 0..3 {
        rig.audit.record(&tenant, Entry::new("thing.done", "ada")).await?;
    }
    rig.audit.verify_fresh(&tenant, &anchor).await?;
    let earlier = Rig::new()?; // a store that is not so far
    assert_eq!(refused(earlier.audit.verify_fresh(&tenant, &anchor).await), ErrorKind::Tampered);
    let foreign = earlier.operator.act(theirs().tenant(), "database.restored").await?;
    assert_eq!(refused(earlier.audit.accept_restored(&foreign, &tenant, &anchor).await), ErrorKind::Denied);
    assert_eq!(refused(earlier.audit.verify_fresh(&tenant, &anchor).await), ErrorKind::Tampered);
    let act = earlier.operator.act(&tenant, "database.restored").await?;
    earlier.audit.accept_restored(&act, &tenant, &anchor).await?;
    assert_eq!(earlier.audit.verify_fresh(&tenant, &anchor).await?.count, 1);
    Ok(())
}

#[test]
fn the_end_of_a_log_has_one_text() -> Result<()> {
    let text = format!("17:{}", "0".repeat(64));
    assert_eq!(Head::parse(&text)?.to_string(), text);
    let hash = "0".repeat(64);
    for bad in [
        "",
        ":",
        "17",
        &format!("017:{hash}"),
        &format!("+1:{hash}"),
        &format!("1:{hash}0"),
        &format!("1 :{hash}"),
    ] {
        assert_eq!(refused(Head::parse(bad)), ErrorKind::Invalid, "{bad}");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_key_nothing_is_signed() -> Result<()> {
    let rig = Rig::new()?;
    assert_eq!(refused(rig.audit.checkpoint(ours().tenant()).await), ErrorKind::Unsupported);
    Ok(())
}
