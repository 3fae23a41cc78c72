//! What is asked of the service, and what its answers mean.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::clock::Clock;
use ci_core::seal::Context;
use ci_core::{Error, ErrorKind, Result};
use data_encoding::BASE64;
use http_body_util::Full;
use hyper::header::HeaderValue;
use hyper::{Method, Request, StatusCode};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::config::{AwsCredentials, KmsConfig};
use super::signature::{Signed, authorization, date};
use crate::root::https::Answer;
use crate::root::remote::{Provider, words};
use crate::root::wiped::{Wiped, decoded, encoded, json};

const WRAP: &str = "wrap a key at AWS KMS";
const UNWRAP: &str = "unwrap a key at AWS KMS";
const PAIR: &str = "ci-context";

/// One key of the service.
pub(super) struct Client {
    config: KmsConfig,
    credentials: Mutex<Arc<AwsCredentials>>,
    clock: Arc<dyn Clock>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Encrypt<'a> {
    key_id: &'a str,
    plaintext: &'a str,
    encryption_context: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Decrypt<'a> {
    key_id: &'a str,
    ciphertext_blob: &'a str,
    encryption_context: BTreeMap<&'a str, &'a str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Encrypted {
    key_id: String,
    ciphertext_blob: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Decrypted {
    key_id: String,
    plaintext: Wiped,
}

#[derive(Default, Deserialize)]
struct Refused {
    #[serde(rename = "__type", default)]
    what: String,
    #[serde(alias = "Message", default)]
    message: String,
}

impl Client {
    pub(super) fn new(config: KmsConfig, credentials: AwsCredentials, clock: Arc<dyn Clock>) -> Self {
        Self { config, credentials: Mutex::new(Arc::new(credentials)), clock }
    }

    pub(super) fn arn(&self) -> &str {
        &self.config.arn
    }

    pub(super) fn set_credentials(&self, credentials: AwsCredentials) {
        *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(credentials);
    }

    fn credentials(&self) -> Arc<AwsCredentials> {
        self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn ask(&self, action: &str, body: Bytes) -> Result<Answer> {
        let credentials = self.credentials();
        let (date, target) = (date(self.clock.now()), format!("TrentService.{action}"));
        let mut headers = vec![
            ("content-type", "application/x-amz-json-1.1"),
            ("host", self.config.server.authority()),
            ("x-amz-date", &date),
        ];
        let token = credentials.session_token.as_ref();
        headers.extend(token.map(|token| ("x-amz-security-token", token.expose_secret())));
        headers.push(("x-amz-target", &target));
        let signed = Signed { method: "POST", path: "/", query: "", headers: &headers, body: &body };
        let authorization = authorization(&credentials, (&self.config.region, "kms"), &date, &signed);

        let mut request = Request::builder().method(Method::POST).uri("/");
        for (name, value) in headers.into_iter().chain([("authorization", authorization.as_str())]) {
            let mut value = HeaderValue::from_str(value).expect("every part of it was checked before");
            value.set_sensitive(name == "x-amz-security-token");
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).expect("every part of it was checked before");
        self.config.server.ask(request).await
    }

    /// What it means that the answer is no success. Where a signature is wrong, the service repeats what it was made
    /// of, the session token included.
    fn failed(&self, operation: &'static str, answer: &Answer, secret: &str) -> Error {
        let refused: Option<Refused> = serde_json::from_slice(&answer.body).ok();
        let Refused { what, message } = refused.unwrap_or_default();
        // With or without the name of a shape in front: "com.amazonaws.kms#DisabledException".
        let what = what.rsplit('#').next().unwrap_or_default();
        let credentials = self.credentials();
        let token = credentials.session_token.as_ref().map_or("", |token| token.expose_secret());
        let said = words(
            &format!("{what}: {message}"),
            &[secret, token, credentials.secret_access_key.expose_secret()],
        );
        answer.error(operation, meaning(operation, answer.status, what, &message), &said)
    }

    /// Whether the service has used the key that it was asked to use.
    fn check_key(&self, operation: &'static str, answered: &str) -> Result<()> {
        if answered == self.config.arn {
            return Ok(());
        }
        let (kind, reason) = if operation == UNWRAP {
            (ErrorKind::Tampered, "it was wrapped by another key")
        } else {
            (ErrorKind::Internal, "the service has used another key than it was asked to use")
        };
        Err(Error::new(kind, operation).because(reason).detail(format!("it says {}", words(answered, &[]))))
    }
}

#[async_trait]
impl Provider for Client {
    async fn encrypt(&self, context: &Context, key: &[u8; 32]) -> Result<Vec<u8>> {
        let (plaintext, context) = (encoded(key), BASE64.encode(context.as_bytes()));
        let answer = self
            .ask("Encrypt", {
                let (key_id, encryption_context) = (self.arn(), BTreeMap::from([(PAIR, context.as_str())]));
                json(&Encrypt { key_id, plaintext: &plaintext, encryption_context })
            })
            .await?;
        if answer.status != StatusCode::OK {
            return Err(self.failed(WRAP, &answer, &plaintext));
        }
        let encrypted: Encrypted = read(WRAP, &answer)?;
        self.check_key(WRAP, &encrypted.key_id)?;
        BASE64.decode(encrypted.ciphertext_blob.as_bytes()).map_err(|_| senseless(WRAP))
    }

    async fn decrypt(&self, context: &Context, encrypted: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let (ciphertext, context) = (BASE64.encode(encrypted), BASE64.encode(context.as_bytes()));
        let answer = self
            .ask("Decrypt", {
                let (key_id, encryption_context) = (self.arn(), BTreeMap::from([(PAIR, context.as_str())]));
                json(&Decrypt { key_id, ciphertext_blob: &ciphertext, encryption_context })
            })
            .await?;
        if answer.status != StatusCode::OK {
            return Err(self.failed(UNWRAP, &answer, &ciphertext));
        }
        let decrypted: Decrypted = read(UNWRAP, &answer)?;
        self.check_key(UNWRAP, &decrypted.key_id)?;
        decoded(&decrypted.plaintext).ok_or_else(|| senseless(UNWRAP))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("config", &self.config).finish_non_exhaustive()
    }
}

fn read<'a, T: Deserialize<'a>>(operation: &'static str, answer: &'a Answer) -> Result<T> {
    serde_json::from_slice(&answer.body).map_err(|_| senseless(operation))
}

fn senseless(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation)
        .because("its answer cannot be understood; is it the right server?")
}

/// By the name of the error (AWS KMS API Reference, `Decrypt`, `Encrypt` and "Common Errors"), then by the status.
fn meaning(operation: &str, status: StatusCode, what: &str, message: &str) -> (ErrorKind, &'static str) {
    const ALTERED: &str = "the service does not open it: it was altered, moved, or wrapped by another key";
    match what {
        "InvalidCiphertextException" | "IncorrectKeyException" => (ErrorKind::Tampered, ALTERED),
        // The id of the key stands in what is unwrapped, and was altered.
        "AccessDeniedException" if operation == UNWRAP && message.starts_with("The ciphertext refers to") => {
            (ErrorKind::Tampered, ALTERED)
        }
        "NotFoundException" => {
            (ErrorKind::NotFound, "the account has no such key; look at the configuration")
        }
        "DisabledException" | "KMSInvalidStateException" => {
            (ErrorKind::Denied, "the key is disabled, or is about to be deleted")
        }
        "InvalidKeyUsageException" => (ErrorKind::Unsupported, "it takes a symmetric key for encryption"),
        "AccessDeniedException"
        | "ExpiredTokenException"
        | "InvalidClientTokenId"
        | "IncompleteSignature"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "NotAuthorized"
        | "OptInRequired"
        | "RequestExpired"
        | "UnrecognizedClientException" => (
            ErrorKind::Denied,
            "the credentials are not accepted; replace them, mend the key's policy, or set the clock",
        ),
        "DependencyTimeoutException"
        | "KeyUnavailableException"
        | "KMSInternalException"
        | "LimitExceededException"
        | "RequestLimitExceeded"
        | "ThrottlingException"
        | "Throttling" => (ErrorKind::Unavailable, "the service is overloaded or broken"),
        _ => match status.as_u16() {
            401 | 403 => (ErrorKind::Denied, "the credentials are not accepted"),
            408 | 429 => (ErrorKind::Unavailable, "the service is overloaded"),
            300..=399 => {
                (ErrorKind::Unavailable, "it redirects, which is not followed; name the server that answers")
            }
            400..=499 => (ErrorKind::Invalid, "the service does not take the request"),
            _ => (ErrorKind::Unavailable, "the service is down or broken"),
        },
    }
}
