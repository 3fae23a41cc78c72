//! Runs one job, from its claim to its outcome, over the ports.
