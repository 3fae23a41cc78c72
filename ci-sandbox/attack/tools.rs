//! What the kit needs inside that is no attack: programs that end, write, wait and misbehave in a known way.

use core::ffi::CStr;

use crate::nr;
use crate::sys::{O_RDONLY, Page, Words, ask, open, read, write_all};
use crate::task::{
    self, SIGSTOP, block_all, fork, fork_with, ignore, kill, now_ms, sleep_ms, wait, wait_for_the_end,
};
use crate::verdict::line;
use crate::{files, limits, network, outside, streams, world};

const UP: &[u8] = b"up\n";
/// What kit and program know that a stream has at a place.
const PERIOD: usize = 251;

/// Runs a tool; the exit code of one that ends.
pub(crate) fn run(name: &CStr, words: Words) -> usize {
    match name.to_bytes() {
        b"exit" => words.number(2),
        b"signal" => {
            let _ = kill(own_pid(), words.number(2));
            99
        }
        b"environment" => variables(words),
        b"arguments" => arguments(words),
        b"directory" => directory(),
        b"write" => write(1, words.number(2), Page::SIZE),
        b"write-errors" => write(2, words.number(2), Page::SIZE),
        b"drip" => write(1, words.number(2), 1),
        b"say" => said(write_all(1, words.get(2).to_bytes())),
        b"read" => show(words.get(2)),
        b"put" => said(files::put(words.get(2), words.get(3).to_bytes())),
        b"remove" => usize::from(ask!(nr::UNLINKAT, crate::sys::CWD, words.get(2), 0).is_err()),
        b"mark" => mark(words),
        b"input" => show_file(0),
        b"wait" => {
            let _ = write_all(1, UP);
            wait_for_the_end()
        }
        b"stubborn" => stubborn(),
        b"stop" => stop(words),
        b"traced" => traced(),
        b"daemon" => daemon(),
        b"races" => races(),
        b"parked" => parked(),
        b"hold-output" => hold_output(),
        b"close-output" => close_output(words),
        b"flood" => flood(),
        b"forge" => forge(),
        b"hostile-tree" => hostile_tree(words),
        b"swap" => swap(words),
        b"random" => random(),
        b"find" => find(words),
        b"listen" => network::listen(words.get(2).to_bytes()),
        b"whoami" => {
            let (user, group) = (ask!(nr::GETEUID).unwrap_or(0), ask!(nr::GETEGID).unwrap_or(0));
            said(write_all(1, line!("{user} {group}\n").as_bytes()))
        }
        b"alternate" => streams::alternate(words),
        b"terminal" => streams::terminal(),
        b"resized" => streams::resized(),
        b"keep-terminal" => streams::keep_terminal(words),
        b"secret-file" => streams::secret_file(words),
        b"fill" => streams::fill(words),
        b"hidden-work" => streams::hidden_work(words),
        b"talk" => world::talk(words),
        b"hoard-connections" => world::hoard_connections(words),
        b"listen-at" => network::listen_at(words.number(2) as u16, words.get(3).to_bytes()),
        b"hoard-processes" => limits::hoard_processes(words),
        b"hoard-watches" => limits::hoard_watches(),
        b"messages" => {
            let made = outside::leave_messages(words.number(2));
            let _ = write_all(1, line!("{made}\n").as_bytes());
            wait_for_the_end()
        }
        _ => 64,
    }
}

fn said(done: crate::sys::Result<()>) -> usize {
    usize::from(done.is_err())
}

fn own_pid() -> i32 {
    ask!(nr::GETPID).unwrap_or(0) as i32
}

fn variables(words: Words) -> usize {
    let mut index = 0;
    while let Some(variable) = words.variable(index) {
        let _ = write_all(1, variable.to_bytes_with_nul());
        index += 1;
    }
    0
}

fn arguments(words: Words) -> usize {
    for index in 2..words.count() {
        let _ = write_all(1, words.get(index).to_bytes_with_nul());
    }
    0
}

fn directory() -> usize {
    let mut folder = Page::new();
    let _ = ask!(nr::GETCWD, &mut folder, Page::SIZE);
    said(write_all(1, folder.as_text().to_bytes()))
}

/// `count` bytes that say where they are, `piece` at a time.
fn write(file: i32, count: usize, piece: usize) -> usize {
    let mut written = 0;
    let mut page = [0; Page::SIZE];
    while written < count {
        let length = piece.min(count - written);
        for (at, byte) in page[..length].iter_mut().enumerate() {
            *byte = ((written + at) % PERIOD) as u8;
        }
        if write_all(file, &page[..length]).is_err() {
            return 1;
        }
        written += length;
    }
    0
}

fn show(path: &CStr) -> usize {
    match open(path, O_RDONLY) {
        Ok(file) => show_file(file.0),
        Err(_) => 1,
    }
}

fn show_file(file: i32) -> usize {
    let mut page = Page::new();
    loop {
        match read(file, &mut page) {
            Ok(0) => return 0,
            Ok(length) if write_all(1, &page.bytes()[..length]).is_ok() => {}
            _ => return 1,
        }
    }
}

/// Leaves a text wherever something can be left; says where.
fn mark(words: Words) -> usize {
    for folder in ["/work", "/tmp", "/dev/shm", "/var/tmp", "/home/ci", "/run", "/root", "/"] {
        let file = crate::scan::path_of!("{folder}/{}", crate::scan::shown(words.get(2)));
        if files::put(file.as_text(), words.get(2).to_bytes()).is_ok() {
            let _ = write_all(1, line!("{folder}\n").as_bytes());
        }
    }
    0
}

/// Ignores whatever asks it to end.
fn stubborn() -> usize {
    for signal in 1..=31 {
        ignore(signal);
    }
    block_all();
    let _ = write_all(1, UP);
    wait_for_the_end()
}

/// Stops itself, or with `all` everybody whom it may.
fn stop(words: Words) -> usize {
    let _ = write_all(1, UP);
    let whom = if words.get(2) == c"all" { 0 } else { own_pid() };
    let _ = kill(whom, SIGSTOP);
    wait_for_the_end()
}

/// P-10: traced by its parent and stopped, which looks like an end to a careless one.
fn traced() -> usize {
    const TRACE_ME: usize = 0;
    let _ = write_all(1, UP);
    let _ = ask!(nr::PTRACE, TRACE_ME, 0, 0, 0);
    let _ = kill(own_pid(), SIGSTOP);
    let _ = write_all(1, b"went on\n");
    wait_for_the_end()
}

/// P-2: a daemon that has left its session, its group and its parent, and that no signal ends but one.
fn daemon() -> usize {
    if let Ok(Some(pid)) = fork() {
        let _ = wait(pid);
        return 0;
    }
    let _ = ask!(nr::SETSID);
    if !matches!(fork(), Ok(None)) {
        task::exit(0);
    }
    stubborn()
}

/// P-5: a few lines of processes of which each starts the next and dies, for twenty seconds.
fn races() -> usize {
    let end = now_ms() + 20_000;
    for _ in 0..4 {
        if let Ok(None) = fork() {
            while now_ms() < end {
                match fork() {
                    Ok(None) => {}
                    Ok(Some(_)) => task::exit(0),
                    // Whoever kills is ahead for a moment.
                    Err(_) => sleep_ms(1),
                }
            }
            task::exit(0);
        }
    }
    let _ = write_all(1, UP);
    wait_for_the_end()
}

/// P-6: waits for a child in a way that only SIGKILL ends.
fn parked() -> usize {
    const PARENT_WAITS: usize = 0x4000;
    if let Ok(None) = fork_with(PARENT_WAITS) {
        stubborn();
    }
    0
}

/// ends, while another process keeps its output and goes on writing.
fn hold_output() -> usize {
    if let Ok(None) = fork() {
        while write_all(1, b"noise\n").is_ok() {
            sleep_ms(10);
        }
        task::exit(0);
    }
    let _ = write_all(1, UP);
    7
}

/// closes its streams and goes on.
fn close_output(words: Words) -> usize {
    for stream in 0..3 {
        let _ = ask!(nr::CLOSE, stream);
    }
    sleep_ms(words.number(2) as u64);
    9
}

/// writes without end, and says in a file how far it is.
fn flood() -> usize {
    let block = [b'x'; Page::SIZE];
    let mut blocks: u64 = 0;
    while write_all(1, &block).is_ok() {
        blocks += 1;
        if blocks.is_multiple_of(16) {
            let _ = files::put(c"/work/flood", line!("{:020}", blocks * Page::SIZE as u64).as_bytes());
        }
    }
    0
}

/// bytes that look like the frames of an engine, the end of a program, or a terminal's commands.
fn forge() -> usize {
    let pieces: [&[u8]; 6] = [
        b"\x01\x00\x00\x00\x00\x00\x00\x04fake\x02\x00\x00\x00\x00\x00\x00\x04fake",
        b"{\"exit-code\":0}\n{\"StatusCode\":0}\nexit status 0\n",
        b"\x1b]0;title\x07\x1b[2J\x1b[?1049h\x9b31m",
        b"\xff\xfe\xc3\x28\xe2\x82",
        &[0; 64],
        b"held: everything\n",
    ];
    for piece in pieces {
        let _ = write_all(1, piece);
    }
    42
}

/// F-16: a folder whose download could lead outside, wait for ever, or never end: `hostile-tree FOLDER SECRET-FILE`.
fn hostile_tree(words: Words) -> usize {
    const PIPE: usize = 0o010_666;
    const SOCKET: usize = 0o140_666;
    let cwd = crate::sys::CWD;
    if ask!(nr::MKDIRAT, cwd, words.get(2), 0o755).and_then(|_| ask!(nr::CHDIR, words.get(2))).is_err() {
        return 1;
    }
    let secret = words.get(3);
    let _ = ask!(nr::SYMLINKAT, secret, cwd, c"link-to-secret");
    let _ = ask!(nr::SYMLINKAT, c"/etc/shadow", cwd, c"link-to-shadow");
    let _ = ask!(nr::SYMLINKAT, c"../../../../..", cwd, c"link-up");
    let _ = ask!(nr::SYMLINKAT, c"/dev/zero", cwd, c"link-to-endless");
    let _ = ask!(nr::SYMLINKAT, c"link-loop", cwd, c"link-loop");
    let _ = ask!(nr::LINKAT, cwd, secret, cwd, c"hard-link", 0);
    let _ = ask!(nr::MKNODAT, cwd, c"pipe", PIPE, 0);
    let _ = ask!(nr::MKNODAT, cwd, c"socket", SOCKET, 0);
    let _ = files::put(c"plain", b"plain");
    let _ = ask!(nr::FCHMODAT, cwd, c"plain", 0o6755);
    let _ = files::put(c"\x1b[31m\n\xff", b"odd");
    0
}

/// F-17: a folder and a link that change places without end: `swap FOLDER LINK`.
fn swap(words: Words) -> usize {
    const EXCHANGE: usize = 2;
    let cwd = crate::sys::CWD;
    let _ = write_all(1, UP);
    let end = now_ms() + 20_000;
    while now_ms() < end {
        let _ = ask!(nr::RENAMEAT2, cwd, words.get(2), cwd, words.get(3), EXCHANGE);
    }
    0
}

/// Says the numbers of the programs that have a word, here backwards, among their arguments.
fn find(words: Words) -> usize {
    let word = words.backwards(2);
    let mut line = Page::new();
    let looked = crate::scan::processes(|pid| {
        let file = crate::scan::path_of!("/proc/{pid}/cmdline");
        if crate::sys::read_start(file.as_text(), &mut line)
            .is_ok_and(|read| crate::scan::contains(&line.bytes()[..read], word.get()))
        {
            let _ = write_all(1, line!("{pid}\n").as_bytes());
        }
    });
    usize::from(looked.is_err())
}

/// E-5: what must differ in every sandbox: random bytes, in hexadecimal.
fn random() -> usize {
    let mut bytes = Page::new();
    if ask!(nr::GETRANDOM, &mut bytes, 16, 0) != Ok(16) {
        return 1;
    }
    for byte in &bytes.bytes()[..16] {
        let _ = write_all(1, line!("{byte:02x}").as_bytes());
    }
    0
}
