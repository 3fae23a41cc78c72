//! A tar archive from a job or a repository, as the in-sandbox init reads it: no bytes break the reader, and no name
//! that it yields leaves the folder.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, unused_imports)]
#[path = "../../ci-sandbox/init/tar/mod.rs"]
mod tar;

struct Slice<'a>(&'a [u8]);

impl tar::Source for Slice<'_> {
    type Error = ();

    fn read_full(&mut self, buffer: &mut [u8]) -> Result<usize, ()> {
        let (taken, rest) = self.0.split_at(buffer.len().min(self.0.len()));
        buffer[..taken.len()].copy_from_slice(taken);
        self.0 = rest;
        Ok(taken.len())
    }
}

fuzz_target!(|input: &[u8]| {
    // Chance alone does not find a header's sum.
    let mut archive = input.to_vec();
    for header in archive.chunks_exact_mut(512) {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    }
    for bytes in [input, &archive] {
        let mut reader = Box::new(tar::Reader::new(Slice(bytes)));
        while let Ok(Some(entry)) = reader.next() {
            let target = if entry.kind == tar::Kind::HardLink { entry.link } else { c"" };
            for name in [entry.path, target] {
                let name = name.to_bytes();
                assert!(!name.starts_with(b"/") && name.split(|byte| *byte == b'/').all(|part| part != b".."));
            }
            assert!(entry.mode & !0o777 == 0);
        }
    }
});
