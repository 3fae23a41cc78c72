//! Sockets of a network namespace (`sock_diag(7)`). Numbers are those of `linux/sock_diag.h` and `linux/inet_diag.h`.

use std::io;

use rustix::io::Errno;

use super::netlink::{Message, Socket, is};

const LIST: u16 = 20;
const DESTROY: u16 = 21;

const TCP: u8 = 6;
/// `AF_INET` and `AF_INET6`.
const FAMILIES: [u8; 2] = [2, 10];
/// The length of `struct inet_diag_sockid`, which both structures below have at the same place.
const IDENTITY: usize = 48;

/// Ends all connections of TCP.
///
/// One whose program is dead goes on by itself as long as the other side leaves something unanswered, for minutes, and
/// keeps its whole network alive.
pub(super) fn end_all(socket: &mut Socket) -> io::Result<()> {
    for family in FAMILIES {
        let mut found = Vec::new();
        let listed = socket.dump(Message::new(LIST, 0, &request(family, &[0; IDENTITY])), |reply| {
            // `struct inet_diag_msg`: family, state, timer, repetitions, identity.
            found.extend(reply.get(4..4 + IDENTITY).map(|identity| request(family, identity)));
        });
        match listed {
            // The kernel has no such family.
            Err(error) if is(&error, Errno::NOENT) => continue,
            listed => listed?,
        }
        for each in found {
            match socket.request(Message::new(DESTROY, 0, &each)) {
                // It has ended by itself.
                Err(error) if is(&error, Errno::NOENT) => {}
                destroyed => destroyed?,
            }
        }
    }
    Ok(())
}

/// `struct inet_diag_req_v2`: family, protocol, what else to tell, padding, all states, identity.
fn request(family: u8, identity: &[u8]) -> Vec<u8> {
    let mut request = vec![family, TCP, 0, 0, 0xff, 0xff, 0xff, 0xff];
    request.extend_from_slice(identity);
    request
}
