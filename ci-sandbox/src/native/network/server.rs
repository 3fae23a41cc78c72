//! What serves one sandbox's sockets, and ends with it.

use std::future::Future;
use std::io;
use std::net::{TcpListener as StdListener, UdpSocket as StdDatagrams};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use ci_core::network::{Endpoint, Verdict};
use futures_util::stream::{self, BoxStream, SelectAll, StreamExt as _, select_all};
use rustix::net::sockopt;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::dial::Dialer;
use super::names::Names;
use super::pace::Pace;
use super::relay::{self, Metered};
use super::transcript::Meter;
use super::{dns, http, socks};

/// How many connections a sandbox has at once; more wait in the kernel.
const MOST_CONNECTIONS: usize = 128;
/// How many it may begin per second in the long run, and at once.
const CONNECTIONS: (u32, u32) = (100, 256);
/// The same for look-ups of names.
const LOOK_UPS: (u32, u32) = (500, 1_000);
/// What the kernel holds for one connection in each direction on the sandbox's side, in bytes.
const SOCKET_BUFFER: usize = 256 * 1024;
/// How long a client may take to say its first byte, and to ask the next name.
const PATIENCE: Duration = Duration::from_secs(30);

/// What stands behind a listener.
#[derive(Clone, Debug)]
pub(super) enum Door {
    /// The proxy.
    Proxy,
    /// Look-ups of names.
    LookUps,
    /// One host, for programs that know no proxy.
    Host(Arc<Endpoint>),
}

/// The sockets of one sandbox and what they lead to.
#[derive(Debug)]
pub(super) struct Server {
    dialer: Arc<Dialer>,
    names: Arc<Names>,
    listeners: Vec<(TcpListener, Door)>,
    look_ups: UdpSocket,
}

impl Server {
    /// Takes over the sockets that process 1 has opened.
    pub(super) fn new(
        dialer: Dialer,
        names: Names,
        look_ups: OwnedFd,
        listeners: Vec<(OwnedFd, Door)>,
    ) -> io::Result<Self> {
        let listener = |(file, door)| {
            bound_buffers(&file)?;
            Ok((TcpListener::from_std(StdListener::from(file))?, door))
        };
        Ok(Self {
            dialer: Arc::new(dialer),
            names: Arc::new(names),
            listeners: listeners.into_iter().map(listener).collect::<io::Result<_>>()?,
            look_ups: UdpSocket::from_std(StdDatagrams::from(look_ups))?,
        })
    }

    /// Serves until `stop` is ready. When it returns, nothing of it is left: no connection, no socket, no task.
    pub(super) async fn run(self, stop: impl Future<Output = ()>) {
        let Self { dialer, names, listeners, look_ups } = self;
        let mut tasks = JoinSet::new();
        let served = async {
            let answered = answer_look_ups(&look_ups, &dialer, &names);
            tokio::join!(answered, take(accepted(listeners), &mut tasks, &dialer, &names))
        };
        tokio::select! {
            _ = served => {}
            () = stop => {}
        }
        tasks.shutdown().await;
    }
}

/// Sets what the kernel holds for connections that are taken from here. By default a program that sends and does not
/// read fills megabytes, which are not charged to its sandbox.
fn bound_buffers(listener: &impl AsFd) -> io::Result<()> {
    sockopt::set_socket_recv_buffer_size(listener, SOCKET_BUFFER)?;
    sockopt::set_socket_send_buffer_size(listener, SOCKET_BUFFER)?;
    Ok(())
}

/// The connections of all listeners, as they come.
fn accepted(listeners: Vec<(TcpListener, Door)>) -> SelectAll<BoxStream<'static, (TcpStream, Door)>> {
    select_all(listeners.into_iter().map(|listener| {
        stream::unfold(listener, async |(listener, door)| {
            loop {
                match listener.accept().await {
                    Ok((connection, _)) => return Some(((connection, door.clone()), (listener, door))),
                    // This program has no descriptor or memory left. The connection waits.
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
        })
        .boxed()
    }))
}

async fn take(
    mut accepted: SelectAll<BoxStream<'static, (TcpStream, Door)>>,
    tasks: &mut JoinSet<()>,
    dialer: &Arc<Dialer>,
    names: &Arc<Names>,
) {
    let mut pace = Pace::new(CONNECTIONS.0, CONNECTIONS.1);
    loop {
        tokio::select! {
            Some(_) = tasks.join_next() => {}
            Some((connection, door)) = accepted.next(), if tasks.len() < MOST_CONNECTIONS => {
                tasks.spawn(serve(connection, door, dialer.clone(), names.clone()));
                pace.turn().await;
            }
            else => return,
        }
    }
}

async fn serve(connection: TcpStream, door: Door, dialer: Arc<Dialer>, names: Arc<Names>) {
    let _ = connection.set_nodelay(true);
    let meter = Arc::<Meter>::default();
    let work = async {
        match door {
            Door::Proxy => proxy(Metered::new(connection, meter.clone()), &dialer).await,
            Door::LookUps => answer_on(connection, &dialer, &names).await,
            Door::Host(endpoint) => reach(connection, &endpoint, &meter, &dialer).await,
        }
    };
    relay::while_alive(work, &meter).await;
}

/// Both proxies stand behind one door; the first byte tells which is meant.
async fn proxy(client: Metered<TcpStream>, dialer: &Dialer) {
    let mut client = BufReader::new(client);
    let first = match timeout(PATIENCE, client.fill_buf()).await {
        Ok(Ok([first, ..])) => *first,
        _ => return,
    };
    match first {
        socks::VERSION => socks::serve(client, dialer).await,
        b'A'..=b'Z' => http::serve(client, dialer).await,
        _ => {}
    }
}

async fn reach(client: TcpStream, endpoint: &Endpoint, meter: &Arc<Meter>, dialer: &Dialer) {
    match dialer.dial(&endpoint.host.to_string(), endpoint).await {
        Ok(server) => relay::tunnel(Metered::new(client, meter.clone()), server).await,
        // As a connection that does not come about, and not as one that ends well without a word.
        Err(_) => drop(client.set_zero_linger()),
    }
}

async fn answer_look_ups(socket: &UdpSocket, dialer: &Dialer, names: &Names) {
    let mut pace = Pace::new(LOOK_UPS.0, LOOK_UPS.1);
    // One byte more, so that a query that is too large is seen to be.
    let mut query = [0; dns::LARGEST + 1];
    loop {
        // What comes too fast waits in the kernel, and is dropped there.
        pace.turn().await;
        match socket.recv_from(&mut query).await {
            Ok((length, from)) => {
                if let Some(reply) = answer(&query[..length], dialer, names) {
                    // One that does not listen gets none.
                    let _ = socket.try_send_to(&reply, from);
                }
            }
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

/// The same over TCP (RFC 7766), one question after the other.
async fn answer_on(mut client: TcpStream, dialer: &Dialer, names: &Names) {
    const MOST: u32 = 1_000;
    let mut pace = Pace::new(LOOK_UPS.0, LOOK_UPS.1);
    for _ in 0..MOST {
        pace.turn().await;
        let Ok(Ok(length)) = timeout(PATIENCE, client.read_u16()).await else { return };
        let mut query = [0; dns::LARGEST];
        let Some(query) = query.get_mut(..length.into()) else { return };
        let Ok(Ok(_)) = timeout(PATIENCE, client.read_exact(query)).await else { return };
        let Some(reply) = answer(query, dialer, names) else { return };
        let length = u16::try_from(reply.len()).unwrap_or(0).to_be_bytes();
        let Ok(Ok(())) = timeout(PATIENCE, client.write_all(&[&length, &*reply].concat())).await else {
            return;
        };
    }
}

fn answer(query: &[u8], dialer: &Dialer, names: &Names) -> Option<Vec<u8>> {
    let reply = dns::answer(query, names)?;
    if let Some(name) = &reply.refused {
        dialer.transcript.note(name, None, None, Verdict::NoRule);
    }
    Some(reply.message)
}
