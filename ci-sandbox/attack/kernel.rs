//! Attacks by calls of the kernel: F-7, F-8, F-18, S-1, S-5 to S-9, S-12 to S-14.

use crate::nr;
use crate::sys::{CWD, Errno, O_RDONLY, Page, Result, Words, ask, open};
use crate::task::{apart, exit, fork_with, wait};
#[cfg(not(target_arch = "x86_64"))]
use crate::verdict::untried;
use crate::verdict::{Doors, Verdict, broken, held, line};

pub(crate) const NEW_NS: usize = 0x0002_0000;
const NEW_TIME: usize = 0x80;
const NEW_CGROUP: usize = 0x0200_0000;
const NEW_UTS: usize = 0x0400_0000;
const NEW_IPC: usize = 0x0800_0000;
pub(crate) const NEW_USER: usize = 0x1000_0000;
const NEW_PID: usize = 0x2000_0000;
const NEW_NET: usize = 0x4000_0000;

/// F-7: changes to the tree of mounts.
pub(crate) fn change_mounts(_: Words) -> Verdict {
    const REMOUNT_BIND: usize = 0x20 | 0x1000;
    const MOVE: usize = 0x2000;
    const DETACH: usize = 2;
    let _ = ask!(nr::MKDIRAT, CWD, c"mounted", 0o755);
    let mut doors = Doors::new();
    doors.forbidden("mount memory", ask!(nr::MOUNT, c"none", c"mounted", c"tmpfs", 0, c"size=4096"));
    doors.forbidden("mount proc", ask!(nr::MOUNT, c"none", c"mounted", c"proc", 0, 0));
    doors.forbidden("bind a folder", ask!(nr::MOUNT, c"/proc", c"mounted", 0, 0x1000, 0));
    doors.forbidden("remount /proc/sys writable", ask!(nr::MOUNT, c"none", c"/proc/sys", 0, REMOUNT_BIND, 0));
    doors.forbidden("move a mount", ask!(nr::MOUNT, c"mounted", c"mounted", 0, MOVE, 0));
    doors.forbidden("unmount", ask!(nr::UMOUNT2, c"mounted", DETACH));
    doors.forbidden("change the root", ask!(nr::PIVOT_ROOT, c"mounted", c"mounted"));
    doors.forbidden("change its own root", apart_call(|| ask!(nr::CHROOT, c"mounted")));
    doors.forbidden("copy a mount", ask!(nr::OPEN_TREE, CWD, c"/proc", 1));
    doors.forbidden("open a file system", ask!(nr::FSOPEN, c"tmpfs", 0));
    doors.forbidden("pick a file system", ask!(nr::FSPICK, CWD, c"/proc", 0));
    let mut attributes = Page::new();
    doors.forbidden(
        "change a mount's attributes",
        ask!(nr::MOUNT_SETATTR, CWD, c"/proc", 0, &mut attributes, 32),
    );
    doors.forbidden("attach a mount", ask!(nr::MOVE_MOUNT, -1, c"", CWD, c"mounted", 4));
    while ask!(nr::UMOUNT2, c"mounted", DETACH).is_ok() {}
    doors.verdict()
}

/// A call that is made in a copy of this process, for what would stay.
fn apart_call(call: impl FnOnce() -> Result<usize>) -> Result<usize> {
    let answer = apart(|| call().map_or_else(|Errno(number)| number as u8, |_| 0));
    match answer {
        Ok(0) => Ok(0),
        Ok(number) => Err(Errno(number as i32)),
        // The filter's last word: the copy was killed for asking.
        Err(_) => Err(Errno(1)),
    }
}

/// F-8: a user namespace of its own, in which what is covered in `/proc` could be uncovered.
pub(crate) fn uncover_in_a_user_namespace(_: Words) -> Verdict {
    let _ = ask!(nr::MKDIRAT, CWD, c"uncovered", 0o755);
    let answer = apart(|| {
        if ask!(nr::UNSHARE, NEW_USER | NEW_NS).is_err() {
            return 1;
        }
        let is_mounted = ask!(nr::MOUNT, c"none", c"uncovered", c"proc", 0, 0).is_ok();
        let is_uncovered =
            ask!(nr::UMOUNT2, c"/proc/kcore", 0).is_ok() || ask!(nr::UMOUNT2, c"/proc/sys", 0).is_ok();
        if is_mounted || is_uncovered { 0 } else { 2 }
    });
    match answer {
        Ok(0) => broken!("it could: uncover /proc in a user namespace of its own"),
        Ok(2) => held!("a user namespace can be made, and what is covered stays covered"),
        _ => held!("no user namespace can be made"),
    }
}

/// F-18: kernel code that writes into the pages of files that can only be read (CVE-2026-31431): its sockets.
pub(crate) fn write_the_page_cache(_: Words) -> Verdict {
    const ALG: usize = 38;
    const SEQUENCED: usize = 5;
    let mut doors = Doors::new();
    doors.closed("open a socket of the kernel's ciphers", ask!(nr::SOCKET, ALG, SEQUENCED, 0));
    doors.closed("open two of them", ask!(nr::SOCKETPAIR, ALG, SEQUENCED, 0, &mut Page::new()));
    doors.verdict()
}

/// S-1: keys that other sessions of the same user share.
pub(crate) fn keys(_: Words) -> Verdict {
    const SESSION: i32 = -3;
    const USER: i32 = -4;
    let mut doors = Doors::new();
    doors.forbidden("find the session's keys", ask!(nr::KEYCTL, 0, SESSION, 0));
    doors.forbidden("find the user's keys", ask!(nr::KEYCTL, 0, USER, 0));
    doors.forbidden("add a key", ask!(nr::ADD_KEY, c"user", c"attack", c"x", 1, -1));
    doors.forbidden("request a key", ask!(nr::REQUEST_KEY, c"user", c"attack", 0, 0));
    doors.verdict()
}

/// S-5: namespaces, which bring the powers of a root over kernel code that is meant for administrators.
pub(crate) fn new_namespaces(_: Words) -> Verdict {
    const KINDS: [(&str, usize); 8] = [
        ("user", NEW_USER),
        ("mount", NEW_NS),
        ("process", NEW_PID),
        ("network", NEW_NET),
        ("message", NEW_IPC),
        ("host name", NEW_UTS),
        ("control group", NEW_CGROUP),
        ("time", NEW_TIME),
    ];
    let mut doors = Doors::new();
    for (kind, flag) in KINDS {
        if apart_call(|| ask!(nr::UNSHARE, flag)).is_ok() {
            doors.open(&line!("make a {kind} namespace"));
        }
        doors.tried_one();
        // Together with the user namespace that allows all others.
        if flag != NEW_TIME
            && let Ok(copy) = fork_with(flag | NEW_USER)
        {
            match copy {
                None => exit(0),
                Some(pid) => drop(wait(pid)),
            }
            doors.open(&line!("clone into a {kind} namespace"));
        }
    }
    let mut arguments = Page::new();
    arguments.put_u64(0, NEW_USER as u64);
    arguments.put_u64(32, 17);
    match ask!(nr::CLONE3, &mut arguments, 64) {
        Ok(0) => exit(0),
        Ok(pid) => {
            let _ = wait(pid as i32);
            doors.open(&line!("make one by clone3, whose flags no filter sees"));
        }
        Err(_) => doors.tried_one(),
    }
    if let Ok(file) = open(c"/proc/1/ns/mnt", O_RDONLY) {
        doors.forbidden("join a namespace of process 1", apart_call(|| ask!(nr::SETNS, file.0, 0)));
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("no namespace can be made or joined"),
        other => other,
    }
}

/// S-6: what is an administrator's. Where it is let through, the arguments make it fail.
pub(crate) fn administer(_: Words) -> Verdict {
    let mut page = Page::new();
    let mut doors = Doors::new();
    doors.forbidden("load a kernel", ask!(nr::KEXEC_LOAD, 0, 0, 0, 0x7fff));
    doors.forbidden("load a kernel by file", ask!(nr::KEXEC_FILE_LOAD, -1, -1, 0, 0, 0x7fff));
    doors.forbidden("load a module", ask!(nr::INIT_MODULE, 0, 0, c""));
    doors.forbidden("load a module by file", ask!(nr::FINIT_MODULE, -1, c"", 0));
    doors.forbidden("remove a module", ask!(nr::DELETE_MODULE, c"no such module", 0x800));
    doors.forbidden("reboot", ask!(nr::REBOOT, 0, 0, 0));
    doors.forbidden("swap on", ask!(nr::SWAPON, c"/no/such/file", 0));
    doors.forbidden("swap off", ask!(nr::SWAPOFF, c"/no/such/file"));
    doors.forbidden("keep accounts", ask!(nr::ACCT, c"/no/such/file"));
    doors.forbidden("change quotas", ask!(nr::QUOTACTL, 0x8000_0500_usize, c"/no/such/device", 0, &mut page));
    doors.forbidden("read the kernel's log", ask!(nr::SYSLOG, 3, &mut page, Page::SIZE));
    doors.forbidden("open files by handle", ask!(nr::OPEN_BY_HANDLE_AT, CWD, &mut handle(), 0));
    doors.forbidden("load a program into the kernel", ask!(nr::BPF, 0, &mut map_of_one(), 72));
    doors.forbidden("watch performance", ask!(nr::PERF_EVENT_OPEN, &mut software_clock(), 0, -1, -1, 0));
    doors.forbidden("handle page faults", ask!(nr::USERFAULTFD, 1));
    doors.forbidden("open a ring of calls", ask!(nr::IO_URING_SETUP, 1, &mut Page::new()));
    doors.forbidden("watch all files", ask!(nr::FANOTIFY_INIT, 0, 0));
    doors.forbidden("compare kernel pointers", ask!(nr::KCMP, 1, 1, 0, 0, 0));
    #[cfg(target_arch = "x86_64")]
    {
        const IOPL: usize = 172;
        doors.forbidden("speak to the hardware", apart_call(|| ask!(IOPL, 3)));
    }
    doors.verdict()
}

/// A file handle of no file.
fn handle() -> Page {
    let mut page = Page::new();
    page.put_u32(0, 8);
    page.put_u32(4, 1);
    page
}

/// `union bpf_attr` of an array with one number in it.
fn map_of_one() -> Page {
    let mut page = Page::new();
    for (at, value) in [(0, 2), (4, 4), (8, 4), (12, 1)] {
        page.put_u32(at, value);
    }
    page
}

/// `struct perf_event_attr` of a clock that needs no hardware, in user mode alone.
fn software_clock() -> Page {
    let mut page = Page::new();
    page.put_u32(0, 1);
    page.put_u32(4, 64);
    // exclude_kernel and exclude_hv.
    page.put_u64(40, 1 << 5 | 1 << 6);
    page
}

/// S-7: other ways into the kernel, which a filter may not know.
#[cfg(target_arch = "x86_64")]
pub(crate) fn other_doors(_: Words) -> Verdict {
    const GETPID_OF_32_BITS: usize = 20;
    const X32: usize = 0x4000_0000;
    let mut doors = Doors::new();
    // In copies: a filter may kill whoever knocks.
    let by_interrupt = apart(|| {
        let answer: u64;
        // SAFETY: int 0x80 is a system call by the 32-bit convention, the number in eax; getpid(2) takes nothing.
        // The kernel clears r8 to r11.
        unsafe {
            core::arch::asm!("int 0x80", inlateout("rax") GETPID_OF_32_BITS as u64 => answer,
                lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _);
        }
        u8::from((answer as i32).is_negative())
    });
    if by_interrupt == Ok(0) {
        doors.open(&line!("make calls as 32-bit programs do"));
    }
    let by_x32 = apart(|| u8::from(ask!(X32 | nr::GETPID).is_err()));
    if by_x32 == Ok(0) {
        doors.open(&line!("make calls as x32 programs do"));
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("there is one way into the kernel, and it is watched"),
        other => other,
    }
}

/// S-7: a 64-bit program of this architecture has no other way into the kernel.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn other_doors(_: Words) -> Verdict {
    untried!("this architecture has one way into the kernel")
}

/// S-8: calls that nobody knows yet, with which programs find out what a kernel can do.
pub(crate) fn unknown_calls(_: Words) -> Verdict {
    for number in [600, 999, 1023] {
        match apart(|| ask!(number).map_or_else(|error| error.0 as u8, |_| 0)) {
            Ok(38) => {}
            Ok(other) => {
                return broken!("call {number} answers {}, which no program expects", Errno(other as i32));
            }
            Err(signal) => {
                return broken!(
                    "call {number} ends the program with signal {signal}, which no program expects"
                );
            }
        }
    }
    held!("what the kernel does not know does not exist (ENOSYS)")
}

/// S-9: programs that confine themselves further, as browsers and package managers do, must be able to.
pub(crate) fn confine_further(_: Words) -> Verdict {
    const SET_FILTER: usize = 1;
    const NO_NEW_PRIVILEGES: usize = 38;
    let answer = apart(|| {
        // One instruction: allow.
        let mut instructions = Page::new();
        instructions.put_u32(0, 0x06);
        instructions.put_u32(4, 0x7fff_0000);
        let mut program = Page::new();
        program.put_u32(0, 1);
        program.put_u64(8, instructions.address());
        let _ = ask!(nr::PRCTL, NO_NEW_PRIVILEGES, 1, 0, 0, 0);
        ask!(nr::SECCOMP, SET_FILTER, 0, &mut program).map_or_else(|error| error.0 as u8, |_| 0)
    });
    match answer {
        Ok(0) => held!("a program can take a filter of its own"),
        Ok(error) => broken!("a program cannot confine itself further ({})", Errno(error as i32)),
        Err(signal) => broken!("a program that confines itself further is ended by signal {signal}"),
    }
}

/// S-12: personalities that switch the kernel's defences off.
pub(crate) fn personality(_: Words) -> Verdict {
    const NO_RANDOMIZE: usize = 0x004_0000;
    const READ_IMPLIES_EXEC: usize = 0x040_0000;
    const MAP_PAGE_ZERO: usize = 0x010_0000;
    let mut doors = Doors::new();
    for (name, personality) in [
        ("place programs at known addresses", NO_RANDOMIZE),
        ("execute data", READ_IMPLIES_EXEC),
        ("use the page at zero", MAP_PAGE_ZERO),
    ] {
        doors.forbidden(name, apart_call(|| ask!(nr::PERSONALITY, personality)));
    }
    doors.verdict()
}

/// S-13: another name for the machine, here the one that it has.
pub(crate) fn rename_the_host(_: Words) -> Verdict {
    let mut names = Page::new();
    let _ = ask!(nr::UNAME, &mut names);
    // struct utsname: six texts of 65 bytes.
    let text = |at: usize, names: &mut Page| {
        let name = &names.bytes()[at..at + 65];
        Page::text(&name[..name.iter().position(|byte| *byte == 0).unwrap_or(0)])
    };
    let (mut host, mut domain) = (text(65, &mut names), text(5 * 65, &mut names));
    let (host_length, domain_length) = (host.as_text().count_bytes(), domain.as_text().count_bytes());
    let mut doors = Doors::new();
    doors.forbidden("rename the host", ask!(nr::SETHOSTNAME, &mut host, host_length));
    doors.forbidden("rename the domain", ask!(nr::SETDOMAINNAME, &mut domain, domain_length));
    doors.verdict()
}

/// S-14: the machine's clock, set to what it is.
pub(crate) fn turn_the_clock(_: Words) -> Verdict {
    const TICK: u32 = 0x4000;
    let mut clock = Page::new();
    if let Err(error) = ask!(nr::ADJTIMEX, &mut clock) {
        return held!("the clock cannot even be asked ({error})");
    }
    // The tick stands in its place already; only the wish to set it is added.
    clock.put_u32(0, TICK);
    let mut doors = Doors::new();
    doors.forbidden("turn the clock", ask!(nr::ADJTIMEX, &mut clock));
    doors.forbidden("make a time namespace", apart_call(|| ask!(nr::UNSHARE, NEW_TIME)));
    doors.verdict()
}
