//! Sealed records and chunks of every suite, from a store that somebody else can write: they open as what was sealed, or not
//! at all.
#![no_main]

use arbitrary::Arbitrary;
use ci_core::id::KeyId;
use ci_core::seal::{CHUNK_HEADER, ChunkOpener, ChunkSealer, Context, DataKey, Place, Suite, key_id};
use libfuzzer_sys::fuzz_target;
use secrecy::SecretBox;

#[derive(Arbitrary, Debug)]
struct Input {
    is_aes: bool,
    plain: Vec<u8>,
    forged: Vec<u8>,
    at: usize,
    flip: u8,
    chunks: Vec<Vec<u8>>,
    /// Which chunk is read when, and whether it is said to be the last one.
    order: Vec<(u8, bool)>,
}

fuzz_target!(|input: Input| {
    let suite = if input.is_aes { Suite::Aes256Gcm } else { Suite::XChaCha20Poly1305 };
    let id = KeyId::parse("0".repeat(32)).expect("an id");
    let key = DataKey::new(id, SecretBox::new(Box::new([7; 32]))).with_suite(suite);
    let here = Context::new("fuzz").field("here");
    records(&key, &here, &input);
    chunks(&key, &here, &input);
});

fn records(key: &DataKey, here: &Context, input: &Input) {
    let Input { plain, forged, at, flip, .. } = input;
    assert!(key.open(here, forged).is_err(), "made up");
    let _ = key_id(forged);
    if let Some(header) = forged.first_chunk::<CHUNK_HEADER>() {
        assert!(ChunkOpener::new(key, here, header).is_err(), "made up");
    }
    let sealed = key.seal(here, plain);
    assert_eq!(key_id(&sealed).expect("an id"), *key.id());
    assert_eq!(*key.open(here, &sealed).expect("what was sealed"), *plain);
    let mut changed = sealed.to_vec();
    let at = at % changed.len();
    changed[at] ^= flip;
    assert_eq!(key.open(here, &changed).is_ok(), *flip == 0, "changed");
    assert!(key.open(here, &sealed[..at]).is_err(), "cut off");
    let spliced = [&sealed[..at], forged].concat();
    assert_eq!(key.open(here, &spliced).is_ok(), spliced == sealed, "spliced");
}

fn chunks(key: &DataKey, here: &Context, input: &Input) {
    let count = input.chunks.len().min(8);
    let (mut sealer, header) = ChunkSealer::new(key, here);
    let sealed: Vec<Vec<u8>> = (1..=count)
        .map(|number| {
            let mut chunk = input.chunks[number - 1].clone();
            sealer.seal(&mut chunk, if number == count { Place::Last } else { Place::Inner });
            chunk
        })
        .collect();
    let mut opener = ChunkOpener::new(key, here, &header).expect("its own header");
    let mut next = 0;
    for (which, is_last) in &input.order {
        let Some(chunk) = sealed.get(usize::from(*which)) else { continue };
        let place = if *is_last { Place::Last } else { Place::Inner };
        let is_next = usize::from(*which) == next && *is_last == (next + 1 == count);
        match opener.open(chunk, place) {
            Ok(plain) => {
                assert!(is_next, "out of order");
                assert_eq!(*plain, input.chunks[next]);
                next += 1;
            }
            Err(_) => assert!(!is_next, "in order"),
        }
    }
    if let Some(last) = sealed.last() {
        let mut changed = last.clone();
        let at = input.at % changed.len();
        changed[at] ^= input.flip | 1;
        let mut opener = ChunkOpener::new(key, here, &header).expect("its own header");
        for chunk in &sealed[..count - 1] {
            opener.open(chunk, Place::Inner).expect("in order");
        }
        assert!(opener.open(&changed, Place::Last).is_err(), "changed");
        assert!(opener.open(&last[..at], Place::Last).is_err(), "cut off");
        opener.open(last, Place::Last).expect("a chunk that was refused is not counted");
    }
}
