//! Reads the one file of an archive that a sandbox has packed.

/// The content of the first regular file in a tar archive (POSIX.1-1988 "ustar", with the extended headers of
/// POSIX.1-2001 and GNU passed over).
pub(crate) fn first_file(archive: &[u8]) -> Option<&[u8]> {
    const BLOCK: usize = 512;
    let mut rest = archive;
    while rest.len() >= BLOCK && rest[0] != 0 {
        let (header, after) = rest.split_at(BLOCK);
        let size = std::str::from_utf8(&header[124..136]).ok()?;
        let size = usize::from_str_radix(size.trim_matches(['\0', ' ']), 8).ok()?;
        let content = after.get(..size)?;
        if matches!(header[156], b'0' | 0) {
            return Some(content);
        }
        rest = after.get(size.next_multiple_of(BLOCK)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_before_the_file_are_passed_over() {
        let entry = |kind: u8, content: &[u8]| {
            let mut entry = vec![0; 512];
            entry[0] = b'f';
            entry[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
            entry[156] = kind;
            entry.extend_from_slice(content);
            entry.resize(entry.len().next_multiple_of(512), 0);
            entry
        };
        let archive = [entry(b'x', b"12 path=f\n"), entry(b'0', b"hello"), vec![0; 1024]].concat();
        assert_eq!(first_file(&archive), Some(&b"hello"[..]));
        assert_eq!(first_file(&[0; 1024]), None);
        assert_eq!(first_file(&archive[..700]), None);
    }
}
