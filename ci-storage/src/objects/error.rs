//! What goes wrong in an object store, and what callers are told about it: one table.

use std::io::ErrorKind as Io;

use ci_core::{Error, ErrorKind};
use object_store::Error as Fault;

/// What a caller is told who wanted to do `operation`.
pub(super) fn told(fault: Fault, operation: &'static str) -> Error {
    let (kind, reason) = match &fault {
        Fault::PermissionDenied { .. } | Fault::Unauthenticated { .. } => return refused(fault, operation),
        Fault::Generic { source, .. } if is(source.as_ref(), Io::PermissionDenied) => {
            return refused(fault, operation);
        }
        Fault::Generic { source, .. } if is(source.as_ref(), Io::StorageFull) => {
            (ErrorKind::Unavailable, Some("the disk is full; free space"))
        }
        Fault::NotSupported { .. } | Fault::NotImplemented { .. } => (ErrorKind::Unsupported, None),
        Fault::InvalidPath { .. } => (ErrorKind::Internal, None),
        // Names are drawn at random and are this crate's own: whatever else it is, it is the store's trouble.
        _ => (ErrorKind::Unavailable, None),
    };
    let told = Error::new(kind, operation).caused_by(fault);
    match reason {
        Some(reason) => told.because(reason),
        None => told,
    }
}

/// Whoever runs the program has to do something: asking again does not help.
fn refused(fault: Fault, operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation)
        .because("the object store refuses this program; give it the right to read and write there")
        .caused_by(fault)
        .permanent()
}

/// Whether the store said that there is no such object.
pub(super) fn is_missing(fault: &Fault) -> bool {
    matches!(fault, Fault::NotFound { .. })
}

/// Whether the operating system said so.
fn is(error: &(dyn std::error::Error + 'static), kind: Io) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == kind) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_words() {
        let io = |kind: std::io::ErrorKind| Box::new(std::io::Error::from(kind));
        let other = || io(std::io::ErrorKind::Other);
        let path = String::new;
        let expected = [
            (
                Fault::Generic { store: "x", source: io(std::io::ErrorKind::StorageFull) },
                "Unavailable do it: the disk is full; free space",
            ),
            (Fault::Generic { store: "x", source: other() }, "Unavailable do it: temporarily unavailable"),
            (Fault::NotFound { path: path(), source: other() }, "Unavailable do it: temporarily unavailable"),
            (
                Fault::PermissionDenied { path: path(), source: other() },
                "Unavailable do it: the object store refuses this program; give it the right to read and write there",
            ),
            (
                Fault::Generic { store: "x", source: io(Io::PermissionDenied) },
                "Unavailable do it: the object store refuses this program; give it the right to read and write there",
            ),
            (Fault::NotSupported { source: other() }, "Unsupported do it: not supported here"),
        ];
        for (fault, text) in expected {
            let told = told(fault, "do it");
            assert_eq!(format!("{:?} {told}", told.kind()), text);
            assert_eq!(
                told.is_retryable(),
                told.kind() == ErrorKind::Unavailable && !text.contains("refuses")
            );
        }
    }
}
