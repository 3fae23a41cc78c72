//! Tar archives in memory: ustar, with the long names of pax (POSIX.1-2024, `pax`).

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};

const BLOCK: usize = 512;

/// The content of an archive.
#[derive(Clone, Debug, Default)]
pub(super) struct Archive {
    pub(super) entries: Vec<Entry>,
}

/// One member of an archive.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) content: Content,
}

/// What a member is.
#[derive(Clone, Debug)]
pub(super) enum Content {
    File(Bytes),
    Folder,
    /// A symbolic link to this target.
    Link(String),
}

impl Content {
    /// How many bytes it holds.
    pub(super) fn size(&self) -> u64 {
        if let Self::File(bytes) = self { bytes.len() as u64 } else { 0 }
    }
}

impl Archive {
    /// Writes the archive.
    pub(super) fn to_bytes(&self) -> Bytes {
        let mut out = Vec::new();
        for Entry { name, content } in &self.entries {
            let (kind, target, body): (u8, &str, &[u8]) = match content {
                Content::File(bytes) => (b'0', "", bytes),
                Content::Folder => (b'5', "", &[]),
                Content::Link(target) => (b'2', target, &[]),
            };
            let records = [("path", name.as_str()), ("linkpath", target)];
            let long: Vec<u8> =
                records.into_iter().filter(|(_, text)| text.len() > 100).flat_map(pax).collect();
            if !long.is_empty() {
                member(&mut out, b'x', "pax", "", &long);
            }
            member(&mut out, kind, name, target, body);
        }
        out.resize(out.len() + 2 * BLOCK, 0);
        out.into()
    }

    /// Reads an archive.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for what is no archive, or holds something other than files, folders and symbolic
    /// links.
    pub(super) fn parse(tar: &[u8]) -> Result<Self> {
        let (mut rest, mut archive, mut long) = (tar, Self::default(), Long::default());
        loop {
            let (header, after) = rest.split_at_checked(BLOCK).ok_or_else(|| invalid("it is cut short"))?;
            if header.iter().all(|byte| *byte == 0) {
                return Ok(archive);
            }
            if octal(&header[148..156]) != Some(checksum(header)) {
                return Err(invalid("a header's checksum is wrong"));
            }
            let size = long.size.take().map_or_else(|| octal(&header[124..136]), Some);
            let size = size
                .and_then(|size| usize::try_from(size).ok())
                .ok_or_else(|| invalid("a size is no number"))?;
            let padded =
                size.checked_next_multiple_of(BLOCK).ok_or_else(|| invalid("a size is too large"))?;
            let (body, next) = after.split_at_checked(padded).ok_or_else(|| invalid("it is cut short"))?;
            let body = &body[..size];
            rest = next;
            match header[156] {
                b'x' => long.read(body)?,
                b'g' => {}
                b'L' => long.path = Some(text(body)?),
                kind => {
                    let name = long.path.take().map_or_else(|| name(header), Ok)?;
                    let link = long.link.take();
                    archive.entries.push(Entry { name, content: content(kind, header, link, body)? });
                }
            }
        }
    }
}

fn content(kind: u8, header: &[u8], link: Option<String>, body: &[u8]) -> Result<Content> {
    match kind {
        b'0' | 0 => Ok(Content::File(Bytes::copy_from_slice(body))),
        b'5' => Ok(Content::Folder),
        b'2' => Ok(Content::Link(link.map_or_else(|| text(&header[157..257]), Ok)?)),
        _ => Err(invalid("it holds something other than files, folders and symbolic links")),
    }
}

/// What a pax header says of the next member.
#[derive(Default)]
struct Long {
    path: Option<String>,
    link: Option<String>,
    size: Option<u64>,
}

impl Long {
    /// Reads records of the form `length key=value\n`, the length counting all of it.
    fn read(&mut self, mut body: &[u8]) -> Result<()> {
        while !body.is_empty() {
            let bad = || invalid("a pax record is wrong");
            let space = body.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
            let length: usize = text(&body[..space])?.parse().map_err(|_| bad())?;
            let record =
                body.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(bad)?;
            let record = text(record)?;
            match record.split_once('=').ok_or_else(bad)? {
                ("path", path) => self.path = Some(path.to_owned()),
                ("linkpath", link) => self.link = Some(link.to_owned()),
                ("size", size) => self.size = Some(size.parse().map_err(|_| bad())?),
                _ => {}
            }
            body = &body[length..];
        }
        Ok(())
    }
}

fn member(out: &mut Vec<u8>, kind: u8, name: &str, target: &str, body: &[u8]) {
    let mut header = [0; BLOCK];
    put(&mut header[..100], name);
    let mode = if kind == b'5' { "0000755" } else { "0000644" };
    for (place, text) in [(100, mode), (108, "0000000"), (116, "0000000"), (136, "00000000000")] {
        put(&mut header[place..place + 12], text);
    }
    put(&mut header[124..136], &format!("{:011o}", body.len()));
    header[156] = kind;
    put(&mut header[157..257], target);
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum = format!("{:06o}\0 ", checksum(&header));
    put(&mut header[148..156], &sum);
    out.extend_from_slice(&header);
    out.extend_from_slice(body);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

fn pax((key, value): (&str, &str)) -> Vec<u8> {
    let without_length = key.len() + value.len() + " =\n".len();
    // The length counts its own digits.
    let mut length = without_length;
    while length != without_length + length.to_string().len() {
        length = without_length + length.to_string().len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}

fn put(field: &mut [u8], text: &str) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
}

fn checksum(header: &[u8]) -> u64 {
    let without_itself =
        header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    without_itself.map(u64::from).sum()
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits = text(field).ok()?;
    u64::from_str_radix(digits.trim_matches(' '), 8).ok()
}

fn name(header: &[u8]) -> Result<String> {
    let (name, prefix) = (text(&header[..100])?, text(&header[345..500])?);
    Ok(if prefix.is_empty() { name } else { format!("{prefix}/{name}") })
}

/// A field up to its first zero byte.
fn text(field: &[u8]) -> Result<String> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let text = std::str::from_utf8(&field[..end]);
    text.map(str::to_owned).map_err(|_| invalid("a name is not UTF-8"))
}

fn invalid(why: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, "read a tar archive").because(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let entry = |name: &str, content| Entry { name: name.to_owned(), content };
        let entries = vec![
            entry("work", Content::Folder),
            entry("work/a", Content::File(Bytes::from(vec![7; 513]))),
            entry(&format!("work/{}", "x".repeat(200)), Content::Link("a".repeat(150))),
        ];
        let archive = Archive { entries };
        let read = Archive::parse(&archive.to_bytes()).expect("an archive");
        assert_eq!(format!("{read:?}"), format!("{archive:?}"));
    }

    #[test]
    fn what_is_cut_short_or_changed_is_no_archive() {
        let entries =
            vec![Entry { name: "a".to_owned(), content: Content::File(Bytes::from_static(b"content")) }];
        let tar = Archive { entries }.to_bytes();
        for length in [0, 1, BLOCK, BLOCK + 1, 2 * BLOCK] {
            assert!(Archive::parse(&tar[..length]).is_err(), "{length}");
        }
        let mut changed = tar.to_vec();
        changed[0] = b'b';
        assert!(Archive::parse(&changed).is_err());
    }
}
