//! What did not work, and where.

use crate::sys::Errno;
use crate::wire::{Report, Stage};

/// A stage that failed with the kernel's reason.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    stage: Stage,
    errno: Errno,
    item: u32,
}

impl Failure {
    pub(crate) fn new(stage: Stage, errno: Errno) -> Self {
        Self { stage, errno, item: 0 }
    }

    /// What came from the supervisor is not what it sends.
    pub(crate) fn malformed(stage: Stage) -> Self {
        Self::new(stage, Errno::EBADMSG)
    }

    /// What is told to the supervisor.
    pub(crate) fn report(self) -> Report {
        Report::Failed { stage: self.stage, errno: self.errno.0, item: self.item }
    }
}

/// Says during which stage a call failed.
pub(crate) trait At<T> {
    fn at(self, stage: Stage) -> Result<T, Failure>;

    /// The same, where the stage handles several things of the configuration.
    fn at_item(self, stage: Stage, item: u32) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at(self, stage: Stage) -> Result<T, Failure> {
        self.at_item(stage, 0)
    }

    fn at_item(self, stage: Stage, item: u32) -> Result<T, Failure> {
        self.map_err(|errno| Failure { stage, errno, item })
    }
}
