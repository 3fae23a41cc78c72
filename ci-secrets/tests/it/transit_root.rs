//! A root key at a transit engine.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ci_core::clock::{Clock, ManualClock, Timestamp};
use ci_core::conformance::Setup;
use ci_core::seal::Context;
use ci_core::{ErrorKind, Result};
use ci_secrets::conformance::root_key::remote::RemoteUnderTest;
use ci_secrets::conformance::root_key::{Fault, Faults as _, RootsUnderTest};
use ci_secrets::{CertificateAuthorities, Patience, RootKey, TransitConfig, TransitRoot};
use secrecy::SecretString;

use crate::bench::{exposed, kind};
use crate::providers::transit::Engine;
use crate::providers::{Stand, certified, little, system_clock};

/// However far a test moves the clock, no request takes too long.
fn endless() -> Patience {
    little().with_attempt(Duration::from_hours(10_000)).with_total(Duration::from_hours(10_000))
}

/// An engine, its server, and the clock of both.
struct Rig {
    clock: Arc<ManualClock>,
    engine: Arc<Engine>,
    stand: Stand,
}

impl Rig {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::new());
        let engine = Engine::new(clock.clone());
        Self { stand: Stand::new(engine.clone()).await, clock, engine }
    }

    fn config(&self, key: &str) -> TransitConfig {
        let config = TransitConfig::new(&self.stand.address, &self.stand.authorities(), key);
        config.expect("a configuration").with_patience(little())
    }

    /// Its clock is the test's.
    fn root(&self, key: &str, token: &str) -> TransitRoot {
        let config = self.config(key).with_patience(endless());
        TransitRoot::new(config, token.into(), self.clock.clone()).expect("a root key")
    }

    /// Its clock is the machine's.
    fn patient(&self, key: &str) -> Arc<dyn RootKey> {
        Arc::new(TransitRoot::new(self.config(key), "root".into(), system_clock()).expect("a root key"))
    }
}

mod kit {
    use super::*;

    ci_secrets::root_key_kit!(async || {
        let rig = Rig::new().await;
        let roots = RootsUnderTest { one: rig.patient("one"), other: rig.patient("other") };
        Setup::with_guard(roots, rig.stand)
    });
}

/// The same with keys that the engine derives from the context.
mod derived_kit {
    use super::*;

    ci_secrets::root_key_kit!(async || {
        let rig = Rig::new().await;
        rig.engine.add_key("derived", "aes256-gcm96", true);
        let roots = RootsUnderTest { one: rig.patient("derived"), other: rig.patient("other") };
        Setup::with_guard(roots, rig.stand)
    });
}

mod remote_kit {
    use super::*;

    ci_secrets::remote_root_key_kit!(async || {
        let rig = Rig::new().await;
        let it = RemoteUnderTest { root: rig.patient("one"), provider: rig.stand.faults() };
        Setup::with_guard(it, rig.stand)
    });
}

fn here() -> Context {
    Context::new("tenant").field("acme")
}

async fn works(root: &TransitRoot) -> Result<()> {
    let wrapped = root.wrap(&here(), &[7; 32]).await?;
    assert_eq!(exposed(&root.unwrap(&here(), &wrapped).await?), [7; 32]);
    Ok(())
}

#[tokio::test]
async fn a_key_that_the_engine_rotated_unwraps_what_it_wrapped() {
    let rig = Rig::new().await;
    let root = rig.root("one", "root");
    let first = root.wrap(&here(), &[7; 32]).await.expect("it is wrapped");
    rig.engine.rotate("one");
    let second = root.wrap(&here(), &[8; 32]).await.expect("it is wrapped");
    for (wrapped, key) in [(&first, [7; 32]), (&second, [8; 32])] {
        assert_eq!(exposed(&root.unwrap(&here(), wrapped).await.expect("it unwraps")), key);
    }
    rig.engine.retire_before("one", 2);
    let error = root.unwrap(&here(), &first).await.expect_err("its version is retired");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.to_string().contains("min_decryption_version"), "{error}");
    assert!(root.unwrap(&here(), &second).await.is_ok());
}

#[tokio::test]
async fn nothing_is_ever_rewrapped_by_the_engine() {
    let rig = Rig::new().await;
    works(&rig.root("one", "root")).await.expect("it works");
    let lines = rig.stand.faults().lines();
    let expected =
        ["GET /v1/auth/token/lookup-self", "POST /v1/transit/encrypt/one", "POST /v1/transit/decrypt/one"];
    assert_eq!(lines[..3], expected);
    assert!(!lines.iter().any(|line| line.contains("rewrap")), "{lines:?}");
}

#[tokio::test]
async fn a_namespace_and_a_mount_of_ones_own() {
    let clock = Arc::new(ManualClock::new());
    let engine = Engine::at(clock.clone(), "team/build", "keys/transit");
    let stand = Stand::new(engine).await;
    let config = || TransitConfig::new(&stand.address, &stand.authorities(), "one").expect("a configuration");
    let open = |config| TransitRoot::new(config, "root".into(), clock.clone()).expect("a root key");
    let placed = || config().with_mount("/keys/transit/").expect("a mount");
    let root = open(placed().with_namespace("team/build/").expect("a namespace"));
    works(&root).await.expect("it works");
    let host = stand.address.strip_prefix("https://").expect("an address");
    assert_eq!(root.key_ref(), format!("transit:{host}/team/build/keys/transit/one"));
    let elsewhere = [open(placed()), open(config().with_namespace("team/build").expect("a namespace"))];
    for other in elsewhere {
        assert_eq!(kind(works(&other).await), ErrorKind::NotFound);
        assert_ne!(other.key_ref(), root.key_ref());
    }
}

#[tokio::test]
async fn what_is_misconfigured_is_said() {
    let rig = Rig::new().await;
    rig.engine.add_key("rsa", "rsa-4096", false);
    for (key, expected, words) in [
        ("missing", ErrorKind::NotFound, "no key of that name"),
        ("rsa", ErrorKind::Unsupported, "aes256-gcm96"),
    ] {
        let error = works(&rig.root(key, "root")).await.expect_err("it is misconfigured");
        assert_eq!((error.kind(), error.is_retryable()), (expected, false), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn what_is_no_configuration_is_refused() {
    let authorities =
        || CertificateAuthorities::from_pem(certified(&["x"]).0.as_bytes()).expect("an authority");
    for address in [
        "http://vault:8200",
        "https://user@vault:8200",
        "vault:8200",
        "https://",
        "https://vault:8200/v1",
        "https://vault:port",
        "https://vault:99999",
        "https://ada:secret@vault",
        "https://vault?x=1",
        "",
    ] {
        assert_eq!(kind(TransitConfig::new(address, &authorities(), "key")), ErrorKind::Invalid, "{address}");
    }
    for address in ["https://vault", "https://vault/", "https://127.0.0.1:8200", "https://[::1]:8200"] {
        assert!(TransitConfig::new(address, &authorities(), "key").is_ok(), "{address}");
    }
    let config = || TransitConfig::new("https://vault", &authorities(), "key").expect("a configuration");
    for name in ["", ".", "..", "a/../b", "a//b", "a b", "a?b", "a%2fb", "ä", "a\nb"] {
        assert_eq!(
            kind(TransitConfig::new("https://vault", &authorities(), name)),
            ErrorKind::Invalid,
            "{name}"
        );
        assert_eq!(kind(config().with_mount(name)), ErrorKind::Invalid, "{name}");
        assert_eq!(kind(config().with_namespace(name)), ErrorKind::Invalid, "{name}");
    }
    let root = |config, token: &str| TransitRoot::new(config, token.into(), system_clock());
    for token in ["", "hvs.abc def", "hvs.abc\n", "hvs.äbc"] {
        let error = root(config(), token).expect_err("it is no token");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(token.is_empty() || !format!("{error:?}").contains(token), "{error:?}");
    }
    let long = config().with_namespace(&"x".repeat(300)).expect("a namespace");
    assert_eq!(kind(root(long, "token")), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_told_nothing() {
    let rig = Rig::new().await;
    let (stranger, _) = certified(&["localhost"]);
    let stranger = CertificateAuthorities::from_pem(stranger.as_bytes()).expect("an authority");
    let config = TransitConfig::new(&rig.stand.address, &stranger, "one").expect("a configuration");
    let root = TransitRoot::new(config, "root".into(), rig.clock.clone()).expect("a root key");
    let error = root.wrap(&here(), &[7; 32]).await.expect_err("nobody vouches for it");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Denied, false), "{error:?}");
    assert_eq!(rig.stand.faults().asked(), 0);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_none() {
    let clock = Arc::new(ManualClock::new());
    let stand = Stand::named(Engine::new(clock.clone()), &["vault.example", "127.0.0.1"]).await;
    for (host, is_allowed) in [("127.0.0.1", true), ("localhost", false)] {
        let address = stand.address.replace("localhost", host);
        let config = TransitConfig::new(&address, &stand.authorities(), "one").expect("a configuration");
        let root = TransitRoot::new(config, "root".into(), clock.clone()).expect("a root key");
        let before = stand.faults().asked();
        assert_eq!(
            works(&root).await.map_err(|error| error.kind()).err(),
            (!is_allowed).then_some(ErrorKind::Denied)
        );
        assert_eq!(stand.faults().asked() > before, is_allowed);
    }
}

#[tokio::test]
async fn a_token_is_renewed_when_a_third_of_its_time_is_left() {
    let rig = Rig::new().await;
    rig.engine.add_token("periodic", Some(3_600), true);
    let root = rig.root("one", "periodic");
    for expected in [0, 0, 1, 1, 2] {
        works(&root).await.expect("it works");
        assert_eq!(rig.engine.renewals("periodic"), expected);
        rig.clock.advance(Duration::from_mins(21));
    }
    // A calendar that jumps has no influence.
    rig.clock.jump_to(rig.clock.now().after(Duration::from_hours(1_000)));
    works(&root).await.expect("it works");
}

#[tokio::test]
async fn a_token_that_has_ended_is_denied_until_there_is_another() {
    let rig = Rig::new().await;
    rig.engine.add_token("short", Some(60), false);
    let root = rig.root("one", "short");
    works(&root).await.expect("it works");
    rig.clock.advance(Duration::from_mins(2));
    let error = works(&root).await.expect_err("the token has ended");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Denied, true), "{error:?}");
    assert!(error.to_string().contains("token"), "{error}");
    assert!(!format!("{error:?} {root:?}").contains("short"), "{error:?}");
    assert_eq!(kind(root.set_token("no token".into())), ErrorKind::Invalid);
    root.set_token(SecretString::from("root")).expect("a token");
    works(&root).await.expect("it works");
}

/// Says how often somebody has begun to wait for a minute or less.
#[derive(Debug, Default)]
struct Waits {
    clock: Arc<ManualClock>,
    begun: AtomicUsize,
}

#[async_trait]
impl Clock for Waits {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        if duration <= Duration::from_mins(1) {
            self.begun.fetch_add(1, Ordering::AcqRel);
        }
        self.clock.sleep(duration).await;
    }
}

/// Nobody asks for anything for hours.
#[tokio::test]
async fn a_token_can_be_kept_renewed_without_calls() {
    let rig = Rig::new().await;
    rig.engine.add_token("periodic", Some(3_600), true);
    let waits = Arc::new(Waits { clock: rig.clock.clone(), begun: AtomicUsize::new(0) });
    let config = rig.config("one").with_patience(endless());
    let root = Arc::new(TransitRoot::new(config, "periodic".into(), waits.clone()).expect("a root key"));
    let keeping = tokio::spawn({
        let root = root.clone();
        async move { root.keep_renewed().await }
    });
    // A minute passes whenever the keeper waits for the next one.
    for minute in 1..=200 {
        until(|| waits.begun.load(Ordering::Acquire) >= minute).await;
        rig.clock.advance(Duration::from_mins(1));
    }
    assert_eq!(rig.engine.renewals("periodic"), 4, "every 40 minutes, and 200 have passed");
    works(&root).await.expect("it works after hours");
    // It ends when there is nothing that it could keep.
    rig.engine.add_token("batch", Some(3_600), false);
    root.set_token("batch".into()).expect("a token");
    for minute in 201..=260 {
        until(|| keeping.is_finished() || waits.begun.load(Ordering::Acquire) >= minute).await;
        if keeping.is_finished() {
            break;
        }
        rig.clock.advance(Duration::from_mins(1));
    }
    let error = bounded(keeping).await.expect("no panic").expect_err("it never succeeds");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    assert!(error.to_string().contains("about to end"), "there is time left to tell somebody: {error}");
}

#[tokio::test]
async fn an_outage_of_the_renewal_is_no_outage_of_the_key() {
    let rig = Rig::new().await;
    rig.engine.add_token("periodic", Some(3_600), true);
    let root = rig.root("one", "periodic");
    let wrapped = root.wrap(&here(), &[7; 32]).await.expect("it is wrapped");
    rig.clock.advance(Duration::from_mins(45));
    // The renewal fails, and what is asked after it does not.
    rig.stand.faults().set(Some(Fault::Fails(1)));
    assert!(root.unwrap(&here(), &wrapped).await.is_ok());
    assert_eq!(rig.engine.renewals("periodic"), 0);
    works(&root).await.expect("it works");
    assert_eq!(rig.engine.renewals("periodic"), 1);
}

/// Neither looking a token up nor renewing it is what was asked for.
#[tokio::test]
async fn a_renewal_that_hangs_is_no_outage_of_the_key() {
    let rig = Rig::new().await;
    rig.stand.faults().hang_at("/v1/auth/token/lookup-self");
    let root = rig.patient("one");
    let wrapped = root.wrap(&here(), &[7; 32]).await.expect("it is wrapped");
    assert_eq!(exposed(&root.unwrap(&here(), &wrapped).await.expect("it unwraps")), [7; 32]);
}

/// The server says how long a token lasts.
#[tokio::test]
async fn a_token_may_last_longer_than_time_can_be_counted() {
    let rig = Rig::new().await;
    for seconds in [u64::MAX, u64::MAX / 2, i64::MAX.unsigned_abs()] {
        rig.engine.add_token("lasting", Some(seconds), true);
        let root = rig.root("one", "lasting");
        works(&root).await.expect("it works");
        rig.clock.advance(Duration::from_hours(1_000));
        works(&root).await.expect("it works");
    }
}

#[tokio::test]
async fn what_is_cut_off_in_the_middle_is_an_outage() {
    let rig = Rig::new().await;
    let root = rig.patient("one");
    drop(rig.stand);
    let error = bounded(root.wrap(&here(), &[7; 32])).await.expect_err("nobody is there");
    assert!(error.is_retryable(), "{error:?}");
    assert!(!error.to_string().contains("localhost"), "a tenant reads no address: {error}");
}

#[tokio::test]
async fn an_answer_is_read_up_to_a_bound() {
    let rig = Rig::new().await;
    let root = rig.patient("one");
    rig.stand.faults().set(Some(Fault::Endless));
    let error = bounded(root.wrap(&here(), &[7; 32])).await.expect_err("it has no end");
    assert!(error.to_string().contains("longer than any"), "{error:?}");
}

#[tokio::test]
async fn what_a_provider_wraps_is_bound_to_no_longer_a_context() {
    let rig = Rig::new().await;
    let long = Context::new("x").field("x".repeat(5_000));
    assert_eq!(kind(rig.root("one", "root").wrap(&long, &[7; 32]).await), ErrorKind::Invalid);
    assert_eq!(rig.stand.faults().asked(), 0);
}

async fn until(is_so: impl Fn() -> bool) {
    for _ in 0..5_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("it did not come about");
}

async fn bounded<T>(call: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), call).await.expect("it ends")
}
