//! A mutex whose content stays whole whatever panics.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; no backend in memory leaves its state half-changed, so one that panicked is no reason to stop.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
