//! What the supervisor and the programs inside a sandbox say to each other.
//!
//! The format is private to one build: both ends are compiled from this file, so there are no versions.
//! Numbers are little-endian; text is a length, the bytes, and a NUL that is not counted, so that the
//! receiver can hand it to the kernel in place.

mod configuration;
mod fields;
mod stage;

pub(crate) use configuration::{Configuration, List, Socket, mount};
pub(crate) use fields::{Reader, Writer};
pub(crate) use stage::Stage;

/// The most bytes of one configuration: it travels as a single packet.
pub(crate) const CONFIG_LIMIT: usize = 128 * 1024;

/// The most bytes of one request's body, which travels in a memory file.
pub(crate) const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// The most sockets that can be made in one sandbox: they travel in one packet (`SCM_MAX_FD` of Linux is 253).
pub(crate) const MOST_SOCKETS: usize = 240;

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
            Just(Request::Measure),
        ]
    }

    fn report() -> impl Strategy<Value = Report> {
        prop_oneof![
            any::<[u32; 2]>().prop_map(|[pid, facts]| Report::Launched { pid, facts }),
            any::<u32>().prop_map(|facts| Report::Ready { facts }),
            (any::<prop::sample::Index>(), any::<i32>(), any::<u32>()).prop_map(|(stage, errno, item)| {
                Report::Failed { stage: *stage.get(Stage::ALL), errno, item }
            }),
            (any::<[u32; 2]>(), any::<[u64; 3]>()).prop_map(
                |([how, status], [user_us, system_us, max_rss_kib])| {
                    Report::Ended(Ended { how, status, user_us, system_us, max_rss_kib })
                }
            ),
            any::<u64>().prop_map(|files| Report::Measured { files }),
            Just(Report::Terminal),
        ]
    }

    proptest! {
        #[test]
        fn what_is_said_arrives_as_it_was_sent(request in request(), report in report()) {
            prop_assert_eq!(Request::decode(&request.encode()), Some(request));
            prop_assert_eq!(Report::decode(&report.encode()), Some(report));
        }

        #[test]
        fn what_is_cut_short_or_unknown_is_no_message(
            kind in 0..8_u32,
            rest in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let packet = [&kind.to_le_bytes(), &*rest].concat();
            let is_request = packet.len() >= Request::SIZE && kind < 5;
            prop_assert_eq!(Request::decode(&packet).is_some(), is_request);
            if Report::decode(&packet).is_some() {
                prop_assert!(packet.len() >= Report::SIZE && kind < 6);
            }
        }
    }
}
