//! A job's output on its way: masked, bounded, numbered, and stored exactly once.

use std::mem;
use std::time::Duration;

use super::{Event, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::id::StepName;
use crate::log::{Appended, Cursor};
use crate::queue::Claim;
use crate::sandbox::OutputStream;
use crate::secret::{Leak, Mask, Masked, SecretLease};
use crate::units::ByteSize;

/// A chunk is stored when it has this many bytes,
const FULL: usize = 64 * 1024;
/// or when the first byte that was printed has waited this long, so that live readers see it.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// Where the output of one job goes.
#[derive(Debug)]
pub(super) struct Console<'a> {
    // One mask per stream for the whole job: what is split over two writes, or two steps, is still found.
    stdout: Mask,
    stderr: Mask,
    lease: &'a SecretLease,
    step: Option<&'a StepName>,
    step_started: Duration,
    sink: Sink<'a>,
}

impl<'a> Console<'a> {
    pub(super) fn new(claim: &'a Claim, parts: &'a Parts, lease: &'a SecretLease) -> Self {
        Self {
            stdout: lease.mask(),
            stderr: lease.mask(),
            lease,
            step: None,
            step_started: Duration::ZERO,
            sink: Sink::new(claim, parts),
        }
    }

    pub(super) fn lease(&self) -> &'a SecretLease {
        self.lease
    }

    /// Learns where to go on: earlier leases of the job may have written.
    pub(super) async fn open(&mut self) -> Result<()> {
        self.sink.open().await
    }

    /// A step begins, here.
    pub(super) fn begin_step(&mut self, step: &'a StepName) -> Cursor {
        self.step = Some(step);
        self.step_started = self.sink.parts.clock.elapsed();
        self.cursor()
    }

    /// How long the step has run.
    pub(super) fn step_took(&self) -> Duration {
        self.sink.parts.clock.elapsed().saturating_sub(self.step_started)
    }

    /// Behind everything that is stored.
    pub(super) fn cursor(&self) -> Cursor {
        Cursor(self.sink.seq)
    }

    /// After how long something must be flushed.
    pub(super) fn flush_within(&self) -> Duration {
        let waited = |since| self.sink.parts.clock.elapsed().saturating_sub(since);
        self.sink.since.map_or(Duration::MAX, |since| LONGEST_WAIT.saturating_sub(waited(since)))
    }

    /// Takes raw output of the running step.
    pub(super) async fn write(&mut self, stream: OutputStream, bytes: &[u8]) -> Result<()> {
        let mask = match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        let masked = mask.push(bytes);
        self.sink.count(bytes.len())?;
        self.sink.take(stream, &masked).await
    }

    /// Says something about the job, each on lines of its own, and stores it. It goes through the mask that steps write
    /// through: what ends as a secret begins must not meet its rest.
    pub(super) async fn say(&mut self, notices: &[String]) -> Result<()> {
        for notice in notices {
            let before = if self.sink.is_in_line { "\n" } else { "" };
            let after = if notice.ends_with('\n') { "" } else { "\n" };
            let masked = self.stderr.push(format!("{before}{notice}{after}").as_bytes());
            self.sink.take(OutputStream::Stderr, &masked).await?;
        }
        self.sink.flush().await
    }

    /// Stores what is pending, and what the masks do not have to hold back.
    pub(super) async fn flush(&mut self) -> Result<()> {
        self.sink.take(OutputStream::Stdout, &self.stdout.flush()).await?;
        self.sink.take(OutputStream::Stderr, &self.stderr.flush()).await?;
        self.sink.flush().await
    }

    /// Which secrets the step has printed until now.
    pub(super) fn leaks(&mut self) -> Vec<Leak> {
        let masks = [(&mut self.stdout, OutputStream::Stdout), (&mut self.stderr, OutputStream::Stderr)];
        let step = self.step;
        let told = masks
            .into_iter()
            .flat_map(|(mask, stream)| mask.leaks().into_iter().map(move |leak| leak.in_step(step, stream)));
        told.collect()
    }

    /// The job has ended: what the masks held back comes out.
    pub(super) async fn finish(self) -> Result<()> {
        let Self { stdout, stderr, lease, mut sink, .. } = self;
        // What both streams held back comes to stand side by side, so it is looked at together.
        let mut both = lease.mask();
        let rest = both.push(stdout.finish().as_bytes());
        sink.take(OutputStream::Stdout, &rest).await?;
        let rest = both.push(stderr.finish().as_bytes());
        sink.take(OutputStream::Stderr, &rest).await?;
        sink.take(OutputStream::Stderr, &both.finish()).await?;
        sink.flush().await
    }
}

/// Masked output on its way into the log.
#[derive(Debug)]
struct Sink<'a> {
    claim: &'a Claim,
    parts: &'a Parts,
    pending: Masked,
    since: Option<Duration>,
    /// Whether the last line has no end yet.
    is_in_line: bool,
    seq: u64,
    written: u64,
}

impl<'a> Sink<'a> {
    fn new(claim: &'a Claim, parts: &'a Parts) -> Self {
        Self { claim, parts, pending: Masked::default(), since: None, is_in_line: false, seq: 0, written: 0 }
    }

    async fn open(&mut self) -> Result<()> {
        // No log is so long: nothing is stored, and the answer says what is missing.
        const FAR_BEYOND: u64 = u64::MAX;
        let (parts, claim) = (self.parts, self.claim);
        match claim.retried(|| parts.logs.append(claim, FAR_BEYOND, Masked::default())).await? {
            Appended::Gap { expected } => self.seq = expected,
            Appended::Stored | Appended::Repeated => {
                return Err(Error::new(ErrorKind::Internal, "store output")
                    .because("the log took a chunk where none can be"));
            }
        }
        Ok(())
    }

    /// Counts what the job printed, hidden, held back or not.
    fn count(&mut self, bytes: usize) -> Result<()> {
        self.since.get_or_insert_with(|| self.parts.clock.elapsed());
        let limit = self.claim.spec().limits.output;
        self.written = self.written.saturating_add(bytes as u64);
        if self.written > limit.as_u64() { Err(too_much(limit)) } else { Ok(()) }
    }

    async fn take(&mut self, stream: OutputStream, masked: &Masked) -> Result<()> {
        if masked.is_empty() {
            return Ok(());
        }
        self.parts.observer.observe(self.claim.job(), &Event::Output { stream, bytes: masked });
        self.is_in_line = !masked.as_bytes().ends_with(b"\n");
        self.pending.append(masked);
        if self.pending.len() >= FULL { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            let (parts, claim, seq, chunk) = (self.parts, self.claim, self.seq, &self.pending);
            let appended = claim.retried(|| parts.logs.append(claim, seq, chunk.clone())).await?;
            match appended {
                Appended::Stored | Appended::Repeated => {
                    self.seq += 1;
                    mem::take(&mut self.pending);
                }
                Appended::Gap { expected } => {
                    return Err(Error::new(ErrorKind::Internal, "store output")
                        .because("the log lost a chunk")
                        .with("expected", expected));
                }
            }
        }
        self.since = None;
        Ok(())
    }
}

fn too_much(limit: ByteSize) -> Error {
    Error::new(ErrorKind::LimitExceeded, "store output")
        .because("the job printed more than it may; raise its limit or print less")
        .with("limit", limit)
}
