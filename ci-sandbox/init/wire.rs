//! What the supervisor and the programs inside a sandbox say to each other.
//!
//! The format is private to one build: both ends are compiled from this file, so there are no versions.
//! Numbers are little-endian; text is a length, the bytes, and a NUL that is not counted, so that the
//! receiver can hand it to the kernel in place.

use core::ffi::CStr;

/// The most bytes of one configuration: it travels as a single packet.
pub(crate) const CONFIG_LIMIT: usize = 128 * 1024;

/// The most bytes of one request's body, which travels in a memory file.
pub(crate) const BODY_LIMIT: usize = 4 * 1024 * 1024;

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

/// The most sockets that can be made in one sandbox: they travel in one packet (`SCM_MAX_FD` of Linux is 253).
pub(crate) const MOST_SOCKETS: usize = 240;

/// What kind of socket to make in the sandbox's network.
pub(crate) mod socket {
    /// TCP, listening.
    pub(crate) const LISTENER: u32 = 0;
    /// UDP.
    pub(crate) const DATAGRAM: u32 = 1;
    /// The kernel's interface to links, addresses and routes (rtnetlink(7)), with the powers of process 1.
    pub(crate) const ROUTE: u32 = 2;
}

/// What is true of a sandbox beyond what every sandbox has.
pub(crate) mod fact {
    /// The memory file system is never swapped out.
    pub(crate) const NOSWAP: u32 = 1 << 0;
    /// The sandbox has a range of ids of its own, and its init another one than the job.
    pub(crate) const ID_RANGE: u32 = 1 << 1;
    /// A bind that asked for mapped owners is shown with the host's, for the file system cannot map.
    pub(crate) const PLAIN_BIND: u32 = 1 << 2;
    /// No further user namespace can be made inside.
    pub(crate) const NO_NESTING: u32 = 1 << 3;
    /// Calls that reach past the namespaces are refused.
    pub(crate) const FILTERED: u32 = 1 << 4;
    /// A second rule of the kernel's keeps the job from devices and processes outside.
    pub(crate) const LANDLOCKED: u32 = 1 << 5;
    /// Every folder of the image is shown through an overlay of the sandbox's own.
    pub(crate) const OWN_IMAGE: u32 = 1 << 6;
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
    /// What to make in the sandbox's network for the supervisor: see [`socket`].
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
        sockets: impl ExactSizeIterator<Item = SocketRecord>,
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
        for SocketRecord { kind, address, length, port } in sockets {
            writer.u32(kind).bytes(&address[..length]).u32(port.into());
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

/// One socket to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SocketRecord {
    /// A constant of [`socket`].
    pub(crate) kind: u32,
    /// Where it is bound: 4 bytes for IPv4, 16 for IPv6, none where the kind has no address.
    pub(crate) address: [u8; 16],
    /// How many of them count.
    pub(crate) length: usize,
    /// Its port.
    pub(crate) port: u16,
}

impl SocketRecord {
    /// One record of the configuration's sockets.
    pub(crate) fn read(records: &mut Reader<'_>) -> Option<Self> {
        let (kind, bytes, port) = (records.u32()?, records.bytes()?, records.u32()?);
        let mut address = [0; 16];
        address.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self { kind, address, length: bytes.len(), port: u16::try_from(port).ok()? })
    }
}

/// What a program is to have beyond the usual.
pub(crate) mod option {
    /// Its standard input is a pipe.
    pub(crate) const INPUT: u32 = 1 << 0;
    /// Its standard error goes where its standard output goes.
    pub(crate) const MERGED: u32 = 1 << 1;
    /// All three are a terminal.
    pub(crate) const TERMINAL: u32 = 1 << 2;
    /// The body holds secrets that it finds in files.
    pub(crate) const SECRET_FILES: u32 = 1 << 3;
}

/// What the supervisor asks the init for. Each is one packet of [`Request::SIZE`] bytes with descriptors.
///
/// Two of them are for reports. *Start*, a socket, is the child's: it reports a failure, or ends without a word when
/// its program has been executed or its errand is done. *End*, a pipe, is the init's: it reports how the child ended,
/// or ends without a word because the init is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Run a program: body, start, end, and without a terminal standard output, standard error unless it is merged, and
    /// standard input if it has one. `size` is the terminal's: rows, and columns in the high half.
    Exec { id: u32, options: u32, size: u32 },
    /// Unpack a tar stream below a directory: body, start, end, the stream.
    Extract { id: u32 },
    /// Pack a file or directory: body, start, end, the stream.
    Archive { id: u32 },
    /// Signal the process group of a running request; no descriptors.
    Signal { id: u32, signal: u32 },
    /// Tell how much of its memory the file tree takes up: the pipe for the report.
    Measure,
}

impl Request {
    /// The length of every request.
    pub(crate) const SIZE: usize = 16;

    /// The packet.
    pub(crate) fn encode(self) -> [u8; Self::SIZE] {
        let words = match self {
            Self::Exec { id, options, size } => [0, id, options, size],
            Self::Extract { id } => [1, id, 0, 0],
            Self::Archive { id } => [2, id, 0, 0],
            Self::Signal { id, signal } => [3, id, signal, 0],
            Self::Measure => [4, 0, 0, 0],
        };
        let mut out = [0; Self::SIZE];
        for (place, value) in out.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&u32::to_le_bytes(value));
        }
        out
    }

    /// The request in a packet, or nothing if it is none.
    pub(crate) fn decode(packet: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(packet);
        let [kind, id, a, b] = [reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?];
        match kind {
            0 => Some(Self::Exec { id, options: a, size: b }),
            1 => Some(Self::Extract { id }),
            2 => Some(Self::Archive { id }),
            3 => Some(Self::Signal { id, signal: a }),
            4 => Some(Self::Measure),
            _ => None,
        }
    }
}

/// What is told to the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The launcher has made the init; a pidfd of it, its PID namespace and its network namespace travel along.
    Launched { pid: u32, facts: u32 },
    /// The init has built the sandbox and takes requests; the sockets of its configuration travel along.
    Ready { facts: u32 },
    /// Something did not work; `item` counts mounts or control groups where the stage has several.
    Failed { stage: Stage, errno: i32, item: u32 },
    /// A process is gone and reaped.
    Ended(Ended),
    /// How many bytes the file tree takes up.
    Measured { files: u64 },
    /// The program will have a terminal; both its ends travel along, the one that steers it first.
    Terminal,
}

/// How a process ended and what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// The kernel's `CLD_EXITED` (1), `CLD_KILLED` (2) or `CLD_DUMPED` (3).
    pub(crate) how: u32,
    /// The exit code or the signal.
    pub(crate) status: u32,
    /// Processor time in user mode, in microseconds.
    pub(crate) user_us: u64,
    /// Processor time in the kernel, in microseconds.
    pub(crate) system_us: u64,
    /// The largest resident memory of one process, in KiB.
    pub(crate) max_rss_kib: u64,
}

impl Report {
    /// The length of every report: far below `PIPE_BUF`, so a report is never torn.
    pub(crate) const SIZE: usize = 40;

    /// The packet.
    pub(crate) fn encode(&self) -> [u8; Self::SIZE] {
        const NONE: [u64; 3] = [0; 3];
        let (words, values) = match *self {
            Self::Launched { pid, facts } => ([0, pid, facts, 0], NONE),
            Self::Ready { facts } => ([1, facts, 0, 0], NONE),
            Self::Failed { stage, errno, item } => ([2, stage as u32, errno.cast_unsigned(), item], NONE),
            Self::Ended(Ended { how, status, user_us, system_us, max_rss_kib }) => {
                ([3, how, status, 0], [user_us, system_us, max_rss_kib])
            }
            Self::Terminal => ([4, 0, 0, 0], NONE),
            Self::Measured { files } => ([5, 0, 0, 0], [files, 0, 0]),
        };
        let mut out = [0; Self::SIZE];
        let (head, tail) = out.split_at_mut(16);
        for (place, word) in head.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&u32::to_le_bytes(word));
        }
        for (place, value) in tail.chunks_exact_mut(8).zip(values) {
            place.copy_from_slice(&u64::to_le_bytes(value));
        }
        out
    }

    /// The report in a packet, or nothing if it is none.
    pub(crate) fn decode(packet: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(packet);
        let [kind, a, b, c] = [reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?];
        let mut values = [0; 3];
        for value in &mut values {
            *value = reader.u64()?;
        }
        match kind {
            0 => Some(Self::Launched { pid: a, facts: b }),
            1 => Some(Self::Ready { facts: a }),
            2 => Some(Self::Failed { stage: Stage::from_number(a)?, errno: b.cast_signed(), item: c }),
            3 => Some(Self::Ended(Ended {
                how: a,
                status: b,
                user_us: values[0],
                system_us: values[1],
                max_rss_kib: values[2],
            })),
            4 => Some(Self::Terminal),
            5 => Some(Self::Measured { files: values[0] }),
            _ => None,
        }
    }
}

/// Declares the stages with the words that an error uses for them.
macro_rules! stages {
    ($($name:ident = $words:literal,)*) => {
        /// What was being done when something failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Stage { $(#[doc = $words] $name,)* }

        impl Stage {
            const ALL: &[Self] = &[$(Self::$name,)*];

            fn from_number(number: u32) -> Option<Self> {
                Self::ALL.get(number as usize).copied()
            }

            /// The stage in words, for "could not ...".
            pub(crate) fn words(self) -> &'static str {
                match self { $(Self::$name => $words,)* }
            }
        }
    };
}

stages! {
    Configuration = "read the sandbox's configuration",
    MemoryFiles = "make the memory file system",
    OpenBind = "open a read-only view of a host path",
    JoinNetwork = "enter the network of the sandbox that it is for",
    Clone = "make the namespaces",
    MapIds = "map the user and group ids",
    JoinGroup = "put the sandbox into its control group",
    WatchMemory = "watch the memory of the sandbox's control group",
    Identity = "take the ids of the sandbox",
    Root = "change to the sandbox's root",
    Mount = "attach a path to the sandbox's root",
    Devices = "attach the devices",
    Proc = "mount the process file system",
    Network = "bring the loopback interface up",
    Sockets = "open a socket in the sandbox's network",
    Landlock = "restrict devices and processes to the sandbox's own",
    Privileges = "drop privileges",
    Request = "read a request",
    Table = "start one more process: too many run at once",
    Fork = "start a process",
    Limits = "set the limits of a process",
    User = "become the job's user",
    Secrets = "write a secret into its file",
    Terminal = "open a terminal",
    Directory = "enter the working directory",
    Execute = "execute the program",
    OpenTarget = "open the path in the sandbox",
    ReadStream = "read the archive",
    WriteStream = "write the archive",
    BadArchive = "understand the archive",
    UnsafeName = "accept a name in the archive: it leaves the directory",
    SpecialFile = "unpack a device, pipe or socket",
    TooDeep = "handle so deep a path",
    ReadFile = "read a file of the sandbox",
    WriteFile = "write a file of the sandbox",
}

/// Appends fields to a message.
#[derive(Debug)]
pub(crate) struct Writer<'a, B>(pub(crate) &'a mut B);

impl<B: Extend<u8>> Writer<'_, B> {
    /// A number.
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A large number.
    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// How many records follow.
    pub(crate) fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Any bytes.
    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.count(value.len());
        self.0.extend(value.iter().copied());
        self
    }

    /// Text. One with a NUL inside is refused by the receiver.
    pub(crate) fn text(&mut self, value: &[u8]) -> &mut Self {
        self.texts(&[value])
    }

    /// One text out of several parts.
    pub(crate) fn texts(&mut self, parts: &[&[u8]]) -> &mut Self {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.count(length);
        for part in parts {
            self.0.extend(part.iter().copied());
        }
        self.0.extend([0]);
        self
    }
}

/// Takes fields off a message; nothing when it is too short or malformed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Nothing to read.
    pub(crate) const EMPTY: Self = Self(&[]);

    /// Reads `message` from its start.
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// A number.
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take(4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    }

    /// A large number.
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take(8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    }

    /// Any bytes.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// Text, as the kernel takes it.
    pub(crate) fn text(&mut self) -> Option<&'a CStr> {
        let length = self.u32()? as usize;
        CStr::from_bytes_with_nul(self.take(length.checked_add(1)?)?).ok()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![
            any::<[u32; 3]>().prop_map(|[id, options, size]| Request::Exec { id, options, size }),
            any::<u32>().prop_map(|id| Request::Extract { id }),
            any::<u32>().prop_map(|id| Request::Archive { id }),
            any::<[u32; 2]>().prop_map(|[id, signal]| Request::Signal { id, signal }),
        ]
    }

    proptest! {
        #[test]
        fn a_request_arrives_as_it_was_sent(request in request()) {
            prop_assert_eq!(Request::decode(&request.encode()), Some(request));
        }

        #[test]
        fn what_is_cut_short_or_unknown_is_no_message(packet in prop::collection::vec(any::<u8>(), 0..64)) {
            let known = packet.first_chunk().map_or(u32::MAX, |kind| u32::from_le_bytes(*kind));
            let is_request = packet.len() >= Request::SIZE && known < 4;
            prop_assert_eq!(Request::decode(&packet).is_some(), is_request);
            if Report::decode(&packet).is_some() {
                prop_assert!(packet.len() >= Report::SIZE && known < 5);
            }
        }

        #[test]
        fn texts_and_bytes_are_read_as_they_were_written(
            texts in prop::collection::vec("[^\0]{0,20}", 0..5),
            bytes in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut message = Vec::new();
            let mut writer = Writer(&mut message);
            writer.bytes(&bytes);
            for text in &texts {
                writer.text(text.as_bytes());
            }
            let mut reader = Reader::new(&message);
            prop_assert_eq!(reader.bytes(), Some(&bytes[..]));
            for text in &texts {
                prop_assert_eq!(reader.text().map(CStr::to_bytes), Some(text.as_bytes()));
            }
            prop_assert!(reader.text().is_none());
        }
    }
}
