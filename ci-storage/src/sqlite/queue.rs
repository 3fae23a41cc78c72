//! The queue as rows.
//!
//! A row is `waiting`, `running` until a point in time, or `finished`. A running row whose time has come waits
//! again without anybody having written so; [`STANDING`] says how a row stands at a given time.

use std::collections::BTreeSet;
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::clock::Timestamp;
use ci_core::id::{ForgeId, JobId, Label, NativeId, RepositoryId, TenantId};
use ci_core::queue::{
    End, Extended, Leased, MOST_ATTEMPTS, NewRow, Released, Row, SealedOutcome, Stage, Ticket,
};
use ci_core::records::{Batch, Fence};
use rusqlite::{Connection, OptionalExtension as _};

use super::error::Fault;
use super::records;

/// The oldest row that waits at the time `?1` for a worker that offers `?2`.
///
/// It looks once per set of labels that is waited with, however many jobs wait. Labels that are none fit every worker,
/// so that their row is found and refused.
const OLDEST: &str = "WITH RECURSIVE needs (labels) AS (
         SELECT min(labels) FROM jobs WHERE state <> 'finished'
         UNION ALL
         SELECT (SELECT min(labels) FROM jobs WHERE state <> 'finished' AND labels > needs.labels)
         FROM needs WHERE needs.labels IS NOT NULL
     )
     SELECT min(oldest) FROM (
         SELECT (SELECT min(id) FROM jobs
                 WHERE state <> 'finished' AND labels = needs.labels AND (state = 'waiting' OR until <= ?1)) AS oldest
         FROM needs
         WHERE needs.labels IS NOT NULL AND NOT EXISTS (
             SELECT 1 FROM json_each(CASE WHEN json_valid(needs.labels) THEN needs.labels ELSE '[]' END) AS needed
             WHERE needed.value NOT IN (SELECT value FROM json_each(?2))))";

/// How rows that have ended say so.
const RECORDED: &str = "recorded";
const CANCELLED: &str = "cancelled";
const GAVE_UP: &str = "gave up";
const REFUSED: &str = "refused";

/// How a row stands at the time `:now`.
const STANDING: &str = "CASE WHEN state = 'running' AND until <= :now THEN 'waiting' ELSE state END";

pub(super) fn push(connection: &Connection, row: &NewRow) -> Result<(), Fault> {
    let NewRow { job, repository, labels, ticket } = row;
    let mut insert = connection.prepare_cached(
        "INSERT INTO jobs (job, tenant, forge, native, labels, ticket) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (job) DO NOTHING",
    )?;
    let (tenant, forge, native) = parts(repository);
    let inserted =
        insert.execute((job.as_str(), tenant, forge, native, to_json(labels), ticket.as_bytes()))?;
    if inserted == 0 { Err(Fault::Exists(job.clone())) } else { Ok(()) }
}

pub(super) fn lease(
    connection: &Connection,
    labels: &[Label],
    ttl: Duration,
    now: i64,
) -> Result<Option<Leased>, Fault> {
    shorten(connection, now)?;
    let mut find = connection.prepare_cached(OLDEST)?;
    let offered = to_json(labels);
    loop {
        let oldest = find.query_row((now, &offered), |row| row.get::<_, Option<i64>>(0))?;
        let Some(id) = oldest else { return Ok(None) };
        match hand_out(connection, id, ttl, now) {
            Ok(Some(leased)) => return Ok(Some(leased)),
            Ok(None) => {}
            Err(fault) => {
                let error = fault.told("lease a job");
                if error.kind() != ErrorKind::Tampered {
                    return Err(Fault::Told(Box::new(error)));
                }
                // It must not hold up the jobs behind it.
                tracing::error!(row = id, error = %error.for_operator(), "job refused");
                set_ended(connection, id, &End::Refused)?;
            }
        }
    }
}

/// Shortens what a calendar that was set back has made longer. Whoever holds such a lease counts for itself, and gives
/// up no later than it would have.
fn shorten(connection: &Connection, now: i64) -> Result<(), Fault> {
    let mut update = connection
        .prepare_cached("UPDATE jobs SET until = ?1 + ttl WHERE state = 'running' AND until > ?1 + ttl")?;
    update.execute([now])?;
    Ok(())
}

/// Leases the row, or finishes it where that is what is left to do.
fn hand_out(connection: &Connection, id: i64, ttl: Duration, now: i64) -> Result<Option<Leased>, Fault> {
    let mut look = connection
        .prepare_cached("SELECT job, attempts, cancelled, json_valid(labels) FROM jobs WHERE id = ?1")?;
    let (job, attempts, cancelled, is_valid) = look.query_row([id], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, u32>(1)?, row.get::<_, bool>(2)?, row.get::<_, bool>(3)?))
    })?;
    if !is_valid {
        return Err(Fault::Forged("labels that are none"));
    }
    // Whoever was told to stop it is gone.
    if cancelled {
        set_ended(connection, id, &End::Cancelled)?;
        return Ok(None);
    }
    if attempts >= MOST_ATTEMPTS {
        tracing::warn!(job, attempts, "every worker that took the job was lost");
        set_ended(connection, id, &End::GaveUp)?;
        return Ok(None);
    }
    let mut update = connection.prepare_cached(
        "UPDATE jobs SET state = 'running', attempts = attempts + 1, token = token + 1, until = ?2, ttl = ?3
         WHERE id = ?1
         RETURNING job, token, tenant, forge, native, ticket, attempts",
    )?;
    let mut rows = update.query((id, now.saturating_add(to_millis(ttl)), to_millis(ttl)))?;
    let row = rows.next()?.ok_or(Fault::Forged("a row that is gone while it is leased"))?;
    let leased = Leased {
        fence: Fence { job: to_job(&row.get::<_, String>(0)?)?, token: to_unsigned(row.get(1)?)? },
        repository: to_repository(
            row.get_ref(2)?.as_str(),
            row.get_ref(3)?.as_str(),
            row.get_ref(4)?.as_str(),
        )?,
        ticket: Ticket::from_stored(row.get::<_, Vec<u8>>(5)?),
        attempt: row.get(6)?,
    };
    // An update with `RETURNING` is done when its last row has been asked for.
    while rows.next()?.is_some() {}
    Ok(Some(leased))
}

pub(super) fn extend(
    connection: &Connection,
    fence: &Fence,
    ttl: Duration,
    now: i64,
) -> Result<Extended, Fault> {
    check_held(connection, fence, now)?;
    let mut update = connection
        .prepare_cached("UPDATE jobs SET until = ?2, ttl = ?3 WHERE job = ?1 RETURNING cancelled")?;
    let until = now.saturating_add(to_millis(ttl));
    let cancelled = update.query_row((fence.job.as_str(), until, to_millis(ttl)), |row| row.get(0))?;
    Ok(Extended { ttl, cancelled })
}

pub(super) fn release(connection: &Connection, fence: &Fence, why: Released, now: i64) -> Result<(), Fault> {
    let held = check_held(connection, fence, now)?;
    if held.cancelled {
        return set_ended(connection, held.id, &End::Cancelled);
    }
    let mut update = connection
        .prepare_cached("UPDATE jobs SET state = 'waiting', attempts = attempts - ?2 WHERE id = ?1")?;
    update.execute((held.id, why != Released::InfrastructureFailed))?;
    Ok(())
}

pub(super) fn finish(
    connection: &Connection,
    fence: &Fence,
    end: &End,
    with: &Batch,
    now: i64,
) -> Result<(), Fault> {
    let held = check_held(connection, fence, now)?;
    records::check(connection, with, now)?;
    set_ended(connection, held.id, end)?;
    records::write(connection, with)?;
    Ok(())
}

pub(super) fn cancel(connection: &Connection, job: &JobId, now: i64) -> Result<(), Fault> {
    let find = format!("SELECT id, {STANDING} FROM jobs WHERE job = :job");
    let found = connection
        .prepare_cached(&find)?
        .query_row(&[(":job", &job.as_str() as &dyn rusqlite::ToSql), (":now", &now)], |row| {
            Ok((row.get(0)?, row.get::<_, String>(1)?))
        });
    let (id, standing) = found.optional()?.ok_or_else(|| Fault::Unknown(job.clone()))?;
    match standing.as_str() {
        "waiting" => set_ended(connection, id, &End::Cancelled),
        "running" => {
            connection.prepare_cached("UPDATE jobs SET cancelled = 1 WHERE id = ?1")?.execute([id])?;
            Ok(())
        }
        _ => Ok(()),
    }
}

pub(super) fn row(connection: &Connection, job: &JobId, now: i64) -> Result<Option<Row>, Fault> {
    let find = format!(
        "SELECT tenant, forge, native, {STANDING}, cancelled, ifnull(ending, ''), outcome FROM jobs WHERE job = :job"
    );
    let mut find = connection.prepare_cached(&find)?;
    let mut rows = find.query(&[(":job", &job.as_str() as &dyn rusqlite::ToSql), (":now", &now)])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let repository =
        to_repository(row.get_ref(0)?.as_str(), row.get_ref(1)?.as_str(), row.get_ref(2)?.as_str())?;
    let stage = match (row.get::<_, String>(3)?.as_str(), row.get::<_, bool>(4)?) {
        ("waiting", true) => Stage::Ended(End::Cancelled),
        ("waiting", false) => Stage::Waiting,
        ("running", _) => Stage::Running,
        _ => Stage::Ended(to_end(&row.get::<_, String>(5)?, row.get(6)?)?),
    };
    Ok(Some(Row::new(repository, stage)))
}

/// A row whose lease holds.
pub(super) struct Held {
    id: i64,
    cancelled: bool,
}

/// Refuses a lease that is not the latest one of its job, or has run out at `now`.
pub(super) fn check_held(connection: &Connection, fence: &Fence, now: i64) -> Result<Held, Fault> {
    let lost = || Fault::Lost(fence.job.clone());
    let token = i64::try_from(fence.token).map_err(|_| lost())?;
    let mut find = connection.prepare_cached(
        "SELECT id, cancelled FROM jobs WHERE job = ?1 AND state = 'running' AND token = ?2 AND until > ?3",
    )?;
    let held = find.query_row((fence.job.as_str(), token, now), |row| {
        Ok(Held { id: row.get(0)?, cancelled: row.get(1)? })
    });
    held.optional()?.ok_or_else(lost)
}

/// The time as rows hold it.
pub(super) fn stored(time: Timestamp) -> i64 {
    i64::try_from(time.unix_millis()).unwrap_or(i64::MAX)
}

fn set_ended(connection: &Connection, id: i64, end: &End) -> Result<(), Fault> {
    let (ending, outcome) = match end {
        End::Recorded(outcome) => (RECORDED, Some(outcome.as_bytes())),
        End::Cancelled => (CANCELLED, None),
        End::GaveUp => (GAVE_UP, None),
        End::Refused => (REFUSED, None),
    };
    let mut update = connection
        .prepare_cached("UPDATE jobs SET state = 'finished', ending = ?2, outcome = ?3 WHERE id = ?1")?;
    update.execute((id, ending, outcome))?;
    Ok(())
}

/// A duration as rows hold it. It is added to the time, and must not overflow.
fn to_millis(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

/// The three texts that a repository's id consists of.
pub(super) fn parts(repository: &RepositoryId) -> (&str, &str, &str) {
    (repository.tenant().as_str(), repository.forge().as_str(), repository.native().as_str())
}

fn to_repository<E>(
    tenant: Result<&str, E>,
    forge: Result<&str, E>,
    native: Result<&str, E>,
) -> Result<RepositoryId, Fault> {
    let parse = || {
        let native = NativeId::parse(native.ok()?).ok()?;
        Some(RepositoryId::new(
            native,
            ForgeId::parse(forge.ok()?).ok()?,
            TenantId::parse(tenant.ok()?).ok()?,
        ))
    };
    parse().ok_or(Fault::Forged("a row whose repository is none"))
}

fn to_job(stored: &str) -> Result<JobId, Fault> {
    JobId::parse(stored).map_err(|_| Fault::Forged("a row whose job is none"))
}

fn to_unsigned(stored: i64) -> Result<u64, Fault> {
    u64::try_from(stored).map_err(|_| Fault::Forged("a number below zero"))
}

fn to_end(ending: &str, outcome: Option<Vec<u8>>) -> Result<End, Fault> {
    match (ending, outcome) {
        (RECORDED, Some(outcome)) => Ok(End::Recorded(SealedOutcome::from_stored(outcome))),
        (CANCELLED, None) => Ok(End::Cancelled),
        (GAVE_UP, None) => Ok(End::GaveUp),
        (REFUSED, None) => Ok(End::Refused),
        _ => Err(Fault::Forged("a row that has ended in no way that there is")),
    }
}

/// Labels as rows hold them: the same set is the same text.
fn to_json(labels: &[Label]) -> String {
    let labels: BTreeSet<&str> = labels.iter().map(Label::as_str).collect();
    serde_json::to_string(&labels).expect("a list of texts")
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::sqlite::schema;

    #[test]
    fn jobs_that_nobody_can_do_hold_nobody_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let connection = schema::open_writer(&folder.path().join("ci.db")).expect("a database");
        let mut steps = Vec::new();
        for count in [10, 10_000] {
            let insert = "
                WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                INSERT INTO jobs (job, tenant, forge, native, labels, ticket)
                SELECT printf('%d of %d', i, ?1), 'acme', 'memory', '1', '[\"no-such-machine\"]', x'00' FROM n";
            connection.execute(insert, [count]).expect("inserted");
            let leased = lease(&connection, &[], Duration::from_secs(1), 0).expect("asked");
            assert!(leased.is_none());
            let find = connection.prepare_cached(OLDEST).expect("the statement");
            steps.push(find.reset_status(StatementStatus::VmStep));
        }
        assert!(steps[0] > 0 && steps[1] < 2 * steps[0], "{steps:?}");
    }
}
