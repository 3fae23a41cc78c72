//! Attacks on files and devices: F-1 to F-19.

use core::ffi::CStr;

use crate::nr;
use crate::scan::{contains, file_system, kind, link, names, path_of, shown};
use crate::sys::{
    self, CWD, Errno, O_CREAT, O_RDONLY, O_RDWR, O_WRONLY, Page, Words, ask, open, read_start, write_all,
};
use crate::task::apart;
use crate::verdict::{Doors, Verdict, broken, held, line, untried};

const KIND: u32 = 0o170_000;
const CHARACTER: u32 = 0o020_000;
const FOLDER: u32 = 0o040_000;

/// F-3: what an image made of links, devices and names leads to: `F-3 TERCES`, where the word is in a file of the machine
/// that the image's links point to.
pub(crate) fn hostile_image(words: Words) -> Verdict {
    let secret = words.backwards(2);
    let mut doors = Doors::new();
    for door in [
        "/escape",
        "/folder/file",
        "/hard",
        "/up/file",
        "/etc/passwd",
        "/etc/resolv.conf",
        "/work/file",
        "/tmp/file",
    ] {
        doors.tried_one();
        if crate::scan::file_contains(path_of!("{door}").as_text(), secret.get()) == Ok(true) {
            doors.open(&line!("read a file of the machine at {door}"));
        }
    }
    for device in ["/disk", "/memory", "/dev/memory", "/dev/disk", "/etc/disk"] {
        let path = path_of!("{device}");
        let is_device =
            kind(path.as_text()).is_ok_and(|(mode, _)| matches!(mode & KIND, CHARACTER | 0o060_000));
        doors.tried_one();
        if is_device && open(path.as_text(), O_RDONLY).is_ok() {
            doors.open(&line!("open the image's device {device}"));
        }
    }
    // What is written there must not arrive; the kit looks.
    for door in
        ["/folder/new", "/up/new", "/work/new", "/tmp/new", "/proc/new", "/dev/new", "/etc/new", "/escape"]
    {
        let _ = put(path_of!("{door}").as_text(), b"hit");
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("the image's links and devices lead nowhere"),
        other => other,
    }
}

/// F-1: descriptors of the programs that made the sandbox (CVE-2024-21626), and a working directory outside.
pub(crate) fn inherited_descriptors(_: Words) -> Verdict {
    const GET_FLAGS: usize = 1;
    const MOST: usize = 65_536;
    let mut doors = Doors::new();
    for file in 3..MOST {
        doors.tried_one();
        if ask!(nr::FCNTL, file, GET_FLAGS, 0).is_ok() {
            let target = link(path_of!("/proc/self/fd/{file}").as_text());
            let target = target.as_ref().map_or("unknown", |target| shown(target.as_text()));
            doors.open(&line!("use the open descriptor {file} ({target})"));
        }
    }
    for file in 0..3 {
        let is_folder =
            kind(path_of!("/proc/self/fd/{file}/.").as_text()).is_ok_and(|(mode, _)| mode & KIND == FOLDER);
        if is_folder {
            doors.open(&line!("leave through the folder that descriptor {file} is"));
        }
    }
    let mut folder = Page::new();
    match ask!(nr::GETCWD, &mut folder, Page::SIZE) {
        Ok(_) if folder.bytes().starts_with(b"/") => {}
        _ => doors.open(&line!("leave through a working directory that is outside")),
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("nothing is open but the three streams"),
        other => other,
    }
}

/// F-2: writes to the program that supervises (CVE-2019-5736), or to its memory.
pub(crate) fn overwrite_the_supervisor(_: Words) -> Verdict {
    let parent = ask!(nr::GETPPID).unwrap_or(0);
    let mut doors = Doors::new();
    for pid in [1, parent] {
        if pid == 0 || ask!(nr::GETPID) == Ok(pid) {
            continue;
        }
        for file in ["exe", "mem", "root/attack", "cwd/attack"] {
            let flags = if file.contains('/') { O_WRONLY | O_CREAT } else { O_WRONLY };
            let door = path_of!("/proc/{pid}/{file}");
            doors.closed(shown(door.as_text()), open(door.as_text(), flags));
        }
    }
    doors.verdict()
}

/// F-5: what stands at a device's path must be the device (CVE-2025-31133, CVE-2025-52565).
pub(crate) fn devices_are_devices(_: Words) -> Verdict {
    // Linux, Documentation/admin-guide/devices.txt.
    const DEVICES: [(&CStr, [u32; 2]); 6] = [
        (c"/dev/null", [1, 3]),
        (c"/dev/zero", [1, 5]),
        (c"/dev/full", [1, 7]),
        (c"/dev/random", [1, 8]),
        (c"/dev/urandom", [1, 9]),
        (c"/dev/tty", [5, 0]),
    ];
    let mut doors = Doors::new();
    for (device, numbers) in DEVICES {
        doors.tried_one();
        match kind(device) {
            Ok((mode, found)) if mode & KIND == CHARACTER && found == numbers => {}
            Err(Errno(2)) => {}
            _ => doors.open(&line!("be shown something else as {}", shown(device))),
        }
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("every device is the one of its name"),
        other => other,
    }
}

/// F-6: what is written to `/proc` must go to `/proc` (CVE-2025-52881).
pub(crate) fn proc_is_proc(_: Words) -> Verdict {
    const PROC: u64 = 0x9fa0;
    for file in [c"/proc", c"/proc/self/attr", c"/proc/sys", c"/proc/self/status"] {
        match file_system(file) {
            Ok(PROC) => {}
            Err(Errno(2)) => return held!("there is no {}", shown(file)),
            Ok(other) => return broken!("{} is on another file system ({other:#x})", shown(file)),
            Err(error) => return untried!("{} cannot be looked at ({error})", shown(file)),
        }
    }
    held!("/proc is the kernel's")
}

/// F-9: devices of the machine, made or opened.
pub(crate) fn devices(_: Words) -> Verdict {
    const BLOCK: usize = 0o060_660;
    const CHARACTER: usize = 0o020_666;
    let mut doors = Doors::new();
    // A disk, and the kernel's memory.
    for (name, mode, number) in [(c"disk", BLOCK, 0x800_usize), (c"memory", CHARACTER, 0x101)] {
        let made = ask!(nr::MKNODAT, CWD, name, mode, number);
        let opened = made.and_then(|_| open(name, O_RDONLY));
        doors.closed("make and open a device", opened);
        let _ = ask!(nr::UNLINKAT, CWD, name, 0);
    }
    for device in [
        c"/dev/kmsg",
        c"/dev/mem",
        c"/dev/port",
        c"/dev/kvm",
        c"/dev/fuse",
        c"/dev/net/tun",
        c"/dev/vsock",
        c"/dev/vhost-vsock",
        c"/dev/loop-control",
        c"/dev/mapper/control",
        c"/dev/sda",
        c"/dev/vda",
        c"/dev/nvme0n1",
        c"/dev/uinput",
        c"/dev/console",
    ] {
        doors.closed(shown(device), open(device, O_RDONLY));
    }
    doors.verdict()
}

/// F-10: switches of the kernel. They are opened to write, and nothing is written.
pub(crate) fn switches(_: Words) -> Verdict {
    let mut doors = Doors::new();
    for switch in [
        c"/proc/sys/kernel/core_pattern",
        c"/proc/sys/kernel/modprobe",
        c"/proc/sys/kernel/hostname",
        c"/proc/sys/kernel/panic",
        c"/proc/sys/kernel/sysrq",
        c"/proc/sys/vm/drop_caches",
        c"/proc/sys/vm/overcommit_memory",
        c"/proc/sys/fs/suid_dumpable",
        c"/proc/sys/fs/binfmt_misc/register",
        c"/proc/sys/net/ipv4/ip_forward",
        c"/proc/sysrq-trigger",
        c"/proc/irq/0/smp_affinity",
        c"/proc/bus/pci/00/00.0",
        c"/proc/mtrr",
        c"/proc/scsi/scsi",
        c"/proc/acpi/wakeup",
        c"/sys/kernel/uevent_helper",
        c"/sys/kernel/mm/transparent_hugepage/enabled",
        c"/sys/power/state",
        c"/sys/module/kernel/parameters/crash_kexec_post_notifiers",
        c"/sys/kernel/debug/tracing/trace_marker",
        c"/sys/kernel/tracing/trace_marker",
        c"/sys/firmware/efi/efivars",
    ] {
        doors.closed(shown(switch), open(switch, O_WRONLY));
    }
    doors.verdict()
}

/// F-10: what tells of the machine, and of keys and addresses that a way out begins with.
pub(crate) fn tales_of_the_machine(_: Words) -> Verdict {
    let mut page = Page::new();
    let mut doors = Doors::new();
    for file in [
        c"/proc/kcore",
        c"/proc/keys",
        c"/proc/timer_list",
        c"/proc/cmdline",
        c"/proc/interrupts",
        c"/proc/sched_debug",
        c"/proc/latency_stats",
    ] {
        doors.tried_one();
        if read_start(file, &mut page).is_ok_and(|length| length > 0) {
            doors.open(&line!("read {}", shown(file)));
        }
    }
    for folder in [c"/sys/firmware", c"/sys/kernel/debug", c"/proc/acpi", c"/proc/scsi", c"/proc/pressure"] {
        doors.tried_one();
        let mut entries = 0;
        let _ = names(folder, |_| {
            entries += 1;
            true
        });
        if entries > 0 {
            doors.open(&line!("look into {}", shown(folder)));
        }
    }
    doors.tried_one();
    if read_start(c"/proc/kallsyms", &mut page).is_ok_and(|length| length > 16)
        && page.bytes()[..16].iter().any(|digit| *digit != b'0')
    {
        doors.open(&line!("read the kernel's addresses in /proc/kallsyms"));
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("none of them says anything"),
        other => other,
    }
}

/// F-12: control groups, whose release agent runs on the machine (CVE-2022-0492).
pub(crate) fn control_groups(_: Words) -> Verdict {
    let mut doors = Doors::new();
    for file in [
        c"/sys/fs/cgroup/release_agent",
        c"/sys/fs/cgroup/cgroup.procs",
        c"/sys/fs/cgroup/memory/release_agent",
        c"/sys/fs/cgroup/memory/memory.limit_in_bytes",
        c"/sys/fs/cgroup/memory.max",
        c"/sys/fs/cgroup/pids/pids.max",
        c"/sys/fs/cgroup/pids.max",
        c"/sys/fs/cgroup/devices/devices.allow",
        c"/sys/fs/cgroup/unified/cgroup.procs",
    ] {
        doors.closed(shown(file), open(file, O_WRONLY));
    }
    let made = ask!(nr::MKDIRAT, CWD, c"/sys/fs/cgroup/attack", 0o755);
    doors.closed("make a control group", made);
    let _ = ask!(nr::UNLINKAT, CWD, c"/sys/fs/cgroup/attack", 0x200);
    let _ = ask!(nr::MKDIRAT, CWD, c"groups", 0o755);
    for kind in [c"cgroup", c"cgroup2"] {
        doors.forbidden(
            "mount control groups",
            ask!(nr::MOUNT, c"none", c"groups", kind, 0, c"none,name=attack"),
        );
        let _ = ask!(nr::UMOUNT2, c"groups", 2);
    }
    doors.verdict()
}

/// F-15: a tree that is too deep for whoever would clear it by hand, and names that are no text.
pub(crate) fn deep_and_many(words: Words) -> Verdict {
    let deep = words.number(2);
    let made = apart(|| {
        for level in 0..deep {
            let made = ask!(nr::MKDIRAT, CWD, c"d", 0o755).and_then(|_| ask!(nr::CHDIR, c"d"));
            if made.is_err() {
                return u8::from(level < 1000);
            }
        }
        0
    });
    let mut longest = [b'n'; 256];
    longest[255] = 0;
    let longest = CStr::from_bytes_until_nul(&longest).unwrap_or(c"");
    let odd = c"\xff\xfe\n\t\x1b[2J";
    for name in [longest, odd] {
        if let Err(error) = open(name, O_WRONLY | O_CREAT) {
            return untried!("a file cannot be made ({error})");
        }
    }
    let mut links = 0;
    while links < 2_000 && ask!(nr::LINKAT, CWD, longest, CWD, path_of!("link-{links}").as_text(), 0).is_ok()
    {
        links += 1;
    }
    match made {
        Ok(0) => held!("{deep} folders deep, {links} names of one file, names that are no text"),
        _ => untried!("the folders cannot be made"),
    }
}

/// F-19: whether what is written can reach a disk, by swapping too.
pub(crate) fn in_memory_alone(_: Words) -> Verdict {
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    const OVERLAY: u64 = 0x794c_7630;
    let mut swaps = Page::new();
    let swaps = read_start(c"/proc/swaps", &mut swaps)
        .map(|length| swaps.bytes()[..length].split(|byte| *byte == b'\n').count() > 2);
    let mut doors = Doors::new();
    for folder in [c"/work", c"/tmp", c"/dev/shm", c"/var/tmp"] {
        doors.tried_one();
        match file_system(folder) {
            Ok(TMPFS) if swaps == Ok(false) || is_never_swapped() => {}
            Ok(RAMFS) | Err(_) => {}
            Ok(TMPFS) => doors.open(&line!("have {} swapped out", shown(folder))),
            Ok(OVERLAY) => {
                return untried!(
                    "{} is an overlay, and what is below cannot be seen from inside",
                    shown(folder)
                );
            }
            Ok(other) => doors.open(&line!("write {} to a disk (file system {other:#x})", shown(folder))),
        }
    }
    match doors.verdict() {
        Verdict::Held(_) => held!("whatever is written lies in memory that is not swapped out"),
        other => other,
    }
}

/// Whether the root's own tree is mounted without swap.
fn is_never_swapped() -> bool {
    let mut page = Page::new();
    read_start(c"/proc/self/mountinfo", &mut page).is_ok_and(|length| {
        let lines = page.bytes()[..length].split(|byte| *byte == b'\n');
        lines.filter(|line| contains(line, b" / / ")).any(|line| contains(line, b"noswap"))
    })
}

/// The image: what every sandbox on it shares.
pub(crate) fn write_the_image(_: Words) -> Verdict {
    let mut doors = Doors::new();
    for folder in ["/bin", "/usr", "/usr/bin", "/lib", "/usr/lib", "/etc/ssl/certs", "/sbin"] {
        let file = path_of!("{folder}/.attack");
        doors.closed("write to the image", open(file.as_text(), O_WRONLY | O_CREAT));
        let _ = ask!(nr::UNLINKAT, CWD, file.as_text(), 0);
        let mut found = Page::new();
        let _ = names(path_of!("{folder}").as_text(), |name| {
            let file = path_of!("{folder}/{}", shown(name));
            if kind(file.as_text()).is_ok_and(|(mode, _)| mode & KIND == 0o100_000) {
                found = file;
                return false;
            }
            true
        });
        if !found.as_text().is_empty() {
            doors.closed("change a file of the image", open(found.as_text(), O_RDWR));
            doors.closed("change a mode in the image", ask!(nr::FCHMODAT, CWD, found.as_text(), 0o755));
        }
    }
    doors.verdict()
}

/// Writes a text to a file, for the kit.
pub(crate) fn put(file: &CStr, text: &[u8]) -> sys::Result<()> {
    let file = open(file, O_WRONLY | O_CREAT | sys::O_TRUNC)?;
    write_all(file.0, text)
}
