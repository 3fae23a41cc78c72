//! What a sandbox tried to reach, and what became of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use ci_core::External;
use ci_core::clock::{Clock as _, SystemClock};
use ci_core::network::{Flow, NetworkReport, Verdict};

use super::lock;

/// How many flows are told apart.
const MOST_FLOWS: usize = 200;
/// The longest text that is kept of what was asked for: no host name is longer.
const LONGEST: usize = 253;

/// Bytes that went through connections, as they go.
#[derive(Debug, Default)]
pub(super) struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter {
    pub(super) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Sent and received.
    pub(super) fn read(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }
}

/// The record of one sandbox, bounded whatever it does.
#[derive(Debug, Default)]
pub(in crate::native) struct Transcript(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    sums: NetworkReport,
    entries: Vec<(Flow, Arc<Meter>)>,
    places: HashMap<Key, usize>,
    /// Of the connections that are not listed.
    rest: Arc<Meter>,
}

type Key = (String, Option<u16>, Option<IpAddr>, Verdict);

impl Transcript {
    /// Notes an attempt, and returns where its bytes are counted.
    pub(super) fn note(
        &self,
        asked: &str,
        port: Option<u16>,
        address: Option<IpAddr>,
        verdict: Verdict,
    ) -> Arc<Meter> {
        // Cut short, it could hold a part of a secret that the whole would be recognised by.
        let asked = if asked.len() > LONGEST { "(too long)" } else { asked };
        let now = SystemClock::new().now();
        let mut book = lock(&self.0);
        match verdict {
            Verdict::Connected => book.sums.connections += 1,
            refusal if refusal.is_refusal() => book.sums.refused += 1,
            _ => book.sums.failed += 1,
        }
        let key = (asked.to_owned(), port, address, verdict);
        if let Some(place) = book.places.get(&key).copied() {
            let (flow, meter) = &mut book.entries[place];
            flow.attempts += 1;
            flow.last = now;
            return meter.clone();
        }
        if book.entries.len() == MOST_FLOWS {
            book.sums.unlisted += 1;
            return book.rest.clone();
        }
        let (place, meter) = (book.entries.len(), Arc::<Meter>::default());
        book.entries.push((Flow::new(External::new(asked), port, address, verdict, now), meter.clone()));
        book.places.insert(key, place);
        meter
    }

    /// What there is so far.
    pub(in crate::native) fn report(&self) -> NetworkReport {
        let book = lock(&self.0);
        let mut report = book.sums.clone();
        (report.sent, report.received) = book.rest.read();
        for (flow, meter) in &book.entries {
            let mut flow = flow.clone();
            (flow.sent, flow.received) = meter.read();
            report.sent += flow.sent;
            report.received += flow.received;
            report.flows.push(flow);
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_is_one_entry() {
        let transcript = Transcript::default();
        for _ in 0..3 {
            transcript.note("a.example", Some(443), None, Verdict::Connected).add_sent(2);
        }
        transcript.note("a.example", Some(443), None, Verdict::NoRule);
        transcript.note("a.example", None, None, Verdict::NoRule);
        transcript.note("a.example", Some(443), None, Verdict::Unreachable).add_received(1);
        let report = transcript.report();
        assert_eq!((report.connections, report.refused, report.failed), (3, 2, 1));
        assert_eq!((report.sent, report.received, report.flows.len()), (6, 1, 4));
        assert_eq!((report.flows[0].attempts, report.flows[0].sent), (3, 6));
    }

    #[test]
    fn a_job_that_asks_for_everything_fills_no_memory_and_is_still_summed_up() {
        let transcript = Transcript::default();
        for number in 0..1_000 {
            transcript.note(&format!("{number}.example"), None, None, Verdict::NoRule).add_sent(1);
        }
        transcript.note(&"x".repeat(LONGEST + 1), None, None, Verdict::NoRule);
        let report = transcript.report();
        assert_eq!((report.refused, report.flows.len(), report.unlisted), (1_001, MOST_FLOWS, 801));
        assert_eq!(report.sent, 1_000);
        let longest = transcript.note(&"x".repeat(LONGEST + 1), None, None, Verdict::NoRule);
        assert_eq!(longest.read().0, 800, "with the rest");
    }
}
