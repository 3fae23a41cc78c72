//! The access file: who it lets in, and how fast it stops doing so.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ci_core::access::{Admin, Authority, Grant, Read, Session, Write};
use ci_core::clock::ManualClock;
use ci_core::forge::{Challenge, SignIn as _};
use ci_core::{ErrorKind, Result};
use ci_scm::git::{AccessFile, AccessFileOptions, Protocol, Protocols};
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::TempDir;

use crate::world::app;

struct Office {
    folder: TempDir,
    clock: Arc<ManualClock>,
    file: Arc<AccessFile>,
    authority: Authority,
    alice: (SecretString, String),
    bob: (SecretString, String),
}

impl Office {
    fn new() -> Self {
        let (folder, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::new()));
        let (alice, bob) = (AccessFile::new_token(), AccessFile::new_token());
        let path = folder.path().join("access.toml");
        put(&path, &text(&alice.1, &bob.1, "admin = [\"alice\"]\nwrite = [\"bob\"]\n"));
        let file = Arc::new(AccessFile::open(path, clock.clone(), AccessFileOptions::default()).unwrap());
        let authority = Authority::new(file.clone(), clock.clone());
        Self { folder, clock, file, authority, alice, bob }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("access.toml")
    }

    fn write(&self, rest: &str) {
        put(&self.path(), &text(&self.alice.1, &self.bob.1, rest));
    }

    async fn sign_in(&self, token: &SecretString) -> Result<Session> {
        self.clock.advance(Duration::from_millis(1));
        let challenge = self.file.begin().await?;
        self.authority.sign_in(self.file.as_ref(), &challenge, token.clone()).await
    }

    async fn bob_writes(&self) -> Grant<Write> {
        let bob = self.sign_in(&self.bob.0).await.unwrap();
        self.authority.grant(&bob, &app()).await.unwrap()
    }
}

fn text(alice: &str, bob: &str, rest: &str) -> String {
    format!(
        "forge = \"git\"\ntenant = \"acme\"\n[people.alice]\ntoken = \"{alice}\"\n[people.bob]\ntoken = \"{bob}\"\n\
         [[repository]]\nid = \"app\"\nurl = \"file:///srv/app\"\n{rest}"
    )
}

fn put(path: &std::path::Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

#[tokio::test]
async fn people_get_what_the_file_gives_them() {
    let office = Office::new();
    let (alice, bob) =
        (office.sign_in(&office.alice.0).await.unwrap(), office.sign_in(&office.bob.0).await.unwrap());
    assert!(office.authority.grant::<Admin>(&alice, &app()).await.is_ok());
    assert!(office.authority.grant::<Write>(&bob, &app()).await.is_ok());
    assert_eq!(office.authority.grant::<Admin>(&bob, &app()).await.unwrap_err().kind(), ErrorKind::Denied);
    office.write("everyone = \"read\"\n");
    assert!(office.authority.grant::<Read>(&bob, &app()).await.is_ok());
    assert_eq!(office.authority.grant::<Write>(&bob, &app()).await.unwrap_err().kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn a_wrong_token_signs_nobody_in() {
    let office = Office::new();
    for wrong in ["", "x", &office.bob.1, &office.bob.1["sha256:".len()..]] {
        assert_eq!(office.sign_in(&wrong.into()).await.unwrap_err().kind(), ErrorKind::Denied, "{wrong:?}");
    }
    let redirect = Challenge::Redirect { url: String::new(), state: "".into() };
    let answer = office.bob.0.clone();
    assert_eq!(office.file.complete(&redirect, answer).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_ne!(office.alice.0.expose_secret(), office.bob.0.expose_secret());
}

#[tokio::test]
async fn a_permission_taken_away_stops_at_once() {
    let office = Office::new();
    let grant = office.bob_writes().await;
    office.write("admin = [\"alice\"]\nwrite = [\"bob\"]\nprotected = [\"main\"]\n");
    assert!(grant.scope().is_ok(), "nothing was taken away from bob");
    office.write("admin = [\"alice\", \"bob\"]\n");
    assert!(grant.scope().is_ok(), "more was given");
    office.write("admin = [\"alice\"]\nread = [\"bob\"]\n");
    assert_eq!(grant.scope().unwrap_err().kind(), ErrorKind::Denied);
}

/// The same length, and whatever the file system's clock says.
#[tokio::test]
async fn a_change_is_seen_without_a_change_of_size_or_time() {
    let office = Office::new();
    office.write("read = [\"alice\"]\nwrite = [\"bob\"]  \n");
    let grant = office.bob_writes().await;
    let before = fs::metadata(office.path()).unwrap();
    office.write("read = [\"bob\"]  \nwrite = [\"alice\"]\n");
    let file = fs::File::options().write(true).open(office.path()).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    assert_eq!(fs::metadata(office.path()).unwrap().len(), before.len());
    assert!(grant.scope().is_err());
}

type Break<'a> = &'a dyn Fn(&std::path::Path);

#[tokio::test]
async fn a_file_that_cannot_be_believed_gives_nobody_anything() {
    let office = Office::new();
    let whole = fs::read_to_string(office.path()).unwrap();
    let broken: [(&str, Break<'_>); 7] = [
        ("missing", &|path| fs::remove_file(path).unwrap()),
        ("malformed", &|path| put(path, "forge = ")),
        ("cut", &|path| put(path, &whole[..whole.len() / 2])),
        ("not text", &|path| fs::write(path, b"\xff\xfe").unwrap()),
        ("open to others", &|path| fs::set_permissions(path, fs::Permissions::from_mode(0o602)).unwrap()),
        ("too long", &|path| put(path, &" ".repeat(1024 * 1024 + 1))),
        ("a folder", &|path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
    ];
    for (how, break_it) in broken {
        let grant = office.bob_writes().await;
        let bob = office.sign_in(&office.bob.0).await.unwrap();
        break_it(&office.path());
        assert!(grant.scope().is_err(), "{how}");
        let error = office.authority.grant::<Read>(&bob, &app()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{how}");
        assert_eq!(
            error.to_string(),
            "ask for a permission: the list of people and permissions cannot be used now; the operator's log says why"
        );
        assert_eq!(office.sign_in(&office.bob.0).await.unwrap_err().kind(), ErrorKind::Unavailable, "{how}");
        assert!(office.file.repositories().is_err(), "{how}");
        if office.path().is_dir() {
            fs::remove_dir(office.path()).unwrap();
        }
        put(&office.path(), &whole);
        assert!(office.authority.grant::<Write>(&bob, &app()).await.is_ok(), "{how}: it is whole again");
    }
}

#[tokio::test]
async fn a_replaced_token_signs_its_holder_out() {
    let office = Office::new();
    let bob = office.sign_in(&office.bob.0).await.unwrap();
    let alice = office.sign_in(&office.alice.0).await.unwrap();
    let grant: Grant<Write> = office.authority.grant(&bob, &app()).await.unwrap();
    let new = AccessFile::new_token();
    put(&office.path(), &text(&office.alice.1, &new.1, "admin = [\"alice\"]\nwrite = [\"bob\"]\n"));
    assert!(grant.scope().is_err(), "the grant of the old session");
    assert!(office.authority.grant::<Read>(&bob, &app()).await.is_err(), "the old session");
    assert!(office.sign_in(&office.bob.0).await.is_err(), "the old token");
    let again = office.sign_in(&new.0).await.unwrap();
    assert!(office.authority.grant::<Write>(&again, &app()).await.is_ok());
    assert!(office.authority.grant::<Admin>(&alice, &app()).await.is_ok(), "alice's token is the same");
}

/// Nobody asked anything between the change and the first sign-in with the new token.
#[tokio::test]
async fn the_first_sign_in_with_a_new_token_counts() {
    let office = Office::new();
    let new = AccessFile::new_token();
    put(&office.path(), &text(&office.alice.1, &new.1, "write = [\"bob\"]\n"));
    office.clock.advance(Duration::from_secs(1));
    let challenge = Challenge::Credential;
    let bob = office.authority.sign_in(office.file.as_ref(), &challenge, new.0).await.unwrap();
    assert!(office.authority.grant::<Write>(&bob, &app()).await.is_ok());
}

#[test]
fn it_is_opened_only_if_nobody_else_could_have_written_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    let open = |path: &std::path::Path| {
        AccessFile::open(path, Arc::new(ManualClock::new()), AccessFileOptions::default())
    };
    assert_eq!(open(&path).unwrap_err().kind(), ErrorKind::NotFound);
    put(&path, "forge = \"git\"\ntenant = \"acme\"\n");
    for (mode, is_taken) in
        [(0o600, true), (0o644, true), (0o440, true), (0o620, false), (0o602, false), (0o666, false)]
    {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        match open(&path) {
            Ok(_) => assert!(is_taken, "{mode:o}"),
            Err(error) => {
                assert!(!is_taken, "{mode:o}: {error:?}");
                assert_eq!(
                    error.to_string(),
                    "read the access file: its group or others can write to it; run chmod go-w on it"
                );
                assert!(error.for_operator().to_string().contains("access.toml"));
            }
        }
    }
    assert_eq!(open(folder.path()).unwrap_err().kind(), ErrorKind::Invalid);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    if std::os::unix::fs::chown(&path, Some(65_534), None).is_ok() {
        assert_eq!(open(&path).unwrap_err().kind(), ErrorKind::Denied);
    }
}

#[test]
fn it_names_only_protocols_that_the_operator_allows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    put(&path, "forge = \"git\"\ntenant = \"acme\"\n[[repository]]\nid = \"app\"\nurl = \"https://h/p\"\n");
    let only = AccessFileOptions::default().with_protocols(Protocols::only([Protocol::File]));
    let error = AccessFile::open(&path, Arc::new(ManualClock::new()), only).unwrap_err();
    assert_eq!(
        error.to_string(),
        "parse the URL of a repository: the operator does not allow this protocol \
         (protocol: https, repository: acme/git/app)"
    );
}
