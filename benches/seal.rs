//! Sealing and opening beside the ciphers alone, on the same bytes, in the same run.
//!
//! What sealing adds to a cipher is the derivation of a key per record with its commitment (HKDF-SHA-256), random bytes for
//! the salt, the header, and what was opened is wiped. The goal is 0.8 of the speed of derivation and cipher of the
//! same suite. The salt comes from the operating system, never from a generator of the process, which a fork would
//! double: with a fast cipher that call is a third of sealing 64 bytes, and a second peer makes it as well.

#![expect(unreachable_pub, reason = "a program has no outside")]

mod common;

use std::hint::black_box;

use aws_lc_rs::aead as aws;
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ci_core::seal::{Context, DataKey, Suite};
use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use hkdf::Hkdf;
use ring::aead as ring_aead;
use sha2::Sha256;

const SIZES: [(usize, &str); 4] =
    [(64, "64 B"), (1024, "1 KiB"), (64 * 1024, "64 KiB"), (1024 * 1024, "1 MiB")];
const GOAL: &str = "at most 1.25, which is 0.8 of its speed";

fn main() {
    let mut criterion = common::criterion();
    for (size, name) in SIZES {
        seal(&mut criterion, size, name);
        open(&mut criterion, size, name);
    }
    criterion.final_summary();
    for (what, (_, name)) in ["seal", "open"].into_iter().flat_map(|what| SIZES.map(|size| (what, size))) {
        let group = format!("{what} {name}");
        for (ours, raw, derived) in [
            ("XChaCha20-Poly1305 sealed", "XChaCha20-Poly1305", "XChaCha20-Poly1305 derived"),
            ("AES-256-GCM sealed", "AES-256-GCM of aws-lc-rs", "AES-256-GCM derived"),
        ] {
            common::print_ratio(&group, ours, derived, GOAL);
            common::print_ratio(&group, ours, &salted(derived), GOAL);
            common::print_ratio(&group, ours, raw, "none");
        }
        common::print_ratio(&group, "XChaCha20-Poly1305 sealed", "ChaCha20-Poly1305 of ring", "none");
        common::print_ratio(&group, "XChaCha20-Poly1305 sealed", "ChaCha20-Poly1305 of aws-lc-rs", "none");
        common::print_ratio(&group, "AES-256-GCM sealed", "AES-256-GCM of ring", "none");
    }
}

/// A cipher with a key, which works in place.
trait Cipher {
    fn new(key: &[u8; 32]) -> Self;
    fn encrypt(&self, associated: &[u8], buffer: &mut [u8]) -> [u8; 16];
    /// What has its tag behind it.
    fn decrypt(&self, associated: &[u8], buffer: &mut Vec<u8>);
}

impl Cipher for XChaCha20Poly1305 {
    fn new(key: &[u8; 32]) -> Self {
        KeyInit::new(key.into())
    }

    fn encrypt(&self, associated: &[u8], buffer: &mut [u8]) -> [u8; 16] {
        self.encrypt_inout_detached(&XNonce::default(), associated, buffer.into()).expect("it fits").into()
    }

    fn decrypt(&self, associated: &[u8], buffer: &mut Vec<u8>) {
        let tag = *buffer.last_chunk::<16>().expect("a tag");
        buffer.truncate(buffer.len() - 16);
        let inout = buffer.as_mut_slice().into();
        self.decrypt_inout_detached(&XNonce::default(), associated, inout, &tag.into()).expect("it opens");
    }
}

/// `ring` and its double: their interfaces are the same.
macro_rules! peer {
    ($name:ident, $library:ident, $algorithm:ident) => {
        struct $name($library::LessSafeKey);

        impl Cipher for $name {
            fn new(key: &[u8; 32]) -> Self {
                let key = $library::UnboundKey::new(&$library::$algorithm, key).expect("a key");
                Self($library::LessSafeKey::new(key))
            }

            fn encrypt(&self, associated: &[u8], buffer: &mut [u8]) -> [u8; 16] {
                let nonce = $library::Nonce::assume_unique_for_key([0; 12]);
                let tag = self.0.seal_in_place_separate_tag(nonce, $library::Aad::from(associated), buffer);
                tag.expect("it fits").as_ref().try_into().expect("16 bytes")
            }

            fn decrypt(&self, associated: &[u8], buffer: &mut Vec<u8>) {
                let nonce = $library::Nonce::assume_unique_for_key([0; 12]);
                let plain = self.0.open_in_place(nonce, $library::Aad::from(associated), buffer);
                let length = plain.expect("it opens").len();
                buffer.truncate(length);
            }
        }
    };
}

peer!(AwsAes, aws, AES_256_GCM);
peer!(AwsChaCha, aws, CHACHA20_POLY1305);
peer!(RingAes, ring_aead, AES_256_GCM);
peer!(RingChaCha, ring_aead, CHACHA20_POLY1305);

/// Into a new buffer, as sealing does.
fn raw_seal(cipher: &impl Cipher, associated: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(plain.len() + 16);
    sealed.extend_from_slice(plain);
    let tag = cipher.encrypt(associated, &mut sealed);
    sealed.extend_from_slice(&tag);
    sealed
}

fn raw_open(cipher: &impl Cipher, associated: &[u8], sealed: &[u8]) -> Vec<u8> {
    let mut plain = sealed.to_vec();
    cipher.decrypt(associated, &mut plain);
    plain
}

/// The key and the commitment that a record has.
fn derive(key: &[u8; 32], salt: &[u8; 32], bound: &[u8]) -> ([u8; 32], [u8; 32]) {
    let mut both = [[0; 32]; 2];
    let hkdf = Hkdf::<Sha256>::new(Some(salt), key);
    hkdf.expand(bound, both.as_flattened_mut()).expect("64 bytes come out");
    (both[0], both[1])
}

/// As many bytes as what is bound to the records of this benchmark.
const BOUND: [u8; 43] = [7; 43];

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn seal_peers<C: Cipher>(group: &mut Group<'_>, plain: &[u8], raw: &str, derived: Option<&str>) {
    let key = [7; 32];
    let cipher = C::new(&key);
    group.bench_function(raw, |bencher| bencher.iter(|| raw_seal(&cipher, &[], black_box(plain))));
    let Some(derived) = derived else { return };
    group.bench_function(derived, |bencher| {
        bencher.iter(|| {
            let (key, commitment) = derive(&key, black_box(&[9; 32]), &BOUND);
            (raw_seal(&C::new(&key), &BOUND, black_box(plain)), commitment)
        });
    });
    group.bench_function(salted(derived), |bencher| {
        bencher.iter(|| {
            let mut salt = [0; 32];
            getrandom::fill(&mut salt).expect("random bytes");
            let (key, commitment) = derive(&key, &salt, &BOUND);
            (raw_seal(&C::new(&key), &BOUND, black_box(plain)), commitment)
        });
    });
}

/// The name of a peer that draws its salt too, as whoever seals has to.
fn salted(derived: &str) -> String {
    format!("{derived} from a new salt")
}

fn open_peers<C: Cipher>(group: &mut Group<'_>, plain: &[u8], raw: &str, derived: Option<&str>) {
    let key = [7; 32];
    let cipher = C::new(&key);
    let sealed = raw_seal(&cipher, &[], plain);
    group.bench_function(raw, |bencher| bencher.iter(|| raw_open(&cipher, &[], black_box(&sealed))));
    let Some(derived) = derived else { return };
    let sealed = raw_seal(&C::new(&derive(&key, &[9; 32], &BOUND).0), &BOUND, plain);
    group.bench_function(derived, |bencher| {
        bencher.iter(|| {
            let (key, commitment) = derive(&key, black_box(&[9; 32]), &BOUND);
            (raw_open(&C::new(&key), &BOUND, black_box(&sealed)), commitment)
        });
    });
}

const SUITES: [(Suite, &str); 2] =
    [(Suite::XChaCha20Poly1305, "XChaCha20-Poly1305 sealed"), (Suite::Aes256Gcm, "AES-256-GCM sealed")];

fn seal(criterion: &mut Criterion, size: usize, name: &str) {
    let (plain, context) = (vec![7; size], Context::new("bench"));
    let mut group = criterion.benchmark_group(format!("seal {name}"));
    group.throughput(Throughput::Bytes(size as u64));
    for (suite, name) in SUITES {
        let key = DataKey::random().with_suite(suite);
        group.bench_function(name, |bencher| bencher.iter(|| key.seal(&context, black_box(&plain))));
    }
    let own = ["XChaCha20-Poly1305 derived", "AES-256-GCM derived"];
    seal_peers::<XChaCha20Poly1305>(&mut group, &plain, "XChaCha20-Poly1305", Some(own[0]));
    seal_peers::<AwsAes>(&mut group, &plain, "AES-256-GCM of aws-lc-rs", Some(own[1]));
    seal_peers::<RingAes>(&mut group, &plain, "AES-256-GCM of ring", None);
    seal_peers::<RingChaCha>(&mut group, &plain, "ChaCha20-Poly1305 of ring", None);
    seal_peers::<AwsChaCha>(&mut group, &plain, "ChaCha20-Poly1305 of aws-lc-rs", None);
}

fn open(criterion: &mut Criterion, size: usize, name: &str) {
    let (plain, context) = (vec![7; size], Context::new("bench"));
    let mut group = criterion.benchmark_group(format!("open {name}"));
    group.throughput(Throughput::Bytes(size as u64));
    for (suite, name) in SUITES {
        let key = DataKey::random().with_suite(suite);
        let sealed = key.seal(&context, &plain);
        group.bench_function(name, |bencher| {
            bencher.iter(|| key.open(&context, black_box(&sealed)).expect("it opens"));
        });
    }
    let own = ["XChaCha20-Poly1305 derived", "AES-256-GCM derived"];
    open_peers::<XChaCha20Poly1305>(&mut group, &plain, "XChaCha20-Poly1305", Some(own[0]));
    open_peers::<AwsAes>(&mut group, &plain, "AES-256-GCM of aws-lc-rs", Some(own[1]));
    open_peers::<RingAes>(&mut group, &plain, "AES-256-GCM of ring", None);
    open_peers::<RingChaCha>(&mut group, &plain, "ChaCha20-Poly1305 of ring", None);
    open_peers::<AwsChaCha>(&mut group, &plain, "ChaCha20-Poly1305 of aws-lc-rs", None);
}
