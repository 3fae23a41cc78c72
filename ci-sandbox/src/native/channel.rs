//! Packets to and from the programs of a sandbox.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, recvmsg, sendmsg, shutdown,
};
use tokio::io::Interest;

use super::sys::{self, Watched};
use super::wire::{MOST_SOCKETS, Report};

/// Our end of a packet socket.
#[derive(Debug)]
pub(super) struct Channel(Watched);

impl Channel {
    /// Takes over an end that does not block, for what it is used for: every reason to wake costs.
    pub(super) fn new(socket: OwnedFd, interest: Interest) -> io::Result<Self> {
        sys::watch(socket, interest).map(Self)
    }

    /// Sends one packet with descriptors. Nothing is sent if the future is dropped.
    pub(super) async fn send(&self, packet: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, |socket| send_now(socket, packet, files)).await
    }

    /// Sends one packet with descriptors if there is room for it, without waiting.
    pub(super) fn try_send(&self, packet: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        send_now(self.0.get_ref(), packet, files)
    }

    /// The next report and the descriptors that came with it; an end or a malformed packet is an error.
    pub(super) async fn report(&self) -> io::Result<(Report, Vec<OwnedFd>)> {
        let (packet, files) = self.0.async_io(Interest::READABLE, receive_now).await?;
        Report::decode(&packet).map(|report| (report, files)).ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    /// Ends the connection in both directions, whoever else holds this end.
    pub(super) fn shut_down(&self) {
        let _ = shutdown(self.0.get_ref(), Shutdown::Both);
    }
}

fn send_now(socket: &OwnedFd, packet: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(6))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_now(socket: &OwnedFd) -> io::Result<([u8; Report::SIZE], Vec<OwnedFd>)> {
    let mut packet = [0; Report::SIZE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_SOCKETS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut packet)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            files.extend(rights);
        }
    }
    if received.bytes == Report::SIZE {
        Ok((packet, files))
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
