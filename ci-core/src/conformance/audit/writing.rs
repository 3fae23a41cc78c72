//! What the log keeps: who writes at once, what fails, and who is forgotten.

use std::sync::Arc;

use super::{Attack, Backend, acme, checkpoint, entry, globex, head, noticed, person, place};
use crate::audit::{Chain, Checkpoint, Entry, Head};
use crate::clock::ManualClock;
use crate::conformance::{Fault, FaultyRecords};
use crate::error::{Error, ErrorKind};
use crate::operator::Operator;
use crate::records::{Batch, Key};

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
