//! A mutex whose content stays whole whatever panics.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. What these guard in native sandboxes is whole after every statement that holds them.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
