//! Every call on a job's way fails once, in every way: the job comes to one end, and all who are told agree.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use ci_core::access::{Grant, Read};
use ci_core::artifact::ArtifactStore as _;
use ci_core::forge::CheckState;
use ci_core::id::{ArtifactName, CacheKey, Digest, ImageName, JobId, SecretName, ServiceName, StepName};
use ci_core::job::{Arg, JobSpec, Run, Script, Service as Beside, Step};
use ci_core::log::{Cursor, LogStore as _};
use ci_core::memory::{Artifacts, Database, Logs, Reply, Rig};
use ci_core::outcome::{Conclusion, Outcome};
use ci_core::queue::{Queue as _, Stage, State};
use ci_core::sandbox::{Capabilities, SandboxPath, Sandboxes};
use ci_core::secret::{SecretStore as _, SecretValue};
use ci_core::{ByteSize, Error, ErrorKind, Result, stream};
use futures_util::poll;
use tokio::task::yield_now;

use crate::hooked::{Call, Hook, Hooked};
use crate::runner::{Service, never};
use crate::{ours, writer};

const SECRET: &str = "hunter2-hunter3";

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is not made, and would succeed later.
    Passes,
    /// It is not made, and never will be.
    Lasts,
    /// It meets a defect.
    Defect,
    /// It is made, and the answer is lost.
    AnswerLost,
    /// It is never answered.
    Hangs,
}

/// What goes wrong, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// The call of this number fails.
    AtCall(usize, Fault),
    /// The worker ends at its poll of this number.
    AtPoll(usize),
}

/// Stands before every port, and makes the trouble.
#[derive(Debug)]
struct Troubled {
    trouble: Trouble,
    began: AtomicBool,
    calls: AtomicUsize,
    hit: Mutex<Option<Call>>,
}

impl Hook for Troubled {
    async fn around<T: Send>(&self, call: Call, done: impl Future<Output = Result<T>> + Send) -> Result<T> {
        if !self.began.load(Ordering::Acquire) {
            return done.await;
        }
        let (before, after) = self.polls_around(call);
        let done = async {
            polls(before).await;
            let answer = done.await;
            polls(after).await;
            answer
        };
        let number = self.calls.fetch_add(1, Ordering::AcqRel);
        let Trouble::AtCall(at, fault) = self.trouble else { return done.await };
        if number != at {
            return done.await;
        }
        *self.hit.lock().expect("not poisoned") = Some(call);
        let error = |kind| Error::new(kind, "make a call").detail(format!("{call:?}"));
        match fault {
            Fault::Passes => Err(error(ErrorKind::Unavailable)),
            Fault::Lasts => Err(error(ErrorKind::Unavailable).permanent()),
            Fault::Defect => Err(error(ErrorKind::Internal)),
            Fault::AnswerLost => {
                let _ = done.await;
                Err(error(ErrorKind::Unavailable))
            }
            Fault::Hangs => std::future::pending().await,
        }
    }
}

impl Troubled {
    /// How many polls, and so seconds, a call takes before and after it is made.
    fn polls_around(&self, call: Call) -> (usize, usize) {
        match self.trouble {
            Trouble::AtPoll(_) => (1, 1),
            // Programs take their time: there are heartbeats meanwhile.
            _ if call == Call::Next => (12, 0),
            _ => (0, 0),
        }
    }

    fn hit(&self) -> Option<Call> {
        *self.hit.lock().expect("not poisoned")
    }

    /// Whether this fault hit a call.
    fn is(&self, fault: Fault) -> bool {
        matches!(self.trouble, Trouble::AtCall(_, is) if is == fault)
    }
}

async fn polls(count: usize) {
    for _ in 0..count {
        yield_now().await;
    }
}

/// A job that does all that a job can, and its workers.
struct Trial {
    troubled: Arc<Troubled>,
    /// As it is: no trouble before it.
    database: Arc<Database>,
    service: Service,
    job: JobId,
    polls: usize,
    told: Option<Box<Outcome>>,
    /// Whether a worker ended after it had recorded the outcome, and before it could tell anybody.
    is_untold: bool,
    complaints: Vec<String>,
}

/// How an attempt of a worker ended.
#[derive(Debug)]
enum Attempt {
    /// With what the worker was told, if there was a job for it.
    Told(Result<Option<Box<Outcome>>>),
    Dropped,
    Hangs,
}

impl Trial {
    async fn new(trouble: Trouble) -> Result<Self> {
        let rig = Rig::new()?;
        let (began, calls, hit) = (false.into(), 0.into(), Mutex::default());
        let troubled = Arc::new(Troubled { trouble, began, calls, hit });
        let database = Arc::new(Database::new(rig.clock.clone()));
        let ring = Arc::new(Hooked::sharing(rig.ring.clone(), &troubled));
        let rig = rig.with_database(Arc::new(Hooked::sharing(database.clone(), &troubled)))?.with_ring(ring);
        let backend = Arc::new(Hooked::sharing(rig.backend.clone(), &troubled));
        let forge = Arc::new(Hooked::sharing(rig.forge.clone(), &troubled));
        let service = Service::with_parts(rig, |parts| {
            parts.sandboxes = Sandboxes::new(backend);
            parts.source = forge.clone();
            parts.checks = Some(forge);
        });
        let job = enqueue(&service).await?;
        troubled.began.store(true, Ordering::Release);
        let (polls, told, is_untold, complaints) = (0, None, false, Vec::new());
        Ok(Self { troubled, database, service, job, polls, told, is_untold, complaints })
    }

    /// Workers take the job until it has ended.
    async fn run(mut self) -> Result<Self> {
        const MOST_WORKERS: usize = 8;
        for _ in 0..MOST_WORKERS {
            let attempt = self.attempt().await;
            if self.judge(&attempt).await? {
                break;
            }
            self.service.rig.clock.advance(Duration::from_secs(31));
        }
        self.troubled.began.store(false, Ordering::Release);
        self.judge_end().await?;
        Ok(self)
    }

    /// One worker takes the job and runs it, as far as it comes.
    async fn attempt(&mut self) -> Attempt {
        const LONGEST: usize = 6_000;
        let Service { rig, runner, .. } = &self.service;
        let mut work = pin!(async {
            match rig.dispatcher.next(&[]).await? {
                Some(claim) => runner.run(claim, never()).await.map(Some),
                None => Ok(None),
            }
        });
        for _ in 0..LONGEST {
            if let Poll::Ready(told) = poll!(&mut work) {
                return Attempt::Told(told.map(|told| told.map(Box::new)));
            }
            self.polls += 1;
            if self.troubled.trouble == Trouble::AtPoll(self.polls) {
                return Attempt::Dropped;
            }
            yield_now().await;
            rig.clock.advance(Duration::from_secs(1));
        }
        Attempt::Hangs
    }

    fn complain(&mut self, complaint: impl Into<String>) {
        self.complaints.push(complaint.into());
    }

    /// Compares what an attempt left and told with what is recorded, and says whether the job has ended.
    async fn judge(&mut self, attempt: &Attempt) -> Result<bool> {
        let hit = self.troubled.hit();
        // Where a defect keeps a sandbox from being destroyed, it is reaped.
        let may_be_left = hit == Some(Call::Destroy) && self.troubled.is(Fault::Defect);
        if !may_be_left && !self.service.rig.backend.living().is_empty() {
            self.complain(format!("a sandbox is left after {attempt:?}"));
        }
        for text in [format!("{attempt:?}"), format!("{:?}", self.service.seen.events(&self.job))] {
            if text.contains(SECRET) {
                self.complain(format!("the secret is in {text}"));
            }
        }
        let row = self.database.row(&self.job).await?;
        let has_ended = row.is_some_and(|row| matches!(row.stage, Stage::Ended(_)));
        match attempt {
            Attempt::Told(Ok(Some(outcome))) => {
                if !has_ended {
                    self.complain(format!("told {:?}, and it is not recorded", outcome.conclusion));
                }
                if self.told.replace(outcome.clone()).is_some() {
                    self.complain("a second outcome");
                }
            }
            // That a sandbox did not come down is told beside the outcome; and what cannot be opened, and
            // never will be, is refused.
            Attempt::Told(Err(_)) if hit == Some(Call::Destroy) || self.troubled.is(Fault::Lasts) => {}
            Attempt::Told(Err(error)) if has_ended => {
                let state = self.service.rig.dispatcher.state(&self.reader().await?, &self.job).await;
                self.complain(format!("told {error:?}, and it is recorded as {state:?}"));
            }
            Attempt::Told(_) => {}
            Attempt::Dropped => self.is_untold = has_ended,
            // Nothing bounds `Dispatcher::next` itself.
            Attempt::Hangs if matches!(hit, Some(Call::Lease | Call::DataKey)) => {}
            Attempt::Hangs => self.complain("it hangs"),
        }
        Ok(has_ended)
    }

    async fn judge_end(&mut self) -> Result<()> {
        let reader = self.reader().await?;
        match self.service.rig.dispatcher.state(&reader, &self.job).await {
            Ok(State::Finished(outcome)) => {
                let harmless = !self.troubled.is(Fault::Lasts) && !self.troubled.is(Fault::Hangs);
                if outcome.conclusion == Conclusion::Succeeded {
                    self.judge_success(&reader, &outcome).await?;
                } else if harmless {
                    self.complain(format!("one fault that passes made it {outcome:?}"));
                }
                if self.told.as_ref().is_some_and(|told| *told != outcome) {
                    self.complain(format!("told {:?}, and it is recorded as {outcome:?}", self.told));
                }
            }
            other => self.complain(format!("it never ended: {other:?}")),
        }
        if self.service.rig.audit.verify(ours().tenant()).await.is_err() {
            self.complain("the audit log is broken");
        }
        Ok(())
    }

    /// A job that succeeded has its artifact and its whole log, and the forge has heard of it.
    async fn judge_success(&mut self, reader: &Grant<Read>, outcome: &Outcome) -> Result<()> {
        let rig = &self.service.rig;
        let artifacts = Artifacts::new(rig.records());
        let content = artifacts.get(reader, &self.job, &report()?).await;
        let page = Logs::new(rig.database.clone(), rig.clock.clone())
            .read(reader, &self.job, Cursor(0), 1 << 20)
            .await?;
        let reports: Vec<_> = rig.forge.reports().into_iter().map(|report| report.state).collect();
        match content {
            Ok(content) => {
                let content = stream::collect(content, ByteSize::mib(1)).await?;
                if Digest::of(&content) != outcome.artifacts[0].digest {
                    self.complain("another artifact than the outcome's");
                }
            }
            Err(error) => self.complain(format!("no artifact: {error:?}")),
        }
        let log = String::from_utf8_lossy(&page.bytes);
        if !log.ends_with("with ***\nwith ***\n") || log.contains(SECRET) || !page.end {
            self.complain(format!("the log is {log:?}, at its end: {}", page.end));
        }
        let could_be_told = self.troubled.hit() != Some(Call::Report) && !self.is_untold;
        if could_be_told && reports.last() != Some(&CheckState::Succeeded) {
            self.complain(format!("the forge heard {reports:?}"));
        }
        Ok(())
    }

    async fn reader(&self) -> Result<Grant<Read>> {
        Ok(writer(&self.service.rig, &ours()).await?.lower::<Read>())
    }
}

fn report() -> Result<ArtifactName> {
    ArtifactName::parse("report")
}

/// A database that is ready at the second look, and sees the secret.
fn database(service: &Service, token: SecretName) -> Result<Beside> {
    let looks = AtomicUsize::new(0);
    let backend = &service.rig.backend;
    backend.set_capabilities(Capabilities::default().with_services());
    backend.on("serve", |call| Reply::hang().stdout(call.variable("TOKEN").unwrap_or_default().to_vec()));
    backend.on("probe", move |_| Reply::exit(u8::from(looks.fetch_add(1, Ordering::AcqRel) == 0)));
    let (name, image) = (ServiceName::parse("db")?, ImageName::parse("db-15")?);
    let probe = Run::Command { program: Arg::new("probe")?, arguments: Vec::new() };
    Ok(Beside::command(name, image, Arg::new("serve")?, []).with_ready(probe).with_secret(token))
}

/// Enqueues a job of two steps with a service, a secret, a cache and an artifact.
async fn enqueue(service: &Service) -> Result<JobId> {
    let token = SecretName::parse("TOKEN")?;
    let grant = writer(&service.rig, &ours()).await?;
    service.secrets.put(&grant, &token, SecretValue::new(SECRET)).await?;
    let (kept, cached) = (SandboxPath::work().join("report")?, SandboxPath::work().join("cache")?);
    let mut spec = JobSpec::new(Rig::spec().image)
        .with_secret(token.clone())
        .with_service(database(service, token.clone())?)
        .with_cache(CacheKey::parse("c")?, cached.clone())
        .with_artifact(report()?, kept.clone());
    for name in ["one", "two"] {
        let step = Step::script(StepName::parse(name)?, Script::literal("x"));
        spec = spec.with_step(step.with_secret(token.clone()));
    }
    service.rig.backend.on("sh", move |call| {
        call.files().write(&kept, "fine").expect("written");
        call.files().write(&cached, "warm").expect("written");
        let token = call.variable("TOKEN").unwrap_or_default().to_vec();
        Reply::exit(0).stdout([b"with ", &token[..], b"\n"].concat())
    });
    service.enqueue(spec).await
}

async fn trial(trouble: Trouble) -> Trial {
    Trial::new(trouble).await.expect("set up").run().await.expect("judged")
}

/// Every call on the way of a job that goes well.
const ON_THE_WAY: [Call; 15] = [
    Call::Lease,
    Call::Extend,
    Call::Finish,
    Call::Get,
    Call::Commit,
    Call::DataKey,
    Call::Create,
    Call::Destroy,
    Call::Exec,
    Call::Upload,
    Call::Download,
    Call::Usage,
    Call::Next,
    Call::Checkout,
    Call::Report,
];

/// Runs a job once for every call on its way, which then fails so.
async fn every_call(fault: Fault) {
    let smooth = trial(Trouble::None).await;
    assert_eq!(smooth.complaints, Vec::<String>::new());
    let calls = smooth.troubled.calls.load(Ordering::Acquire);
    let (mut hit, mut complaints) = (BTreeSet::new(), Vec::new());
    for at in 0..calls {
        let trial = trial(Trouble::AtCall(at, fault)).await;
        let call = trial.troubled.hit().expect("there is a call of that number");
        complaints.extend(trial.complaints.into_iter().map(|text| format!("call {at}, {call:?}: {text}")));
        hit.insert(call);
    }
    assert!(complaints.is_empty(), "of {calls} calls:\n{}", complaints.join("\n"));
    assert_eq!(hit, ON_THE_WAY.into());
}

#[tokio::test]
async fn a_call_that_fails_for_a_moment_changes_no_outcome() {
    every_call(Fault::Passes).await;
}

#[tokio::test]
async fn a_call_that_fails_for_good_leaves_one_outcome_and_no_sandbox() {
    every_call(Fault::Lasts).await;
}

#[tokio::test]
async fn a_call_that_meets_a_defect_once_changes_no_outcome() {
    every_call(Fault::Defect).await;
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_changes_no_outcome() {
    every_call(Fault::AnswerLost).await;
}

#[tokio::test]
async fn a_call_that_is_never_answered_holds_no_worker() {
    every_call(Fault::Hangs).await;
}

#[tokio::test]
async fn a_worker_that_ends_at_any_poll_leaves_the_whole_job_to_the_next() {
    let mut complaints = Vec::new();
    for at in 1.. {
        let trial = trial(Trouble::AtPoll(at)).await;
        complaints.extend(trial.complaints.into_iter().map(|text| format!("poll {at}: {text}")));
        if trial.polls < at {
            assert!(at > 2 * ON_THE_WAY.len(), "every call takes two polls, and there were {at}");
            break;
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
