//! Servers that stand in for providers of root keys: over TLS, on the loopback interface, and failing when told to.

pub(crate) mod kms;
pub(crate) mod transit;

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ci_core::clock::Clock;
use ci_secrets::conformance::root_key::{Fault, Faults};
use ci_secrets::{CertificateAuthorities, Patience};
use data_encoding::BASE64;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What a server answers: a status and JSON.
pub(crate) trait Service: Send + Sync + 'static {
    fn answer(&self, head: &Parts, body: &[u8]) -> (u16, Value);

    /// What it says to somebody who may not ask.
    fn refusal(&self) -> (u16, Value);
}

/// A server that runs until this is dropped.
pub(crate) struct Stand {
    pub(crate) address: String,
    /// The certificate of the authority that vouches for it.
    pub(crate) pem: String,
    faults: Arc<Switch>,
    running: JoinHandle<()>,
}

/// What goes wrong, and who asked what.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    fault: Mutex<Option<Fault>>,
    asked: AtomicUsize,
    lines: Mutex<Vec<String>>,
    hangs_at: Mutex<Option<&'static str>>,
}

impl Switch {
    fn next(&self) -> Option<Fault> {
        let mut fault = self.fault.lock().expect("unpoisoned");
        if let Some(Fault::Fails(left)) = &mut *fault {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => *fault = None,
            }
        }
        *fault
    }

    /// Never answers what is asked at `path`, from now on.
    pub(crate) fn hang_at(&self, path: &'static str) {
        *self.hangs_at.lock().expect("unpoisoned") = Some(path);
    }

    /// Method and path of every request so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().expect("unpoisoned").clone()
    }
}

impl Faults for Switch {
    fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().expect("unpoisoned") = fault;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Acquire)
    }
}

impl Stand {
    pub(crate) async fn new(service: Arc<dyn Service>) -> Self {
        Self::named(service, &["localhost"]).await
    }

    /// With a certificate for other names.
    pub(crate) async fn named(service: Arc<dyn Service>, names: &[&str]) -> Self {
        let (pem, config) = certified(names);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let faults = Arc::new(Switch::default());
        let running = tokio::spawn(listen(listener, TlsAcceptor::from(config), service, faults.clone()));
        Self { address: format!("https://localhost:{port}"), pem, faults, running }
    }

    pub(crate) fn authorities(&self) -> CertificateAuthorities {
        CertificateAuthorities::from_pem(self.pem.as_bytes()).expect("a certificate")
    }

    pub(crate) fn faults(&self) -> Arc<Switch> {
        self.faults.clone()
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl fmt::Debug for Stand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stand").field(&self.address).finish()
    }
}

/// What tests wait for at most.
pub(crate) fn little() -> Patience {
    Patience::default()
        .with_attempt(Duration::from_secs(2))
        .with_total(Duration::from_secs(4))
        .with_pause(Duration::from_millis(1))
}

pub(crate) fn system_clock() -> Arc<dyn Clock> {
    Arc::new(ci_core::clock::SystemClock::new())
}

/// An authority, and a server with a certificate by it for `names`.
pub(crate) fn certified(names: &[&str]) -> (String, Arc<ServerConfig>) {
    let (authority_key, server_key) = (KeyPair::generate(), KeyPair::generate());
    let (authority_key, server_key) = (authority_key.expect("a key"), server_key.expect("a key"));
    let mut authority = CertificateParams::default();
    authority.distinguished_name.push(DnType::CommonName, "authority of a test");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).expect("a certificate").pem();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let server = CertificateParams::new(names).expect("names");
    let server =
        server.signed_by(&server_key, &Issuer::new(authority, authority_key)).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .expect("a server's configuration");
    (pem, Arc::new(config))
}

async fn listen(listener: TcpListener, tls: TlsAcceptor, service: Arc<dyn Service>, faults: Arc<Switch>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        tokio::spawn(connection(stream, tls.clone(), service.clone(), faults.clone()));
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, service: Arc<dyn Service>, faults: Arc<Switch>) {
    if *faults.fault.lock().expect("unpoisoned") == Some(Fault::Down) {
        return;
    }
    let Ok(stream) = tls.accept(stream).await else { return };
    let answer = service_fn(|request: Request<Incoming>| {
        let (service, faults) = (service.clone(), faults.clone());
        async move { Ok::<_, Infallible>(answer(request, &*service, &faults).await) }
    });
    // What a client does to its connection is the client's affair.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}

async fn answer(request: Request<Incoming>, service: &dyn Service, faults: &Switch) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    faults.lines.lock().expect("unpoisoned").push(format!("{} {}", head.method, head.uri.path()));
    faults.asked.fetch_add(1, Ordering::AcqRel);
    if *faults.hangs_at.lock().expect("unpoisoned") == Some(head.uri.path()) {
        std::future::pending::<()>().await;
    }
    match faults.next() {
        Some(Fault::Hangs) => std::future::pending().await,
        Some(Fault::Slow(by)) => tokio::time::sleep(by).await,
        Some(Fault::Fails(_)) => {
            return response(503, r#"{"errors":["it is sealed"],"__type":"KMSInternalException"}"#);
        }
        Some(Fault::Refuses) => {
            let (status, refusal) = service.refusal();
            return response(status, refusal.to_string());
        }
        Some(Fault::Nonsense) => return response(200, "<html>Please sign in to this network.</html>"),
        Some(Fault::Endless) => return response(200, " ".repeat(4 << 20)),
        Some(Fault::Echoes) => {
            let text = String::from_utf8_lossy(&body).into_owned();
            let all = serde_json::json!({ "errors": [text], "message": text, "__type": "Unheard" });
            return response(500, all.to_string());
        }
        Some(Fault::WrongKey) => {
            let (status, mut answer) = service.answer(&head, &body);
            replace_key(&mut answer);
            return response(status, answer.to_string());
        }
        _ => {}
    }
    let (status, answer) = service.answer(&head, &body);
    response(status, answer.to_string())
}

fn response(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.body(Full::new(body.into())).expect("a response")
}

/// Another key wherever an answer holds one.
fn replace_key(answer: &mut Value) {
    let Value::Object(fields) = answer else { return };
    for (name, value) in fields {
        if name.eq_ignore_ascii_case("plaintext") {
            *value = Value::String(BASE64.encode(&[0x55; 32]));
        }
        replace_key(value);
    }
}
