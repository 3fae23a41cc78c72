//! Sealed secrets, key hierarchy, leases and log masking for CI jobs.
