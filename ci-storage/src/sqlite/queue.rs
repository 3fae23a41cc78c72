//! The queue as rows.
//!
//! A row is `waiting`, `running` or `finished`. One that is not finished can be handed out from `until` on, for which it
//! was given `ttl`: a lease, a pause, or nothing. So a running row whose time has come waits again without anybody having
//! written so; [`STANDING`] says how a row stands at a given time.

use std::collections::BTreeSet;
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::clock::Timestamp;
use ci_core::id::{ForgeId, JobId, Label, NativeId, RepositoryId, TenantId};
use ci_core::queue::{
    End, Extended, Leased, MOST_ATTEMPTS, MOST_LABELS, MOST_OFFERED, NewRow, Released, Row, SealedOutcome,
    Stage, Ticket,
};
use ci_core::records::{Batch, Fence};
use rusqlite::{Connection, OptionalExtension as _};

use super::error::Fault;
use super::records;

/// The row that has waited longest for a worker that demands exactly these labels, and since when.
const FIRST: &str =
    "SELECT until, id FROM jobs WHERE state <> 'finished' AND labels = ?1 ORDER BY until, id LIMIT 1";

/// How rows that have ended say so.
const RECORDED: &str = "recorded";
const CANCELLED: &str = "cancelled";
const EXPIRED: &str = "expired";
const GAVE_UP: &str = "gave up";
const REFUSED: &str = "refused";

/// How a row stands at the time `:now`.
const STANDING: &str = "
    CASE WHEN state = 'finished' OR (state = 'running' AND until > :now) THEN state
         WHEN expires <= :now THEN 'expired'
         ELSE 'waiting' END";

pub(super) fn push(connection: &Connection, row: &NewRow, now: i64) -> Result<(), Fault> {
    let NewRow { job, repository, labels, ticket, longest_wait } = row;
    let mut insert = connection.prepare_cached(
        "INSERT INTO jobs (job, tenant, forge, native, labels, ticket, until, expires)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (job) DO NOTHING",
    )?;
    let (tenant, forge, native) = parts(repository);
    let (labels, expires) = (to_json(labels.iter()), after(now, *longest_wait));
    let row = (job.as_str(), tenant, forge, native, labels, ticket.as_bytes(), now, expires);
    if insert.execute(row)? == 0 { Err(Fault::Exists(job.clone())) } else { Ok(()) }
}

pub(super) fn lease(
    connection: &Connection,
    labels: &[Label],
    ttl: Duration,
    now: i64,
) -> Result<Option<Leased>, Fault> {
    shorten(connection, now)?;
    let demands = demands(labels);
    loop {
        let Some(id) = longest_waiting(connection, &demands, now)? else { return Ok(None) };
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

/// Every set of labels that a worker with `labels` satisfies, as rows hold it. There are at most 6,885, and for the six
/// labels of a usual worker 63: looking for each costs the same whatever waits.
fn demands(labels: &[Label]) -> Vec<String> {
    let offered: Vec<&Label> =
        labels.iter().collect::<BTreeSet<_>>().into_iter().take(MOST_OFFERED).collect();
    let mut sets: Vec<Vec<&Label>> = vec![Vec::new()];
    for label in offered {
        let larger = sets.iter().filter(|set| set.len() < MOST_LABELS);
        let larger: Vec<_> = larger.map(|set| set.iter().copied().chain([label]).collect()).collect();
        sets.extend(larger);
    }
    sets.into_iter().map(to_json).collect()
}

fn longest_waiting(connection: &Connection, demands: &[String], now: i64) -> Result<Option<i64>, Fault> {
    let mut find = connection.prepare_cached(FIRST)?;
    let mut longest = None;
    for labels in demands {
        let first = find.query_row([labels], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)));
        if let Some(first) = first.optional()?.filter(|(until, _)| *until <= now) {
            longest = Some(longest.map_or(first, |longest: (i64, i64)| longest.min(first)));
        }
    }
    Ok(longest.map(|(_, id)| id))
}

/// Shortens what a calendar that was set back has made longer. Whoever holds such a lease counts for itself, and gives
/// up no later than it would have.
fn shorten(connection: &Connection, now: i64) -> Result<(), Fault> {
    let mut update = connection
        .prepare_cached("UPDATE jobs SET until = ?1 + ttl WHERE state <> 'finished' AND until - ttl > ?1")?;
    update.execute([now])?;
    Ok(())
}

/// Leases the row, or finishes it where that is what is left to do.
fn hand_out(connection: &Connection, id: i64, ttl: Duration, now: i64) -> Result<Option<Leased>, Fault> {
    let mut look = connection
        .prepare_cached("SELECT job, attempts, cancelled, expires, token FROM jobs WHERE id = ?1")?;
    let (job, attempts, cancelled, expires, token) = look.query_row([id], |row| {
        let (job, attempts) = (row.get::<_, String>(0)?, row.get::<_, u32>(1)?);
        Ok((job, attempts, row.get::<_, bool>(2)?, row.get::<_, i64>(3)?, row.get::<_, i64>(4)?))
    })?;
    if token == i64::MAX {
        return Err(Fault::Forged("a row that was leased more often than there is time"));
    }
    // Whoever was told to stop it is gone.
    if cancelled {
        set_ended(connection, id, &End::Cancelled)?;
        return Ok(None);
    }
    if expires <= now {
        set_ended(connection, id, &End::Expired)?;
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
    let mut rows = update.query((id, after(now, ttl), to_millis(ttl)))?;
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
    let cancelled =
        update.query_row((fence.job.as_str(), after(now, ttl), to_millis(ttl)), |row| row.get(0))?;
    Ok(Extended { ttl, cancelled })
}

pub(super) fn release(
    connection: &Connection,
    fence: &Fence,
    why: Released,
    pause: Duration,
    now: i64,
) -> Result<(), Fault> {
    let held = check_held(connection, fence, now)?;
    if held.cancelled {
        return set_ended(connection, held.id, &End::Cancelled);
    }
    let mut update = connection.prepare_cached(
        "UPDATE jobs SET state = 'waiting', attempts = attempts - ?2, until = ?3, ttl = ?4 WHERE id = ?1",
    )?;
    let is_free = why != Released::InfrastructureFailed;
    update.execute((held.id, is_free, after(now, pause), to_millis(pause)))?;
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
        ("waiting" | "expired", true) => Stage::Ended(End::Cancelled),
        ("waiting", false) => Stage::Waiting,
        ("expired", _) => Stage::Ended(End::Expired),
        ("running", _) => Stage::Running,
        _ => Stage::Ended(to_end(&row.get::<_, String>(5)?, row.get(6)?)?),
    };
    Ok(Some(Row::new(repository, stage)))
}

pub(super) fn jobs(
    connection: &Connection,
    repository: &RepositoryId,
    before: Option<&JobId>,
    limit: usize,
) -> Result<Vec<JobId>, Fault> {
    let mut find = connection.prepare_cached(
        "SELECT job FROM jobs WHERE tenant = ?1 AND forge = ?2 AND native = ?3
             AND id < ifnull((SELECT id FROM jobs WHERE job = ?4 AND tenant = ?1 AND forge = ?2 AND native = ?3),
                             9223372036854775807)
         ORDER BY id DESC LIMIT ?5",
    )?;
    let (tenant, forge, native) = parts(repository);
    let (before, limit) = (before.map(JobId::as_str), i64::try_from(limit).unwrap_or(i64::MAX));
    let mut rows = find.query((tenant, forge, native, before, limit))?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        jobs.push(to_job(&row.get::<_, String>(0)?)?);
    }
    Ok(jobs)
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
        End::Expired => (EXPIRED, None),
        End::GaveUp => (GAVE_UP, None),
        End::Refused => (REFUSED, None),
    };
    let mut update = connection
        .prepare_cached("UPDATE jobs SET state = 'finished', ending = ?2, outcome = ?3 WHERE id = ?1")?;
    update.execute((id, ending, outcome))?;
    Ok(())
}

/// A duration as rows hold it. It is added to the time, and must not overflow.
fn to_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

fn after(now: i64, duration: Duration) -> i64 {
    now.saturating_add(to_millis(duration))
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
        (EXPIRED, None) => Ok(End::Expired),
        (GAVE_UP, None) => Ok(End::GaveUp),
        (REFUSED, None) => Ok(End::Refused),
        _ => Err(Fault::Forged("a row that has ended in no way that there is")),
    }
}

/// Labels as rows hold them: the same set is the same text.
fn to_json<'a>(labels: impl IntoIterator<Item = &'a Label>) -> String {
    let labels: BTreeSet<&str> = labels.into_iter().map(Label::as_str).collect();
    serde_json::to_string(&labels).expect("a list of texts")
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;
    use crate::sqlite::schema;

    /// What one question for work costs, in steps of SQLite's machine.
    fn cost(labels: &str, count: u64) -> i32 {
        let folder = tempfile::tempdir().expect("a folder");
        let connection = schema::open_writer(&folder.path().join("ci.db")).expect("a database");
        let insert = format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO jobs (job, tenant, forge, native, labels, ticket, until, ttl, expires)
             SELECT i, 'acme', 'memory', '1', {labels}, x'00', 10, 10, 100 FROM n"
        );
        connection.execute(&insert, []).expect("inserted");
        let linux = [Label::parse("linux").expect("a label")];
        assert!(lease(&connection, &linux, Duration::from_secs(1), 5).expect("asked").is_none());
        connection.prepare_cached(FIRST).expect("a statement").reset_status(StatementStatus::VmStep)
    }

    #[test]
    fn what_others_wait_for_does_not_slow_a_question_down() {
        // Labels that nobody offers, the same and different ones; and jobs that pause.
        for labels in ["'[\"no-such\"]'", "printf('[\"matrix-%d\"]', i)", "'[\"linux\"]'"] {
            let (few, many) = (cost(labels, 10), cost(labels, 10_000));
            assert!(few > 0 && many < 2 * few, "{labels}: {few} and {many}");
        }
    }

    #[test]
    fn a_worker_is_shown_what_it_can_do() {
        let labels = ["b", "a", "b"].map(|name| Label::parse(name).expect("a label"));
        assert_eq!(demands(&labels), ["[]", r#"["a"]"#, r#"["b"]"#, r#"["a","b"]"#]);
        let many: Vec<_> = (0..30).map(|n| Label::parse(format!("l{n:02}")).expect("a label")).collect();
        assert_eq!(demands(&many).len(), 6_885);
    }
}
