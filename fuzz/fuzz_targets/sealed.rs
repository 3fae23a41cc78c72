//! Sealed records and chunks from a store that somebody else can write: they open as what was sealed, or not at all.
#![no_main]

use ci_core::id::KeyId;
use ci_core::seal::{CHUNK_HEADER, ChunkOpener, Context, DataKey, key_id};
use libfuzzer_sys::fuzz_target;
use secrecy::SecretBox;

fuzz_target!(|input: (Vec<u8>, Vec<u8>, usize, u8)| {
    let (plain, forged, at, flip) = input;
    let key = DataKey::new(KeyId::parse("0".repeat(32)).expect("an id"), SecretBox::new(Box::new([7; 32])));
    let here = Context::new("fuzz").field("here");
    assert!(key.open(&here, &forged).is_err(), "made up");
    let _ = key_id(&forged);
    if let Ok(header) = <&[u8; CHUNK_HEADER]>::try_from(&forged[..forged.len().min(CHUNK_HEADER)]) {
        assert!(ChunkOpener::new(&key, &here, header).is_err(), "made up");
    }
    let sealed = key.seal(&here, &plain);
    assert_eq!(*key.open(&here, &sealed).expect("what was sealed"), plain);
    let mut changed = sealed.to_vec();
    let at = at % changed.len();
    changed[at] ^= flip;
    assert_eq!(key.open(&here, &changed).is_ok(), flip == 0, "changed");
});
