//! Finds objects that were written in vain.

use std::path::Path;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use ci_core::clock::Timestamp;
use ci_core::records::{Batch, Key};
use ci_core::{Error, ErrorKind, Result};
use futures_util::stream::StreamExt as _;

use super::sealed::{self, ObjectName};
use super::{Objects, error};

/// No upload is given up for lost sooner.
const SHORTEST_GRACE: Duration = Duration::from_hours(1);

pub(super) async fn sweep(objects: &Objects, grace: Duration) -> Result<usize> {
    const OPERATION: &str = "sweep objects";
    if grace < SHORTEST_GRACE {
        return Err(Error::new(ErrorKind::Invalid, OPERATION)
            .because("an object that is being written could be deleted; wait for an hour at least"));
    }
    let (now, mut swept) = (objects.clock.now(), 0);
    if let Some(folder) = objects.folder.clone() {
        let done = tokio::task::spawn_blocking(move || sweep_unfinished(&folder, now, grace)).await;
        let done = done.map_err(|error| Error::new(ErrorKind::Internal, OPERATION).caused_by(error))?;
        swept += done.map_err(|error| Error::new(ErrorKind::Unavailable, OPERATION).caused_by(error))?;
    }
    let mut listed = objects.store.list(None);
    while let Some(object) = listed.next().await {
        let object = object.map_err(|fault| error::told(fault, OPERATION))?;
        // Whatever else lies in the folder or bucket is not ours to delete.
        let Some(name) = ObjectName::from_path(&object.location) else { continue };
        let written_at = u64::try_from(object.last_modified.timestamp_millis()).unwrap_or_default();
        let age = Timestamp::from_unix_millis(written_at).until(now).unwrap_or_default();
        if age > grace && !is_in_use(objects, &name).await? {
            objects.records.commit(Batch::new().delete(name.mark())).await?;
            objects.discard(&name).await;
            swept += 1;
        }
    }
    Ok(swept)
}

/// Deletes what a process that was killed had begun to write to a local folder. `object_store` writes an object
/// under its name, `#` and a number first, and lists no such file.
fn sweep_unfinished(folder: &Path, now: Timestamp, grace: Duration) -> io::Result<usize> {
    let mut swept = 0;
    let shelves = match fs::read_dir(folder.join(ObjectName::FOLDER)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        shelves => shelves?,
    };
    for shelf in shelves {
        let shelf = shelf?;
        for file in fs::read_dir(shelf.path())? {
            let file = file?;
            let (start, rest) = (shelf.file_name(), file.file_name());
            let begun = rest.to_str().and_then(|rest| rest.split_once('#'));
            let Some((rest, _)) = begun else { continue };
            let is_ours = start.to_str().is_some_and(|start| ObjectName::from_parts(start, rest).is_some());
            let written_at =
                file.metadata()?.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let age = Timestamp::from_unix_millis(0).after(written_at).until(now).unwrap_or_default();
            if is_ours && age > grace {
                fs::remove_file(file.path())?;
                swept += 1;
            }
        }
    }
    Ok(swept)
}

/// Whether the record that names the object is still there: an erasure may have taken it away without knowing
/// of objects.
async fn is_in_use(objects: &Objects, name: &ObjectName) -> Result<bool> {
    let Some(mark) = objects.records.get(&name.mark()).await? else { return Ok(false) };
    let place = String::from_utf8(mark.value.to_vec()).map_err(|_| sealed::tampered())?;
    Ok(objects.records.get(&Key::from_stored(place)?).await?.is_some())
}
