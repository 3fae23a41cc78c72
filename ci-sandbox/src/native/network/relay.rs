//! Bytes from one connection to another, counted.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::sleep;

use super::transcript::Meter;

/// How long a connection may be silent on the sandbox's side. One that takes nothing off us and gives nothing is silent.
pub(super) const IDLE: Duration = Duration::from_mins(15);
/// How much is on its way in each direction of a connection.
const BUFFER: usize = 32 * 1024;

/// A stream whose bytes are counted: what is written to it as sent, what is read as received.
#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    meter: Arc<Meter>,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S, meter: Arc<Meter>) -> Self {
        Self { stream, meter }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.meter.add_received(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.meter.add_sent(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Hands bytes both ways until both sides have ended, or one has failed.
pub(super) async fn tunnel(
    mut inside: impl AsyncRead + AsyncWrite + Unpin,
    mut outside: impl AsyncRead + AsyncWrite + Unpin,
) {
    // How it ends is the two programs' affair.
    let _ = copy_bidirectional_with_sizes(&mut inside, &mut outside, BUFFER, BUFFER).await;
}

/// Runs `work` as long as `meter` moves at least once per [`IDLE`].
pub(super) async fn while_alive(work: impl Future<Output = ()>, meter: &Meter) {
    let mut work = std::pin::pin!(work);
    let mut seen = meter.read();
    loop {
        tokio::select! {
            () = &mut work => return,
            () = sleep(IDLE) => {
                let now = meter.read();
                if now == seen {
                    return;
                }
                seen = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test]
    async fn bytes_are_counted_each_way_and_each_end_reaches_the_other() {
        let (mut job, inside) = duplex(64);
        let (outside, mut server) = duplex(64);
        let meter = Arc::<Meter>::default();
        let relayed = tokio::spawn(tunnel(inside, Metered::new(outside, meter.clone())));
        job.write_all(b"question").await.unwrap();
        job.shutdown().await.unwrap();
        let mut heard = String::new();
        server.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "question", "with its end, while the other direction is open");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut heard = String::new();
        job.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "answer");
        relayed.await.unwrap();
        assert_eq!(meter.read(), (8, 6));
    }

    /// neither a side that says nothing nor one that takes nothing holds a connection for ever.
    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_moves_ends() {
        let (mut job, inside) = duplex(64);
        let (outside, mut server) = duplex(64);
        let meter = Arc::<Meter>::default();
        let inside = Metered::new(inside, meter.clone());
        let start = Instant::now();
        let alive = async {
            while_alive(tunnel(inside, outside), &meter).await;
            start.elapsed()
        };
        let talk = async {
            // Slowly, and more than anybody takes off: the server never reads on.
            for _ in 0..3 {
                job.write_all(b"x").await.unwrap();
                server.read_exact(&mut [0]).await.unwrap();
                sleep(IDLE / 2).await;
            }
            job.write_all(&vec![0; 256 * 1024]).await
        };
        let (lived, written) = tokio::join!(alive, talk);
        assert!(written.is_err(), "it was never taken off");
        assert!(lived >= IDLE && lived <= 4 * IDLE, "{lived:?}");
    }
}
