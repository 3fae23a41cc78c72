//! The kit of the audit log, over records in memory; and that it bites: stores that break their contract in one point each.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use ci_core::Result;
use ci_core::clock::ManualClock;
use ci_core::conformance::audit as kit;
use ci_core::conformance::{Fault, FaultyRecords, Setup, bites};
use ci_core::memory::Rig;
use ci_core::records::{Batch, Condition, Key, Record, Records, Version};

mod memory {
    use super::{Rig, Setup};

    ci_core::audit_kit!(async || Setup::ready(Rig::new().expect("a rig").records()));
}

/// What a broken store does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    ConditionsIgnored,
    HalfCommits,
    PagesIgnored,
    OrderLost,
    NeighboursListed,
    OldVersionsKept,
    PurgesNothing,
}

#[derive(Debug)]
struct Broken {
    inner: Arc<dyn Records>,
    wrong: Wrong,
    first: Mutex<Vec<Record>>,
}

fn broken(wrong: Wrong) -> Arc<dyn Records> {
    let inner = Rig::new().expect("a rig").records();
    Arc::new(Broken { inner, wrong, first: Mutex::default() })
}

#[async_trait]
impl Records for Broken {
    async fn get(&self, key: &Key) -> Result<Option<Record>> {
        let found = self.inner.get(key).await?;
        let mut first = self.first.lock().expect("a lock");
        if self.wrong == Wrong::OldVersionsKept
            && let Some(found) = &found
            && key.as_str().ends_with("/head")
        {
            // A cache that nobody empties; only the version is looked up.
            match first.iter().find(|record| record.key == *key) {
                Some(old) => return Ok(Some(Record { version: found.version, ..old.clone() })),
                None => first.push(found.clone()),
            }
        }
        Ok(found)
    }

    async fn list(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<Record>> {
        let after = after.filter(|_| self.wrong != Wrong::PagesIgnored);
        let mut found = self.inner.list(prefix, after, limit).await?;
        match self.wrong {
            Wrong::OrderLost => found.reverse(),
            Wrong::NeighboursListed => {
                let mut folder = prefix.as_str().to_owned();
                folder.truncate(folder.rfind('/').unwrap_or(0));
                found.extend(self.inner.get(&Key::from_stored(format!("{folder}/head"))?).await?);
            }
            _ => {}
        }
        Ok(found)
    }

    async fn commit(&self, mut batch: Batch) -> Result<Version> {
        match self.wrong {
            Wrong::ConditionsIgnored => batch.conditions.clear(),
            Wrong::HalfCommits => {
                let first = batch.puts.iter().take(1).cloned();
                let half = first.fold(Batch::new(), |half, (key, value)| half.put(key, value));
                let is_held = |it: &Condition| !matches!(it, Condition::Held(_));
                batch.conditions.retain(is_held);
                if batch.puts.len() > 1 {
                    self.inner.commit(half).await?;
                }
            }
            _ => {}
        }
        self.inner.commit(batch).await
    }

    async fn purge(&self, prefix: &Key) -> Result<usize> {
        match self.wrong {
            Wrong::PurgesNothing => Ok(self.inner.list(prefix, None, usize::MAX).await?.len()),
            _ => self.inner.purge(prefix).await,
        }
    }

    async fn scan_raw(&self, needle: &[u8]) -> Result<usize> {
        self.inner.scan_raw(needle).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kit_bites() {
    assert!(!bites(kit::entries_come_back_as_they_were_written(broken(Wrong::Nothing))).await);
    assert!(bites(kit::writers_at_once_make_one_chain(broken(Wrong::ConditionsIgnored))).await);
    assert!(bites(kit::writers_at_once_make_one_chain(broken(Wrong::HalfCommits))).await);
    assert!(bites(kit::a_chain_longer_than_a_page_is_read_to_its_end(broken(Wrong::PagesIgnored))).await);
    assert!(bites(kit::entries_come_back_as_they_were_written(broken(Wrong::OrderLost))).await);
    assert!(bites(kit::entries_come_back_as_they_were_written(broken(Wrong::NeighboursListed))).await);
    assert!(bites(kit::entries_come_back_as_they_were_written(broken(Wrong::OldVersionsKept))).await);
    assert!(bites(kit::a_person_who_is_forgotten_is_nobody(broken(Wrong::PurgesNothing))).await);
    for fault in [Fault::Refused, Fault::AnswerLost, Fault::Dropped, Fault::Unreadable] {
        let faulty = FaultyRecords::over(broken(Wrong::Nothing), Arc::new(ManualClock::new()));
        faulty.fail(fault, Key::new("audit"));
        assert!(bites(kit::entries_come_back_as_they_were_written(faulty)).await, "{fault:?}");
    }
}
