//! A proxy by HTTP/1.1 (RFC 9110, RFC 9112): `CONNECT`, and requests that name a whole `http:` URL.
//!
//! Every request of a connection is parsed, checked and made anew; no byte of one goes anywhere by itself.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ci_core::network::{Endpoint, Verdict};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::dial::Dialer;
use super::lock;
use super::relay::{self, Metered};

/// How long a client may take to say what it wants, and be silent between two requests.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most bytes of a request's or response's head.
const LARGEST_HEAD: usize = 64 * 1024;
const MOST_HEADERS: usize = 128;

/// What speaks of one connection only (RFC 9110, section 7.6.1), and what is settled with the client here.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// A client that has been promised a tunnel, and where it leads.
type Promise = Mutex<Option<(OnUpgrade, Metered<TcpStream>)>>;

/// Serves one connection, from its first byte.
pub(super) async fn serve(client: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, dialer: &Dialer) {
    let promise = Promise::default();
    let answer = service_fn(async |request| Ok::<_, hyper::Error>(answer(request, dialer, &promise).await));
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(client), answer)
        .with_upgrades()
        .await;
    // What is wrong with it the client has been told, or is not there to hear.
    drop(served);
    let promised = lock(&promise).take();
    if let Some((upgrade, server)) = promised
        && let Ok(client) = upgrade.await
    {
        relay::tunnel(TokioIo::new(client), server).await;
    }
}

async fn answer(request: Request<Incoming>, dialer: &Dialer, promise: &Promise) -> Answer {
    let done = if request.method() == Method::CONNECT {
        connect(request, dialer, promise).await
    } else {
        forward(request, dialer).await
    };
    done.unwrap_or_else(Refusal::answer)
}

/// Why a request is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Verdict(Verdict),
    /// What the client says is no request to a proxy, or can be read in two ways.
    Bad(&'static str),
    /// The server has not kept to the protocol.
    Server,
}

impl From<Verdict> for Refusal {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

impl Refusal {
    fn answer(self) -> Answer {
        let (status, why) = match self {
            Self::Verdict(Verdict::Malformed) => (StatusCode::BAD_REQUEST, Verdict::Malformed.to_string()),
            Self::Verdict(Verdict::Crowded) => {
                (StatusCode::SERVICE_UNAVAILABLE, Verdict::Crowded.to_string())
            }
            Self::Verdict(verdict) if verdict.is_refusal() => (StatusCode::FORBIDDEN, verdict.to_string()),
            Self::Verdict(verdict) => (StatusCode::BAD_GATEWAY, verdict.to_string()),
            Self::Bad(why) => (StatusCode::BAD_REQUEST, why.to_owned()),
            Self::Server => (StatusCode::BAD_GATEWAY, "the server's answer cannot be understood".to_owned()),
        };
        let body = Full::new(Bytes::from(format!("the sandbox's network: {why}\n")));
        let mut answer = Response::new(body.map_err(|never| match never {}).boxed());
        *answer.status_mut() = status;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // Without room it is not waited for what comes next.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

async fn connect(request: Request<Incoming>, dialer: &Dialer, promise: &Promise) -> Result<Answer, Refusal> {
    // What a client sends along before it is let through would be taken for the tunnel's first bytes by some.
    if has_body(request.headers()) {
        return Err(Refusal::Bad("a CONNECT request has no body"));
    }
    let (asked, endpoint) = destination(&request, None, dialer)?;
    let server = dialer.dial(&asked, &endpoint).await?;
    let upgrade = hyper::upgrade::on(request);
    *lock(promise) = Some((upgrade, server));
    Ok(Response::new(Full::default().map_err(|never| match never {}).boxed()))
}

async fn forward(mut request: Request<Incoming>, dialer: &Dialer) -> Result<Answer, Refusal> {
    const HTTP: u16 = 80;
    if request.uri().scheme_str() != Some("http") {
        return Err(Refusal::Bad("ask a proxy for a whole http: URL, or use CONNECT"));
    }
    let (asked, endpoint) = destination(&request, Some(HTTP), dialer)?;
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next().map(|host| Endpoint::parse(host.to_str().unwrap_or_default(), Some(HTTP)));
    let agrees = host.is_none_or(|host| host.is_ok_and(|host| host == endpoint));
    if !agrees || hosts.next().is_some() {
        return Err(dialer.refuse_malformed(&asked).into());
    }
    let server = dialer.dial(&asked, &endpoint).await?;

    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let host = match endpoint.port {
        HTTP => endpoint.to_string().trim_end_matches(":80").to_owned(),
        _ => endpoint.to_string(),
    };
    let bad = |_| Refusal::Bad("the URL cannot be understood");
    *request.uri_mut() = path.parse().map_err(bad)?;
    *request.version_mut() = hyper::Version::HTTP_11;
    strip(request.headers_mut());
    request.headers_mut().insert(header::HOST, HeaderValue::from_str(&host).map_err(|_| Refusal::Server)?);
    exchange(request, server).await
}

/// Where a request wants to go, and how it spells the host.
fn destination(
    request: &Request<Incoming>,
    default: Option<u16>,
    dialer: &Dialer,
) -> Result<(String, Endpoint), Refusal> {
    let authority = request.uri().authority().map(hyper::http::uri::Authority::as_str).unwrap_or_default();
    let endpoint = Endpoint::parse(authority, default).map_err(|_| dialer.refuse_malformed(authority))?;
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let host =
        authority.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(authority, |(host, _)| host);
    Ok((host.to_owned(), endpoint))
}

/// Does one request on a connection of its own.
async fn exchange(request: Request<Incoming>, server: Metered<TcpStream>) -> Result<Answer, Refusal> {
    let handshake = hyper::client::conn::http1::Builder::new()
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .handshake(TokioIo::new(server));
    let (mut sender, connection) = handshake.await.map_err(|_| Refusal::Server)?;
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    let mut response = sender.send_request(request).await.map_err(|_| Refusal::Server)?;
    if response.status().is_informational() {
        return Err(Refusal::Server);
    }
    strip(response.headers_mut());
    Ok(response.map(|body| Driven { body, _driver: driver }.boxed()))
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    length.is_some_and(|length| length != "0") || headers.contains_key(header::TRANSFER_ENCODING)
}

/// Takes out what is for this connection only: by tradition, or because the other side says so.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.into_iter().chain(HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// A response's body with what reads it off the connection, which ends with it.
struct Driven {
    body: Incoming,
    _driver: JoinSet<()>,
}

impl Body for Driven {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
