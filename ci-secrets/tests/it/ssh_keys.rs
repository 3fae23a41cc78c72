//! SSH keys: how they follow each other, what lies in the records, what is audited.

use std::sync::Arc;
use std::time::Duration;

use ci_core::access::{Admin, Grant, Read, Write};
use ci_core::clock::Clock as _;
use ci_core::conformance::{Setup, run};
use ci_core::id::RepositoryId;
use ci_core::memory::{Anchor, Rig, Signer};
use ci_core::operator::Operator;
use ci_core::queue::Claim;
use ci_core::records::Key;
use ci_core::secret::{SecretStore as _, SecretValue, SshPublicKey, SshSigner};
use ci_core::{ErrorKind, Result};
use ci_secrets::conformance::ssh_signer;
use ci_secrets::ssh::{SshKeyStage, SshKeys};

use crate::bench::{Bench, key_folder, kind, name, repository};

mod sealed {
    use super::*;

    ci_secrets::ssh_signer_kit!(async || Setup::ready(
        Arc::new(SshKeys::new(Bench::new().vault)) as Arc<dyn SshSigner>
    ));
}

mod memory {
    use super::*;

    ci_secrets::ssh_signer_kit!(async || Setup::ready(Arc::new(Signer::new()) as Arc<dyn SshSigner>));
}

fn keys(bench: &Bench) -> SshKeys {
    SshKeys::new(bench.vault.clone())
}

async fn admin(bench: &Bench, repository: &RepositoryId) -> Grant<Admin> {
    bench.grant(repository).await
}

fn row(repository: &RepositoryId) -> Key {
    Key::new("secret").repository(repository).part("ssh-keys")
}

async fn stages(keys: &SshKeys, grant: &Grant<Admin>) -> Vec<SshKeyStage> {
    let list = keys.list(&grant.lower()).await.expect("a list");
    list.iter().map(|info| info.stage).collect()
}

#[tokio::test]
async fn a_key_is_replaced_without_a_checkout_failing() -> Result<()> {
    let (bench, ours) = (Bench::new(), repository("1"));
    let (keys, grant) = (keys(&bench), admin(&bench, &ours).await);
    let claim = bench.claim(&ours).await;
    assert!(stages(&keys, &grant).await.is_empty(), "looking makes none");
    let first = keys.rotate(&grant).await?;
    assert_eq!(keys.identity(&claim).await?, first, "the first one signs at once");

    let second = keys.rotate(&grant).await?;
    assert_eq!(keys.rotate(&grant).await?, second, "an answer that was lost is given again");
    assert_eq!(keys.public_keys(&grant.lower()).await?, [first, second], "the forge is to know both");
    assert_eq!(keys.identity(&claim).await?, first);
    assert_eq!(kind(keys.sign(&claim, &second, b"x").await), ErrorKind::NotFound, "it does not sign yet");

    keys.activate(&grant, &second).await?;
    keys.activate(&grant, &second).await?;
    assert_eq!(
        keys.public_keys(&grant.lower()).await?,
        [second, first],
        "until it is removed from the forge"
    );
    assert_eq!(kind(keys.sign(&claim, &first, b"x").await), ErrorKind::NotFound, "it does not sign any more");
    assert!(keys.sign(&claim, &second, b"x").await.is_ok());

    let third = keys.rotate(&grant).await?;
    let too_early = keys.activate(&grant, &third).await.expect_err("there are two old ones then");
    assert!(too_early.to_string().contains("remove the old key first"), "{too_early}");
    assert_eq!(kind(keys.activate(&grant, &first).await), ErrorKind::Conflict, "an old key comes back");
    assert_eq!(kind(keys.remove(&grant, &second).await), ErrorKind::Conflict, "nothing signs then");
    keys.remove(&grant, &first).await?;
    assert_eq!(kind(keys.remove(&grant, &first).await), ErrorKind::NotFound);
    keys.remove(&grant, &third).await?;
    assert_eq!(stages(&keys, &grant).await, [SshKeyStage::Current]);
    Ok(())
}

#[tokio::test]
async fn keys_are_deleted_and_replaced_whatever_became_of_them() -> Result<()> {
    let (bench, ours) = (Bench::new(), repository("1"));
    let (keys, grant) = (keys(&bench), admin(&bench, &ours).await);
    let operator = Operator::new(&bench.audit)?;
    let act = operator.act(ours.tenant(), "ssh_keys.replaced").await?;
    let first = keys.rotate(&grant).await?;
    let second = keys.replace(&act, &ours).await?;
    assert_eq!(keys.public_keys(&grant.lower()).await?, [second]);
    assert_ne!(first, second);

    bench.write(&row(&ours), "rubbish").await;
    assert_eq!(kind(keys.list(&grant.lower()).await), ErrorKind::Tampered);
    assert_eq!(kind(keys.rotate(&grant).await), ErrorKind::Tampered, "it is not silently replaced");
    let third = keys.replace(&act, &ours).await?;
    assert_eq!(keys.public_keys(&grant.lower()).await?, [third]);

    bench.write(&row(&ours), "rubbish").await;
    keys.delete(&grant).await?;
    assert!(stages(&keys, &grant).await.is_empty());
    assert_eq!(kind(keys.delete(&grant).await), ErrorKind::NotFound);
    let elsewhere = Rig::repository("1", "umbrella")?;
    assert_eq!(kind(keys.replace(&act, &elsewhere).await), ErrorKind::Denied);
    Ok(())
}

#[tokio::test]
async fn a_row_that_was_copied_or_altered_is_noticed() -> Result<()> {
    let (bench, ours, theirs) = (Bench::new(), repository("1"), repository("2"));
    let keys = keys(&bench);
    let (grant, other) = (admin(&bench, &ours).await, admin(&bench, &theirs).await);
    keys.rotate(&grant).await?;
    keys.rotate(&other).await?;
    let (right, wrong) = (bench.read(&row(&ours)).await, bench.read(&row(&theirs)).await);
    bench.write(&row(&ours), wrong).await;
    assert_eq!(kind(keys.list(&grant.lower()).await), ErrorKind::Tampered);
    for place in 0..right.len() {
        let mut altered = right.to_vec();
        altered[place] ^= 1;
        bench.write(&row(&ours), altered).await;
        assert_eq!(kind(keys.list(&grant.lower()).await), ErrorKind::Tampered, "byte {place}");
    }
    bench.write(&row(&ours), right).await;
    assert_eq!(stages(&keys, &grant).await, [SshKeyStage::Current]);
    Ok(())
}

/// What a lease or a key ring can open is not where the keys are, even for somebody who moves rows.
#[tokio::test]
async fn no_private_half_is_reached_through_a_secret() -> Result<()> {
    let (bench, ours) = (Bench::new(), repository("1"));
    let keys = keys(&bench);
    keys.rotate(&admin(&bench, &ours).await).await?;
    bench.put(&ours, "TOKEN", "some value").await;
    let sealed = bench.read(&row(&ours)).await;
    for part in ["value", "info"] {
        let place = crate::bench::row(&ours, part, "TOKEN");
        let before = bench.read(&place).await;
        bench.write(&place, sealed.clone()).await;
        assert_eq!(kind(bench.value(&ours, "TOKEN").await), ErrorKind::Tampered, "{part}");
        bench.write(&place, before).await;
    }
    assert_eq!(bench.value(&ours, "TOKEN").await?, b"some value");
    Ok(())
}

#[tokio::test]
async fn nothing_is_changed_or_signed_that_cannot_be_recorded() -> Result<()> {
    let (bench, ours) = (Bench::new(), repository("1"));
    let (keys, grant) = (keys(&bench), admin(&bench, &ours).await);
    let claim = bench.claim(&ours).await;
    let first = keys.rotate(&grant).await?;
    let second = keys.rotate(&grant).await?;
    bench.break_audit();
    assert_eq!(kind(keys.activate(&grant, &second).await), ErrorKind::Unavailable);
    assert_eq!(kind(keys.remove(&grant, &second).await), ErrorKind::Unavailable);
    assert_eq!(kind(keys.delete(&grant).await), ErrorKind::Unavailable);
    assert_eq!(kind(keys.sign(&claim, &first, b"x").await), ErrorKind::Unavailable);
    bench.faulty.heal();
    assert_eq!(keys.public_keys(&grant.lower()).await?, [first, second]);
    Ok(())
}

#[tokio::test]
async fn the_audit_log_tells_of_every_change_and_every_signature() -> Result<()> {
    let (bench, ours) = (Bench::new(), repository("1"));
    let (keys, grant) = (keys(&bench), admin(&bench, &ours).await);
    let first = keys.rotate(&grant).await?;
    let second = keys.rotate(&grant).await?;
    keys.rotate(&grant).await?;
    keys.activate(&grant, &second).await?;
    keys.activate(&grant, &second).await?;
    keys.remove(&grant, &first).await?;
    keys.sign(&bench.claim(&ours).await, &second, b"x").await?;
    keys.delete(&grant).await?;
    let operator = Operator::new(&bench.audit)?;
    let act = operator.act(ours.tenant(), "audit.read").await?;
    let entries = bench.audit.entries(&act, ours.tenant(), 0).await?;
    let ada = bench.audit.pseudonym(&act, ours.tenant(), &Rig::user("ada")?).await?.expect("a pseudonym");
    let about = |entry: &ci_core::audit::Entry| {
        entry.about.iter().find(|(name, _)| name == "key").map(|(_, key)| key.clone()).unwrap_or_default()
    };
    let told: Vec<_> = entries
        .iter()
        .map(|logged| (logged.entry.action.as_str(), logged.entry.actor.as_str(), about(&logged.entry)))
        .collect();
    let (one, two) = (first.fingerprint(), second.fingerprint());
    let expected = [
        ("ssh_key.made", &*ada, one.clone()),
        ("ssh_key.made", &*ada, two.clone()),
        ("ssh_key.activated", &*ada, two.clone()),
        ("ssh_key.removed", &*ada, one),
        ("ssh_key.used", "job", two),
        ("ssh_key.deleted", &*ada, String::new()),
        ("audit.read", "operator", String::new()),
    ];
    assert_eq!(told, expected, "and nothing for what had happened already");
    Ok(())
}

#[tokio::test]
async fn keys_outlive_the_key_that_sealed_them() -> Result<()> {
    let (bench, ours) = (Bench::new(), repository("1"));
    let keys = keys(&bench);
    let key = keys.rotate(&admin(&bench, &ours).await).await?;
    let operator = Operator::new(&bench.audit)?;
    let act = operator.act(ours.tenant(), "repository_key.rotated").await?;
    assert!(bench.vault.rotate_repository(&act, &ours, &mut |_| {}).await?.is_complete());
    bench.rig.clock.advance(Duration::from_secs(1));
    assert_eq!(bench.vault.retire_keys(&act, &ours, bench.rig.clock.now()).await?.destroyed, 1);
    bench.vault.forget_keys();
    keys.sign(&bench.claim(&ours).await, &key, b"x").await.map(drop)
}

#[tokio::test]
async fn nothing_is_done_with_a_right_that_ended_meanwhile() -> Result<()> {
    for slow in ["secret", "key", "audit"] {
        let (bench, ours) = (Bench::new(), repository("1"));
        let keys = keys(&bench);
        let first = keys.rotate(&admin(&bench, &ours).await).await?;
        let claim = bench.claim(&ours).await;
        bench.delay(slow, Duration::from_secs(30));
        assert_eq!(kind(keys.sign(&claim, &first, b"x").await), ErrorKind::Fenced, "{slow}");
        let grant = admin(&bench, &ours).await;
        bench.delay(slow, Duration::from_mins(1));
        assert_eq!(kind(keys.rotate(&grant).await), ErrorKind::Denied, "{slow}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_erased_is_gone_and_no_private_half_lies_in_the_records() -> Result<()> {
    let (bench, ours) = (Bench::new(), repository("1"));
    let (keys, grant) = (keys(&bench), admin(&bench, &ours).await);
    keys.rotate(&grant).await?;
    let operator = Operator::new(&bench.audit)?;
    let act = operator.act(ours.tenant(), "repository.erased").await?;
    bench.vault.erase(&act, &ours).await?;
    assert!(bench.records.get(&row(&ours)).await?.is_none());
    assert!(stages(&keys, &grant).await.is_empty());
    Ok(())
}

/// Every way to use or change them, but those that replace them whatever they are.
async fn refused(bench: &Bench, keys: &SshKeys, repository: &RepositoryId, key: &SshPublicKey, what: &str) {
    let (grant, claim) = (admin(bench, repository).await, bench.claim(repository).await);
    assert_eq!(kind(keys.list(&grant.lower()).await), ErrorKind::Tampered, "{what}");
    assert_eq!(kind(keys.public_keys(&grant.lower()).await), ErrorKind::Tampered, "{what}: made anew");
    assert_eq!(kind(keys.identity(&claim).await), ErrorKind::Tampered, "{what}");
    assert_eq!(kind(keys.sign(&claim, key, b"x").await), ErrorKind::Tampered, "{what}");
    assert_eq!(kind(keys.rotate(&grant).await), ErrorKind::Tampered, "{what}");
    assert_eq!(kind(keys.remove(&grant, key).await), ErrorKind::Tampered, "{what}");
}

#[tokio::test]
async fn a_key_that_was_put_back_signs_nothing() -> Result<()> {
    let (bench, ours) = (Bench::new(), repository("1"));
    let (keys, grant) = (keys(&bench), admin(&bench, &ours).await);
    let first = keys.rotate(&grant).await?;
    let before = bench.read(&row(&ours)).await;
    let second = keys.rotate(&grant).await?;
    keys.activate(&grant, &second).await?;
    keys.remove(&grant, &first).await?;
    let right = bench.read(&row(&ours)).await;
    bench.write(&row(&ours), before.clone()).await;
    refused(&bench, &keys, &ours, &first, "put back").await;
    bench.write(&row(&ours), right).await;
    assert!(keys.sign(&bench.claim(&ours).await, &second, b"x").await.is_ok());

    keys.delete(&grant).await?;
    bench.write(&row(&ours), before).await;
    refused(&bench, &keys, &ours, &first, "put back after they were deleted").await;
    keys.delete(&grant).await?;
    assert_eq!(bench.records.get(&row(&ours)).await?, None, "it goes as a row that nobody has set");
    assert!(stages(&keys, &grant).await.is_empty());
    Ok(())
}

#[tokio::test]
async fn keys_whose_row_was_deleted_are_missed() -> Result<()> {
    let (bench, ours) = (Bench::new(), repository("1"));
    let (keys, grant) = (keys(&bench), admin(&bench, &ours).await);
    let first = keys.rotate(&grant).await?;
    bench.remove(&row(&ours)).await;
    refused(&bench, &keys, &ours, &first, "deleted").await;
    bench.put(&ours, "TOKEN", "some value").await;
    assert_eq!(bench.value(&ours, "TOKEN").await?, b"some value", "secrets can be used all the same");

    let operator = Operator::new(&bench.audit)?;
    let act = operator.act(ours.tenant(), "ssh_keys.replaced").await?;
    let rotation = bench.vault.rotate_repository(&act, &ours, &mut |_| {}).await?;
    assert_eq!((rotation.left, rotation.named[0].kind), (1, ErrorKind::Tampered), "{rotation:?}");
    assert!(rotation.named[0].advice().contains("replace the private keys"), "{rotation:?}");
    let second = keys.replace(&act, &ours).await?;
    assert_eq!(keys.public_keys(&grant.lower()).await?, [second]);
    assert!(bench.vault.rotate_repository(&act, &ours, &mut |_| {}).await?.is_complete());

    bench.remove(&Key::new("secret").repository(&ours).part("manifest")).await;
    refused(&bench, &keys, &ours, &second, "the list was deleted").await;
    assert_eq!(
        kind(keys.replace(&act, &ours).await),
        ErrorKind::Tampered,
        "nobody knows what else there was"
    );
    Ok(())
}

#[tokio::test]
async fn keys_put_back_with_everything_else_are_noticed_with_an_anchor_only() -> Result<()> {
    let (bench, ours) = (Bench::new(), repository("1"));
    let vault = bench.other_vault(bench.root.clone()).with_anchor(Arc::new(Anchor::default()));
    let (keys, grant) = (SshKeys::new(Arc::new(vault)), admin(&bench, &ours).await);
    let operator = Operator::new(&bench.audit)?;
    let act = operator.act(ours.tenant(), "ssh_keys.replaced").await?;
    for how in ["replaced", "removed", "deleted"] {
        let first = keys.replace(&act, &ours).await?;
        let second = keys.rotate(&grant).await?;
        keys.activate(&grant, &second).await?;
        let before = bench.everything().await;
        match how {
            "replaced" => drop(keys.replace(&act, &ours).await?),
            "removed" => keys.remove(&grant, &first).await?,
            _ => keys.delete(&grant).await?,
        }
        let after = bench.everything().await;
        bench.put_all_back(&before).await;
        refused(&bench, &keys, &ours, &second, how).await;
        // The limit that the documentation states.
        let unanchored = SshKeys::new(bench.vault.clone());
        assert_eq!(unanchored.identity(&bench.claim(&ours).await).await?, second, "{how}: nobody noticed");
        bench.put_all_back(&after).await;
        assert!(keys.list(&grant.lower()).await.is_ok(), "{how}");
    }
    Ok(())
}

/// Setting a secret, replacing an SSH key and rotating the repository's key write the same list.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_secrets_and_rotations_that_change_at_once_lose_nothing() -> Result<()> {
    const ROUNDS: usize = 12;
    let (bench, ours) = (Arc::new(Bench::new()), repository("1"));
    let (anchor, root) = (Arc::new(Anchor::default()), bench.root.clone());
    let vault = Arc::new(bench.other_vault(root).with_anchor(anchor));
    let keys = SshKeys::new(vault.clone());
    let first = keys.rotate(&admin(&bench, &ours).await).await?;
    let operator = Arc::new(Operator::new(&bench.audit)?);

    let (grant, by_people) = (admin(&bench, &ours).await, keys.clone());
    let keys_change = tokio::spawn(async move {
        let mut current = first;
        for _ in 0..ROUNDS {
            let next = by_people.rotate(&grant).await?;
            by_people.activate(&grant, &next).await?;
            by_people.remove(&grant, &current).await?;
            current = next;
        }
        Ok::<_, ci_core::Error>(current)
    });
    let (grant, setter) = (bench.grant::<Write>(&ours).await, vault.clone());
    let secrets_change = tokio::spawn(async move {
        for round in 0..ROUNDS {
            setter.put(&grant, &name("TOKEN"), SecretValue::new(format!("value {round}"))).await?;
        }
        Ok::<_, ci_core::Error>(())
    });
    let (rotator, place) = (vault.clone(), ours.clone());
    let rotations = tokio::spawn(async move {
        let mut done = 0;
        for _ in 0..ROUNDS {
            let act = operator.act(place.tenant(), "repository_key.rotated").await?;
            let report = rotator.rotate_repository(&act, &place, &mut |_| {}).await?;
            assert!(report.is_complete(), "{report:?}");
            done += report.made;
        }
        Ok::<_, ci_core::Error>(done)
    });
    let claim = bench.claim(&ours).await;
    while !(keys_change.is_finished() && secrets_change.is_finished() && rotations.is_finished()) {
        let current = keys.identity(&claim).await.expect("one signs at every moment");
        match keys.sign(&claim, &current, b"x").await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound, "another has taken its place: {error}");
            }
        }
    }
    let current = keys_change.await.expect("it ends")?;
    secrets_change.await.expect("it ends")?;
    assert_eq!(rotations.await.expect("it ends")?, ROUNDS);
    vault.forget_keys();
    let grant = admin(&bench, &ours).await;
    assert_eq!(keys.public_keys(&grant.lower()).await?, [current]);
    let lease = vault.lease(claim.trusted()?, &[name("TOKEN")]).await?;
    assert_eq!(lease.value(&name("TOKEN"))?.expose(), format!("value {}", ROUNDS - 1).as_bytes());
    let place = key_folder(&ours).part("current");
    let active = String::from_utf8(bench.read(&place).await.to_vec()).expect("an id");
    for record in bench.below(&Key::new("secret").repository(&ours)).await {
        let front = usize::from(record.key.as_str().contains("/value/"));
        let id = ci_core::seal::key_id(&record.value[front..])?;
        assert_eq!(id.as_str(), active, "{} is under the active key", record.key);
    }
    bench.audit.verify(ours.tenant()).await.map(drop)
}

/// Does what `Signer` does, but for one thing.
#[derive(Debug, Default)]
struct Broken {
    inner: Signer,
    how: How,
    shared: Option<(Grant<Read>, Claim)>,
}

#[derive(Debug, Default, PartialEq)]
enum How {
    #[default]
    AnyKey,
    OneForAll,
    ForEver,
}

#[async_trait::async_trait]
impl SshSigner for Broken {
    async fn public_keys(&self, grant: &Grant<Read>) -> Result<Vec<SshPublicKey>> {
        self.inner.public_keys(self.shared.as_ref().map_or(grant, |shared| &shared.0)).await
    }

    async fn identity(&self, claim: &Claim) -> Result<SshPublicKey> {
        self.inner.identity(self.shared.as_ref().map_or(claim, |shared| &shared.1)).await
    }

    async fn sign(&self, claim: &Claim, key: &SshPublicKey, data: &[u8]) -> Result<[u8; 64]> {
        match self.how {
            How::AnyKey => self.inner.sign(claim, &self.inner.identity(claim).await?, data).await,
            How::OneForAll => self.inner.sign(&self.shared.as_ref().expect("shared").1, key, data).await,
            How::ForEver => Ok([0; 64]),
        }
    }
}

async fn broken(how: How) -> Setup<Arc<dyn SshSigner>> {
    let (rig, other) = (Rig::new().expect("a rig"), repository("other"));
    let mut shared = None;
    if how == How::OneForAll {
        let grant = rig.grant(&Rig::user("ada").expect("a user"), &other).await.expect("a grant");
        let claim = rig.claim(&other, ci_core::trust::Origin::Protected, Rig::spec()).await.expect("a claim");
        shared = Some((grant, claim));
    }
    Setup::with_guard(Arc::new(Broken { how, shared, ..Broken::default() }) as Arc<dyn SshSigner>, rig)
}

#[test]
#[should_panic(expected = "another key: it was allowed")]
fn a_signer_that_takes_any_key_is_caught() {
    run("any key", async || broken(How::AnyKey).await, ssh_signer::another_repository_s_key_does_not_sign);
}

#[test]
#[should_panic(expected = "two repositories have one key")]
fn a_signer_with_one_key_is_caught() {
    run("one for all", async || broken(How::OneForAll).await, ssh_signer::repositories_have_different_keys);
}

#[test]
#[should_panic(expected = "a claim that is over: it was allowed")]
fn a_signer_that_signs_for_ever_is_caught() {
    run("for ever", async || broken(How::ForEver).await, ssh_signer::a_claim_that_is_over_signs_nothing);
}

#[test]
#[should_panic(expected = "the signature is not the listed key's")]
fn a_signer_that_signs_nothing_is_caught() {
    run("for ever", async || broken(How::ForEver).await, ssh_signer::a_signature_is_the_listed_key_s);
}
