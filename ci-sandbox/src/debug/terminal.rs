//! What an SSH client asks for, and what it gets (RFC 4252, RFC 4254).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ci_core::debug::{DebugAccess, DebugEvent, DebugInput, DebugProgram, DebugSession};
use ci_core::sandbox::{ExitStatus, OutputStream, Signal, TerminalSize};
use russh::keys::PublicKey;
use russh::server::{
    Auth, ChannelOpenHandle, Handle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey,
};
use russh::{Channel, ChannelId, ChannelOpenFailure, Disconnect, Error, Pty, Sig};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Shared;
use super::connection::Stage;

/// Standard error (RFC 4254, section 5.2).
const STDERR: u32 = 1;

/// How long what a client sends may wait for a program that does not read it. Nothing else moves meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// What `ssh` ends with when it fails by itself.
const NOT_THE_PROGRAM: u32 = 255;

/// One client. Whatever is not written here is refused.
pub(super) struct Terminal {
    shared: Arc<Shared>,
    stage: watch::Sender<Stage>,
    access: Option<DebugAccess>,
    channel: Option<ChannelId>,
    size: Option<(String, TerminalSize)>,
    input: Option<DebugInput>,
    has_started: bool,
    /// What shows the output; gone with the connection.
    shown: JoinSet<()>,
}

impl Terminal {
    pub(super) fn new(shared: Arc<Shared>, stage: watch::Sender<Stage>) -> Self {
        let shown = JoinSet::new();
        Self {
            shared,
            stage,
            access: None,
            channel: None,
            size: None,
            input: None,
            has_started: false,
            shown,
        }
    }

    fn knows(&self, user: &str, key: &PublicKey) -> Auth {
        if self.shared.access(user, key).is_some() { Auth::Accept } else { Auth::reject() }
    }

    /// Starts what the client asks for, once.
    async fn start(
        &mut self,
        program: DebugProgram,
        channel: ChannelId,
        session: &mut Session,
    ) -> Result<(), Error> {
        let (false, Some(access)) = (self.has_started, self.access.clone()) else {
            return session.channel_failure(channel);
        };
        self.has_started = true;
        let program = match self.size.take() {
            Some((kind, size)) => program.with_terminal(kind, size),
            None => program,
        };
        let (handle, stage) = (session.handle(), self.stage.clone());
        session.channel_success(channel)?;
        match access.start(program).await {
            Ok(mut started) => {
                self.input = started.input();
                self.shown.spawn(async move {
                    show(started, &handle, channel).await;
                    stage.send_replace(Stage::Done);
                });
            }
            Err(error) => {
                self.shown.spawn(async move {
                    say(&handle, channel, &error).await;
                    stage.send_replace(Stage::Done);
                });
            }
        }
        Ok(())
    }
}

impl Handler for Terminal {
    type Error = Error;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Error> {
        Ok(self.knows(user, offer.public_key))
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Error> {
        let Some(access) = self.shared.access(user, key.public_key) else { return Ok(Auth::reject()) };
        tracing::info!(job = %access.job(), user = %access.user(), "debug session entered");
        self.stage.send_replace(Stage::Inside(access.clone()));
        self.access = Some(access);
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Error> {
        if self.channel.is_some() {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        } else {
            self.channel = Some(channel.id());
            reply.accept().await;
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Error> {
        if self.has_started || self.size.is_some() {
            return session.channel_failure(channel);
        }
        let kind = if term.is_empty() { "dumb" } else { term };
        self.size = Some((kind.to_owned(), size(columns, rows)));
        session.channel_success(channel)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Error> {
        self.start(DebugProgram::shell(), channel, session).await
    }

    async fn exec_request(
        &mut self,
        channel: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Error> {
        match str::from_utf8(command) {
            Ok(command) => self.start(DebugProgram::command(command), channel, session).await,
            Err(_) => session.channel_failure(channel),
        }
    }

    async fn data(&mut self, _: ChannelId, data: &[u8], session: &mut Session) -> Result<(), Error> {
        let Some(input) = &mut self.input else { return Ok(()) };
        match timeout(PATIENCE, input.write(Bytes::copy_from_slice(data))).await {
            // What nobody reads any more is lost, as with a pipe.
            Ok(Err(_)) => self.input = None,
            Ok(Ok(())) => {}
            Err(_) => {
                let why = "the program does not read what you send; send less at a time";
                session.disconnect(Disconnect::ByApplication, why, "")?;
            }
        }
        Ok(())
    }

    async fn channel_eof(&mut self, _: ChannelId, _: &mut Session) -> Result<(), Error> {
        if let Some(input) = &mut self.input {
            input.end();
        }
        Ok(())
    }

    async fn channel_close(&mut self, _: ChannelId, _: &mut Session) -> Result<(), Error> {
        // The session goes with what shows it, and its program with the session.
        self.shown.abort_all();
        self.stage.send_replace(Stage::Done);
        Ok(())
    }

    async fn window_change_request(
        &mut self,
        channel: ChannelId,
        columns: u32,
        rows: u32,
        _: u32,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Error> {
        let Some(input) = &self.input else { return session.channel_failure(channel) };
        input.resize(size(columns, rows));
        session.channel_success(channel)
    }

    async fn signal(&mut self, _: ChannelId, signal: Sig, _: &mut Session) -> Result<(), Error> {
        let signal = match signal {
            Sig::HUP => Signal::Hangup,
            Sig::INT => Signal::Interrupt,
            Sig::QUIT => Signal::Quit,
            Sig::TERM => Signal::Terminate,
            Sig::KILL => Signal::Kill,
            Sig::USR1 => Signal::User1,
            _ => return Ok(()),
        };
        if let Some(input) = &self.input {
            input.signal(signal);
        }
        Ok(())
    }

    async fn env_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Error> {
        session.channel_failure(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Error> {
        session.channel_failure(channel)
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Error> {
        session.channel_failure(channel)
    }
}

/// Shows what a program writes, and how it ends.
async fn show(mut session: DebugSession, handle: &Handle, channel: ChannelId) {
    loop {
        let shown = match session.next().await {
            Ok(DebugEvent::Output(OutputStream::Stdout, bytes)) => {
                handle.data(channel, bytes.as_bytes().clone()).await.is_ok()
            }
            Ok(DebugEvent::Output(OutputStream::Stderr, bytes)) => {
                handle.extended_data(channel, STDERR, bytes.as_bytes().clone()).await.is_ok()
            }
            Ok(DebugEvent::Exited(status)) => return report(handle, channel, status).await,
            Err(error) => return say(handle, channel, &error).await,
        };
        // The client has gone.
        if !shown {
            return;
        }
    }
}

/// Tells how a program has ended. Whoever has gone hears nothing.
async fn report(handle: &Handle, channel: ChannelId, status: ExitStatus) {
    let _ = match status {
        ExitStatus::Code(code) => handle.exit_status_request(channel, code.into()).await,
        ExitStatus::Signal(signal) => {
            let name = signal_name(signal);
            handle.exit_signal_request(channel, name, false, String::new(), String::new()).await
        }
        other => {
            let text = format!("{other}\r\n");
            let _ = handle.extended_data(channel, STDERR, text).await;
            handle.exit_status_request(channel, NOT_THE_PROGRAM).await
        }
    };
    end(handle, channel).await;
}

/// Tells why there is no session, or no more.
async fn say(handle: &Handle, channel: ChannelId, error: &ci_core::Error) {
    let _ = handle.extended_data(channel, STDERR, format!("\r\n{error}\r\n")).await;
    let _ = handle.exit_status_request(channel, NOT_THE_PROGRAM).await;
    end(handle, channel).await;
}

async fn end(handle: &Handle, channel: ChannelId) {
    let _ = handle.eof(channel).await;
    let _ = handle.close(channel).await;
}

/// The names of RFC 4254, section 6.10; others have their number.
fn signal_name(signal: u8) -> Sig {
    match signal {
        1 => Sig::HUP,
        2 => Sig::INT,
        3 => Sig::QUIT,
        4 => Sig::ILL,
        6 => Sig::ABRT,
        8 => Sig::FPE,
        9 => Sig::KILL,
        10 => Sig::USR1,
        11 => Sig::SEGV,
        13 => Sig::PIPE,
        14 => Sig::ALRM,
        15 => Sig::TERM,
        other => Sig::Custom(format!("{other}@ci")),
    }
}

fn size(columns: u32, rows: u32) -> TerminalSize {
    let characters = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
    TerminalSize { rows: characters(rows), columns: characters(columns) }
}
