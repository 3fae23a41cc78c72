//! What somebody gets who can write to the database, or set secrets of their own.

use ci_core::ErrorKind;
use ci_core::secret::SecretStore as _;

use crate::bench::{Bench, name, repository, row};

/// Versions begin again at 1 when a secret is deleted and set anew.
#[tokio::test]
async fn a_value_from_before_a_deletion_cannot_be_put_back() {
    let (bench, ours) = (Bench::new(), repository("1"));
    bench.put(&ours, "TOKEN", "leaked, and revoked").await;
    let earlier = bench.read(&row(&ours, "value", "TOKEN")).await;
    bench.vault.delete(&bench.grant(&ours).await, &name("TOKEN")).await.expect("deleted");
    bench.put(&ours, "TOKEN", "the new one").await;
    bench.write(&row(&ours, "value", "TOKEN"), earlier).await;
    let value = bench.value(&ours, "TOKEN").await.map(|value| String::from_utf8_lossy(&value).into_owned());
    assert_eq!(value.as_ref().err().map(ci_core::Error::kind), Some(ErrorKind::Tampered), "{value:?}");
}
