//! Why an image is not unpacked, and what its operator is told.

use std::ffi::CStr;
use std::io;

use ci_core::{Error, ErrorKind};
use rustix::io::Errno;

use super::super::tar::Problem;
use super::{OPERATION, shown, unusable_store};

/// Why an entry could not be unpacked.
pub(super) enum Refusal {
    /// The image is at fault.
    Entry(&'static str),
    /// It has more than it may.
    TooLarge,
    /// The machine is.
    Machine(io::Error),
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        match error {
            Errno::LOOP | Errno::NOTDIR | Errno::NOENT | Errno::EXIST | Errno::XDEV => {
                Self::Entry("the way to one of its entries leads through a file or a link to nowhere")
            }
            Errno::NAMETOOLONG => Self::Entry("a name in it is too long"),
            error => Self::Machine(error.into()),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Machine(error)
    }
}

/// The image is at fault.
pub(super) fn invalid(reason: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, OPERATION).because(reason)
}

/// The image is larger than the operator allows.
pub(super) fn too_large() -> Error {
    Error::new(ErrorKind::LimitExceeded, OPERATION)
        .because("the image is larger, or has more entries, than the configuration allows")
}

/// A layer cannot be read.
pub(super) fn unreadable_layer(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::FileTooLarge => too_large(),
        io::ErrorKind::Unsupported => invalid("a layer of the image is neither plain nor gzip nor zstd"),
        _ => invalid("a layer of the image cannot be read, or is cut short").caused_by(error),
    }
}

/// A layer is no archive as it should be.
pub(super) fn refused_archive(problem: Problem<io::Error>) -> Error {
    match problem {
        Problem::Source(error) => unreadable_layer(error),
        Problem::Malformed => invalid("a layer of the image is no tar archive, or cut short"),
        Problem::UnsafeName => invalid("a name in a layer of the image leads out of it"),
        Problem::Special => invalid("a layer of the image holds a sparse or an unknown kind of file"),
        Problem::TooDeep => invalid("a path in a layer of the image is too deep or too long"),
    }
}

/// The entry `name` of a layer was not unpacked.
pub(super) fn refused_entry(refusal: Refusal, name: &CStr) -> Error {
    match refusal {
        Refusal::TooLarge => too_large(),
        Refusal::Entry(reason) => invalid("an entry of the image cannot be unpacked").detail(reason),
        Refusal::Machine(error) => unusable_store(error),
    }
    .with("entry", shown(&name.to_string_lossy()))
}
