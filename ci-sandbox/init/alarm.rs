//! Notices when the kernel has ended a process because the sandbox's memory was used up.
//!
//! Version 2 of control groups ends all of a group then (`memory.oom.group`). Version 1 ends the one process that frees
//! most, again and again, and what is left goes on in a state that nobody foresaw: there the launcher ends the rest.

use core::ffi::CStr;

use crate::call::raw;
use crate::nr;
use crate::sys::{self, CWD, Errno, Fd, O_CLOEXEC, O_NONBLOCK, O_WRONLY, Raw, word};
use crate::text::{Digits, Line};

/// A watch on the memory of one control group of version 1.
pub(crate) struct Alarm {
    /// Readable once the memory has been used up.
    event: Fd,
    /// `memory.oom_control`, which counts.
    control: Fd,
}

impl Alarm {
    /// Watches the group at `folder`.
    pub(crate) fn set(folder: &CStr) -> sys::Result<Self> {
        const O_DIRECTORY_PATH: usize = sys::O_PATH | sys::O_DIRECTORY;
        let folder = sys::open(CWD, folder, O_DIRECTORY_PATH, 0)?;
        let control = sys::open(*folder, c"memory.oom_control", 0, 0)?;
        // SAFETY: eventfd2(2) takes numbers only.
        let event = unsafe { raw(nr::EVENTFD2, [0, O_CLOEXEC | O_NONBLOCK, 0, 0, 0, 0]) }?;
        let event = Fd::owned(event as i32);
        // Linux, `Documentation/admin-guide/cgroup-v1/memory.rst`, "OOM Control".
        let [event_number, control_number] =
            [&event, &control].map(|file| Digits::of(file.0.cast_unsigned()));
        let line = Line::new([event_number.get(), control_number.get(), b""]);
        let register = sys::open(*folder, c"cgroup.event_control", O_WRONLY, 0)?;
        sys::write_all(*register, line.get())?;
        Ok(Self { event, control })
    }

    /// What is readable when it rings.
    pub(crate) fn event(&self) -> Raw {
        *self.event
    }

    /// Whether it rang because a process was killed. It rings just before that, so the answer can take a moment.
    pub(crate) fn is_serious(&self) -> bool {
        const LOOKS: usize = 100;
        const MILLISECOND: [u64; 2] = [0, 1_000_000];
        let _ = sys::read(*self.event, &mut [0; 8]);
        for _ in 0..LOOKS {
            if self.has_killed().unwrap_or(true) {
                return true;
            }
            sys::pause(&MILLISECOND);
        }
        // There was enough to be had after all.
        false
    }

    fn has_killed(&self) -> sys::Result<bool> {
        let mut text = [0_u8; 128];
        let buffer = text.as_mut_ptr() as usize;
        // SAFETY: pread64(2) writes at most as many bytes as the buffer has.
        let length = unsafe { raw(nr::PREAD64, [word(self.control.0), buffer, text.len(), 0, 0, 0]) }?;
        let mut lines = text[..length].split(|byte| *byte == b'\n');
        let count = lines.find_map(|line| line.strip_prefix(b"oom_kill ")).ok_or(Errno::EBADMSG)?;
        Ok(count != b"0")
    }
}
