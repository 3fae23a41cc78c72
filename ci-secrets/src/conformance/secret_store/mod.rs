//! What every secret store must do.

mod policies;
mod rights;
mod traces;
mod values;

use std::sync::Arc;

use ci_core::External;
use ci_core::access::{Grant, Read, Write};
use ci_core::audit::Audit;
use ci_core::forge::{self, Revision, RevisionName};
use ci_core::id::{CommitId, TenantId};
use ci_core::memory::Rig;
use ci_core::queue::{Claim, NewJob};
use ci_core::secret::{SecretStore, SecretValue};
use ci_core::trust::Origin;

use super::{name, repository, rig, user};

pub use policies::{
    a_file_is_no_variable, a_policy_asks_for_a_branch_or_tag, a_policy_asks_for_an_environment,
    a_policy_asks_for_steps, a_policy_asks_for_trust, a_policy_asks_for_what_started_the_job,
    a_policy_is_shown_and_kept, a_secret_that_is_denied_is_named_and_no_other_is_given,
};
pub use rights::{
    a_claim_that_is_over_leases_nothing, a_grant_that_is_over_is_refused, a_lease_ends_with_its_claim,
    repositories_do_not_see_each_others_secrets, tenants_do_not_see_each_others_secrets,
};
pub use traces::{
    a_new_masker_knows_nothing, every_change_is_audited, every_lease_is_audited, what_is_leased_is_masked,
    who_sets_a_secret_learns_whether_it_can_be_hidden,
};
pub use values::{
    a_deleted_secret_is_gone, a_lease_is_all_or_nothing, a_leased_value_is_what_was_set,
    a_name_twice_is_a_name_once, any_bytes_are_a_value, large_values_are_whole,
    listing_shows_names_and_versions, setting_again_replaces_the_value, setting_at_once_loses_nothing,
    values_have_bounds, what_is_not_there_cannot_be_deleted,
};

/// A store, and the audit log that it writes to. The kit signs people in, and leases jobs, by a service of its own, so
/// that the store needs none.
#[derive(Clone, Debug)]
pub struct StoreUnderTest {
    /// The store, without any secret.
    pub store: Arc<dyn SecretStore>,
    /// Where it says what was done: over any records, and written to by nothing else.
    pub audit: Audit,
}

ci_core::declare_kit! {
    /// Runs every case about secret stores; takes a closure that makes a
    /// [`StoreUnderTest`](crate::conformance::secret_store::StoreUnderTest).
    secret_store_kit for ci_secrets::conformance::secret_store {
        a_leased_value_is_what_was_set,
        setting_again_replaces_the_value,
        setting_at_once_loses_nothing,
        listing_shows_names_and_versions,
        repositories_do_not_see_each_others_secrets,
        tenants_do_not_see_each_others_secrets,
        a_lease_is_all_or_nothing,
        a_name_twice_is_a_name_once,
        a_deleted_secret_is_gone,
        what_is_not_there_cannot_be_deleted,
        values_have_bounds,
        large_values_are_whole,
        who_sets_a_secret_learns_whether_it_can_be_hidden,
        a_policy_is_shown_and_kept,
        a_policy_asks_for_trust,
        a_policy_asks_for_what_started_the_job,
        a_policy_asks_for_a_branch_or_tag,
        a_policy_asks_for_an_environment,
        a_policy_asks_for_steps,
        a_file_is_no_variable,
        a_secret_that_is_denied_is_named_and_no_other_is_given,
        any_bytes_are_a_value,
        a_grant_that_is_over_is_refused,
        a_claim_that_is_over_leases_nothing,
        a_lease_ends_with_its_claim,
        what_is_leased_is_masked,
        a_new_masker_knows_nothing,
        every_change_is_audited,
        every_lease_is_audited,
    }
}

/// What the cases do over and over.
struct Desk {
    rig: Rig,
    store: Arc<dyn SecretStore>,
}

impl Desk {
    fn new(test: StoreUnderTest) -> Self {
        Self { rig: rig(), store: test.store }
    }

    async fn write(&self, native: &str) -> Grant<Write> {
        self.rig.grant(&user(), &repository(native)).await.expect("a grant")
    }

    async fn read(&self, native: &str) -> Grant<Read> {
        self.rig.grant(&user(), &repository(native)).await.expect("a grant")
    }

    async fn claim(&self, native: &str) -> Claim {
        self.rig.claim(&repository(native), Origin::Repository, Rig::spec()).await.expect("a claim")
    }

    /// A claim on a job whose code was found on `branch`.
    async fn claim_on(&self, branch: &str) -> Claim {
        let ours = repository("1");
        let commit = CommitId::parse("5".repeat(40)).expect("a commit");
        let revision = Revision::new(commit, Origin::Repository).with_reference(External::new(branch));
        self.rig.forge.add_commit::<String, &str>(&ours, revision, []).expect("a commit");
        let grant = self.write("1").await;
        let wanted = RevisionName::parse(branch).expect("a name");
        let forge = self.rig.forge.as_ref();
        let code = forge::resolve(forge, grant.scope().expect("fresh"), &self.rig.sandboxes, &wanted).await;
        let new = NewJob::requested(&grant, code.expect("the code"), Rig::spec()).expect("a job");
        self.rig.dispatcher.enqueue(&new).await.expect("it is enqueued");
        self.rig.dispatcher.next(&[]).await.expect("it is asked").expect("the job")
    }

    async fn put(&self, native: &str, secret: &str, value: &str) {
        let grant = self.write(native).await;
        self.store.put(&grant, &name(secret), SecretValue::new(value)).await.expect("the secret is set");
    }
}

async fn entries(audit: &Audit) -> u64 {
    let tenant = TenantId::parse("acme").expect("a tenant");
    audit.verify(&tenant).await.expect("the audit log is whole").count
}
