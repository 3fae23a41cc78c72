//! How often something may happen.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// So many times per second in the long run, and a number of them at once.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the next one is due, were there no slack.
    due: Instant,
    interval: Duration,
    slack: Duration,
}

impl Pace {
    pub(super) fn new(per_second: u32, at_once: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second;
        Self { due: Instant::now(), interval, slack: interval * at_once }
    }

    /// Waits for the next turn.
    pub(super) async fn turn(&mut self) {
        self.due = self.due.max(Instant::now()) + self.interval;
        if let Some(start) = self.due.checked_sub(self.slack) {
            sleep_until(start).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_at_once_and_the_rest_is_slowed_down() {
        let mut pace = Pace::new(10, 5);
        let start = Instant::now();
        for _ in 0..5 {
            pace.turn().await;
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
        for _ in 0..10 {
            pace.turn().await;
        }
        assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    }
}
