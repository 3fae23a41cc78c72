//! What an audit log's store holds, when somebody else has written to it: entries that are the next ones or refused, ends and
//! checkpoints that are what was signed or refused.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use ci_core::audit::{Chain, Checkpoint, Head, SigningKey, VerifyingKey};
use ci_core::id::{Digest, TenantId};
use ci_core::secret::SecretValue;
use libfuzzer_sys::fuzz_target;

/// The example in the documentation of Go's `sumdb/note`: a key that is no secret.
static KEY: LazyLock<SigningKey> = LazyLock::new(|| {
    let text = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";
    SigningKey::parse(&SecretValue::new(text)).expect("a key")
});

#[derive(Arbitrary, Debug)]
struct Input {
    /// Stored as they are, each at the place that comes next.
    raw: Vec<Vec<u8>>,
    /// Entries whose frame is right.
    framed: Vec<Framed>,
    text: String,
}

#[derive(Arbitrary, Debug)]
struct Framed {
    number: Option<u64>,
    previous: Option<[u8; 32]>,
    at: u64,
    action: String,
    actor: String,
    about: Vec<(String, String)>,
    flip: Option<(usize, u8)>,
}

fuzz_target!(|input: Input| {
    let mut chain = Chain::new();
    for stored in &input.raw {
        push(&mut chain, stored);
    }
    for framed in input.framed.iter().take(16) {
        let stored = framed.stored_behind(chain.head());
        push(&mut chain, &stored);
        // The same once more is never the next one.
        if !input.raw.contains(&stored) {
            assert!(chain.clone().push(&stored).is_err(), "repeated");
        }
    }
    if let Ok(head) = Head::parse(&input.text) {
        assert_eq!(head.to_string(), input.text);
    }
    if let Ok(key) = VerifyingKey::parse(&input.text) {
        assert_eq!(key.to_string(), input.text);
    }
    let _ = SigningKey::parse(&SecretValue::new(input.text.as_bytes()));
    let public = KEY.verifying_key(&TenantId::parse("acme").expect("a tenant"));
    assert!(Checkpoint::open(&input.text, &public).is_err(), "nobody has signed it");
    let looks_signed = format!("{}\n{}\n\u{2014} {} {}\n", public.name(), input.text, public.name(), input.text);
    assert!(Checkpoint::open(&looks_signed, &public).is_err(), "nobody has signed it");
});

/// Either it is the next one, or nothing has changed.
fn push(chain: &mut Chain, stored: &[u8]) {
    let (before, root) = (chain.head().clone(), chain.root());
    match chain.push(stored) {
        Ok(logged) => {
            assert_eq!((logged.number, &logged.previous), (before.count, &before.hash));
            assert_eq!(chain.head().count, before.count + 1);
            assert_eq!(chain.head().hash, Digest::of(stored));
            assert_ne!(chain.root(), root);
        }
        Err(_) => assert_eq!((chain.head(), chain.root()), (&before, root)),
    }
}

impl Framed {
    fn stored_behind(&self, head: &Head) -> Vec<u8> {
        let previous = self.previous.map_or_else(|| head.hash.clone(), Digest::from_sha256);
        let entry = serde_json::json!({ "action": self.action, "actor": self.actor, "about": self.about });
        let logged = serde_json::json!({
            "number": self.number.unwrap_or(head.count), "at": self.at, "previous": previous, "entry": entry,
        });
        let mut stored = serde_json::to_vec(&logged).expect("JSON");
        if let Some((at, flip)) = self.flip {
            let at = at % stored.len();
            stored[at] ^= flip;
        }
        stored
    }
}
