//! One step, from its first byte to its end.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{self, Either};

use super::console::Console;
use super::{Event, Runner, until};
use crate::error::{Error, ErrorKind, Result};
use crate::id::StepName;
use crate::job::{Arg, Environment, Run, Step};
use crate::log::Cursor;
use crate::outcome::{Outcome, StepOutcome};
use crate::queue::Claim;
use crate::sandbox::{Command, Exit, ProcessEvent, Sandbox, SandboxPath, Usage};

impl Runner {
    /// Runs one step to its end or its timeout.
    pub(super) async fn step(
        &self,
        claim: &Claim,
        step: &Step,
        sandbox: &Sandbox,
        console: &mut Console<'_>,
    ) -> Result<Exit> {
        let Some(timeout) = step.timeout else {
            return self.exec(claim, step, sandbox, console).await;
        };
        let late = async {
            self.parts.clock.sleep(timeout).await;
            Error::new(ErrorKind::TimedOut, "run a step")
                .because("it took longer than it may; raise its timeout, or find out what it waits for")
                .with("step", &step.name)
                .with("seconds", timeout.as_secs())
        };
        until(pin!(late), self.exec(claim, step, sandbox, console)).await
    }

    pub(super) async fn end_step(
        &self,
        claim: &Claim,
        console: &mut Console<'_>,
        outcome: &mut Outcome,
        exit: Option<&Exit>,
    ) -> Result<()> {
        let told = console.flush().await;
        if let Some((step, before)) = outcome.steps.split_last_mut() {
            step.end(exit, console.step_took(), console.cursor());
            self.observe(claim, &Event::StepFinished { index: before.len(), outcome: step });
        }
        told
    }

    /// Ends the step that was running when the job was stopped, if one was.
    pub(super) async fn end_stopped_step(
        &self,
        claim: &Claim,
        console: &mut Console<'_>,
        outcome: &mut Outcome,
    ) -> Result<()> {
        match outcome.steps.last() {
            Some(step) if step.status.is_none() => self.end_step(claim, console, outcome, None).await,
            _ => Ok(()),
        }
    }

    async fn exec(
        &self,
        claim: &Claim,
        step: &Step,
        sandbox: &Sandbox,
        console: &mut Console<'_>,
    ) -> Result<Exit> {
        let command = command(claim, step)?;
        let silence = claim.spec().timeouts.silence;
        let mut process = sandbox.exec(&command, console.lease()).await?;
        let mut last_output = self.parts.clock.elapsed();
        loop {
            let silent_for = self.parts.clock.elapsed().saturating_sub(last_output);
            let wait = console.flush_within().min(silence.saturating_sub(silent_for));
            // Dropping `next` loses nothing, so it can be asked again after every flush.
            match future::select(self.parts.clock.sleep(wait), process.next()).await {
                Either::Left(_) => console.flush().await?,
                Either::Right((event, _)) => match event? {
                    ProcessEvent::Output(stream, bytes) => {
                        last_output = self.parts.clock.elapsed();
                        console.write(stream, &bytes).await?;
                    }
                    ProcessEvent::Exited(exit) => return Ok(exit),
                },
            }
            if self.parts.clock.elapsed().saturating_sub(last_output) >= silence {
                return Err(Error::new(ErrorKind::TimedOut, "run a step")
                    .because("it wrote nothing for too long; let it say what it does, or raise the bound on silence")
                    .with("step", &step.name)
                    .with("seconds", silence.as_secs()));
            }
        }
    }
}

impl StepOutcome {
    pub(super) fn started(name: StepName, at: Cursor) -> Self {
        Self { name, status: None, duration: Duration::ZERO, usage: Usage::default(), output: at..at }
    }

    fn end(&mut self, exit: Option<&Exit>, duration: Duration, at: Cursor) {
        self.duration = duration;
        self.output.end = at;
        if let Some(exit) = exit {
            self.status = Some(exit.status);
            self.usage = exit.usage;
        }
    }
}

/// What a step runs, with the variables that every step has.
fn command(claim: &Claim, step: &Step) -> Result<Command> {
    let (program, arguments) = match &step.run {
        Run::Script(script) => {
            let arguments = [Arg::new("-e")?, Arg::new("-c")?, Arg::new(script.as_str())?];
            (Arg::new("/bin/sh")?, Vec::from(arguments))
        }
        Run::Command { program, arguments } => (program.clone(), arguments.clone()),
    };
    let mut environment = Environment::default();
    let base = [
        ("CI", "true"),
        ("CI_COMMIT", claim.code().commit().as_str()),
        ("CI_JOB", claim.job().as_str()),
        ("HOME", "/tmp"),
        ("LANG", "C.UTF-8"),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ];
    for (name, value) in base {
        environment.set(name.parse()?, value);
    }
    if let Some(reference) = claim.code().reference() {
        environment.set("CI_REF".parse()?, reference);
    }
    environment.extend(&claim.spec().environment);
    environment.extend(&step.environment);
    let directory = step.directory.clone().unwrap_or_else(SandboxPath::work);
    Ok(Command::new(program, arguments)
        .with_environment(&environment)
        .with_secrets(&step.secrets)
        .with_directory(directory))
}
