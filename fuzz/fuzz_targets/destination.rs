//! Destinations as jobs ask for them: what is taken has one spelling, and means the same to everybody who reads it.
#![no_main]

use ci_core::network::{Endpoint, Host};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for endpoint in [text.parse::<Endpoint>(), Endpoint::parse(text, Some(80))].into_iter().flatten() {
        let shown = endpoint.to_string();
        assert!(shown.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".:-[]".contains(&byte)));
        assert_eq!(shown.parse::<Endpoint>().expect("its own text"), endpoint);
        match endpoint.host {
            // What the C library would take for an address is none of a host's names.
            Host::Name(name) => {
                let last = name.as_str().rsplit('.').next().unwrap_or_default();
                let digits = last.strip_prefix("0x").unwrap_or("x");
                assert!(!last.bytes().all(|byte| byte.is_ascii_digit()) && !digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
            }
            Host::Address(address) => assert_eq!(address, address.to_canonical()),
        }
    }
});
