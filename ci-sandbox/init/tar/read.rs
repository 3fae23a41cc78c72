//! Archives in: entry by entry, checked before anybody sees them.

use super::block::{Block, decimal, number, seconds, until_nul};
use super::name::Name;
use super::{BLOCK, Entry, Kind, padding};

/// The longest extended header.
const LONGEST_EXTENSION: usize = 16 * 1024;

/// Why an archive is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem<E> {
    /// It could not be read.
    Source(E),
    /// It is no archive, or cut short.
    Malformed,
    /// A name is absolute, has a `..`, or is longer than a path can be.
    UnsafeName,
    /// A name has too many folders.
    TooDeep,
    /// A sparse file, or something unknown.
    Special,
}

/// Where an archive comes from.
pub(crate) trait Source {
    /// What can go wrong.
    type Error;

    /// Fills the buffer as far as the stream goes.
    fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize, Self::Error>;
}

/// Reads an archive entry by entry.
#[derive(Debug)]
pub(crate) struct Reader<S> {
    source: S,
    path: Name,
    link: Name,
    /// Content of the last entry that nobody has read yet.
    rest: u64,
    /// What fills its last block.
    padding: u64,
    extension: [u8; LONGEST_EXTENSION],
}

/// What extended headers said about the next entry.
#[derive(Default)]
struct Extended {
    path: bool,
    link: bool,
    size: Option<u64>,
    mtime: Option<i64>,
    owner: (Option<u32>, Option<u32>),
}

impl<S: Source> Reader<S> {
    /// Starts to read.
    pub(crate) fn new(source: S) -> Self {
        let extension = [0; LONGEST_EXTENSION];
        Self { source, path: Name::EMPTY, link: Name::EMPTY, rest: 0, padding: 0, extension }
    }

    /// Where the archive comes from, read up to the end of the last header or content.
    #[allow(dead_code)] // The supervisor's half of it.
    pub(crate) fn source(&self) -> &S {
        &self.source
    }

    /// The next entry, or nothing at the end. Content of the last one that was not read is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry<'_>>, Problem<S::Error>> {
        self.skip_rest()?;
        let mut extended = Extended::default();
        let header = loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let size = number(&header.0[124..136]).ok_or(Problem::Malformed)?;
            match header.0[156] {
                b'x' => {
                    let length = self.read_extension(size)?;
                    self.learn(length, &mut extended)?;
                }
                // It speaks of all entries; none of what it may say concerns this reader.
                b'g' => drop(self.read_extension(size)?),
                b'L' => {
                    let length = self.read_extension(size)?;
                    self.path.set(until_nul(&self.extension[..length]))?;
                    extended.path = true;
                }
                b'K' => {
                    let length = self.read_extension(size)?;
                    self.link.set(until_nul(&self.extension[..length]))?;
                    extended.link = true;
                }
                _ => break header,
            }
        };
        self.entry(&header, &extended).map(Some)
    }

    /// Reads content of the entry; 0 is its end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Problem<S::Error>> {
        let wanted = usize::try_from(self.rest).unwrap_or(usize::MAX).min(buffer.len());
        self.fill(wanted, buffer)?;
        self.rest -= wanted as u64;
        Ok(wanted)
    }

    fn fill(&mut self, wanted: usize, buffer: &mut [u8]) -> Result<(), Problem<S::Error>> {
        match self.source.read_full(&mut buffer[..wanted]) {
            Ok(read) if read == wanted => Ok(()),
            Ok(_) => Err(Problem::Malformed),
            Err(error) => Err(Problem::Source(error)),
        }
    }

    fn skip_rest(&mut self) -> Result<(), Problem<S::Error>> {
        let mut block = [0; BLOCK];
        let mut left = self.rest + self.padding;
        (self.rest, self.padding) = (0, 0);
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(BLOCK).min(BLOCK);
            self.fill(wanted, &mut block)?;
            left -= wanted as u64;
        }
        Ok(())
    }

    /// The next header; nothing at the end mark or where the stream ends between two entries.
    fn header(&mut self) -> Result<Option<Block>, Problem<S::Error>> {
        let mut block = Block([0; BLOCK]);
        match self.source.read_full(&mut block.0).map_err(Problem::Source)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(Problem::Malformed),
        }
        if block.0.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let stated = number(&block.0[148..156]);
        if stated == Some(u64::from(block.checksum())) { Ok(Some(block)) } else { Err(Problem::Malformed) }
    }

    fn read_extension(&mut self, size: u64) -> Result<usize, Problem<S::Error>> {
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        if length > LONGEST_EXTENSION {
            return Err(Problem::Malformed);
        }
        match self.source.read_full(&mut self.extension[..length]).map_err(Problem::Source)? {
            read if read == length => {}
            _ => return Err(Problem::Malformed),
        }
        self.padding = padding(size);
        self.skip_rest()?;
        Ok(length)
    }

    /// Takes the records `length key=value\n` of an extended header.
    fn learn(&mut self, length: usize, extended: &mut Extended) -> Result<(), Problem<S::Error>> {
        let mut left = &self.extension[..length];
        while !left.is_empty() {
            let (key, value, rest) = record(left).ok_or(Problem::Malformed)?;
            left = rest;
            match key {
                b"path" => {
                    self.path.set(value)?;
                    extended.path = true;
                }
                b"linkpath" => {
                    self.link.set(value)?;
                    extended.link = true;
                }
                b"size" => extended.size = Some(decimal(value).ok_or(Problem::Malformed)?),
                b"uid" => extended.owner.0 = decimal(value).and_then(|id| u32::try_from(id).ok()),
                b"gid" => extended.owner.1 = decimal(value).and_then(|id| u32::try_from(id).ok()),
                b"mtime" => extended.mtime = seconds(value),
                _ if key.starts_with(b"GNU.sparse.") => return Err(Problem::Special),
                _ => {}
            }
        }
        Ok(())
    }

    fn entry(&mut self, header: &Block, extended: &Extended) -> Result<Entry<'_>, Problem<S::Error>> {
        let bytes = &header.0;
        if !extended.path {
            self.path.clear();
            // The old GNU format, `ustar ` with a space, uses the place of the prefix otherwise.
            if &bytes[257..263] == b"ustar\0" && bytes[345] != 0 {
                self.path.push(until_nul(&bytes[345..500]))?;
                self.path.push(b"/")?;
            }
            self.path.push(until_nul(&bytes[..100]))?;
        }
        if !extended.link {
            self.link.set(until_nul(&bytes[157..257]))?;
        }
        let kind = match bytes[156] {
            // Before POSIX, a folder was a file whose name ends with a slash.
            0 | b'0' | b'7' if self.path.get().ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'5' => Kind::Directory,
            b'3' | b'4' | b'6' => Kind::Device,
            _ => return Err(Problem::Special),
        };
        self.path.tidy()?;
        match kind {
            Kind::HardLink => self.link.tidy()?,
            Kind::Symlink if !self.link.get().is_empty() => {}
            Kind::Symlink => return Err(Problem::Malformed),
            Kind::File | Kind::Directory | Kind::Device => self.link.clear(),
        }
        if self.path.get().is_empty() && kind != Kind::Directory {
            return Err(Problem::UnsafeName);
        }
        let stated = number(&bytes[124..136]).ok_or(Problem::Malformed)?;
        // Only files have content, whatever the header of another entry says.
        let size = if kind == Kind::File { extended.size.unwrap_or(stated) } else { 0 };
        if size > i64::MAX as u64 {
            return Err(Problem::Malformed);
        }
        self.rest = size;
        self.padding = padding(size);
        let mtime = number(&bytes[136..148]).and_then(|seconds| i64::try_from(seconds).ok());
        Ok(Entry {
            kind,
            path: self.path.as_c_str(),
            link: self.link.as_c_str(),
            size,
            owner: (
                extended.owner.0.unwrap_or_else(|| id(&bytes[108..116])),
                extended.owner.1.unwrap_or_else(|| id(&bytes[116..124])),
            ),
            mode: (number(&bytes[100..108]).unwrap_or(0) & 0o777) as u32,
            mtime: extended.mtime.or(mtime).unwrap_or(0),
        })
    }
}

/// The number of a user or group; what is none stands for nobody.
fn id(field: &[u8]) -> u32 {
    number(field).and_then(|id| u32::try_from(id).ok()).unwrap_or(u32::MAX)
}

/// Splits the first record off an extended header: key, value, rest.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let text = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = text.iter().position(|byte| *byte == b'=')?;
    Some((&text[..equals], &text[equals + 1..], rest))
}
