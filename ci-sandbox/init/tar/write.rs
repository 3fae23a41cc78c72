//! Archives out: headers in the form that every reader knows.

use super::block::Block;
use super::{BLOCK, Entry, Kind};

/// Hands the header of `entry` to `sink` in whole blocks, with an extended header where it takes one.
pub(crate) fn write_header<E>(
    entry: &Entry<'_>,
    mut sink: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    /// The most that eleven octal digits can say.
    const LARGEST: u64 = (1 << 33) - 1;
    let (path, link) = (entry.path.to_bytes(), entry.link.to_bytes());
    let mut digits = [0; 20];
    let size = digits_of(entry.size, &mut digits);
    let records: [(&[u8], &[u8], bool); 3] = [
        (b"path", path, path.len() > 100),
        (b"linkpath", link, link.len() > 100),
        (b"size", size, entry.size > LARGEST),
    ];
    let length: usize =
        records.iter().filter(|(.., needed)| *needed).map(|(key, value, _)| record_length(key, value)).sum();
    if length > 0 {
        sink(&Block::new(b"pax", b"", b'x', 0o644, length as u64, 0).0)?;
        let mut blocks = Blocks { block: [0; BLOCK], filled: 0 };
        for (key, value, _) in records.iter().filter(|(.., needed)| *needed) {
            let mut digits = [0; 20];
            let length = digits_of(record_length(key, value) as u64, &mut digits);
            for part in [length, b" ", key, b"=", value, b"\n"] {
                blocks.push(part, &mut sink)?;
            }
        }
        blocks.finish(&mut sink)?;
    }
    let kind = match entry.kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::Device => b'3',
        Kind::Directory => b'5',
    };
    sink(&Block::new(path, link, kind, entry.mode, entry.size.min(LARGEST), entry.mtime).0)
}

/// Cuts a stream of pieces into blocks.
struct Blocks {
    block: [u8; BLOCK],
    filled: usize,
}

impl Blocks {
    fn push<E>(&mut self, bytes: &[u8], sink: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        for byte in bytes {
            self.block[self.filled] = *byte;
            self.filled += 1;
            if self.filled == BLOCK {
                self.finish(sink)?;
            }
        }
        Ok(())
    }

    fn finish<E>(&mut self, sink: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        if self.filled > 0 {
            sink(&self.block)?;
            *self = Self { block: [0; BLOCK], filled: 0 };
        }
        Ok(())
    }
}

/// The length of a record, which counts its own digits.
fn record_length(key: &[u8], value: &[u8]) -> usize {
    let bare = key.len() + value.len() + 3;
    let mut length = bare + 1;
    let mut digits = [0; 20];
    while bare + digits_of(length as u64, &mut digits).len() != length {
        length += 1;
    }
    length
}

fn digits_of(mut value: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[start..];
        }
    }
}
