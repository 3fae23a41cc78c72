//! A child of process 1 on its way to the job's program.
//!
//! The body of a request, with the values of secrets in it, is only ever mapped here: process 1 passes the
//! memory file on unread, and executing the program does away with the mapping.

use core::ffi::{CStr, c_char};
use core::ptr;

use crate::archive;
use crate::extract;
use crate::failure::{At, Failure};
use crate::mem::Pages;
use crate::root::JOB;
use crate::secrets;
use crate::serve::{OTHERS, TERMINALS};
use crate::sys::{self, CWD, Errno, Fd, O_RDWR, Raw};
use crate::task;
use crate::terminal;
use crate::wire::{BODY_LIMIT, Reader, Stage};

/// What a child is to do, with the descriptors it needs for it.
pub(crate) enum Errand {
    Exec(Program),
    Extract { stream: Fd },
    Archive { stream: Fd },
}

/// What is to be run, as far as process 1 knows it.
pub(crate) struct Program {
    pub(crate) id: u32,
    pub(crate) streams: Streams,
    pub(crate) has_secret_files: bool,
}

/// What a program reads from and writes to. Without an input it reads nothing; without a stream of their own its errors
/// go where its output goes.
pub(crate) enum Streams {
    Pipes { input: Option<Fd>, output: Fd, errors: Option<Fd> },
    Terminal { size: u32 },
}

/// Where a child tells why it failed. It ends once the program has been executed, and its end says that it has.
pub(crate) const START: Raw = Raw(3);
/// Where it finds the request's body.
const BODY: Raw = Raw(4);

/// Starts a child, and returns its pid.
pub(crate) fn begin(errand: &Errand, body: &Fd, start: &Fd, range: bool) -> Result<u32, Failure> {
    if let Some(pid) = task::fork().at(Stage::Fork)? {
        return Ok(pid);
    }
    match run(errand, body, start, range) {
        Ok(()) => task::exit(0),
        Err(failure) => {
            let _ = sys::write_all(START, &failure.report().encode());
            task::exit(1)
        }
    }
}

fn run(errand: &Errand, body: &Fd, start: &Fd, range: bool) -> Result<(), Failure> {
    let null = sys::open(CWD, c"/dev/null", O_RDWR, 0).at(Stage::Fork)?;
    let standard: [&Raw; 3] = match errand {
        Errand::Exec(Program { streams: Streams::Pipes { input, output, errors }, .. }) => {
            [input.as_deref().unwrap_or(&null), output, errors.as_deref().unwrap_or(output)]
        }
        Errand::Exec(Program { streams: Streams::Terminal { .. }, .. }) => [&null; 3],
        Errand::Extract { stream } => [stream, &null, &null],
        Errand::Archive { stream } => [&null, stream, &null],
    };
    arrange(standard, start, body).at(Stage::Fork)?;
    task::new_session().at(Stage::Fork)?;
    task::block_signals(0).at(Stage::Fork)?;
    let length = sys::stat(BODY, c"").at(Stage::Request)?.size as usize;
    if length > BODY_LIMIT {
        return Err(Failure::new(Stage::Request, Errno::E2BIG));
    }
    let mut pages = Pages::of_file(BODY, length).at(Stage::Request)?;
    let mut request = Reader::new(pages.bytes());
    if let Errand::Exec(Program { id, has_secret_files: true, .. }) = errand {
        secrets::write(*id, &mut request, range)?;
    }
    become_job(range).at(Stage::User)?;
    if let Errand::Exec(Program { streams: Streams::Terminal { size }, .. }) = errand {
        terminal::take(*size).at(Stage::Terminal)?;
    }
    sys::close_from(TERMINALS.0 as usize);
    let result = match errand {
        Errand::Exec(_) => execute(request),
        Errand::Extract { .. } => extract::run(Raw(0), request),
        Errand::Archive { .. } => archive::run(Raw(1), request),
    };
    // The descriptors of the parent that these stand for are closed already.
    core::mem::forget((null, pages));
    result
}

/// Puts every descriptor in its place and closes all others, but the folders of process 1. What came with the request has
/// higher numbers (see `serve`), so none is overwritten before it has been moved.
fn arrange(standard: [&Raw; 3], start: &Fd, body: &Fd) -> sys::Result<()> {
    for (file, place) in standard.into_iter().zip(0..) {
        sys::duplicate(*file, place)?;
    }
    sys::duplicate_private(**start, START.0)?;
    sys::duplicate_private(**body, BODY.0)?;
    sys::close_from(OTHERS.0 as usize);
    Ok(())
}

fn become_job(range: bool) -> sys::Result<()> {
    if range {
        task::become_user(JOB)?;
    }
    task::keep_capabilities(0)?;
    // Until the program is executed this is still the init's memory. Where fs.suid_dumpable is 1, becoming another
    // user has opened it.
    task::hide_memory()
}

/// Becomes the program; comes back only when it cannot.
fn execute(mut request: Reader<'_>) -> Result<(), Failure> {
    let malformed = Failure::malformed(Stage::Request);
    let (files, processes) = request.u64().zip(request.u64()).ok_or(malformed)?;
    let directory = request.text().ok_or(malformed)?;
    task::limit_at_most(task::RLIMIT_NOFILE, files).at(Stage::Limits)?;
    task::limit_at_most(task::RLIMIT_NPROC, processes).at(Stage::Limits)?;
    let (mut arguments, _) = Strings::read(&mut request)?;
    let (mut environment, path) = Strings::read(&mut request)?;
    let program = arguments.first().ok_or(malformed)?;
    sys::change_directory(directory).at(Stage::Directory)?;
    task::set_umask(0o022);
    let (arguments, environment) = (arguments.pointers(), environment.pointers());
    let attempt = |file: &CStr| {
        // SAFETY: both arrays were ended with a null pointer by `Strings::read`, and what they point to is text
        // of the request, which stays mapped until the program is executed.
        unsafe { task::execute(file, arguments, environment) }
    };
    if program.to_bytes().contains(&b'/') {
        return Err(attempt(program)).at(Stage::Execute);
    }
    // As execvp(3): where PATH is not set, where programs are by tradition.
    let path = path.unwrap_or(b"/usr/local/bin:/usr/bin:/bin");
    Err(search(program, path, attempt)).at(Stage::Execute)
}

/// Tries the folders of `path` in turn. Where a file was found but not allowed, that is the answer.
fn search(program: &CStr, path: &[u8], attempt: impl Fn(&CStr) -> Errno) -> Errno {
    let mut answer = Errno::ENOENT;
    for folder in path.split(|byte| *byte == b':').filter(|folder| !folder.is_empty()) {
        let mut file = [0_u8; 4096];
        let parts = folder.iter().chain(b"/").chain(program.to_bytes());
        if parts.clone().count() >= file.len() {
            continue;
        }
        for (place, byte) in file.iter_mut().zip(parts) {
            *place = *byte;
        }
        match attempt(CStr::from_bytes_until_nul(&file).unwrap_or(c"")) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => answer = Errno::EACCES,
            other => return other,
        }
    }
    answer
}

/// Texts of a request as execve(2) takes them.
struct Strings<'a> {
    first: Option<&'a CStr>,
    pointers: Pages,
}

impl<'a> Strings<'a> {
    /// Reads a list of texts; the value of `PATH`, if the list sets it, comes along.
    fn read(request: &mut Reader<'a>) -> Result<(Self, Option<&'a [u8]>), Failure> {
        let malformed = Failure::malformed(Stage::Request);
        let count = request.u32().ok_or(malformed)? as usize;
        if count > BODY_LIMIT {
            return Err(malformed);
        }
        let mut pointers = Pages::zeroed((count + 1) * size_of::<*const c_char>()).at(Stage::Request)?;
        let (mut first, mut path) = (None, None);
        for place in pointers.bytes().chunks_exact_mut(size_of::<usize>()).take(count) {
            let text = request.text().ok_or(malformed)?;
            place.copy_from_slice(&text.as_ptr().expose_provenance().to_ne_bytes());
            path = text.to_bytes().strip_prefix(b"PATH=").or(path);
            first = first.or(Some(text));
        }
        Ok((Self { first, pointers }, path))
    }

    fn first(&self) -> Option<&'a CStr> {
        self.first
    }

    /// The array, ended by the null pointer that the fresh pages hold after the last one.
    fn pointers(&mut self) -> *const *const c_char {
        ptr::from_mut(self.pointers.bytes()).cast()
    }
}
