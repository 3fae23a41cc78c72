//! A root key at AWS KMS.

use std::sync::Arc;

use ci_core::ErrorKind;
use ci_core::conformance::Setup;
use ci_core::seal::Context;
use ci_secrets::conformance::root_key::RootsUnderTest;
use ci_secrets::conformance::root_key::remote::RemoteUnderTest;
use ci_secrets::{AwsCredentials, CertificateAuthorities, KmsConfig, KmsRoot, RootKey};
use hyper::http::request::Parts;
use serde_json::Value;

use crate::bench::{exposed, kind};
use crate::providers::kms::{Kms, ONE, OTHER, refused};
use crate::providers::{Service, Stand, certified, little, system_clock};

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const TOKEN: &str = "a-session-token-of-some-length";

fn credentials() -> AwsCredentials {
    let credentials = AwsCredentials::new("AKIDEXAMPLE", SECRET.into()).expect("credentials");
    credentials.with_session_token(TOKEN.into()).expect("a token")
}

fn root(stand: &Stand, arn: &str) -> Arc<KmsRoot> {
    let config = KmsConfig::new(arn, &stand.authorities()).expect("a configuration");
    let config = config.with_endpoint(&stand.address).expect("an endpoint").with_patience(little());
    Arc::new(KmsRoot::new(config, credentials(), system_clock()))
}

fn here() -> Context {
    Context::new("tenant").field("acme")
}

mod kit {
    use super::*;

    ci_secrets::root_key_kit!(async || {
        let stand = Stand::new(Arc::new(Kms::new())).await;
        let roots = RootsUnderTest { one: root(&stand, ONE), other: root(&stand, OTHER) };
        Setup::with_guard(roots, stand)
    });
}

mod remote_kit {
    use super::*;

    ci_secrets::remote_root_key_kit!(async || {
        let stand = Stand::new(Arc::new(Kms::new())).await;
        let it = RemoteUnderTest { root: root(&stand, ONE), provider: stand.faults() };
        Setup::with_guard(it, stand)
    });
}

#[test]
fn only_the_arn_of_a_key_is_one() {
    let authorities =
        || CertificateAuthorities::from_pem(certified(&["x"]).0.as_bytes()).expect("an authority");
    for wrong in [
        "",
        "1234abcd-12ab-34cd-56ef-1234567890ab",
        "alias/ci-root",
        "arn:aws:kms:eu-central-1:111122223333:alias/ci-root",
        "arn:aws:s3:eu-central-1:111122223333:key/1234abcd",
        "arn:aws:kms::111122223333:key/1234abcd",
        "arn:aws:kms:eu-central-1::key/1234abcd",
        "arn:aws:kms:eu-central-1:111122223333:key/",
        "arn:aws:kms:eu-central-1:111122223333:key/a/b",
        "arn:other:kms:eu-central-1:111122223333:key/1234abcd",
        "arn:aws:kms:evil.example/:111122223333:key/1234abcd",
        "arn:aws:kms:eu-central-1:111122223333:key/1234abcd\n",
    ] {
        assert_eq!(kind(KmsConfig::new(wrong, &authorities())), ErrorKind::Invalid, "{wrong:?}");
    }
    for right in [ONE, OTHER, "arn:aws-cn:kms:cn-north-1:111122223333:key/1234abcd"] {
        assert!(KmsConfig::new(right, &authorities()).is_ok(), "{right}");
    }
    for (id, secret) in [("", "secret"), ("AKID EXAMPLE", "secret"), ("AKIDEXAMPLE", "")] {
        assert_eq!(kind(AwsCredentials::new(id, secret.into())), ErrorKind::Invalid);
    }
    assert_eq!(kind(credentials().with_session_token("a\nb".into())), ErrorKind::Invalid);
    let shown = format!("{:?}", credentials());
    assert!(!shown.contains(SECRET) && !shown.contains(TOKEN), "{shown}");
}

#[tokio::test]
async fn other_credentials_can_be_handed_in() {
    let stand = Stand::new(Arc::new(Kms::new())).await;
    let root = root(&stand, ONE);
    root.set_credentials(AwsCredentials::new("AKIDSTRANGER", SECRET.into()).expect("credentials"));
    let error = root.wrap(&here(), &[7; 32]).await.expect_err("they are not known");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Denied, true), "{error:?}");
    root.set_credentials(credentials());
    let wrapped = root.wrap(&here(), &[7; 32]).await.expect("it is wrapped");
    assert_eq!(exposed(&root.unwrap(&here(), &wrapped).await.expect("it unwraps")), [7; 32]);
}

/// Answers with one error to everything.
struct Refusing(&'static str, &'static str);

impl Service for Refusing {
    fn answer(&self, _: &Parts, _: &[u8]) -> (u16, Value) {
        refused(self.0, self.1)
    }

    fn refusal(&self) -> (u16, Value) {
        refused(self.0, self.1)
    }
}

#[tokio::test]
async fn every_error_of_the_service_has_its_meaning() {
    let stand = Stand::new(Arc::new(Kms::new())).await;
    let wrapped = root(&stand, ONE).wrap(&here(), &[7; 32]).await.expect("it is wrapped");
    let not_existing = "The ciphertext refers to a customer master key that does not exist, does not exist in this \
                        region, or you are not allowed to access.";
    for (what, message, expected, is_retryable) in [
        ("InvalidCiphertextException", "", ErrorKind::Tampered, false),
        ("IncorrectKeyException", "", ErrorKind::Tampered, false),
        ("AccessDeniedException", not_existing, ErrorKind::Tampered, false),
        ("AccessDeniedException", "User is not authorized", ErrorKind::Denied, true),
        ("ExpiredTokenException", "", ErrorKind::Denied, true),
        ("DisabledException", "", ErrorKind::Denied, true),
        ("KMSInvalidStateException", "it is pending deletion", ErrorKind::Denied, true),
        ("NotFoundException", "", ErrorKind::NotFound, false),
        ("InvalidKeyUsageException", "", ErrorKind::Unsupported, false),
        ("ThrottlingException", "Rate exceeded", ErrorKind::Unavailable, true),
        ("KeyUnavailableException", "", ErrorKind::Unavailable, true),
        ("Unheard", "", ErrorKind::Invalid, false),
    ] {
        let stand = Stand::new(Arc::new(Refusing(what, message))).await;
        let error = root(&stand, ONE).unwrap(&here(), &wrapped).await.expect_err("it is refused");
        assert_eq!((error.kind(), error.is_retryable()), (expected, is_retryable), "{what}: {error:?}");
        assert!(format!("{error:?}").contains(what), "an operator reads what the service said: {error:?}");
    }
}

/// A wrong signature is answered with what was signed, and the token is a part of it.
#[tokio::test]
async fn no_error_shows_credentials() {
    let said = "The Canonical String for this request should have been 'POST x-amz-security-token:a-session-token-of";
    let stand = Stand::new(Arc::new(Refusing("InvalidSignatureException", said))).await;
    let error = root(&stand, ONE).wrap(&here(), &[7; 32]).await.expect_err("it is refused");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(!format!("{error:?}").contains("session-token-of"), "{error:?}");
}

/// Uses the right key, and says that it was another one.
struct Misnaming(Kms);

impl Service for Misnaming {
    fn answer(&self, head: &Parts, body: &[u8]) -> (u16, Value) {
        let (status, mut answer) = self.0.answer(head, body);
        answer["KeyId"] = OTHER.into();
        (status, answer)
    }

    fn refusal(&self) -> (u16, Value) {
        self.0.refusal()
    }
}

#[tokio::test]
async fn the_service_has_to_use_the_key_that_it_was_asked_for() {
    let service = Arc::new(Misnaming(Kms::new()));
    let stand = Stand::new(service.clone()).await;
    assert_eq!(kind(root(&stand, ONE).wrap(&here(), &[7; 32]).await), ErrorKind::Internal);
    // Where only unwrapping tells of another key: what is stored was another key's.
    let key_of_other = root(&stand, OTHER).wrap(&here(), &[7; 32]).await.expect("it is wrapped");
    let error = root(&stand, ONE).unwrap(&here(), &key_of_other).await.expect_err("it is another key's");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Tampered, false), "{error:?}");
}
