//! Archives that a case makes up, hostile ones too, and what is in those that come back (POSIX.1-2001 "pax", and GNU's
//! long names).

const BLOCK: usize = 512;

/// An archive in the making.
#[derive(Debug)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::new(), mode: 0o644, owner: (0, 0) }
    }

    /// The mode of all entries from here on.
    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// The owner of all entries from here on.
    pub(crate) fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = (uid, gid);
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(name, b'0', "", content)
    }

    /// A folder, which whoever may read it may enter.
    pub(crate) fn folder(mut self, name: &str) -> Self {
        let mode = self.mode;
        self.mode |= (mode & 0o444) >> 2;
        self.entry(name, b'5', "", b"").mode(mode)
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(name, b'2', target, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(name, b'1', target, b"")
    }

    /// An entry of any kind; devices have the numbers of the machine's memory.
    pub(crate) fn special(self, name: &str, kind: u8) -> Self {
        self.entry(name, kind, "", b"")
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.bytes.extend([0; 2 * BLOCK]);
        self.bytes
    }

    /// An entry with all that one has.
    pub(crate) fn entry(mut self, name: &str, kind: u8, link: &str, content: &[u8]) -> Self {
        let mut header = [0; BLOCK];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(format!("{:07o}", self.mode).as_bytes());
        header[108..115].copy_from_slice(format!("{:07o}", self.owner.0).as_bytes());
        header[116..123].copy_from_slice(format!("{:07o}", self.owner.1).as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[329..336].copy_from_slice(b"0000001");
        header[337..344].copy_from_slice(b"0000001");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.bytes.extend(header);
        self.bytes.extend(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self
    }
}

/// One entry of an archive that came back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) link: Vec<u8>,
    pub(crate) content: Vec<u8>,
}

impl Entry {
    /// Its name as text, without the slash that ends a folder's.
    pub(crate) fn path(&self) -> String {
        String::from_utf8_lossy(&self.name).trim_end_matches('/').trim_start_matches("./").to_owned()
    }
}

/// The entries of an archive; nothing where it is none.
pub(crate) fn entries(archive: &[u8]) -> Option<Vec<Entry>> {
    let (mut rest, mut entries) = (archive, Vec::new());
    let (mut long_name, mut long_link) = (None, None);
    while rest.first().is_some_and(|byte| *byte != 0) {
        let (header, after) = rest.split_at_checked(BLOCK)?;
        let size = usize::try_from(octal(&header[124..136])?).ok()?;
        let content = after.get(..size)?;
        rest = after.get(size.next_multiple_of(BLOCK)..)?;
        match header[156] {
            b'L' => long_name = Some(until_nul(content).to_vec()),
            b'K' => long_link = Some(until_nul(content).to_vec()),
            b'x' => {
                let mut records = content;
                while let Some([name, value, after]) = record(records) {
                    match name {
                        b"path" => long_name = Some(value.to_vec()),
                        b"linkpath" => long_link = Some(value.to_vec()),
                        _ => {}
                    }
                    records = after;
                }
            }
            b'g' => {}
            kind => {
                let short = match until_nul(&header[345..500]) {
                    [] => until_nul(&header[..100]).to_vec(),
                    prefix => [prefix, b"/", until_nul(&header[..100])].concat(),
                };
                entries.push(Entry {
                    name: long_name.take().unwrap_or(short),
                    kind: if kind == 0 { b'0' } else { kind },
                    mode: u32::try_from(octal(&header[100..108])?).ok()?,
                    link: long_link.take().unwrap_or_else(|| until_nul(&header[157..257]).to_vec()),
                    content: content.to_vec(),
                });
            }
        }
    }
    Some(entries)
}

/// The first record of an extended header, `LENGTH NAME=VALUE\n`: name, value, and what follows.
fn record(bytes: &[u8]) -> Option<[&[u8]; 3]> {
    let space = bytes.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..length.checked_sub(1)?)?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some([&record[..equals], &record[equals + 1..], &bytes[length..]])
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len())]
}
