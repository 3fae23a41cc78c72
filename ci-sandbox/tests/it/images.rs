//! Images that were made elsewhere: found, checked, unpacked once, and shown.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::time::Duration;

use ci_core::conformance::skip;
use ci_core::id::ImageName;
use ci_core::sandbox::Spec;
use ci_core::{ByteSize, Error, ErrorKind};
use ci_sandbox::native::{Config, ImageSource, Native};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{Rig, Sandbox, eventually, is_root, refusal};
use crate::tar::Made;

/// Programs that test images have.
const PROGRAMS: [&str; 9] = ["sh", "cat", "env", "id", "ls", "stat", "touch", "mkdir", "readlink"];

/// A layer with a shell and what it needs, out of this machine's files.
pub(crate) fn programs() -> Made {
    let mut files = BTreeMap::new();
    for program in PROGRAMS {
        let path = format!("/bin/{program}");
        let output = Program::new("ldd").arg(&path).output().unwrap();
        let libraries = String::from_utf8_lossy(&output.stdout).into_owned();
        let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned);
        for file in libraries.chain([path]) {
            files.insert(file.trim_start_matches('/').to_owned(), fs::read(&file).unwrap());
        }
    }
    let made = Made::new().mode(0o755);
    files.iter().fold(made, |made, (name, content)| made.file(name, content))
}

pub(crate) fn digest(content: &[u8]) -> String {
    let digits: Vec<String> = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{}", digits.concat())
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    // Two frames and one to be skipped between them, as tools that compress in parallel write.
    let (head, tail) = content.split_at(content.len() / 2);
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    [
        compress_to_vec(head, CompressionLevel::Fastest),
        skipped.to_vec(),
        compress_to_vec(tail, CompressionLevel::Fastest),
    ]
    .concat()
}

/// An image on its way into a folder or a tarball.
pub(crate) struct Layers {
    /// Each as it is passed on, and as it was before it was compressed.
    layers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) config: Value,
}

impl Layers {
    pub(crate) fn new(layers: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Self {
        let layers: Vec<_> = layers.into_iter().collect();
        let diff_ids: Vec<String> = layers.iter().map(|(_, content)| digest(content)).collect();
        let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": {"Env": ["PATH=/opt/tools:/bin", "LANG=C.UTF-8", "none", "=x"], "User": "root"},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self { layers, config }
    }

    pub(crate) fn plain(layers: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self::new(layers.into_iter().map(|layer| (layer.clone(), layer)))
    }

    /// The files of an image layout with this image under the name `name`.
    pub(crate) fn files(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut add = |content: Vec<u8>, kind: &str| {
            let digest = digest(&content);
            let descriptor = json!({"mediaType": kind, "digest": digest, "size": content.len()});
            files.insert(format!("blobs/{}", digest.replace(':', "/")), content);
            descriptor
        };
        let config = add(self.config.to_string().into_bytes(), "application/vnd.oci.image.config.v1+json");
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|(passed_on, _)| {
                let compression = if passed_on.starts_with(&[0x1f, 0x8b]) { "+gzip" } else { "" };
                add(passed_on.clone(), &format!("application/vnd.oci.image.layer.v1.tar{compression}"))
            })
            .collect();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let mut manifest =
            add(manifest.to_string().into_bytes(), "application/vnd.oci.image.manifest.v1+json");
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        files.insert("index.json".into(), index.to_string().into_bytes());
        files.insert("oci-layout".into(), br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec());
        files
    }

    /// A tarball as Docker wrote it before version 25, in which the last layer is a link to the one before where both
    /// are the same.
    pub(crate) fn saved(&self, name: &str) -> Vec<u8> {
        let config = self.config.to_string().into_bytes();
        let config_name = format!("{}.json", &digest(&config)[7..]);
        let mut tarball = Made::new().file(&config_name, &config);
        let mut names = Vec::new();
        for (number, (layer, _)) in self.layers.iter().enumerate() {
            let name = format!("{number}/layer.tar");
            tarball = match number.checked_sub(1).filter(|before| self.layers[*before].0 == *layer) {
                Some(before) => tarball.symlink(&name, &format!("../{before}/layer.tar")),
                None => tarball.file(&name, layer),
            };
            names.push(name);
        }
        let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": names}]);
        tarball.file("manifest.json", manifest.to_string().as_bytes()).end()
    }
}

pub(crate) fn write_folder(files: &BTreeMap<String, Vec<u8>>, folder: &Path) {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

fn write_tarball(files: &BTreeMap<String, Vec<u8>>, path: &Path) {
    let tarball = files.iter().fold(Made::new(), |made, (name, content)| made.file(name, content));
    fs::write(path, tarball.end()).unwrap();
}

pub(crate) fn name() -> ImageName {
    ImageName::parse("image").unwrap()
}

pub(crate) fn config(state: &Path, source: ImageSource) -> Config {
    Config::new(state).with_image(name(), source)
}

/// A backend that has one image.
pub(crate) fn rig(source: ImageSource) -> Rig {
    let state = tempfile::tempdir().unwrap();
    Rig::of(Native::new(config(state.path(), source)).unwrap(), state)
}

/// What is said when a backend is made with an image that must be refused; whatever was made of it is gone.
pub(crate) fn refused(source: ImageSource) -> Error {
    refused_within(source, ByteSize::gib(1), 10_000)
}

fn refused_within(source: ImageSource, bytes: ByteSize, entries: u64) -> Error {
    let state = tempfile::tempdir().unwrap();
    let config = config(state.path(), source).with_image_bounds(bytes, entries);
    let error = refusal(Native::new(config));
    let left: Vec<PathBuf> = fs::read_dir(state.path().join("images"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_none_or(|extension| extension != "lock"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    error
}

/// The image of most tests: everything a layer can say, said once.
fn image() -> Layers {
    let base = programs()
        .file("etc/os-release", b"ID=test\n")
        .file("gone", b"x")
        .file("replaced/by/a/file", b"x")
        .file("opaque/lower", b"x")
        .file("opaque/kept/lower", b"x")
        .symlink("link", "/opt/tools")
        .end();
    let middle = Made::new()
        .mode(0o755)
        .file("opt/tools/greet", b"#!/bin/sh\necho greetings from $0\n")
        .hard_link("opt/tools/welcome", "opt/tools/greet")
        .file("link/through", b"#!/bin/sh\necho through a link\n")
        .mode(0o600)
        .owner(1000, 1000)
        .file("home-of-the-job", b"mine\n")
        .owner(0, 0)
        .file("secret-of-root", b"root's\n")
        .mode(0o4755)
        .file("set-user-id", b"x")
        .special("device", b'3')
        .end();
    let top = Made::new()
        .file(".wh.gone", b"")
        .file(".wh.never-there", b"")
        .file("replaced", b"by a file\n")
        .mode(0o755)
        .folder("opaque")
        .folder("opaque/kept")
        .file("opaque/upper", b"y")
        .file("opaque/kept/upper", b"y")
        // After what it must not hide.
        .file("opaque/.wh..wh..opq", b"")
        .end();
    Layers::new([(gzip(&base), base), (middle.clone(), middle), (zstd(&top), top)])
}

async fn sandbox(rig: &Rig) -> Sandbox {
    rig.sandbox_of(&Spec::new(name())).await
}

/// Checks that a sandbox shows what [`image`] says.
async fn check_image(rig: &Rig) {
    let sandbox = sandbox(rig).await;
    assert_eq!(sandbox.output("cat /etc/os-release").await, "ID=test");
    assert_eq!(sandbox.output("PATH=/opt/tools; greet; welcome; through").await.lines().count(), 3);
    assert_eq!(sandbox.output("readlink /link; stat -c %h /opt/tools/greet").await, "/opt/tools\n2");
    assert_eq!(
        sandbox.output("cat /replaced; ls /opaque /opaque/kept").await,
        "by a file\n/opaque:\nkept\nupper\n\n/opaque/kept:\nupper"
    );
    assert_eq!(sandbox.output("ls -d /gone /device 2>&1 || true").await.lines().count(), 2);
    assert!(!sandbox.output("ls -l /set-user-id").await.starts_with("-rws"));
    assert_eq!(sandbox.output("cat /home-of-the-job").await, "mine");
    if is_root() {
        assert_eq!(sandbox.output("stat -c %u:%g /bin/sh /home-of-the-job").await, "0:0\n1000:1000");
        assert!(!sandbox.run("cat /secret-of-root").await.exit.status.is_success());
    }
    // What it may write it writes into memory, and for itself.
    sandbox.output("set -e; echo changed > /home-of-the-job; touch /var/tmp/new").await;
    assert_eq!(sandbox.output("cat /home-of-the-job").await, "changed");
    let other = self::sandbox(rig).await;
    assert_eq!(other.output("cat /home-of-the-job; ls /var/tmp").await, "mine");
    // What an image does not bring.
    assert_eq!(other.output("id -un").await, "ci");
    other.destroy().await;
    sandbox.destroy().await;
}

#[tokio::test]
async fn an_image_layout_is_unpacked_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    write_folder(&image().files("a:1"), folder.path());
    check_image(&rig(ImageSource::oci_layout(folder.path()))).await;
    check_image(&rig(ImageSource::oci_layout(folder.path()).with_reference("a:1"))).await;
    let error = refused(ImageSource::oci_layout(folder.path()).with_reference("b"));
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    let said = "read an image: there is no such image in it; name one as it stands there";
    assert_eq!(error.to_string(), format!("{said} (names: \"a:1\", image: {})", name()));
}

#[tokio::test]
async fn a_tarball_of_either_form_is_unpacked_and_runs() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old.tar"), folder.path().join("new.tar"));
    fs::write(&old, image().saved("a:1")).unwrap();
    write_tarball(&image().files("a:1"), &new);
    for file in [old, new] {
        check_image(&rig(ImageSource::archive(&file))).await;
        check_image(&rig(ImageSource::archive(&file).with_reference("a:1"))).await;
        let error = refused(ImageSource::archive(&file).with_reference("a:2"));
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        fs::write(&file, gzip(&fs::read(&file).unwrap())).unwrap();
        let error = refused(ImageSource::archive(&file));
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("decompress"), "{error:?}");
    }
}

#[tokio::test]
async fn a_layer_that_is_there_twice_is_a_link() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("image.tar");
    let layer = programs().end();
    fs::write(&file, Layers::plain([layer.clone(), layer]).saved("a:1")).unwrap();
    let rig = rig(ImageSource::archive(&file));
    sandbox(&rig).await.destroy().await;
}

#[tokio::test]
async fn the_variables_of_an_image_lie_below_those_of_a_command() {
    let folder = tempfile::tempdir().unwrap();
    write_folder(&image().files("a"), folder.path());
    let rig = rig(ImageSource::oci_layout(folder.path()));
    let sandbox = sandbox(&rig).await;
    let arg = |text: &str| ci_core::job::Arg::new(text).unwrap();
    let bare = ci_core::sandbox::Command::new(arg("env"), []);
    let mut process = sandbox.exec(&bare).await.unwrap();
    let ran = crate::support::finish(&mut *process).await;
    drop(process);
    assert_eq!(ran.stdout, "LANG=C.UTF-8\nPATH=/opt/tools:/bin\n");
    let mut environment = ci_core::job::Environment::default();
    environment.set("LANG".parse().unwrap(), "C");
    let mut process = sandbox.exec(&bare.with_environment(&environment)).await.unwrap();
    let ran = crate::support::finish(&mut *process).await;
    drop(process);
    assert_eq!(ran.stdout, "LANG=C\nPATH=/opt/tools:/bin\n");
    sandbox.destroy().await;
}

#[tokio::test]
async fn what_was_unpacked_is_not_unpacked_again() {
    let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let image = image();
    write_folder(&image.files("a"), folder.path());
    let source = || ImageSource::oci_layout(folder.path());
    drop(Native::new(config(state.path(), source())).unwrap());
    // Without its layers it could not be.
    for (layer, _) in &image.layers {
        fs::remove_file(folder.path().join(format!("blobs/{}", digest(layer).replace(':', "/")))).unwrap();
    }
    let native = Native::new(config(state.path(), source())).unwrap();
    check_image(&Rig::of(native, state)).await;
    let error = refused(source());
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
}

#[test]
fn what_a_killed_program_has_unpacked_half_is_no_image() {
    let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let image = image();
    write_folder(&image.files("a"), folder.path());
    let id = digest(image.config.to_string().as_bytes()).replace(':', "-");
    let half = state.path().join("images").join(format!("{id}.new"));
    fs::create_dir_all(half.join("root/bin/deep")).unwrap();
    fs::write(half.join("root/bin/sh"), "half").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let native = Native::new(config(state.path(), ImageSource::oci_layout(folder.path()))).unwrap();
        assert!(!half.exists());
        check_image(&Rig::of(native, state)).await;
    });
}

#[test]
fn two_that_unpack_the_same_image_at_once_have_it_both() {
    let (folder, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_folder(&image().files("a"), folder.path());
    let made = std::thread::scope(|scope| {
        let make = || {
            let state = tempfile::tempdir().unwrap();
            let config = config(state.path(), ImageSource::oci_layout(folder.path()));
            (Native::new(config.with_store(store.path())).unwrap(), state)
        };
        let makers: Vec<_> = (0..4).map(|_| scope.spawn(make)).collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).collect::<Vec<_>>()
    });
    let roots = fs::read_dir(store.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(roots.count(), 1);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (native, state) in made {
        runtime.block_on(check_image(&Rig::of(native, state)));
    }
}

#[test]
fn images_that_nobody_uses_are_removed() {
    let (folder, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    write_folder(&image().files("a"), &one);
    write_folder(&Layers::plain([programs().end()]).files("a"), &two);
    let states = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let open = |state: usize, path: &Path| {
        let config = config(states[state].path(), ImageSource::oci_layout(path));
        Native::new(config.with_store(store.path())).unwrap()
    };
    let (first, second) = (open(0, &one), open(1, &two));
    assert_eq!(first.remove_unused_images().unwrap(), 0);
    drop(second);
    // A child that another test is just starting holds a copy of everything that is open, the locks of images too.
    let soon = Duration::from_secs(10);
    assert!(eventually(soon, || first.remove_unused_images().unwrap() == 1));
    // Neither it nor its lock is left; what is used is.
    assert_eq!(fs::read_dir(store.path()).unwrap().count(), 2);
    let second = open(1, &two);
    drop(first);
    assert!(eventually(soon, || second.remove_unused_images().unwrap() == 1));
}

#[test]
fn what_is_not_what_its_digest_says_is_refused() {
    let image = image();
    let files = image.files("a");
    let config_digest = digest(image.config.to_string().as_bytes());
    let blobs = files.keys().filter(|name| name.starts_with("blobs/"));
    for blob in blobs {
        let is_config = config_digest.replace(':', "/") == blob["blobs/".len()..];
        for change in ["longer", "other"] {
            let mut files = files.clone();
            let content = files.get_mut(blob).unwrap();
            match change {
                "longer" => content.push(b' '),
                // In a document a letter of a name that nobody reads; in a layer what it is the hash of.
                _ => *content.last_mut().unwrap() ^= 1,
            }
            let folder = tempfile::tempdir().unwrap();
            write_folder(&files, folder.path());
            let error = refused(ImageSource::oci_layout(folder.path()));
            assert!(
                matches!(error.kind(), ErrorKind::Tampered | ErrorKind::Invalid),
                "{blob} {is_config} {change}: {error:?}"
            );
        }
    }
    // What is as good, and not what was published.
    let replace = |blob: &str, from: &[u8], to: &[u8]| {
        let mut files = files.clone();
        let content = files.get_mut(blob).unwrap();
        let place = content.windows(from.len()).position(|window| window == from).unwrap();
        content[place..place + from.len()].copy_from_slice(to);
        let folder = tempfile::tempdir().unwrap();
        write_folder(&files, folder.path());
        refused(ImageSource::oci_layout(folder.path())).kind()
    };
    let blob = |digest: &str| format!("blobs/{}", digest.replace(':', "/"));
    // The time in the head of a gzip stream.
    let layer = blob(&digest(&image.layers[0].0));
    assert_eq!(replace(&layer, &[0x1f, 0x8b, 8, 0, 0], &[0x1f, 0x8b, 8, 0, 1]), ErrorKind::Tampered);
    assert_eq!(replace(&blob(&config_digest), b"LANG=C", b"LANG=D"), ErrorKind::Tampered);
    let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
    let size = index["manifests"][0]["size"].to_string();
    let other = size.replace(|digit: char| digit != '9', "9");
    let [size, other] = [size, other].map(|size| format!("\"size\":{size}"));
    assert_eq!(replace("index.json", size.as_bytes(), other.as_bytes()), ErrorKind::Tampered);
    // A layer whose own digest is right, and which is not what the configuration says.
    let mut other = image;
    other.layers[1].0 = Made::new().file("bin/sh", b"other").end();
    let folder = tempfile::tempdir().unwrap();
    write_folder(&other.files("a"), folder.path());
    let error = refused(ImageSource::oci_layout(folder.path()));
    assert_eq!(error.kind(), ErrorKind::Tampered, "{error:?}");
    let tarball = folder.path().join("image.tar");
    fs::write(&tarball, other.saved("a")).unwrap();
    assert_eq!(refused(ImageSource::archive(tarball)).kind(), ErrorKind::Tampered);
}

#[test]
fn an_image_larger_than_allowed_is_refused() {
    let bomb = Made::new().file("zeros", &vec![0; 8 << 20]).end();
    let entries = (0..200).fold(Made::new(), |made, number| made.file(&format!("f{number}"), b"")).end();
    let deep = Made::new().file(&["a"; 40].join("/"), b"").end();
    let cases = [
        ("folders that only lead to others", Layers::plain([deep]), ByteSize::mib(1), 20),
        ("bytes", Layers::new([(gzip(&bomb), bomb.clone())]), ByteSize::mib(7), 1_000),
        ("zstd", Layers::new([(zstd(&bomb), bomb.clone())]), ByteSize::mib(7), 1_000),
        ("all layers together", Layers::plain([entries.clone(), entries.clone()]), ByteSize::mib(1), 399),
        ("entries", Layers::plain([entries]), ByteSize::mib(1), 199),
    ];
    for (name, image, bytes, most) in cases {
        let folder = tempfile::tempdir().unwrap();
        write_folder(&image.files("a"), folder.path());
        let error = refused_within(ImageSource::oci_layout(folder.path()), bytes, most);
        assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{name}: {error:?}");
    }
}

#[test]
fn an_image_for_other_machines_is_refused() {
    for (key, value) in [("architecture", "s390x"), ("os", "windows")] {
        let mut image = image();
        image.config[key] = json!(value);
        let folder = tempfile::tempdir().unwrap();
        write_folder(&image.files("a"), folder.path());
        let error = refused(ImageSource::oci_layout(folder.path()));
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    }
}

/// Whether a program of others' is there; says so if not.
fn has(test: &str, program: &str) -> bool {
    let is_there =
        Program::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !is_there {
        skip(test, program, "the program is not installed");
    }
    is_there
}

fn run(words: &[&str]) {
    let output = Program::new(words[0]).args(&words[1..]).env("HOME", "/nonexistent").output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn what_skopeo_writes_is_read() {
    if !has("what_skopeo_writes_is_read", "skopeo") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    // It knows no whiteout in what it copies, and takes ours.
    write_folder(&image().files("a"), &folder.path().join("ours"));
    let from = format!("oci:{}:a", at("ours"));
    for (to, source) in [
        (format!("oci:{}:b", at("layout")), ImageSource::oci_layout(at("layout")).with_reference("b")),
        (format!("oci-archive:{}:b", at("oci.tar")), ImageSource::archive(at("oci.tar"))),
        (format!("docker-archive:{}:b:1", at("docker.tar")), ImageSource::archive(at("docker.tar"))),
    ] {
        run(&["skopeo", "--insecure-policy", "copy", &from, &to]);
        check_image(&rig(source)).await;
    }
}

#[tokio::test]
async fn umoci_unpacks_the_same() {
    if !has("umoci_unpacks_the_same", "umoci") || !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    let mut image = image();
    // It knows neither zstd nor layers with devices, and replaces links to folders on the way.
    let [base, top] = [image.layers.remove(0).1, image.layers.pop().unwrap().1];
    image = Layers::new([(gzip(&base), base), (gzip(&top), top)]);
    write_folder(&image.files("a"), &layout);
    let theirs = folder.path().join("theirs");
    run(&["umoci", "raw", "unpack", "--image", &format!("{}:a", layout.display()), theirs.to_str().unwrap()]);
    let state = tempfile::tempdir().unwrap();
    let native = Native::new(config(state.path(), ImageSource::oci_layout(&layout))).unwrap();
    let id = digest(image.config.to_string().as_bytes()).replace(':', "-");
    let ours = state.path().join("images").join(id);
    // Ours has besides what programs need and no layer brings.
    let difference =
        Program::new("diff").args(["-rq", "--no-dereference"]).arg(&theirs).arg(&ours).output().unwrap();
    let difference = String::from_utf8_lossy(&difference.stdout).into_owned();
    assert!(
        difference.lines().all(|line| line.starts_with(&format!("Only in {}", ours.display()))),
        "{difference}"
    );
    drop(native);
}

/// A Docker daemon of this test's own, which ends with it.
struct Docker {
    daemon: std::process::Child,
    folder: tempfile::TempDir,
}

impl Docker {
    /// Starts one without network and waits until it answers.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let log = fs::File::create(at("log")).unwrap();
        // The daemon is process 1 of a namespace: what it has started ends with it.
        let daemon = Program::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
            .args([
                "dockerd",
                "--storage-driver",
                "vfs",
                "--bridge",
                "none",
                "--iptables=false",
                "--ip6tables=false",
            ])
            .args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")])
            .args(["--host", &format!("unix://{}", at("socket"))])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let docker = Self { daemon, folder };
        let answers = || docker.command(&["version"]).output().unwrap().status.success();
        assert!(eventually(Duration::from_secs(30), answers), "{:?}", fs::read_to_string(docker.at("log")));
        docker
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn command(&self, words: &[&str]) -> Program {
        let mut command = Program::new("docker");
        command.args(["--host", &format!("unix://{}", self.at("socket"))]).args(words);
        command
    }

    fn run(&self, words: &[&str]) -> String {
        let output = self.command(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[tokio::test]
async fn what_a_docker_daemon_saves_is_read() {
    const TEST: &str = "what_a_docker_daemon_saves_is_read";
    if !has(TEST, "dockerd") || !has(TEST, "docker") {
        return;
    }
    if !is_root() {
        return skip(TEST, "root", "an ordinary user starts no Docker daemon");
    }
    let docker = Docker::start();
    fs::write(docker.at("base.tar"), programs().end()).unwrap();
    docker.run(&["import", "--change", "ENV PATH=/bin GREETING=hello", &docker.at("base.tar"), "base:1"]);
    let container = docker.run(&["create", "--network", "none", "base:1", "/bin/sh"]);
    fs::write(docker.at("added"), "by docker cp").unwrap();
    docker.run(&["cp", &docker.at("added"), &format!("{container}:/added")]);
    docker.run(&["commit", &container, "top:1"]);
    docker.run(&["save", "--output", &docker.at("saved.tar"), "base:1", "top:1"]);
    let source = || ImageSource::archive(docker.at("saved.tar"));
    let error = refused(source());
    assert!(error.to_string().contains("several images"), "{error}");
    let rig = rig(source().with_reference("top:1"));
    let sandbox = sandbox(&rig).await;
    assert_eq!(sandbox.output("cat /added; echo; echo $GREETING").await, "by docker cp\nhello");
    sandbox.destroy().await;
}
