//! The queue as rows.
//!
//! A row is `waiting`, `running` until a point in time, or `finished`. A running row whose time has come waits
//! again without anybody having written so; [`STANDING`] says how a row stands at a given time.

use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::clock::Timestamp;
use ci_core::id::{ForgeId, JobId, Label, NativeId, RepositoryId, TenantId};
use ci_core::outcome::Outcome;
use ci_core::queue::{Extended, Leased, MOST_ATTEMPTS, NewRow, Released, Row, State, Ticket};
use ci_core::records::{Batch, Fence};
use rusqlite::{Connection, OptionalExtension as _};

use super::error::Fault;
use super::records;

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
    // Labels that are none fit every worker, so that the row is found and refused.
    let mut find = connection.prepare_cached(
        "SELECT id FROM jobs
         WHERE state <> 'finished' AND (state = 'waiting' OR until <= ?1) AND NOT EXISTS (
             SELECT 1 FROM json_each(CASE WHEN json_valid(jobs.labels) THEN jobs.labels ELSE '[]' END) AS needed
             WHERE needed.value NOT IN (SELECT value FROM json_each(?2)))
         ORDER BY id LIMIT 1",
    )?;
    let offered = to_json(labels);
    loop {
        let Some(id) = find.query_row((now, &offered), |row| row.get(0)).optional()? else { return Ok(None) };
        match hand_out(connection, id, to_millis(now, ttl)) {
            Ok(Some(leased)) => return Ok(Some(leased)),
            Ok(None) => {}
            Err(fault) => {
                let error = fault.told("lease a job");
                if error.kind() != ErrorKind::Tampered {
                    return Err(Fault::Told(Box::new(error)));
                }
                // It must not hold up the jobs behind it.
                tracing::error!(row = id, error = %error.for_operator(), "job refused");
                set_finished(connection, id, &Outcome::refused(&error))?;
            }
        }
    }
}

/// Leases the row, or finishes it where that is what is left to do.
fn hand_out(connection: &Connection, id: i64, until: i64) -> Result<Option<Leased>, Fault> {
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
        set_finished(connection, id, &Outcome::cancelled())?;
        return Ok(None);
    }
    if attempts >= MOST_ATTEMPTS {
        tracing::warn!(job, attempts, "every worker that took the job was lost");
        set_finished(connection, id, &Outcome::gave_up())?;
        return Ok(None);
    }
    let mut update = connection.prepare_cached(
        "UPDATE jobs SET state = 'running', attempts = attempts + 1, token = token + 1, until = ?2 WHERE id = ?1
         RETURNING job, token, tenant, forge, native, ticket, attempts",
    )?;
    let mut rows = update.query((id, until))?;
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
    let mut update =
        connection.prepare_cached("UPDATE jobs SET until = ?2 WHERE job = ?1 RETURNING cancelled")?;
    let cancelled = update.query_row((fence.job.as_str(), to_millis(now, ttl)), |row| row.get(0))?;
    Ok(Extended { ttl, cancelled })
}

pub(super) fn release(connection: &Connection, fence: &Fence, why: Released, now: i64) -> Result<(), Fault> {
    let held = check_held(connection, fence, now)?;
    if held.cancelled {
        return set_finished(connection, held.id, &Outcome::cancelled());
    }
    let mut update = connection
        .prepare_cached("UPDATE jobs SET state = 'waiting', attempts = attempts - ?2 WHERE id = ?1")?;
    update.execute((held.id, why != Released::InfrastructureFailed))?;
    Ok(())
}

pub(super) fn finish(
    connection: &Connection,
    fence: &Fence,
    outcome: &Outcome,
    with: &Batch,
    now: i64,
) -> Result<(), Fault> {
    let held = check_held(connection, fence, now)?;
    records::check(connection, with, now)?;
    set_finished(connection, held.id, outcome)?;
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
        "waiting" => set_finished(connection, id, &Outcome::cancelled()),
        "running" => {
            connection.prepare_cached("UPDATE jobs SET cancelled = 1 WHERE id = ?1")?.execute([id])?;
            Ok(())
        }
        _ => Ok(()),
    }
}

pub(super) fn row(connection: &Connection, job: &JobId, now: i64) -> Result<Option<Row>, Fault> {
    let find =
        format!("SELECT tenant, forge, native, {STANDING}, cancelled, outcome FROM jobs WHERE job = :job");
    let mut find = connection.prepare_cached(&find)?;
    let mut rows = find.query(&[(":job", &job.as_str() as &dyn rusqlite::ToSql), (":now", &now)])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let repository =
        to_repository(row.get_ref(0)?.as_str(), row.get_ref(1)?.as_str(), row.get_ref(2)?.as_str())?;
    let state = match (row.get::<_, String>(3)?.as_str(), row.get::<_, bool>(4)?) {
        ("waiting", true) => State::Finished(Outcome::cancelled()),
        ("waiting", false) => State::Waiting,
        ("running", _) => State::Running,
        _ => State::Finished(to_outcome(row.get(5)?)?),
    };
    Ok(Some(Row::new(repository, state)))
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

fn set_finished(connection: &Connection, id: i64, outcome: &Outcome) -> Result<(), Fault> {
    let mut update =
        connection.prepare_cached("UPDATE jobs SET state = 'finished', outcome = ?2 WHERE id = ?1")?;
    update.execute((id, to_json(outcome)))?;
    Ok(())
}

fn to_millis(now: i64, ttl: Duration) -> i64 {
    now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
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

fn to_outcome(stored: Option<String>) -> Result<Outcome, Fault> {
    let outcome = stored.and_then(|json| serde_json::from_str(&json).ok());
    outcome.ok_or(Fault::Forged("a finished row without an outcome"))
}

fn to_json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("labels and outcomes have no maps with other keys than text")
}
