//! Where people are let into a job's sandbox, beside its steps: every program that is started for them lives in the
//! runner's own future, so that none outlives the sandbox.

use std::convert::Infallible;
use std::future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};

use super::{Event, Parts, beside, step};
use crate::artifact::Artifact;
use crate::audit::Entry;
use crate::debug::{
    Attendance, DebugEnd, DebugEvent, DebugProgram, Desk, MOST_SESSIONS, Record, Start, Stay, Visit, Wires,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::UserId;
use crate::job::Arg;
use crate::lock::lock;
use crate::queue::Claim;
use crate::sandbox::{
    Command, Input, OutputStream, Process, ProcessEvent, Sandbox, SandboxPath, Signal, TerminalSize,
};
use crate::secret::{Mask, Masked, SecretLease};
use crate::stream;

const OPERATION: &str = "run a debug session";

/// How long the kind of a terminal may be.
const LONGEST_TERMINAL: usize = 64;

/// The people in the sandbox of one job. Without a desk nobody comes.
#[derive(Debug)]
pub(super) struct Booth<'a> {
    claim: &'a Claim,
    parts: &'a Parts,
    lease: &'a SecretLease,
    attendance: Option<Attendance>,
    arrivals: Mutex<Option<mpsc::Receiver<Visit>>>,
    guests: Mutex<Vec<Arc<Guest>>>,
    /// What was stored of records.
    kept: Mutex<Vec<Artifact>>,
}

/// What has to be told of somebody who was let in.
#[derive(Debug)]
struct Guest {
    user: UserId,
    since: Duration,
    sessions: AtomicUsize,
    /// Those whose record is not stored to its end.
    records: Mutex<Vec<Arc<Mutex<Record>>>>,
    lacks_records: AtomicBool,
    has_left: AtomicBool,
}

impl<'a> Booth<'a> {
    /// Opens the door, if there is a desk to ask at.
    pub(super) fn new(
        desk: Option<&Desk>,
        claim: &'a Claim,
        parts: &'a Parts,
        lease: &'a SecretLease,
    ) -> Self {
        let (attendance, arrivals) = desk.map(|desk| desk.attend(claim)).unzip();
        let arrivals = Mutex::new(arrivals);
        Self { claim, parts, lease, attendance, arrivals, guests: Mutex::default(), kept: Mutex::default() }
    }

    /// Lets in whoever is granted it. Dropping the future stops everything that was started.
    pub(super) async fn serve(&self, sandbox: &Sandbox) -> Infallible {
        let Some(attendance) = &self.attendance else { return future::pending().await };
        let mut inside = FuturesUnordered::new();
        loop {
            // Whoever waits there when this is dropped is told of in the end.
            let arrival = future::poll_fn(|context| match &mut *lock(&self.arrivals) {
                Some(arrivals) => arrivals.poll_recv(context),
                None => Poll::Ready(None),
            });
            tokio::select! {
                Some(visit) = arrival => inside.push(self.host(attendance, visit, sandbox)),
                Some(()) = inside.next() => {}
                else => return future::pending().await,
            }
        }
    }

    /// Waits for somebody to come, and until they have gone.
    pub(super) async fn keep(&self) {
        let Some(attendance) = &self.attendance else { return };
        let patience = attendance.desk().options().keep_failed;
        if !patience.is_zero() {
            self.observe(&Event::Kept(patience));
            tokio::select! {
                () = attendance.is_visited() => {}
                () = self.parts.clock.sleep(patience) => {}
            }
        }
        attendance.is_empty().await;
    }

    /// Lets nobody in any more, and returns who was.
    pub(super) fn close(&self) -> Vec<UserId> {
        self.attendance.as_ref().map(Attendance::close).unwrap_or_default()
    }

    /// The sandbox is gone: what is not told yet is, and all records of the job are returned.
    pub(super) async fn finish(&self) -> Vec<Artifact> {
        let mut left = lock(&self.arrivals).take();
        while let Some(visit) = left.as_mut().and_then(|arrivals| arrivals.try_recv().ok()) {
            lock(&self.guests).push(self.guest(&visit.stay));
        }
        let guests = lock(&self.guests).clone();
        for guest in guests.iter().filter(|guest| !guest.has_left.load(Ordering::Relaxed)) {
            self.bid_farewell(guest, DebugEnd::JobEnded).await;
        }
        lock(&self.kept).clone()
    }

    /// Somebody is inside.
    async fn host(&self, attendance: &Attendance, visit: Visit, sandbox: &Sandbox) {
        let Visit { stay, mut starts } = visit;
        let guest = self.guest(&stay);
        lock(&self.guests).push(guest.clone());
        self.observe(&Event::DebugOpened(&guest.user));
        let why = {
            let over = stay.is_over(attendance.desk().authority());
            let sessions = self.sessions(&guest, &stay, &mut starts, sandbox);
            tokio::select! {
                biased;
                why = over => why,
                never = sessions => match never {},
            }
        };
        stay.ends(why);
        drop(starts);
        self.bid_farewell(&guest, why).await;
        attendance.leaves();
    }

    fn guest(&self, stay: &Stay) -> Arc<Guest> {
        Arc::new(Guest {
            user: stay.user().clone(),
            since: self.parts.clock.elapsed(),
            sessions: AtomicUsize::new(0),
            records: Mutex::default(),
            lacks_records: AtomicBool::new(false),
            has_left: AtomicBool::new(false),
        })
    }

    /// Starts what somebody asks for, again and again.
    async fn sessions(
        &self,
        guest: &Guest,
        stay: &Stay,
        starts: &mut mpsc::Receiver<Start>,
        sandbox: &Sandbox,
    ) -> Infallible {
        let mut running = FuturesUnordered::new();
        loop {
            let has_room = running.len() < MOST_SESSIONS;
            tokio::select! {
                Some(start) = starts.recv(), if has_room => running.push(self.session(guest, stay, start, sandbox)),
                Some(()) = running.next() => {}
                // Nobody is left who could ask; the access is over.
                else => return future::pending().await,
            }
        }
    }

    /// One program, from its start to the end of its record.
    async fn session(&self, guest: &Guest, stay: &Stay, start: Start, sandbox: &Sandbox) {
        let Start { program, answer } = start;
        let started = async {
            let command = self.command(&program)?;
            sandbox.exec(&command, self.lease).await
        };
        let mut process = match started.await {
            Ok(process) => process,
            Err(error) => return drop(answer.send(Err(error))),
        };
        let (wires, session) = stay.wires();
        let record = Arc::new(Mutex::new(self.record(&program)));
        lock(&guest.records).push(record.clone());
        guest.sessions.fetch_add(1, Ordering::Relaxed);
        if answer.send(Ok(session)).is_err() {
            return;
        }
        let input = process.input();
        let Wires { typed, sizes, signals, events } = wires;
        let screen = Screen { booth: self, record: &record, events: &events };
        let followed = self.follow(&mut *process, sizes, signals, &screen);
        let ended = beside(feed(input, typed), followed).await;
        drop(process);
        let stored = self.store(guest, &record).await;
        let Some(ended) = ended.transpose() else { return };
        // Nobody listens when the person has gone.
        let _ = events.send(stored.and(ended)).await;
    }

    /// Follows a program to its end, or until nobody looks any more.
    async fn follow(
        &self,
        process: &mut (dyn Process + '_),
        mut sizes: watch::Receiver<Option<TerminalSize>>,
        mut signals: mpsc::Receiver<Signal>,
        screen: &Screen<'_>,
    ) -> Result<Option<DebugEvent>> {
        let (mut stdout, mut stderr) = (self.lease.mask(), self.lease.mask());
        let Screen { record, events, .. } = *screen;
        loop {
            let due = lock(record).due_within(self.parts.clock.elapsed());
            // Dropping `next` loses nothing, so it can be asked again after everything else.
            tokio::select! {
                () = events.closed() => return Ok(None),
                () = self.parts.clock.sleep(due) => self.keep_part(record).await?,
                Some(signal) = signals.recv() => process.signal(signal).await?,
                Ok(()) = sizes.changed() => {
                    let size = *sizes.borrow_and_update();
                    if let Some(size) = size {
                        screen.resize(size, process).await?;
                    }
                }
                event = process.next() => match event? {
                    ProcessEvent::Output(stream @ OutputStream::Stdout, bytes) => {
                        screen.show(stream, stdout.push(&bytes)).await?;
                    }
                    ProcessEvent::Output(stream @ OutputStream::Stderr, bytes) => {
                        screen.show(stream, stderr.push(&bytes)).await?;
                    }
                    ProcessEvent::Exited(exit) => {
                        screen.show_rest(stdout, stderr).await?;
                        return Ok(Some(DebugEvent::Exited(exit.status)));
                    }
                },
            }
        }
    }

    /// What is run: a shell with the variables that steps have, and no secret.
    fn command(&self, program: &DebugProgram) -> Result<Command> {
        let DebugProgram { command, terminal } = program;
        let arguments = match command {
            Some(text) => vec![Arg::new("-c")?, Arg::new(text.as_data())?],
            None => vec![],
        };
        let mut environment = step::base_environment(self.claim)?;
        environment.extend(&self.claim.spec().environment);
        if let Some((kind, _)) = terminal {
            let is_kind = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
            let kind = kind.as_data();
            if kind.is_empty() || kind.len() > LONGEST_TERMINAL || !kind.bytes().all(is_kind) {
                return Err(Error::new(ErrorKind::Invalid, OPERATION)
                    .because("a kind of terminal is 1 to 64 of A-Z a-z 0-9 - _ . +"));
            }
            environment.set("TERM".parse()?, kind);
        }
        let command = Command::new(Arg::new("/bin/sh")?, arguments)
            .with_environment(&environment)
            .with_directory(SandboxPath::work());
        Ok(match terminal {
            Some((_, size)) => command.with_terminal(*size),
            None => command.with_input(),
        })
    }

    fn record(&self, program: &DebugProgram) -> Record {
        let DebugProgram { command, terminal } = program;
        let command = command.as_ref().map(|text| self.lease.mask_text(text.as_data()));
        let terminal = terminal.as_ref().map(|(kind, size)| (kind.as_data().to_owned(), *size));
        let start = (self.parts.clock.now(), self.parts.clock.elapsed());
        let room = self.attendance.as_ref().map(|attendance| attendance.desk().options().record);
        Record::new(command, terminal, start, room.unwrap_or_default())
    }

    /// Somebody has left: their records are stored, and the audit log says how it was.
    async fn bid_farewell(&self, guest: &Guest, why: DebugEnd) {
        let records = lock(&guest.records).clone();
        for record in records {
            // What went wrong is in the entry.
            let _ = self.store(guest, &record).await;
        }
        let stayed = self.parts.clock.elapsed().saturating_sub(guest.since);
        let is_whole = !guest.lacks_records.load(Ordering::Relaxed);
        let entry = Entry::new("debug.closed", &guest.user)
            .about("job", self.claim.job())
            .about("why", why)
            .about("seconds", stayed.as_secs())
            .about("sessions", guest.sessions.load(Ordering::Relaxed))
            .about("record", if is_whole { "whole" } else { "incomplete" });
        let (audit, tenant) = (&self.parts.audit, self.claim.code().repository().tenant());
        match self.claim.retried(|| audit.record(tenant, entry.clone())).await {
            Ok(()) => guest.has_left.store(true, Ordering::Relaxed),
            Err(error) => {
                tracing::warn!(job = %self.claim.job(), error = %error.for_operator(), "end of a debug session not recorded");
            }
        }
    }

    /// Stores a record to its end, once.
    async fn store(&self, guest: &Guest, record: &Arc<Mutex<Record>>) -> Result<()> {
        let stored = self.store_all(record).await;
        if let Err(error) = &stored {
            guest.lacks_records.store(true, Ordering::Relaxed);
            tracing::warn!(job = %self.claim.job(), error = %error.for_operator(), "record of a debug session not stored");
        }
        lock(&guest.records).retain(|other| !Arc::ptr_eq(other, record));
        stored
    }

    async fn store_all(&self, record: &Mutex<Record>) -> Result<()> {
        // A full one has room for nothing more, and is stored as it is.
        let _ = lock(record).finish(self.parts.clock.elapsed());
        while !lock(record).is_stored() {
            self.keep_part(record).await?;
        }
        Ok(())
    }

    /// Stores the next part of a record.
    async fn keep_part(&self, record: &Mutex<Record>) -> Result<()> {
        let Some((name, content)) = lock(record).part(self.parts.clock.elapsed())? else { return Ok(()) };
        let put = || self.parts.artifacts.put(self.claim, &name, stream::once(content.clone()));
        let artifact = self.claim.retried(put).await?;
        lock(record).stored();
        self.observe(&Event::ArtifactKept(&artifact));
        lock(&self.kept).push(artifact);
        Ok(())
    }

    fn observe(&self, event: &Event<'_>) {
        self.parts.observer.observe(self.claim.job(), event);
    }
}

/// The way of masked output: into the record, and to the person.
struct Screen<'a> {
    booth: &'a Booth<'a>,
    record: &'a Mutex<Record>,
    events: &'a mpsc::Sender<Result<DebugEvent>>,
}

impl Screen<'_> {
    async fn show(&self, stream: OutputStream, masked: Masked) -> Result<()> {
        if masked.is_empty() {
            return Ok(());
        }
        lock(self.record).output(self.booth.parts.clock.elapsed(), &masked)?;
        if lock(self.record).is_full() {
            self.booth.keep_part(self.record).await?;
        }
        // Nobody listens when the person has gone; that is noticed elsewhere.
        let _ = self.events.send(Ok(DebugEvent::Output(stream, masked))).await;
        Ok(())
    }

    async fn resize(&self, size: TerminalSize, process: &dyn Process) -> Result<()> {
        match process.resize(size).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
            Err(error) => Err(error),
            Ok(()) => lock(self.record).resized(self.booth.parts.clock.elapsed(), size),
        }
    }

    /// What the masks held back. In the record it stands side by side, so it is looked at together.
    async fn show_rest(&self, stdout: Mask, stderr: Mask) -> Result<()> {
        let mut both = self.booth.lease.mask();
        self.show(OutputStream::Stdout, both.push(stdout.finish().as_bytes())).await?;
        self.show(OutputStream::Stderr, both.push(stderr.finish().as_bytes())).await?;
        self.show(OutputStream::Stderr, both.finish()).await
    }
}

/// Hands a program what a person types, until either has enough.
async fn feed(input: Option<Box<dyn Input>>, mut typed: mpsc::Receiver<Bytes>) -> Infallible {
    if let Some(mut input) = input {
        while let Some(bytes) = typed.recv().await {
            if input.write(bytes).await.is_err() {
                break;
            }
        }
    }
    // Whoever writes learns that nobody reads.
    drop(typed);
    future::pending().await
}
