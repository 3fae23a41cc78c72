//! The same tests as a user without any privilege.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::support::{is_root, skip_here};

/// `nobody`, which every system has and nothing is owned by.
const NOBODY: u32 = 65_534;

#[test]
fn everything_holds_for_an_ordinary_user() {
    if !is_root() {
        return skip_here("root", "this is the ordinary user");
    }
    // Where the user may execute it, whoever built it.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let program = folder.path().join("it");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let status = Command::new(program)
        .args(["--test-threads=4", "--skip", "ordinary::"])
        .current_dir("/")
        // What takes root was run by root, and is no lack of this machine.
        .env_remove("CI_REQUIRE")
        .env_remove("CI_SKIPS")
        .uid(NOBODY)
        .gid(NOBODY)
        .status()
        .unwrap();
    assert!(status.success());
}
