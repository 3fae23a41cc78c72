//! One header: 512 bytes of text and numbers.

use super::BLOCK;

/// One header.
pub(super) struct Block(pub(super) [u8; BLOCK]);

impl Block {
    pub(super) fn new(path: &[u8], link: &[u8], kind: u8, mode: u32, size: u64, mtime: i64) -> Self {
        let mut block = Self([0; BLOCK]);
        let bytes = &mut block.0;
        copy_start(path, &mut bytes[..100]);
        octal(u64::from(mode & 0o777), &mut bytes[100..108]);
        octal(0, &mut bytes[108..116]);
        octal(0, &mut bytes[116..124]);
        octal(size, &mut bytes[124..136]);
        octal(u64::try_from(mtime).unwrap_or(0), &mut bytes[136..148]);
        bytes[156] = kind;
        copy_start(link, &mut bytes[157..257]);
        bytes[257..265].copy_from_slice(b"ustar\x0000");
        let checksum = block.checksum();
        octal(u64::from(checksum), &mut block.0[148..156]);
        block
    }

    /// The sum of all bytes, those of the sum itself taken as spaces.
    pub(super) fn checksum(&self) -> u32 {
        let byte = |(index, byte): (usize, &u8)| if (148..156).contains(&index) { b' ' } else { *byte };
        self.0.iter().enumerate().map(byte).map(u32::from).sum()
    }
}

fn copy_start(from: &[u8], to: &mut [u8]) {
    let length = from.len().min(to.len());
    to[..length].copy_from_slice(&from[..length]);
}

/// Writes octal digits that fill the field up to its final NUL.
fn octal(mut value: u64, field: &mut [u8]) {
    let last = field.len() - 1;
    for place in field[..last].iter_mut().rev() {
        *place = b'0' + (value & 7) as u8;
        value >>= 3;
    }
}

/// A number of a header: octal digits, or as GNU tar writes large ones, binary after a first byte of 0x80.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = (field[0] & 0x7f, &field[1..]);
        let (high, low) = rest.split_at(rest.len().checked_sub(8)?);
        let fits = first == 0 && high.iter().all(|byte| *byte == 0);
        return fits.then(|| low.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)));
    }
    let text = until_nul(field).trim_ascii();
    text.iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// A time with a sign and a fraction, cut to seconds.
pub(super) fn seconds(text: &[u8]) -> Option<i64> {
    let whole = text.split(|byte| *byte == b'.').next()?;
    match whole.strip_prefix(b"-") {
        Some(before) => i64::try_from(decimal(before)?).ok().map(|value| -value),
        None => i64::try_from(decimal(whole)?).ok(),
    }
}

pub(super) fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or(field)
}
