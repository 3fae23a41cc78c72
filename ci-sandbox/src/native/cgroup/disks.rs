//! The machine's disks: which there are, and whether files lie on them.

use std::fs;
use std::path::Path;

use rustix::fs::{FsWord, major, stat, statfs};

/// `TMPFS_MAGIC`, `RAMFS_MAGIC`: memory, which nobody reads from a disk.
const IN_MEMORY: [FsWord; 2] = [0x0102_1994, 0x8584_58f6];
/// `BTRFS_SUPER_MAGIC`: its files have device numbers of its own, and lie on disks all the same.
const ON_DISKS: FsWord = 0x9123_683e;

/// The numbers of the disks below `block`, as control groups name them. What has no size holds nothing to be read.
pub(super) fn numbers(block: &Path) -> Vec<String> {
    let disks = fs::read_dir(block).into_iter().flatten().flatten().map(|disk| disk.path());
    let read = |file: std::path::PathBuf| fs::read_to_string(file).map(|text| text.trim().to_owned());
    let holds_something = |disk: &std::path::PathBuf| read(disk.join("size")).is_ok_and(|size| size != "0");
    disks.filter(holds_something).filter_map(|disk| read(disk.join("dev")).ok()).collect()
}

/// Whether reading the file or folder `path` is reading from this machine's disks, or from none.
pub(in super::super) fn hold(path: &Path) -> Result<(), String> {
    let unknown =
        |what: &str| format!("{what}: {}; keep images on one of the machine's disks", path.display());
    let found = stat(path).and_then(|file| Ok((file, statfs(path)?)));
    let (file, system) = found.map_err(|_| unknown("nobody can tell on which disk this is"))?;
    let kind = system.f_type;
    if major(file.st_dev) != 0 || kind == ON_DISKS || IN_MEMORY.contains(&kind) {
        return Ok(());
    }
    Err(unknown("what is read of this file system is no reading from disks to the kernel"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_disks_that_hold_something_are_named() {
        let block = tempfile::tempdir().unwrap();
        for (name, size, number) in
            [("sda", "536870912\n", "8:0\n"), ("loop0", "0\n", "7:0\n"), ("sr0", "0\n", "11:0\n")]
        {
            let disk = block.path().join(name);
            fs::create_dir(&disk).unwrap();
            fs::write(disk.join("size"), size).unwrap();
            fs::write(disk.join("dev"), number).unwrap();
        }
        // A path of several to one disk: nobody can open it.
        fs::create_dir(block.path().join("nvme0c0n1")).unwrap();
        fs::write(block.path().join("nvme0c0n1/size"), "100\n").unwrap();
        assert_eq!(numbers(block.path()), ["8:0"]);
    }

    #[test]
    fn what_the_kernel_makes_up_lies_on_no_disk() {
        assert!(hold(Path::new("/proc/self")).unwrap_err().contains("/proc/self"));
        assert!(hold(Path::new("/no/such/folder")).is_err());
    }
}
