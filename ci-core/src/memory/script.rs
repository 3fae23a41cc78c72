//! What a scripted program is asked, and what it answers.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;

use super::files::Files;
use crate::sandbox::{Exit, ExitStatus, OutputStream, ProcessEvent, SandboxPath, TerminalSize, Usage};

/// One start of a scripted program: what it was given, and the files around it.
///
/// # Example
///
/// ```
/// use ci_core::memory::{Reply, Rig};
///
/// let rig = Rig::new()?;
/// rig.backend.on("cat", |call| {
///     let path = call.directory().join(call.arguments()[0]);
///     match path.ok().and_then(|path| call.files().read(&path)) {
///         Some(content) => Reply::exit(0).stdout(content),
///         None => Reply::exit(1).stderr("no such file\n"),
///     }
/// });
/// # Ok::<(), ci_core::Error>(())
/// ```
pub struct Call<'a> {
    pub(super) program: &'a str,
    pub(super) arguments: Vec<&'a str>,
    pub(super) variables: Vec<(&'a str, Vec<u8>)>,
    pub(super) directory: &'a SandboxPath,
    pub(super) input: Bytes,
    pub(super) terminal: Option<TerminalSize>,
    pub(super) files: &'a mut Files,
}

impl Call<'_> {
    /// The program, as the command names it.
    pub fn program(&self) -> &str {
        self.program
    }

    /// Its arguments.
    pub fn arguments(&self) -> &[&str] {
        &self.arguments
    }

    /// The value of a variable, a secret's included; of a secret that is a file, its path.
    pub fn variable(&self, name: &str) -> Option<&[u8]> {
        let found = self.variables.iter().rev().find(|(given, _)| *given == name);
        found.map(|(_, value)| value.as_slice())
    }

    /// Where it runs.
    pub fn directory(&self) -> &SandboxPath {
        self.directory
    }

    /// All of its standard input. It is empty unless the program reads it:
    /// [`Scripted::on_input`](super::Scripted::on_input).
    pub fn input(&self) -> &Bytes {
        &self.input
    }

    /// The size of its terminal, if it has one.
    pub fn terminal(&self) -> Option<TerminalSize> {
        self.terminal
    }

    /// The files of the sandbox.
    pub fn files(&mut self) -> &mut Files {
        self.files
    }
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the variables, which hold secrets.
        f.debug_struct("Call")
            .field("program", &self.program)
            .field("arguments", &self.arguments)
            .field("directory", &self.directory)
            .finish_non_exhaustive()
    }
}

/// What a scripted program does: its output, piece by piece, and how it ends.
///
/// # Example
///
/// ```
/// use ci_core::memory::Reply;
///
/// let failed = Reply::exit(1).stdout("compiling\n").stderr("error: no such crate\n");
/// let stuck = Reply::hang().stdout("waiting\n");
/// # let _ = (failed, stuck);
/// ```
#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) output: VecDeque<(OutputStream, Bytes)>,
    pub(super) end: Option<Exit>,
}

impl Reply {
    /// It ends by itself with `code`.
    pub fn exit(code: u8) -> Self {
        Self::end(ExitStatus::Code(code))
    }

    /// It ends like this.
    pub fn end(status: ExitStatus) -> Self {
        Self { output: VecDeque::new(), end: Some(Exit { status, usage: Usage::default() }) }
    }

    /// It never ends, unless it gets a signal.
    pub fn hang() -> Self {
        Self { output: VecDeque::new(), end: None }
    }

    /// Before that, it writes this to standard output, as one piece.
    pub fn stdout(mut self, bytes: impl Into<Bytes>) -> Self {
        self.output.push_back((OutputStream::Stdout, bytes.into()));
        self
    }

    /// Before that, it writes this to standard error, as one piece.
    pub fn stderr(mut self, bytes: impl Into<Bytes>) -> Self {
        self.output.push_back((OutputStream::Stderr, bytes.into()));
        self
    }

    /// It used this much. A program that hangs uses nothing.
    pub fn with_usage(mut self, usage: Usage) -> Self {
        if let Some(exit) = &mut self.end {
            exit.usage = usage;
        }
        self
    }

    /// It writes all of it to standard output.
    pub(super) fn merged(mut self) -> Self {
        self.output.iter_mut().for_each(|(stream, _)| *stream = OutputStream::Stdout);
        self
    }

    /// The next event, or `None` while it hangs.
    pub(super) fn next(&mut self) -> Option<ProcessEvent> {
        let output = self.output.pop_front().map(|(stream, bytes)| ProcessEvent::Output(stream, bytes));
        output.or_else(|| self.end.map(ProcessEvent::Exited))
    }
}
