//! Time, as something that is handed in.
//!
//! Leases, grants and timeouts take their time from a [`Clock`], so that tests own it ([`ManualClock`]) and
//! no library reads a global.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::lock::lock;

/// A point of calendar time: milliseconds since 1970-01-01T00:00:00Z.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use ci_core::clock::Timestamp;
///
/// let start = Timestamp::from_unix_millis(1_767_225_600_000); // 2026-01-01T00:00:00Z
/// let end = start.after(Duration::from_secs(90));
/// assert_eq!(start.until(end), Some(Duration::from_secs(90)));
/// assert_eq!(end.until(start), None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The point `millis` milliseconds after 1970-01-01T00:00:00Z.
    pub const fn from_unix_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub const fn unix_millis(self) -> u64 {
        self.0
    }

    /// This point and `duration` later, in whole milliseconds; what would overflow ends at the last one.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long before `later` this was, or `None` when it was not before it.
    pub fn until(self, later: Self) -> Option<Duration> {
        later.0.checked_sub(self.0).map(Duration::from_millis)
    }
}

/// Where time comes from. A service has one, hands it to everything as `Arc<dyn Clock>`, and takes [`SystemClock`];
/// a test takes [`ManualClock`], whose example shows both.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Calendar time. It may jump, either way.
    fn now(&self) -> Timestamp;

    /// Time since a fixed point of this clock's own. It never goes back; it may stand still while the machine
    /// is suspended.
    fn elapsed(&self) -> Duration;

    /// Returns after `duration`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    async fn sleep(&self, duration: Duration);
}

/// The operating system's clock. Its `sleep` needs a tokio runtime with time enabled.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock whose [`elapsed`](Clock::elapsed) counts from now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Timestamp(0).after(since)
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// A clock that stands still until a test moves it.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use ci_core::clock::{Clock, ManualClock};
///
/// let clock = ManualClock::new();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(before.until(clock.now()), Some(Duration::from_secs(60)));
/// ```
#[derive(Debug)]
pub struct ManualClock {
    elapsed: watch::Sender<Duration>,
    // Apart from `elapsed`, so that a test can let the calendar jump.
    calendar: Mutex<Timestamp>,
}

impl ManualClock {
    /// A clock that stands at 2026-01-01T00:00:00Z.
    pub fn new() -> Self {
        const START: Timestamp = Timestamp(1_767_225_600_000);
        Self { elapsed: watch::Sender::new(Duration::ZERO), calendar: Mutex::new(START) }
    }

    /// Moves both calendar and elapsed time, and wakes the sleepers whose time has come.
    pub fn advance(&self, by: Duration) {
        self.jump_to(self.now().after(by));
        self.elapsed.send_modify(|elapsed| *elapsed += by);
    }

    /// Sets the calendar alone, as an administrator or a time server does.
    pub fn jump_to(&self, now: Timestamp) {
        *lock(&self.calendar) = now;
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *lock(&self.calendar)
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.borrow()
    }

    async fn sleep(&self, duration: Duration) {
        let mut elapsed = self.elapsed.subscribe();
        let until = self.elapsed().saturating_add(duration);
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = elapsed.wait_for(|elapsed| *elapsed >= until).await;
    }
}

/// A point after which something no longer holds.
///
/// It has passed as soon as *either* the calendar or elapsed time says so: a machine that slept through its
/// lease must not wake up believing in it, and a calendar set back must not stretch a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline {
    calendar: Timestamp,
    elapsed: Duration,
}

impl Deadline {
    pub(crate) fn after(clock: &dyn Clock, duration: Duration) -> Self {
        Self { calendar: clock.now().after(duration), elapsed: clock.elapsed().saturating_add(duration) }
    }

    /// The same point, or one `bound` after `start` if that comes first.
    pub(crate) fn within(self, start: Self, bound: Duration) -> Self {
        Self {
            calendar: self.calendar.min(start.calendar.after(bound)),
            elapsed: self.elapsed.min(start.elapsed.saturating_add(bound)),
        }
    }

    /// The point `by` after this one.
    pub(crate) fn later(self, by: Duration) -> Self {
        Self { calendar: self.calendar.after(by), elapsed: self.elapsed.saturating_add(by) }
    }

    /// What is left of it; zero when it has passed.
    pub(crate) fn left(&self, clock: &dyn Clock) -> Duration {
        let calendar = clock.now().until(self.calendar).unwrap_or_default();
        calendar.min(self.elapsed.saturating_sub(clock.elapsed()))
    }

    /// The point by elapsed time.
    #[cfg(feature = "memory")]
    pub(crate) fn elapsed(&self) -> Duration {
        self.elapsed
    }

    pub(crate) fn has_passed(&self, clock: &dyn Clock) -> bool {
        self.left(clock).is_zero()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_deadline_passes_by_either_clock() {
        let clock = ManualClock::new();
        let start = clock.now();
        let deadline = Deadline::after(&clock, MINUTE);
        clock.jump_to(start.after(2 * MINUTE));
        assert!(deadline.has_passed(&clock), "the machine was suspended");
        clock.jump_to(Timestamp(0));
        clock.elapsed.send_modify(|elapsed| *elapsed += MINUTE);
        assert!(deadline.has_passed(&clock), "the calendar was set back");
    }

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_test_says_so() {
        let clock = ManualClock::new();
        let mut sleep = clock.sleep(MINUTE);
        assert!(future::poll_immediate(&mut sleep).await.is_none());
        clock.advance(MINUTE / 2);
        assert!(future::poll_immediate(&mut sleep).await.is_none());
        clock.advance(MINUTE / 2);
        sleep.await;
    }
}
