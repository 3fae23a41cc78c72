//! The cases for a [`PermissionSource`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ci_core::access::{Access, Admin, Authority, Grant, Level, PermissionSource, Read, Session, Write};
use ci_core::clock::Clock;
use ci_core::forge::{Challenge, SignIn};
use ci_core::id::{ForgeId, NativeId, RepositoryId, TenantId, UserId};
use ci_core::{ErrorKind, Result};
use secrecy::SecretString;

/// A source, and the hands that change what it says.
///
/// # Example
///
/// The permissions in memory:
///
/// ```
/// use std::sync::Arc;
/// use async_trait::async_trait;
/// use ci_core::access::{Level, PermissionSource};
/// use ci_core::clock::Clock;
/// use ci_core::conformance::Setup;
/// use ci_core::id::{RepositoryId, UserId};
/// use ci_core::memory::Rig;
/// use ci_scm::conformance::permission::{self, Bench};
///
/// #[derive(Debug)]
/// struct Memory(Rig);
///
/// #[async_trait]
/// impl Bench for Memory {
///     fn source(&self) -> Arc<dyn PermissionSource> {
///         self.0.permissions.clone()
///     }
///
///     fn clock(&self) -> Arc<dyn Clock> {
///         self.0.clock.clone()
///     }
///
///     fn person(&self) -> UserId {
///         Rig::user("ada").expect("a name")
///     }
///
///     fn other_person(&self) -> UserId {
///         Rig::user("bob").expect("a name")
///     }
///
///     fn repository(&self) -> RepositoryId {
///         Rig::repository("1", "acme").expect("a name")
///     }
///
///     async fn allow(&self, person: &UserId, repository: &RepositoryId, level: Level) {
///         self.0.permissions.allow(person, repository, level);
///     }
///
///     async fn go_down(&self) {
///         self.0.permissions.go_down();
///     }
///
///     async fn come_back(&self) {
///         self.0.permissions.come_back();
///     }
/// }
///
/// fn bench() -> Arc<dyn Bench> {
///     Arc::new(Memory(Rig::new().expect("a service in memory")))
/// }
///
/// mod memory {
///     # use super::*;
///     ci_scm::permission_source_kit!(async || Setup::ready(super::bench()));
/// }
/// # fn main() -> std::io::Result<()> {
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(permission::an_outage_grants_nobody_anything(bench()));
/// # Ok(())
/// # }
/// ```
#[async_trait]
pub trait Bench: fmt::Debug + Send + Sync {
    /// The source under test.
    fn source(&self) -> Arc<dyn PermissionSource>;

    /// The clock that the source goes by.
    fn clock(&self) -> Arc<dyn Clock>;

    /// A person whom the forge knows, and who may do nothing yet.
    fn person(&self) -> UserId;

    /// Another one.
    fn other_person(&self) -> UserId;

    /// A repository that the forge knows.
    fn repository(&self) -> RepositoryId;

    /// Makes the forge allow a person exactly `level` from now on.
    async fn allow(&self, person: &UserId, repository: &RepositoryId, level: Level);

    /// Makes the forge unable to answer.
    async fn go_down(&self);

    /// Lets it answer again.
    async fn come_back(&self);
}

ci_core::declare_kit! {
    /// Runs every case about a `PermissionSource`, against a closure that makes a
    /// [`Bench`](crate::conformance::permission::Bench) in an `Arc`.
    permission_source_kit for ::ci_scm::conformance::permission {
        nobody_may_anything_unless_the_forge_says_so,
        every_level_is_what_the_forge_says,
        one_persons_permission_is_nobody_elses,
        a_permission_taken_away_is_gone_at_the_next_question,
        a_permission_taken_away_ends_within_its_bound,
        an_outage_grants_nobody_anything,
        an_outage_does_not_outlive_itself,
        a_person_of_another_forge_is_a_stranger,
        a_repository_of_another_tenant_is_another_one,
        a_verdict_says_when_and_for_how_long,
    }
}

/// How long a permission may outlive its end at the forge, at most, where nothing tells of it.
const HARD_BOUND: Duration = Duration::from_mins(15);

/// Without a word of the forge, the answer is [`Level::None`] and not an error.
#[doc(hidden)]
pub async fn nobody_may_anything_unless_the_forge_says_so(bench: Arc<dyn Bench>) {
    assert_eq!(level(&*bench, &bench.person(), &bench.repository()).await, Ok(Level::None));
    let unknown = UserId::new(native("nobody-knows-them"), bench.person().forge().clone());
    assert_eq!(level(&*bench, &unknown, &bench.repository()).await, Ok(Level::None));
    let repository = bench.repository();
    let missing = RepositoryId::new(
        native("no-such-repository"),
        repository.forge().clone(),
        repository.tenant().clone(),
    );
    assert_eq!(level(&*bench, &bench.person(), &missing).await, Ok(Level::None));
}

#[doc(hidden)]
pub async fn every_level_is_what_the_forge_says(bench: Arc<dyn Bench>) {
    for expected in [Level::Read, Level::Write, Level::Admin, Level::Write, Level::Read, Level::None] {
        bench.allow(&bench.person(), &bench.repository(), expected).await;
        assert_eq!(level(&*bench, &bench.person(), &bench.repository()).await, Ok(expected));
    }
}

#[doc(hidden)]
pub async fn one_persons_permission_is_nobody_elses(bench: Arc<dyn Bench>) {
    bench.allow(&bench.person(), &bench.repository(), Level::Admin).await;
    assert_eq!(level(&*bench, &bench.other_person(), &bench.repository()).await, Ok(Level::None));
}

#[doc(hidden)]
pub async fn a_permission_taken_away_is_gone_at_the_next_question(bench: Arc<dyn Bench>) {
    bench.allow(&bench.person(), &bench.repository(), Level::Admin).await;
    assert!(grant::<Admin>(&*bench).await.is_ok());
    bench.allow(&bench.person(), &bench.repository(), Level::Read).await;
    assert_eq!(grant::<Write>(&*bench).await.map_err(|error| error.kind()).err(), Some(ErrorKind::Denied));
    assert!(grant::<Read>(&*bench).await.is_ok());
}

/// Either the source tells of it, and the grant ends at once, or its verdicts are short.
#[doc(hidden)]
pub async fn a_permission_taken_away_ends_within_its_bound(bench: Arc<dyn Bench>) {
    bench.allow(&bench.person(), &bench.repository(), Level::Write).await;
    let session = session(&*bench, &bench.person()).await;
    let verdict = bench.source().permission(&session, &bench.repository()).await.expect("the forge is up");
    assert!(!bench.source().withdrawn(&session, &bench.repository(), &verdict), "nothing was taken away yet");
    bench.allow(&bench.person(), &bench.repository(), Level::None).await;
    let is_told = bench.source().withdrawn(&session, &bench.repository(), &verdict);
    assert!(is_told || verdict.valid_for <= HARD_BOUND, "it lasts for {:?}", verdict.valid_for);
}

#[doc(hidden)]
pub async fn an_outage_grants_nobody_anything(bench: Arc<dyn Bench>) {
    bench.allow(&bench.person(), &bench.repository(), Level::Admin).await;
    assert!(grant::<Admin>(&*bench).await.is_ok());
    bench.go_down().await;
    let error = grant::<Read>(&*bench).await.expect_err("a forge that cannot be asked has said nothing");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.is_retryable());
}

#[doc(hidden)]
pub async fn an_outage_does_not_outlive_itself(bench: Arc<dyn Bench>) {
    bench.allow(&bench.person(), &bench.repository(), Level::Write).await;
    bench.go_down().await;
    assert!(grant::<Read>(&*bench).await.is_err());
    bench.come_back().await;
    assert!(grant::<Write>(&*bench).await.is_ok());
}

#[doc(hidden)]
pub async fn a_person_of_another_forge_is_a_stranger(bench: Arc<dyn Bench>) {
    bench.allow(&bench.person(), &bench.repository(), Level::Admin).await;
    let elsewhere = ForgeId::parse("another-forge").expect("a name");
    let namesake = UserId::new(bench.person().native().clone(), elsewhere);
    assert_eq!(level(&*bench, &namesake, &bench.repository()).await, Ok(Level::None));
}

#[doc(hidden)]
pub async fn a_repository_of_another_tenant_is_another_one(bench: Arc<dyn Bench>) {
    bench.allow(&bench.person(), &bench.repository(), Level::Admin).await;
    let (ours, tenant) = (bench.repository(), TenantId::parse("another-tenant").expect("a name"));
    let theirs = RepositoryId::new(ours.native().clone(), ours.forge().clone(), tenant);
    assert_eq!(level(&*bench, &bench.person(), &theirs).await, Ok(Level::None));
}

#[doc(hidden)]
pub async fn a_verdict_says_when_and_for_how_long(bench: Arc<dyn Bench>) {
    bench.allow(&bench.person(), &bench.repository(), Level::Read).await;
    let session = session(&*bench, &bench.person()).await;
    let verdict = bench.source().permission(&session, &bench.repository()).await.expect("the forge is up");
    assert!(verdict.observed_at <= bench.clock().now(), "it was observed in the future");
    assert!(verdict.valid_for > Duration::ZERO);
}

fn native(text: &str) -> NativeId {
    NativeId::parse(text).expect("a name")
}

async fn level(bench: &dyn Bench, person: &UserId, repository: &RepositoryId) -> Result<Level, ErrorKind> {
    let session = session(bench, person).await;
    let verdict = bench.source().permission(&session, repository).await;
    verdict.map(|verdict| verdict.level).map_err(|error| error.kind())
}

async fn grant<A: Access>(bench: &dyn Bench) -> Result<Grant<A>> {
    let authority = Authority::new(bench.source(), bench.clock());
    authority.grant(&session(bench, &bench.person()).await, &bench.repository()).await
}

async fn session(bench: &dyn Bench, person: &UserId) -> Session {
    let authority = Authority::new(bench.source(), bench.clock());
    let how = Believe(person.clone());
    authority.sign_in(&how, &Challenge::Credential, SecretString::from("")).await.expect("a session")
}

/// Somebody who is who the case says.
#[derive(Debug)]
struct Believe(UserId);

#[async_trait]
impl SignIn for Believe {
    async fn begin(&self) -> Result<Challenge> {
        Ok(Challenge::Credential)
    }

    async fn complete(&self, _challenge: &Challenge, _answer: SecretString) -> Result<UserId> {
        Ok(self.0.clone())
    }
}
