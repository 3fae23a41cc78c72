//! What every issuer of identity tokens must do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use ci_core::ErrorKind;
use ci_core::id::StepName;
use ci_core::identity::{Audience, MOST_TTL, TokenIssuer};
use ci_core::memory::Rig;
use ci_core::queue::Claim;
use ci_core::secret::SecretValue;
use ci_core::trust::Origin;
use data_encoding::BASE64URL_NOPAD;
use serde_json::Value;

use super::{refused, repository, rig};

ci_core::declare_kit! {
    /// Runs every case about issuers of identity tokens; takes a closure that makes an `Arc<dyn TokenIssuer>` from which
    /// jobs of trusted code get tokens for `https://cloud.example.org`.
    token_issuer_kit for ci_secrets::conformance::token_issuer {
        a_token_verifies_with_the_published_keys,
        a_token_says_whose_it_is,
        a_token_lives_as_long_as_it_is_asked_to,
        no_two_tokens_are_the_same,
        a_fork_s_token_says_so,
        a_step_that_is_not_there_gets_none,
        a_claim_that_is_over_gets_none,
        the_documents_fit_the_tokens,
        nothing_private_is_published,
    }
}

type Issuer = Arc<dyn TokenIssuer>;
const MINUTE: Duration = Duration::from_mins(1);

fn cloud() -> Audience {
    Audience::parse("https://cloud.example.org").expect("an audience")
}

fn step(name: &str) -> StepName {
    StepName::parse(name).expect("a step's name")
}

async fn claim(rig: &Rig, native: &str, origin: Origin) -> Claim {
    rig.claim(&repository(native), origin, Rig::spec()).await.expect("a claim")
}

async fn token(issuer: &Issuer, claim: &Claim, ttl: Duration) -> SecretValue {
    issuer.token(claim, &step("test"), &cloud(), ttl).await.expect("a token")
}

/// What a token says, if it verifies with exactly one key of `jwks` (RS256, ES256 or `EdDSA`): what a stranger does who
/// gets one. It looks at no times.
///
/// # Errors
///
/// What is wrong, for people.
pub fn verified(token: &[u8], jwks: &str) -> Result<Value, String> {
    let bytes =
        |text: &str| BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| "it is not base64url".to_owned());
    let json = |text: &str| serde_json::from_slice::<Value>(&bytes(text)?).map_err(|error| error.to_string());
    let token = str::from_utf8(token).map_err(|_| "it is not text")?;
    let [header, claims, signature] = *token.split('.').collect::<Vec<_>>() else {
        return Err("it does not have three parts".to_owned());
    };
    let head = json(header)?;
    let keys: Value = serde_json::from_str(jwks).map_err(|error| error.to_string())?;
    let of_id = |key: &&Value| key["kid"] == head["kid"] && key["alg"] == head["alg"];
    let found: Vec<_> = keys["keys"].as_array().into_iter().flatten().filter(of_id).collect();
    let [key] = *found else { return Err(format!("{} published keys have its id", found.len())) };
    let part = |name: &str| bytes(key[name].as_str().unwrap_or_default());
    let (message, signature) = (format!("{header}.{claims}"), bytes(signature)?);
    let done = match head["alg"].as_str() {
        Some("RS256") => {
            let key = RsaPublicKeyComponents { n: part("n")?, e: part("e")? };
            key.verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &signature)
        }
        Some("ES256") => {
            let point = [vec![4], part("x")?, part("y")?].concat();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message.as_bytes(), &signature)
        }
        Some("EdDSA") => UnparsedPublicKey::new(&ED25519, part("x")?).verify(message.as_bytes(), &signature),
        other => return Err(format!("{other:?} is no algorithm that this kit knows")),
    };
    done.map_err(|_| "its signature is wrong".to_owned())?;
    json(claims)
}

async fn said(issuer: &Issuer, token: &SecretValue) -> Value {
    let jwks = issuer.jwks().await.expect("the keys");
    verified(token.expose(), &jwks).unwrap_or_else(|wrong| panic!("the token does not verify: {wrong}"))
}

/// A stranger who has nothing but the key set can verify a token, and notices every change to it.
pub async fn a_token_verifies_with_the_published_keys(issuer: Issuer) {
    let rig = rig();
    let token = token(&issuer, &claim(&rig, "1", Origin::Protected).await, MINUTE).await;
    said(&issuer, &token).await;
    let jwks = issuer.jwks().await.expect("the keys");
    let mut altered = token.expose().to_vec();
    for place in 0..altered.len() {
        let before = altered[place];
        altered[place] = if before == b'A' { b'B' } else { b'A' };
        // The last letter of a part may have bits that mean nothing; the library refuses those as well.
        assert!(verified(&altered, &jwks).is_err(), "byte {place} can be changed");
        altered[place] = before;
    }
}

/// Everything that a verifier decides by.
pub async fn a_token_says_whose_it_is(issuer: Issuer) {
    let rig = rig();
    let claim = claim(&rig, "1", Origin::Protected).await;
    let said = said(&issuer, &token(&issuer, &claim, MINUTE).await).await;
    let run = format!("{}.1", claim.job());
    for (name, expected) in [
        ("aud", "https://cloud.example.org"),
        ("sub", "repository/acme/memory/1/trust/protected"),
        ("tenant", "acme"),
        ("forge", "memory"),
        ("repository", "1"),
        ("commit", claim.code().commit().as_str()),
        ("trust", "protected"),
        ("job", claim.job().as_str()),
        ("run", &run),
        ("step", "test"),
    ] {
        assert_eq!(said[name], expected, "the claim {name} is wrong");
    }
    assert!(said["caches"].is_array(), "it does not say which caches flowed in");
}

/// It lives for the time it is asked to, and for ten minutes at most.
pub async fn a_token_lives_as_long_as_it_is_asked_to(issuer: Issuer) {
    let rig = rig();
    let claim = claim(&rig, "1", Origin::Protected).await;
    for (asked, given) in [(Duration::from_secs(1), 1), (MINUTE, 60), (MOST_TTL, 600), (MOST_TTL * 2, 600)] {
        let said = said(&issuer, &token(&issuer, &claim, asked).await).await;
        let [exp, iat, nbf] = ["exp", "iat", "nbf"].map(|name| said[name].as_u64().expect("a number"));
        assert_eq!(exp - iat, given, "a token that was asked for {asked:?}");
        assert!(nbf <= iat, "it is not valid yet");
    }
    let none = issuer.token(&claim, &step("test"), &cloud(), Duration::from_millis(999)).await;
    refused(none, &[ErrorKind::Invalid], "a token for less than a second");
}

/// Every token has an id of its own.
pub async fn no_two_tokens_are_the_same(issuer: Issuer) {
    let rig = rig();
    let claim = claim(&rig, "1", Origin::Protected).await;
    let mut ids = BTreeSet::new();
    for _ in 0..8 {
        let said = said(&issuer, &token(&issuer, &claim, MINUTE).await).await;
        assert!(ids.insert(said["jti"].as_str().expect("an id").to_owned()), "two tokens have one id");
    }
}

/// A job of untrusted code gets no token, or one that says so and has another subject.
pub async fn a_fork_s_token_says_so(issuer: Issuer) {
    let rig = rig();
    let claim = claim(&rig, "1", Origin::Fork).await;
    match issuer.token(&claim, &step("test"), &cloud(), MINUTE).await {
        Ok(token) => {
            let said = said(&issuer, &token).await;
            assert_eq!(said["trust"], "untrusted", "a fork's token passes for another's");
            assert_eq!(
                said["sub"], "repository/acme/memory/1/trust/untrusted",
                "a fork's token has another's subject"
            );
            assert!(said.get("ref").is_none(), "a fork's branch can have any name");
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Denied),
    }
}

/// A token is for a step of the job's.
pub async fn a_step_that_is_not_there_gets_none(issuer: Issuer) {
    let rig = rig();
    let claim = claim(&rig, "1", Origin::Protected).await;
    let none = issuer.token(&claim, &step("deploy"), &cloud(), MINUTE).await;
    refused(none, &[ErrorKind::Invalid], "a step that is not there");
}

/// The right to tokens ends with the claim.
pub async fn a_claim_that_is_over_gets_none(issuer: Issuer) {
    let rig = rig();
    let claim = claim(&rig, "1", Origin::Protected).await;
    rig.clock.advance(Duration::from_secs(30));
    let none = issuer.token(&claim, &step("test"), &cloud(), MINUTE).await;
    refused(none, &[ErrorKind::Fenced], "a claim that is over");
}

/// The discovery document names the issuer and the algorithms as the tokens do.
pub async fn the_documents_fit_the_tokens(issuer: Issuer) {
    let rig = rig();
    let token = token(&issuer, &claim(&rig, "1", Origin::Protected).await, MINUTE).await;
    let said = said(&issuer, &token).await;
    let document: Value = serde_json::from_str(&issuer.discovery()).expect("the discovery document is JSON");
    assert_eq!(document["issuer"], said["iss"], "the document is another issuer's");
    let (issuer, keys) = (document["issuer"].as_str(), document["jwks_uri"].as_str());
    assert!(issuer.zip(keys).is_some_and(|(issuer, keys)| keys.starts_with(&format!("{issuer}/"))));
    let header = token.expose().split(|byte| *byte == b'.').next().unwrap_or_default();
    let header = BASE64URL_NOPAD.decode(header).expect("base64url");
    let header: Value = serde_json::from_slice(&header).expect("JSON");
    let algorithms = document["id_token_signing_alg_values_supported"].as_array().expect("a list");
    assert!(algorithms.contains(&header["alg"]), "the token's algorithm is not in the document");
    for required in ["response_types_supported", "subject_types_supported"] {
        assert!(document[required].is_array(), "the document lacks {required}");
    }
}

/// The key set has public halves only, each with an id of its own.
pub async fn nothing_private_is_published(issuer: Issuer) {
    let jwks: Value = serde_json::from_str(&issuer.jwks().await.expect("the keys")).expect("JSON");
    let keys = jwks["keys"].as_array().expect("a list");
    assert!(!keys.is_empty());
    let ids: BTreeSet<_> = keys.iter().map(|key| key["kid"].as_str().expect("an id")).collect();
    assert_eq!(ids.len(), keys.len(), "two keys have one id");
    for key in keys {
        for private in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
            assert!(key.get(private).is_none(), "the private part {private} is published");
        }
    }
}
