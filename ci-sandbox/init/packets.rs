//! Packets on sockets, and descriptors that travel with them.

use crate::call::raw;
use crate::nr;
use crate::sys::{Errno, Fd, Raw, Result, word};
use crate::wire::MOST_SOCKETS;

#[repr(C)]
struct Vector {
    base: *mut u8,
    length: usize,
}

/// `struct msghdr` with the two paddings of 64-bit machines.
#[repr(C)]
struct Message {
    name: usize,
    name_length: usize,
    vectors: *mut Vector,
    vector_count: usize,
    control: *mut u8,
    control_length: usize,
    flags: usize,
}

/// A control message of descriptors: `struct cmsghdr`, then as many as fit.
#[repr(C, align(8))]
struct Control<const MOST: usize> {
    length: usize,
    level: i32,
    kind: i32,
    files: [i32; MOST],
}

/// The most descriptors in one packet that is received.
pub(crate) const MOST_FILES: usize = 6;
const CONTROL_HEAD: usize = 16;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;

/// Takes one packet and the descriptors that came with it; a packet longer than the buffer is an error.
pub(crate) fn receive(socket: Raw, buffer: &mut [u8], files: &mut [Option<Fd>; MOST_FILES]) -> Result<usize> {
    const CMSG_CLOEXEC: usize = 0x4000_0000;
    const TRUNCATED: usize = 0x20 | 0x08;
    let mut control = Control::<MOST_FILES> { length: 0, level: 0, kind: 0, files: [0; MOST_FILES] };
    let mut vector = Vector { base: buffer.as_mut_ptr(), length: buffer.len() };
    let mut message = Message {
        name: 0,
        name_length: 0,
        vectors: &raw mut vector,
        vector_count: 1,
        control: (&raw mut control).cast(),
        control_length: size_of::<Control<MOST_FILES>>(),
        flags: 0,
    };
    let received = loop {
        // SAFETY: recvmsg(2) writes at most the vector's length into the buffer and at most `control_length`
        // bytes into `control`; both outlive the call.
        match unsafe {
            raw(nr::RECVMSG, [word(socket.0), (&raw mut message) as usize, CMSG_CLOEXEC, 0, 0, 0])
        } {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    if message.control_length >= CONTROL_HEAD && control.level == SOL_SOCKET && control.kind == SCM_RIGHTS {
        let count = (control.length - CONTROL_HEAD) / size_of::<i32>();
        for (place, number) in files.iter_mut().zip(control.files.iter().take(count)) {
            *place = Some(Fd::owned(*number));
        }
    }
    if message.flags & TRUNCATED != 0 { Err(Errno::EBADMSG) } else { Ok(received) }
}

/// Sends one packet with descriptors; never a signal when nobody listens.
pub(crate) fn send(socket: Raw, bytes: &[u8], files: impl Iterator<Item = Raw>) -> Result<()> {
    const NOSIGNAL: usize = 0x4000;
    let mut control =
        Control { length: CONTROL_HEAD, level: SOL_SOCKET, kind: SCM_RIGHTS, files: [0; MOST_SOCKETS] };
    let mut places = control.files.iter_mut();
    for file in files {
        *places.next().ok_or(Errno::E2BIG)? = file.0;
        control.length += size_of::<i32>();
    }
    let mut vector = Vector { base: bytes.as_ptr().cast_mut(), length: bytes.len() };
    let message = Message {
        name: 0,
        name_length: 0,
        vectors: &raw mut vector,
        vector_count: 1,
        control: (&raw mut control).cast(),
        control_length: if control.length > CONTROL_HEAD { control.length } else { 0 },
        flags: 0,
    };
    // SAFETY: sendmsg(2) only reads: the message, its one vector over `bytes`, and the control message.
    unsafe { raw(nr::SENDMSG, [word(socket.0), (&raw const message) as usize, NOSIGNAL, 0, 0, 0]) }.map(drop)
}
