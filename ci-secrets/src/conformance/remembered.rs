//! A value that can be looked for in memory.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};

use ci_core::conformance::skip;
use memchr::memmem::Finder;
use zeroize::Zeroizing;

/// 32 letters that occur nowhere else. Kept as their complement, so that this is no copy of them.
pub(super) struct Remembered([u8; 32]);

impl Remembered {
    /// `None`, and a skip, where a process cannot read its own memory as a file.
    pub(super) fn new() -> Option<Self> {
        if File::open("/proc/self/mem").is_err() {
            skip("no_value_outlives_the_masker", "proc", "a process cannot read its own memory as a file");
            return None;
        }
        let mut complement = [0; 32];
        let mut random = File::open("/dev/urandom").expect("random bytes");
        random.read_exact(&mut complement).expect("random bytes");
        complement = complement.map(|byte| !(b'a' + byte % 26));
        Some(Self(complement))
    }

    /// The value itself; wiped when dropped.
    pub(super) fn bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(32));
        bytes.extend(self.0.iter().map(|byte| !byte));
        bytes
    }

    /// How often it lies in this process's writable memory.
    pub(super) fn copies(&self) -> usize {
        let finder = Finder::new(&self.0);
        let maps = fs::read_to_string("/proc/self/maps").expect("our own maps");
        let ranges = maps.lines().filter(|line| line.contains(" rw")).filter_map(range);
        ranges.map(|(start, end)| copies_between(&finder, start, end)).sum()
    }
}

fn range(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

fn copies_between(complement: &Finder<'_>, start: u64, end: u64) -> usize {
    let mut memory = File::open("/proc/self/mem").expect("our own memory");
    let mut window = Zeroizing::new(vec![0; 31 + 64 * 1024]);
    let (mut copies, mut at) = (0, start);
    while at < end {
        let length = usize::try_from(end - at).map_or(64 * 1024, |left| left.min(64 * 1024));
        if memory.seek(SeekFrom::Start(at)).is_err()
            || memory.read_exact(&mut window[31..31 + length]).is_err()
        {
            break;
        }
        // In place, so that what was just read is no copy itself; the end of the last window lies in front of it.
        window[31..31 + length].iter_mut().for_each(|byte| *byte = !*byte);
        copies += complement.find_iter(&window[..31 + length]).count();
        window.copy_within(length..31 + length, 0);
        at += length as u64;
    }
    copies
}
