//! Files: on their way in and out, and what is left of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use ci_core::id::SandboxId;
use ci_core::{ErrorKind, Result};
use futures_util::StreamExt as _;

use super::stage::gone;
use super::{Outcome, Stage};
use crate::conformance::guest::{Guest, path, program, unexpected};
use crate::conformance::machine::{Folder, find_marker, processes_with, unique};
use crate::conformance::tar::{Archive, entries};

pub(super) async fn deep_and_many(stage: &Stage) -> Result<Outcome> {
    let guest = stage.fresh().await?;
    let outcome = guest.attack(&["F-15", "20000"]).await?;
    match guest.destroy().await {
        Ok(residue) if residue.is_empty() => Ok(outcome),
        Ok(residue) => Ok(Outcome::Broken(format!("it could: leave something behind ({residue:?})"))),
        Err(error) => Ok(Outcome::Broken(format!("it could: keep the sandbox from ending ({error})"))),
    }
}

/// A file of the machine that must neither be read nor changed.
pub(super) struct Bait {
    folder: Folder,
    pub(super) secret: String,
}

impl Bait {
    pub(super) fn new() -> Result<Self> {
        let failed = |error| unexpected("make a file", format!("{error}"));
        let bait = Self { folder: Folder::new().map_err(failed)?, secret: unique("bait-") };
        fs::write(bait.file(), &bait.secret).map_err(failed)?;
        Ok(bait)
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join("file")
    }

    fn file_name(&self) -> String {
        self.file().to_string_lossy().into_owned()
    }

    /// What has been done to it.
    pub(super) fn damage(&self) -> Option<&'static str> {
        if fs::read_to_string(self.file()).ok().as_ref() != Some(&self.secret) {
            return Some("change a file of the machine");
        }
        let count = fs::read_dir(self.folder.path()).map_or(0, Iterator::count);
        (count != 1).then_some("make a file on the machine")
    }
}

pub(super) async fn hostile_download(stage: &Stage) -> Result<Outcome> {
    let bait = Bait::new()?;
    let guest = stage.fresh().await?;
    guest.run(&["hostile-tree", "/work/tree", &bait.file_name()]).await?;
    let archive = match guest.download("/work/tree").await {
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            return Ok(Outcome::Broken("it could: keep a download waiting".to_owned()));
        }
        archive => archive?,
    };
    if archive.windows(bait.secret.len()).any(|window| window == bait.secret.as_bytes()) {
        return Ok(Outcome::Broken("it could: have a file of the machine downloaded".to_owned()));
    }
    let Some(found) = entries(&archive) else {
        return Ok(Outcome::Broken("what came was no archive".to_owned()));
    };
    for entry in &found {
        let name = entry.path();
        let stays = name == "tree" || name.starts_with("tree/") && !name.split('/').any(|part| part == "..");
        if !stays {
            return Ok(Outcome::Broken(format!("it could: name an entry {name:?}")));
        }
        if !matches!(entry.kind, b'0' | b'1' | b'2' | b'5') {
            return Ok(Outcome::Broken(format!("it could: send a special file ({name:?})")));
        }
    }
    if !found.iter().any(|entry| entry.path() == "tree/plain" && entry.content == b"plain") {
        return Ok(Outcome::Broken("a plain file among hostile ones did not come".to_owned()));
    }
    // What never ends is as long as its reader wants, and is let go of.
    let mut endless = guest.instance().download(&path("/dev/zero"));
    let first = tokio::time::timeout(Duration::from_secs(10), endless.next()).await;
    drop(endless);
    if first.is_err() {
        return Ok(Outcome::Broken("it could: keep a download of a device waiting".to_owned()));
    }
    guest.run(&["exit", "0"]).await?;
    gone(guest).await?;
    Ok(Outcome::Held(format!("{} entries, all of them plain and inside", found.len())))
}

pub(super) async fn hostile_archives(stage: &Stage) -> Result<Outcome> {
    let bait = Bait::new()?;
    let guest = stage.fresh().await?;
    guest.run(&["put", "/work/outside", "safe"]).await?;
    let outside = bait.folder.path().to_string_lossy().into_owned();
    let cases: [(&str, Vec<u8>); 11] = [
        ("climb", Archive::new().file("../outside", b"hit").end()),
        ("climb from within", Archive::new().folder("a").file("a/../../outside", b"hit").end()),
        ("name an absolute path", Archive::new().file("/work/outside", b"hit").end()),
        ("name a path of the machine", Archive::new().file(&format!("{outside}/new"), b"hit").end()),
        ("go through a link", Archive::new().symlink("door", "..").file("door/outside", b"hit").end()),
        (
            "go through an absolute link",
            Archive::new().symlink("door2", "/work").file("door2/outside", b"hit").end(),
        ),
        (
            "go through a link to the machine",
            Archive::new().symlink("door3", &outside).file("door3/file", b"hit").end(),
        ),
        ("link to a file outside", Archive::new().hard_link("name", "../outside").file("name", b"hit").end()),
        (
            "link to one through a link",
            Archive::new().symlink("door4", "..").hard_link("name2", "door4/outside").end(),
        ),
        ("make a device", Archive::new().special("disk", b'4').end()),
        ("make a pipe", Archive::new().special("pipe", b'6').end()),
    ];
    let count = cases.len();
    for (name, archive) in cases {
        let refused = guest.upload("/work/in", archive).await;
        if matches!(&refused, Err(error) if error.kind() == ErrorKind::TimedOut) {
            return Ok(Outcome::Broken(format!("it could: {name} and keep the upload waiting")));
        }
        if refused.is_ok() && name != "name a path of the machine" {
            return Ok(Outcome::Broken(format!("it could: {name}, or nobody says that it was refused")));
        }
        if guest.run(&["read", "/work/outside"]).await?.stdout != b"safe" {
            return Ok(Outcome::Broken(format!("it could: {name}, and change a file outside of the folder")));
        }
        if let Some(damage) = bait.damage() {
            return Ok(Outcome::Broken(format!("it could: {name}, and {damage}")));
        }
    }
    gone(guest).await?;
    Ok(Outcome::Held(format!("{count} hostile archives reached nothing")))
}

pub(super) async fn links_in_the_way(stage: &Stage) -> Result<Outcome> {
    let bait = Bait::new()?;
    let guest = stage.fresh().await?;
    guest.run(&["put", "/work/outside", "safe"]).await?;
    // Links that are there before the archive comes: to a file, to a folder, to the machine.
    let outside = bait.folder.path().to_string_lossy().into_owned();
    let links = Archive::new()
        .folder("in")
        .symlink("in/file", "../outside")
        .symlink("in/folder", "..")
        .symlink("in/machine", &outside);
    guest.upload("/work", links.end()).await?;
    for name in ["file", "folder/outside", "machine/file", "machine/new"] {
        let _ = guest.upload("/work/in", Archive::new().file(name, b"hit").end()).await;
    }
    // The folder itself may be a link.
    let _ = guest.upload("/work/in/machine", Archive::new().file("file", b"hit").end()).await;
    if let Some(damage) = bait.damage() {
        return Ok(Outcome::Broken(format!("it could: {damage}, through a link that was there")));
    }
    gone(guest).await?;
    Ok(Outcome::Held("links of the job lead nowhere outside of the sandbox".to_owned()))
}

pub(super) async fn race(stage: &Stage) -> Result<Outcome> {
    const ROUNDS: usize = 100;
    const LONG_ENOUGH: Duration = Duration::from_secs(4);
    let bait = Bait::new()?;
    let guest = stage.fresh().await?;
    let outside = bait.folder.path().to_string_lossy().into_owned();
    let ready = Archive::new().folder("race").folder("race/in").symlink("race/link", &outside);
    guest.upload("/work", ready.end()).await?;
    let swaps = guest.start_up(&["swap", "/work/race/in", "/work/race/link"]).await?;
    let (start, mut rounds) = (Instant::now(), 0);
    while rounds < ROUNDS && start.elapsed() < LONG_ENOUGH {
        rounds += 1;
        let archive = Archive::new().folder("race").folder("race/in").file("race/in/file", b"hit");
        let _ = guest.upload("/work", archive.end()).await;
        let _ = guest.upload("/work/race/in", Archive::new().file("new", b"hit").end()).await;
        let _ = guest.download("/work/race/in").await;
        if let Some(damage) = bait.damage() {
            return Ok(Outcome::Broken(format!("it could: {damage}, by swapping a folder for a link")));
        }
    }
    drop(swaps);
    gone(guest).await?;
    Ok(Outcome::Held(format!("{rounds} uploads and downloads stayed inside")))
}

pub(super) async fn residue(stage: &Stage) -> Result<Outcome> {
    // Clocks of file systems run a little behind.
    let start = SystemTime::now() - Duration::from_secs(1);
    let marker = unique("residue-");
    let id = SandboxId::random();
    let guest = Guest::empty(stage.bench.backend(), id.clone(), &stage.spec()).await?;
    guest.upload("/work", program()).await?;
    guest.run(&["mark", &marker]).await?;
    guest.upload("/work", Archive::new().file(&marker, marker.as_bytes()).end()).await?;
    let waiting = guest.start_up(&["wait", &marker]).await?;
    drop(waiting);
    gone(guest).await?;
    let mut folders = stage.bench.folders();
    folders.extend(["/tmp", "/var/tmp", "/dev/shm", "/run"].map(PathBuf::from));
    folders.push(std::env::temp_dir());
    let found = find_marker(&folders, &marker, start);
    if let Some(file) = found {
        if file.ends_with(&marker) {
            let _ = fs::remove_file(&file);
        }
        return Ok(Outcome::Broken(format!("it could: leave its files in {}", file.display())));
    }
    if processes_with(&marker) > 0 {
        return Ok(Outcome::Broken("it could: leave a process".to_owned()));
    }
    // Another sandbox of the same id is another sandbox.
    let next = Guest::empty(stage.bench.backend(), id, &stage.spec()).await?;
    next.upload("/work", program()).await?;
    for folder in ["/work", "/tmp", "/dev/shm", "/var/tmp", "/home/ci", "/run"] {
        if !next.run(&["read", &format!("{folder}/{marker}")]).await?.stdout.is_empty() {
            return Ok(Outcome::Broken(format!("it could: leave a file in {folder} for the next sandbox")));
        }
    }
    gone(next).await?;
    Ok(Outcome::Held("its files are nowhere on the machine, and not in the next sandbox".to_owned()))
}

pub(super) async fn change_the_image(stage: &Stage) -> Result<Outcome> {
    const FOLDERS: [&str; 7] = ["/bin", "/usr", "/usr/bin", "/lib", "/usr/lib", "/etc", "/etc/ssl/certs"];
    let marker = unique("image-");
    let (guest, sibling) = (stage.fresh().await?, stage.fresh().await?);
    let outcome = guest.attack(&["image"]).await?;
    // An image may look writable where every sandbox has a layer of its own: then nobody else sees what is written.
    let mut changed = None;
    for folder in FOLDERS {
        let file = format!("{folder}/{marker}");
        guest.run(&["put", &file, &marker]).await?;
        if !sibling.run(&["read", &file]).await?.stdout.is_empty() {
            changed = Some(folder);
        }
    }
    let later = stage.fresh().await?;
    for folder in FOLDERS {
        let file = format!("{folder}/{marker}");
        if !later.run(&["read", &file]).await?.stdout.is_empty() {
            changed = Some(folder);
        }
        guest.run(&["remove", &file]).await?;
    }
    for guest in [guest, sibling, later] {
        gone(guest).await?;
    }
    Ok(match (changed, outcome) {
        (Some(folder), _) => Outcome::Broken(format!("it could: change {folder} of other sandboxes")),
        (None, Outcome::Broken(_)) => {
            Outcome::Held("what it writes to the image is in a layer of its own".to_owned())
        }
        (None, other) => other,
    })
}

pub(super) async fn shared_folders(stage: &Stage) -> Result<Outcome> {
    let marker = unique("shared-");
    let (guest, sibling) = (stage.fresh().await?, stage.fresh().await?);
    let written = guest.run(&["mark", &marker]).await?.text();
    let mut shared = None;
    for folder in written.lines() {
        let file = format!("{}/{marker}", folder.trim_end_matches('/'));
        if !sibling.run(&["read", &file]).await?.stdout.is_empty() {
            shared = Some(format!("it could: share {folder} with another sandbox"));
        } else if Path::new(&file).exists() {
            shared = Some(format!("it could: write to {folder} of the machine"));
        }
        guest.run(&["remove", &file]).await?;
    }
    gone(guest).await?;
    gone(sibling).await?;
    let count = written.lines().count();
    Ok(shared.map_or_else(
        || Outcome::Held(format!("{count} writable folders, all of them its own")),
        Outcome::Broken,
    ))
}
