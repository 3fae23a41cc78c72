//! What somebody did who can write to the store.

use super::{Attack, Backend, acme, as_stored, checkpoint, entry, head, noticed, place};
use crate::audit::Head;
use crate::id::Digest;
use crate::records::{Batch, Key};

/// One byte of it is enough, wherever it stands.
pub async fn a_changed_entry_is_noticed(records: Backend) {
    let attack = Attack::on(&records);
    attack.write(0..5).await;
    for number in 0..5 {
        let honest = attack.read(&place(number)).await.value;
        let mut changed = honest.to_vec();
        let at = changed.windows(4).position(|text| text == b"done").expect("the action");
        changed[at] = b'g';
        attack.do_harm(Batch::new().put(place(number), changed)).await;
        noticed(attack.audit.verify(&acme()).await, "a changed entry");
        attack.do_harm(Batch::new().put(place(number), honest)).await;
        assert!(attack.audit.verify(&acme()).await.is_ok());
    }
}

/// One, all of them, or the row that says where the end is.
pub async fn a_removed_entry_is_noticed(records: Backend) {
    let attack = Attack::on(&records);
    attack.write(0..5).await;
    let whole = attack.saved().await;
    for number in 0..5 {
        attack.do_harm(Batch::new().delete(place(number))).await;
        noticed(attack.audit.verify(&acme()).await, "a removed entry");
        attack.put_back(whole.clone()).await;
    }
    attack.do_harm((0..5).fold(Batch::new(), |batch, number| batch.delete(place(number)))).await;
    noticed(attack.audit.verify(&acme()).await, "that all entries were removed");
    attack.put_back(whole).await;
    attack.do_harm(Batch::new().delete(head())).await;
    noticed(attack.audit.verify(&acme()).await, "a removed head");
}

/// Two that changed places, one that was repeated, and one that lies where none belongs.
pub async fn a_moved_entry_is_noticed(records: Backend) {
    let attack = Attack::on(&records);
    attack.write(0..5).await;
    let whole = attack.saved().await;
    let (two, three) = (attack.read(&place(2)).await.value, attack.read(&place(3)).await.value);
    let harms = [
        Batch::new().put(place(2), three.clone()).put(place(3), two.clone()),
        Batch::new().put(place(3), two.clone()),
        Batch::new().put(place(5), two.clone()),
        Batch::new().put(place(2).part("x"), two),
        Batch::new().delete(place(3)).put(place(9), three),
    ];
    for harm in harms {
        let what = format!("{harm:?}");
        attack.do_harm(harm).await;
        noticed(attack.audit.verify(&acme()).await, &what);
        attack.put_back(whole.clone()).await;
    }
    assert!(attack.audit.verify(&acme()).await.is_ok());
}

/// Truncation: the chain that is left fits together.
pub async fn a_cut_end_is_noticed_by_who_kept_the_end(records: Backend) {
    let attack = Attack::on(&records);
    attack.write(0..5).await;
    let (kept, signed) = attack.exports().await;
    let hash = Digest::of(&attack.read(&place(2)).await.value);
    let end = as_stored(&Head { count: 3, hash });
    attack.do_harm(Batch::new().delete(place(3)).delete(place(4)).put(head(), end)).await;
    attack.noticed_by_exports(&kept, &signed, "a cut end").await;
    noticed(attack.audit.checkpoint(&acme()).await, "a cut end, when the next checkpoint is signed");
    // Grown back to its length with other entries.
    attack.write(7..9).await;
    attack.noticed_by_exports(&kept, &signed, "a cut end that grew again").await;
}

/// Rewriting: an entry says something else, and all hashes behind it were made again.
pub async fn a_rewritten_end_is_noticed_by_who_kept_the_end(records: Backend) {
    for from in [0, 2, 4] {
        let attack = Attack::on(&records);
        records.purge(&Key::new("audit").part("acme")).await.expect("a new beginning");
        attack.write(0..5).await;
        let (kept, signed) = attack.exports().await;
        attack.rewrite(from, 5, ["thing.done", "nothing.is"]).await;
        attack.noticed_by_exports(&kept, &signed, "a rewritten end").await;
        noticed(attack.audit.checkpoint(&acme()).await, "a rewritten end, when it is signed");
    }
}

/// Replay: all rows of the log are what they once were.
pub async fn a_replayed_state_is_noticed_by_who_kept_the_end(records: Backend) {
    let attack = Attack::on(&records);
    attack.write(0..3).await;
    let earlier = attack.saved().await;
    attack.write(3..5).await;
    let (kept, signed) = attack.exports().await;
    attack.put_back(earlier).await;
    attack.noticed_by_exports(&kept, &signed, "a replayed state").await;
}

/// Two histories that share their beginning: each fits, and only one of them is the one that was seen.
pub async fn a_fork_is_noticed_by_who_kept_the_end(records: Backend) {
    let attack = Attack::on(&records);
    attack.write(0..3).await;
    let common = attack.saved().await;
    attack.write(3..6).await;
    let (kept, signed) = attack.exports().await;
    attack.put_back(common).await;
    attack.write(13..17).await;
    attack.noticed_by_exports(&kept, &signed, "a fork").await;
}

/// A checkpoint goes on from the one before, and not from what the store says that came before it.
pub async fn a_rewritten_past_is_not_signed(records: Backend) {
    let attack = Attack::signing_every(&records, 4);
    attack.write(0..6).await; // a checkpoint of four
    attack.rewrite(5, 6, ["thing.done", "nothing.is"]).await;
    attack.write(6..7).await;
    let after = attack.read(&checkpoint()).await;
    // What came after the latest checkpoint can be rewritten unnoticed, and what came before cannot.
    attack.rewrite(2, 7, ["thing.done", "nothing.is"]).await;
    noticed(attack.audit.record(&acme(), entry(7)).await, "a past that was rewritten");
    assert_eq!(attack.read(&checkpoint()).await, after, "nothing was signed");
    let hash = Digest::of(&attack.read(&place(1)).await.value);
    let short = (2..7).fold(Batch::new(), |batch, number| batch.delete(place(number)));
    attack.do_harm(short.put(head(), as_stored(&Head { count: 2, hash }))).await;
    attack.write(2..3).await;
    noticed(attack.audit.record(&acme(), entry(3)).await, "a past that was cut off");
}
