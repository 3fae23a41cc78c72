//! What a sandbox reaches beyond its own loopback interface.

mod socket;

pub(super) use self::socket::NetworkSocket;
