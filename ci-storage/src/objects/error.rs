//! What goes wrong in an object store, and what callers are told about it: one table.

use ci_core::{Error, ErrorKind};
use object_store::Error as Fault;

/// What a caller is told who wanted to do `operation`.
pub(super) fn told(fault: Fault, operation: &'static str) -> Error {
    let (kind, reason) = match &fault {
        Fault::PermissionDenied { .. } | Fault::Unauthenticated { .. } => {
            (ErrorKind::Unavailable, Some("the object store refuses this program; check its credentials"))
        }
        Fault::Generic { source, .. } if is_full(source.as_ref()) => {
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

/// Whether the store said that there is no such object.
pub(super) fn is_missing(fault: &Fault) -> bool {
    matches!(fault, Fault::NotFound { .. })
}

fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::StorageFull) {
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
                "Unavailable do it: the object store refuses this program; check its credentials",
            ),
            (Fault::NotSupported { source: other() }, "Unsupported do it: not supported here"),
        ];
        for (fault, text) in expected {
            let told = told(fault, "do it");
            assert_eq!(format!("{:?} {told}", told.kind()), text);
        }
    }
}
