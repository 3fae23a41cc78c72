//! Unwrapped keys, kept for a short time so that not every use asks the root key's provider.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ci_core::clock::{Clock, Timestamp};
use ci_core::records::Key;
use ci_core::seal::DataKey;

/// What wrapped rows unwrapped to, for a bounded time and count.
///
/// A key is found only together with the wrapped bytes that it came from: when the row is gone or was changed,
/// what is kept here is of no use.
pub(super) struct Unwrapped {
    clock: Arc<dyn Clock>,
    ttl: Duration,
    most: usize,
    keys: Mutex<HashMap<Key, Kept>>,
}

/// A key that is kept here.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Arc<DataKey>,
    /// Whether half of its time is over, and this is who should ask for it anew: whoever else finds it in the next
    /// tenth of its time is not told.
    pub(super) is_due: bool,
}

struct Kept {
    wrapped: Bytes,
    key: Arc<DataKey>,
    at: Timestamp,
    elapsed: Duration,
    due: Duration,
}

impl Unwrapped {
    pub(super) fn new(clock: Arc<dyn Clock>, ttl: Duration, most: usize) -> Self {
        Self { clock, ttl, most, keys: Mutex::default() }
    }

    /// The key that the row at `place`, which holds `wrapped` now, was unwrapped to.
    pub(super) fn get(&self, place: &Key, wrapped: &Bytes) -> Option<Found> {
        let mut keys = self.lock();
        let kept = keys.get_mut(place)?;
        if kept.wrapped != wrapped || !self.is_fresh(kept) {
            keys.remove(place);
            return None;
        }
        let now = self.clock.elapsed();
        let is_due = now >= kept.due;
        if is_due {
            kept.due = now.saturating_add(self.ttl / 10);
        }
        Some(Found { key: kept.key.clone(), is_due })
    }

    pub(super) fn put(&self, place: Key, wrapped: Bytes, key: Arc<DataKey>) {
        let elapsed = self.clock.elapsed();
        let due = elapsed.saturating_add(self.ttl / 2);
        self.insert(place, Kept { wrapped, key, at: self.clock.now(), elapsed, due });
    }

    /// The same for a key that the one at `above` has opened. It is kept no longer than that one, and is due with it.
    pub(super) fn put_below(&self, above: &Key, place: Key, wrapped: Bytes, key: Arc<DataKey>) {
        let times = self.lock().get(above).map(|kept| (kept.at, kept.elapsed, kept.due));
        match times {
            Some((at, elapsed, due)) => self.insert(place, Kept { wrapped, key, at, elapsed, due }),
            None => self.put(place, wrapped, key),
        }
    }

    fn insert(&self, place: Key, kept: Kept) {
        if self.most == 0 {
            return;
        }
        let mut keys = self.lock();
        keys.retain(|_, kept| self.is_fresh(kept));
        if keys.len() >= self.most
            && !keys.contains_key(&place)
            && let Some(oldest) =
                keys.iter().min_by_key(|(_, kept)| kept.elapsed).map(|(place, _)| place.clone())
        {
            keys.remove(&oldest);
        }
        keys.insert(place, kept);
    }

    /// Drops the keys of rows below `prefix`.
    pub(super) fn forget(&self, prefix: &Key) {
        self.lock().retain(|place, _| !place.is_below(prefix));
    }

    /// Drops the keys whose time is over.
    pub(super) fn forget_stale(&self) {
        self.lock().retain(|_, kept| self.is_fresh(kept));
    }

    pub(super) fn forget_all(&self) {
        self.lock().clear();
    }

    /// For how long a key is kept.
    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// By either clock: a machine that slept has kept its keys for that time too, and a calendar that was set
    /// back says nothing about how long it was.
    fn is_fresh(&self, kept: &Kept) -> bool {
        let by_calendar = kept.at.until(self.clock.now()).is_some_and(|age| age < self.ttl);
        by_calendar && self.clock.elapsed().saturating_sub(kept.elapsed) < self.ttl
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Kept>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Unwrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unwrapped").field("ttl", &self.ttl).field("most", &self.most).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use ci_core::clock::ManualClock;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const MOMENT: Duration = Duration::from_millis(1);

    fn kept(most: usize) -> (Arc<ManualClock>, Unwrapped) {
        let clock = Arc::new(ManualClock::new());
        (clock.clone(), Unwrapped::new(clock, MINUTE, most))
    }

    fn place(name: &str) -> Key {
        Key::new("key").part(name)
    }

    fn put(keys: &Unwrapped, name: &str) {
        keys.put(place(name), Bytes::from_static(b"wrapped"), Arc::new(DataKey::random()));
    }

    fn has(keys: &Unwrapped, name: &str) -> bool {
        keys.get(&place(name), &Bytes::from_static(b"wrapped")).is_some()
    }

    #[test]
    fn a_key_is_kept_for_its_time_and_not_longer() {
        let (clock, keys) = kept(8);
        put(&keys, "a");
        clock.advance(MINUTE.saturating_sub(MOMENT));
        assert!(has(&keys, "a"));
        clock.advance(MOMENT);
        assert!(!has(&keys, "a"));
    }

    #[test]
    fn a_calendar_that_jumps_does_not_keep_a_key() {
        let (clock, keys) = kept(8);
        put(&keys, "a");
        clock.jump_to(Timestamp::from_unix_millis(0));
        assert!(!has(&keys, "a"));
        put(&keys, "a");
        clock.jump_to(clock.now().after(MINUTE));
        assert!(!has(&keys, "a"));
    }

    #[test]
    fn the_oldest_gives_way() {
        let (clock, keys) = kept(2);
        for name in ["a", "b", "c"] {
            put(&keys, name);
            clock.advance(Duration::from_secs(1));
        }
        assert_eq!([has(&keys, "a"), has(&keys, "b"), has(&keys, "c")], [false, true, true]);
    }

    #[test]
    fn one_who_finds_a_key_of_half_its_time_is_to_renew_it() {
        let (clock, keys) = kept(8);
        put(&keys, "a");
        let is_due = || keys.get(&place("a"), &Bytes::from_static(b"wrapped")).expect("kept").is_due;
        clock.advance((MINUTE / 2).saturating_sub(MOMENT));
        assert!(!is_due());
        clock.advance(MOMENT);
        assert_eq!([is_due(), is_due()], [true, false], "one of two");
        clock.advance(MINUTE / 10);
        assert!(is_due(), "who was to renew it could not");
        put(&keys, "a");
        assert!(!is_due(), "it was renewed");
    }

    #[test]
    fn a_key_is_kept_no_longer_than_the_one_that_opened_it() {
        let (clock, keys) = kept(8);
        put(&keys, "above");
        clock.advance(MINUTE.saturating_sub(MOMENT));
        keys.put_below(
            &place("above"),
            place("a"),
            Bytes::from_static(b"wrapped"),
            Arc::new(DataKey::random()),
        );
        assert!(has(&keys, "a"));
        clock.advance(MOMENT);
        assert!(!has(&keys, "a"));
    }

    #[test]
    fn renewing_a_key_takes_no_other_ones_place() {
        let (_, keys) = kept(2);
        for name in ["a", "b", "b"] {
            put(&keys, name);
        }
        assert_eq!([has(&keys, "a"), has(&keys, "b")], [true, true]);
    }

    #[test]
    fn stale_keys_can_be_dropped_without_asking_for_any() {
        let (clock, keys) = kept(8);
        put(&keys, "a");
        clock.advance(MINUTE / 2);
        put(&keys, "b");
        clock.advance(MINUTE / 2);
        keys.forget_stale();
        assert_eq!(keys.lock().len(), 1);
    }

    #[test]
    fn another_row_at_the_same_place_is_not_answered() {
        let (_, keys) = kept(8);
        put(&keys, "a");
        assert!(keys.get(&place("a"), &Bytes::from_static(b"other")).is_none());
    }

    #[test]
    fn what_is_forgotten_is_gone() {
        let (_, keys) = kept(8);
        put(&keys, "a");
        put(&keys, "b");
        keys.forget(&Key::new("other"));
        assert!(has(&keys, "a"));
        keys.forget(&Key::new("key"));
        assert!(!has(&keys, "a") && !has(&keys, "b"));
        put(&keys, "a");
        keys.forget_all();
        assert!(!has(&keys, "a"));
    }
}
