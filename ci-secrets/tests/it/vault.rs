//! What the vault promises beyond the ports: audit, bounds, caches, erasure.

use std::sync::atomic::Ordering;
use std::time::Duration;

use ci_core::ErrorKind;
use ci_core::access::{Read, Write};
use ci_core::id::{JobId, TenantId};
use ci_core::memory::Rig;
use ci_core::operator::Operator;
use ci_core::queue::{Dispatcher, NewJob};
use ci_core::records::Key;
use ci_core::secret::{KeyRing as _, NewSecret, Purpose, SecretStore as _, SecretValue};
use ci_core::trust::Origin;
use ci_secrets::{Vault, VaultOptions};

use crate::bench::{Bench, Switched, key_folder, kind, name, repository};

const VALUE: &str = "correct horse battery staple";

#[tokio::test]
async fn code_from_a_fork_gets_no_secrets() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", VALUE).await;
    let claim = bench.rig.claim(&ours, Origin::Fork, Rig::spec()).await.expect("a claim");
    assert_eq!(kind(claim.trusted()), ErrorKind::Denied, "there is nothing to pass to the vault");
}

#[tokio::test]
async fn nothing_is_released_when_the_audit_log_cannot_be_written() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", VALUE).await;
    bench.break_audit();
    assert_eq!(kind(bench.lease(&ours, &["TOKEN"]).await), ErrorKind::Unavailable);
    bench.faulty.heal();
    assert!(bench.lease(&ours, &["TOKEN"]).await.is_ok());
}

#[tokio::test]
async fn nothing_is_changed_when_the_audit_log_cannot_be_written() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", VALUE).await;
    bench.break_audit();
    let grant = bench.grant::<Write>(&ours).await;
    let put = bench.vault.put(&grant, &name("TOKEN"), SecretValue::new("another")).await;
    assert_eq!(kind(put), ErrorKind::Unavailable);
    assert_eq!(kind(bench.vault.delete(&grant, &name("TOKEN")).await), ErrorKind::Unavailable);
    bench.faulty.heal();
    assert_eq!(bench.value(&ours, "TOKEN").await.expect("still there"), VALUE.as_bytes());
}

#[tokio::test]
async fn nothing_is_released_to_a_claim_that_ended_meanwhile() {
    for slow in ["secret", "key", "audit"] {
        let (bench, ours) = (Bench::new(), repository("1"));
        bench.put(&ours, "TOKEN", VALUE).await;
        let claim = bench.claim(&ours).await;
        bench.delay(slow, Duration::from_secs(30));
        let lease = bench.vault.lease(claim.trusted().expect("trusted"), &[name("TOKEN")]).await;
        assert_eq!(kind(lease), ErrorKind::Fenced, "{slow}");
    }
}

#[tokio::test]
async fn nothing_is_done_with_a_grant_that_ended_meanwhile() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", VALUE).await;
    for slow in ["secret", "key", "audit"] {
        let later = || bench.delay(slow, Duration::from_mins(1));
        let grant = bench.grant::<Write>(&ours).await;
        later();
        let put = bench.vault.put(&grant, &name("TOKEN"), SecretValue::new("another")).await;
        assert_eq!(kind(put), ErrorKind::Denied, "{slow}");
        let grant = bench.grant::<Write>(&ours).await;
        later();
        assert_eq!(kind(bench.vault.delete(&grant, &name("TOKEN")).await), ErrorKind::Denied, "{slow}");
    }
    let grant = bench.grant::<Read>(&ours).await;
    bench.delay("secret", Duration::from_mins(1));
    assert_eq!(kind(bench.vault.list(&grant).await), ErrorKind::Denied);
    assert_eq!(bench.value(&ours, "TOKEN").await.expect("unchanged"), VALUE.as_bytes());
}

#[tokio::test]
async fn the_audit_log_tells_who_did_what_without_names_or_values() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "DATABASE_PASSWORD", VALUE).await;
    bench.lease(&ours, &["DATABASE_PASSWORD"]).await.expect("a lease");
    let write = bench.grant::<Write>(&ours).await;
    bench.vault.delete(&write, &name("DATABASE_PASSWORD")).await.expect("it is deleted");

    let tenant = TenantId::parse("acme").expect("a tenant");
    let operator = Operator::new(&bench.audit).expect("the operator");
    let act = operator.act(&tenant, "audit.read").await.expect("an act");
    let entries = bench.audit.entries(&act, &tenant, 0).await.expect("entries");
    let person = Rig::user("ada").expect("a person");
    let ada =
        bench.audit.pseudonym(&act, &tenant, &person).await.expect("it is read").expect("she was there");
    let told: Vec<_> = entries.iter().map(|e| (e.entry.action.as_str(), e.entry.actor.as_str())).collect();
    let expected = [
        ("secret.set", ada.as_str()),
        ("secret.leased", "job"),
        ("secret.deleted", ada.as_str()),
        ("audit.read", "operator"),
    ];
    assert_eq!(told, expected);
    let tag = bench.vault.audit_tag(&write.lower(), &name("DATABASE_PASSWORD")).await.expect("a tag");
    let about = ("secret".to_owned(), tag);
    assert!(entries[..3].iter().all(|logged| logged.entry.about.contains(&about)));
    for needle in [VALUE, "PASSWORD", "memory/ada"] {
        assert!(!format!("{entries:?}").contains(needle), "{needle} is in the audit log");
    }
}

#[tokio::test]
async fn the_same_name_has_another_tag_elsewhere() {
    let bench = Bench::new();
    let mut tags = Vec::new();
    for native in ["1", "2"] {
        let grant = bench.grant::<Read>(&repository(native)).await;
        tags.push(bench.vault.audit_tag(&grant, &name("TOKEN")).await.expect("a tag"));
    }
    assert_ne!(tags[0], tags[1]);
}

#[tokio::test]
async fn no_value_lies_in_the_records() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", VALUE).await;
    bench.put(&ours, "TOKEN", &VALUE.repeat(100)).await;
    bench.lease(&ours, &["TOKEN"]).await.expect("a lease");
    let purpose = Purpose::log(&JobId::random(), 0);
    let grant = bench.grant::<Read>(&ours).await;
    let key = bench.vault.data_key(grant.scope().expect("fresh"), &purpose, None).await.expect("a key");
    for needle in [VALUE.as_bytes(), &VALUE.as_bytes()[..8], key.expose()] {
        assert_eq!(bench.records.scan_raw(needle).await.expect("a scan"), 0);
    }
    assert!(
        bench.records.scan_raw(key.id().as_str().as_bytes()).await.expect("a scan") > 0,
        "the scan finds"
    );
}

#[tokio::test]
async fn listing_reads_no_value() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", VALUE).await;
    bench.records.purge(&Key::new("secret").repository(&ours).part("value")).await.expect("it is purged");
    let grant = bench.grant::<Read>(&ours).await;
    assert_eq!(bench.vault.list(&grant).await.expect("a list").len(), 1);
}

#[tokio::test]
async fn a_long_list_is_whole() {
    let (bench, ours) = (Bench::new(), repository("1"));
    let grant = bench.grant::<Write>(&ours).await;
    for index in 0..Vault::MOST_SECRETS {
        let secret = name(&format!("S{index}"));
        bench.vault.put(&grant, &secret, SecretValue::new("some value")).await.expect("the secret is set");
    }
    let one_more = bench.vault.put(&grant, &name("ONE_MORE"), SecretValue::new("x")).await;
    assert_eq!(kind(one_more), ErrorKind::LimitExceeded);
    assert_eq!(bench.vault.list(&grant.lower()).await.expect("a list").len(), Vault::MOST_SECRETS);
    bench.vault.put(&grant, &name("S7"), SecretValue::new("y")).await.expect("replacing is no more");
}

#[tokio::test]
async fn one_job_leases_a_bounded_amount() {
    let (bench, ours) = (Bench::new(), repository("1"));
    let grant = bench.grant::<Write>(&ours).await;
    let names: Vec<String> = (0..=Vault::MOST_LEASED / Vault::MOST_BYTES).map(|i| format!("S{i}")).collect();
    for secret in &names {
        let new = NewSecret::file(SecretValue::new(vec![b'x'; Vault::MOST_BYTES]));
        bench.vault.set(&grant, &name(secret), new).await.expect("the secret is set");
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(kind(bench.lease(&ours, &names).await), ErrorKind::LimitExceeded);
    assert!(bench.lease(&ours, &names[1..]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn setting_while_leasing_is_not_taken_for_tampering() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", "value 0").await;
    let (grant, vault) = (bench.grant::<Write>(&ours).await, bench.vault.clone());
    let writer = tokio::spawn(async move {
        for round in 1..200 {
            let value = SecretValue::new(format!("value {round}"));
            vault.put(&grant, &name("TOKEN"), value).await.expect("the secret is set");
        }
    });
    let claim = bench.claim(&ours).await;
    for _ in 0..200 {
        let lease = bench.vault.lease(claim.trusted().expect("trusted"), &[name("TOKEN")]).await;
        assert!(
            lease.expect("a lease").value(&name("TOKEN")).expect("leased").expose().starts_with(b"value ")
        );
    }
    writer.await.expect("the writer ends");
}

#[tokio::test]
async fn a_root_key_that_is_down_is_an_outage_and_not_tampering() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", VALUE).await;
    bench.root.is_down.store(true, Ordering::Release);
    assert!(bench.lease(&ours, &["TOKEN"]).await.is_ok(), "keys are remembered for a while");
    bench.vault.forget_keys();
    let error = bench.lease(&ours, &["TOKEN"]).await.expect_err("the key cannot be had");
    assert!(error.kind() == ErrorKind::Unavailable && error.is_retryable(), "{error:?}");
    let new = bench.grant::<Write>(&repository("2")).await;
    let put = bench.vault.put(&new, &name("TOKEN"), SecretValue::new(VALUE)).await;
    assert_eq!(kind(put), ErrorKind::Unavailable);
    bench.root.is_down.store(false, Ordering::Release);
    assert!(bench.lease(&ours, &["TOKEN"]).await.is_ok());
}

#[tokio::test]
async fn keys_are_remembered_for_their_time_only() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", VALUE).await;
    bench.root.is_down.store(true, Ordering::Release);
    bench.rig.clock.advance(VaultOptions::default().keys_for.saturating_sub(Duration::from_secs(1)));
    assert!(bench.lease(&ours, &["TOKEN"]).await.is_ok());
    bench.rig.clock.advance(Duration::from_secs(1));
    assert_eq!(kind(bench.lease(&ours, &["TOKEN"]).await), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_vault_that_remembers_nothing_works() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", VALUE).await;
    let vault = bench.other_vault(bench.root.clone()).with_options(VaultOptions::default().with_most_keys(0));
    let grant = bench.grant::<Read>(&ours).await;
    assert_eq!(vault.list(&grant).await.expect("a list").len(), 1);
    bench.root.is_down.store(true, Ordering::Release);
    assert_eq!(kind(vault.list(&grant).await), ErrorKind::Unavailable);
}

#[tokio::test]
async fn another_root_key_opens_nothing() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", VALUE).await;
    let stranger = bench.other_vault(Switched::new());
    let error = stranger.list(&bench.grant(&ours).await).await.expect_err("it is another root key");
    assert_eq!(
        error.kind(),
        ErrorKind::Unavailable,
        "who was set up wrongly must not take the rows for forged"
    );
    let said = "fetch a key: it was wrapped by another root key than the one in use; start with the one of this database";
    assert_eq!(error.to_string(), said);
}

#[tokio::test]
async fn what_is_erased_cannot_be_read_by_anybody() {
    let (bench, ours, theirs) = (Bench::new(), repository("1"), repository("2"));
    bench.put(&ours, "TOKEN", VALUE).await;
    bench.put(&theirs, "TOKEN", VALUE).await;
    let warm = bench.other_vault(bench.root.clone());
    let (grant, purpose) = (bench.grant::<Read>(&ours).await, Purpose::log(&JobId::random(), 0));
    let scope = || grant.scope().expect("fresh");
    let sealed = warm.seal(scope(), &purpose, b"content").await.expect("it is sealed");
    let rows = bench.below(&Key::new("secret").repository(&ours)).await;

    let operator = Operator::new(&bench.audit).expect("the operator");
    let act = operator.act(ours.tenant(), "repository.erased").await.expect("an act");
    assert_eq!(
        bench.vault.erase(&act, &ours).await.expect("it is erased").records,
        6,
        "two of a key, two of a secret, the decoy and the list"
    );

    for vault in [&warm, &*bench.vault] {
        assert_eq!(kind(vault.open(scope(), &purpose, &sealed).await), ErrorKind::NotFound);
        assert!(vault.list(&grant).await.expect("a list").is_empty());
    }
    // Secrets that come back from a copy of the database cannot be read either.
    for record in rows {
        bench.write(&record.key, record.value).await;
    }
    assert_eq!(kind(bench.value(&ours, "TOKEN").await), ErrorKind::NotFound);
    assert_eq!(kind(warm.list(&grant).await), ErrorKind::NotFound);
    assert_eq!(bench.value(&theirs, "TOKEN").await.expect("it is not erased"), VALUE.as_bytes());
    // The repository can be used again, with another key.
    bench.vault.seal(scope(), &purpose, b"content").await.expect("it is sealed");
    assert_eq!(kind(bench.vault.open(scope(), &purpose, &sealed).await), ErrorKind::NotFound);
    assert_eq!(bench.below(&key_folder(&ours)).await.len(), 2);
}

#[tokio::test]
async fn a_secret_that_was_tampered_with_can_be_deleted_and_set_anew() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", VALUE).await;
    bench.write(&crate::bench::row(&ours, "info", "TOKEN"), "rubbish").await;
    let grant = bench.grant::<Write>(&ours).await;
    let put = bench.vault.put(&grant, &name("TOKEN"), SecretValue::new("new")).await;
    assert_eq!(kind(put), ErrorKind::Tampered, "it is not silently replaced");
    bench.vault.delete(&grant, &name("TOKEN")).await.expect("it is deleted");
    bench.put(&ours, "TOKEN", "new value").await;
    assert_eq!(bench.value(&ours, "TOKEN").await.expect("set anew"), b"new value");
}

/// A worker that was set up wrongly opens no ticket. The jobs are there for those that can.
#[tokio::test]
async fn a_worker_with_another_root_key_ends_no_job() {
    let rig = Rig::new().expect("a rig");
    let vault = || Vault::new(rig.records(), rig.audit.clone(), Switched::new(), rig.clock.clone());
    let (right, wrong) = (std::sync::Arc::new(vault()), std::sync::Arc::new(vault()));
    let dispatcher =
        |ring| Dispatcher::new(rig.database.clone(), ring, rig.authority.clone(), rig.clock.clone());
    let (right, wrong) = (dispatcher(right), dispatcher(wrong));
    let grant = rig.grant(&Rig::user("ada").expect("a user"), &repository("1")).await.expect("a grant");
    let code = rig.code(&repository("1"), Origin::Repository).await.expect("code");
    let new = NewJob::requested(&grant, code, Rig::spec()).expect("a job");
    right.enqueue(&new).await.expect("enqueued");
    for _ in 0..10 {
        assert_eq!(kind(wrong.next(&[]).await), ErrorKind::Unavailable);
        rig.clock.advance(Duration::from_secs(10));
    }
    let claim = right.next(&[]).await.expect("asked").expect("the job");
    assert_eq!((claim.job(), claim.attempt()), (new.id(), 1));
}

#[cfg(feature = "aws-lc")]
#[tokio::test]
async fn what_was_sealed_with_another_suite_still_opens() {
    use ci_core::seal::Suite;

    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "BEFORE", VALUE).await;
    let options = VaultOptions::default().with_suite(Suite::Aes256Gcm);
    let faster = bench.other_vault(bench.root.clone()).with_options(options);
    let grant = bench.grant::<Write>(&ours).await;
    faster.put(&grant, &name("AFTER"), SecretValue::new(VALUE)).await.expect("the secret is set");
    for (secret, suite) in [("BEFORE", 1), ("AFTER", 2)] {
        // The value says first that it is whole.
        for (kind, at) in [("info", 1), ("value", 2)] {
            let row = bench.read(&crate::bench::row(&ours, kind, secret)).await;
            assert_eq!(row[at], suite, "{kind} of {secret}");
        }
        for vault in [&*bench.vault, &faster] {
            let claim = bench.claim(&ours).await;
            let lease =
                vault.lease(claim.trusted().expect("trusted"), &[name(secret)]).await.expect("a lease");
            assert_eq!(lease.value(&name(secret)).expect("leased").expose(), VALUE.as_bytes());
        }
    }
    let purpose = Purpose::log(&JobId::random(), 1);
    let sealed =
        faster.seal(grant.scope().expect("fresh"), &purpose, b"12 passed").await.expect("it is sealed");
    assert_eq!(sealed[1], 2, "also what it is only the key ring for");
}
