//! What the benchmarks share: where criterion leaves its figures, and how they become ratios.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use criterion::Criterion;
use serde_json::Value;

/// Where this run's figures go.
fn figures() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target =
        target.map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    target.join("criterion")
}

/// Criterion, with its figures in a known place.
pub fn criterion() -> Criterion {
    Criterion::default().output_directory(&figures()).configure_from_args()
}

/// The median of a benchmark that has just run, or `None` when it was filtered out.
fn median(group: &str, name: &str) -> Option<Duration> {
    let path = figures().join(group).join(name).join("new/estimates.json");
    let estimates: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    Some(Duration::from_secs_f64(estimates["median"]["point_estimate"].as_f64()? / 1e9))
}

/// Prints how `ours` compares with `peer`, and the bound that the project sets itself.
pub fn print_ratio(group: &str, ours: &str, peer: &str, goal: &str) {
    if let (Some(our_time), Some(peer_time)) = (median(group, ours), median(group, peer)) {
        let ratio = our_time.as_secs_f64() / peer_time.as_secs_f64();
        println!(
            "{group}: {ours} takes {ratio:.2} × {peer} ({our_time:.2?} and {peer_time:.2?}; goal: {goal})"
        );
    }
}
