//! Independent clients, which are written in Python: `hvac` for transit engines, `moto` and `boto3` for AWS KMS.
//!
//! They are in a virtual environment below the target folder, where `tests/run` puts them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use ci_core::ErrorKind;
use ci_core::clock::ManualClock;
use ci_core::conformance::skip;
use ci_core::id::KeyId;
use ci_core::seal::{Context, DataKey};
use ci_secrets::{
    AwsCredentials, CertificateAuthorities, KmsConfig, KmsRoot, RootKey as _, TransitConfig, TransitRoot,
};
use data_encoding::BASE64;
use hyper::http::request::Parts;
use rcgen::{CertificateParams, KeyPair};
use secrecy::SecretBox;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::bench::{exposed, kind};
use crate::providers::kms::{ONE, refused};
use crate::providers::transit::Engine;
use crate::providers::{Service, Stand, little, system_clock};

/// In front of what a provider returned stand the format and the check.
const ENVELOPE: usize = 1 + 32;

fn interpreter(test: &str) -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("python").join("bin/python");
    if python.exists() {
        return Some(python);
    }
    skip(test, "python", "there is no virtual environment with hvac, moto and boto3: tests/run makes it");
    None
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(name)
}

fn here() -> Context {
    Context::new("tenant").field("acme")
}

/// What a root key has wrapped, if its provider made `encrypted` of `key` in [`here`].
fn envelope(key: [u8; 32], encrypted: &[u8]) -> Vec<u8> {
    let place = Context::new("root key check").field(here().as_bytes()).field(encrypted);
    let check = DataKey::new(KeyId::random(), SecretBox::new(Box::new(key))).derive(&place);
    [&[1], check.expose().as_slice(), encrypted].concat()
}

#[tokio::test]
async fn hvac_and_the_root_key_read_each_other() {
    let Some(python) = interpreter("hvac_and_the_root_key_read_each_other") else { return };
    let clock = Arc::new(ManualClock::new());
    let stand = Stand::new(Engine::new(clock.clone())).await;
    let config = TransitConfig::new(&stand.address, &stand.authorities(), "one").expect("a configuration");
    let root = TransitRoot::new(config, "root".into(), clock).expect("a root key");
    let wrapped = root.wrap(&here(), &[7; 32]).await.expect("it is wrapped");
    let (version, encrypted) = wrapped[ENVELOPE..].split_at(4);
    assert_eq!(version, [0, 0, 0, 1]);

    let folder = tempfile::tempdir().expect("a folder");
    let authority = folder.path().join("authority.pem");
    std::fs::write(&authority, &stand.pem).expect("it is written");
    let asked = json!({
        "address": stand.address,
        "authority": authority,
        "token": "root",
        "context": BASE64.encode(here().as_bytes()),
        "ciphertext": format!("vault:v1:{}", BASE64.encode(encrypted)),
        "plaintext": BASE64.encode(&[8; 32]),
    });
    let told = run(&python, "transit.py", &asked).await;
    let refused = json!({
        "no context": ["InvalidRequest", "cipher: message authentication failed"],
        "other key": ["InvalidRequest", "cipher: message authentication failed"],
        "missing key": ["InvalidRequest", "encryption key not found"],
        "rewrap": ["InvalidRequest", "cipher: message authentication failed"],
        "unknown token": ["Forbidden", "permission denied"],
    });
    assert_eq!(told["refused"], refused);
    assert_eq!(
        (&told["authenticated"], &told["renewable"], &told["latest"]),
        (&json!(true), &json!(true), &json!(1))
    );
    assert_eq!(told["plaintext"], BASE64.encode(&[7; 32]));

    let theirs =
        told["ciphertext"].as_str().and_then(|text| text.strip_prefix("vault:v1:")).expect("a ciphertext");
    let theirs = BASE64.decode(theirs.as_bytes()).expect("base64");
    let wrapped = envelope([8; 32], &[&[0, 0, 0, 1], &theirs[..]].concat());
    assert_eq!(exposed(&root.unwrap(&here(), &wrapped).await.expect("it unwraps")), [8; 32]);
}

async fn run(python: &Path, name: &str, asked: &Value) -> Value {
    let mut command = Command::new(python);
    command.arg(script(name)).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("it starts");
    let mut input = child.stdin.take().expect("it was asked for");
    input.write_all(asked.to_string().as_bytes()).await.expect("it reads");
    drop(input);
    let output = child.wait_with_output().await.expect("it ends");
    assert!(output.status.success(), "{name} failed");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// `moto` and `boto3` in one process.
struct Moto {
    _child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    address: String,
    keys: Vec<String>,
    pem: String,
    _folder: TempDir,
}

impl Moto {
    async fn start(python: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = KeyPair::generate().expect("a key");
        let certificate = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        // Its own authority.
        let pem = certificate.self_signed(&key).expect("a certificate").pem();
        let file = |name: &str| folder.path().join(name);
        std::fs::write(file("server.pem"), &pem).expect("it is written");
        std::fs::write(file("server.key"), key.serialize_pem()).expect("it is written");

        let mut command = Command::new(python);
        command.arg(script("kms.py")).args([file("server.pem"), file("server.key"), file("server.pem")]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let input = child.stdin.take().expect("it was asked for");
        let mut output = BufReader::new(child.stdout.take().expect("it was asked for")).lines();
        let first = output.next_line().await.expect("it writes").expect("it has not ended");
        let told: Value = serde_json::from_str(&first).expect("JSON");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let (address, keys) =
            (text(&told["address"]), told["keys"].as_array().expect("keys").iter().map(text).collect());
        Self { _child: child, input, output, address, keys, pem, _folder: folder }
    }

    async fn ask(&mut self, asked: Value) -> Value {
        self.input.write_all(format!("{asked}\n").as_bytes()).await.expect("it reads");
        let line = self.output.next_line().await.expect("it writes").expect("it has not ended");
        serde_json::from_str(&line).expect("JSON")
    }

    fn root(&self, key: usize) -> KmsRoot {
        let authorities = CertificateAuthorities::from_pem(self.pem.as_bytes()).expect("a certificate");
        let config = KmsConfig::new(&self.keys[key], &authorities).expect("a configuration");
        let config = config.with_endpoint(&self.address).expect("an endpoint").with_patience(little());
        let credentials = AwsCredentials::new("AKIDEXAMPLE", "secret".into()).expect("credentials");
        KmsRoot::new(config, credentials, system_clock())
    }
}

#[tokio::test]
async fn boto3_and_the_root_key_read_each_other() {
    let Some(python) = interpreter("boto3_and_the_root_key_read_each_other") else { return };
    let mut moto = Moto::start(&python).await;
    let (root, other) = (moto.root(0), moto.root(1));
    let (key, context) = (moto.keys[0].clone(), BASE64.encode(here().as_bytes()));

    // What the root key wrapped, boto3 unwraps with the same context, and not with another one.
    let wrapped = root.wrap(&here(), &[7; 32]).await.expect("it is wrapped");
    let ciphertext = BASE64.encode(&wrapped[ENVELOPE..]);
    let decrypt =
        |context: &str| json!({"do": "decrypt", "key": key, "ciphertext": ciphertext, "context": context});
    assert_eq!(moto.ask(decrypt(&context)).await, BASE64.encode(&[7; 32]));
    assert_eq!(moto.ask(decrypt("AAAA")).await, "InvalidCiphertextException");

    // And the other way around.
    let encrypt =
        json!({"do": "encrypt", "key": key, "plaintext": BASE64.encode(&[8; 32]), "context": context});
    let theirs = moto.ask(encrypt).await;
    let theirs = BASE64.decode(theirs.as_str().expect("text").as_bytes()).expect("base64");
    let theirs = envelope([8; 32], &theirs);
    assert_eq!(exposed(&root.unwrap(&here(), &theirs).await.expect("it unwraps")), [8; 32]);

    // What is altered, moved, or another key's.
    assert_eq!(kind(root.unwrap(&Context::new("elsewhere"), &wrapped).await), ErrorKind::Tampered);
    // Where AWS says IncorrectKeyException, moto says AccessDeniedException, and not why.
    assert_eq!(kind(other.unwrap(&here(), &wrapped).await), ErrorKind::Denied);
    let key_id = ENVELOPE..ENVELOPE + 36;
    for index in (0..wrapped.len()).step_by(5) {
        let mut altered = wrapped.to_vec();
        altered[index] ^= 1;
        let expected = if key_id.contains(&index) { ErrorKind::Denied } else { ErrorKind::Tampered };
        assert_eq!(kind(root.unwrap(&here(), &altered).await), expected, "at {index}");
    }
}

/// Keeps what it is asked.
#[derive(Default)]
struct Recording(Mutex<Option<(Value, String)>>);

impl Service for Recording {
    fn answer(&self, head: &Parts, body: &[u8]) -> (u16, Value) {
        let headers =
            head.headers.iter().map(|(name, value)| (name.to_string(), json!(value.to_str().expect("text"))));
        let headers = Value::Object(headers.collect());
        let body = String::from_utf8_lossy(body).into_owned();
        *self.0.lock().expect("unpoisoned") = Some((headers, body));
        self.refusal()
    }

    fn refusal(&self) -> (u16, Value) {
        refused("AccessDeniedException", "")
    }
}

/// `moto` does not look at signatures: they are compared with those of `botocore`.
#[tokio::test]
async fn botocore_signs_the_same() {
    let Some(python) = interpreter("botocore_signs_the_same") else { return };
    let mut moto = Moto::start(&python).await;
    let recording = Arc::new(Recording::default());
    let stand = Stand::new(recording.clone()).await;
    for (secret, token) in [("secret", None), ("wJalrXUtnFEMI/K7MDENG+bPxRfi", Some("FwoGZXIvYXdzEBYaD/+=="))]
    {
        let config = KmsConfig::new(ONE, &stand.authorities()).expect("a configuration");
        let config = config.with_endpoint(&stand.address).expect("an endpoint");
        let mut credentials = AwsCredentials::new("AKIDEXAMPLE", secret.into()).expect("credentials");
        if let Some(token) = token {
            credentials = credentials.with_session_token(token.into()).expect("a token");
        }
        let root = KmsRoot::new(config, credentials, system_clock());
        assert_eq!(kind(root.wrap(&here(), &[7; 32]).await), ErrorKind::Denied);
        let (mut headers, body) = recording.0.lock().expect("unpoisoned").take().expect("it was asked");
        let ours = headers.as_object_mut().expect("headers").remove("authorization");
        headers.as_object_mut().expect("headers").remove("content-length");
        assert_eq!(headers["x-amz-security-token"].as_str(), token);
        let theirs =
            moto.ask(json!({"do": "sign", "secret": secret, "headers": headers, "body": body})).await;
        assert_eq!(ours, Some(theirs));
    }
}
