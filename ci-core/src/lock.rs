//! A mutex whose content stays whole whatever panics.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks. What this crate guards is whole after every statement that holds the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
