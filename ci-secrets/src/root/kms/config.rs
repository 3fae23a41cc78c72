//! Which key of which region, and who asks for it.

use std::fmt;

use ci_core::{Error, ErrorKind, Result};
use secrecy::{ExposeSecret as _, SecretString};

use crate::root::https::{CertificateAuthorities, Server};
use crate::root::remote::Patience;

const SET_UP: &str = "set up the key of AWS KMS";

/// Which key a [`KmsRoot`](crate::KmsRoot) is; its example shows it.
#[derive(Debug)]
pub struct KmsConfig {
    pub(super) arn: String,
    pub(super) region: String,
    pub(super) server: Server,
    pub(super) authorities: CertificateAuthorities,
    pub(super) patience: Patience,
}

impl KmsConfig {
    /// The key with the ARN `arn` (`arn:aws:kms:<region>:<account>:key/<id>`), at the public endpoint of its region,
    /// which shows a certificate by one of `authorities`. No alias is taken, because it can be pointed at another key.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is not such an ARN.
    pub fn new(arn: &str, authorities: &CertificateAuthorities) -> Result<Self> {
        let invalid = || {
            Error::new(ErrorKind::Invalid, SET_UP)
                .because("its name is not an ARN of the form arn:aws:kms:region:account:key/id")
        };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-:/".contains(&byte);
        if arn.len() > 256 || !arn.bytes().all(is_plain) {
            return Err(invalid());
        }
        let parts: Vec<_> = arn.split(':').collect();
        let ["arn", partition, "kms", region, account, key] = parts[..] else { return Err(invalid()) };
        let id = key.strip_prefix("key/").unwrap_or_default();
        if [region, account, id].iter().any(|part| part.is_empty() || part.contains('/')) {
            return Err(invalid());
        }
        let domain = match partition {
            "aws" | "aws-us-gov" => "amazonaws.com",
            "aws-cn" => "amazonaws.com.cn",
            _ => return Err(invalid()),
        };
        let server = Server::new(&format!("https://kms.{region}.{domain}"), authorities)?;
        let (arn, region, authorities) = (arn.to_owned(), region.to_owned(), authorities.clone());
        Ok(Self { arn, region, server, authorities, patience: Patience::default() })
    }

    /// At the endpoint `address` (`https://host` or `https://host:port`) instead: one of a VPC, or a FIPS one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the address is not one.
    pub fn with_endpoint(self, address: &str) -> Result<Self> {
        Ok(Self { server: Server::new(address, &self.authorities)?, ..self })
    }

    /// With such patience.
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }
}

/// Who asks: an access key, and a session token where it is a temporary one. Wiped when dropped.
pub struct AwsCredentials {
    pub(super) access_key_id: String,
    pub(super) secret_access_key: SecretString,
    pub(super) session_token: Option<SecretString>,
}

impl AwsCredentials {
    /// An access key.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when the id is not made of ASCII letters and digits, or the secret is empty.
    pub fn new(access_key_id: &str, secret_access_key: SecretString) -> Result<Self> {
        let is_id =
            !access_key_id.is_empty() && access_key_id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if !is_id || secret_access_key.expose_secret().is_empty() {
            return Err(invalid("they are not an access key's id and secret"));
        }
        Ok(Self { access_key_id: access_key_id.to_owned(), secret_access_key, session_token: None })
    }

    /// With the session token of temporary credentials.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when it is not one line of visible ASCII.
    pub fn with_session_token(self, token: SecretString) -> Result<Self> {
        let text = token.expose_secret();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("the session token is not one line of visible ASCII"));
        }
        Ok(Self { session_token: Some(token), ..self })
    }
}

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsCredentials").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

fn invalid(reason: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, "take credentials of AWS").because(reason)
}
