//! What is asked of the server, and what its answers mean.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::clock::Clock;
use ci_core::seal::Context;
use ci_core::{Error, ErrorKind, Result};
use data_encoding::BASE64;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::config::TransitConfig;
use super::token::Token;
use crate::root::https::Answer;
use crate::root::remote::{Provider, within, words};
use crate::root::wiped::{Wiped, decoded, encoded, json};

const WRAP: &str = "wrap a key at the transit engine";
const UNWRAP: &str = "unwrap a key at the transit engine";
const RENEW: &str = "renew the token of the transit engine";
/// What the engine puts in front of what it encrypts; the version and a colon follow.
const PREFIX: &str = "vault:v";

/// One key of a server's engine.
pub(super) struct Client {
    config: TransitConfig,
    clock: Arc<dyn Clock>,
    pub(super) token: Token,
}

#[derive(Serialize)]
struct Encrypt<'a> {
    plaintext: &'a str,
    associated_data: &'a str,
    /// Counts for keys that are `derived`; the engine does not look at it for others.
    context: &'a str,
}

#[derive(Serialize)]
struct Decrypt<'a> {
    ciphertext: &'a str,
    associated_data: &'a str,
    context: &'a str,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct Encrypted {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Decrypted {
    plaintext: Wiped,
}

#[derive(Deserialize)]
struct Looked {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct Renewed {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct Refused {
    #[serde(default)]
    errors: Vec<String>,
}

impl Client {
    pub(super) fn new(config: TransitConfig, token: SecretString, clock: Arc<dyn Clock>) -> Result<Self> {
        Ok(Self { config, clock, token: Token::new(token)? })
    }

    /// Asks how long the token lasts, when that is not known, and renews it when it is time.
    pub(super) async fn renew_when_due(&self) -> Result<()> {
        let token = self.token.current();
        if self.token.is_unknown() {
            let answer = self.send(&token, Method::GET, "auth/token/lookup-self", Bytes::new()).await?;
            let looked: Data<Looked> = read(RENEW, &answer)?;
            self.token.lasts(&token, &*self.clock, looked.data.ttl, looked.data.renewable);
        }
        if self.token.is_due(&*self.clock) {
            let body = Bytes::from_static(b"{}");
            let answer = self.send(&token, Method::POST, "auth/token/renew-self", body).await?;
            let renewed: Renewed = read(RENEW, &answer)?;
            self.token.lasts(&token, &*self.clock, renewed.auth.lease_duration, renewed.auth.renewable);
        }
        Ok(())
    }

    /// One use of the key. What is asked is sent even where renewing fails, or takes half of the time that there is: the
    /// token may do without.
    async fn using(&self, verb: &str, body: Bytes) -> Result<Answer> {
        let TransitConfig { mount, key, patience, .. } = &self.config;
        let _ = within(&*self.clock, patience.attempt / 2, self.renew_when_due()).await;
        self.send(&self.token.current(), Method::POST, &format!("{mount}/{verb}/{key}"), body).await
    }

    async fn send(&self, token: &SecretString, method: Method, path: &str, body: Bytes) -> Result<Answer> {
        let mut value = HeaderValue::from_str(token.expose_secret()).expect("it was checked before");
        value.set_sensitive(true);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/{path}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-vault-request", "true")
            .header("x-vault-token", value);
        if let Some(namespace) = &self.config.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        let request = request.body(Full::new(body)).expect("every part of it was checked before");
        self.config.server.ask(request).await
    }

    /// What it means that the answer is no success.
    fn failed(&self, operation: &'static str, answer: &Answer, secret: &str) -> Error {
        let refused: Option<Refused> = serde_json::from_slice(&answer.body).ok();
        let said = refused.map(|refused| refused.errors.join("; ")).unwrap_or_default();
        let token = self.token.current();
        let shown = words(&said, &[secret, token.expose_secret()]);
        answer.error(operation, meaning(operation, answer.status, &said), &shown)
    }
}

#[async_trait]
impl Provider for Client {
    async fn encrypt(&self, context: &Context, key: &[u8; 32]) -> Result<Vec<u8>> {
        let (plaintext, context) = (encoded(key), BASE64.encode(context.as_bytes()));
        let body = json(&Encrypt { plaintext: &plaintext, associated_data: &context, context: &context });
        let answer = self.using("encrypt", body).await?;
        if answer.status != StatusCode::OK {
            return Err(self.failed(WRAP, &answer, &plaintext));
        }
        let encrypted: Data<Encrypted> = read(WRAP, &answer)?;
        pack(&encrypted.data.ciphertext).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, WRAP)
                .because("what it returns does not begin with \"vault:v\" and a version; take a key without a template")
        })
    }

    async fn decrypt(&self, context: &Context, encrypted: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let ciphertext = unpack(encrypted).ok_or_else(|| {
            Error::new(ErrorKind::Tampered, UNWRAP).because("it was not wrapped by a transit engine")
        })?;
        let context = BASE64.encode(context.as_bytes());
        let body = json(&Decrypt { ciphertext: &ciphertext, associated_data: &context, context: &context });
        let answer = self.using("decrypt", body).await?;
        if answer.status != StatusCode::OK {
            // Nothing of a key was sent, and a server that refuses has none to tell.
            return Err(self.failed(UNWRAP, &answer, &ciphertext));
        }
        let decrypted: Data<Decrypted> = read(UNWRAP, &answer)?;
        decoded(&decrypted.data.plaintext).ok_or_else(|| {
            Error::new(ErrorKind::Tampered, UNWRAP).because("what the server answers is not a key")
        })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Version and bytes, so that there is one way only to store the same: the server's decoder takes several texts for the
/// same bytes, and version 0 for version 1.
fn pack(ciphertext: &str) -> Option<Vec<u8>> {
    let (version, encrypted) = ciphertext.strip_prefix(PREFIX)?.split_once(':')?;
    let version: u32 = version.parse().ok().filter(|version| *version > 0)?;
    let encrypted = BASE64.decode(encrypted.as_bytes()).ok()?;
    Some([&version.to_be_bytes()[..], &encrypted].concat())
}

fn unpack(packed: &[u8]) -> Option<String> {
    let (version, encrypted) = packed.split_first_chunk::<4>()?;
    let version = u32::from_be_bytes(*version);
    (version > 0).then(|| format!("{PREFIX}{version}:{}", BASE64.encode(encrypted)))
}

/// Reads a success; what was in it is not shown when it is none.
fn read<'a, T: Deserialize<'a>>(operation: &'static str, answer: &'a Answer) -> Result<T> {
    let is_success = answer.status == StatusCode::OK;
    let read = is_success.then(|| serde_json::from_slice(&answer.body).ok()).flatten();
    read.ok_or_else(|| {
        let (kind, reason) = if is_success {
            (ErrorKind::Unavailable, "its answer cannot be understood; is it the right server?")
        } else {
            meaning(operation, answer.status, "")
        };
        Error::new(kind, operation)
            .because(reason)
            .detail(format!("the server answers {}", answer.status.as_u16()))
    })
}

/// By the status (Vault's HTTP API, "HTTP status codes"), and by what `sdk/helper/keysutil` of Vault and OpenBao says
/// where one status has several meanings.
fn meaning(operation: &'static str, status: StatusCode, said: &str) -> (ErrorKind, &'static str) {
    match status.as_u16() {
        400 if said.contains("encryption key not found") => {
            (ErrorKind::NotFound, "the engine has no key of that name; look at the configuration")
        }
        400 if said.contains("disallowed by policy (too old)") => (
            ErrorKind::Denied,
            "the key's version is retired; lower min_decryption_version until all is rewrapped",
        ),
        400 if said.contains("non-AEAD") => {
            (ErrorKind::Unsupported, "keys of that type bind nothing; take one of type aes256-gcm96")
        }
        400 if operation == UNWRAP => (
            ErrorKind::Tampered,
            "the engine does not open it: it was altered, moved, or wrapped by another key",
        ),
        401 | 403 => {
            (ErrorKind::Denied, "the token is not accepted; renew or replace it, or mend its policy")
        }
        404 => (ErrorKind::NotFound, "there is no transit engine at that mount; look at the configuration"),
        // Not yet replicated, too early, too many.
        412 | 425 | 429 => (ErrorKind::Unavailable, "the server is overloaded"),
        300..=399 => {
            (ErrorKind::Unavailable, "it redirects, which is not followed; name the server that answers")
        }
        400..=499 => (ErrorKind::Invalid, "the server does not take the request"),
        _ => (ErrorKind::Unavailable, "the server is sealed, down or broken"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encrypted_has_one_form() {
        let packed = pack("vault:v258:AAEC").expect("it is one");
        assert_eq!(packed, [0, 0, 1, 2, 0, 1, 2]);
        assert_eq!(unpack(&packed).as_deref(), Some("vault:v258:AAEC"));
        for other in ["AAEC", "vault:v1", "vault:v0:AAEC", "vault:v-1:AAEC", "vault:v1:AAE", "vault:v1:AAF="]
        {
            assert_eq!(pack(other), None, "{other}");
        }
        assert_eq!(unpack(&[0, 0, 0, 0, 1]), None);
        assert_eq!(unpack(&[0, 0, 1]), None);
    }
}
