//! The value of a secret, in memory.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretBox};

/// The value of a secret. It has no `Display` and no `Serialize`, shows nothing in `Debug`, and is wiped when it
/// is dropped.
///
/// # Example
///
/// ```
/// use ci_core::secret::SecretValue;
///
/// let value = SecretValue::new("hunter2");
/// assert_eq!(format!("{value:?}"), "SecretValue(..)");
/// assert_eq!(value.expose(), b"hunter2");
/// ```
pub struct SecretValue(SecretBox<Vec<u8>>);

impl SecretValue {
    /// Takes a value.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(SecretBox::new(Box::new(value.into())))
    }

    /// Shows the value. Whoever calls this answers for where it goes.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(..)")
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::id::random_bytes;

    /// How often the bytes whose complement is `complement` lie in this process's writable memory. The bytes
    /// themselves are never put together, lest they be found here.
    fn copies_in_memory(complement: &[u8; 32]) -> usize {
        let memory = File::open("/proc/self/mem").expect("our own memory");
        let maps = fs::read_to_string("/proc/self/maps").expect("our own maps");
        let mut copies = 0;
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let range = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
            let address = |text| u64::from_str_radix(text, 16).expect("an address");
            let (start, end) = (address(range.0), address(range.1));
            let mut page = [0; 4096];
            let mut before = [0; 32];
            for at in (start..end).step_by(page.len()) {
                if memory.read_exact_at(&mut page, at).is_err() {
                    break;
                }
                // In place, so that the copy that was just read does not count.
                for byte in &mut page {
                    *byte = !*byte;
                }
                copies += page.windows(32).filter(|window| *window == complement).count();
                let across = [&before[..], &page[..32]].concat();
                copies += across.windows(32).skip(1).take(31).filter(|window| *window == complement).count();
                before.copy_from_slice(&page[page.len() - 32..]);
            }
        }
        copies
    }

    #[test]
    fn a_value_is_wiped() {
        let mut bytes: Vec<u8> = random_bytes::<32>().to_vec();
        let mut complement = [0; 32];
        for (place, byte) in complement.iter_mut().zip(&bytes) {
            *place = !*byte;
        }
        bytes.shrink_to_fit();
        let value = SecretValue::new(bytes);
        let alive = copies_in_memory(&complement);
        assert!(alive > 0, "the search finds a value that is there");
        drop(value);
        assert!(copies_in_memory(&complement) < alive, "the value's memory still holds it");
    }

    #[test]
    fn nothing_shows_a_value() {
        let value = SecretValue::new("hunter2hunter2");
        assert_eq!(format!("{value:?}"), "SecretValue(..)");
    }
}
