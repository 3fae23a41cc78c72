//! Fresh, isolated, provably destroyed sandboxes for CI jobs.
