//! How long to wait for what must end.

use std::time::Duration;

/// How long the steps of an end may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For the launcher to do what takes it milliseconds, before it is killed itself; and for groups to empty once
    /// their processes are dead.
    pub(super) launcher: Duration,
    /// For the kernel to end what was killed: a job can hold millions of files for it to close.
    pub(super) kernel: Duration,
    /// For the kernel to let go of the namespaces of what is dead: after a process was killed for want of memory it takes
    /// two seconds (`mm/oom_kill.c`).
    pub(super) namespaces: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            launcher: Duration::from_secs(5),
            kernel: Duration::from_mins(1),
            namespaces: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::fs;
    use std::io::{BufRead as _, BufReader};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use ci_core::ErrorKind;
    use ci_core::conformance::skip;
    use ci_core::id::{ImageName, SandboxId};
    use ci_core::sandbox::{Backend as _, Spec};
    use tempfile::TempDir;
    use tokio::time::{sleep, timeout};

    use super::super::shared::Shared;
    use super::super::{Config, ImageSource, Native};
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_mins(1);

    /// A sandbox that the kernel cannot end until it is allowed to.
    struct Stubborn {
        state: TempDir,
        native: Native,
        id: SandboxId,
        straggler: Straggler,
    }

    impl Stubborn {
        /// Nothing where this user cannot make one.
        async fn with(kernel: Duration) -> Option<Self> {
            if !rustix::process::geteuid().is_root() {
                skip("patience", "root", "an ordinary user cannot enter a sandbox from outside");
                return None;
            }
            let state = tempfile::tempdir().unwrap();
            let native = native(state.path(), kernel);
            let id = SandboxId::random();
            drop(native.create(&id, &Spec::new(image())).await.unwrap());
            let straggler = Straggler::of(process_one(state.path(), &id));
            Some(Self { state, native, id, straggler })
        }

        fn entries(&self) -> usize {
            entries(self.state.path(), &self.id).len()
        }
    }

    /// A process of a sandbox whose parent is outside and does not look after it. A PID namespace ends only when its
    /// last process has been reaped.
    struct Straggler(Child);

    impl Straggler {
        fn of(process_one: u32) -> Self {
            // setns(2) into the namespace, where the next child will be.
            let number = if cfg!(target_arch = "x86_64") { 308 } else { 268 };
            let script = format!(
                "$| = 1; open $ns, '<', '/proc/{process_one}/ns/pid' or die $!; \
                 syscall({number}, fileno $ns, 0x20000000) == 0 or die $!; \
                 if (!($pid = fork)) {{ exec qw(sleep 1000) }} print qq(inside\\n); <STDIN>; waitpid $pid, 0"
            );
            let mut command = Command::new("perl");
            let mut parent =
                command.args(["-e", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut said = String::new();
            BufReader::new(parent.stdout.take().unwrap()).read_line(&mut said).unwrap();
            assert_eq!(said, "inside\n");
            Self(parent)
        }

        fn reap(mut self) {
            drop(self.0.stdin.take());
            self.0.wait().unwrap();
        }
    }

    fn image() -> ImageName {
        ImageName::parse("host").unwrap()
    }

    fn native(state: &Path, kernel: Duration) -> Native {
        let config = Config::new(state).with_image(image(), ImageSource::host_toolchain());
        Native(Shared::new(config, Patience { launcher: SHORT, kernel, ..Patience::default() }).unwrap())
    }

    fn entries(state: &Path, id: &SandboxId) -> Vec<std::path::PathBuf> {
        let owners = fs::read_dir(state.join("sandboxes")).unwrap().flatten();
        owners.map(|owner| owner.path().join(id.as_str())).filter(|entry| entry.exists()).collect()
    }

    fn process_one(state: &Path, id: &SandboxId) -> u32 {
        let text = fs::read_to_string(&entries(state, id)[0]).unwrap();
        let last = text.lines().last().unwrap().strip_prefix("process ").unwrap();
        last.split_once(' ').unwrap().0.parse().unwrap()
    }

    #[tokio::test]
    async fn a_kernel_that_takes_its_time_is_waited_for() {
        let Some(Stubborn { native, id, straggler, .. }) = Stubborn::with(LONG).await else { return };
        let reaped = async {
            sleep(6 * SHORT).await;
            straggler.reap();
        };
        let (residue, ()) = tokio::join!(native.destroy(&id), reaped);
        assert!(residue.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_takes_longer_is_not_called_gone_but_ends_later() {
        let Some(stubborn) = Stubborn::with(SHORT).await else { return };
        let error = stubborn.native.destroy(&stubborn.id).await.expect_err("it cannot be gone");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        stubborn.native.abandon(&stubborn.id);
        sleep(2 * SHORT).await;
        assert_eq!(stubborn.entries(), 1, "it is still in the books");

        let Stubborn { state, native, id, straggler } = stubborn;
        straggler.reap();
        let cleared = async {
            while !entries(state.path(), &id).is_empty() {
                sleep(SHORT).await;
            }
        };
        timeout(Duration::from_secs(10), cleared).await.expect("who abandons it tries again");
        assert!(native.destroy(&id).await.unwrap().is_empty());
        assert!(native.leftovers().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_next_owner_has_the_same_patience() {
        let Some(Stubborn { state, native: first, id, straggler }) = Stubborn::with(LONG).await else {
            return;
        };
        drop(first);
        let hasty = native(state.path(), SHORT);
        assert_eq!(hasty.leftovers().await.unwrap(), std::slice::from_ref(&id));
        assert!(hasty.destroy(&id).await.unwrap().processes > 0);
        assert_eq!(hasty.leftovers().await.unwrap(), std::slice::from_ref(&id));

        let patient = native(state.path(), LONG);
        let reaped = async {
            sleep(6 * SHORT).await;
            straggler.reap();
        };
        let (residue, ()) = tokio::join!(patient.destroy(&id), reaped);
        assert!(residue.unwrap().is_empty());
        assert!(patient.leftovers().await.unwrap().is_empty());
    }
}
