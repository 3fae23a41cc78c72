use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, proptest};
use proptest::prop_oneof;

use super::suite::Cipher;
use super::*;

/// Every suite of this build.
const SUITES: &[Suite] = &[
    Suite::XChaCha20Poly1305,
    #[cfg(feature = "aws-lc")]
    Suite::Aes256Gcm,
];

fn context() -> Context {
    Context::new("test").field("repository").field("name")
}

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER_PERMISSIVE
        .decode(text.replace([' ', '\n'], "").as_bytes())
        .expect("hexadecimal digits")
}

fn fixed_key(suite: Suite) -> DataKey {
    let key = std::array::from_fn(|index| u8::try_from(index).expect("small"));
    let id = KeyId::parse("00112233445566778899aabbccddeeff").expect("an id");
    DataKey::new(id, SecretBox::new(Box::new(key))).with_suite(suite)
}

fn kind(opened: Result<Opened>) -> ErrorKind {
    opened.expect_err("noticed").kind()
}

#[test]
fn every_flipped_bit_is_noticed() {
    for suite in SUITES {
        let key = DataKey::random().with_suite(*suite);
        let sealed = key.seal(&context(), b"secret");
        for (index, bit) in (0..sealed.len()).flat_map(|index| (0..8).map(move |bit| (index, bit))) {
            let mut bad = sealed.to_vec();
            bad[index] ^= 1 << bit;
            assert_eq!(kind(key.open(&context(), &bad)), ErrorKind::Tampered, "{suite:?} {index} {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(kind(key.open(&context(), &sealed[..length])), ErrorKind::Tampered);
        }
    }
}

#[test]
fn content_of_one_suite_is_not_passed_off_as_that_of_another() {
    for suite in SUITES {
        let key = DataKey::random().with_suite(*suite);
        let sealed = key.seal(&context(), b"secret");
        for other in 0..=255 {
            let mut bad = sealed.to_vec();
            bad[1] = other;
            let is_one = SUITES.iter().any(|suite| suite.id() == other);
            match key.open(&context(), &bad) {
                Ok(_) => assert_eq!(other, suite.id()),
                Err(error) if is_one => assert_eq!(error.kind(), ErrorKind::Tampered),
                Err(error) if other == 2 => assert_eq!(error.kind(), ErrorKind::Unsupported),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Tampered),
            }
        }
    }
}

#[cfg(not(feature = "aws-lc"))]
#[test]
fn a_suite_that_the_build_lacks_is_refused_with_the_feature_that_brings_it() {
    let key = fixed_key(Suite::default());
    let mut sealed = key.seal(&context(), b"secret").to_vec();
    sealed[1] = 2;
    let told = [
        key.open(&context(), &sealed).map(drop),
        key_id(&sealed).map(drop),
        ChunkOpener::new(&key, &context(), sealed.first_chunk().expect("a header")).map(drop),
    ];
    for told in told {
        let error = told.expect_err("it cannot be opened here");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("the feature `aws-lc`"), "{error}");
    }
}

#[test]
fn another_key_under_the_same_id_does_not_open() {
    let key = DataKey::random();
    let other = DataKey::new(key.id().clone(), SecretBox::new(Box::new([7; 32])));
    assert!(other.open(&context(), &key.seal(&context(), b"x")).is_err());
}

#[test]
fn the_commitment_is_checked_by_itself() {
    // The ciphertext is right and only the commitment is wrong: without the check this would open.
    for suite in SUITES {
        let key = DataKey::random().with_suite(*suite);
        let mut sealed = key.seal(&context(), b"x").to_vec();
        sealed[HEADER - 1] ^= 1;
        assert!(key.open(&context(), &sealed).is_err());
    }
}

#[test]
fn no_two_lists_of_fields_look_the_same() {
    assert_ne!(Context::new("a").field("bc"), Context::new("ab").field("c"));
    assert_ne!(Context::new("a").field(""), Context::new("a"));
}

#[test]
fn chunks_open_in_their_order_only() {
    for suite in SUITES {
        let key = DataKey::random().with_suite(*suite);
        let (mut sealer, header) = ChunkSealer::new(&key, &context());
        let mut chunks = [b"one".to_vec(), b"two".to_vec(), b"end".to_vec()];
        for (index, chunk) in chunks.iter_mut().enumerate() {
            sealer.seal(chunk, if index == 2 { Place::Last } else { Place::Inner });
        }
        let opener = || ChunkOpener::new(&key, &context(), &header).expect("the header is right");
        let mut right = opener();
        assert_eq!(*right.open(&chunks[0], Place::Inner).expect("first"), b"one");
        assert_eq!(*right.open(&chunks[1], Place::Inner).expect("second"), b"two");
        assert_eq!(*right.open(&chunks[2], Place::Last).expect("last"), b"end");
        assert!(opener().open(&chunks[1], Place::Inner).is_err(), "reordered");
        assert!(opener().open(&chunks[0], Place::Last).is_err(), "cut short");
        assert!(ChunkOpener::new(&key, &Context::new("other"), &header).is_err());
    }
}

#[test]
fn a_record_is_no_chunk() {
    for suite in SUITES {
        let key = DataKey::random().with_suite(*suite);
        let sealed = key.seal(&context(), b"record");
        let (header, _) = sealed.split_first_chunk().expect("a header");
        assert!(ChunkOpener::new(&key, &context(), header).is_err());
        let (mut sealer, header) = ChunkSealer::new(&key, &context());
        let mut chunk = b"chunk".to_vec();
        sealer.seal(&mut chunk, Place::Inner);
        assert!(key.open(&context(), &[&header[..], &chunk].concat()).is_err());
    }
}

#[test]
fn the_key_id_is_read_without_a_key() {
    for suite in SUITES {
        let key = DataKey::random().with_suite(*suite);
        assert_eq!(&key_id(&key.seal(&context(), b"x")).expect("an id"), key.id());
    }
    assert!(key_id(b"\x01\x09 not ours, although long enough").is_err());
    assert!(key_id(&[1; 17]).is_err());
}

#[test]
fn a_derived_key_seals_with_the_same_suite() {
    for suite in SUITES {
        let key = DataKey::random().with_suite(*suite).derive(&context());
        assert_eq!(key.seal(&context(), b"x")[1], suite.id());
    }
}

#[test]
fn what_was_opened_is_not_shown() {
    let key = DataKey::random();
    let plain = key.open(&context(), &key.seal(&context(), b"hunter2")).expect("it opens");
    assert_eq!(format!("{plain:?}"), "Opened(..)");
}

#[cfg(target_os = "linux")]
#[test]
fn what_was_opened_is_wiped_with_its_spare_room() {
    use std::os::unix::fs::FileExt as _;
    use zeroize::Zeroize as _;

    let key = DataKey::random();
    let mut plain = key.open(&context(), &key.seal(&context(), &[7; 1_000])).expect("it opens");
    plain.truncate(3);
    let memory = std::fs::File::open("/proc/self/mem").expect("our own memory");
    let mut seen = vec![1; plain.capacity()];
    let place = plain.as_ptr() as u64;
    plain.zeroize();
    memory.read_exact_at(&mut seen, place).expect("it is still ours");
    assert!(seen.len() >= 1_000 && seen.iter().all(|byte| *byte == 0));
}

proptest! {
    /// Whatever an attacker changes, cuts off, or takes from another content of the same place: it does not open.
    #[test]
    fn no_altered_content_opens(
        suite in proptest::sample::select(SUITES),
        (one, two) in (vec(any::<u8>(), 0..200), vec(any::<u8>(), 0..200)),
        harm in harms(),
    ) {
        let key = fixed_key(suite);
        let (one, two) = (key.seal(&context(), &one), key.seal(&context(), &two));
        let bad = harm.done_to(&one, &two);
        if bad != one && bad != two {
            assert_eq!(kind(key.open(&context(), &bad)), ErrorKind::Tampered, "{harm:?}");
        }
    }

    #[test]
    fn what_is_sealed_opens_there_and_nowhere_else(
        suite in proptest::sample::select(SUITES),
        plain in vec(any::<u8>(), 0..2_000),
        (here, there) in (vec(vec(any::<u8>(), 0..4), 0..4), vec(vec(any::<u8>(), 0..4), 0..4)),
    ) {
        let place = |fields: &[Vec<u8>]| fields.iter().fold(Context::new("test"), Context::field);
        let key = fixed_key(suite);
        let sealed = key.seal(&place(&here), &plain);
        assert_eq!(*key.open(&place(&here), &sealed).expect("it opens"), plain);
        assert_eq!(key.open(&place(&there), &sealed).is_ok(), here == there);
    }
}

#[derive(Clone, Debug)]
enum Harm {
    Flip {
        at: proptest::sample::Index,
        bit: u8,
    },
    Cut {
        at: proptest::sample::Index,
    },
    Splice {
        at: proptest::sample::Index,
    },
    /// One field of the header is another content's.
    Field {
        from: usize,
        to: usize,
    },
    Add(Vec<u8>),
}

fn harms() -> impl Strategy<Value = Harm> {
    let at = any::<proptest::sample::Index>;
    prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Harm::Flip { at, bit }),
        at().prop_map(|at| Harm::Cut { at }),
        at().prop_map(|at| Harm::Splice { at }),
        Just(Harm::Field { from: 2 + KEY_ID, to: 2 + KEY_ID + SALT }),
        Just(Harm::Field { from: 2 + KEY_ID + SALT, to: HEADER }),
        Just(Harm::Field { from: 0, to: HEADER }),
        vec(any::<u8>(), 1..40).prop_map(Harm::Add),
    ]
}

impl Harm {
    fn done_to(&self, one: &[u8], two: &[u8]) -> Vec<u8> {
        let mut bad = one.to_vec();
        match self {
            Self::Flip { at, bit } => bad[at.index(one.len())] ^= 1 << bit,
            Self::Cut { at } => bad.truncate(at.index(one.len())),
            Self::Splice { at } => {
                let at = at.index(one.len().min(two.len()));
                bad.truncate(at);
                bad.extend_from_slice(&two[at..]);
            }
            Self::Field { from, to } => bad[*from..*to].copy_from_slice(&two[*from..*to]),
            Self::Add(more) => bad.extend_from_slice(more),
        }
        bad
    }
}

/// Content that was stored yesterday opens tomorrow: what these bytes are must never change. They were checked with an
/// implementation of HKDF and of the ciphers that is not ours.
#[test]
fn the_format_is_what_it_was() {
    let here = Context::new("test").field("here");
    let salt = [0x5a; SALT];
    for (suite, record, chunk) in pinned() {
        let key = fixed_key(suite);
        let sealed = seal_behind(Derived::salted(&key, Shape::Record, &here, &salt), b"a pinned record");
        assert_eq!(data_encoding::HEXLOWER.encode(&sealed), record.replace(['\n', ' '], ""), "{suite:?}");
        assert_eq!(*key.open(&here, &hex(record)).expect("it opens"), b"a pinned record");

        let (derived, header) = Derived::salted(&key, Shape::Chunks, &here, &salt);
        let mut sealed = b"the last chunk".to_vec();
        let tag = derived.encrypt(Nonce::of_chunk(1, true), &mut sealed);
        let sealed = [&header[..], &sealed, &tag].concat();
        assert_eq!(data_encoding::HEXLOWER.encode(&sealed), chunk.replace(['\n', ' '], ""), "{suite:?}");
    }
}

fn pinned() -> Vec<(Suite, &'static str, &'static str)> {
    vec![
        (
            Suite::XChaCha20Poly1305,
            "010100112233445566778899aabbccddeeff5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
             5a5a5a5a5a5a5a5a5a5a5a5a5a5af7737811c7785ae6c7679f6cb1a52e0fdc73d6c7c3e7
             dbad0e278c9b493ad0d784a4bc73808ffa94628e1548bb1987bd7cbd74fed6451d8956ab
             e015a3fe99",
            "010100112233445566778899aabbccddeeff5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
             5a5a5a5a5a5a5a5a5a5a5a5a5a5abd0eb2880cf06ca527329ce7f26584e1c07629586127
             709314682ea6e2ef70677d0586b092e2588f29f77a310b0a583bcd019dc6cb4fa97220e4
             1bef4c88",
        ),
        #[cfg(feature = "aws-lc")]
        (
            Suite::Aes256Gcm,
            "010200112233445566778899aabbccddeeff5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
             5a5a5a5a5a5a5a5a5a5a5a5a5a5aff5da8fed43c4c51d2f9950bf6536e3086afa21c6050
             7d2f0310832f624e1d05b0a2bdb6a7afd7a295c7d29605b547695280a5f8a03752da935a
             dfcc0b2487",
            "010200112233445566778899aabbccddeeff5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a
             5a5a5a5a5a5a5a5a5a5a5a5a5a5ae7d0a156b440a2e9ab4607af1a7d3f05a916d88975ec
             a3bb444f1758672466e75678b1ca3d99a45e07e8f0f169f86df9666fc5e61555fad04232
             dabd7de7",
        ),
    ]
}

/// RFC 5869, appendix A.1.
#[test]
fn keys_are_derived_as_the_standard_says() {
    let mut out = [0; 42];
    expand(
        &[0x0b; 22],
        &hex("000102030405060708090a0b0c"),
        &[&hex("f0f1f2f3f4"), &hex("f5f6f7f8f9")],
        &mut out,
    );
    let expected = "3cb25f25faacd57a90434f64d0362f2a 2d2d0a90cf1a5a4c5db02d56ecc4c5bf 34007208d5b887185865";
    assert_eq!(out.to_vec(), hex(expected));
}

fn check_cipher(suite: Suite, [key, nonce, associated, plain, sealed]: [&str; 5]) {
    let (nonce, associated, plain) = (hex(nonce), hex(associated), hex(plain));
    let mut all = [0; 24];
    all[24 - nonce.len()..].copy_from_slice(&nonce);
    let cipher = Cipher::new(suite, hex(key).as_slice().try_into().expect("32 bytes"));
    let mut found = plain.clone();
    let tag = cipher.encrypt(Nonce(all), &associated, &mut found);
    found.extend_from_slice(&tag);
    assert_eq!(found, hex(sealed));
    assert_eq!(*cipher.decrypt(Nonce(all), &associated, &found).expect("it opens"), plain);
    for index in 0..found.len() {
        let mut bad = found.clone();
        bad[index] ^= 0x80;
        assert!(cipher.decrypt(Nonce(all), &associated, &bad).is_err(), "byte {index}");
    }
}

/// draft-irtf-cfrg-xchacha-03, appendix A.3.1.
#[test]
fn xchacha20_poly1305_is_what_its_draft_says() {
    let key = "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f";
    let nonce = "404142434445464748494a4b4c4d4e4f5051525354555657";
    let plain = "4c616469657320616e642047656e746c656d656e206f662074686520636c6173
                 73206f66202739393a204966204920636f756c64206f6666657220796f75206f
                 6e6c79206f6e652074697020666f7220746865206675747572652c2073756e73
                 637265656e20776f756c642062652069742e";
    let sealed = "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb
                  731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452
                  2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9
                  21f9664c97637da9768812f615c68b13b52e
                  c0875924c1c7987947deafd8780acf49";
    let associated = "50515253c0c1c2c3c4c5c6c7";
    check_cipher(Suite::XChaCha20Poly1305, [key, nonce, associated, plain, sealed]);
}

/// "The Galois/Counter Mode of Operation", which is what NIST SP 800-38D is from: test case 16.
#[cfg(feature = "aws-lc")]
#[test]
fn aes_256_gcm_is_what_its_authors_say() {
    let key = "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308";
    let plain = "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
                 1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39";
    let sealed = "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
                  8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662
                  76fc6ece0f4e1768cddf8853bb2d551b";
    let associated = "feedfacedeadbeeffeedfacedeadbeefabaddad2";
    check_cipher(Suite::Aes256Gcm, [key, "cafebabefacedbaddecaf888", associated, plain, sealed]);
}
