//! Records that fail as they are told: a fault that does not happen would let every test pass that is about it.

use std::sync::Arc;
use std::time::Duration;

use ci_core::clock::Clock as _;
use ci_core::conformance::{Fault, FaultyRecords};
use ci_core::memory::Rig;
use ci_core::records::{Batch, Condition, Key, Records as _};
use ci_core::{ErrorKind, Result};

use crate::refused;

fn place(name: &str) -> Key {
    Key::new("folder").part(name)
}

fn put(name: &str) -> Batch {
    Batch::new().put(place(name), "content")
}

/// Records with one at `folder/old`.
async fn faulty() -> Result<(Rig, Arc<FaultyRecords>)> {
    let rig = Rig::new()?;
    let records = FaultyRecords::over(rig.records(), rig.clock.clone());
    records.commit(put("old")).await?;
    records.counts();
    Ok((rig, records))
}

async fn is_there(rig: &Rig, name: &str) -> Result<bool> {
    Ok(rig.database.get(&place(name)).await?.is_some())
}

#[tokio::test]
async fn a_write_fails_as_it_was_told() -> Result<()> {
    for (fault, is_told, is_written) in
        [(Fault::Refused, true, false), (Fault::AnswerLost, true, true), (Fault::Dropped, false, false)]
    {
        let (rig, records) = faulty().await?;
        records.fail(fault, Key::new("folder"));
        let commit = records.commit(put("new")).await;
        assert_eq!((commit.is_err(), is_there(&rig, "new").await?), (is_told, is_written), "{fault:?}");
        let delete = records.commit(Batch::new().delete(place("old"))).await;
        assert_eq!((delete.is_err(), is_there(&rig, "old").await?), (is_told, !is_written), "{fault:?}");
        let scrub = records.scrub().await;
        assert_eq!(scrub.is_err(), is_told, "{fault:?}");
        let purge = records.purge(&Key::new("folder")).await;
        assert_eq!(purge.ok(), (!is_told).then_some(1), "{fault:?}");
        assert_eq!(is_there(&rig, "old").await?, !is_written, "{fault:?}");
        assert!(records.get(&place("old")).await.is_ok(), "{fault:?} is not about reads");
        assert!(records.commit(Batch::new().put(Key::new("other"), "x")).await.is_ok(), "{fault:?}");
        records.heal();
        assert!(records.commit(put("healed")).await.is_ok() && is_there(&rig, "healed").await?);
    }
    Ok(())
}

#[tokio::test]
async fn a_write_that_is_dropped_has_conditions_all_the_same() -> Result<()> {
    let (_rig, records) = faulty().await?;
    records.fail(Fault::Dropped, Key::new("folder"));
    let commit = records.commit(put("old").require(Condition::Absent(place("old")))).await;
    assert_eq!(refused(commit), ErrorKind::Conflict);
    Ok(())
}

#[tokio::test]
async fn what_is_unreadable_cannot_be_read_in_any_way() -> Result<()> {
    let (_rig, records) = faulty().await?;
    let (old, folder) = (place("old"), Key::new("folder"));
    for prefix in [folder.clone(), old.clone()] {
        records.fail(Fault::Unreadable, prefix);
        assert_eq!(refused(records.get(&old).await), ErrorKind::Unavailable);
        assert_eq!(refused(records.get_all(&[Key::new("x"), old.clone()]).await), ErrorKind::Unavailable);
        assert_eq!(refused(records.list(&folder, None, 9).await), ErrorKind::Unavailable);
        assert_eq!(refused(records.scan_raw(b"more than 8 bytes").await), ErrorKind::Unavailable);
        assert!(records.get(&Key::new("folders")).await.is_ok(), "a neighbour");
        assert!(records.commit(put("new")).await.is_ok(), "it is about reads");
    }
    Ok(())
}

#[tokio::test]
async fn time_passes_once() -> Result<()> {
    let (rig, records) = faulty().await?;
    let second = Duration::from_secs(1);
    records.fail_once(Fault::Slow(second), Key::new("folder"));
    records.get(&Key::new("other")).await?;
    let before = rig.clock.elapsed();
    records.get(&place("old")).await?;
    records.commit(put("new")).await?;
    assert_eq!(rig.clock.elapsed(), before + second);
    records.fail_once(Fault::Slow(second), Key::new("folder"));
    records.commit(put("new")).await?;
    assert_eq!(rig.clock.elapsed(), before + 2 * second);
    Ok(())
}

/// What a fault is not about does not use it up.
#[tokio::test]
async fn the_next_write_fails_whatever_is_read_before() -> Result<()> {
    let (rig, records) = faulty().await?;
    records.fail_once(Fault::Refused, Key::new("folder"));
    records.get(&place("old")).await?;
    assert!(records.commit(put("new")).await.is_err());
    assert!(records.commit(put("new")).await.is_ok() && is_there(&rig, "new").await?);
    Ok(())
}

#[tokio::test]
async fn nothing_is_written_once_it_has_stopped() -> Result<()> {
    for (fault, expected) in
        [(Fault::Refused, [true, false, false]), (Fault::AnswerLost, [true, true, false])]
    {
        let (rig, records) = faulty().await?;
        records.stop_after(1, fault);
        for (number, name) in ["one", "two", "three"].into_iter().enumerate() {
            assert_eq!(records.commit(put(name)).await.is_ok(), number == 0, "{fault:?} at {name}");
            assert_eq!(is_there(&rig, name).await?, expected[number], "{fault:?} at {name}");
        }
        assert!(records.purge(&Key::new("folder")).await.is_err() && records.scrub().await.is_err());
        assert!(records.get(&place("old")).await?.is_some());
        records.heal();
        assert!(records.commit(put("three")).await.is_ok());
    }
    Ok(())
}

#[tokio::test]
async fn what_is_asked_is_counted() -> Result<()> {
    let (_rig, records) = faulty().await?;
    records.fail(Fault::Refused, Key::new("folder"));
    records.get(&place("old")).await?;
    records.get_all(&[place("old"), place("new")]).await?;
    records.list(&Key::new("folder"), None, 9).await?;
    assert!(records.commit(put("new")).await.is_err());
    assert_eq!(records.counts(), (3, 1));
    assert_eq!(records.counts(), (0, 0));
    Ok(())
}
