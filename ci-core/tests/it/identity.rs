//! Identity tokens and SSH keys, checked as a stranger would.

use std::time::Duration;

use ci_core::id::StepName;
use ci_core::identity::{Audience, TokenIssuer as _};
use ci_core::memory::{Rig, Signer, Tokens};
use ci_core::secret::SshSigner as _;
use ci_core::trust::Origin;
use ci_core::{ErrorKind, Result};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::Value;

use crate::{ours, refused, theirs, writer};

fn decoded(text: &str) -> Vec<u8> {
    BASE64URL_NOPAD.decode(text.as_bytes()).expect("base64url")
}

fn json(text: &str) -> Value {
    serde_json::from_slice(&decoded(text)).expect("JSON")
}

fn key(bytes: &[u8]) -> VerifyingKey {
    VerifyingKey::from_bytes(bytes.try_into().expect("32 bytes")).expect("a public key")
}

#[tokio::test]
async fn a_token_says_who_a_job_is_and_can_be_verified() -> Result<()> {
    let rig = Rig::new()?;
    let tokens = Tokens::new("https://ci.example.org", rig.clock.clone());
    let claim = rig.claim(&ours(), Origin::Protected, Rig::spec()).await?;
    let (step, audience) = (StepName::parse("deploy")?, Audience::parse("cloud")?);
    let token = tokens.token(&claim, &step, &audience, Duration::from_hours(1)).await?;
    let token = String::from_utf8_lossy(token.expose()).into_owned();
    let [header, claims, signature] = *token.split('.').collect::<Vec<_>>() else { panic!("{token}") };

    let keys: Value = serde_json::from_str(&tokens.jwks().await?).expect("JSON");
    let public = &keys["keys"][0];
    assert_eq!(json(header)["kid"], public["kid"]);
    assert_eq!(json(header)["alg"], "EdDSA");
    let signature = Signature::from_slice(&decoded(signature)).expect("a signature");
    let signed = format!("{header}.{claims}");
    let public = key(&decoded(public["x"].as_str().expect("a key")));
    assert!(public.verify_strict(signed.as_bytes(), &signature).is_ok());

    let claims = json(claims);
    for (name, expected) in [
        ("iss", "https://ci.example.org"),
        ("sub", "acme/memory/1"),
        ("aud", "cloud"),
        ("tenant", "acme"),
        ("repository", "1"),
        ("commit", claim.code().commit().as_str()),
        ("trust", "protected"),
        ("job", claim.job().as_str()),
        ("step", "deploy"),
    ] {
        assert_eq!(claims[name], expected, "{name}");
    }
    let number = |name: &str| claims[name].as_u64().expect("a number");
    assert_eq!(number("exp") - number("iat"), 600, "at most ten minutes");
    rig.clock.advance(Duration::from_secs(30));
    assert_eq!(
        refused(tokens.token(&claim, &step, &audience, Duration::from_mins(1)).await),
        ErrorKind::Fenced
    );
    Ok(())
}

#[tokio::test]
async fn a_signature_is_of_the_repository_s_key() -> Result<()> {
    let rig = Rig::new()?;
    let signer = Signer::new();
    let public = async |repository| -> Result<VerifyingKey> {
        let line = signer.public_key(&writer(&rig, &repository).await?.lower()).await?;
        let blob = BASE64.decode(line.split(' ').nth(1).expect("two words").as_bytes()).expect("base64");
        Ok(key(&blob[blob.len() - 32..]))
    };
    let claim = rig.claim(&ours(), Origin::Fork, Rig::spec()).await?;
    let signature = Signature::from_bytes(&signer.sign(&claim, b"data").await?);
    assert!(public(ours()).await?.verify_strict(b"data", &signature).is_ok());
    assert!(public(theirs()).await?.verify_strict(b"data", &signature).is_err());
    rig.clock.advance(Duration::from_secs(30));
    assert_eq!(refused(signer.sign(&claim, b"data").await), ErrorKind::Fenced);
    Ok(())
}
