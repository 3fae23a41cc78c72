//! Unpacks an archive, as the job's user and inside of the sandbox: whatever the archive says, it can do no
//! more than the job itself.

use core::ffi::CStr;

use crate::failure::{At, Failure};
use crate::folder;
use crate::mem::Pages;
use crate::sys::{self, CWD, Errno, Fd, O_DIRECTORY, O_PATH, Raw};
use crate::tar::{self, Entry, Kind, LONGEST_PATH, Problem};
use crate::wire::{Reader, Stage};

/// How much is read at once.
const CHUNK: usize = 256 * 1024;

/// Unpacks `stream` below the folder that the request names; it is made where it does not exist.
pub(crate) fn run(stream: Raw, mut request: Reader<'_>) -> Result<(), Failure> {
    let path = request.text().ok_or(Failure::malformed(Stage::Request))?;
    make_folders(CWD, path).at(Stage::OpenTarget)?;
    let root = sys::open(CWD, path, O_PATH | O_DIRECTORY, 0).at(Stage::OpenTarget)?;
    let mut archive = tar::Reader::new(Stream(stream));
    let mut buffer = Pages::zeroed(CHUNK).at(Stage::ReadStream)?;
    while let Some(entry) = archive.next().map_err(refused)? {
        if entry.path.is_empty() {
            continue;
        }
        match entry.kind {
            Kind::File => {
                let (file, mtime) = make_file(&root, &entry).at(Stage::WriteFile)?;
                loop {
                    match archive.read(buffer.bytes()).map_err(refused)? {
                        0 => break,
                        read => sys::write_all(*file, &buffer.bytes()[..read]).at(Stage::WriteFile)?,
                    }
                }
                sys::set_times(*file, mtime).at(Stage::WriteFile)?;
            }
            Kind::Directory => make_folder(&root, &entry).at(Stage::WriteFile)?,
            Kind::Symlink => {
                let place = Place::of(&root, entry.path).at(Stage::WriteFile)?;
                place.make(|folder, name| sys::symlink(entry.link, folder, name)).at(Stage::WriteFile)?;
            }
            Kind::HardLink => {
                let place = Place::of(&root, entry.path).at(Stage::WriteFile)?;
                let old = Place::of(&root, entry.link).at(Stage::WriteFile)?;
                place
                    .make(|folder, name| sys::link(*old.folder, old.name, folder, name))
                    .at(Stage::WriteFile)?;
            }
            Kind::Device => return Err(Failure::new(Stage::SpecialFile, Errno::EINVAL)),
        }
    }
    Ok(())
}

/// The archive on its descriptor.
struct Stream(Raw);

impl tar::Source for Stream {
    type Error = Errno;

    fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        sys::read_full(self.0, buffer)
    }
}

fn refused(problem: Problem<Errno>) -> Failure {
    match problem {
        Problem::Source(errno) => Failure::new(Stage::ReadStream, errno),
        Problem::Malformed => Failure::new(Stage::BadArchive, Errno::EBADMSG),
        Problem::UnsafeName => Failure::new(Stage::UnsafeName, Errno::EINVAL),
        Problem::TooDeep => Failure::new(Stage::TooDeep, Errno::ENAMETOOLONG),
        Problem::Special => Failure::new(Stage::SpecialFile, Errno::EINVAL),
    }
}

/// The folder that an entry lies in, and its name there.
struct Place<'a> {
    folder: Fd,
    name: &'a CStr,
}

impl<'a> Place<'a> {
    /// Finds the place of `path`, making the folders that lead there. A link that leads out of `root` is an
    /// error, also one that the archive itself has made.
    fn of(root: &Fd, path: &'a CStr) -> sys::Result<Self> {
        let mut room = [0; LONGEST_PATH];
        let (parent, name) = folder::split(path, &mut room)?;
        let folder = match sys::open_beneath(**root, parent, O_PATH | O_DIRECTORY) {
            Err(Errno::ENOENT) => {
                make_folders_beneath(root, parent)?;
                sys::open_beneath(**root, parent, O_PATH | O_DIRECTORY)?
            }
            opened => opened?,
        };
        Ok(Self { folder, name })
    }

    /// Makes something here, in place of what stood here.
    fn make<T>(&self, make: impl Fn(Raw, &CStr) -> sys::Result<T>) -> sys::Result<T> {
        match make(*self.folder, self.name) {
            Err(Errno::EEXIST) => {
                sys::unlink(*self.folder, self.name)?;
                make(*self.folder, self.name)
            }
            made => made,
        }
    }
}

fn make_file(root: &Fd, entry: &Entry<'_>) -> sys::Result<(Fd, i64)> {
    let place = Place::of(root, entry.path)?;
    let file = place.make(|folder, name| sys::create(folder, name, 0o600))?;
    sys::chmod(*file, entry.mode as usize)?;
    Ok((file, entry.mtime))
}

fn make_folder(root: &Fd, entry: &Entry<'_>) -> sys::Result<()> {
    let place = Place::of(root, entry.path)?;
    // One without the owner's bits could not be filled by the entries that follow.
    let mode = entry.mode as usize | 0o700;
    match sys::mkdir(*place.folder, place.name, mode) {
        Err(Errno::EEXIST) if is_folder(&place) => {}
        Err(Errno::EEXIST) => {
            sys::unlink(*place.folder, place.name)?;
            sys::mkdir(*place.folder, place.name, mode)?;
        }
        made => made?,
    }
    // The mode that mkdir(2) gave went through the umask. A link is not followed: it was replaced above.
    sys::chmod_path(*place.folder, place.name, mode)
}

fn is_folder(place: &Place<'_>) -> bool {
    sys::stat(*place.folder, place.name).is_ok_and(|stat| stat.mode & sys::KIND == sys::DIRECTORY)
}

/// Makes `path` and all folders above it, wherever links lead.
fn make_folders(directory: Raw, path: &CStr) -> sys::Result<()> {
    each_folder(path, |folder| sys::mkdir(directory, folder, 0o755))
}

/// Makes `path` and all folders above it without leaving `root`: each is made in a folder that was opened
/// beneath it.
fn make_folders_beneath(root: &Fd, path: &CStr) -> sys::Result<()> {
    each_folder(path, |folder| {
        let place = Place::of(root, folder)?;
        sys::mkdir(*place.folder, place.name, 0o755)
    })
}

fn each_folder(path: &CStr, make: impl Fn(&CStr) -> sys::Result<()>) -> sys::Result<()> {
    let mut folder = [0_u8; LONGEST_PATH];
    let bytes = path.to_bytes();
    if bytes.len() >= folder.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for index in 1..=bytes.len() {
        folder[index - 1] = bytes[index - 1];
        let is_end = index == bytes.len() || bytes[index] == b'/';
        if is_end && bytes[index - 1] != b'/' {
            folder[index] = 0;
            match make(CStr::from_bytes_until_nul(&folder).unwrap_or(c".")) {
                Ok(()) | Err(Errno::EEXIST | Errno::EROFS | Errno::EACCES) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
