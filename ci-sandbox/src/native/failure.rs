//! From what a sandbox's programs report to the errors of the ports.

use std::io;

use ci_core::sandbox::Command;
use ci_core::{Error, ErrorKind, External};
use rustix::io::Errno;

use super::transfer::UPLOAD;
use super::wire::Stage;

/// What is being done when a sandbox is made.
pub(super) const CREATE: &str = "create a sandbox";

/// A sandbox could not be made.
pub(super) fn creating(stage: Stage, errno: i32, item: Option<&[u8]>) -> Error {
    let cause = Errno::from_raw_os_error(errno);
    let error = Error::new(kind_of_creation(stage, cause), CREATE)
        .detail(format!("could not {}{}", stage.words(), item_text(item)))
        .caused_by(io::Error::from(cause));
    match advice(stage, cause) {
        Some(advice) => error.because(advice),
        None => error,
    }
}

fn kind_of_creation(stage: Stage, cause: Errno) -> ErrorKind {
    match (stage, cause) {
        (_, Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE) | (Stage::JoinGroup, _) => {
            ErrorKind::Unavailable
        }
        (Stage::OpenBind, Errno::NOENT | Errno::NOTDIR) => ErrorKind::NotFound,
        (Stage::Mount, Errno::NOTDIR | Errno::LOOP) => ErrorKind::Invalid,
        (Stage::Root | Stage::Mount | Stage::Devices, Errno::NOSPC) => ErrorKind::LimitExceeded,
        (_, Errno::PERM | Errno::ACCESS | Errno::NOSPC | Errno::USERS | Errno::NOSYS | Errno::INVAL) => {
            ErrorKind::Unsupported
        }
        _ => ErrorKind::Internal,
    }
}

fn advice(stage: Stage, cause: Errno) -> Option<&'static str> {
    match (stage, cause) {
        (Stage::Clone, Errno::NOSPC | Errno::USERS) => {
            Some("the machine allows no further user namespace; raise the sysctl user.max_user_namespaces")
        }
        (Stage::Clone | Stage::MapIds | Stage::Root | Stage::MemoryFiles, Errno::PERM | Errno::ACCESS) => {
            Some(
                "the machine forbids user namespaces to this program; allow them (kernel.unprivileged_userns_clone=1, \
             kernel.apparmor_restrict_unprivileged_userns=0, a container's seccomp profile) or start it as root",
            )
        }
        (Stage::Proc, Errno::PERM) => Some(
            "the kernel gives no new /proc where parts of the old one are hidden; start this program outside of a \
             container, or in one with an unmasked /proc",
        ),
        (Stage::Root | Stage::Mount | Stage::Devices, Errno::NOSPC) => {
            Some("the limit on disk or on files is too low even for the sandbox's own folders")
        }
        (Stage::Mount, Errno::NOTDIR | Errno::LOOP) => Some(
            "the image has a file or a link on the way to where a folder is to be shown; choose another path",
        ),
        (_, Errno::NOSYS) => Some("the kernel is too old; Linux 5.14 is needed"),
        (Stage::OpenBind, _) => Some("a path that the image or the spec names cannot be shown"),
        _ => None,
    }
}

/// The program of `command` could not be started.
pub(super) fn starting(stage: Stage, errno: i32, command: &Command) -> Error {
    let cause = Errno::from_raw_os_error(errno);
    let (kind, reason) = match (stage, cause) {
        (Stage::Execute, Errno::NOENT | Errno::NOTDIR) => (ErrorKind::NotFound, "there is no such program"),
        (Stage::Execute, Errno::ACCESS) => (ErrorKind::Invalid, "the file is not executable"),
        (Stage::Execute, Errno::NOEXEC) => {
            (ErrorKind::Invalid, "the file is no program: it has neither a known format nor a #! line")
        }
        (Stage::Execute | Stage::Request, Errno::TOOBIG) => {
            (ErrorKind::LimitExceeded, "its arguments and variables are too large together")
        }
        (Stage::Execute, _) => (ErrorKind::Invalid, "the kernel refuses the program"),
        (Stage::Secrets, Errno::NOSPC | Errno::DQUOT) => (ErrorKind::LimitExceeded, "the sandbox is full"),
        (Stage::Secrets, _) => {
            (ErrorKind::Invalid, "the folder of its secrets, /run/secrets, is the image's or the job's own")
        }
        (Stage::Terminal, Errno::NOSPC) => {
            (ErrorKind::LimitExceeded, "the sandbox has as many terminals as it may")
        }
        (Stage::Terminal, Errno::ACCESS | Errno::PERM) => {
            (ErrorKind::Invalid, "the job has locked its own terminals")
        }
        (Stage::Directory, Errno::NOENT | Errno::NOTDIR) => (ErrorKind::NotFound, "there is no such folder"),
        (Stage::Directory, _) => (ErrorKind::Invalid, "the folder cannot be entered"),
        (Stage::Fork | Stage::Table, _) => {
            (ErrorKind::LimitExceeded, "the sandbox runs as many processes as it may")
        }
        _ => (ErrorKind::Internal, "the sandbox could not prepare it"),
    };
    let error = Error::new(kind, "start a program").because(reason);
    let error = match stage {
        Stage::Execute => error.with("program", shortened(command.program.as_str())),
        Stage::Directory => error.with("folder", &command.directory),
        _ => error,
    };
    error.detail(stage.words()).caused_by(io::Error::from(cause))
}

/// A name that a job chose, as it may stand in an error.
fn shortened(name: &str) -> External {
    const LONGEST: usize = 200;
    External::new(name.chars().take(LONGEST).collect::<String>())
}

/// Files could not be taken into the sandbox or out of it.
pub(super) fn transferring(operation: &'static str, stage: Stage, errno: i32) -> Error {
    let cause = Errno::from_raw_os_error(errno);
    let (kind, reason) = match (stage, cause) {
        (_, Errno::NOSPC | Errno::DQUOT) => (ErrorKind::LimitExceeded, "the sandbox is full"),
        (Stage::OpenTarget, Errno::NOENT | Errno::NOTDIR) if operation == UPLOAD => {
            (ErrorKind::Invalid, "the job's user cannot make this folder; choose one below /work or /tmp")
        }
        (Stage::OpenTarget, Errno::NOENT | Errno::NOTDIR) => {
            (ErrorKind::NotFound, "there is nothing at this path")
        }
        (Stage::OpenTarget, _) => (ErrorKind::Invalid, "the job's user may not use this path"),
        (Stage::BadArchive, _) => (ErrorKind::Invalid, "it is no tar archive, or cut short"),
        (Stage::UnsafeName, _) => (ErrorKind::Invalid, "a name in the archive leads out of it"),
        (Stage::SpecialFile, _) => {
            (ErrorKind::Invalid, "the archive holds a device, a pipe or a sparse file")
        }
        (Stage::TooDeep, _) => (ErrorKind::LimitExceeded, "a path is too deep or too long"),
        (Stage::WriteFile, Errno::XDEV) => (ErrorKind::Invalid, "a link in the archive leads out of it"),
        (Stage::WriteFile, _) => (ErrorKind::Invalid, "a file of the archive cannot be written there"),
        (Stage::ReadFile, _) => (ErrorKind::Invalid, "a file cannot be read by the job's user"),
        (Stage::Fork | Stage::Table, _) => {
            (ErrorKind::LimitExceeded, "the sandbox runs as many processes as it may")
        }
        _ => (ErrorKind::Internal, "the sandbox could not do it"),
    };
    Error::new(kind, operation).because(reason).detail(stage.words()).caused_by(io::Error::from(cause))
}

/// The sandbox does not answer any more.
pub(super) fn gone(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation).because("the sandbox is gone").permanent()
}

/// The sandbox has been ended because of its own use of memory.
pub(super) fn out_of_memory(operation: &'static str) -> Error {
    Error::new(ErrorKind::LimitExceeded, operation)
        .because("the sandbox ran out of memory and is gone; raise its limit, or use less")
}

/// The host lacks something, descriptors or memory say, to do it.
pub(super) fn host(operation: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |error| {
        Error::new(ErrorKind::Unavailable, operation).because("the machine cannot do it now").caused_by(error)
    }
}

fn item_text(item: Option<&[u8]>) -> String {
    item.map(|item| format!(": {}", String::from_utf8_lossy(item))).unwrap_or_default()
}
