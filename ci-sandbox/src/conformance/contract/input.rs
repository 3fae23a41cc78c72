//! What a program reads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ci_core::sandbox::{ExitStatus, Input, Process, Signal};
use ci_core::{ErrorKind, Result};

use super::{gone, refusal, sandbox};
use crate::conformance::Bench;
use crate::conformance::guest::{Guest, command, finish, line, within};

/// More than all buffers on the way hold, and the bound for what a caller may be relieved of by them.
const MUCH: usize = 16 * 1024 * 1024;

/// What is written at a time.
static PIECE: [u8; 65_536] = [b'x'; 65_536];

/// How long is waited for something not to happen.
const MOMENT: Duration = Duration::from_millis(200);

async fn reading<'a>(guest: &'a Guest, words: &[&str]) -> (Box<dyn Process + 'a>, Box<dyn Input>) {
    let mut process = guest.exec(&command(words).with_input()).await.expect("it starts");
    let input = process.input().expect("its command asks for an input");
    (process, input)
}

/// Writes until it is not taken any more, and says why.
async fn refused(input: &mut dyn Input) -> Result<()> {
    for _ in 0..2 * MUCH / 65_536 {
        within("write to a program", input.write(Bytes::from_static(&PIECE))).await?;
    }
    Ok(())
}

#[doc(hidden)]
pub async fn what_is_written_is_read(bench: Arc<dyn Bench>) {
    const PERIOD: usize = 251;
    let guest = sandbox(&bench).await;
    let given: Vec<u8> = (0..3_000_000).map(|at| u8::try_from(at % PERIOD).unwrap_or(0)).collect();
    let (mut process, mut input) = reading(&guest, &["input"]).await;
    let feed = async {
        for piece in given.chunks(99_999) {
            within("write to a program", input.write(Bytes::copy_from_slice(piece)))
                .await
                .expect("it is taken");
        }
        drop(input);
    };
    let ((), ran) = tokio::join!(feed, finish(&mut *process));
    let ran = ran.expect("it ends with its input");
    assert!(ran.stdout == given, "{} bytes of {} came back, or others", ran.stdout.len(), given.len());
    assert_eq!(ran.exit.status, ExitStatus::Code(0));
    drop(process);
    gone(guest).await;
}

#[doc(hidden)]
pub async fn an_input_ends_when_it_is_dropped(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let (mut process, mut input) = reading(&guest, &["input"]).await;
    input.write("half a\n".into()).await.expect("it is taken");
    assert_eq!(line(&mut *process).await.expect("what was written is there at once"), "half a");
    let early = tokio::time::timeout(MOMENT, process.next()).await;
    assert!(early.is_err(), "its input has ended while somebody holds it: {early:?}");
    drop(input);
    assert_eq!(finish(&mut *process).await.expect("it ends").exit.status, ExitStatus::Code(0));
    drop(process);
    // One that is never taken is open for as long.
    let mut process = guest.exec(&command(&["input"]).with_input()).await.expect("it starts");
    let early = tokio::time::timeout(MOMENT, process.next()).await;
    assert!(early.is_err(), "an input that nobody took has ended: {early:?}");
    drop(process);
    gone(guest).await;
}

#[doc(hidden)]
pub async fn an_input_is_handed_out_once(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let (mut process, input) = reading(&guest, &["input"]).await;
    assert!(process.input().is_none(), "a second one");
    drop((input, process));
    let mut process = guest.start(&["input"]).await.expect("it starts");
    assert!(process.input().is_none(), "its command asks for none");
    drop(process);
    gone(guest).await;
}

#[doc(hidden)]
pub async fn who_reads_nothing_holds_its_writer_back(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    let (mut process, mut input) = reading(&guest, &["wait"]).await;
    assert_eq!(line(&mut *process).await.expect("it is up"), "up");
    let mut taken = 0;
    let piece = Bytes::from_static(&PIECE);
    while tokio::time::timeout(MOMENT, input.write(piece.clone())).await.is_ok() {
        taken += piece.len();
        assert!(taken < MUCH, "{taken} bytes that nobody reads were taken");
    }
    // Nobody else waits with it.
    let other = guest.run(&["exit", "4"]).await.expect("another program runs");
    assert_eq!(other.exit.status, ExitStatus::Code(4));
    process.signal(Signal::Kill).await.expect("it is there");
    assert_eq!(finish(&mut *process).await.expect("it ends").exit.status, ExitStatus::Signal(9));
    drop((input, process));
    gone(guest).await;
}

/// Nobody waits for a program that has ended, or has closed its input, to read.
#[doc(hidden)]
pub async fn what_nobody_will_read_is_refused(bench: Arc<dyn Bench>) {
    let guest = sandbox(&bench).await;
    for (words, code) in [(["exit", "3"], 3), (["close-output", "500"], 9)] {
        let (mut process, mut input) = reading(&guest, &words).await;
        let (written, ran) = tokio::join!(refused(&mut *input), finish(&mut *process));
        let error = refusal(written);
        assert_eq!(error.kind(), ErrorKind::Conflict, "{words:?}: {error:?}");
        assert!(!error.is_retryable(), "{words:?}: writing it again would not help");
        assert_eq!(ran.expect("it ends").exit.status, ExitStatus::Code(code), "{words:?}");
        let error = refusal(input.write("more".into()).await);
        assert_eq!(error.kind(), ErrorKind::Conflict, "{words:?}, afterwards: {error:?}");
    }
    gone(guest).await;
}
