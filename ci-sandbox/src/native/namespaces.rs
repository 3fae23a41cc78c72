//! Whether the kernel has let go of a dead sandbox's namespaces.
//!
//! A file handle on a namespace (Linux 6.18) names it without holding it, and goes stale when it is gone. The kernel
//! takes its time with that, up to fifty milliseconds for the users and the network, so nobody waits for it: handles are
//! kept and looked at [later](super::lingering), and what somebody holds is a leftover.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use super::sys::{self, FileHandle};

/// The kinds of which a sandbox has one of its own from its first moment on. That of control groups, which it makes
/// when it has been put into its group, is none of them: it ends with the processes.
const KINDS: [&str; 6] = ["net", "user", "pid", "mnt", "ipc", "uts"];

/// How many of them, at the start, stay as long as the network.
const NETWORK_AND_USERS: usize = 2;

/// Handles on the namespaces of one sandbox; none where the kernel has no such handles, or does not give them to
/// ordinary users.
#[derive(Clone, Debug, Default)]
pub(super) struct Namespaces(Vec<FileHandle>);

impl Namespaces {
    /// Those of the process `pid`, which `pidfd` tells to be alive.
    pub(super) fn of(pid: i32, pidfd: &OwnedFd) -> Self {
        let folder = Path::new("/proc").join(pid.to_string()).join("ns");
        let handles = KINDS.iter().map_while(|kind| sys::file_handle(&folder.join(kind)).ok()).collect();
        let found = Self(handles);
        // Another process may have got the number of a dead one; and not everybody who gets a handle may use it.
        let is_usable = found.0.first().is_some_and(|handle| open(handle).is_ok());
        if sys::is_dead(pidfd) || !is_usable { Self::default() } else { found }
    }

    /// Those that do not stay for as long as the network does: without it and the users that own it.
    pub(super) fn without_network(&self) -> Self {
        Self(self.0.iter().skip(NETWORK_AND_USERS).cloned().collect())
    }

    /// How many still exist, or cannot be told not to.
    pub(super) fn count(&self) -> usize {
        self.0.iter().filter(|handle| !is_gone(&open(handle))).count()
    }
}

/// What cannot be opened for another reason, for want of descriptors say, may exist.
fn is_gone(opened: &io::Result<OwnedFd>) -> bool {
    opened.as_ref().is_err_and(|error| error.raw_os_error() == Some(Errno::STALE.raw_os_error()))
}

fn open(handle: &FileHandle) -> io::Result<OwnedFd> {
    let any = File::open("/proc/self/ns/mnt")?;
    sys::open_handle(any.as_fd(), handle)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use ci_core::conformance::skip;
    use ci_core::id::{ImageName, SandboxId};
    use ci_core::sandbox::{Backend as _, Residue, Spec};

    use super::super::shared::Shared;
    use super::super::{Config, ImageSource, Native, Patience};
    use super::*;

    fn handles_are_to_be_had() -> bool {
        let had = sys::file_handle(Path::new("/proc/self/ns/net")).is_ok();
        if !had {
            skip("namespaces", "nsfs-handles", "the kernel gives no file handles on namespaces to this user");
        }
        had
    }

    async fn sandbox(native: &Native) -> SandboxId {
        let id = SandboxId::random();
        drop(native.create(&id, &Spec::new(image())).await.unwrap());
        id
    }

    #[tokio::test]
    async fn a_network_that_a_service_has_too_is_no_leftover() {
        if !handles_are_to_be_had() {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let hasty = Patience { namespaces: Duration::from_millis(500), ..Patience::default() };
        let native = native(state.path(), hasty);
        let (job, service) = (sandbox(&native).await, SandboxId::random());
        drop(native.create_beside(&service, &Spec::new(image()), &job).await.unwrap());
        assert!(native.destroy(&job).await.unwrap().is_empty());
        assert_eq!(native.0.lingering.gone(&job, hasty.namespaces).await, Residue::default());
        assert!(native.leftovers().await.unwrap().is_empty());
        assert!(native.destroy(&service).await.unwrap().is_empty());
        assert_eq!(native.0.lingering.gone(&service, hasty.namespaces).await, Residue::default());
    }

    fn image() -> ImageName {
        ImageName::parse("host").unwrap()
    }

    /// A namespace of a sandbox, which stays for as long as its descriptor is open.
    fn hold(native: &Native, id: &SandboxId, kind: &str) -> OwnedFd {
        let life = native.0.living().get(id).cloned().unwrap();
        let place = KINDS.iter().position(|one| *one == kind).unwrap();
        open(&life.init().unwrap().namespaces.0[place]).unwrap()
    }

    fn native(state: &Path, patience: Patience) -> Native {
        let config = Config::new(state).with_image(image(), ImageSource::host_toolchain());
        Native(Shared::new(config, patience).unwrap())
    }

    #[tokio::test]
    async fn a_dead_sandboxs_namespaces_are_gone_soon() {
        if !handles_are_to_be_had() {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let native = native(state.path(), Patience::default());
        let id = sandbox(&native).await;
        let life = native.0.living().get(&id).cloned().unwrap();
        assert_eq!(life.init().unwrap().namespaces.count(), KINDS.len());
        drop(life);
        assert!(native.destroy(&id).await.unwrap().is_empty());
        assert_eq!(native.0.lingering.gone(&id, Patience::default().namespaces).await, Residue::default());
        assert!(native.leftovers().await.unwrap().is_empty());
    }

    #[test]
    fn one_that_cannot_be_looked_at_is_not_taken_for_gone() {
        assert!(is_gone(&Err(Errno::STALE.into())));
        for other in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::PERM, Errno::ACCESS] {
            assert!(!is_gone(&Err(other.into())), "{other:?}");
        }
    }

    #[tokio::test]
    async fn one_that_somebody_holds_is_a_leftover() {
        if !handles_are_to_be_had() {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let hasty = Patience { namespaces: Duration::from_millis(500), ..Patience::default() };
        let native = native(state.path(), hasty);
        let id = sandbox(&native).await;
        let held = hold(&native, &id, "uts");
        assert!(native.destroy(&id).await.unwrap().is_empty(), "nobody waits for it");
        assert_eq!(
            native.destroy(&id).await.unwrap().namespaces,
            2,
            "the host names, and the users that own them"
        );
        assert_eq!(native.leftovers().await.unwrap(), std::slice::from_ref(&id));
        drop(held);
        assert_eq!(native.0.lingering.gone(&id, Patience::default().namespaces).await, Residue::default());
        assert!(native.leftovers().await.unwrap().is_empty());
        assert!(native.destroy(&id).await.unwrap().is_empty());
    }
}
