//! AWS KMS, as far as root keys use it. The real answers are compared with `moto`, where Python is there.

use std::collections::BTreeMap;

use ci_core::seal::{Context, DataKey};
use data_encoding::BASE64;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::Service;

pub(crate) const ONE: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
pub(crate) const OTHER: &str =
    "arn:aws:kms:eu-central-1:111122223333:key/mrk-0987dcba09fe87dc65ba43feedcba098";

pub(crate) struct Kms {
    keys: BTreeMap<&'static str, DataKey>,
}

impl Kms {
    pub(crate) fn new() -> Self {
        Self { keys: [ONE, OTHER].into_iter().map(|arn| (arn, DataKey::random())).collect() }
    }
}

impl Service for Kms {
    fn answer(&self, head: &Parts, body: &[u8]) -> (u16, Value) {
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !header("authorization").starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/") {
            return refused(
                "UnrecognizedClientException",
                "The security token included in the request is invalid.",
            );
        }
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        let arn = asked["KeyId"].as_str().unwrap_or_default();
        let Some(key) = self.keys.get(arn) else { return refused("NotFoundException", "Key does not exist") };
        let place = Context::new("kms").field(asked["EncryptionContext"].to_string());
        let bytes = |name: &str| BASE64.decode(asked[name].as_str().unwrap_or_default().as_bytes());
        match header("x-amz-target") {
            "TrentService.Encrypt" => {
                let plain = bytes("Plaintext").expect("base64");
                let sealed = key.seal(&place, &plain);
                (200, json!({ "KeyId": arn, "CiphertextBlob": BASE64.encode(&sealed) }))
            }
            "TrentService.Decrypt" => match key.open(&place, &bytes("CiphertextBlob").expect("base64")) {
                Ok(plain) => (200, json!({ "KeyId": arn, "Plaintext": BASE64.encode(&plain) })),
                Err(_) => refused("InvalidCiphertextException", ""),
            },
            _ => refused("UnknownOperationException", ""),
        }
    }

    fn refusal(&self) -> (u16, Value) {
        refused("AccessDeniedException", "User is not authorized to perform this action")
    }
}

pub(crate) fn refused(what: &str, message: &str) -> (u16, Value) {
    (400, json!({ "__type": format!("com.amazonaws.kms#{what}"), "message": message }))
}
