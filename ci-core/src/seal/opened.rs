//! What came out of sealed content.

use std::fmt;
use std::ops::{Deref, DerefMut};

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Plaintext, which is wiped when it is dropped. Who takes the vector out of it wipes it themselves.
///
/// It is not a `Zeroizing<Vec<u8>>`, because that wipes byte by byte, which takes a quarter of the time of opening.
#[derive(Default)]
pub struct Opened(Vec<u8>);

impl Opened {
    /// Room for `length` bytes, which never grows: what grows leaves copies behind.
    pub(super) fn zeroed(length: usize) -> Self {
        Self(vec![0; length])
    }
}

impl Zeroize for Opened {
    fn zeroize(&mut self) {
        let all = self.0.capacity();
        self.0.clear();
        self.0.resize(all, 0);
        // Without it the compiler may leave out writes that nobody reads.
        zeroize::optimization_barrier(self.0.as_slice());
        self.0.clear();
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl ZeroizeOnDrop for Opened {}

impl Deref for Opened {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Opened {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opened(..)")
    }
}
