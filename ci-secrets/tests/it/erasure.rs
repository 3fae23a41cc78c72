//! What is erased is gone, and the receipt says what is not.

use std::sync::Arc;

use ci_core::ErrorKind;
use ci_core::access::Write;
use ci_core::audit::Audit;
use ci_core::conformance::{Fault, FaultyRecords};
use ci_core::id::RepositoryId;
use ci_core::memory::{Database, Rig};
use ci_core::operator::Operator;
use ci_core::records::{Batch, Key, Records as _};
use ci_core::secret::{SecretStore as _, SecretValue};
use ci_core::trust::Origin;
use ci_secrets::{OutOfReach, Traces, Vault};

use crate::bench::{Bench, Switched, key_folder, kind, name, repository};

struct Service {
    rig: Rig,
    records: Arc<FaultyRecords>,
    operator: Operator,
    vault: Vault,
}

impl Service {
    async fn new(ours: &RepositoryId) -> Self {
        let rig = Rig::new().expect("a rig");
        let records = FaultyRecords::over(Arc::new(Database::new(rig.clock.clone())), rig.clock.clone());
        let audit = Audit::new(records.clone(), rig.clock.clone());
        let operator = Operator::new(&audit).expect("the operator");
        let vault = Vault::new(records.clone(), audit, Switched::new(), rig.clock.clone());
        let service = Self { rig, records, operator, vault };
        let grant =
            service.rig.grant::<Write>(&Rig::user("ada").expect("a person"), ours).await.expect("a grant");
        service.vault.put(&grant, &name("TOKEN"), SecretValue::new("some value")).await.expect("set");
        let act = service.operator.act(ours.tenant(), "key.rotated").await.expect("an act");
        service.vault.rotate_repository(&act, ours, &mut |_| {}).await.expect("rotated");
        service
    }

    async fn rows(&self, ours: &RepositoryId) -> usize {
        let folders = ["secret", "erasure", "rotation/repository"];
        let mut count = self.records.list(&key_folder(ours), None, 100).await.expect("a list").len();
        for folder in folders {
            let folder = folder
                .split('/')
                .skip(1)
                .fold(Key::new(folder.split('/').next().expect("a part")), Key::part);
            count += self.records.list(&folder, None, 100).await.expect("a list").len();
        }
        count
    }
}

#[tokio::test]
async fn a_receipt_says_what_was_destroyed_and_what_is_out_of_reach() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", "some value").await;
    let operator = Operator::new(&bench.audit).expect("the operator");
    let act = operator.act(ours.tenant(), "erase").await.expect("an act");
    let receipt = bench.vault.erase(&act, &ours).await.expect("it is erased");
    assert_eq!((receipt.keys.len(), receipt.records, receipt.resumed), (1, 6, false));
    assert!(receipt.is_verified());
    assert_eq!(receipt.repository, ours);
    let five_minutes = OutOfReach::Memory(std::time::Duration::from_mins(5));
    let expected = [OutOfReach::Backups, OutOfReach::Replicas, OutOfReach::OtherLeases, five_minutes];
    assert_eq!(receipt.out_of_reach, expected);
    let act = operator.act(ours.tenant(), "audit.read").await.expect("an act");
    let entries = bench.audit.entries(&act, ours.tenant(), 0).await.expect("entries");
    let erased = entries.iter().find(|logged| logged.entry.action == "repository.erased").expect("an entry");
    assert!(erased.entry.about.contains(&("traces".to_owned(), "none".to_owned())), "{erased:?}");
    assert!(serde_json::to_string(&receipt).is_ok(), "it can be kept");
}

#[tokio::test]
async fn leases_end_with_an_erasure() {
    let ours = repository("1");
    let service = Service::new(&ours).await;
    let claim = service.rig.claim(&ours, Origin::Repository, Rig::spec()).await.expect("a claim");
    let (trusted, token) = (claim.trusted().expect("trusted"), name("TOKEN"));
    let lease = service.vault.lease(trusted, std::slice::from_ref(&token)).await.expect("a lease");
    drop(service.vault.lease(trusted, std::slice::from_ref(&token)).await.expect("a lease that is over"));
    let act = service.operator.act(ours.tenant(), "erase").await.expect("an act");
    let receipt = service.vault.erase(&act, &ours).await.expect("it is erased");
    assert_eq!(receipt.jobs, [claim.job().clone()]);
    assert_eq!(kind(lease.value(&token)), ErrorKind::Fenced);
}

#[tokio::test]
async fn what_a_copy_still_holds_is_found() {
    let ours = repository("1");
    let service = Service::new(&ours).await;
    let wrapped = service.records.list(&key_folder(&ours).part("wrapped"), None, 9).await.expect("a list");
    let copy = Key::new("product").part("copy");
    service.records.commit(Batch::new().put(copy.clone(), wrapped[0].value.clone())).await.expect("written");
    let act = service.operator.act(ours.tenant(), "erase").await.expect("an act");
    let receipt = service.vault.erase(&act, &ours).await.expect("it is erased");
    assert_eq!((receipt.traces, receipt.is_verified()), (Traces::Found(2), false));
    service.records.commit(Batch::new().delete(copy)).await.expect("deleted");
    let again = service.vault.erase(&act, &ours).await.expect("it is erased");
    assert!(again.is_verified() && again.resumed, "{again:?}");
    assert_eq!(again.keys, receipt.keys, "it knows what it looked for");
    assert_eq!(service.rows(&ours).await, 0);
}

/// The store fails at every write there is: calling again finishes it, and looks for the keys that are gone already.
#[tokio::test]
async fn an_erasure_that_stopped_goes_on() {
    let ours = repository("1");
    for fault in [Fault::Refused, Fault::AnswerLost] {
        let mut at = 0;
        loop {
            assert!(at < 20, "it does not end");
            let service = Service::new(&ours).await;
            let act = service.operator.act(ours.tenant(), "erase").await.expect("an act");
            service.records.stop_after(at, fault);
            let first = service.vault.erase(&act, &ours).await;
            service.records.heal();
            let receipt = service.vault.erase(&act, &ours).await.expect("it goes on");
            assert!(receipt.is_verified(), "{at}: {receipt:?}");
            let is_over = first.is_ok() || receipt.keys.is_empty();
            assert!(is_over || receipt.keys.len() == 2, "{at}: {receipt:?}");
            assert_eq!(service.rows(&ours).await, 0, "{at}");
            if first.is_ok() {
                break;
            }
            at += 1;
        }
        assert!(at >= 4, "it fails at {at} places only");
    }
}
