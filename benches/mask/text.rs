//! Secrets, what a build prints, and what it would print to be slow to look through.

use data_encoding::{BASE64_NOPAD, HEXLOWER, HEXUPPER};

/// Numbers that look random and are the same every time (splitmix64, Steele and others 2014).
pub struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() >> 1).expect("64 bits") % bound
    }
}

/// Tokens of 32 letters and digits; every tenth has marks in it, as passwords have.
pub fn secrets(count: usize) -> Vec<String> {
    let mut dice = Dice(1);
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789$\"'\\/ &<";
    let secret = |index: usize| {
        let kinds = if index % 10 == 9 { letters.len() } else { 62 };
        (0..32).map(|_| char::from(letters[dice.below(kinds)])).collect()
    };
    (0..count).map(secret).collect()
}

/// The forms of `secrets` that letters make.
pub fn patterns(secrets: &[String]) -> Vec<Vec<u8>> {
    let mut patterns: Vec<Vec<u8>> = secrets.iter().flat_map(|secret| forms(secret)).collect();
    patterns.sort_unstable();
    patterns.dedup();
    patterns
}

fn forms(secret: &str) -> Vec<Vec<u8>> {
    let bytes = secret.as_bytes();
    let mut forms = vec![
        bytes.to_vec(),
        HEXLOWER.encode(bytes).into_bytes(),
        HEXUPPER.encode(bytes).into_bytes(),
        bytes.iter().flat_map(|byte| [*byte, 0]).collect(),
    ];
    for before in 0..3 {
        let text = BASE64_NOPAD.encode(&[&[0; 2][..before], bytes].concat()).into_bytes();
        forms.push(text[(before * 8).div_ceil(6)..(before + bytes.len()) * 8 / 6].to_vec());
    }
    forms
}

pub fn build_log(size: usize, secrets: &[String]) -> Vec<u8> {
    let mut dice = Dice(2);
    let mut log = Vec::with_capacity(size + 4096);
    let mut next = 0;
    while log.len() < size {
        if log.len() >= next {
            next += 1024 * 1024;
            let forms = forms(&secrets[dice.below(secrets.len())]);
            log.extend_from_slice(b"+ deploy --token ");
            log.extend_from_slice(&forms[dice.below(forms.len())]);
            log.push(b'\n');
        }
        line(&mut dice, &mut log);
    }
    log.truncate(size);
    log
}

fn line(dice: &mut Dice, log: &mut Vec<u8>) {
    let (one, two, hash) = (dice.below(900), dice.below(60), dice.roll());
    let text = match dice.below(10) {
        0 => format!("\x1b[1m\x1b[32m   Compiling\x1b[0m serde-derive-internals v{two}.{one}.0\n"),
        1 => format!("test storage::objects::a_chunk_of_{one}_bytes_is_read_as_it_was_written ... ok\n"),
        2 => format!(
            "[INFO] 2026-03-01T12:{two:02}:07.{one:03}Z o.e.service.RequestHandler - finished id={hash:x} in {one} ms\n"
        ),
        3 => format!(
            "/usr/bin/cc -O2 -g -Wall -Wextra -fPIC -I/usr/include/openssl -DNDEBUG -c src/module_{one}.c -o build/module_{one}.o\n"
        ),
        4 => format!(
            "npm warn deprecated inflight@1.{two}.{one}: This module is not supported, and leaks memory. Do not use it.\n"
        ),
        5 => format!("#{two} sha256:{hash:016x}{:016x} {two}.{one}MB / 64.00MB 3.2s\n", dice.roll()),
        6 => format!(
            "Get:{two} http://archive.example.org/debian bookworm/main amd64 libssl-dev amd64 3.0.{one}-1 [2,{one} kB]\n"
        ),
        7 => "\n".to_owned(),
        8 => format!("    at org.example.build.Runner.run(Runner.java:{one})\n"),
        _ => format!(
            "  warning: unused variable: `value_{one}` --> src/lib.rs:{one}:{two}, note: `#[warn(unused_variables)]` on by default\n"
        ),
    };
    log.extend_from_slice(text.as_bytes());
}

type Make = fn(usize, &[String]) -> Vec<u8>;

/// Text in which much looks like a secret.
pub const ADVERSARIAL: [(&str, Make); 4] =
    [("hex dump", hex_dump), ("beginnings", beginnings), ("nearly", nearly), ("all secrets", all_secrets)];

fn hex_dump(size: usize, _: &[String]) -> Vec<u8> {
    let mut dice = Dice(3);
    let mut log = Vec::with_capacity(size + 64);
    while log.len() < size {
        log.extend_from_slice(
            format!("{:016x}{:016x}{:016x}\n", dice.roll(), dice.roll(), dice.roll()).as_bytes(),
        );
    }
    log
}

/// The first eight to fifteen bytes of forms of secrets, side by side.
fn beginnings(size: usize, secrets: &[String]) -> Vec<u8> {
    parts(size, secrets, |dice, length| length.min(8 + dice.below(8)))
}

/// Forms of secrets without their last byte.
fn nearly(size: usize, secrets: &[String]) -> Vec<u8> {
    parts(size, secrets, |_, length| length - 1)
}

fn all_secrets(size: usize, secrets: &[String]) -> Vec<u8> {
    parts(size, secrets, |_, length| length)
}

fn parts(size: usize, secrets: &[String], length: impl Fn(&mut Dice, usize) -> usize) -> Vec<u8> {
    let (mut dice, patterns) = (Dice(4), patterns(secrets));
    let mut log = Vec::with_capacity(size + 64);
    while log.len() < size {
        let pattern = &patterns[dice.below(patterns.len())];
        log.extend_from_slice(&pattern[..length(&mut dice, pattern.len())]);
    }
    log
}
