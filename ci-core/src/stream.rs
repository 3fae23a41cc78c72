//! Bytes that arrive piece by piece.

use std::pin::Pin;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt as _, future, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::units::ByteSize;

/// A stream of pieces of bytes, of any size; the first error ends it. What is dropped half-way is not read on.
pub type ByteStream<'a> = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send + 'a>>;

/// A stream of one piece.
pub fn once(bytes: impl Into<Bytes>) -> ByteStream<'static> {
    Box::pin(stream::once(future::ready(Ok(bytes.into()))))
}

/// The same stream, which ends with [`ErrorKind::LimitExceeded`] when it would grow past `most`. What came before that
/// has come out: keep nothing of a stream until it has ended well.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::{ByteSize, stream};
/// use futures_util::StreamExt as _;
///
/// let mut content = stream::limited(stream::once("hello"), ByteSize::bytes(4));
/// assert!(content.next().await.is_some_and(|piece| piece.is_err()));
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn limited(stream: ByteStream<'_>, most: ByteSize) -> ByteStream<'_> {
    let mut left = most.as_u64();
    Box::pin(stream.map(move |piece| {
        let piece = piece?;
        match left.checked_sub(piece.len() as u64) {
            Some(rest) => {
                left = rest;
                Ok(piece)
            }
            None => Err(Error::new(ErrorKind::LimitExceeded, "read a stream").with("limit", most)),
        }
    }))
}

/// The whole stream in memory.
///
/// # Errors
///
/// The stream's own error; [`ErrorKind::LimitExceeded`] when it is longer than `most`.
///
/// # Example
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use ci_core::{ByteSize, stream};
///
/// let bytes = stream::collect(stream::once("hello"), ByteSize::kib(1)).await?;
/// assert_eq!(bytes, b"hello");
/// # Ok::<(), ci_core::Error>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub async fn collect(stream: ByteStream<'_>, most: ByteSize) -> Result<Vec<u8>> {
    let mut stream = limited(stream, most);
    let mut whole = Vec::new();
    while let Some(piece) = stream.next().await {
        whole.extend_from_slice(&piece?);
    }
    Ok(whole)
}
