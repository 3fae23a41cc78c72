//! Identity tokens: for whom, signed with which key, and how keys follow each other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ci_core::clock::Clock as _;
use ci_core::conformance::{Fault, FaultyRecords, Setup, run};
use ci_core::id::{CacheKey, StepName, TenantId};
use ci_core::identity::{Audience, IssuerUrl, MOST_TTL, TokenIssuer};
use ci_core::job::JobSpec;
use ci_core::memory::{Anchor, Rig, Tokens};
use ci_core::operator::{Act, Operator};
use ci_core::queue::Claim;
use ci_core::records::{Key, Records};
use ci_core::secret::SecretValue;
use ci_core::trust::{Origin, Trust};
use ci_core::{ErrorKind, Result};
use ci_secrets::Vault;
use ci_secrets::conformance::token_issuer::{self, verified};
use ci_secrets::identity::{Algorithm, Audiences, OidcIssuer};
use serde_json::Value;

use crate::bench::{Bench, Switched, kind, repository};

const LEAD: Duration = Duration::from_hours(1);
const MINUTE: Duration = Duration::from_mins(1);

fn issuer_with(vault: &Arc<Vault>, audiences: Audiences) -> OidcIssuer {
    let url = IssuerUrl::parse("https://ci.example.org").expect("a URL");
    OidcIssuer::new(vault.clone(), url, audiences).expect("an issuer").with_lead(LEAD)
}

fn issuer(vault: &Arc<Vault>, algorithm: Algorithm) -> OidcIssuer {
    issuer_with(vault, Audiences::any(algorithm))
}

fn tested(algorithm: Algorithm) -> Setup<Arc<dyn TokenIssuer>> {
    Setup::ready(Arc::new(issuer(&Bench::new().vault, algorithm)))
}

mod rs256 {
    ci_secrets::token_issuer_kit!(async || super::tested(super::Algorithm::Rs256));
}

mod es256 {
    ci_secrets::token_issuer_kit!(async || super::tested(super::Algorithm::Es256));
}

mod eddsa {
    ci_secrets::token_issuer_kit!(async || super::tested(super::Algorithm::EdDsa));
}

mod memory {
    use super::*;

    ci_secrets::token_issuer_kit!(async || {
        let (rig, url) = (Rig::new().expect("a rig"), IssuerUrl::parse("https://ci.example.org"));
        Setup::ready(Arc::new(Tokens::new(url.expect("a URL"), rig.clock)) as Arc<dyn TokenIssuer>)
    });
}

fn audience(text: &str) -> Audience {
    Audience::parse(text).expect("an audience")
}

fn step() -> StepName {
    StepName::parse("test").expect("a step's name")
}

async fn claim(bench: &Bench, origin: Origin) -> Claim {
    let claimed = bench.rig.claim(&repository("1"), origin, Rig::spec()).await;
    claimed.expect("a claim")
}

/// The claim of a job for which no time passes.
async fn lasting() -> Claim {
    let rig = Rig::new().expect("a rig");
    rig.claim(&repository("1"), Origin::Protected, Rig::spec()).await.expect("a claim")
}

async fn service(operator: &Operator) -> Act<'_> {
    operator.act(&TenantId::service(), "token_keys.rotated").await.expect("an act")
}

/// The ids of the published keys.
async fn published(issuer: &OidcIssuer) -> BTreeSet<String> {
    let jwks: Value = serde_json::from_str(&issuer.jwks().await.expect("the keys")).expect("JSON");
    let keys = jwks["keys"].as_array().expect("a list");
    keys.iter().map(|key| key["kid"].as_str().expect("an id").to_owned()).collect()
}

fn header(token: &SecretValue, name: &str) -> String {
    let first = token.expose().split(|byte| *byte == b'.').next().expect("a header");
    let header: Value =
        serde_json::from_slice(&data_encoding::BASE64URL_NOPAD.decode(first).expect("base64url"))
            .expect("JSON");
    header[name].as_str().expect("text").to_owned()
}

#[tokio::test]
async fn only_what_the_policy_allows_gets_a_token() -> Result<()> {
    let bench = Bench::new();
    let audiences = Audiences::any(Algorithm::EdDsa)
        .with(audience("production"), Trust::Protected, Algorithm::Es256)
        .with(audience("coverage"), Trust::Untrusted, Algorithm::EdDsa);
    let some = issuer_with(&bench.vault, audiences);
    let listed = Audiences::listed().with(audience("coverage"), Trust::Untrusted, Algorithm::EdDsa);
    let listed = issuer_with(&bench.vault, listed);
    for (origin, allowed) in [
        (Origin::Fork, &["coverage"][..]),
        (Origin::Repository, &["coverage", "anything"]),
        (Origin::Protected, &["coverage", "anything", "production"]),
    ] {
        let claim = claim(&bench, origin).await;
        for asked in ["coverage", "anything", "production"] {
            let token = some.token(&claim, &step(), &audience(asked), MINUTE).await;
            match token {
                Ok(token) => {
                    assert!(allowed.contains(&asked), "{origin:?} gets one for {asked}");
                    let expected = if asked == "production" { "ES256" } else { "EdDSA" };
                    assert_eq!(header(&token, "alg"), expected, "{asked}");
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
                    assert!(!allowed.contains(&asked), "{origin:?} gets none for {asked}");
                }
            }
            let only = listed.token(&claim, &step(), &audience(asked), MINUTE).await;
            assert_eq!(only.is_ok(), asked == "coverage", "{origin:?}, {asked}");
        }
    }
    assert_eq!(
        kind(OidcIssuer::new(bench.vault.clone(), IssuerUrl::parse("https://a")?, Audiences::listed())),
        ErrorKind::Invalid
    );
    Ok(())
}

#[tokio::test]
async fn a_token_says_which_caches_may_have_flowed_in() -> Result<()> {
    let bench = Bench::new();
    let spec = || -> Result<JobSpec> {
        let path = ci_core::sandbox::SandboxPath::parse("/target")?;
        Ok(Rig::spec().with_cache(CacheKey::parse("dependencies")?, path))
    };
    let issuer = issuer_with(
        &bench.vault,
        Audiences::listed().with(audience("coverage"), Trust::Untrusted, Algorithm::EdDsa),
    );
    for (origin, from) in
        [(Origin::Fork, &["untrusted", "trusted", "protected"][..]), (Origin::Protected, &["protected"])]
    {
        let claim = bench.rig.claim(&repository("1"), origin, spec()?).await?;
        let token = issuer.token(&claim, &step(), &audience("coverage"), MINUTE).await?;
        let said = verified(token.expose(), &issuer.jwks().await?).expect("it verifies");
        assert_eq!(said["caches"], serde_json::json!([{ "key": "dependencies", "from": from }]));
    }
    Ok(())
}

#[tokio::test]
async fn a_key_is_published_before_it_signs_and_until_its_last_token_has_expired() -> Result<()> {
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        let bench = Bench::new();
        let operator = Operator::new(&bench.audit)?;
        // Two processes over the same records.
        let (one, two) = (
            issuer(&bench.vault, algorithm),
            issuer(&Arc::new(bench.other_vault(bench.root.clone())), algorithm),
        );
        let signer = async |issuer: &OidcIssuer| -> Result<String> {
            let token = issuer.token(&lasting().await, &step(), &audience("cloud"), MOST_TTL).await?;
            assert!(verified(token.expose(), &issuer.jwks().await?).is_ok());
            Ok(header(&token, "kid"))
        };
        let first = signer(&one).await?;
        assert_eq!(signer(&two).await?, first);
        one.rotate(&service(&operator).await).await?;
        two.rotate(&service(&operator).await).await?;
        let both = published(&two).await;
        assert_eq!(
            (both.len(), both.contains(&first)),
            (2, true),
            "one waits, however often it is asked for"
        );

        bench.rig.clock.advance(LEAD.saturating_sub(Duration::from_millis(1)));
        assert_eq!(signer(&one).await?, first, "the new one has not been published for long enough");
        bench.rig.clock.advance(Duration::from_millis(1));
        let second = signer(&two).await?;
        assert!(second != first && both.contains(&second));
        bench.rig.clock.advance(MOST_TTL);
        assert_eq!(published(&one).await, both, "the last token of the old one may be met still");
        bench.rig.clock.advance(MINUTE * 5);
        assert_eq!(published(&one).await, BTreeSet::from([second.clone()]));
        assert_eq!(signer(&one).await?, second);
        one.rotate(&service(&operator).await).await?;
        assert_eq!(published(&one).await.len(), 2);
    }
    Ok(())
}

#[tokio::test]
async fn an_algorithm_that_comes_later_waits_until_its_key_is_known() -> Result<()> {
    let bench = Bench::new();
    let operator = Operator::new(&bench.audit)?;
    let before = published(&issuer(&bench.vault, Algorithm::EdDsa)).await;
    let other = issuer(&bench.vault, Algorithm::Es256);
    let claim = lasting().await;
    let error = other.token(&claim, &step(), &audience("cloud"), MINUTE).await.expect_err("too early");
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Unavailable, Some(LEAD)));
    assert_eq!(published(&other).await.len(), 2);
    bench.rig.clock.advance(LEAD);
    assert!(other.token(&claim, &step(), &audience("cloud"), MINUTE).await.is_ok());
    // What is no longer needed goes when its last token has expired.
    other.rotate(&service(&operator).await).await?;
    assert!(published(&other).await.is_superset(&before));
    bench.rig.clock.advance(MOST_TTL + MINUTE * 5);
    assert!(published(&other).await.is_disjoint(&before));
    Ok(())
}

#[tokio::test]
async fn keys_above_the_issuers_rotate_like_all_others() -> Result<()> {
    let bench = Bench::new();
    let operator = Operator::new(&bench.audit)?;
    let act = service(&operator).await;
    let vault = |root: &Arc<Switched>| bench.other_vault(root.clone());
    let before = published(&issuer(&Arc::new(vault(&bench.root)), Algorithm::Es256)).await;
    let (former, new) = (bench.root.clone(), Switched::new());
    let rotating = vault(&new).with_former_root(former);
    let report = rotating.rotate_root(&act, &mut |_| {}).await?;
    assert!(report.is_complete() && report.rewrapped == 1, "{report:?}");

    let vault = Arc::new(vault(&new));
    let issuer = issuer(&vault, Algorithm::Es256);
    assert_eq!(published(&issuer).await, before, "the former root key is not needed any more");
    let report = vault.rotate_tenant(&act, &TenantId::service(), &mut |_| {}).await?;
    assert!(report.is_complete() && report.rewrapped == 1, "{report:?}");
    assert_eq!(published(&issuer).await, before);
    let report = vault.rotate_all(&act, &TenantId::service(), &mut |_| {}).await?;
    assert!(report.is_complete() && report.made == 2, "{report:?}");
    assert_eq!(published(&issuer).await, before);
    Ok(())
}

#[tokio::test]
async fn keys_that_somebody_knows_are_replaced_at_once() -> Result<()> {
    let bench = Bench::new();
    let (operator, issuer) = (Operator::new(&bench.audit)?, issuer(&bench.vault, Algorithm::EdDsa));
    let claim = claim(&bench, Origin::Protected).await;
    let token = issuer.token(&claim, &step(), &audience("cloud"), MINUTE).await?;
    issuer.replace(&service(&operator).await).await?;
    let wrong = verified(token.expose(), &issuer.jwks().await?).expect_err("its key is gone");
    assert_eq!(wrong, "0 published keys have its id");
    assert!(
        issuer.token(&claim, &step(), &audience("cloud"), MINUTE).await.is_ok(),
        "the new one signs at once"
    );

    bench.write(&row(&issuer), "rubbish").await;
    assert_eq!(kind(issuer.jwks().await), ErrorKind::Tampered);
    assert_eq!(
        kind(issuer.rotate(&service(&operator).await).await),
        ErrorKind::Tampered,
        "it is not silently replaced"
    );
    assert_eq!(kind(issuer.token(&claim, &step(), &audience("cloud"), MINUTE).await), ErrorKind::Tampered);
    issuer.replace(&service(&operator).await).await?;
    assert!(issuer.jwks().await.is_ok());
    let acme = operator.act(&TenantId::parse("acme")?, "token_keys.replaced").await?;
    assert_eq!(kind(issuer.replace(&acme).await), ErrorKind::Denied);
    assert_eq!(kind(issuer.rotate(&acme).await), ErrorKind::Denied);
    Ok(())
}

fn row(issuer: &OidcIssuer) -> Key {
    Key::new("secret").repository(issuer.repository()).part("token-keys")
}

/// No key is made in the place of one that somebody has taken away, and none signs that was replaced.
#[tokio::test]
async fn keys_that_were_deleted_or_put_back_are_missed() -> Result<()> {
    let bench = Bench::new();
    let (operator, issuer) = (Operator::new(&bench.audit)?, issuer(&bench.vault, Algorithm::EdDsa));
    let claim = claim(&bench, Origin::Protected).await;
    published(&issuer).await;
    let before = bench.read(&row(&issuer)).await;
    issuer.replace(&service(&operator).await).await?;
    let right = bench.read(&row(&issuer)).await;
    for what in ["put back", "deleted"] {
        match what {
            "deleted" => bench.remove(&row(&issuer)).await,
            _ => bench.write(&row(&issuer), before.clone()).await,
        }
        assert_eq!(kind(issuer.jwks().await), ErrorKind::Tampered, "{what}");
        let token = issuer.token(&claim, &step(), &audience("cloud"), MINUTE).await;
        assert_eq!(kind(token), ErrorKind::Tampered, "{what}");
        assert_eq!(kind(issuer.rotate(&service(&operator).await).await), ErrorKind::Tampered, "{what}");
    }
    bench.write(&row(&issuer), right).await;
    assert!(issuer.jwks().await.is_ok());
    bench.remove(&row(&issuer)).await;
    issuer.replace(&service(&operator).await).await?;
    assert_eq!(published(&issuer).await.len(), 1);
    Ok(())
}

#[tokio::test]
async fn keys_put_back_with_everything_else_are_noticed_with_an_anchor_only() -> Result<()> {
    let bench = Bench::new();
    let anchored = bench.other_vault(bench.root.clone()).with_anchor(Arc::new(Anchor::default()));
    let (operator, issuer, unanchored) = (
        Operator::new(&bench.audit)?,
        issuer(&Arc::new(anchored), Algorithm::EdDsa),
        issuer(&bench.vault, Algorithm::EdDsa),
    );
    let withdrawn = published(&issuer).await;
    let before = bench.everything().await;
    issuer.replace(&service(&operator).await).await?;
    let after = bench.everything().await;
    bench.put_all_back(&before).await;
    assert_eq!(kind(issuer.jwks().await), ErrorKind::Tampered);
    assert_eq!(kind(issuer.replace(&service(&operator).await).await), ErrorKind::Tampered);
    // The limit that the documentation states.
    assert_eq!(published(&unanchored).await, withdrawn, "nobody noticed");

    bench.put_all_back(&[]).await;
    assert_eq!(kind(issuer.jwks().await), ErrorKind::Tampered, "nor are new ones made");
    bench.put_all_back(&after).await;
    assert_eq!(published(&issuer).await.len(), 1);
    Ok(())
}

/// The service itself is no tenant whose name could be parsed, and has keys all the same.
#[tokio::test]
async fn keys_outlive_every_key_above_them() -> Result<()> {
    let bench = Bench::new();
    let (operator, before) = (Operator::new(&bench.audit)?, issuer(&bench.vault, Algorithm::EdDsa));
    let keys = published(&before).await;
    let new = Switched::new();
    let vault = Arc::new(bench.other_vault(new.clone()).with_former_root(bench.root.clone()));
    let act = service(&operator).await;
    let report = vault.rotate_root(&act, &mut |_| {}).await?;
    assert!(report.is_complete() && report.rewrapped == 1, "{report:?}");
    let vault = Arc::new(bench.other_vault(new));
    let report = vault.rotate_all(&act, &TenantId::service(), &mut |_| {}).await?;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.made, report.rewrapped, report.destroyed), (2, 1, 1));
    bench.rig.clock.advance(MINUTE);
    let issuer = issuer(&vault, Algorithm::EdDsa);
    let report = vault.retire_keys(&act, issuer.repository(), bench.rig.clock.now()).await?;
    assert!(report.is_complete() && report.destroyed == 1, "{report:?}");
    vault.forget_keys();
    assert_eq!(published(&issuer).await, keys);
    Ok(())
}

#[tokio::test]
async fn every_token_is_in_the_audit_log_or_is_not_released() -> Result<()> {
    let bench = Bench::new();
    let issuer = issuer(&bench.vault, Algorithm::EdDsa);
    let token =
        issuer.token(&claim(&bench, Origin::Protected).await, &step(), &audience("cloud"), MINUTE).await?;
    let said = verified(token.expose(), &issuer.jwks().await?).expect("it verifies");
    let operator = Operator::new(&bench.audit)?;
    let acme = TenantId::parse("acme")?;
    let act = operator.act(&acme, "audit.read").await?;
    let entry = bench.audit.entries(&act, &acme, 0).await?.remove(0).entry;
    assert_eq!((entry.action.as_str(), entry.actor.as_str()), ("token.issued", "job"));
    let id = said["jti"].as_str().expect("an id");
    assert!(entry.about.contains(&("token".to_owned(), id.to_owned())));
    assert!(entry.about.contains(&("audience".to_owned(), "cloud".to_owned())));

    bench.break_audit();
    let claim = claim(&bench, Origin::Protected).await;
    assert_eq!(kind(issuer.token(&claim, &step(), &audience("cloud"), MINUTE).await), ErrorKind::Unavailable);
    bench.faulty.heal();
    bench.delay("audit", Duration::from_secs(30));
    assert_eq!(kind(issuer.token(&claim, &step(), &audience("cloud"), MINUTE).await), ErrorKind::Fenced);
    Ok(())
}

/// A process that ends at any commit leaves keys with which every token verifies, those from before included.
#[tokio::test]
async fn a_process_that_is_killed_leaves_keys_that_work() -> Result<()> {
    for (fatal, fault) in (0..12).flat_map(|fatal| [(fatal, Fault::Refused), (fatal, Fault::AnswerLost)]) {
        let rig = Rig::new()?;
        let (root, records) = (Switched::new(), rig.records());
        let over = |records: Arc<dyn Records>| {
            Arc::new(Vault::new(
                records.clone(),
                ci_core::audit::Audit::new(records, rig.clock.clone()),
                root.clone(),
                rig.clock.clone(),
            ))
        };
        let token = async |vault: &Arc<Vault>| -> Result<SecretValue> {
            let claim = rig.claim(&repository("1"), Origin::Protected, Rig::spec()).await?;
            issuer(vault, Algorithm::EdDsa).token(&claim, &step(), &audience("cloud"), MINUTE).await
        };
        let faulty = FaultyRecords::over(records.clone(), rig.clock.clone());
        faulty.stop_after(fatal, fault);
        let dying = over(faulty);
        // It does this until it is killed.
        let mut made = Vec::new();
        for _ in 0..3 {
            made.extend(token(&dying).await.ok());
            let _ = issuer(&dying, Algorithm::EdDsa).rotate(&service(&rig.operator).await).await;
        }
        let next = over(records);
        made.push(token(&next).await?);
        let jwks = issuer(&next, Algorithm::EdDsa).jwks().await?;
        for token in &made {
            assert!(verified(token.expose(), &jwks).is_ok(), "killed after {fatal} writes, {fault:?}");
        }
        issuer(&next, Algorithm::EdDsa).rotate(&service(&rig.operator).await).await?;
        assert_eq!(published(&issuer(&next, Algorithm::EdDsa)).await.len(), 2);
    }
    Ok(())
}

/// Does what `Tokens` does, but for one thing.
#[derive(Debug)]
struct Broken {
    inner: Tokens,
    other: Tokens,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    OtherKey,
    OtherIssuer,
}

#[async_trait]
impl TokenIssuer for Broken {
    async fn token(
        &self,
        claim: &Claim,
        step: &StepName,
        audience: &Audience,
        ttl: Duration,
    ) -> Result<SecretValue> {
        self.inner.token(claim, step, audience, ttl).await
    }

    async fn jwks(&self) -> Result<String> {
        if self.how == How::OtherKey { self.other.jwks().await } else { self.inner.jwks().await }
    }

    fn discovery(&self) -> String {
        if self.how == How::OtherIssuer { self.other.discovery() } else { self.inner.discovery() }
    }
}

fn broken(how: How) -> Setup<Arc<dyn TokenIssuer>> {
    let rig = Rig::new().expect("a rig");
    let tokens = |url| Tokens::new(IssuerUrl::parse(url).expect("a URL"), rig.clock.clone());
    Setup::ready(Arc::new(Broken {
        inner: tokens("https://ci.example.org"),
        other: tokens("https://other.example.org"),
        how,
    }))
}

#[test]
#[should_panic(expected = "the token does not verify: 0 published keys have its id")]
fn an_issuer_that_publishes_another_key_is_caught() {
    run("other key", async || broken(How::OtherKey), token_issuer::a_token_verifies_with_the_published_keys);
}

#[test]
#[should_panic(expected = "the document is another issuer's")]
fn an_issuer_with_another_s_document_is_caught() {
    run("other issuer", async || broken(How::OtherIssuer), token_issuer::the_documents_fit_the_tokens);
}
