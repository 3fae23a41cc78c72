//! Images that a tenant chose.

use ci_core::sandbox::Spec;
use ci_core::{ErrorKind, Result};

use super::files::Bait;
use super::stage::gone;
use super::{Outcome, Stage};
use crate::conformance::guest::{Guest, PROGRAM, unexpected};
use crate::conformance::layout;
use crate::conformance::machine::{Folder, backwards, unique};
use crate::conformance::tar::Archive;

/// What the image tries, and its layers.
type Image = (&'static str, Vec<Vec<u8>>);

pub(super) async fn hostile(stage: &Stage) -> Result<Outcome> {
    let bait = Bait::new()?;
    let (mut shown, mut refused) = (0, 0);
    for (name, layers) in images(&bait) {
        match attempt(stage, &bait, name, &layers).await? {
            Tried::Shown => shown += 1,
            Tried::Refused => refused += 1,
            Tried::Over(outcome) => return Ok(outcome),
        }
        if let Some(damage) = bait.damage() {
            return Ok(Outcome::Broken(format!("it could: {name}, and {damage}")));
        }
    }
    Ok(Outcome::Held(format!("of the hostile images {refused} were refused, and {shown} led nowhere")))
}

enum Tried {
    Shown,
    Refused,
    Over(Outcome),
}

async fn attempt(stage: &Stage, bait: &Bait, name: &str, layers: &[Vec<u8>]) -> Result<Tried> {
    let failed = |error| unexpected("make an image", format!("{error}"));
    let folder = Folder::new().map_err(failed)?;
    layout::write(folder.path(), layers).map_err(failed)?;
    let is_spoilt = name == SPOILT;
    if is_spoilt {
        layout::spoil(folder.path()).map_err(failed)?;
    }
    let made = match stage.bench.with_image(folder.path()).await {
        None => {
            let why = "the backend takes no such images, or its tests make none";
            return Ok(Tried::Over(Outcome::Untried(why.to_owned())));
        }
        Some(Ok((backend, image))) => Guest::of(backend, Spec::new(image)).await,
        Some(Err(error)) => Err(error),
    };
    let guest = match made {
        Ok(_) if is_spoilt => return Ok(Tried::Over(Outcome::Broken(format!("it could: {name}")))),
        Ok(guest) => guest,
        Err(error) if error.kind() == ErrorKind::TimedOut => {
            return Ok(Tried::Over(Outcome::Broken(format!(
                "it could: {name}, and keep whoever unpacks it"
            ))));
        }
        Err(_) => return Ok(Tried::Refused),
    };
    for words in [["F-3", &backwards(&bait.secret)].as_slice(), &["F-5"], &["F-6"]] {
        if let Outcome::Broken(how) = guest.attack(words).await? {
            return Ok(Tried::Over(Outcome::Broken(format!("an image that would {name}: {how}"))));
        }
    }
    if let Some(gain) = run_as_another(&guest).await? {
        return Ok(Tried::Over(Outcome::Broken(format!("it could: {name}, and {gain}"))));
    }
    gone(guest).await?;
    Ok(Tried::Shown)
}

/// What the image's program gains that belongs to somebody else, where there is one.
async fn run_as_another(guest: &Guest) -> Result<Option<String>> {
    let program = ci_core::job::Arg::new("/setuid")?;
    let words = [ci_core::job::Arg::new("whoami")?];
    let Ok(mut process) = guest.exec(&ci_core::sandbox::Command::new(program, words)).await else {
        return Ok(None);
    };
    let ran = crate::conformance::guest::finish(&mut *process).await?;
    drop(process);
    let own = guest.run(&["whoami"]).await?.text();
    let text = ran.text();
    Ok((text != own && !text.is_empty()).then(|| format!("be {} instead of {}", text.trim(), own.trim())))
}

const SPOILT: &str = "hold something else than its digest says";

fn images(bait: &Bait) -> Vec<Image> {
    let file = bait.file().to_string_lossy().into_owned();
    let folder = file.trim_end_matches("/file").to_owned();
    let climbing = format!("../../../../../../../..{folder}");
    let mut images = of_own_folders(&folder, &climbing);
    images.extend(of_links(&file, &folder, &climbing));
    images.extend(of_names(&folder, &climbing));
    images.extend(of_whiteouts(&folder));
    images.extend(of_kinds());
    images
}

/// What every sandbox has, as something else.
fn of_own_folders(folder: &str, climbing: &str) -> Vec<Image> {
    const OWN: [&str; 10] = ["etc", "proc", "dev", "sys", "tmp", "work", "run", "home", "usr", "bin"];
    let all = |make: &dyn Fn(Archive, &str) -> Archive| {
        vec![OWN.iter().fold(Archive::new(), |archive, name| make(archive, name)).end()]
    };
    vec![
        (
            "have all its own folders be links to the machine",
            all(&|archive, name| archive.symlink(name, folder)),
        ),
        ("have them be links that climb", all(&|archive, name| archive.symlink(name, climbing))),
        ("have them be links to one of them", all(&|archive, name| archive.symlink(name, "proc"))),
        ("have them be files", all(&|archive, name| archive.file(name, b"file"))),
        ("have them be pipes", all(&|archive, name| archive.special(name, b'6'))),
    ]
}

fn of_links(file: &str, folder: &str, climbing: &str) -> Vec<Image> {
    let made = Archive::new;
    let linked = |target: &str| {
        let etc = made().folder("etc").symlink("etc/passwd", target).symlink("etc/resolv.conf", target);
        etc.symlink("escape", target)
    };
    vec![
        (
            "link to files of the machine",
            vec![linked(file).symlink("folder", folder).symlink("up", climbing).end()],
        ),
        (
            "link to them by climbing",
            vec![linked(&format!("{climbing}/file")).symlink("folder", climbing).end()],
        ),
        ("link hard to a file of the machine", vec![made().hard_link("hard", file).end()]),
        ("link hard by climbing", vec![made().hard_link("hard", &format!("{climbing}/file")).end()]),
        (
            "link hard through a link",
            vec![made().symlink("door", folder).hard_link("hard", "door/file").file("hard", b"hit").end()],
        ),
    ]
}

fn of_names(folder: &str, climbing: &str) -> Vec<Image> {
    let made = Archive::new;
    vec![
        ("climb", vec![made().file(&format!("{climbing}/new"), b"hit").end()]),
        ("climb from within", vec![made().folder("a").file(&format!("a/{climbing}/file"), b"hit").end()]),
        ("name an absolute path", vec![made().file(&format!("{folder}/new"), b"hit").end()]),
        ("go through a link", vec![made().symlink("door", folder).file("door/new", b"hit").end()]),
        (
            "go through a link of a lower layer",
            vec![made().symlink("door", folder).end(), made().file("door/file", b"hit").end()],
        ),
        (
            "replace a folder by a link between layers",
            vec![
                made().folder("etc").file("etc/file", b"own").end(),
                made().symlink("etc", folder).end(),
                made().file("etc/file", b"hit").file("etc/new", b"hit").end(),
            ],
        ),
    ]
}

fn of_whiteouts(folder: &str) -> Vec<Image> {
    let made = Archive::new;
    let word = unique("none-");
    let there = || made().folder("etc").file("etc/file", b"own").end();
    let door = || made().symlink("door", folder).end();
    vec![
        (
            "whiteout what is not there",
            vec![made().file(&format!(".wh.{word}"), b"").file(&format!("{word}/.wh.a"), b"").end()],
        ),
        (
            "whiteout all",
            vec![there(), made().folder("etc").file("etc/.wh..wh..opq", b"").file(".wh..wh..opq", b"").end()],
        ),
        ("whiteout by climbing", vec![there(), made().file(".wh...", b"").end()]),
        ("whiteout the folder itself", vec![there(), made().folder("etc").file("etc/.wh..", b"").end()]),
        ("whiteout through a link", vec![door(), made().file("door/.wh.file", b"").end()]),
        ("make a folder opaque through a link", vec![door(), made().file("door/.wh..wh..opq", b"").end()]),
    ]
}

fn of_kinds() -> Vec<Image> {
    let made = Archive::new;
    let devices = made().mode(0o666).special("disk", b'4').special("memory", b'3').folder("dev");
    let devices = devices.special("dev/memory", b'3').special("dev/disk", b'4').folder("etc");
    vec![
        ("bring devices", vec![devices.special("etc/disk", b'4').end()]),
        (
            "bring a program that is another's",
            vec![made().mode(0o6755).owner(0, 0).file("setuid", PROGRAM).end()],
        ),
        (SPOILT, vec![made().file("file", b"content").end()]),
    ]
}
