//! Files on their way into a sandbox and out of it, as tar archives.
//!
//! Neither direction looks into an archive: packing and unpacking is done inside, by the job's user.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use ci_core::stream::ByteStream;
use ci_core::{Error, ErrorKind, Result};
use futures_util::{StreamExt as _, stream};
use rustix::io::read;
use rustix::net::{SendFlags, send};
use tokio::io::Interest;

use super::answers::Answers;
use super::failure;
use super::sys::{self, Watched};
use super::wire::Ended;

pub(super) const UPLOAD: &str = "upload into a sandbox";
pub(super) const DOWNLOAD: &str = "download from a sandbox";

/// How much is read at once.
const CHUNK: usize = 64 * 1024;

/// Feeds an archive to the one who unpacks it, and waits for the outcome.
pub(super) async fn upload(socket: OwnedFd, answers: Answers, mut tar: ByteStream<'_>) -> Result<()> {
    let socket = sys::watch(socket, Interest::WRITABLE).map_err(failure::host(UPLOAD))?;
    while let Some(piece) = tar.next().await {
        if feed(&socket, &piece?).await.is_err() {
            // It has ended early: because it has seen the archive's end, or because of what it will say now.
            break;
        }
    }
    drop(socket);
    outcome(&answers, UPLOAD).await
}

async fn feed(socket: &Watched, mut piece: &[u8]) -> io::Result<()> {
    while !piece.is_empty() {
        let sent = socket
            .async_io(Interest::WRITABLE, |socket| Ok(send(socket, piece, SendFlags::NOSIGNAL)?))
            .await?;
        piece = &piece[sent..];
    }
    Ok(())
}

/// Streams what the one who packs writes, and ends with its outcome.
pub(super) fn download<'a>(
    begin: impl Future<Output = Result<(OwnedFd, Answers)>> + Send + 'a,
) -> ByteStream<'a> {
    Box::pin(stream::once(begin).flat_map(|begun| match begun {
        Ok((pipe, answers)) => content(pipe, answers),
        Err(error) => stream::once(std::future::ready(Err(error))).boxed(),
    }))
}

fn content(pipe: OwnedFd, answers: Answers) -> ByteStream<'static> {
    let pipe = match sys::watch(pipe, Interest::READABLE) {
        Ok(pipe) => pipe,
        Err(error) => return stream::once(std::future::ready(Err(failure::host(DOWNLOAD)(error)))).boxed(),
    };
    Box::pin(stream::try_unfold(Some((pipe, answers)), |state| async move {
        let Some((pipe, answers)) = state else { return Ok(None) };
        let mut buffer = vec![0; CHUNK];
        let length = pipe
            .async_io(Interest::READABLE, |pipe| Ok(read(pipe, &mut buffer)?))
            .await
            .map_err(failure::host(DOWNLOAD))?;
        if length == 0 {
            outcome(&answers, DOWNLOAD).await?;
            return Ok(None);
        }
        buffer.truncate(length);
        Ok(Some((Bytes::from(buffer), Some((pipe, answers)))))
    }))
}

/// How packing or unpacking went.
async fn outcome(answers: &Answers, operation: &'static str) -> Result<()> {
    answers.started().await.map_err(|(stage, errno)| failure::transferring(operation, stage, errno))?;
    match answers.ended().await {
        Some(Ended { how: 1, status: 0, .. }) => Ok(()),
        Some(_) => Err(Error::new(ErrorKind::LimitExceeded, operation)
            .because("it was killed inside: the memory was used up, or the job did it")),
        None => Err(answers.gone(operation)),
    }
}
