//! The files of an image as it is passed on: in a folder, or in a tarball.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use ci_core::{Error, ErrorKind, Result};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use super::super::tar::{self, BLOCK, Kind, Problem};
use super::archive::Stream;
use super::format::LONGEST_DOCUMENT;
use super::{OPERATION, shown, unreadable};

/// The most entries of a tarball: it holds layers and documents, not the image's files.
const MOST_ENTRIES: usize = 100_000;

/// Where the blobs are.
#[derive(Debug)]
pub(super) enum Blobs {
    /// The files of a folder.
    Folder(OwnedFd),
    /// Pieces of a file, by name.
    Tarball { file: File, pieces: HashMap<String, Piece> },
}

/// Where something is in a tarball.
#[derive(Debug)]
pub(super) enum Piece {
    Content {
        start: u64,
        size: u64,
    },
    /// The same as another one.
    Link(String),
}

/// One blob.
#[derive(Debug)]
pub(super) struct Blob {
    file: File,
    next: u64,
    end: u64,
}

impl Blobs {
    /// Those of an image layout.
    pub(super) fn in_folder(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty())
            .map(Self::Folder)
            .map_err(|error| unreadable(path, error.into()))
    }

    /// Those of a tarball, which is read from header to header and not in between.
    pub(super) fn in_tarball(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| unreadable(path, error))?;
        let mut magic = [0; 2];
        if matches!(file.read_at(&mut magic, 0), Ok(2)) && matches!(&magic, [0x1f, 0x8b] | [0x28, 0xb5]) {
            return Err(Error::new(ErrorKind::Invalid, OPERATION)
                .because("the archive as a whole is compressed; decompress it once, its layers may stay as they are")
                .detail(path.display().to_string()));
        }
        let pieces = pieces(&file).map_err(|problem| match problem {
            Problem::Source(error) => unreadable(path, error),
            _ => Error::new(ErrorKind::Invalid, OPERATION)
                .because("the archive of the image is no tar archive, is cut short, or has too many entries")
                .detail(path.display().to_string()),
        })?;
        Ok(Self::Tarball { file, pieces })
    }

    /// The blob of this name; nothing when there is none.
    pub(super) fn open(&self, name: &str) -> io::Result<Option<Blob>> {
        match self {
            Self::Folder(folder) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                let file = match openat2(folder, name, flags, Mode::empty(), resolve) {
                    Err(Errno::NOENT) => return Ok(None),
                    opened => File::from(opened?),
                };
                let metadata = file.metadata()?;
                if !metadata.is_file() {
                    return Err(io::Error::other("it is no file"));
                }
                Ok(Some(Blob { end: metadata.len(), file, next: 0 }))
            }
            Self::Tarball { file, pieces } => {
                let mut name = name.to_owned();
                // As old versions of Docker write a layer that several images have. More than a few are a circle.
                for _ in 0..4 {
                    match pieces.get(&name) {
                        None => return Ok(None),
                        Some(Piece::Link(target)) => name.clone_from(target),
                        Some(Piece::Content { start, size }) => {
                            let end = start.saturating_add(*size);
                            return Ok(Some(Blob { file: file.try_clone()?, next: *start, end }));
                        }
                    }
                }
                Err(io::Error::other("its links lead in a circle"))
            }
        }
    }

    /// A document; nothing when there is none.
    pub(super) fn document(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let read = || {
            let Some(mut blob) = self.open(name)? else { return Ok(None) };
            if blob.size() > LONGEST_DOCUMENT {
                return Err(io::Error::other("it is too long for a document"));
            }
            let mut document = Vec::new();
            blob.read_to_end(&mut document)?;
            Ok(Some(document))
        };
        read().map_err(|error| {
            Error::new(ErrorKind::Invalid, OPERATION)
                .because("a document of the image cannot be read")
                .with("document", shown(name))
                .caused_by(error)
        })
    }
}

impl Blob {
    /// How many bytes it has.
    pub(super) fn size(&self) -> u64 {
        self.end - self.next
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.end - self.next).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..wanted], self.next)?;
        if read == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.next += read as u64;
        Ok(read)
    }
}

/// A tarball from some place on.
struct From<'a> {
    file: &'a File,
    next: u64,
}

impl Read for From<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.next)?;
        self.next += read as u64;
        Ok(read)
    }
}

fn pieces(file: &File) -> Result<HashMap<String, Piece>, Problem<io::Error>> {
    let mut pieces = HashMap::new();
    let mut next = 0;
    loop {
        // A reader of its own for every entry, for one goes on reading what it has not been asked for.
        let mut reader = Box::new(tar::Reader::new(Stream(From { file, next })));
        let Some(entry) = reader.next()? else { return Ok(pieces) };
        if pieces.len() == MOST_ENTRIES {
            return Err(Problem::Malformed);
        }
        let (name, size) = (entry.path.to_string_lossy().into_owned(), entry.size);
        let link = match entry.kind {
            Kind::Symlink => beside(&name, &entry.link.to_string_lossy()),
            Kind::HardLink => Some(entry.link.to_string_lossy().into_owned()),
            _ => None,
        };
        let kind = entry.kind;
        let start = reader.source().0.next;
        next = start.checked_add(size.next_multiple_of(BLOCK as u64)).ok_or(Problem::Malformed)?;
        match (kind, link) {
            (Kind::File, _) => drop(pieces.insert(name, Piece::Content { start, size })),
            (_, Some(target)) => drop(pieces.insert(name, Piece::Link(target))),
            _ => {}
        }
    }
}

/// What a link of this name leads to, within the tarball.
fn beside(name: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}
