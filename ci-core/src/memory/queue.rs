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
    /// How often it was handed out, but for what counts as no attempt.
    attempts: u32,
    /// The token of its latest lease.
    token: u64,
    is_cancelled: bool,
    standing: Standing,
}

#[derive(Debug)]
enum Standing {
    Waiting,
    Leased(Deadline),
    Ended(End),
}

impl Rows {
    pub(super) fn push(&mut self, row: NewRow) -> Result<()> {
        let NewRow { job, repository, labels, ticket } = row;
        if self.rows.contains_key(&job) {
            return Err(Error::new(ErrorKind::Conflict, "add a job to the queue").with("job", &job));
        }
        self.pushed += 1;
        let standing = Standing::Waiting;
        let work = Work {
            age: self.pushed,
            repository,
            labels,
            ticket,
            attempts: 0,
            token: 0,
            is_cancelled: false,
            standing,
        };
        self.rows.insert(job, work);
        Ok(())
    }

    pub(super) fn lease(&mut self, labels: &[Label], ttl: Duration, clock: &dyn Clock) -> Option<Leased> {
        self.lapse(clock);
        loop {
            let fits = |work: &Work| {
                matches!(work.standing, Standing::Waiting)
                    && work.labels.iter().all(|label| labels.contains(label))
            };
            let waiting = self.rows.iter_mut().filter(|(_, work)| fits(work));
            let (job, work) = waiting.min_by_key(|(_, work)| work.age)?;
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

    pub(super) fn release(&mut self, fence: &Fence, why: Released, clock: &dyn Clock) -> Result<()> {
        let work = self.held(fence, clock)?;
        if why != Released::InfrastructureFailed {
            work.attempts -= 1;
        }
        work.wait_again();
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
        if matches!(work.standing, Standing::Waiting) {
            work.wait_again();
        }
        Ok(())
    }

    pub(super) fn row(&mut self, job: &JobId, clock: &dyn Clock) -> Option<Row> {
        self.lapse(clock);
        let work = self.rows.get(job)?;
        let stage = match &work.standing {
            Standing::Waiting => Stage::Waiting,
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

    /// Lets the rows wait again whose lease has run out.
    fn lapse(&mut self, clock: &dyn Clock) {
        let is_over =
            |work: &&mut Work| matches!(work.standing, Standing::Leased(until) if until.has_passed(clock));
        self.rows.values_mut().filter(is_over).for_each(Work::wait_again);
    }
}

impl Work {
    /// Waits, unless somebody asked for the job to stop: nobody is left then who could be told.
    fn wait_again(&mut self) {
        self.standing = if self.is_cancelled { Standing::Ended(End::Cancelled) } else { Standing::Waiting };
    }
}
