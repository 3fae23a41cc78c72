//! Packs a file or folder, as the job's user and inside of the sandbox.
//!
//! Links are packed as links and never followed. Sockets, pipes and devices are left out; so is what vanishes
//! on the way. A file that changes its size meanwhile is cut or filled with zeros to the size that its header
//! says.

use core::ffi::CStr;

use crate::failure::{At, Failure};
use crate::folder;
use crate::mem::Pages;
use crate::sys::{self, CWD, Errno, Fd, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_PATH, Raw, Stat};
use crate::tar::{self, BLOCK, DEEPEST, Entry, Kind, LONGEST_PATH};
use crate::wire::{Reader, Stage};

/// How much is written at once.
const CHUNK: usize = 256 * 1024;

/// Writes the archive of what the request names; names in it start with the last part of that path.
pub(crate) fn run(stream: Raw, mut request: Reader<'_>) -> Result<(), Failure> {
    let path = request.text().ok_or(Failure::malformed(Stage::Request))?;
    let mut walk = Walk {
        output: Output { stream, pages: Pages::zeroed(CHUNK).at(Stage::WriteStream)?, filled: 0 },
        path: [0; LONGEST_PATH],
        length: 0,
    };
    let mut room = [0; LONGEST_PATH];
    let (parent, name) = folder::split(path, &mut room).at(Stage::TooDeep)?;
    let folder = sys::open(CWD, parent, O_PATH | O_DIRECTORY, 0).at(Stage::OpenTarget)?;
    let name = if name.is_empty() { c"." } else { name };
    sys::stat(*folder, name).at(Stage::OpenTarget)?;
    walk.add(*folder, name, 0)?;
    walk.output.push(&[0; 2 * BLOCK])?;
    walk.output.flush()
}

/// A walk over a tree.
struct Walk {
    output: Output,
    /// The name of the present entry in the archive, with its NUL.
    path: [u8; LONGEST_PATH],
    length: usize,
}

impl Walk {
    /// Adds what `name` in `folder` is, and everything below.
    fn add(&mut self, folder: Raw, name: &CStr, depth: usize) -> Result<(), Failure> {
        let before = self.length;
        self.enter(name)?;
        let result = match sys::stat(folder, name) {
            Ok(stat) => match stat.mode & sys::KIND {
                sys::DIRECTORY => self.add_folder(folder, name, &stat, depth),
                sys::REGULAR => self.add_file(folder, name),
                sys::SYMLINK => self.add_symlink(folder, name, &stat),
                _ => Ok(()),
            },
            Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error).at(Stage::ReadFile),
        };
        self.length = before;
        self.path[before] = 0;
        result
    }

    fn enter(&mut self, name: &CStr) -> Result<(), Failure> {
        let name = name.to_bytes();
        let slash = usize::from(self.length > 0);
        let end = self.length + slash + name.len();
        if end >= LONGEST_PATH {
            return Err(Failure::new(Stage::TooDeep, Errno::ENAMETOOLONG));
        }
        if slash == 1 {
            self.path[self.length] = b'/';
        }
        self.path[self.length + slash..end].copy_from_slice(name);
        self.path[end] = 0;
        self.length = end;
        Ok(())
    }

    fn header(&mut self, kind: Kind, link: &CStr, size: u64, stat: &Stat) -> Result<(), Failure> {
        let path = CStr::from_bytes_until_nul(&self.path).unwrap_or(c"");
        let mode = u32::from(stat.mode) & 0o777;
        let entry = Entry { kind, path, link, size, owner: (0, 0), mode, mtime: stat.mtime_seconds };
        let output = &mut self.output;
        tar::write_header(&entry, |block| output.push(block))
    }

    fn add_folder(&mut self, parent: Raw, name: &CStr, stat: &Stat, depth: usize) -> Result<(), Failure> {
        if depth >= DEEPEST {
            return Err(Failure::new(Stage::TooDeep, Errno::ENAMETOOLONG));
        }
        let folder = match sys::open(parent, name, O_DIRECTORY | O_NOFOLLOW, 0) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            opened => opened.at(Stage::ReadFile)?,
        };
        self.header(Kind::Directory, c"", 0, stat)?;
        let unreadable = |errno| Failure::new(Stage::ReadFile, errno);
        folder::each_name(*folder, unreadable, |name| self.add(*folder, name, depth + 1))
    }

    fn add_file(&mut self, folder: Raw, name: &CStr) -> Result<(), Failure> {
        // Should it have become a pipe by now, opening must not wait for a writer.
        let file = match sys::open(folder, name, O_NOFOLLOW | O_NONBLOCK, 0) {
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENXIO) => return Ok(()),
            opened => opened.at(Stage::ReadFile)?,
        };
        let stat = sys::stat(*file, c"").at(Stage::ReadFile)?;
        if stat.mode & sys::KIND != sys::REGULAR {
            return Ok(());
        }
        self.header(Kind::File, c"", stat.size, &stat)?;
        self.output.copy(&file, stat.size)?;
        self.output.zeros(tar::padding(stat.size))
    }

    fn add_symlink(&mut self, folder: Raw, name: &CStr, stat: &Stat) -> Result<(), Failure> {
        let mut link = [0; LONGEST_PATH];
        let length = match sys::read_link(folder, name, &mut link[..LONGEST_PATH - 1]) {
            Err(Errno::ENOENT | Errno::EINVAL) => return Ok(()),
            read => read.at(Stage::ReadFile)?,
        };
        link[length] = 0;
        self.header(Kind::Symlink, CStr::from_bytes_until_nul(&link).unwrap_or(c""), 0, stat)
    }
}

/// The archive on its way out, in large pieces.
struct Output {
    stream: Raw,
    pages: Pages,
    filled: usize,
}

impl Output {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.filled + bytes.len() > CHUNK {
            self.flush()?;
        }
        self.pages.bytes()[self.filled..self.filled + bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let filled = core::mem::take(&mut self.filled);
        sys::write_all(self.stream, &self.pages.bytes()[..filled]).at(Stage::WriteStream)
    }

    /// Adds exactly `size` bytes of `file`, and zeros where it has become shorter.
    fn copy(&mut self, file: &Fd, size: u64) -> Result<(), Failure> {
        let mut left = size;
        while left > 0 {
            if self.filled == CHUNK {
                self.flush()?;
            }
            let wanted = left.min((CHUNK - self.filled) as u64) as usize;
            let space = &mut self.pages.bytes()[self.filled..self.filled + wanted];
            match sys::read(**file, space).at(Stage::ReadFile)? {
                0 => return self.zeros(left),
                read => {
                    self.filled += read;
                    left -= read as u64;
                }
            }
        }
        Ok(())
    }

    fn zeros(&mut self, mut count: u64) -> Result<(), Failure> {
        while count > 0 {
            let some = count.min(BLOCK as u64);
            self.push(&[0; BLOCK][..some as usize])?;
            count -= some;
        }
        Ok(())
    }
}
