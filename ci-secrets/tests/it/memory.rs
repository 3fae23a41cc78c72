//! What lies in this process's memory when it should be gone.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use ci_core::Result;
use ci_core::access::{Admin, Read, Write};
use ci_core::conformance::skip;
use ci_core::id::{JobId, KeyId};
use ci_core::memory::Rig;
use ci_core::operator::Operator;
use ci_core::records::Key;
use ci_core::seal::{Context, DataKey, Opened, key_id};
use ci_core::secret::{KeyRing as _, Purpose, SecretStore as _, SecretValue};
use ci_core::trust::Origin;
use ci_secrets::ssh::SshKeys;
use ci_secrets::{FileRoot, RootKey, SshSigner as _, Vault};
use secrecy::SecretBox;
use zeroize::Zeroizing;

use crate::bench::{Bench, name, repository};

/// 32 bytes, kept as their complement so that this is no copy of them.
#[derive(Clone, Debug)]
struct Marker([u8; 32]);

impl Marker {
    fn of(bytes: &[u8; 32]) -> Self {
        let mut complement = [0; 32];
        for (place, byte) in complement.iter_mut().zip(bytes) {
            *place = !byte;
        }
        Self(complement)
    }

    /// How often they lie in this process's writable memory.
    fn copies(&self) -> usize {
        const WINDOW: usize = 64 * 1024;
        let memory = File::open("/proc/self/mem").expect("our own memory");
        let maps = fs::read_to_string("/proc/self/maps").expect("our own maps");
        let mut window = Zeroizing::new(vec![0; 31 + WINDOW]);
        // What was read is not to be found again where it was read to.
        let own = window.as_ptr() as u64..window.as_ptr() as u64 + window.len() as u64;
        let mut copies = 0;
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (start, end) =
                line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
            let address = |text| u64::from_str_radix(text, 16).expect("an address");
            let (mut at, end) = (address(start), address(end));
            window[..31].fill(0);
            while at < end {
                let until = if at < own.start { end.min(own.start) } else { end };
                if own.contains(&at) {
                    at = own.end;
                    continue;
                }
                let length = usize::try_from(until - at).map_or(WINDOW, |left| left.min(WINDOW));
                if memory.read_exact_at(&mut window[31..31 + length], at).is_err() {
                    break;
                }
                // In place, so that what was just read is no copy itself.
                window[31..31 + length].iter_mut().for_each(|byte| *byte = !*byte);
                copies += self.count(&window[..31 + length]);
                window.copy_within(length..31 + length, 0);
                at += length as u64;
            }
        }
        copies
    }

    fn count(&self, text: &[u8]) -> usize {
        let first: [u8; 8] = *self.0.first_chunk().expect("8 bytes");
        let begins = text.windows(8).enumerate().filter(|(_, bytes)| *bytes == first);
        begins.filter(|(at, _)| text[*at..].starts_with(&self.0)).count()
    }
}

/// A root key that remembers, as their complements, which keys it was asked to wrap.
#[derive(Debug)]
struct Watching(FileRoot, Mutex<Vec<Marker>>);

impl Watching {
    fn new() -> Arc<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let root = FileRoot::create(folder.path().join("root.key")).expect("a root key");
        Arc::new(Self(root, Mutex::default()))
    }
}

#[async_trait]
impl RootKey for Watching {
    async fn wrap(&self, context: &Context, key: &[u8; 32]) -> Result<Bytes> {
        self.1.lock().expect("unpoisoned").push(Marker::of(key));
        self.0.wrap(context, key).await
    }

    async fn unwrap(&self, context: &Context, wrapped: &[u8]) -> Result<SecretBox<[u8; 32]>> {
        self.0.unwrap(context, wrapped).await
    }

    fn key_ref(&self) -> &str {
        self.0.key_ref()
    }
}

/// The repository's own key, as somebody could compute it who has the tenant's.
async fn repository_key(bench: &Bench, root: &Watching) -> DataKey {
    let tenant = bench.below(&Key::new("key").part("tenant").part("acme").part("wrapped")).await.remove(0);
    let id = tenant.key.as_str().rsplit('/').next().expect("an id");
    let root_name = root.key_ref();
    let context = Context::new("tenant key").field([1]).field("acme").field(id).field(root_name);
    let wrapped = &tenant.value[3 + root_name.len()..];
    let above = root.unwrap(&context, wrapped).await.expect("it unwraps");
    let above = DataKey::new(KeyId::parse(id).expect("an id"), above);
    let ours = repository("1");
    let row = bench.below(&crate::bench::key_folder(&ours).part("wrapped")).await.remove(0);
    assert_eq!(key_id(&row.value).expect("an id"), *above.id());
    let context = Context::new("repository key")
        .field([1])
        .field("acme")
        .field(ours.forge().as_str())
        .field("1")
        .field(row.key.as_str().rsplit('/').next().expect("an id"));
    let plain = above.open(&context, &row.value).expect("it opens");
    let mut key = Box::new([0; 32]);
    key.copy_from_slice(&plain);
    let id = row.key.as_str().rsplit('/').next().expect("an id");
    DataKey::new(KeyId::parse(id).expect("an id"), SecretBox::new(key))
}

/// The seed of the repository's only SSH key, as somebody could compute it who has the repository's.
async fn seed_of_ssh_key(bench: &Bench, root: &Watching) -> Opened {
    let (key, ours) = (repository_key(bench, root).await, repository("1"));
    let context = Context::new("secret")
        .field([2])
        .field("ssh keys")
        .field("acme")
        .field(ours.forge().as_str())
        .field("1")
        .field("repository")
        .field("")
        .field(0_u64.to_be_bytes())
        .field(key.id().as_str())
        .field("");
    let row = bench.read(&Key::new("secret").repository(&ours).part("ssh-keys")).await;
    let key = key.derive(&Context::new("purpose").field("ssh keys"));
    let mut opened = key.open(&context, &row).expect("it opens");
    // The format, how far it has come, when it was made.
    opened.copy_within(1 + 1 + 8.., 0);
    opened
}

#[tokio::test]
async fn no_key_and_no_value_outlives_its_use() {
    let bench = Bench::new();
    let root = Watching::new();
    let vault = bench.other_vault(root.clone());
    let ours = repository("1");
    // 32 letters that occur nowhere else: 16 random bytes as hexadecimal digits.
    let value = SecretValue::new(JobId::random().as_str().as_bytes()[..32].to_vec());
    let of_value = Marker::of(value.expose().try_into().expect("32 bytes"));
    assert!(of_value.copies() > 0, "the search finds what is there");

    let grant = bench.grant::<Write>(&ours).await;
    vault.put(&grant, &name("TOKEN"), value).await.expect("the secret is set");
    let of_tenant = root.1.lock().expect("unpoisoned")[0].clone();
    let of_repository = Marker::of(repository_key(&bench, &root).await.expose());
    let log = Purpose::log(&JobId::random(), 0);
    let read = bench.grant::<Read>(&ours).await;
    let derived = vault.data_key(read.scope().expect("fresh"), &log, None).await.expect("a key");
    let of_purpose = Marker::of(derived.expose());
    assert_eq!(of_value.copies(), 0, "a value that was set is nowhere");
    assert!(of_tenant.copies() > 0 && of_repository.copies() > 0, "they are remembered");

    let claim = bench.rig.claim(&ours, Origin::Repository, Rig::spec()).await.expect("a claim");
    let lease = vault.lease(claim.trusted().expect("trusted"), &[name("TOKEN")]).await.expect("a lease");
    assert!(of_value.copies() > 0, "it is leased");
    drop(lease);
    assert_eq!(of_value.copies(), 0, "a value outlives its lease");

    drop(derived);
    vault.forget_keys();
    for (marker, what) in
        [(&of_tenant, "tenant's"), (&of_repository, "repository's"), (&of_purpose, "purpose's")]
    {
        assert_eq!(marker.copies(), 0, "a {what} key was not forgotten");
    }

    // Erasing drops the keys of the repository by itself.
    vault.seal(read.scope().expect("fresh"), &log, b"content").await.expect("it is sealed");
    assert!(of_repository.copies() > 0);
    let operator = Operator::new(&bench.audit).expect("the operator");
    let act = operator.act(ours.tenant(), "erase").await.expect("an act");
    vault.erase(&act, &ours).await.expect("it is erased");
    assert_eq!(of_repository.copies(), 0, "a repository's key outlives its erasure");
}

#[tokio::test]
async fn no_private_half_of_an_ssh_key_outlives_its_use() {
    let (bench, root, ours) = (Bench::new(), Watching::new(), repository("1"));
    let keys = SshKeys::new(Arc::new(bench.other_vault(root.clone())));
    let grant = bench.grant::<Admin>(&ours).await;
    let first = keys.rotate(&grant).await.expect("a key");
    let of_seed = {
        let seed = seed_of_ssh_key(&bench, &root).await;
        let of_seed = Marker::of(seed.first_chunk().expect("32 bytes"));
        assert!(of_seed.copies() > 0, "the search finds what is there");
        of_seed
    };
    assert_eq!(of_seed.copies(), 0, "a key was made");
    let claim = bench.claim(&ours).await;
    keys.sign(&claim, &first, b"x").await.expect("a signature");
    assert_eq!(of_seed.copies(), 0, "it has signed");
    keys.public_keys(&grant.lower()).await.expect("its public half");
    assert_eq!(of_seed.copies(), 0, "it was listed");
    let second = keys.rotate(&grant).await.expect("a key");
    keys.activate(&grant, &second).await.expect("it signs");
    assert_eq!(of_seed.copies(), 0, "another has taken its place");
    keys.remove(&grant, &first).await.expect("it is removed");
    assert_eq!(of_seed.copies(), 0, "it was removed");
}

#[tokio::test]
async fn rotated_keys_are_forgotten() {
    let bench = Bench::new();
    let root = Watching::new();
    let vault: Vault = bench.other_vault(root.clone());
    let ours = repository("1");
    let grant = bench.grant::<Write>(&ours).await;
    vault.put(&grant, &name("TOKEN"), SecretValue::new("some value")).await.expect("the secret is set");
    let former = root.1.lock().expect("unpoisoned")[0].clone();
    assert!(former.copies() > 0, "it is remembered");
    let operator = Operator::new(&bench.audit).expect("the operator");
    let act = operator.act(ours.tenant(), "key.rotated").await.expect("an act");
    vault.rotate_tenant(&act, ours.tenant(), &mut |_| {}).await.expect("rotated");
    assert_eq!(former.copies(), 0, "a tenant's former key outlives its rotation");
}

/// Set for the program that hardens itself and then tries.
const HARDENED: &str = "CI_SECRETS_TEST_HARDENED";

/// Not a test of its own: what `a_hardened_process_keeps_its_memory_to_itself` starts.
#[test]
#[ignore = "run by another test"]
fn hardened() {
    if std::env::var_os(HARDENED).is_none() {
        return;
    }
    File::open("/proc/self/mem").expect("before, everybody of this user may look");
    ci_secrets::harden_process().expect("hardened");
    let behavior = rustix::process::dumpable_behavior().expect("asked");
    assert_eq!(behavior, rustix::process::DumpableBehavior::NotDumpable);
    let core = rustix::process::getrlimit(rustix::process::Resource::Core);
    assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
    if !rustix::process::geteuid().is_root() {
        // The file belongs to the superuser now.
        assert!(File::open("/proc/self/mem").is_err() && File::open("/proc/self/environ").is_err());
        println!("kept from its own user");
    }
    println!("hardened");
}

#[test]
fn a_hardened_process_keeps_its_memory_to_itself() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let program = folder.path().join("it");
    fs::copy(std::env::current_exe().expect("this program"), &program).expect("a copy");
    let run = |as_nobody: bool| {
        let mut command = Command::new(&program);
        command.args(["--exact", "memory::hardened", "--ignored", "--nocapture"]).env(HARDENED, "1");
        command.current_dir("/");
        if as_nobody {
            command.uid(65_534).gid(65_534);
        }
        let output = command.output().expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && text.contains("hardened"), "{text}");
        text
    };
    run(false);
    if rustix::process::geteuid().is_root() {
        assert!(run(true).contains("kept from its own user"));
    } else {
        skip("a_hardened_process_keeps_its_memory_to_itself", "root", "only root becomes another user");
    }
}
