//! Debug sessions: a person who may write to a repository looks into the sandbox of one of its jobs.
//!
//! A [`Desk`] is where a product's API asks, and the [`Runner`](crate::runner::Runner) that was made
//! [`with_debug`](crate::runner::Runner::with_debug) of the same desk lets in who was granted. What comes back is a
//! [`DebugAccess`]: with it programs are started in the job's sandbox for a limited time, each a [`DebugSession`].
//! `ci_sandbox::debug` puts an SSH server in front of one.
//!
//! # What holds
//!
//! - **Who.** A [`Grant<Write>`](crate::access::Grant) for the repository of a job that this process runs or keeps right
//!   now. The [`Authority`] is asked again as long as the access lasts, and when the person may no longer write, or it
//!   cannot say, the access ends.
//! - **When.** An access ends at its time, at most [`DeskOptions::longest`] after it was opened; when it is closed or
//!   dropped; and with the job's sandbox. The programs that were started through it are stopped then. What they have left
//!   running in the background goes on, as a part of the job, until the sandbox goes.
//! - **What for.** It is written to the audit log before anybody is let in (`debug.opened`) and when it is over
//!   (`debug.closed`). The job's [`Outcome`](crate::outcome::Outcome) names everybody who was let in, and none of its
//!   caches is saved: other jobs would start from what a person has left. Its artifacts are kept.
//! - **A record.** What programs write goes through the mask of the job's secrets, into a record, and only then to the
//!   person. Where the record cannot be stored the session ends.
//!
//! # The record
//!
//! It is kept as artifacts of the job, sealed and readable as they are: `debug-<session>.<part>.cast`, each a recording of
//! its own in the format asciicast, version 2 (<https://docs.asciinema.org/manual/asciicast/v2/>), with times that count
//! from the beginning of the session. A part is stored when it has 1 MiB, or after a minute, or at the session's end: that
//! much is lost when the worker is. What a person types is in it as far as the terminal shows it, and a command that was
//! given instead of a shell.
//!
//! # What it does not protect from
//!
//! - **The person.** A session's programs get no secret by themselves, but they run as the job's user: as long as a step
//!   has a secret, they can read it where the step can, and write it in a form that no mask knows. Whoever may push code
//!   that the job's secrets are leased to can do so anyway. Not everybody may push to a protected branch, so jobs of
//!   protected code that have secrets let nobody in, unless
//!   [`DeskOptions::with_access_to_protected_secrets`] says so.
//! - **Bytes that wait.** What may be the beginning of a secret is shown when the next byte tells that it is none, and not
//!   earlier, however long that takes: else a program could write a secret slowly.
//! - **The job.** What it writes to a person's terminal is written to that terminal. Code from a fork may be hostile.

mod access;
mod record;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

pub use self::access::{DebugAccess, DebugEnd, DebugEvent, DebugInput, DebugProgram, DebugSession};
pub(crate) use self::access::{Start, Stay, Visit, Wires};
pub(crate) use self::record::Record;
use crate::access::{Authority, Grant, Write};
use crate::audit::{Audit, Entry};
use crate::clock::{Clock, Deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{JobId, RepositoryId, UserId};
use crate::lock::lock;
use crate::queue::Claim;
use crate::trust::Trust;
use crate::units::ByteSize;

const OPERATION: &str = "open a debug session";

/// How many accesses to one job may be open at a time.
pub const MOST_ACCESSES: usize = 8;

/// How many programs may run through one access at a time; who asks for more waits.
pub const MOST_SESSIONS: usize = 8;

/// Where debug sessions are asked for. Clones are the same desk: one is the API's, one the
/// [`Runner`](crate::runner::Runner)'s of the same process. How a request finds the right worker is the product's affair.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::time::Duration;
/// use ci_core::access::Write;
/// use ci_core::debug::{DebugEvent, DebugProgram, Desk};
/// use ci_core::memory::{Reply, Rig};
/// use ci_core::runner::{Runner, Stop};
/// # use ci_core::trust::Origin;
///
/// let rig = Rig::new()?;
/// let desk = Desk::new(rig.authority.clone(), rig.audit.clone(), rig.clock.clone());
/// let runner = Runner::new(rig.parts()).with_debug(desk.clone());
/// # rig.backend.on("sh", |call| match call.arguments() {
/// #     ["-c", _] => Reply::exit(0).stdout("12 files\n"),
/// #     _ => Reply::hang(),
/// # });
/// # let (ada, repository) = (Rig::user("ada")?, Rig::repository("1", "acme")?);
/// # let claim = rig.claim(&repository, Origin::Repository, Rig::spec()).await?;
/// # let job = claim.job().clone();
/// # let (stop, stopped) = tokio::sync::oneshot::channel();
///
/// let grant = rig.grant::<Write>(&ada, &repository).await?;
/// let look = async {
///     // It is refused until the job has a sandbox.
///     let access = loop {
///         match desk.open(&grant, &job, Duration::from_secs(600)).await {
///             Ok(access) => break access,
///             Err(_) => tokio::task::yield_now().await,
///         }
///     };
///     let mut session = access.start(DebugProgram::command("ls | wc -l")).await?;
///     let mut seen = Vec::new();
///     while let DebugEvent::Output(_, bytes) = session.next().await? {
///         seen.extend_from_slice(bytes.as_bytes());
///     }
///     assert_eq!(seen, b"12 files\n");
/// #   stop.send(()).ok();
///     Ok::<(), ci_core::Error>(())
/// };
/// # let stop = async { let _ = stopped.await; Stop::Cancel };
/// let (outcome, looked) = tokio::join!(runner.run(claim, stop), look);
/// looked?;
/// assert_eq!(outcome?.influenced_by, [ada]);
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Desk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    authority: Authority,
    audit: Audit,
    clock: Arc<dyn Clock>,
    options: DeskOptions,
    doors: Mutex<BTreeMap<JobId, Arc<Door>>>,
}

/// What a [`Desk`] allows.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct DeskOptions {
    /// How long an access lasts at most: 1 hour.
    pub longest: Duration,
    /// How long a sandbox is kept after a step or a service of its job failed, for somebody to come: not at all. The job
    /// has its result only after that, and its worker takes no other meanwhile. Once somebody came it is kept until they
    /// have gone. The job's services have ended by then.
    pub keep_failed: Duration,
    /// How much the record of a session may hold, after which the session ends: 16 MiB.
    pub record: ByteSize,
    /// Whether jobs of protected code that have secrets let people in: no.
    pub access_to_protected_secrets: bool,
}

impl Default for DeskOptions {
    fn default() -> Self {
        Self {
            longest: Duration::from_hours(1),
            keep_failed: Duration::ZERO,
            record: ByteSize::mib(16),
            access_to_protected_secrets: false,
        }
    }
}

impl DeskOptions {
    /// Replaces how long an access lasts at most.
    pub fn with_longest(mut self, longest: Duration) -> Self {
        self.longest = longest;
        self
    }

    /// Keeps the sandbox of a job of which a step or a service failed, for as long.
    pub fn with_keep_failed(mut self, keep_failed: Duration) -> Self {
        self.keep_failed = keep_failed;
        self
    }

    /// Replaces how much the record of a session may hold.
    pub fn with_record(mut self, record: ByteSize) -> Self {
        self.record = record;
        self
    }

    /// Lets people into jobs of protected code that have secrets. Everybody who may write to a repository can read those
    /// secrets then, and do what the code of its protected branches can.
    pub fn with_access_to_protected_secrets(mut self) -> Self {
        self.access_to_protected_secrets = true;
        self
    }
}

impl Desk {
    /// A desk with the default options. The clock is the runner's.
    pub fn new(authority: Authority, audit: Audit, clock: Arc<dyn Clock>) -> Self {
        Self::with_options(authority, audit, clock, DeskOptions::default())
    }

    /// A desk that allows what `options` say.
    pub fn with_options(
        authority: Authority,
        audit: Audit,
        clock: Arc<dyn Clock>,
        options: DeskOptions,
    ) -> Self {
        let shared = Shared { authority, audit, clock, options, doors: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Lets the person of `grant` into the sandbox of `job`, for as long as `lasts` says, counted from now.
    ///
    /// The audit log has its entry first. From then on the job is influenced, whether or not anything is started.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Denied`] when the grant is over, and for a job of protected code that has secrets;
    /// [`ErrorKind::NotFound`] when no runner of this process has a sandbox of such a job of the grant's repository now, or
    /// the job is about to end; [`ErrorKind::Invalid`] for no time at all; [`ErrorKind::LimitExceeded`] when it shall last
    /// longer than it may, or [`MOST_ACCESSES`] are open; [`ErrorKind::Unavailable`] when the audit log cannot be written.
    ///
    /// # Cancel safety
    ///
    /// When the future is dropped, nobody is let in; the audit log may say that somebody was about to be.
    pub async fn open(&self, grant: &Grant<Write>, job: &JobId, lasts: Duration) -> Result<DebugAccess> {
        let Shared { audit, clock, options, .. } = &*self.shared;
        let repository = grant.scope()?.repository();
        let door = self.door(job).filter(|door| door.repository == *repository).ok_or_else(|| gone(job))?;
        if door.guards_secrets && !options.access_to_protected_secrets {
            return Err(Error::new(ErrorKind::Denied, OPERATION)
                .because("the job has secrets of protected code, which not everybody who may write may read")
                .with("job", job));
        }
        check(lasts, options.longest)?;
        door.has_room(job)?;
        let until = Deadline::after(clock.as_ref(), lasts);
        let entry = Entry::new("debug.opened", grant.user())
            .about("job", job)
            .about("repository", repository)
            .about("seconds", lasts.as_secs());
        audit.record(repository.tenant(), entry).await?;
        let (access, visit) = access::pair(grant.lower(), job.clone(), until, clock.clone());
        match door.enter(visit, job) {
            Ok(()) => Ok(access),
            Err(error) => {
                // Somebody was faster, or the job has ended: the log has to say that nobody came in.
                let entry = Entry::new("debug.closed", grant.user())
                    .about("job", job)
                    .about("why", "nobody was let in")
                    .about("seconds", 0);
                audit.record(repository.tenant(), entry).await?;
                Err(error)
            }
        }
    }

    /// The door of a job that has a sandbox from now on, and is open until it is dropped or closed.
    pub(crate) fn attend(&self, claim: &Claim) -> (Attendance, mpsc::Receiver<Visit>) {
        let (visits, arrivals) = mpsc::channel(MOST_ACCESSES);
        let state = State { visits: Some(visits), visitors: Vec::new() };
        let door = Arc::new(Door {
            repository: claim.code().repository().clone(),
            guards_secrets: claim.trust() >= Trust::Protected && !claim.spec().secrets.is_empty(),
            state: Mutex::new(state),
            inside: watch::Sender::new(0),
        });
        self.doors().insert(claim.job().clone(), door.clone());
        (Attendance { desk: self.clone(), job: claim.job().clone(), door }, arrivals)
    }

    pub(crate) fn options(&self) -> &DeskOptions {
        &self.shared.options
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.shared.authority
    }

    fn door(&self, job: &JobId) -> Option<Arc<Door>> {
        self.doors().get(job).cloned()
    }

    fn doors(&self) -> MutexGuard<'_, BTreeMap<JobId, Arc<Door>>> {
        lock(&self.shared.doors)
    }
}

fn check(lasts: Duration, longest: Duration) -> Result<()> {
    if lasts.is_zero() {
        return Err(
            Error::new(ErrorKind::Invalid, OPERATION).because("it would be over at once; ask for time")
        );
    }
    if lasts > longest {
        return Err(Error::new(ErrorKind::LimitExceeded, OPERATION)
            .because("it would last longer than it may; ask for less time")
            .with("seconds", longest.as_secs()));
    }
    Ok(())
}

fn gone(job: &JobId) -> Error {
    Error::new(ErrorKind::NotFound, OPERATION)
        .because("no such job has a sandbox here now; it has not begun, has ended, or runs elsewhere")
        .with("job", job)
}

/// The way into the sandbox of one job.
struct Door {
    repository: RepositoryId,
    guards_secrets: bool,
    state: Mutex<State>,
    /// How many visits have not ended.
    inside: watch::Sender<usize>,
}

struct State {
    /// Whom the job lets in next; nobody any more without it.
    visits: Option<mpsc::Sender<Visit>>,
    /// Who was let in, once each.
    visitors: Vec<UserId>,
}

impl Door {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn has_room(&self, job: &JobId) -> Result<()> {
        if *self.inside.borrow() < MOST_ACCESSES {
            return Ok(());
        }
        Err(Error::new(ErrorKind::LimitExceeded, OPERATION)
            .because("as many are open as may be at a time; close one")
            .with("job", job)
            .with("most", MOST_ACCESSES))
    }

    /// One step with who closes the door: who is let in is in the outcome.
    fn enter(&self, visit: Visit, job: &JobId) -> Result<()> {
        let mut state = self.state();
        let State { visits, visitors } = &mut *state;
        let visits = visits.as_ref().ok_or_else(|| gone(job))?;
        self.has_room(job)?;
        let user = visit.stay.user().clone();
        visits.try_send(visit).map_err(|_| gone(job))?;
        self.inside.send_modify(|inside| *inside += 1);
        if !visitors.contains(&user) {
            visitors.push(user);
        }
        Ok(())
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("repository", &self.repository).finish_non_exhaustive()
    }
}

/// The runner's side of a job's door. Dropping it closes the door.
#[derive(Debug)]
pub(crate) struct Attendance {
    desk: Desk,
    job: JobId,
    door: Arc<Door>,
}

impl Attendance {
    pub(crate) fn desk(&self) -> &Desk {
        &self.desk
    }

    /// Lets nobody in any more, and returns who was.
    pub(crate) fn close(&self) -> Vec<UserId> {
        let mut state = self.door.state();
        state.visits = None;
        state.visitors.clone()
    }

    /// A visit has ended.
    pub(crate) fn leaves(&self) {
        self.door.inside.send_modify(|inside| *inside = inside.saturating_sub(1));
    }

    /// Returns when nobody is inside.
    pub(crate) async fn is_empty(&self) {
        // The sender lives as long as `self`, so the wait cannot fail.
        let _ = self.door.inside.subscribe().wait_for(|inside| *inside == 0).await;
    }

    /// Returns when somebody is inside.
    pub(crate) async fn is_visited(&self) {
        let _ = self.door.inside.subscribe().wait_for(|inside| *inside > 0).await;
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.close();
        let mut doors = self.desk.doors();
        // A later lease of the job may run in this process already.
        if doors.get(&self.job).is_some_and(|door| Arc::ptr_eq(door, &self.door)) {
            doors.remove(&self.job);
        }
    }
}
