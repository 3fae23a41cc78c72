//! What the launcher is told to make.

use core::ffi::CStr;
use core::net::{IpAddr, SocketAddr};

use super::fields::{Reader, Writer};

/// How to attach one thing to the sandbox's root. The first record is a layer whose target is `/`.
pub(crate) mod mount {
    /// A folder of the image: what is changed in it goes to memory.
    pub(crate) const LAYER: u32 = 0;
    /// The same, with owners 0 to 65,535 shown as the sandbox's own.
    pub(crate) const LAYER_MAPPED: u32 = 1;
    /// A read-only view of a file or folder of the host, with its owner shown as the job's user.
    pub(crate) const BIND_MAPPED: u32 = 2;
    /// A read-only view of a file or folder of the host as it is.
    pub(crate) const BIND: u32 = 3;
}

/// What the launcher has to make: one packet on the lifeline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Configuration<'a> {
    /// Whether the sandbox has a range of ids, and the launcher the privileges to prepare its mounts.
    pub(crate) range: bool,
    /// Whether it has the network of another sandbox, which travels along as a descriptor, and none of its own.
    pub(crate) joins: bool,
    /// The content of `uid_map`.
    pub(crate) uid_map: &'a CStr,
    /// The content of `gid_map`.
    pub(crate) gid_map: &'a CStr,
    /// The host's id of the sandbox's root, in decimal.
    pub(crate) owner: &'a CStr,
    /// The host's id of the job's user, in decimal.
    pub(crate) job: &'a CStr,
    /// The size of the memory file system in bytes, in decimal.
    pub(crate) size: &'a CStr,
    /// How many files it may hold, in decimal.
    pub(crate) inodes: &'a CStr,
    /// The control group whose memory the launcher has to watch, if there is one.
    pub(crate) watched: &'a CStr,
    /// The host name inside.
    pub(crate) hostname: &'a CStr,
    /// The system call filter: an array of `struct sock_filter`.
    pub(crate) filter: &'a [u8],
    /// The `cgroup.procs` files to enter.
    pub(crate) groups: List<'a>,
    /// What to attach to the root: see [`mount`].
    pub(crate) mounts: List<'a>,
    /// What to make in the sandbox's network for the supervisor: each a [`Socket`].
    pub(crate) sockets: List<'a>,
}

/// Several records of a message, each still to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List<'a> {
    /// How many.
    pub(crate) count: u32,
    /// The first of them.
    pub(crate) records: Reader<'a>,
}

impl<'a> Configuration<'a> {
    /// The packet's bytes; the lists take the place of the fields of those names.
    pub(crate) fn encode<'r>(
        &self,
        groups: impl ExactSizeIterator<Item = &'r [u8]>,
        mounts: impl ExactSizeIterator<Item = (u32, &'r [u8], &'r [u8])>,
        sockets: &[Socket],
        out: &mut impl Extend<u8>,
    ) {
        let Self {
            range,
            joins,
            uid_map,
            gid_map,
            owner,
            job,
            size,
            inodes,
            watched,
            hostname,
            filter,
            groups: _,
            mounts: _,
            sockets: _,
        } = *self;
        let mut writer = Writer(out);
        writer.u32(u32::from(range)).u32(u32::from(joins));
        for value in [uid_map, gid_map, owner, job, size, inodes, watched, hostname] {
            writer.text(value.to_bytes());
        }
        writer.bytes(filter);
        writer.count(groups.len());
        for group in groups {
            writer.text(group);
        }
        writer.count(mounts.len());
        for (kind, source, target) in mounts {
            writer.u32(kind).text(source).text(target);
        }
        writer.count(sockets.len());
        for socket in sockets {
            socket.write(&mut writer);
        }
    }

    /// The configuration in a packet, or nothing if it is none.
    pub(crate) fn decode(packet: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(packet);
        let (range, joins) = (reader.u32()? != 0, reader.u32()? != 0);
        let mut texts = [c""; 8];
        for text in &mut texts {
            *text = reader.text()?;
        }
        let [uid_map, gid_map, owner, job, size, inodes, watched, hostname] = texts;
        let filter = reader.bytes()?;
        let groups = List { count: reader.u32()?, records: reader };
        for _ in 0..groups.count {
            reader.text()?;
        }
        let mounts = List { count: reader.u32()?, records: reader };
        for _ in 0..mounts.count {
            reader.u32()?;
            reader.text()?;
            reader.text()?;
        }
        let sockets = List { count: reader.u32()?, records: reader };
        Some(Self {
            range,
            joins,
            uid_map,
            gid_map,
            owner,
            job,
            size,
            inodes,
            watched,
            hostname,
            filter,
            groups,
            mounts,
            sockets,
        })
    }
}

/// A socket to make in the sandbox's network, bound to this address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Socket {
    /// TCP, listening.
    Listener(SocketAddr),
    /// UDP.
    Datagram(SocketAddr),
}

impl Socket {
    fn write<B: Extend<u8>>(self, writer: &mut Writer<'_, B>) {
        let (kind, address) = match self {
            Self::Listener(address) => (0, address),
            Self::Datagram(address) => (1, address),
        };
        writer.u32(kind);
        match address.ip() {
            IpAddr::V4(v4) => writer.bytes(&v4.octets()),
            IpAddr::V6(v6) => writer.bytes(&v6.octets()),
        };
        writer.u32(address.port().into());
    }

    /// One record of the configuration's sockets.
    pub(crate) fn read(records: &mut Reader<'_>) -> Option<Self> {
        let (kind, address, port) = (records.u32()?, records.bytes()?, records.u32()?);
        let address = match address.len() {
            4 => IpAddr::from(*address.first_chunk::<4>()?),
            _ => IpAddr::from(*address.first_chunk::<16>()?),
        };
        let address = SocketAddr::new(address, u16::try_from(port).ok()?);
        match kind {
            0 => Some(Self::Listener(address)),
            1 => Some(Self::Datagram(address)),
            _ => None,
        }
    }
}
