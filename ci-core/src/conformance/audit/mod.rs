//! What an audit log over any store of records must notice.
//!
//! The log is [`Audit`]; what is tested is the store below it. A case does what somebody could do who can write to the
//! store, and the log has to notice: a store that loses conditions, halves of batches, or the order of keys fails.

#![expect(clippy::missing_panics_doc, reason = "a case that fails panics; that is what it is for")]

mod tampering;
mod writing;

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;

use crate::audit::{Audit, Checkpoint, Entry, Head, SigningKey};
use crate::clock::ManualClock;
use crate::error::{ErrorKind, Result};
use crate::id::{Digest, ForgeId, NativeId, TenantId, UserId};
use crate::records::{Batch, Key, Record, Records};

pub use tampering::{
    a_changed_entry_is_noticed, a_cut_end_is_noticed_by_who_kept_the_end,
    a_fork_is_noticed_by_who_kept_the_end, a_moved_entry_is_noticed, a_removed_entry_is_noticed,
    a_replayed_state_is_noticed_by_who_kept_the_end, a_rewritten_end_is_noticed_by_who_kept_the_end,
    a_rewritten_past_is_not_signed,
};
pub use writing::{
    a_chain_longer_than_a_page_is_read_to_its_end, a_checkpoint_comes_with_every_so_many_entries,
    a_person_who_is_forgotten_is_nobody, an_entry_whose_answer_was_lost_is_there_once,
    entries_come_back_as_they_were_written, every_tenant_has_a_chain_of_its_own,
    nothing_happens_without_its_entry, what_is_verified_while_others_write_is_whole,
    writers_at_once_make_one_chain,
};

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
