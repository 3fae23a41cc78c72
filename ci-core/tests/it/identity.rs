//! Identity tokens and SSH keys, checked as a stranger would.

use std::time::Duration;

use ci_core::clock::Clock as _;
use ci_core::forge::{self, Revision, RevisionName};
use ci_core::id::{CommitId, StepName};
use ci_core::identity::{Audience, IssuerUrl, Statement, TokenIssuer as _};
use ci_core::memory::{Rig, Signer, Tokens};
use ci_core::queue::NewJob;
use ci_core::secret::{SshPublicKey, SshSigner as _};
use ci_core::trust::Origin;
use ci_core::{ErrorKind, External, Result};
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
    let tokens = Tokens::new(IssuerUrl::parse("https://ci.example.org")?, rig.clock.clone());
    let claim = rig.claim(&ours(), Origin::Protected, Rig::spec()).await?;
    let (step, audience) = (StepName::parse("test")?, Audience::parse("cloud")?);
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
    let run = format!("{}.1", claim.job());
    assert_eq!(claims["caches"], Value::Array(vec![]));
    for (name, expected) in [
        ("iss", "https://ci.example.org"),
        ("sub", "repository/acme/memory/1/trust/protected"),
        ("aud", "cloud"),
        ("tenant", "acme"),
        ("repository", "1"),
        ("commit", claim.code().commit().as_str()),
        ("trust", "protected"),
        ("job", claim.job().as_str()),
        ("run", run.as_str()),
        ("step", "test"),
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

/// What the token of a job says whose code was found on the branch `main`.
async fn said_of_main(origin: Origin) -> Result<Value> {
    let rig = Rig::new()?;
    let name = RevisionName::parse("main")?;
    let commit = CommitId::parse("a".repeat(40))?;
    let found = Revision::new(commit, origin).with_reference(External::new("main"));
    rig.forge.add_commit::<String, &str>(&ours(), found, [])?;
    let grant = writer(&rig, &ours()).await?;
    let code = forge::resolve(rig.forge.as_ref(), grant.scope()?, &rig.sandboxes, &name).await?;
    rig.dispatcher.enqueue(&NewJob::requested(&grant, code, Rig::spec())?).await?;
    let claim = rig.dispatcher.next(&[]).await?.expect("the job");
    let (issuer, step) = (IssuerUrl::parse("https://ci.example.org")?, StepName::parse("test")?);
    let audience = Audience::parse("cloud")?;
    let said = Statement::new(&issuer, &claim, &step, &audience, Duration::from_mins(1), rig.clock.now())?;
    Ok(serde_json::to_value(&said).expect("JSON"))
}

#[tokio::test]
async fn only_a_branch_of_the_repository_is_named() -> Result<()> {
    assert_eq!(said_of_main(Origin::Protected).await?["ref"], "main");
    assert_eq!(said_of_main(Origin::Repository).await?["ref"], "main");
    let fork = said_of_main(Origin::Fork).await?;
    assert!(fork.get("ref").is_none(), "a fork's branch can have any name: {fork}");
    Ok(())
}

#[tokio::test]
async fn a_signature_is_of_the_repository_s_key() -> Result<()> {
    let rig = Rig::new()?;
    let signer = Signer::new();
    let public = async |repository| -> Result<VerifyingKey> {
        let keys = signer.public_keys(&writer(&rig, &repository).await?.lower()).await?;
        let line = keys[0].to_string();
        let blob = BASE64.decode(line.split(' ').nth(1).expect("two words").as_bytes()).expect("base64");
        Ok(key(&blob[blob.len() - 32..]))
    };
    let claim = rig.claim(&ours(), Origin::Fork, Rig::spec()).await?;
    assert_eq!(refused(signer.identity(&claim).await), ErrorKind::NotFound, "nobody could have installed it");
    let (right, wrong) = (public(ours()).await?, public(theirs()).await?);
    let identity = signer.identity(&claim).await?;
    assert_eq!(identity.as_ed25519(), right.as_bytes());
    let signature = Signature::from_bytes(&signer.sign(&claim, &identity, b"data").await?);
    assert!(right.verify_strict(b"data", &signature).is_ok());
    assert!(wrong.verify_strict(b"data", &signature).is_err());
    let other = SshPublicKey::from_ed25519(wrong.to_bytes());
    assert_eq!(refused(signer.sign(&claim, &other, b"data").await), ErrorKind::NotFound);
    rig.clock.advance(Duration::from_secs(30));
    assert_eq!(refused(signer.sign(&claim, &identity, b"data").await), ErrorKind::Fenced);
    Ok(())
}
