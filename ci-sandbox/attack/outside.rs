//! Attacks on who is outside: S-3, S-4, and the namespaces themselves.

use crate::nr;
use crate::process::same_kernel;
use crate::scan::{contains, hexadecimal, link, path_of, shown};
use crate::sys::{O_RDONLY, O_RDWR, Page, Words, ask, open};
use crate::task::kill;
use crate::verdict::{Doors, Verdict, held, line, untried};

/// Namespaces that must not be the machine's: `namespaces BOOT kind:[number]...`.
pub(crate) fn namespaces(words: Words) -> Verdict {
    if !same_kernel(words.get(2)) {
        return held!("the kernel is not the machine's");
    }
    let mut doors = Doors::new();
    for index in 3..words.count() {
        let theirs = words.get(index).to_bytes();
        let kind = theirs.split(|byte| *byte == b':').next().unwrap_or(b"");
        let kind = str::from_utf8(kind).unwrap_or("");
        doors.tried_one();
        match link(path_of!("/proc/self/ns/{kind}").as_text()) {
            Ok(ours) if ours.as_text().to_bytes() == theirs => {
                doors.open(&line!("be in the machine's own {kind} namespace"));
            }
            Ok(_) => {}
            Err(error) => return untried!("/proc does not say which namespaces these are ({error})"),
        }
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("none of {} namespaces is the machine's", words.count() - 3),
        other => other,
    }
}

/// S-3: into a process outside: `S-3 SECRET-BACKWARDS PID ADDRESS PID ADDRESS...`. A process of that number may be one of
/// the sandbox's own; that it was reached is known by the secret that it holds.
pub(crate) fn reach_in(words: Words) -> Verdict {
    let secret = words.backwards(2);
    let secret = secret.get();
    let mut doors = Doors::new();
    let mut index = 3;
    while index + 1 < words.count() {
        let pid = words.number(index);
        let address = hexadecimal(words.get(index + 1).to_bytes());
        index += 2;
        doors.tried_one();
        let mut memory = Page::new();
        if read_memory(pid, address, &mut memory) && contains(memory.bytes(), secret) {
            doors.open(&line!("read the memory of a process outside"));
        }
        let mut line = Page::new();
        let is_it = crate::sys::read_start(path_of!("/proc/{pid}/cmdline").as_text(), &mut line)
            .is_ok_and(|length| contains(&line.bytes()[..length], secret));
        if is_it {
            doors.open(&line!("see a process outside in /proc"));
            if kill(pid as i32, 0).is_ok() {
                doors.open(&line!("signal a process outside"));
            }
            let file = path_of!("/proc/{pid}/mem");
            if open(file.as_text(), O_RDWR).is_ok() {
                doors.open(&line!("open {}", shown(file.as_text())));
            }
            if let Ok(process) = ask!(nr::PIDFD_OPEN, pid, 0)
                && ask!(nr::PIDFD_GETFD, process, 0, 0).is_ok()
            {
                doors.open(&line!("take a descriptor of a process outside"));
            }
        }
    }
    doors.closed("take a descriptor of process 1", take_from_process_one());
    let mut memory = Page::new();
    if ask!(nr::GETPID) != Ok(1)
        && open(c"/proc/1/maps", O_RDONLY)
            .is_ok_and(|file| crate::sys::read(file.0, &mut memory).is_ok_and(|length| length > 0))
    {
        doors.open(&line!("see where the memory of process 1 is"));
    }
    doors.verdict()
}

fn take_from_process_one() -> crate::sys::Result<usize> {
    let process = ask!(nr::PIDFD_OPEN, 1, 0)?;
    ask!(nr::PIDFD_GETFD, process, 0, 0)
}

fn read_memory(pid: usize, address: u64, into: &mut Page) -> bool {
    const LENGTH: u64 = 64;
    // Two `struct iovec` of an address and a length: ours, and theirs.
    let mut ours = Page::new();
    ours.put_u64(0, into.address());
    ours.put_u64(8, LENGTH);
    let mut theirs = Page::new();
    theirs.put_u64(0, address);
    theirs.put_u64(8, LENGTH);
    ask!(nr::PROCESS_VM_READV, pid, &mut ours, 1, &mut theirs, 1, 0).is_ok()
}

/// S-4: messages, shared memory and semaphores that another sandbox holds under `KEY`.
pub(crate) fn find_messages(words: Words) -> Verdict {
    let key = words.number(2);
    let mut doors = Doors::new();
    doors.closed("find shared memory of another sandbox", ask!(nr::SHMGET, key, 0, 0));
    doors.closed("find messages of another sandbox", ask!(nr::MSGGET, key, 0));
    doors.closed("find semaphores of another sandbox", ask!(nr::SEMGET, key, 0, 0));
    doors.closed("find a queue of another sandbox", ask!(nr::MQ_OPEN, queue(key).as_text(), 0, 0, 0));
    doors.verdict()
}

/// Makes what [`find_messages`] looks for; how many could be made.
pub(crate) fn leave_messages(key: usize) -> usize {
    const CREATE: usize = 0o1000 | 0o666;
    let mut attributes = Page::new();
    attributes.put_u64(8, 2);
    attributes.put_u64(16, 16);
    [
        ask!(nr::SHMGET, key, 4096, CREATE),
        ask!(nr::MSGGET, key, CREATE),
        ask!(nr::SEMGET, key, 1, CREATE),
        ask!(nr::MQ_OPEN, queue(key).as_text(), 0o102, 0o666, &mut attributes),
    ]
    .iter()
    .filter(|made| made.is_ok())
    .count()
}

fn queue(key: usize) -> Page {
    path_of!("attack-{key}")
}
