//! What an audit log over any store of records must notice.
//!
//! The log is [`Audit`]; what is tested is the store below it. A case does what somebody could do who can write to the
//! store, and the log has to notice: a store that loses conditions, halves of batches, or the order of keys fails.

#![expect(clippy::missing_panics_doc, reason = "a case that fails panics; that is what it is for")]

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;

use super::{Fault, FaultyRecords};
use crate::audit::{Audit, Chain, Checkpoint, Entry, Head, SigningKey};
use crate::clock::ManualClock;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Digest, ForgeId, NativeId, TenantId, UserId};
use crate::operator::Operator;
use crate::records::{Batch, Key, Record, Records};

crate::declare_kit! {
    /// Runs every case about the audit log over a store of records. The setup makes an `Arc<dyn Records>`.
    audit_kit for ci_core::conformance::audit {
        entries_come_back_as_they_were_written,
        a_changed_entry_is_noticed,
        a_removed_entry_is_noticed,
        a_moved_entry_is_noticed,
        a_chain_longer_than_a_page_is_read_to_its_end,
        every_tenant_has_a_chain_of_its_own,
        a_cut_end_is_noticed_by_who_kept_the_end,
        a_rewritten_end_is_noticed_by_who_kept_the_end,
        a_replayed_state_is_noticed_by_who_kept_the_end,
        a_fork_is_noticed_by_who_kept_the_end,
        a_rewritten_past_is_not_signed,
        a_checkpoint_comes_with_every_so_many_entries,
        writers_at_once_make_one_chain,
        what_is_verified_while_others_write_is_whole,
        nothing_happens_without_its_entry,
        an_entry_whose_answer_was_lost_is_there_once,
        a_person_who_is_forgotten_is_nobody,
    }
}

type Backend = Arc<dyn Records>;

/// A log, and what somebody has who can write to its store.
struct Attack {
    records: Backend,
    audit: Audit,
    key: Arc<SigningKey>,
}

fn acme() -> TenantId {
    TenantId::parse("acme").expect("a tenant")
}

fn globex() -> TenantId {
    TenantId::parse("globex").expect("a tenant")
}

fn person() -> UserId {
    let native = NativeId::parse("4711").expect("an id");
    UserId::new(native, ForgeId::parse("forge").expect("a forge"))
}

fn place(number: u64) -> Key {
    Key::new("audit").part("acme").part("entry").number(number)
}

fn head() -> Key {
    Key::new("audit").part("acme").part("head")
}

fn checkpoint() -> Key {
    Key::new("audit").part("acme").part("checkpoint")
}

fn entry(number: u64) -> Entry {
    Entry::new("thing.done", "job").about("number", number)
}

#[track_caller]
fn noticed<T>(result: Result<T>, what: &str) {
    match result {
        Ok(_) => panic!("{what} was not noticed"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Tampered, "{what}: {error:?}"),
    }
}

impl Attack {
    fn on(records: &Backend) -> Self {
        Self::signing_every(records, 1_000_000)
    }

    fn signing_every(records: &Backend, every: u64) -> Self {
        let key = Arc::new(SigningKey::random("ci.example.org/audit").expect("a key"));
        let every = NonZeroU64::new(every).expect("not zero");
        let audit = Audit::new(records.clone(), Arc::new(ManualClock::new()));
        Self { records: records.clone(), audit: audit.with_checkpoints(key.clone(), every), key }
    }

    async fn write(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.audit.record(&acme(), entry(number)).await.expect("an entry");
        }
    }

    async fn read(&self, key: &Key) -> Record {
        self.records.get(key).await.expect("it is read").expect("it is there")
    }

    async fn do_harm(&self, batch: Batch) {
        self.records.commit(batch).await.expect("the attacker can write");
    }

    /// Everything that the store has of the log, to be put back later.
    async fn saved(&self) -> Vec<Record> {
        let log = Key::new("audit").part("acme");
        self.records.list(&log, None, 10_000).await.expect("a list")
    }

    async fn put_back(&self, saved: Vec<Record>) {
        let batch = self.saved().await.into_iter().fold(Batch::new(), |batch, now| batch.delete(now.key));
        let batch = saved.into_iter().fold(batch, |batch, record| batch.put(record.key, record.value));
        self.do_harm(batch).await;
    }

    /// Puts `text` in place of another in an entry, and makes all that comes after it fit again.
    async fn rewrite(&self, from: u64, count: u64, text: [&str; 2]) {
        let (mut batch, mut end) = (Batch::new(), Head::start());
        for number in from..count {
            let stored = self.read(&place(number)).await.value;
            let mut changed = String::from_utf8(stored.to_vec()).expect("text").replace(text[0], text[1]);
            if number > from {
                let before = Digest::of(&self.read(&place(number - 1)).await.value);
                changed = changed.replace(before.as_str(), end.hash.as_str());
            }
            end = Head { count: number + 1, hash: Digest::of(changed.as_bytes()) };
            batch = batch.put(place(number), changed);
        }
        self.do_harm(batch.put(head(), as_stored(&end))).await;
    }

    /// That what was exported when the log was whole tells it from what it is now, although the chain fits.
    async fn noticed_by_exports(&self, kept: &Head, checkpoint: &Checkpoint, what: &str) {
        assert!(self.audit.verify(&acme()).await.is_ok(), "{what}: the chain fits");
        noticed(self.audit.verify_since(&acme(), kept).await, what);
        noticed(self.audit.verify_checkpoint(&acme(), checkpoint).await, what);
    }

    /// The end of the log and a checkpoint, as text that went somewhere else and came back.
    async fn exports(&self) -> (Head, Checkpoint) {
        let kept = self.audit.verify(&acme()).await.expect("it is whole").to_string();
        let signed = self.audit.checkpoint(&acme()).await.expect("it is signed").to_string();
        let signed = Checkpoint::open(&signed, &self.key.verifying_key(&acme())).expect("a checkpoint");
        (Head::parse(&kept).expect("an end"), signed)
    }
}

fn as_stored(head: &Head) -> Bytes {
    Bytes::from(serde_json::to_vec(head).expect("it is written"))
}

/// In order, each with what it says.
pub async fn entries_come_back_as_they_were_written(records: Backend) {
    let attack = Attack::on(&records);
    attack.write(0..5).await;
    assert_eq!(attack.audit.verify(&acme()).await.expect("it is whole").count, 5);
    let operator = Operator::new(&attack.audit).expect("the operator");
    let act = operator.act(&acme(), "audit.read").await.expect("an act");
    let entries = attack.audit.entries(&act, &acme(), 2).await.expect("entries");
    let numbers: Vec<u64> = entries.iter().map(|logged| logged.number).collect();
    assert_eq!(numbers, [2, 3, 4, 5]);
    assert_eq!(entries[0].entry, entry(2));
    let mut chain = Chain::new();
    for stored in attack.audit.export(&act, &acme(), 0).await.expect("entries") {
        chain.push(&stored).expect("the next one");
    }
    assert_eq!(*chain.head(), attack.audit.verify(&acme()).await.expect("it is whole"));
}

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

/// Also where pages meet.
pub async fn a_chain_longer_than_a_page_is_read_to_its_end(records: Backend) {
    let attack = Attack::on(&records);
    attack.write(0..1_001).await;
    assert_eq!(attack.audit.verify(&acme()).await.expect("it is whole").count, 1_001);
    for number in [499, 500, 1_000] {
        let removed = attack.read(&place(number)).await.value;
        attack.do_harm(Batch::new().delete(place(number))).await;
        noticed(attack.audit.verify(&acme()).await, "a removed entry");
        attack.do_harm(Batch::new().put(place(number), removed)).await;
    }
}

/// What happens to one is nothing to the other, and the checkpoint of one is none of the other's.
pub async fn every_tenant_has_a_chain_of_its_own(records: Backend) {
    let attack = Attack::on(&records);
    attack.write(0..3).await;
    let (_, signed) = attack.exports().await;
    assert_eq!(attack.audit.verify(&globex()).await.expect("it is whole"), Head::start());
    noticed(Checkpoint::open(signed.as_str(), &attack.key.verifying_key(&globex())), "another's checkpoint");
    attack.do_harm(Batch::new().delete(place(0))).await;
    noticed(attack.audit.verify(&acme()).await, "a removed entry");
    attack.audit.record(&globex(), entry(0)).await.expect("an entry");
    assert_eq!(attack.audit.verify(&globex()).await.expect("it is whole").count, 1);
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

/// Together with the entry, signed, and as large as it says.
pub async fn a_checkpoint_comes_with_every_so_many_entries(records: Backend) {
    let attack = Attack::signing_every(&records, 3);
    let public = attack.key.verifying_key(&acme());
    for number in 0..10 {
        attack.write(number..number + 1).await;
        let latest = attack.audit.latest_checkpoint(&acme(), &public).await.expect("it is read");
        let size = latest.as_ref().map_or(0, Checkpoint::size);
        assert_eq!(size, (number + 1) / 3 * 3);
        if let Some(latest) = latest {
            attack.audit.verify_checkpoint(&acme(), &latest).await.expect("it is what was signed");
        }
    }
    assert_eq!(attack.audit.checkpoint(&acme()).await.expect("it is signed").size(), 10);
    let mut forged = attack.read(&checkpoint()).await.value.to_vec();
    let at = forged.windows(4).position(|text| text == b"\\n10").expect("the size") + 2;
    forged[at] = b'2';
    attack.do_harm(Batch::new().put(checkpoint(), forged)).await;
    noticed(attack.audit.latest_checkpoint(&acme(), &public).await, "a forged checkpoint");
    noticed(attack.audit.checkpoint(&acme()).await, "a forged checkpoint");
}

/// All of them get their entry, and no two the same place.
pub async fn writers_at_once_make_one_chain(records: Backend) {
    const WRITERS: u64 = 12;
    const EACH: u64 = 5;
    let attack = Attack::signing_every(&records, 7);
    let writers = (0..WRITERS).map(|writer| {
        let audit = attack.audit.clone();
        tokio::spawn(async move {
            for number in 0..EACH {
                let entry = Entry::new("thing.done", &person()).about("number", writer * EACH + number);
                audit.record(&acme(), entry).await.expect("an entry");
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("it ends");
    }
    let (kept, signed) = attack.exports().await;
    assert_eq!((kept.count, signed.size()), (WRITERS * EACH, WRITERS * EACH));
    let operator = Operator::new(&attack.audit).expect("the operator");
    let act = operator.act(&acme(), "audit.read").await.expect("an act");
    let entries = attack.audit.entries(&act, &acme(), 0).await.expect("entries");
    let (people, mut numbers): (Vec<_>, Vec<u64>) = entries[..entries.len() - 1]
        .iter()
        .map(|logged| (&logged.entry.actor, logged.entry.about[0].1.parse::<u64>().expect("a number")))
        .unzip();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..WRITERS * EACH), "every entry is there once");
    assert!(people.iter().all(|name| *name == people[0]), "one person has one pseudonym");
}

/// Somebody who verifies does not take those who write for attackers.
pub async fn what_is_verified_while_others_write_is_whole(records: Backend) {
    let attack = Attack::on(&records);
    let audit = attack.audit.clone();
    let writer = tokio::spawn(async move {
        for number in 0..60 {
            audit.record(&acme(), entry(number)).await.expect("an entry");
        }
    });
    let mut kept = Head::start();
    while !writer.is_finished() {
        kept = attack.audit.verify_since(&acme(), &kept).await.expect("it is whole");
        tokio::task::yield_now().await;
    }
    writer.await.expect("it ends");
    assert_eq!(attack.audit.verify_since(&acme(), &kept).await.expect("it is whole").count, 60);
}

/// When the log cannot be written, what it would have recorded is not done.
pub async fn nothing_happens_without_its_entry(records: Backend) {
    let faulty = FaultyRecords::over(records, Arc::new(ManualClock::new()));
    let store: Backend = faulty.clone();
    let attack = Attack::on(&store);
    let operator = Operator::new(&attack.audit).expect("the operator");
    let (done, tenant) = (Key::new("done"), acme());
    for what in ["person", "entry", "head"] {
        faulty.fail(Fault::Refused, Key::new("audit").part("acme").part(what));
        let entry = Entry::new("thing.done", &person());
        let together = attack.audit.attempt(&tenant, entry.clone(), async |batch| {
            store.commit(batch.put(done.clone(), "done")).await.map(drop)
        });
        let kind = |error: Error| error.kind();
        assert_eq!(together.await.map_err(kind), Err(ErrorKind::Unavailable), "{what}");
        assert_eq!(attack.audit.record(&acme(), entry).await.map_err(kind), Err(ErrorKind::Unavailable));
        if what != "person" {
            let act = operator.act(&acme(), "repository.erased").await.map(drop);
            assert_eq!(act.map_err(kind), Err(ErrorKind::Unavailable));
        }
        faulty.heal();
        assert_eq!(store.get(&done).await.expect("it is read"), None, "{what}");
        assert_eq!(attack.audit.verify(&acme()).await.expect("it is whole"), Head::start(), "{what}");
    }
}

/// Nobody knows whether it was written: it was, and the next one goes behind it.
pub async fn an_entry_whose_answer_was_lost_is_there_once(records: Backend) {
    let faulty = FaultyRecords::over(records, Arc::new(ManualClock::new()));
    let store: Backend = faulty.clone();
    let attack = Attack::on(&store);
    faulty.fail(Fault::AnswerLost, head());
    assert!(attack.audit.record(&acme(), entry(0)).await.is_err(), "who asked is told");
    faulty.heal();
    attack.write(1..2).await;
    assert_eq!(attack.audit.verify(&acme()).await.expect("it is whole").count, 2);
}

/// The entries stay, the chain fits, and nothing links them any more.
pub async fn a_person_who_is_forgotten_is_nobody(records: Backend) {
    let attack = Attack::on(&records);
    let operator = Operator::new(&attack.audit).expect("the operator");
    attack.audit.record(&acme(), Entry::new("secret.set", &person())).await.expect("an entry");
    attack.audit.record(&globex(), Entry::new("secret.set", &person())).await.expect("an entry");
    let act = operator.act(&acme(), "account.erased").await.expect("an act");
    let theirs = operator.act(&globex(), "account.erased").await.expect("an act");
    let named = async |act, tenant| attack.audit.pseudonym(act, &tenant, &person()).await.expect("read");
    let (here, there) = (named(&act, acme()).await, named(&theirs, globex()).await);
    assert!(here.is_some() && there.is_some() && here != there, "{here:?} and {there:?}");
    let before = attack.audit.verify(&acme()).await.expect("it is whole");
    for record in attack.saved().await {
        let text = String::from_utf8_lossy(&record.value).into_owned();
        assert!(!text.contains("4711") && !record.key.as_str().contains("4711"), "{record:?}");
    }

    assert!(attack.audit.forget(&act, &acme(), &person()).await.expect("forgotten"));
    assert!(
        !attack.audit.forget(&act, &acme(), &person()).await.expect("forgotten"),
        "there is nothing left"
    );
    assert_eq!(named(&act, acme()).await, None);
    assert_eq!(named(&theirs, globex()).await, there, "another tenant's log");
    assert_eq!(attack.audit.verify_since(&acme(), &before).await.expect("it is whole"), before);
    attack.audit.record(&acme(), Entry::new("secret.set", &person())).await.expect("an entry");
    assert_ne!(named(&act, acme()).await, here, "somebody new");
    let other = attack.audit.forget(&theirs, &acme(), &person()).await.map_err(|error| error.kind());
    assert_eq!(other, Err(ErrorKind::Denied), "an act for another tenant");
}
