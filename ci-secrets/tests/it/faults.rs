//! What somebody gets who can write to the database, or set secrets of their own.

use ci_core::ErrorKind;
use ci_core::secret::{Masker as _, SecretStore as _, SecretValue};
use ci_secrets::PlainMasker;

use crate::bench::{Bench, name, repository, row};

/// Versions begin again at 1 when a secret is deleted and set anew.
#[tokio::test]
async fn a_value_from_before_a_deletion_cannot_be_put_back() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", "leaked, and revoked").await;
    let earlier = bench.read(&row(&ours, "value", "TOKEN")).await;
    bench.vault.delete(&bench.grant(&ours).await, &name("TOKEN")).await.expect("deleted");
    bench.put(&ours, "TOKEN", "the new one").await;
    bench.write(&row(&ours, "value", "TOKEN"), earlier).await;
    let value = bench.value(&ours, "TOKEN").await.map(|value| String::from_utf8_lossy(&value).into_owned());
    assert_eq!(value.as_ref().err().map(ci_core::Error::kind), Some(ErrorKind::Tampered), "{value:?}");
}

/// However text is cut, and whatever is learned: no byte that a naive search finds comes out.
#[test]
fn the_masker_does_what_a_naive_one_does() {
    let mut number = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |most: u64| {
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
        usize::try_from(number % most).expect("small")
    };
    for round in 0..20_000 {
        let letters: &[u8] = [&b"ab"[..], b"abc", b"ab\n", b"a\r\n b", b"\0\xff "][random(5)];
        let text = |random: &mut dyn FnMut(u64) -> usize, most: u64| -> Vec<u8> {
            let length = random(most);
            (0..length).map(|_| letters[random(letters.len() as u64)]).collect()
        };
        let values: Vec<Vec<u8>> = (0..=random(4)).map(|_| text(&mut random, 14)).collect();
        let input = text(&mut random, 80);
        let mut patterns: Vec<&[u8]> = Vec::new();
        for value in &values {
            patterns.push(value.trim_ascii());
            patterns.extend(value.split(|b| matches!(b, b'\n' | b'\r')).map(<[u8]>::trim_ascii));
        }
        patterns.retain(|pattern| pattern.len() >= PlainMasker::SHORTEST);
        let mut hidden = vec![false; input.len()];
        for pattern in &patterns {
            for at in 0..input.len() {
                if input[at..].starts_with(pattern) {
                    hidden[at..at + pattern.len()].fill(true);
                }
            }
        }
        let mut expected = Vec::new();
        for (index, byte) in input.iter().enumerate() {
            match hidden[index] {
                false => expected.push(*byte),
                true if index == 0 || !hidden[index - 1] => expected.extend_from_slice(b"***"),
                true => {}
            }
        }
        let masker = PlainMasker::new();
        for value in &values {
            masker.learn(&SecretValue::new(value.clone()));
        }
        let (mut redactor, mut out, mut at) = (masker.redactor(), Vec::new(), 0);
        while at < input.len() {
            let until = (at + random(9)).min(input.len());
            redactor.push(&input[at..until], &mut out);
            at = until;
        }
        redactor.finish(&mut out);
        assert_eq!(out, expected, "round {round}: {values:?} in {input:?}");
    }
}
