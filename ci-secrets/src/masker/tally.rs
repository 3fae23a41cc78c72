//! Counts what was hidden.

use std::mem;

/// How often each subject was seen.
#[derive(Default)]
pub(super) struct Tally(Vec<Count>);

#[derive(Clone, Copy, Default)]
struct Count {
    /// Up to where it was seen last.
    until: u64,
    times: u64,
}

impl Tally {
    /// `subject` lies from `start` to `end`. What touches what was seen before is the same sight: a long value is seen
    /// in pieces, and what is held back is looked at again.
    pub(super) fn see(&mut self, subject: u32, start: u64, end: u64) {
        let index = subject as usize;
        if self.0.len() <= index {
            self.0.resize(index + 1, Count::default());
        }
        let count = &mut self.0[index];
        if count.until == 0 || start > count.until {
            count.times += 1;
        }
        count.until = count.until.max(end);
    }

    /// What was seen since this was asked last.
    pub(super) fn take(&mut self) -> impl Iterator<Item = (usize, u64)> {
        let counts = self.0.iter_mut().map(|count| mem::take(&mut count.times)).enumerate();
        counts.filter(|(_, times)| *times > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_touches_is_seen_once() {
        let mut tally = Tally::default();
        for (start, end) in [(0, 4), (4, 8), (2, 6), (0, 4), (9, 12)] {
            tally.see(1, start, end);
        }
        tally.see(0, 3, 7);
        assert_eq!(tally.take().collect::<Vec<_>>(), [(0, 1), (1, 2)]);
        tally.see(1, 9, 12);
        assert_eq!(tally.take().count(), 0, "it was told");
    }
}
