//! The rows of a queue, and what becomes of them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::{Clock, Deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{JobId, Label, RepositoryId};
use crate::queue::{End, Extended, Leased, MOST_ATTEMPTS, NewRow, Released, Row, Stage, Ticket};
use crate::records::Fence;

/// All rows of a queue.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: BTreeMap<JobId, Work>,
    pushed: u64,
}

/// One row.
#[derive(Debug)]
struct Work {
    /// Which one was pushed first.
    age: u64,
    repository: RepositoryId,
    labels: Vec<Label>,
    ticket: Ticket,
    expires: Deadline,
    /// How often it was handed out, but for what counts as no attempt.
    attempts: u32,
    /// The token of its latest lease.
    token: u64,
    is_cancelled: bool,
    standing: Standing,
}

#[derive(Debug)]
enum Standing {
    /// From when on it can be handed out.
    Waiting(Deadline),
    Leased(Deadline),
    Ended(End),
}

impl Rows {
    pub(super) fn push(&mut self, row: NewRow, clock: &dyn Clock) -> Result<()> {
        let NewRow { job, repository, labels, ticket, longest_wait } = row;
        if self.rows.contains_key(&job) {
            return Err(Error::new(ErrorKind::Conflict, "add a job to the queue").with("job", &job));
        }
        self.pushed += 1;
        let (age, expires) = (self.pushed, Deadline::after(clock, longest_wait));
        let standing = Standing::Waiting(Deadline::after(clock, Duration::ZERO));
        let (attempts, token, is_cancelled) = (0, 0, false);
        let work = Work { age, repository, labels, ticket, expires, attempts, token, is_cancelled, standing };
        self.rows.insert(job, work);
        Ok(())
    }

    pub(super) fn lease(&mut self, labels: &[Label], ttl: Duration, clock: &dyn Clock) -> Option<Leased> {
        self.lapse(clock);
        let ready = |work: &Work| match work.standing {
            Standing::Waiting(from) if from.has_passed(clock) => Some((from.elapsed(), work.age)),
            _ => None,
        };
        loop {
            let fits = |work: &Work| work.labels.iter().all(|label| labels.contains(label));
            let waiting = self.rows.iter_mut().filter(|(_, work)| ready(work).is_some() && fits(work));
            let (job, work) = waiting.min_by_key(|(_, work)| ready(work))?;
            if work.attempts >= MOST_ATTEMPTS {
                work.standing = Standing::Ended(End::GaveUp);
                continue;
            }
            work.attempts += 1;
            work.token += 1;
            work.standing = Standing::Leased(Deadline::after(clock, ttl));
            return Some(Leased {
                fence: Fence { job: job.clone(), token: work.token },
                repository: work.repository.clone(),
                ticket: work.ticket.clone(),
                attempt: work.attempts,
            });
        }
    }

    pub(super) fn extend(&mut self, fence: &Fence, ttl: Duration, clock: &dyn Clock) -> Result<Extended> {
        let work = self.held(fence, clock)?;
        work.standing = Standing::Leased(Deadline::after(clock, ttl));
        Ok(Extended { ttl, cancelled: work.is_cancelled })
    }

    pub(super) fn release(
        &mut self,
        fence: &Fence,
        why: Released,
        pause: Duration,
        clock: &dyn Clock,
    ) -> Result<()> {
        let work = self.held(fence, clock)?;
        if why != Released::InfrastructureFailed {
            work.attempts -= 1;
        }
        work.wait_again(Deadline::after(clock, pause));
        Ok(())
    }

    pub(super) fn finish(&mut self, fence: &Fence, end: &End, clock: &dyn Clock) -> Result<()> {
        self.held(fence, clock)?.standing = Standing::Ended(end.clone());
        Ok(())
    }

    pub(super) fn cancel(&mut self, job: &JobId, clock: &dyn Clock) -> Result<()> {
        self.lapse(clock);
        let missing = || Error::new(ErrorKind::NotFound, "cancel a job").with("job", job);
        let work = self.rows.get_mut(job).ok_or_else(missing)?;
        work.is_cancelled = true;
        if matches!(work.standing, Standing::Waiting(_)) {
            work.standing = Standing::Ended(End::Cancelled);
        }
        Ok(())
    }

    pub(super) fn row(&mut self, job: &JobId, clock: &dyn Clock) -> Option<Row> {
        self.lapse(clock);
        let work = self.rows.get(job)?;
        let stage = match &work.standing {
            Standing::Waiting(_) => Stage::Waiting,
            Standing::Leased(_) => Stage::Running,
            Standing::Ended(end) => Stage::Ended(end.clone()),
        };
        Some(Row::new(work.repository.clone(), stage))
    }

    /// Refuses a lease that is not the latest one of its job, or has run out.
    pub(super) fn check(&mut self, fence: &Fence, clock: &dyn Clock) -> Result<()> {
        self.held(fence, clock).map(|_| ())
    }

    pub(super) fn tickets(&self) -> impl Iterator<Item = &[u8]> {
        self.rows.values().map(|work| work.ticket.as_bytes())
    }

    fn held(&mut self, fence: &Fence, clock: &dyn Clock) -> Result<&mut Work> {
        self.lapse(clock);
        let held = self.rows.get_mut(&fence.job);
        held.filter(|work| work.token == fence.token && matches!(work.standing, Standing::Leased(_)))
            .ok_or_else(|| Error::new(ErrorKind::Fenced, "use a lease").with("job", &fence.job))
    }

    pub(super) fn jobs(&self, repository: &RepositoryId, before: Option<&JobId>, limit: usize) -> Vec<JobId> {
        let before = before.and_then(|job| self.rows.get(job)).filter(|work| work.repository == *repository);
        let end = before.map_or(u64::MAX, |work| work.age);
        let ours = self.rows.iter().filter(|(_, work)| work.repository == *repository && work.age < end);
        let mut ours: Vec<_> = ours.map(|(job, work)| (work.age, job.clone())).collect();
        ours.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
        ours.into_iter().take(limit).map(|(_, job)| job).collect()
    }

    /// Lets the rows wait again whose lease has run out, and ends those that have waited too long.
    fn lapse(&mut self, clock: &dyn Clock) {
        for work in self.rows.values_mut() {
            if let Standing::Leased(until) = work.standing
                && until.has_passed(clock)
            {
                work.wait_again(until);
            }
            if matches!(work.standing, Standing::Waiting(_)) && work.expires.has_passed(clock) {
                work.standing = Standing::Ended(End::Expired);
            }
        }
    }
}

impl Work {
    /// Waits, unless somebody asked for the job to stop: nobody is left then who could be told.
    fn wait_again(&mut self, from: Deadline) {
        self.standing =
            if self.is_cancelled { Standing::Ended(End::Cancelled) } else { Standing::Waiting(from) };
    }
}
