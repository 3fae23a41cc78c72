//! Programs that take too long, by [`Bounded`]: on a clock that a case turns itself.

use std::sync::Arc;
use std::time::Duration;

use ci_core::clock::{Clock, ManualClock};
use ci_core::sandbox::{Bounded, Bounds, ExitStatus, Process, ProcessEvent};
use ci_core::{ErrorKind, Result};

use super::{gone, refusal, sandbox};
use crate::conformance::Bench;
use crate::conformance::guest::{Guest, command, finish, line, no_secrets, within};
use crate::conformance::machine::{backwards, unique};

const BOUND: Duration = Duration::from_secs(10);

async fn bounded<'a>(
    guest: &'a Guest,
    clock: &Arc<ManualClock>,
    bounds: Bounds,
    words: &[&str],
) -> Bounded<'a> {
    let command = command(words).with_input();
    let lease = no_secrets();
    let starting = guest.instance().exec(&command, &lease);
    let clock: Arc<dyn Clock> = clock.clone();
    within("start a program", Bounded::start("run a program", clock, bounds, starting))
        .await
        .expect("it starts")
}

/// What happens next while the clock is turned.
async fn next_after(process: &mut Bounded<'_>, clock: &ManualClock, time: Duration) -> Result<ProcessEvent> {
    let next = within("wait for a program", process.next());
    let (event, ()) = tokio::join!(next, async { clock.advance(time) });
    event
}

/// The program is told late once, has been killed, and the sandbox goes on.
#[doc(hidden)]
pub async fn what_takes_too_long_is_killed(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let (clock, marker) = (Arc::new(ManualClock::default()), unique("late-"));
    let bounds = Bounds::default().with_timeout(BOUND);
    let mut process = bounded(&guest, &clock, bounds, &["stubborn", &marker]).await;
    assert_eq!(line(&mut process).await.expect("it is up"), "up");
    let error = refusal(next_after(&mut process, &clock, BOUND).await);
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    assert_eq!(finish(&mut process).await.expect("it ends").exit.status, ExitStatus::Signal(9));
    let seen = guest.run(&["find", &backwards(&marker)]).await.expect("it runs");
    assert_eq!(seen.text(), "", "it was told as killed, and lives");
    drop(process);
    gone(guest).await;
}

/// One that writes without end, and of which something can be read at every moment.
#[doc(hidden)]
pub async fn writing_without_end_is_no_way_around_it(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let clock = Arc::new(ManualClock::default());
    let bounds = Bounds::default().with_timeout(BOUND);
    let mut process = bounded(&guest, &clock, bounds, &["flood"]).await;
    let mut pieces = 0;
    let error = loop {
        match next_after(&mut process, &clock, BOUND / 20).await {
            Ok(ProcessEvent::Output(..)) => pieces += 1,
            Ok(ProcessEvent::Exited(exit)) => panic!("it ended with {}", exit.status),
            Err(error) => break error,
        }
        assert!(pieces < 1_000, "it may write for as long as it likes");
    };
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    assert_eq!(finish(&mut process).await.expect("it ends").exit.status, ExitStatus::Signal(9));
    drop(process);
    gone(guest).await;
}

/// Whatever it writes starts its time anew, to the error stream too; when it writes nothing more it is killed.
#[doc(hidden)]
pub async fn silence_is_bounded_by_itself(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let clock = Arc::new(ManualClock::default());
    let mut process = bounded(&guest, &clock, Bounds::default().with_silence(BOUND), &["input"]).await;
    let mut input = process.input().expect("its command asks for it");
    for _ in 0..5 {
        clock.advance(BOUND * 9 / 10);
        within("write to a program", input.write("word\n".into())).await.expect("it is taken");
        assert_eq!(line(&mut process).await.expect("it is not silent"), "word");
    }
    let error = refusal(next_after(&mut process, &clock, BOUND).await);
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error:?}");
    assert_eq!(finish(&mut process).await.expect("it ends").exit.status, ExitStatus::Signal(9));
    let other = guest.run(&["exit", "0"]).await.expect("the sandbox goes on");
    assert!(other.exit.status.is_success());
    drop((input, process));
    gone(guest).await;
}
