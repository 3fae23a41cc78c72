//! Sealing and opening beside the raw cipher, on the same bytes, in the same run.
//!
//! What sealing adds is the derivation of a key per record with its commitment (HKDF-SHA-256), random bytes for
//! salt and nonce, and the header.

#![expect(unreachable_pub, reason = "a program has no outside")]

mod common;

use std::hint::black_box;

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ci_core::seal::{Context, DataKey};
use criterion::{Criterion, Throughput};

const SIZES: [(usize, &str); 3] = [(64, "64 B"), (1024, "1 KiB"), (64 * 1024, "64 KiB")];

fn main() {
    let mut criterion = common::criterion();
    for (size, name) in SIZES {
        seal(&mut criterion, size, name);
        open(&mut criterion, size, name);
    }
    criterion.final_summary();
    for (_, name) in SIZES {
        let goal = if name == "64 KiB" { "at most 1.25, which is 0.8 of its speed" } else { "none" };
        common::print_ratio(&format!("seal {name}"), "sealed", "raw cipher", goal);
        common::print_ratio(&format!("open {name}"), "sealed", "raw cipher", goal);
    }
}

/// The raw cipher into a new buffer, as sealing does.
fn raw_seal(cipher: &XChaCha20Poly1305, nonce: &XNonce, plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(plain.len() + 16);
    sealed.extend_from_slice(plain);
    let tag = cipher.encrypt_inout_detached(nonce, &[], sealed.as_mut_slice().into()).expect("it fits");
    sealed.extend_from_slice(&tag);
    sealed
}

fn raw_open(cipher: &XChaCha20Poly1305, nonce: &XNonce, sealed: &[u8]) -> Vec<u8> {
    let (body, tag) = sealed.split_last_chunk::<16>().expect("a tag");
    let mut plain = body.to_vec();
    let tag = (*tag).into();
    cipher.decrypt_inout_detached(nonce, &[], plain.as_mut_slice().into(), &tag).expect("it opens");
    plain
}

fn seal(criterion: &mut Criterion, size: usize, name: &str) {
    let (plain, context, key) = (vec![7; size], Context::new("bench"), DataKey::random());
    let (cipher, nonce) = (XChaCha20Poly1305::new(key.expose().into()), XNonce::default());
    let mut group = criterion.benchmark_group(format!("seal {name}"));
    group.throughput(Throughput::Bytes(size as u64));
    group.bench_function("sealed", |bencher| bencher.iter(|| key.seal(&context, black_box(&plain))));
    group.bench_function("raw cipher", |bencher| {
        bencher.iter(|| raw_seal(&cipher, &nonce, black_box(&plain)));
    });
}

fn open(criterion: &mut Criterion, size: usize, name: &str) {
    let (plain, context, key) = (vec![7; size], Context::new("bench"), DataKey::random());
    let (cipher, nonce) = (XChaCha20Poly1305::new(key.expose().into()), XNonce::default());
    let (sealed, raw) = (key.seal(&context, &plain), raw_seal(&cipher, &nonce, &plain));
    let mut group = criterion.benchmark_group(format!("open {name}"));
    group.throughput(Throughput::Bytes(size as u64));
    group.bench_function("sealed", |bencher| {
        bencher.iter(|| key.open(&context, black_box(&sealed)).expect("it opens"));
    });
    group.bench_function("raw cipher", |bencher| bencher.iter(|| raw_open(&cipher, &nonce, black_box(&raw))));
}
