//! The list of a repository's secrets, as somebody writes it who has the key: it is what it looks like, or nothing.
#![no_main]

use ci_secrets::conformance::rewritten_manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(again) = rewritten_manifest(bytes) {
        assert_eq!(again, bytes, "two ways to write one list");
    }
});
