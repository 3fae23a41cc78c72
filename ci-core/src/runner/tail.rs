//! The last of what a program printed.

use std::mem;

use crate::secret::{Mask, SecretLease};

/// How many bytes of it are kept.
const MOST: usize = 64 * 1024;

/// The end of a stream of output, with secrets hidden.
#[derive(Debug)]
pub(super) struct Tail {
    mask: Mask,
    // Masked before it is cut: what is left of a secret that was cut is found by no mask.
    kept: Vec<u8>,
    is_cut: bool,
}

impl Tail {
    pub(super) fn new(lease: &SecretLease) -> Self {
        Self { mask: lease.mask(), kept: Vec::new(), is_cut: false }
    }

    /// Takes more output.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let masked = self.mask.push(bytes);
        self.keep(masked.as_bytes());
    }

    /// The last of it, what the mask held back included; from the beginning of a line where it was cut, if it has one.
    pub(super) fn take(&mut self, lease: &SecretLease) -> String {
        let Self { mask, mut kept, mut is_cut } = mem::replace(self, Self::new(lease));
        kept.extend_from_slice(mask.finish().as_bytes());
        is_cut |= cut(&mut kept);
        let line = kept.iter().position(|byte| *byte == b'\n').filter(|_| is_cut).map_or(0, |end| end + 1);
        String::from_utf8_lossy(&kept[line..]).into_owned()
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.kept.extend_from_slice(bytes);
        // Seldom, so that not every piece moves all that is kept.
        if self.kept.len() > 2 * MOST {
            self.is_cut |= cut(&mut self.kept);
        }
    }
}

/// Leaves the last bytes, and says whether there were more.
fn cut(kept: &mut Vec<u8>) -> bool {
    let more = kept.len().saturating_sub(MOST);
    kept.drain(..more);
    more > 0
}
