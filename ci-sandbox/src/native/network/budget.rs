//! Descriptors of this program that the ways out of sandboxes take, bounded for all together.
//!
//! Every sandbox has room for some connections from its first moment on, which nobody takes from it. What it wants beyond
//! comes out of a part that is for all: there it may have as much as is free beside it ("dynamic thresholds", Choudhury
//! and Hahne 1998), so that whoever comes first does not take it whole. The other part is for those who are still to come.

use std::sync::{Arc, Mutex, MutexGuard};

use rustix::process::{Resource, getrlimit};
use tokio::sync::Notify;

use super::lock;

/// Of one connection: the client's and the server's.
const CONNECTION: usize = 2;
/// For the connections that every sandbox can have at any time: eight.
const OWN: usize = 8 * CONNECTION;

/// What all sandboxes of a backend have together.
#[derive(Debug)]
pub(in crate::native) struct Budget {
    total: usize,
    taken: Mutex<Taken>,
    /// Somebody has given something back.
    freed: Notify,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Taken {
    all: usize,
    /// Of these, for connections beyond the ones that are everybody's own.
    beyond: usize,
}

impl Budget {
    /// `total` descriptors, or half of those that this program may have: the rest is for its other work.
    pub(in crate::native) fn new(total: Option<usize>) -> Arc<Self> {
        const UNLIMITED: u64 = 1 << 20;
        let half = || usize::try_from(getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED) / 2);
        let total = total.unwrap_or_else(|| half().unwrap_or(usize::MAX));
        Arc::new(Self { total, taken: Mutex::default(), freed: Notify::new() })
    }

    /// An account for a sandbox that always has `fixed` descriptors open. Nothing when there is no room for one.
    pub(super) fn open(self: &Arc<Self>, fixed: usize) -> Option<Arc<Account>> {
        let (mut taken, held) = (self.taken(), Mutex::default());
        let reserved = fixed + OWN;
        (taken.all + reserved <= self.total).then(|| {
            taken.all += reserved;
            Arc::new(Account { budget: self.clone(), reserved, held })
        })
    }

    /// What those may have together who want more than their own.
    fn beyond(&self) -> usize {
        self.total / 2
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        lock(&self.taken)
    }
}

/// What one sandbox has.
#[derive(Debug)]
pub(super) struct Account {
    budget: Arc<Budget>,
    reserved: usize,
    /// For connections. It is locked after the budget.
    held: Mutex<usize>,
}

impl Account {
    /// Room for one connection, as soon as there is some. Dropping the future gives up the wait.
    pub(super) async fn room(self: &Arc<Self>) -> Room {
        loop {
            let freed = self.budget.freed.notified();
            if let Some(room) = self.room_now() {
                return room;
            }
            freed.await;
        }
    }

    fn room_now(self: &Arc<Self>) -> Option<Room> {
        let (mut taken, mut held) = (self.budget.taken(), self.held());
        let after = *held + CONNECTION;
        if after > OWN {
            let beyond_after = taken.beyond + CONNECTION;
            let free_beside = self.budget.beyond().checked_sub(beyond_after)?;
            if after - OWN > free_beside || taken.all + CONNECTION > self.budget.total {
                return None;
            }
            *taken = Taken { all: taken.all + CONNECTION, beyond: beyond_after };
        }
        *held = after;
        Some(Room(self.clone()))
    }

    fn held(&self) -> MutexGuard<'_, usize> {
        lock(&self.held)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.budget.taken().all -= self.reserved;
        self.budget.freed.notify_waiters();
    }
}

/// Room for one connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Room(Arc<Account>);

impl Drop for Room {
    fn drop(&mut self) {
        let (mut taken, mut held) = (self.0.budget.taken(), self.0.held());
        if *held > OWN {
            *taken = Taken { all: taken.all - CONNECTION, beyond: taken.beyond - CONNECTION };
        }
        *held -= CONNECTION;
        self.0.budget.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn all_there_is(account: &Arc<Account>) -> Vec<Room> {
        std::iter::from_fn(|| account.room_now()).collect()
    }

    #[test]
    fn whoever_comes_last_has_its_own() {
        for greedy in 1..=10 {
            let budget = Budget::new(Some(600));
            let hoards: Vec<_> = (0..greedy).map(|_| all_there_is(&budget.open(10).unwrap())).collect();
            let last = all_there_is(&budget.open(10).unwrap());
            for (place, hoard) in hoards.iter().chain([&last]).enumerate() {
                assert!(hoard.len() >= OWN / CONNECTION, "{place} of {greedy}: {}", hoard.len());
            }
            assert!(budget.taken().all <= 600 && budget.taken().beyond <= 300);
            drop((hoards, last));
            assert_eq!(*budget.taken(), Taken::default());
        }
    }

    #[test]
    fn one_alone_leaves_half_of_what_is_for_all() {
        let budget = Budget::new(Some(100));
        let account = budget.open(4).unwrap();
        let hoard = all_there_is(&account);
        assert_eq!((hoard.len(), budget.taken().beyond), (8 + 12, 24));
        assert!(budget.open(41).is_none(), "more than is left");
        assert!(budget.open(40).is_some());
    }

    #[test]
    fn by_default_half_of_what_the_program_may_have() {
        let most = getrlimit(Resource::Nofile).current.unwrap();
        assert_eq!(Budget::new(None).total, usize::try_from(most / 2).unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn room_comes_with_what_is_given_back() {
        let budget = Budget::new(Some(40));
        let account = budget.open(0).unwrap();
        let mut hoard = all_there_is(&account);
        let waits = tokio::time::timeout(std::time::Duration::from_secs(1), account.room());
        assert!(waits.await.is_err(), "there is none");
        let (_room, ()) = tokio::join!(account.room(), async {
            tokio::task::yield_now().await;
            drop(hoard.pop());
        });
    }

    proptest! {
        /// Whatever comes and goes, there are never more than there may be, and none are lost.
        #[test]
        fn the_books_balance(total in 0usize..200, steps in prop::collection::vec((0usize..4, 0u8..3), 0..300)) {
            let budget = Budget::new(Some(total));
            let accounts: Vec<_> = (0..4).filter_map(|_| budget.open(3)).collect();
            let mut rooms: Vec<Vec<Room>> = accounts.iter().map(|_| Vec::new()).collect();
            for (which, step) in steps {
                let Some(account) = accounts.get(which) else { continue };
                if step > 0 {
                    rooms[which].extend(account.room_now());
                } else {
                    rooms[which].pop();
                }
                let beyond: usize = rooms.iter().map(|rooms| (CONNECTION * rooms.len()).saturating_sub(OWN)).sum();
                let all = (3 + OWN) * accounts.len() + beyond;
                prop_assert_eq!(*budget.taken(), Taken { all, beyond });
                prop_assert!(all <= total && beyond <= total / 2);
            }
        }
    }
}
