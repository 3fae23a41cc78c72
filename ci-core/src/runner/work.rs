//! What a worker does all day.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use futures_util::future::{self, Either, FusedFuture, FutureExt as _};

use super::{Runner, Stop};
use crate::error::Error;
use crate::id::Label;
use crate::queue::Dispatcher;

/// How long a worker waits when there is nothing to do.
const IDLE: Duration = Duration::from_secs(1);
/// How long it waits after errors in a row, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Runner {
    /// Claims and runs jobs that a worker with `labels` can do, one after the other, until `stop` is ready; the job that
    /// runs then is ended or given back, as `stop` says.
    ///
    /// An error ends no worker. It is written to the log, and after a pause, which grows with every error in a row up to
    /// 30 seconds, the worker asks for work again. Run it several times at once, with clones, for several jobs at once;
    /// call [`Sandboxes::reap`](crate::sandbox::Sandboxes::reap) before the first.
    ///
    /// # Cancel safety
    ///
    /// As for [`run`](Self::run); a job that was just being claimed waits until its lease runs out.
    ///
    /// # Example
    ///
    /// ```
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// use ci_core::memory::Rig;
    /// use ci_core::runner::{Runner, Stop};
    /// use tokio::sync::oneshot;
    ///
    /// let rig = Rig::new()?;
    /// let runner = Runner::new(rig.parts());
    /// let (shut_down, asked) = oneshot::channel::<()>(); // a signal handler's
    /// # shut_down.send(()).ok();
    /// runner
    ///     .work(&rig.dispatcher, &[], async {
    ///         let _ = asked.await;
    ///         Stop::ShutDown
    ///     })
    ///     .await;
    /// # Ok::<(), ci_core::Error>(()) })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn work(
        &self,
        dispatcher: &Dispatcher,
        labels: &[Label],
        stop: impl Future<Output = Stop> + Send,
    ) {
        let mut stop = pin!(stop.fuse());
        let mut pause = IDLE;
        loop {
            let did = self.turn(dispatcher, labels, stop.as_mut()).await;
            if stop.is_terminated() {
                return;
            }
            let wait = match did {
                Ok(Did::Work) => {
                    pause = IDLE;
                    continue;
                }
                Ok(Did::Nothing) => IDLE,
                Err(error) => {
                    let wait = error.retry_after().unwrap_or(pause).min(LONGEST_PAUSE);
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    wait
                }
            };
            if let Either::Left(_) = future::select(stop.as_mut(), self.parts.clock.sleep(wait)).await {
                return;
            }
        }
    }

    async fn turn(
        &self,
        dispatcher: &Dispatcher,
        labels: &[Label],
        mut stop: Pin<&mut (impl FusedFuture<Output = Stop> + Send)>,
    ) -> Result<Did, Error> {
        let logged = |error: Error| {
            tracing::warn!(error = %error.for_operator(), "worker goes on");
            error
        };
        let asked = match future::select(stop.as_mut(), pin!(dispatcher.next(labels))).await {
            Either::Left(_) => return Ok(Did::Nothing),
            Either::Right((asked, _)) => asked.map_err(logged)?,
        };
        let Some(claim) = asked else { return Ok(Did::Nothing) };
        self.run(claim, stop.as_mut()).await.map_err(logged)?;
        Ok(Did::Work)
    }
}

/// What a worker did in one turn.
enum Did {
    Work,
    Nothing,
}
