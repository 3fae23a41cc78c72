//! Connections: how many, for how long, and their end.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use ci_core::debug::DebugAccess;
use russh::server;
use tokio::io::{copy_bidirectional, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::terminal::Terminal;

/// How long a client may take to read why it is over, and to go.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How many bytes are on their way between the network and the protocol.
const ON_THE_WAY: usize = 64 * 1024;

/// How far a connection is.
#[derive(Clone, Debug, Default)]
pub(super) enum Stage {
    /// Nobody knows who it is.
    #[default]
    Unknown,
    /// Somebody has come in.
    Inside(DebugAccess),
    /// What they started has ended.
    Done,
}

/// Takes connections until `end`, and sees them out after that.
pub(super) async fn serve(shared: Arc<Shared>, socket: TcpListener, mut end: oneshot::Receiver<()>) {
    let most = shared.config.most_connections;
    let strangers = Arc::new(Semaphore::new(most.div_ceil(2)));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = &mut end => break,
            Some(_) = connections.join_next() => {}
            accepted = socket.accept() => match accepted {
                // What is too much is dropped, which closes it.
                Ok((stream, _)) if connections.len() < most => {
                    if let Ok(permit) = strangers.clone().try_acquire_owned() {
                        connections.spawn(connection(shared.clone(), stream, permit));
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "no connection for a debug session");
                    sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    drop(socket);
    while connections.join_next().await.is_some() {}
}

/// One connection. The protocol's implementation works in a task of its own, over a pipe of which we hold the other end:
/// when that is dropped, so is everything behind it.
async fn connection(shared: Arc<Shared>, mut stream: TcpStream, stranger: OwnedSemaphorePermit) {
    // A key press is a packet.
    let _ = stream.set_nodelay(true);
    let (mut near, far) = duplex(ON_THE_WAY);
    let (stage, staged) = watch::channel(Stage::default());
    let terminal = Terminal::new(shared.clone(), stage);
    let protocol = shared.protocol.clone();
    let speak = async move {
        match server::run_stream(protocol, far, terminal).await {
            Ok(session) => session.await,
            Err(error) => Err(error),
        }
    };
    let carry = async move {
        // Both ends are dropped behind this.
        let _ = copy_bidirectional(&mut stream, &mut near).await;
    };
    tokio::select! {
        (spoken, ()) = async { tokio::join!(speak, carry) } => {
            if let Err(error) = spoken {
                tracing::debug!(%error, "connection of a debug session ended");
            }
        }
        () = limit(staged, shared.config.handshake, stranger) => {}
    }
}

/// Returns when a connection has to go.
async fn limit(mut staged: watch::Receiver<Stage>, handshake: Duration, stranger: OwnedSemaphorePermit) {
    let known = async {
        let stage = staged.wait_for(|stage| !matches!(stage, Stage::Unknown)).await.ok()?;
        Some(match &*stage {
            Stage::Inside(access) => Some(access.ended()),
            Stage::Unknown | Stage::Done => None,
        })
    };
    let access = match timeout(handshake, known).await {
        Err(_) => return,
        // The protocol is over, and so is everything in a moment.
        Ok(None) => return pending().await,
        Ok(Some(access)) => access,
    };
    drop(stranger);
    if let Some(ended) = access {
        tokio::select! {
            _ = ended => {}
            _ = staged.wait_for(|stage| matches!(stage, Stage::Done)) => {}
        }
    }
    sleep(LAST_WORDS).await;
}
