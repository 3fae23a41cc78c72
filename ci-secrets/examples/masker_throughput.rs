//! How fast a [`PlainMasker`] is on this machine: `cargo run --release --example masker_throughput`.
//!
//! The text looks like the output of a build, in chunks of 64 KiB, with one secret in every MiB. The other rows
//! are texts that an attacker would choose: one that is all beginnings of a secret, and one that is all secret.

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use ci_secrets::{Masker as _, PlainMasker, SecretValue};

const CHUNK: usize = 64 * 1024;
const TEXT: usize = 64 * 1024 * 1024;

fn main() {
    println!("{:>8} {:>12} {:>14} {:>12}   GB/s", "secrets", "build log", "all beginnings", "all secret");
    for count in [1, 10, 100, 1_000] {
        let secrets: Vec<String> = (0..count).map(secret).collect();
        let beginnings = secrets[0][..secrets[0].len() - 1].repeat(TEXT / 8 / secrets[0].len());
        let all = secrets[0].repeat(TEXT / 8 / secrets[0].len());
        let rates = [build_log(&secrets[0]), beginnings, all].map(|text| rate(&secrets, text.as_bytes()));
        println!("{count:>8} {:>12.2} {:>14.2} {:>12.2}", rates[0], rates[1], rates[2]);
    }
}

/// The best of three runs, in gigabytes a second.
fn rate(secrets: &[String], text: &[u8]) -> f64 {
    let masker = PlainMasker::new();
    for secret in secrets {
        masker.learn(&SecretValue::new(secret.as_bytes()));
    }
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let (mut redactor, mut out) = (masker.redactor(), Vec::with_capacity(2 * CHUNK));
        let start = Instant::now();
        for chunk in text.chunks(CHUNK) {
            out.clear();
            redactor.push(chunk, &mut out);
            black_box(&out);
        }
        redactor.finish(&mut out);
        best = best.min(start.elapsed());
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate of two digits")]
    let bytes = text.len() as f64;
    bytes / best.as_secs_f64() / 1e9
}

/// 32 letters and digits that look random (splitmix64, Steele and others 2014).
fn secret(seed: usize) -> String {
    let mut state = seed as u64;
    let mut letter = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        char::from(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"[((mixed >> 31) % 62) as usize],
        )
    };
    (0..32).map(|_| letter()).collect()
}

fn build_log(secret: &str) -> String {
    let (mut text, mut line, mut next) = (String::with_capacity(TEXT + 256), 0_usize, 1024 * 1024);
    while text.len() < TEXT {
        line += 1;
        let hash = line.wrapping_mul(0x9E37_79B9);
        text.push_str(match line % 4 {
            0 => "   Compiling some-crate-with-a-name v1.2.",
            1 => "[INFO] 2026-01-01T00:00:00Z org.example.service.Handler - request finished id=",
            2 => "test module::submodule::a_test_with_a_long_name_",
            _ => "/usr/bin/cc -O2 -g -Wall -Wextra -I/usr/include/example -c src/file_",
        });
        let _ = writeln!(text, "{hash:x} ... ok");
        if text.len() > next {
            next += 1024 * 1024;
            text.push_str(secret);
        }
    }
    text
}
