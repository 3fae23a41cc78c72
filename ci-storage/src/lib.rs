//! Records, queue, logs, artifacts and caches for CI jobs.
