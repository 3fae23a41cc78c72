//! The peer that starts a program in namespaces of its own with the least ado: bubblewrap.

use std::process::Command;

/// One that shows what ours do: the host's `/usr`, `/proc`, a few devices, an empty `/tmp`. What is to run is still missing.
pub fn command() -> Command {
    let mut bwrap = Command::new("bwrap");
    bwrap.args(["--unshare-all", "--unshare-user", "--die-with-parent", "--new-session", "--clearenv"]);
    bwrap.args(["--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"]);
    bwrap.args(["--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    bwrap
}
