//! Layers into one folder, as "Applying Changesets" of the OCI image-spec says.
//!
//! A layer comes from a stranger and is unpacked with the rights of this process. So nothing is done by path: the folder
//! that an entry lies in is opened with openat2(2), for which the image's root is `/` and every link ends inside, and
//! what stands at the entry's name there is removed, never followed and never written into. No depth of folders takes
//! more of the stack, and nothing is made that could carry privileges: no devices, no set-user-id, no attributes.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use ci_core::Result;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, chownat,
    fchmod, fchown, futimens, linkat, mkdirat, openat, openat2, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::super::files::FILES;
use super::super::tar::{self, Entry, Kind};
use super::archive::Stream;
use super::refusal::{Refusal, refused_archive, refused_entry, too_large};
use super::store::Workshop;
use super::{trash, unusable_store};

const WHITEOUT: &[u8] = b".wh.";
/// Hides all that lower layers have in its folder.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What a union file system of old kept for itself.
const AUFS: &[u8] = b".wh..wh.";

/// Ids above are shown as nobody's in a sandbox.
const HIGHEST_ID: u32 = 65_535;
const NOBODY: u32 = 65_534;

/// Makes an image's root out of its layers.
#[derive(Debug)]
pub(super) struct Unpacker {
    root: OwnedFd,
    removed: OwnedFd,
    /// How many have been removed since `removed` was emptied; their names there.
    removals: u64,
    /// Whether files can have the owners that the image gives them.
    keep_owners: bool,
    entries_left: u64,
    /// The inodes that the layer at hand has made or named.
    of_this_layer: HashSet<u64>,
}

/// Where an entry goes.
struct Place {
    folder: OwnedFd,
    name: CString,
}

impl Unpacker {
    /// Starts with an empty root; no more than `entries` entries are taken, the folders that lead to them included.
    pub(super) fn new(workshop: &Workshop, entries: u64, keep_owners: bool) -> io::Result<Self> {
        let open = |path: &Path| openat(CWD, path, FOLDER | OFlags::RDONLY, Mode::empty());
        Ok(Self {
            root: open(&workshop.root)?,
            removed: open(&workshop.removed)?,
            removals: 0,
            keep_owners,
            entries_left: entries,
            of_this_layer: HashSet::new(),
        })
    }

    /// Applies one layer.
    pub(super) fn layer(&mut self, layer: impl Read) -> Result<()> {
        self.of_this_layer.clear();
        let mut archive = Box::new(tar::Reader::new(Stream(layer)));
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let Some(entry) = archive.next().map_err(refused_archive)? else { break };
            self.count_one()?;
            let name = entry.path.to_owned();
            let made = self.entry(&entry).map_err(|refusal| refused_entry(refusal, &name))?;
            let Some((mut file, meta)) = made else { continue };
            loop {
                match archive.read(&mut buffer).map_err(refused_archive)? {
                    0 => break,
                    read => file.write_all(&buffer[..read]).map_err(unusable_store)?,
                }
            }
            meta.give_file(&file).map_err(|refusal| refused_entry(refusal, &name))?;
        }
        trash::empty(&self.removed).map_err(unusable_store)
    }

    fn count_one(&mut self) -> Result<()> {
        self.entries_left = self.entries_left.checked_sub(1).ok_or_else(too_large)?;
        Ok(())
    }

    /// Adds what programs need to find and the image does not bring.
    pub(super) fn complete(&self) -> io::Result<()> {
        for (folder, mode) in [("etc", 0o755), ("var", 0o755), ("var/tmp", 0o777)] {
            match mkdirat(&self.root, folder, Mode::from_raw_mode(mode)) {
                Ok(()) => {
                    fchmod(openat(&self.root, folder, FOLDER, Mode::empty())?, Mode::from_raw_mode(mode))?;
                }
                Err(Errno::EXIST | Errno::LOOP | Errno::NOTDIR | Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let Ok(etc) = openat2(&self.root, "etc", FOLDER, Mode::empty(), resolve) else { return Ok(()) };
        for (name, content) in FILES {
            match openat(&etc, name, NEW_FILE, Mode::from_raw_mode(0o644)) {
                Err(Errno::EXIST) => {}
                file => File::from(file?).write_all(content)?,
            }
        }
        Ok(())
    }

    /// Makes one entry; a file is returned for its content to be written.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<Option<(File, Meta)>, Refusal> {
        let meta = Meta::of(entry, self.keep_owners);
        if entry.path.is_empty() {
            meta.give_folder(&self.root)?;
            return Ok(None);
        }
        let name = last_part(entry.path);
        if let Some(hidden) = name.to_bytes().strip_prefix(WHITEOUT) {
            self.white_out(entry.path, name, hidden)?;
            return Ok(None);
        }
        if entry.kind == Kind::Device {
            return Ok(None);
        }
        let place = self.place(entry.path)?;
        match entry.kind {
            Kind::Directory => self.make_folder(&place, meta)?,
            Kind::Symlink => {
                self.remove(&place)?;
                symlinkat(entry.link, &place.folder, &place.name)?;
                if let Some((uid, gid)) = meta.owner {
                    chownat(&place.folder, &place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                }
                self.note(&place.stat()?);
            }
            Kind::HardLink => self.make_link(&place, entry.link)?,
            Kind::File => {
                self.remove(&place)?;
                let file = openat(&place.folder, &place.name, NEW_FILE, Mode::from_raw_mode(0o600))?;
                self.note(&rustix::fs::fstat(&file)?);
                return Ok(Some((file.into(), meta)));
            }
            Kind::Device => {}
        }
        Ok(None)
    }

    fn make_folder(&mut self, place: &Place, meta: Meta) -> Result<(), Refusal> {
        let is_there = match place.stat() {
            Err(Errno::NOENT) => false,
            stat => FileType::from_raw_mode(stat?.st_mode) == FileType::Directory,
        };
        if !is_there {
            self.remove(place)?;
            mkdirat(&place.folder, &place.name, Mode::from_raw_mode(0o700))?;
        }
        let folder = openat(&place.folder, &place.name, FOLDER, Mode::empty())?;
        self.note(&rustix::fs::fstat(&folder)?);
        meta.give_folder(&folder)
    }

    fn make_link(&mut self, place: &Place, target: &CStr) -> Result<(), Refusal> {
        const NO_TARGET: Refusal = Refusal::Entry("a hard link in it has no file to link to");
        let old = self.place(target).map_err(|_| NO_TARGET)?;
        let stat = old.stat().map_err(|_| NO_TARGET)?;
        if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Symlink) {
            return Err(NO_TARGET);
        }
        if !place.stat().is_ok_and(|place| place.st_ino == stat.st_ino) {
            self.remove(place)?;
            linkat(&old.folder, &old.name, &place.folder, &place.name, AtFlags::empty())?;
        }
        self.note(&stat);
        Ok(())
    }

    /// Hides what lower layers have: `hidden` in the folder of `path`, or all of that folder.
    fn white_out(&mut self, path: &CStr, name: &CStr, hidden: &[u8]) -> Result<(), Refusal> {
        let folder = match self.open_folder(parent_of(path)) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            folder => folder?,
        };
        if name.to_bytes() == OPAQUE {
            return self.hide_all(&folder);
        }
        if name.to_bytes().starts_with(AUFS) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Refusal::Entry("a whiteout in it names nothing that can be hidden"));
        }
        let name = CString::new(hidden).map_err(|_| Refusal::Entry("a name in it holds a zero byte"))?;
        self.remove(&Place { folder, name })
    }

    /// Removes what is in a folder and was not made by the layer at hand.
    ///
    /// It goes down and up again from folder to folder, so that neither their number nor their depth takes descriptors.
    fn hide_all(&mut self, folder: &OwnedFd) -> Result<(), Refusal> {
        let mut folder = openat(folder, ".", FOLDER, Mode::empty())?;
        // What is still to be looked into, at every depth down to this folder's.
        let mut left = vec![self.hide_in(&folder)?];
        while let Some(below) = left.last_mut() {
            if let Some(name) = below.pop() {
                folder = openat(&folder, &name, FOLDER, Mode::empty())?;
                left.push(self.hide_in(&folder)?);
            } else {
                left.pop();
                if !left.is_empty() {
                    folder = openat(&folder, "..", FOLDER, Mode::empty())?;
                }
            }
        }
        Ok(())
    }

    /// Does so in this folder alone, and returns the names of the folders that stay.
    fn hide_in(&mut self, folder: &OwnedFd) -> Result<Vec<CString>, Refusal> {
        let mut stay = Vec::new();
        for entry in Dir::read_from(folder)? {
            let name = entry?.file_name().to_owned();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let place = Place { folder: folder.try_clone()?, name };
            let stat = place.stat()?;
            if !self.of_this_layer.contains(&stat.st_ino) {
                self.remove(&place)?;
            } else if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                stay.push(place.name);
            }
        }
        Ok(stay)
    }

    /// Removes what stands at a place; nothing there is no error.
    fn remove(&mut self, place: &Place) -> Result<(), Refusal> {
        let stat = match place.stat() {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat?,
        };
        self.of_this_layer.remove(&stat.st_ino);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let name = self.removals.to_string();
            self.removals += 1;
            renameat(&place.folder, &place.name, &self.removed, name)?;
        } else {
            unlinkat(&place.folder, &place.name, AtFlags::empty())?;
        }
        Ok(())
    }

    fn note(&mut self, stat: &Stat) {
        self.of_this_layer.insert(stat.st_ino);
    }

    /// The place of `path`; the folders that lead there are made where they are missing.
    fn place(&mut self, path: &CStr) -> Result<Place, Refusal> {
        let name = last_part(path).to_owned();
        let folder = match self.open_folder(parent_of(path)) {
            Err(Errno::NOENT) => self.make_folders(parent_of(path))?,
            folder => folder?,
        };
        Ok(Place { folder, name })
    }

    fn make_folders(&mut self, path: &[u8]) -> Result<OwnedFd, Refusal> {
        let mut end = 0;
        loop {
            end += path[end..].iter().position(|byte| *byte == b'/').unwrap_or(path.len() - end);
            if let Err(Errno::NOENT) = self.open_folder(&path[..end]) {
                let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
                let above = self.open_folder(path[..start].strip_suffix(b"/").unwrap_or_default())?;
                let name = &path[start..end];
                // A single name can lead through a hundred of them.
                self.count_one().map_err(|_| Refusal::TooLarge)?;
                mkdirat(&above, name, Mode::from_raw_mode(0o755))?;
                self.note(&statat(&above, name, AtFlags::SYMLINK_NOFOLLOW)?);
            }
            if end == path.len() {
                return Ok(self.open_folder(path)?);
            }
            end += 1;
        }
    }

    /// Opens a folder of the image, whose root is the root of every path and link.
    fn open_folder(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = if path.is_empty() { b"." } else { path };
        loop {
            // The kernel gives up when something was renamed meanwhile, anywhere.
            match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Place {
    fn stat(&self) -> Result<Stat, Errno> {
        statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW)
    }
}

/// What is given to a file besides its content.
#[derive(Clone, Copy)]
struct Meta {
    mode: Mode,
    owner: Option<(Uid, Gid)>,
    mtime: i64,
}

impl Meta {
    fn of(entry: &Entry<'_>, keep_owners: bool) -> Self {
        let id = |id: u32| if id > HIGHEST_ID { NOBODY } else { id };
        let (uid, gid) = entry.owner;
        let owner = keep_owners.then(|| (Uid::from_raw(id(uid)), Gid::from_raw(id(gid))));
        Self { mode: Mode::from_raw_mode(entry.mode), owner, mtime: entry.mtime }
    }

    fn give_file(self, file: &File) -> Result<(), Refusal> {
        if let Some((uid, gid)) = self.owner {
            fchown(file, Some(uid), Some(gid))?;
        }
        fchmod(file, self.mode)?;
        let time = Timespec { tv_sec: self.mtime, tv_nsec: 0 };
        // Not every file system knows every time.
        let _ = futimens(file, &Timestamps { last_access: time, last_modification: time });
        Ok(())
    }

    fn give_folder(self, folder: impl AsFd) -> Result<(), Refusal> {
        let mode = match self.owner {
            Some((uid, gid)) => {
                fchown(&folder, Some(uid), Some(gid))?;
                self.mode
            }
            // An ordinary user must be able to fill it and to remove it.
            None => self.mode | Mode::RWXU,
        };
        Ok(fchmod(folder, mode)?)
    }
}

fn last_part(path: &CStr) -> &CStr {
    let bytes = path.to_bytes_with_nul();
    let start = path.to_bytes().iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    CStr::from_bytes_with_nul(&bytes[start..]).unwrap_or(path)
}

fn parent_of(path: &CStr) -> &[u8] {
    let bytes = path.to_bytes();
    &bytes[..bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0)]
}
