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
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::budget::{Account, Room};
use super::dial::Dialer;
use super::names::Names;
use super::pace::Pace;
use super::relay::{self, Metered};
use super::transcript::Meter;
use super::{dns, http, socks};

/// How many connections a sandbox has at once; more wait in the kernel.
const MOST_CONNECTIONS: usize = 128;
/// How long all sandboxes together may leave it no room before its connections are turned away instead.
const FOR_ROOM: Duration = Duration::from_secs(2);
/// How many are being turned away at once, and how long one may take to say what it wanted.
pub(super) const MOST_TURNED_AWAY: usize = 4;
const TURNING_AWAY: Duration = Duration::from_secs(5);
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
    desk: Arc<Desk>,
    account: Arc<Account>,
    listeners: Vec<(TcpListener, Door)>,
    look_ups: UdpSocket,
}

/// What serving a connection takes.
#[derive(Debug)]
struct Desk {
    dialer: Dialer,
    /// For whom there is no room.
    crowded: Dialer,
    names: Names,
}

impl Server {
    /// Takes over the sockets that process 1 has opened.
    pub(super) fn new(
        dialer: Dialer,
        names: Names,
        account: Arc<Account>,
        look_ups: OwnedFd,
        listeners: Vec<(OwnedFd, Door)>,
    ) -> io::Result<Self> {
        let listener = |(file, door)| {
            bound_buffers(&file)?;
            Ok((TcpListener::from_std(StdListener::from(file))?, door))
        };
        Ok(Self {
            desk: Arc::new(Desk { crowded: Dialer { is_crowded: true, ..dialer.clone() }, dialer, names }),
            account,
            listeners: listeners.into_iter().map(listener).collect::<io::Result<_>>()?,
            look_ups: UdpSocket::from_std(StdDatagrams::from(look_ups))?,
        })
    }

    /// Serves until `stop` is ready. When it returns, nothing of it is left: no connection, no socket, no task.
    pub(super) async fn run(self, stop: impl Future<Output = ()>) {
        let Self { desk, account, listeners, look_ups } = self;
        let mut tasks = Tasks::default();
        let served = async {
            let answered = answer_look_ups(&look_ups, &desk.dialer, &desk.names);
            tokio::join!(answered, take(accepted(listeners), &mut tasks, &desk, &account))
        };
        tokio::select! {
            _ = served => {}
            () = stop => {}
        }
        tasks.served.shutdown().await;
        tasks.turned_away.shutdown().await;
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

/// The connections of one sandbox.
#[derive(Debug, Default)]
struct Tasks {
    served: JoinSet<()>,
    turned_away: JoinSet<()>,
}

impl Tasks {
    fn can_take(&self) -> bool {
        self.served.len() < MOST_CONNECTIONS && self.turned_away.len() < MOST_TURNED_AWAY
    }
}

async fn take(
    mut accepted: SelectAll<BoxStream<'static, (TcpStream, Door)>>,
    tasks: &mut Tasks,
    desk: &Arc<Desk>,
    account: &Arc<Account>,
) {
    let mut pace = Pace::new(CONNECTIONS.0, CONNECTIONS.1);
    let mut crowded_since = None;
    loop {
        tokio::select! {
            Some(_) = tasks.served.join_next() => {}
            Some(_) = tasks.turned_away.join_next() => {}
            Some((connection, door)) = accepted.next(), if tasks.can_take() => {
                let since = *crowded_since.get_or_insert_with(Instant::now);
                if let Ok(room) = timeout_at(since + FOR_ROOM, account.room()).await {
                    crowded_since = None;
                    tasks.served.spawn(serve(connection, door, desk.clone(), room));
                } else {
                    tasks.turned_away.spawn(turn_away(connection, door, desk.clone()));
                }
                pace.turn().await;
            }
            else => return,
        }
    }
}

async fn serve(connection: TcpStream, door: Door, desk: Arc<Desk>, _room: Room) {
    let meter = Arc::<Meter>::default();
    relay::while_alive(talk(connection, door, &meter, &desk.dialer, &desk.names), &meter).await;
}

/// Tells a client, in its own language, that there is no room.
async fn turn_away(connection: TcpStream, door: Door, desk: Arc<Desk>) {
    let meter = Arc::<Meter>::default();
    let _ = timeout(TURNING_AWAY, talk(connection, door, &meter, &desk.crowded, &desk.names)).await;
}

async fn talk(connection: TcpStream, door: Door, meter: &Arc<Meter>, dialer: &Dialer, names: &Names) {
    let _ = connection.set_nodelay(true);
    match door {
        Door::Proxy => proxy(Metered::new(connection, meter.clone()), dialer).await,
        Door::LookUps => answer_on(connection, dialer, names).await,
        Door::Host(endpoint) => reach(connection, &endpoint, meter, dialer).await,
    }
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
