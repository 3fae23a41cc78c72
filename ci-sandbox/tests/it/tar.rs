//! The tar format of the init, compiled into a test: what it reads and writes, and that no input breaks it.

#[allow(dead_code)]
#[path = "../../init/tar/mod.rs"]
mod format;
/// The kit's own archives, which other tests make their images of.
#[path = "../../src/conformance/tar.rs"]
mod made;

use std::ffi::CString;

use proptest::collection::vec;
use proptest::prelude::*;

use format::{Entry, Kind, Problem, Reader, Source, write_header};

pub(crate) use made::Archive as Made;
use made::entries;

/// An archive in memory.
struct Slice<'a>(&'a [u8]);

impl Source for Slice<'_> {
    type Error = ();

    fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize, ()> {
        let (taken, rest) = self.0.split_at(buffer.len().min(self.0.len()));
        buffer[..taken.len()].copy_from_slice(taken);
        self.0 = rest;
        Ok(taken.len())
    }
}

/// What an archive holds, as text.
fn listing(bytes: &[u8]) -> Result<Vec<String>, Problem<()>> {
    let mut reader = Box::new(Reader::new(Slice(bytes)));
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        let (kind, mode, size, mtime) = (entry.kind, entry.mode, entry.size, entry.mtime);
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        entries.push(format!("{kind:?} {} {:?} {mode:o} {size} {mtime}", text(entry.path), text(entry.link)));
    }
    Ok(entries)
}

/// Whether an archive holds plain files, folders and links, with names that stay below a folder.
pub(crate) fn is_plain(bytes: &[u8]) -> bool {
    listing(bytes).is_ok_and(|entries| entries.iter().all(|entry| !entry.starts_with("Device")))
}

#[test]
fn what_the_kit_makes_it_reads() {
    let made = Made::new().folder("a").mode(0o755).file("a/b", b"content").symlink("a/l", "b").end();
    let read = entries(&made).unwrap();
    let shown: Vec<_> = read.iter().map(|entry| (entry.path(), entry.kind, entry.content.len())).collect();
    assert_eq!(shown, [("a".to_owned(), b'5', 0), ("a/b".to_owned(), b'0', 7), ("a/l".to_owned(), b'2', 0)]);
    let modes: Vec<_> = read.iter().map(|entry| entry.mode).collect();
    assert_eq!((modes, read[2].link.as_slice()), (vec![0o755; 3], &b"b"[..]));
    assert_eq!(entries(&made[..700]), None);
}

#[test]
fn the_kit_reads_long_names() {
    let pax = |record: &[u8]| {
        let archive = Made::new().entry("x", b'x', "", record).file("short", b"");
        entries(&archive.end()).unwrap()
    };
    assert_eq!(pax(b"13 path=long\n")[0].name, b"long");
    assert_eq!(pax(b"nonsense")[0].name, b"short");
    assert_eq!(pax(b"99 path=long\n")[0].name, b"short");
}

#[test]
fn names_are_made_relative_and_plain() {
    let tar = Made::new().file("./a//b/./c", b"x").folder("d/").folder("./").symlink("l", "../x").end();
    let expected = [
        "File a/b/c \"\" 644 1 0",
        "Directory d \"\" 755 0 0",
        "Directory  \"\" 755 0 0",
        "Symlink l \"../x\" 644 0 0",
    ];
    assert_eq!(listing(&tar).unwrap(), expected);
}

#[test]
fn what_is_refused_is_refused_for_its_reason() {
    let deep = "d/".repeat(45) + "f";
    let pax = |record: &str| Made::new().entry("pax", b'x', "", record.as_bytes()).file("f", b"").end();
    let long = format!("{} path={}\n", 5_000 + 11, "p".repeat(5_000));
    let deep_pax = |count: usize| {
        let name = "d/".repeat(count) + "f";
        let bare = name.len() + 7;
        let length = bare + (bare + 3).to_string().len();
        pax(&format!("{length} path={name}\n"))
    };
    let cases = [
        ("deep but fine", Made::new().file(&deep, b"").end(), Ok(1)),
        ("too deep", deep_pax(400), Err(Problem::TooDeep)),
        ("deep enough", deep_pax(100), Ok(1)),
        ("parent", Made::new().file("a/..", b"").end(), Err(Problem::UnsafeName)),
        ("absolute", Made::new().file("/a", b"").end(), Err(Problem::UnsafeName)),
        ("no name", Made::new().file("", b"").end(), Err(Problem::UnsafeName)),
        ("hard link climbs", Made::new().hard_link("a", "../b").end(), Err(Problem::UnsafeName)),
        ("empty symlink", Made::new().symlink("a", "").end(), Err(Problem::Malformed)),
        ("block device", Made::new().special("a", b'4').end(), Ok(1)),
        ("sparse", Made::new().special("a", b'S').end(), Err(Problem::Special)),
        ("pax sparse", pax("22 GNU.sparse.major=1\n"), Err(Problem::Special)),
        ("pax climbs", pax("13 path=../a\n"), Err(Problem::UnsafeName)),
        ("pax nonsense", pax("999 path=a\n"), Err(Problem::Malformed)),
        ("pax long", pax(&long), Err(Problem::UnsafeName)),
    ];
    for (name, tar, expected) in cases {
        assert_eq!(listing(&tar).map(|entries| entries.len()), expected, "{name}");
    }
}

#[test]
fn large_numbers_have_their_two_forms() {
    let mut tar = Made::new().file("f", b"").end();
    // The size in binary, as GNU tar writes it, with the header's sum made right again.
    tar[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]);
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
    tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    let mut reader = Box::new(Reader::new(Slice(&tar)));
    assert_eq!(reader.next().unwrap().unwrap().size, 1 << 33);
    assert_eq!(reader.next(), Err(Problem::Malformed), "its content is missing");

    let mut written = Vec::new();
    let entry = Entry {
        kind: Kind::File,
        path: c"f",
        link: c"",
        size: 1 << 40,
        owner: (0, 0),
        mode: 0o600,
        mtime: 5,
    };
    write_header(&entry, |block| {
        written.extend_from_slice(block);
        Ok::<_, ()>(())
    })
    .unwrap();
    let mut reader = Box::new(Reader::new(Slice(&written)));
    assert_eq!(reader.next().unwrap().unwrap(), entry);
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let part = vec(prop_oneof![1_u8..=46, 48_u8..=255], 1..60)
        .prop_filter("a name of its own", |part| part != b"." && part != b"..");
    vec(part, 1..6).prop_map(|parts| parts.join(&b'/'))
}

proptest! {
    // Making up bytes is slow without optimisation; a longer run sets PROPTEST_CASES.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_again(
        entries in vec((0_usize..4, name(), name(), vec(any::<u8>(), 0..600), 0_u32..0o1000, 0_i64..1 << 33), 0..5)
    ) {
        let mut tar = Vec::new();
        let mut expected = Vec::new();
        for (kind, path, link, content, mode, mtime) in &entries {
            let kind = [Kind::File, Kind::Directory, Kind::Symlink, Kind::HardLink][*kind];
            let (content, link) = match kind {
                Kind::File => (content.as_slice(), c"".to_owned()),
                Kind::Directory | Kind::Device => (&[][..], c"".to_owned()),
                Kind::Symlink | Kind::HardLink => (&[][..], CString::new(link.clone()).unwrap()),
            };
            let path = CString::new(path.clone()).unwrap();
            let (size, mode, mtime) = (content.len() as u64, *mode, *mtime);
            let entry = Entry { kind, path: &path, link: &link, size, owner: (0, 0), mode, mtime };
            write_header(&entry, |block| { tar.extend_from_slice(block); Ok::<_, ()>(()) }).unwrap();
            tar.extend_from_slice(content);
            tar.resize(tar.len().next_multiple_of(512), 0);
            expected.push((kind, path, link, content.to_vec(), mode, mtime));
        }
        tar.extend([0; 1024]);
        let mut reader = Box::new(Reader::new(Slice(&tar)));
        for (kind, path, link, content, mode, mtime) in expected {
            let entry = reader.next().unwrap().unwrap();
            let size = content.len() as u64;
            prop_assert_eq!(entry, Entry { kind, path: &path, link: &link, size, owner: (0, 0), mode, mtime });
            let mut read = std::vec![0; content.len()];
            prop_assert_eq!(reader.read(&mut read), Ok(content.len()));
            prop_assert_eq!(read, content);
        }
        prop_assert_eq!(reader.next(), Ok(None));
    }

    #[test]
    fn no_input_breaks_it_and_no_name_leaves(
        mut tar in vec(prop_oneof![Just(0_u8), any::<u8>(), Just(b'.'), Just(b'/')], 0..1600),
        kind in prop_oneof![Just(b'x'), Just(b'L'), Just(b'K'), Just(b'0'), Just(b'1'), Just(b'2'), Just(b'5')],
        size in 0_usize..1200,
    ) {
        // A header that is right as far as the sum goes, so that the noise behind it is looked at.
        if tar.len() >= 512 {
            tar[156] = kind;
            tar[100..108].copy_from_slice(b"0000644\0");
            tar[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
            tar[148..156].fill(b' ');
            let sum: u32 = tar[..512].iter().map(|byte| u32::from(*byte)).sum();
            tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        }
        let mut reader = Box::new(Reader::new(Slice(&tar)));
        while let Ok(Some(entry)) = reader.next() {
            let hard = if entry.kind == Kind::HardLink { entry.link } else { c"x" };
            for name in [entry.path, hard] {
                let name = name.to_bytes();
                prop_assert!(!name.starts_with(b"/"));
                prop_assert!(name.split(|byte| *byte == b'/').all(|part| part != b".." && part != b"."));
            }
        }
    }

    #[test]
    fn a_pax_record_is_taken_apart_or_refused(record in "[0-9]{0,3} ?[a-z]{0,8}=?[a-z./]{0,30}\n?") {
        let tar = Made::new().entry("pax", b'x', "", record.as_bytes()).file("f", b"x").end();
        if let Ok(entries) = listing(&tar) {
            prop_assert_eq!(entries.len(), 1);
        }
    }
}
