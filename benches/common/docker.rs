//! The peer that most CI systems start for a job: a Docker Engine. This one is the benchmark's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const IMAGE: &str = "bench";

/// A running engine with one image, in which there is nothing but `/bin/true`. It ends with this value.
pub struct Docker {
    daemon: Child,
    folder: PathBuf,
}

impl Docker {
    /// Starts one below `folder`, or says that there is none.
    pub fn start(folder: &Path) -> Option<Self> {
        let folder = folder.join("docker");
        fs::create_dir(&folder).expect("a folder");
        let daemon = daemon(&folder).spawn();
        let docker = daemon.ok().map(|daemon| Self { daemon, folder }).filter(Self::has_its_image);
        if docker.is_none() {
            println!("no Docker Engine starts here: no comparison with it");
        }
        docker
    }

    fn has_its_image(&self) -> bool {
        let Some(image) = image(&self.folder) else { return false };
        let deadline = Instant::now() + Duration::from_secs(30);
        let imported = || self.client().arg("import").arg(&image).arg(IMAGE).output();
        while !imported().is_ok_and(|output| output.status.success()) {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        true
    }

    fn client(&self) -> Command {
        let mut client = Command::new("docker");
        client.arg("--host").arg(format!("unix://{}", self.folder.join("socket").display()));
        client
    }

    /// A container without a network that lives for one `/bin/true`.
    pub fn life(&self) -> Command {
        let mut client = self.client();
        client.args(["run", "--rm", "--network", "none", IMAGE, "/bin/true"]);
        client
    }

    /// The system calls that the engine leaves a container, in the words of the OCI runtime specification: it wrote them
    /// for the runtime of a container that runs.
    pub fn seccomp(&self) -> Value {
        let started =
            self.client().args(["run", "--detach", "--network", "none", IMAGE, "/bin/true", "wait"]).output();
        let id = String::from_utf8(started.expect("a client").stdout).expect("an id");
        let tasks = "exec/containerd/daemon/io.containerd.runtime.v2.task/moby";
        let config = self.folder.join(tasks).join(id.trim()).join("config.json");
        let config: Value = serde_json::from_slice(&fs::read(config).expect("its bundle")).expect("its JSON");
        let _id = self.client().args(["rm", "--force", id.trim()]).output();
        config["linux"]["seccomp"].clone()
    }
}

/// The engine, as process 1 of a namespace: what it has started ends with it.
fn daemon(folder: &Path) -> Command {
    let at = |name: &str| folder.join(name);
    let mut daemon = Command::new("unshare");
    daemon.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]);
    daemon.args(["dockerd", "--bridge", "none", "--iptables=false", "--ip6tables=false"]);
    daemon.arg("--data-root").arg(at("data")).arg("--exec-root").arg(at("exec"));
    daemon.arg("--pidfile").arg(at("pid")).arg("--host").arg(format!("unix://{}", at("socket").display()));
    daemon.stdout(Stdio::null()).stderr(fs::File::create(at("log")).expect("a log"));
    daemon
}

/// An archive with a `/bin/true` that needs nothing beside it, and that waits where it gets an argument.
fn image(folder: &Path) -> Option<PathBuf> {
    let (source, root, archive) = (folder.join("true.c"), folder.join("root"), folder.join("image.tar"));
    fs::create_dir_all(root.join("bin")).ok()?;
    fs::write(&source, "int pause(void); int main(int count) { return count > 1 ? pause() : 0; }").ok()?;
    let mut compile = Command::new("cc");
    compile.arg("-static").arg("-o").args([&root.join("bin/true"), &source]);
    let mut pack = Command::new("tar");
    pack.arg("-cf").arg(&archive).arg("-C").arg(&root).arg("bin");
    let succeeds = |program: &mut Command| program.status().is_ok_and(|status| status.success());
    (succeeds(&mut compile) && succeeds(&mut pack)).then_some(archive)
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
