//! The conformance kits against the native backend.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use async_trait::async_trait;
use ci_core::Result;
use ci_core::conformance::Setup;
use ci_core::id::{ImageName, SandboxId};
use ci_core::sandbox::Backend;
use ci_sandbox::conformance::{self, Bench, World};
use ci_sandbox::native::{Config, ImageSource, Native};

use crate::realm::Realm;
use crate::support::{Rig, image, itself, native};

const STATE: &str = "CI_SANDBOX_KIT_STATE";
const MARKER: &str = "CI_SANDBOX_KIT_MARKER";

mod contract {
    ci_sandbox::sandbox_kit!(async || super::setup());
}

mod attacks {
    ci_sandbox::sandbox_attack_kit!(async || super::setup());
}

fn setup() -> Setup<Arc<dyn Bench>> {
    Setup::ready(Arc::new(OnNative(Rig::new())))
}

struct OnNative(Rig);

impl std::fmt::Debug for OnNative {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OnNative").field(&self.0.native).finish()
    }
}

#[async_trait]
impl Bench for OnNative {
    fn backend(&self) -> Arc<dyn Backend> {
        Arc::new(self.0.native.clone())
    }

    fn image(&self) -> ImageName {
        image()
    }

    fn folders(&self) -> Vec<PathBuf> {
        vec![self.0.state().to_owned()]
    }

    async fn with_image(&self, layout: &Path) -> Option<Result<(Arc<dyn Backend>, ImageName)>> {
        Some(of_image(&self.0, ImageSource::oci_layout(layout)))
    }

    async fn world(&self) -> Option<Arc<dyn World>> {
        Realm::new(Realm::routed()).map(|realm| Arc::new(realm) as Arc<dyn World>)
    }

    async fn crash(&self, marker: &str) -> Option<SandboxId> {
        let mut command = itself(&[], "kit::victim");
        command.env(STATE, self.0.state()).env(MARKER, marker).stdout(Stdio::piped());
        let mut victim = command.spawn().unwrap();
        let output = BufReader::new(victim.stdout.take().unwrap());
        let id = output.lines().find_map(|line| {
            let line = line.unwrap();
            line.rsplit_once("victim ").map(|(_, id)| SandboxId::parse(id).unwrap())
        });
        victim.kill().unwrap();
        victim.wait().unwrap();
        id
    }
}

/// A backend like the rig's that has this image alone.
pub(crate) fn of_image(rig: &Rig, source: ImageSource) -> Result<(Arc<dyn Backend>, ImageName)> {
    let name = ImageName::parse("hostile").unwrap();
    let state = rig.state().join(SandboxId::random().to_string());
    std::fs::create_dir(&state).unwrap();
    let native = Native::new(Config::new(state).with_image(name.clone(), source))?;
    Ok((Arc::new(native), name))
}

/// Not a test of its own: the program that a case kills.
#[test]
#[ignore = "run by another test"]
fn victim() {
    let (Ok(state), Ok(marker)) = (std::env::var(STATE), std::env::var(MARKER)) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let backend: Arc<dyn Backend> = Arc::new(native(Path::new(&state)));
        println!("victim {}", conformance::inhabit(backend, image(), &marker).await);
        std::future::pending::<()>().await;
    });
}

/// What an operator sees: `cargo test -p ci-sandbox --test it -- --nocapture the_assessment`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_assessment_of_this_machine_shows_no_hole() {
    let assessment = conformance::assess(Arc::new(OnNative(Rig::new()))).await;
    println!("{assessment}");
    let holes: Vec<_> = assessment.holes().collect();
    assert!(holes.is_empty(), "{holes:#?}");
}
