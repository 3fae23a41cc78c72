//! Attacks on secrets and on what names the machine: E-1, E-2.

use crate::nr;
use crate::process::same_kernel;
use crate::scan::{contains, file_contains, path_of, processes, shown};
use crate::sys::{Page, Words, ask, read_start};
use crate::verdict::{Doors, Verdict, held, line};

/// Where a program could have left a secret.
const FOLDERS: [&str; 9] =
    ["/work", "/tmp", "/run", "/run/secrets", "/dev/shm", "/var/tmp", "/home/ci", "/dev", "/"];

/// E-1, E-4: a secret that this program was not given, written backwards so that its own arguments do not hold it:
/// `E-1 TERCES OWNER`. The owner's variables are not looked at: whoever asked for a secret has it.
pub(crate) fn search(words: Words) -> Verdict {
    let (secret, owner) = (words.backwards(2), words.number(3));
    let secret = secret.get();
    let mut doors = Doors::new();
    let mut index = 0;
    while let Some(variable) = words.variable(index) {
        if contains(variable.to_bytes(), secret) {
            doors.open(&line!("read it in its own variables"));
        }
        index += 1;
    }
    let mut search = |file: Page| {
        doors.tried_one();
        if file_contains(file.as_text(), secret) == Ok(true) {
            doors.open(&line!("read it in {}", shown(file.as_text())));
        }
    };
    let _ = processes(|pid| {
        for file in ["cmdline", "environ", "auxv", "mountinfo", "cgroup", "comm"] {
            if pid != owner || file == "cmdline" {
                search(path_of!("/proc/{pid}/{file}"));
            }
        }
    });
    for file in ["/proc/1/mem", "/proc/mounts", "/etc/environment", "/proc/keys", "/proc/sysvipc/shm"] {
        search(path_of!("{file}"));
    }
    // A file of the secret's own may be there for as long as its program is: then only its processes are looked at.
    let folders: &[&str] = if words.get(4) == c"processes" { &[] } else { &FOLDERS };
    for folder in folders {
        let _ = crate::scan::names(path_of!("{folder}").as_text(), |name| {
            let file = path_of!("{folder}/{}", shown(name));
            // A pipe is not waited for: it is opened so that it says at once that nobody writes.
            search(file);
            true
        });
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("it is in no variable, argument or file that another program can read"),
        other => other,
    }
}

/// E-2: what names the machine: `E-2 BOOT HOSTNAME MACHINE-ID`.
pub(crate) fn what_names_the_machine(words: Words) -> Verdict {
    let mut doors = Doors::new();
    let mut names = Page::new();
    let _ = ask!(nr::UNAME, &mut names);
    let host = &names.bytes()[65..130];
    let host = &host[..host.iter().position(|byte| *byte == 0).unwrap_or(0)];
    if host == words.get(3).to_bytes() {
        doors.open(&line!("read the machine's host name"));
    }
    let machine = words.get(4).to_bytes();
    for file in [c"/etc/machine-id", c"/var/lib/dbus/machine-id", c"/sys/class/dmi/id/product_uuid"] {
        let mut page = Page::new();
        let is_it =
            read_start(file, &mut page).is_ok_and(|length| contains(&page.bytes()[..length], machine));
        if is_it {
            doors.open(&line!("read the machine's id in {}", shown(file)));
        }
    }
    let mut page = Page::new();
    if same_kernel(words.get(2)) && read_start(c"/proc/cmdline", &mut page).is_ok_and(|length| length > 1) {
        doors.open(&line!("read how the machine was started"));
    }
    // The kit gave it none.
    if let Some(variable) = words.variable(0) {
        doors.open(&line!("read the variable {}", shown(variable)));
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("neither name nor id nor variables of the machine"),
        other => other,
    }
}
