//! One request to one server over TLS, with a bounded answer.

use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ci_core::{Error, ErrorKind, Result};
use futures_util::future::{Either, select};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, crypto::ring};
use zeroize::{Zeroize as _, Zeroizing};

/// The most bytes of an answer's body; what these providers say is a hundredth of it.
const LARGEST_BODY: usize = 64 * 1024;
const LARGEST_HEAD: usize = 32 * 1024;
const MOST_HEADERS: usize = 64;
const ASK: &str = "ask the provider of the root key";

/// Whose certificates a server may show: one or more certificate authorities.
///
/// No set is built in, and none of the machine's is looked for: a root key's provider is a server that the operator
/// knows. For a server of one's own that is the authority which signed its certificate; for AWS, Amazon's roots, or
/// the file of them all that the operating system keeps (`/etc/ssl/certs/ca-certificates.crt` on Debian).
#[derive(Clone)]
pub struct CertificateAuthorities(Arc<RootCertStore>);

impl CertificateAuthorities {
    /// Takes every certificate from text in PEM (RFC 7468).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] when there is none in it, or one that cannot be read.
    ///
    /// # Example
    ///
    /// ```
    /// use ci_secrets::CertificateAuthorities;
    ///
    /// let error = CertificateAuthorities::from_pem(b"not a certificate").unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "read certificate authorities: there is no certificate in it; take the PEM file of the authority"
    /// );
    /// ```
    pub fn from_pem(pem: &[u8]) -> Result<Self> {
        const READ: &str = "read certificate authorities";
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let added = certificate.map_err(|error| error.to_string());
            let added = added.and_then(|one| store.add(one).map_err(|error| error.to_string()));
            added.map_err(|error| {
                Error::new(ErrorKind::Invalid, READ)
                    .because("a certificate in it cannot be read")
                    .detail(error)
            })?;
        }
        if store.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, READ)
                .because("there is no certificate in it; take the PEM file of the authority"));
        }
        Ok(Self(Arc::new(store)))
    }
}

impl fmt::Debug for CertificateAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateAuthorities({})", self.0.len())
    }
}

/// A server, and how it is recognised.
///
/// Every request has a connection of its own: the vault asks rarely, because it remembers keys for a while, and a
/// connection that idles for hours is gone when it is needed. TLS sessions are resumed.
pub(super) struct Server {
    authority: String,
    host: String,
    port: u16,
    name: ServerName<'static>,
    tls: TlsConnector,
}

/// What a server answered. The body may hold a key.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// The error that an answer without success is, for `reason`; `said` is for an operator and holds no secret.
    pub(super) fn error(
        &self,
        operation: &'static str,
        (kind, reason): (ErrorKind, &'static str),
        said: &str,
    ) -> Error {
        let detail = format!("the server answers {}: {said}", self.status.as_u16());
        let error = Error::new(kind, operation).because(reason).detail(detail);
        match (kind, self.retry_after) {
            (ErrorKind::Unavailable, Some(delay)) => error.retryable_after(delay),
            (ErrorKind::Unavailable, None) if self.status.is_redirection() => error.permanent(),
            // As soon as an operator hands in another token, changes the policy, or enables the key.
            (ErrorKind::Denied, _) => error.retryable(),
            _ => error,
        }
    }
}

impl Server {
    /// The server of an `https:` address without a path.
    pub(super) fn new(address: &str, authorities: &CertificateAuthorities) -> Result<Self> {
        let invalid = || {
            Error::new(ErrorKind::Invalid, "set up the provider of the root key")
                .because("its address is not of the form https://host or https://host:port")
        };
        let uri: Uri = address.parse().map_err(|_| invalid())?;
        let authority = uri.authority().ok_or_else(invalid)?;
        let is_plain = uri.scheme_str() == Some("https")
            && matches!(uri.path_and_query().map(PathAndQuery::as_str), None | Some("/"))
            && !authority.as_str().contains('@');
        if !is_plain {
            return Err(invalid());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host.clone()).map_err(|_| invalid())?;
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if authority.as_str() == authority.host() => 443,
            None => return Err(invalid()),
        };
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has cipher suites for every version")
            .with_root_certificates(authorities.0.clone())
            .with_no_client_auth();
        let tls = TlsConnector::from(Arc::new(config));
        Ok(Self { authority: authority.as_str().to_owned(), host, port, name, tls })
    }

    /// The host, and the port where it was given: what stands in a request's `Host`.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// Asks once. No redirect is followed: what is in the request is for this server.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection; the server may have done what it was asked for.
    pub(super) async fn ask(&self, mut request: Request<Full<Bytes>>) -> Result<Answer> {
        let host = HeaderValue::from_str(&self.authority).expect("it was parsed as a part of a URL");
        request.headers_mut().insert(header::HOST, host);
        let exchanged = exchange(self.connect().await?, request).await;
        let (head, mut frames) = exchanged.map_err(|error| unreachable("it broke off", error))?;
        let length = frames.iter().map(Bytes::len).sum();
        let mut body = Zeroizing::new(Vec::with_capacity(length));
        for frame in frames.drain(..) {
            body.extend_from_slice(&frame);
            wipe(frame);
        }
        if length > LARGEST_BODY {
            return Err(Error::new(ErrorKind::Unavailable, ASK)
                .because("the answer is longer than any of this protocol; is it the right server?"));
        }
        Ok(Answer { status: head.status(), retry_after: retry_after(head.headers()), body })
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await;
        let tcp = tcp.map_err(|error| unreachable("it cannot be connected to", error))?;
        // A request is one small write, and nothing to wait for comes after it.
        tcp.set_nodelay(true).map_err(|error| unreachable("it cannot be connected to", error))?;
        self.tls.connect(self.name.clone(), tcp).await.map_err(handshake_failed)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.authority).finish()
    }
}

/// One request and its answer, as far as the bound reaches. The connection is gone when it returns, and with it every
/// other hold on the frames.
async fn exchange(
    stream: TlsStream<TcpStream>,
    request: Request<Full<Bytes>>,
) -> hyper::Result<(Response<()>, Vec<Bytes>)> {
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .handshake(TokioIo::new(stream))
        .await?;
    let answer = pin!(async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        Ok((Response::from_parts(head, ()), bounded(body).await?))
    });
    match select(answer, pin!(connection)).await {
        Either::Left((answer, _)) => answer,
        // The connection is done, and has left what it read to the one who waits for it.
        Either::Right((_, answer)) => answer.await,
    }
}

async fn bounded(mut body: Incoming) -> hyper::Result<Vec<Bytes>> {
    let (mut frames, mut length) = (Vec::new(), 0);
    while length <= LARGEST_BODY
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame?.into_data() {
            length += data.len();
            frames.push(data);
        }
    }
    Ok(frames)
}

/// Wipes what the HTTP library read a key into, which it does not do itself.
fn wipe(frame: Bytes) {
    if let Ok(mut frame) = frame.try_into_mut() {
        frame.zeroize();
    }
}

/// Only the form in seconds (RFC 9110, section 10.2.3): no provider here uses the other one.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn handshake_failed(error: io::Error) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if matches!(inner, Some(rustls::Error::InvalidCertificate(_))) {
        return Error::new(ErrorKind::Denied, ASK)
            .because(
                "its certificate is not one for its name by the given authorities; is it the right server?",
            )
            .caused_by(error);
    }
    unreachable("no TLS connection comes about", error)
}

fn unreachable(reason: &'static str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unavailable, ASK).because(reason).caused_by(error)
}
