//! One step, from its first byte to its end.

use std::time::Duration;

use futures_util::future::{self, Either};

use super::console::Console;
use super::{Event, Runner};
use crate::error::{Error, ErrorKind, Result};
use crate::id::StepName;
use crate::job::{Arg, Environment, Run, Step};
use crate::log::Cursor;
use crate::outcome::{Outcome, StepOutcome};
use crate::queue::Claim;
use crate::sandbox::{
    Bounded, Bounds, Command, Exit, Process as _, ProcessEvent, Sandbox, SandboxPath, Usage,
};

const OPERATION: &str = "run a step";

impl Runner {
    /// Runs one step to its end, or until it takes longer or is silent for longer than it may.
    pub(super) async fn step(
        &self,
        claim: &Claim,
        step: &Step,
        sandbox: &Sandbox,
        console: &mut Console<'_>,
    ) -> Result<Exit> {
        let mut bounds = Bounds::default().with_silence(claim.spec().timeouts.silence);
        bounds.timeout = step.timeout;
        let command = command(claim, &step.run, &[&claim.spec().environment, &step.environment])?
            .with_secrets(step.secrets.iter().cloned())
            .with_directory(step.directory.clone().unwrap_or_else(SandboxPath::work));
        let clock = self.parts.clock.clone();
        let starting = sandbox.exec(&command, console.lease());
        let process = Bounded::start(OPERATION, clock, bounds, starting).await;
        let of_step = |error: Error| match error.kind() {
            ErrorKind::TimedOut => error.with("step", &step.name),
            _ => error,
        };
        self.follow(process.map_err(of_step)?, console).await.map_err(of_step)
    }

    pub(super) async fn end_step(
        &self,
        claim: &Claim,
        console: &mut Console<'_>,
        outcome: &mut Outcome,
        exit: Option<&Exit>,
    ) -> Result<()> {
        let told = console.flush().await;
        outcome.add_leaks(console.leaks());
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

    /// Follows a program to its end, and stores what it writes.
    async fn follow(&self, mut process: Bounded<'_>, console: &mut Console<'_>) -> Result<Exit> {
        loop {
            // Dropping `next` loses nothing, so it can be asked again after every flush.
            match future::select(self.parts.clock.sleep(console.flush_within()), process.next()).await {
                Either::Left(_) => console.flush().await?,
                Either::Right((event, _)) => match event? {
                    ProcessEvent::Output(stream, bytes) => console.write(stream, &bytes).await?,
                    ProcessEvent::Exited(exit) => return Ok(exit),
                },
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

/// What a step or a service runs, with the variables that every program of a job has, and over them its own.
pub(super) fn command(claim: &Claim, run: &Run, environments: &[&Environment]) -> Result<Command> {
    let (program, arguments) = match run {
        Run::Script(script) => {
            let arguments = [Arg::new("-e")?, Arg::new("-c")?, Arg::new(script.as_str())?];
            (Arg::new("/bin/sh")?, Vec::from(arguments))
        }
        Run::Command { program, arguments } => (program.clone(), arguments.clone()),
    };
    let mut environment = base_environment(claim)?;
    for own in environments {
        environment.extend(own);
    }
    Ok(Command::new(program, arguments).with_environment(&environment))
}

/// The variables that everything has that runs in a job.
pub(super) fn base_environment(claim: &Claim) -> Result<Environment> {
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
    Ok(environment)
}
