//! Secrets in files: for each program that has any, one folder that is made before it starts and removed after its end.
//!
//! Where the sandbox has a range of ids, the folders are the sandbox's root's, so a program of the job can neither make
//! one in advance nor move one away. An ordinary user's programs can, and harm their own job alone: all paths start at a
//! folder that is held open, a link is never followed, and a folder that is there already is an error.

use core::ffi::CStr;

use crate::failure::{At, Failure};
use crate::folder::Names;
use crate::root::JOB;
use crate::serve::SECRETS;
use crate::sys::{self, CWD, Errno, Fd, O_DIRECTORY, O_NOFOLLOW};
use crate::text::Digits;
use crate::wire::{Reader, Stage};

/// Makes the folder for all of them, before there is a program.
pub(crate) fn make_folder() -> sys::Result<Fd> {
    const PATH: &CStr = c"/run/secrets";
    const WRITABLE_BY_OTHERS: u16 = 0o022;
    let open = || sys::open_folder(CWD, PATH);
    match sys::mkdir(CWD, PATH, 0o755) {
        // The image brings one, which must not be the job's.
        Err(Errno::EEXIST) => {
            let folder = open()?;
            let stat = sys::stat(*folder, c"")?;
            let is_safe = stat.uid == 0 && stat.mode & WRITABLE_BY_OTHERS == 0;
            if is_safe { Ok(folder) } else { Err(Errno::EACCES) }
        }
        made => made.and_then(|()| open()),
    }
}

/// Writes the secrets with which a request begins, for the job's user to read.
pub(crate) fn write(id: u32, request: &mut Reader<'_>, range: bool) -> Result<(), Failure> {
    let malformed = Failure::malformed(Stage::Request);
    let name = Digits::of(id);
    sys::mkdir(SECRETS, name.as_c_str(), 0o755).at(Stage::Secrets)?;
    let folder = sys::open_folder(SECRETS, name.as_c_str()).at(Stage::Secrets)?;
    for _ in 0..request.u32().ok_or(malformed)? {
        let (name, value) = request.text().zip(request.bytes()).ok_or(malformed)?;
        let file = sys::create(*folder, name, 0o400).at(Stage::Secrets)?;
        sys::write_all(*file, value).at(Stage::Secrets)?;
        if range {
            sys::chown_path(*folder, name, JOB, JOB).at(Stage::Secrets)?;
        }
    }
    Ok(())
}

/// Removes what was written for a request. Process 1 does this between two of its turns, so it takes no longer than the
/// most files that a program can have: where the job itself can add some, they stay.
pub(crate) fn remove(id: u32) {
    // Each is at least a file, for a name has at most 128 bytes; so this is enough for 1,600 of them.
    const MOST_READS: usize = 64;
    let name = Digits::of(id);
    if let Ok(folder) = sys::open(SECRETS, name.as_c_str(), O_DIRECTORY | O_NOFOLLOW, 0) {
        let mut records = [0; 4096];
        for _ in 0..MOST_READS {
            let Ok(filled @ 1..) = sys::read_directory(*folder, &mut records) else { break };
            for name in Names(&records[..filled]) {
                let _ = sys::unlink(*folder, name);
            }
        }
    }
    let _ = sys::remove_folder(SECRETS, name.as_c_str());
}
