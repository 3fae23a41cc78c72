//! Masking the output of a build beside other ways to look for many words, on the same text, in the same run.
//!
//! The text is made here, the same every time: lines as compilers, package managers and tests print them, with numbers
//! and colours, and one secret in some form in every mebibyte. The peers look for the very bytes that the masker's forms
//! of the same secrets are, as far as they are made of letters: raw, Base64 at three offsets, hexadecimal digits in
//! both cases, UTF-16. `MASK_MIB` says how many mebibytes the text has (1,024 unless set).

#![expect(unreachable_pub, reason = "a program has no outside")]

mod common;
#[path = "mask/text.rs"]
mod text;

use std::hint::black_box;
use std::io;
use std::time::Duration;

use aho_corasick::AhoCorasick;
use ci_core::secret::{Masker as _, SecretValue, Sensitive};
use ci_secrets::StreamMasker;
use criterion::{BatchSize, Criterion, SamplingMode, Throughput};
use daachorse::DoubleArrayAhoCorasick;

const COUNTS: [usize; 4] = [1, 10, 100, 1000];
/// As a sandbox's output comes.
const CHUNK: usize = 64 * 1024;

fn main() {
    let mut criterion = common::criterion()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_secs(1));
    let size =
        std::env::var("MASK_MIB").ok().and_then(|size| size.parse().ok()).unwrap_or(1024) * 1024 * 1024;
    let secrets = text::secrets(1000);
    for count in COUNTS {
        let log = text::build_log(size, &secrets[..count]);
        mask(&mut criterion, &format!("mask {count}"), &secrets[..count], &log);
    }
    for (name, make) in text::ADVERSARIAL {
        // What is slow is as slow in a smaller text.
        let log = make(size / 16, &secrets[..100]);
        mask(&mut criterion, &format!("mask {name}"), &secrets[..100], &log);
    }
    build(&mut criterion, &secrets[..100]);
    criterion.final_summary();
    for count in COUNTS {
        let group = format!("mask {count}");
        let goal = if count == 100 { "at most 6.67, which is 15 % of its speed" } else { "none" };
        common::print_ratio(&group, "ours", "memcpy", goal);
        let goal = if count == 100 { "at most 0.067, which is 15 times its speed" } else { "none" };
        common::print_ratio(&group, "ours", "aho-corasick replace", goal);
        common::print_ratio(&group, "ours", "daachorse find", "none");
    }
    for (name, _) in text::ADVERSARIAL {
        common::print_ratio(&format!("mask {name}"), "ours", "daachorse find", "at most 1");
    }
}

fn masker(secrets: &[String]) -> StreamMasker {
    let masker = StreamMasker::new();
    for secret in secrets {
        masker.learn(&Sensitive::Credential, &SecretValue::new(secret.as_str()));
    }
    masker
}

fn mask(criterion: &mut Criterion, name: &str, secrets: &[String], log: &[u8]) {
    let patterns = text::patterns(secrets);
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Bytes(log.len() as u64)).sampling_mode(SamplingMode::Flat);
    group.bench_function("memcpy", |bencher| {
        let mut copy = vec![1; log.len()];
        bencher.iter(|| copy.copy_from_slice(black_box(log)));
    });
    group.bench_function("ours", |bencher| {
        let masker = masker(secrets);
        // The output goes where the next one goes as well, as it would to a log store.
        let mut out = Vec::with_capacity(2 * CHUNK);
        bencher.iter(|| {
            let mut redactor = masker.redactor();
            for chunk in log.chunks(CHUNK) {
                out.clear();
                redactor.push(chunk, &mut out);
                black_box(&out);
            }
            redactor.finish(&mut out);
        });
    });
    group.bench_function("daachorse find", |bencher| {
        let search: DoubleArrayAhoCorasick<u32> =
            DoubleArrayAhoCorasick::new(&patterns).expect("it is built");
        bencher.iter(|| search.find_overlapping_iter(black_box(log)).count());
    });
    group.bench_function("aho-corasick replace", |bencher| {
        let search = AhoCorasick::new(&patterns).expect("it is built");
        let marks = vec!["***"; patterns.len()];
        // A sixteenth of the text: it takes seconds for all of it.
        let part = &log[..log.len() / 16];
        bencher.iter_custom(|times| {
            let start = std::time::Instant::now();
            for _ in 0..times {
                search
                    .try_stream_replace_all(black_box(part), io::sink(), &marks)
                    .expect("memory can be read");
            }
            start.elapsed() * 16
        });
    });
}

fn build(criterion: &mut Criterion, secrets: &[String]) {
    let mut group = criterion.benchmark_group("mask");
    group.bench_function("built for 100 secrets", |bencher| {
        bencher.iter_batched(
            || secrets.to_vec(),
            |secrets| masker(&secrets).redactor(),
            BatchSize::PerIteration,
        );
    });
}
