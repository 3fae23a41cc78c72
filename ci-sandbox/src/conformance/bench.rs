//! What a backend's tests hand to the kits.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use ci_core::Result;
use ci_core::id::{ImageName, SandboxId};
use ci_core::sandbox::Backend;

use super::guest::Guest;
use super::world::World;

/// A backend, and the hands that a few cases need.
///
/// The [module](super) has an example.
#[async_trait]
pub trait Bench: fmt::Debug + Send + Sync {
    /// The backend under test, which nothing else uses meanwhile.
    fn backend(&self) -> Arc<dyn Backend>;

    /// An image that it can show. Nothing of what is in it is needed; it may be empty.
    fn image(&self) -> ImageName;

    /// Folders of this machine in which the backend keeps something, beside the usual ones for what is temporary. What a
    /// sandbox leaves behind is searched for there.
    fn folders(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// A backend like this one that has the image in `layout` (an OCI image layout of one image, whose layers are not
    /// compressed), and what it calls it. It is hostile: the backend may refuse it, here or when a sandbox is made.
    ///
    /// Nothing when the backend takes no such images; the case is skipped then.
    ///
    /// # Errors
    ///
    /// Why the backend does not take this image.
    async fn with_image(&self, layout: &Path) -> Option<Result<(Arc<dyn Backend>, ImageName)>> {
        let _ = layout;
        None
    }

    /// A network of its own for one case about rules, with a backend like this one in it.
    ///
    /// Nothing when the tests make none; the cases about rules are skipped then.
    async fn world(&self) -> Option<Arc<dyn World>> {
        None
    }

    /// Has *another* process make a sandbox, with a backend that shares its books with this one, and start something in
    /// it ([`inhabit`] does both), and kills that process with SIGKILL. `marker` is for the programs' arguments.
    ///
    /// Nothing when the tests have no such process; the case is skipped then.
    async fn crash(&self, marker: &str) -> Option<SandboxId> {
        let _ = marker;
        None
    }
}

/// Makes a sandbox and starts programs in it that would rather stay, with `marker` among their arguments. The sandbox is
/// left as it is: this is for the process that [`Bench::crash`] kills.
///
/// # Panics
///
/// When the sandbox cannot be made, or the programs cannot be started.
pub async fn inhabit(backend: Arc<dyn Backend>, image: ImageName, marker: &str) -> SandboxId {
    let guest = Guest::of(backend, ci_core::sandbox::Spec::new(image)).await.expect("a sandbox");
    guest.run(&["daemon", marker]).await.expect("a daemon");
    guest.leak_with(&["wait", marker]).await.expect("a program")
}
