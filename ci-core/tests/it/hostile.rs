//! Backends that lie, or fail.

use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;
use ci_core::queue::Leased;
use ci_core::records::{Batch, Key, Record, Records, Version};
use ci_core::{Error, ErrorKind, Result};

use crate::hooked::{Call, Hook};

/// Somebody changes a queue's rows before they are handed out.
pub(crate) struct Altered(Mutex<Box<Alter>>);

type Alter = dyn FnMut(&mut Leased) + Send;

impl Altered {
    pub(crate) fn by(alter: impl FnMut(&mut Leased) + Send + 'static) -> Self {
        Self(Mutex::new(Box::new(alter)))
    }
}

impl Hook for Altered {
    fn alter(&self, leased: &mut Leased) {
        (self.0.lock().expect("not poisoned"))(leased);
    }
}

impl fmt::Debug for Altered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Altered")
    }
}

/// A queue cannot be reached any more once jobs are leased: every heartbeat fails.
#[derive(Debug)]
pub(crate) struct Deaf;

impl Hook for Deaf {
    async fn around<T: Send>(&self, call: Call, done: impl Future<Output = Result<T>> + Send) -> Result<T> {
        match call {
            Call::Extend | Call::Release | Call::Finish => {
                Err(Error::new(ErrorKind::Unavailable, "use a lease"))
            }
            _ => done.await,
        }
    }
}

/// Records that cannot be reached.
#[derive(Debug)]
pub(crate) struct Down;

#[async_trait]
impl Records for Down {
    async fn get(&self, _: &Key) -> Result<Option<Record>> {
        Err(Error::new(ErrorKind::Unavailable, "read a record"))
    }

    async fn list(&self, _: &Key, _: Option<&Key>, _: usize) -> Result<Vec<Record>> {
        Err(Error::new(ErrorKind::Unavailable, "list records"))
    }

    async fn commit(&self, _: Batch) -> Result<Version> {
        Err(Error::new(ErrorKind::Unavailable, "commit"))
    }

    async fn purge(&self, _: &Key) -> Result<usize> {
        Err(Error::new(ErrorKind::Unavailable, "purge"))
    }

    async fn scan_raw(&self, _: &[u8]) -> Result<usize> {
        Err(Error::new(ErrorKind::Unavailable, "look for bytes"))
    }
}
