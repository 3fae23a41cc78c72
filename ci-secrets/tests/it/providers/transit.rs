//! The transit engine of HashiCorp Vault and OpenBao, as far as root keys and the client `hvac` use it.
//!
//! Paths, fields, statuses and error texts are those of `builtin/logical/transit` and `sdk/helper/keysutil`. What is
//! encrypted is another cipher's: nobody but the engine looks at it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use ci_core::clock::{Clock, ManualClock};
use ci_core::seal::{Context, DataKey};
use data_encoding::BASE64;
use hyper::Method;
use hyper::http::request::Parts;
use serde_json::{Value, json};

use super::Service;

pub(crate) struct Engine {
    clock: Arc<ManualClock>,
    state: Mutex<State>,
    /// Requests in other namespaces find nothing.
    namespace: String,
    mount: String,
}

#[derive(Default)]
struct State {
    keys: BTreeMap<String, EngineKey>,
    tokens: BTreeMap<String, EngineToken>,
}

struct EngineKey {
    versions: Vec<DataKey>,
    is_derived: bool,
    oldest: usize,
    kind: String,
}

struct EngineToken {
    /// By elapsed seconds; `None` is for ever.
    ends: Option<u64>,
    period: u64,
    is_renewable: bool,
    renewals: usize,
}

impl Engine {
    pub(crate) fn new(clock: Arc<ManualClock>) -> Arc<Self> {
        Self::at(clock, "", "transit")
    }

    pub(crate) fn at(clock: Arc<ManualClock>, namespace: &str, mount: &str) -> Arc<Self> {
        let (namespace, mount) = (namespace.to_owned(), mount.to_owned());
        let engine = Self { clock, state: Mutex::default(), namespace, mount };
        engine.add_key("one", "aes256-gcm96", false);
        engine.add_key("other", "aes256-gcm96", false);
        engine.add_token("root", None, true);
        Arc::new(engine)
    }

    pub(crate) fn add_key(&self, name: &str, kind: &str, is_derived: bool) {
        let key =
            EngineKey { versions: vec![DataKey::random()], is_derived, oldest: 1, kind: kind.to_owned() };
        self.state.lock().expect("unpoisoned").keys.insert(name.to_owned(), key);
    }

    pub(crate) fn add_token(&self, token: &str, seconds: Option<u64>, is_renewable: bool) {
        let ends = seconds.map(|seconds| self.now().saturating_add(seconds));
        let token_state =
            EngineToken { ends, period: seconds.unwrap_or_default(), is_renewable, renewals: 0 };
        self.state.lock().expect("unpoisoned").tokens.insert(token.to_owned(), token_state);
    }

    pub(crate) fn rotate(&self, name: &str) {
        let mut state = self.state.lock().expect("unpoisoned");
        state.keys.get_mut(name).expect("a key").versions.push(DataKey::random());
    }

    pub(crate) fn retire_before(&self, name: &str, version: usize) {
        self.state.lock().expect("unpoisoned").keys.get_mut(name).expect("a key").oldest = version;
    }

    pub(crate) fn renewals(&self, token: &str) -> usize {
        self.state.lock().expect("unpoisoned").tokens[token].renewals
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_secs()
    }
}

impl Service for Engine {
    fn answer(&self, head: &Parts, body: &[u8]) -> (u16, Value) {
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let token = header("x-vault-token");
        let mut state = self.state.lock().expect("unpoisoned");
        let now = self.now();
        let is_known = state.tokens.get(token).is_some_and(|token| token.ends.is_none_or(|end| now < end));
        if !is_known {
            return denied();
        }
        if header("x-vault-namespace").trim_matches('/') != self.namespace {
            return refused(404, "no handler for route");
        }
        let Ok(asked) = serde_json::from_slice::<Value>(if body.is_empty() { b"{}" } else { body }) else {
            return refused(400, "failed to parse JSON input");
        };
        let path = head.uri.path().trim_start_matches("/v1/");
        if path == "auth/token/lookup-self" && head.method == Method::GET {
            let token = &state.tokens[token];
            let left = token.ends.map_or(0, |end| end - now);
            return (200, json!({ "data": { "ttl": left, "renewable": token.is_renewable } }));
        }
        if path == "auth/token/renew-self" {
            let token = state.tokens.get_mut(token).expect("it was looked up");
            if !token.is_renewable {
                return refused(400, "lease is not renewable");
            }
            token.renewals += 1;
            token.ends = token.ends.map(|_| now.saturating_add(token.period));
            return (200, json!({ "auth": { "lease_duration": token.period, "renewable": true } }));
        }
        let Some(rest) = path.strip_prefix(&format!("{}/", self.mount)) else {
            return refused(404, "no handler for route");
        };
        let parts: Vec<_> = rest.split('/').collect();
        match (&head.method, &parts[..]) {
            (_, ["encrypt", name]) => encrypt(&state, name, &asked),
            (_, ["decrypt", name]) => decrypt(&state, name, &asked),
            // It takes no associated data, and so opens nothing that is bound to any.
            (_, ["rewrap", name]) => {
                let asked = json!({ "ciphertext": asked["ciphertext"], "context": asked["context"] });
                match decrypt(&state, name, &asked) {
                    (200, plain) => {
                        let plaintext = &plain["data"]["plaintext"];
                        encrypt(&state, name, &json!({ "plaintext": plaintext, "context": asked["context"] }))
                    }
                    failed => failed,
                }
            }
            (&Method::GET, ["keys", name]) => match state.keys.get(*name) {
                Some(key) => (
                    200,
                    json!({ "data": { "name": name, "type": key.kind, "latest_version": key.versions.len() } }),
                ),
                None => (404, json!({ "errors": [] })),
            },
            (_, ["keys", name, "rotate"]) => match state.keys.get_mut(*name) {
                Some(key) => {
                    key.versions.push(DataKey::random());
                    (200, json!({ "data": { "latest_version": key.versions.len() } }))
                }
                None => refused(400, "key not found"),
            },
            _ => refused(404, "no handler for route"),
        }
    }

    fn refusal(&self) -> (u16, Value) {
        denied()
    }
}

fn encrypt(state: &State, name: &str, asked: &Value) -> (u16, Value) {
    let Some(key) = state.keys.get(name) else { return refused(400, "encryption key not found") };
    let Some(plain) = asked["plaintext"].as_str().and_then(|text| BASE64.decode(text.as_bytes()).ok()) else {
        return refused(400, "failed to base64-decode plaintext");
    };
    match place(key, asked) {
        Ok(place) => {
            let version = key.versions.len();
            let sealed = key.versions[version - 1].seal(&place, &plain);
            let ciphertext = format!("vault:v{version}:{}", BASE64.encode(&sealed));
            (200, json!({ "data": { "ciphertext": ciphertext, "key_version": version } }))
        }
        Err(refusal) => refusal,
    }
}

fn decrypt(state: &State, name: &str, asked: &Value) -> (u16, Value) {
    let Some(key) = state.keys.get(name) else { return refused(400, "encryption key not found") };
    let Some(rest) = asked["ciphertext"].as_str().and_then(|text| text.strip_prefix("vault:v")) else {
        return refused(400, "invalid ciphertext: no prefix");
    };
    let Some((version, sealed)) = rest.split_once(':') else {
        return refused(400, "invalid ciphertext: wrong number of fields");
    };
    let Ok(version) = version.parse::<usize>().map(|version| version.max(1)) else {
        return refused(400, "invalid ciphertext: version number could not be decoded");
    };
    if version > key.versions.len() {
        return refused(400, "invalid ciphertext: version is too new");
    }
    if version < key.oldest {
        return refused(400, "ciphertext or signature version is disallowed by policy (too old)");
    }
    let Ok(sealed) = BASE64.decode(sealed.as_bytes()) else {
        return refused(400, "invalid ciphertext: could not decode base64");
    };
    let place = match place(key, asked) {
        Ok(place) => place,
        Err(refusal) => return refusal,
    };
    match key.versions[version - 1].open(&place, &sealed) {
        Ok(plain) => (200, json!({ "data": { "plaintext": BASE64.encode(&plain) } })),
        Err(_) => refused(400, "cipher: message authentication failed"),
    }
}

/// What a ciphertext is bound to: the associated data, and for derived keys the context.
fn place(key: &EngineKey, asked: &Value) -> Result<Context, (u16, Value)> {
    let bytes = |name: &str| BASE64.decode(asked[name].as_str().unwrap_or_default().as_bytes());
    let (Ok(data), Ok(context)) = (bytes("associated_data"), bytes("context")) else {
        return Err(refused(400, "illegal base64 data at input byte 0"));
    };
    if !data.is_empty() && !key.kind.contains("gcm") && !key.kind.contains("poly1305") {
        let text = format!("'[0].associated_data' provided for non-AEAD cipher suite {}", key.kind);
        return Err(refused(400, &text));
    }
    if !key.is_derived {
        return Ok(Context::new("transit").field(data));
    }
    if context.is_empty() {
        return Err(refused(
            400,
            "missing 'context' for key derivation; the key was created using a derived key",
        ));
    }
    Ok(Context::new("derived").field(data).field(context))
}

fn denied() -> (u16, Value) {
    refused(403, "permission denied")
}

fn refused(status: u16, text: &str) -> (u16, Value) {
    (status, json!({ "errors": [text] }))
}
