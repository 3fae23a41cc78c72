//! Records as rows.

use bytes::Bytes;
use ci_core::records::{Batch, Condition, Key, Record, Version};
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::error::Fault;
use super::{queue, schema};

pub(super) fn get(connection: &Connection, key: &Key) -> Result<Option<Record>, Fault> {
    let mut find = connection.prepare_cached("SELECT key, version, value FROM records WHERE key = ?1")?;
    find.query_row([key.as_str()], |row| Ok(to_record(row))).optional()?.transpose()
}

pub(super) fn list(
    connection: &Connection,
    prefix: &Key,
    after: Option<&Key>,
    limit: usize,
) -> Result<Vec<Record>, Fault> {
    let (first, end) = below(prefix);
    let after = after.map_or(first.as_str(), |after| after.as_str().max(&first));
    let mut find = connection.prepare_cached(
        "SELECT key, version, value FROM records WHERE key > ?1 AND key < ?2 ORDER BY key LIMIT ?3",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = find.query((after, &end, limit))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(to_record(row)?);
    }
    Ok(found)
}

/// Does what `batch` says, if all of its conditions hold at `now`.
pub(super) fn commit(connection: &Connection, batch: &Batch, now: i64) -> Result<Version, Fault> {
    check(connection, batch, now)?;
    write(connection, batch)
}

/// Whether all conditions of `batch` hold at `now`. Fences come first: who lost its lease must not be told that
/// somebody else was faster, and try again.
pub(super) fn check(connection: &Connection, batch: &Batch, now: i64) -> Result<(), Fault> {
    for condition in &batch.conditions {
        if let Condition::Held(fence) = condition {
            queue::check_held(connection, fence, now)?;
        }
    }
    for condition in &batch.conditions {
        let (key, holds) = match condition {
            Condition::Absent(key) => (key, version(connection, key)?.is_none()),
            Condition::Is(key, expected) => (key, version(connection, key)? == Some(*expected)),
            Condition::Held(_) => continue,
        };
        if !holds {
            return Err(Fault::Unmet(key.clone()));
        }
    }
    Ok(())
}

/// Deletes, and then puts: what a batch does both to is there afterwards.
pub(super) fn write(connection: &Connection, batch: &Batch) -> Result<Version, Fault> {
    let mut next = connection.prepare_cached("UPDATE commits SET version = version + 1 RETURNING version")?;
    let version: i64 = next.query_row([], |row| row.get(0))?;
    let mut delete = connection.prepare_cached("DELETE FROM records WHERE key = ?1")?;
    for key in &batch.deletes {
        delete.execute([key.as_str()])?;
    }
    let mut put = connection.prepare_cached(
        "INSERT INTO records (key, version, value) VALUES (?1, ?2, ?3)
         ON CONFLICT (key) DO UPDATE SET version = excluded.version, value = excluded.value",
    )?;
    for (key, value) in &batch.puts {
        put.execute((key.as_str(), version, &value[..]))?;
    }
    to_version(version)
}

/// Deletes everything below `prefix`, and every copy of it that lies in pages of the table.
pub(super) fn purge(connection: &Connection, prefix: &Key) -> Result<usize, Fault> {
    let (first, end) = below(prefix);
    let deleted = connection.execute("DELETE FROM records WHERE key > ?1 AND key < ?2", (first, end))?;
    rewrite(connection)?;
    Ok(deleted)
}

/// Moves all records to fresh pages, so that nothing of earlier ones stays in the table.
pub(super) fn rewrite(connection: &Connection) -> Result<(), Fault> {
    Ok(connection.execute_batch(schema::REWRITE_RECORDS)?)
}

/// Copies what was committed into the database file, and empties the write-ahead log, old copies included.
pub(super) fn empty_journal(connection: &Connection) -> Result<(), Fault> {
    let is_busy = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))?;
    if is_busy { Err(Fault::Busy) } else { Ok(()) }
}

fn version(connection: &Connection, key: &Key) -> Result<Option<Version>, Fault> {
    let mut find = connection.prepare_cached("SELECT version FROM records WHERE key = ?1")?;
    find.query_row([key.as_str()], |row| row.get(0)).optional()?.map(to_version).transpose()
}

/// The text that all keys below `prefix` come after, and the one that they come before.
fn below(prefix: &Key) -> (String, String) {
    // `0` is the character after `/`, which ends every part.
    (format!("{prefix}/"), format!("{prefix}0"))
}

fn to_record(row: &Row<'_>) -> Result<Record, Fault> {
    let key = Key::from_stored(row.get(0)?).map_err(|_| Fault::Forged("a record whose key is none"))?;
    let version = to_version(row.get(1)?)?;
    let value = Bytes::from(row.get::<_, Vec<u8>>(2)?);
    Ok(Record { key, value, version })
}

fn to_version(stored: i64) -> Result<Version, Fault> {
    u64::try_from(stored).map(Version).map_err(|_| Fault::Forged("a version below zero"))
}
