//! A layer of an image, however it is compressed: no bytes break what decompresses and reads it, and none of it takes
//! more than was allowed.
#![no_main]

use std::io::Read;

use libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../ci-sandbox/src/native/image/format.rs"]
mod format;
#[allow(dead_code)]
#[path = "../../ci-sandbox/src/native/image/stream.rs"]
mod stream;

/// What a layer may come to.
const BUDGET: u64 = 1 << 20;

fuzz_target!(|input: &[u8]| {
    let Ok(content) = stream::decompressed(input) else { return };
    let mut left = BUDGET;
    let mut content = stream::Budgeted { inner: content, left: &mut left };
    let mut buffer = [0; 4096];
    let mut total = 0;
    while let Ok(read @ 1..) = content.read(&mut buffer) {
        total += read as u64;
    }
    assert!(total <= BUDGET);
});
