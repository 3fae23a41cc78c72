//! Fields of messages.

use core::ffi::CStr;

/// Appends fields to a message.
#[derive(Debug)]
pub(crate) struct Writer<'a, B>(pub(crate) &'a mut B);

impl<B: Extend<u8>> Writer<'_, B> {
    /// A number.
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// A large number.
    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// How many records follow.
    pub(crate) fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Any bytes.
    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.count(value.len());
        self.0.extend(value.iter().copied());
        self
    }

    /// Text. One with a NUL inside is refused by the receiver.
    pub(crate) fn text(&mut self, value: &[u8]) -> &mut Self {
        self.texts(&[value])
    }

    /// One text out of several parts.
    pub(crate) fn texts(&mut self, parts: &[&[u8]]) -> &mut Self {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.count(length);
        for part in parts {
            self.0.extend(part.iter().copied());
        }
        self.0.extend([0]);
        self
    }
}

/// Takes fields off a message; nothing when it is too short or malformed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Nothing to read.
    pub(crate) const EMPTY: Self = Self(&[]);

    /// Reads `message` from its start.
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    /// A number.
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take(4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    }

    /// A large number.
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take(8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes)
    }

    /// Any bytes.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// Text, as the kernel takes it.
    pub(crate) fn text(&mut self) -> Option<&'a CStr> {
        let length = self.u32()? as usize;
        CStr::from_bytes_with_nul(self.take(length.checked_add(1)?)?).ok()
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn texts_and_bytes_are_read_as_they_were_written(
            texts in prop::collection::vec("[^\0]{0,20}", 0..5),
            bytes in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let mut message = Vec::new();
            let mut writer = Writer(&mut message);
            writer.bytes(&bytes);
            for text in &texts {
                writer.text(text.as_bytes());
            }
            let mut reader = Reader::new(&message);
            prop_assert_eq!(reader.bytes(), Some(&bytes[..]));
            for text in &texts {
                prop_assert_eq!(reader.text().map(CStr::to_bytes), Some(text.as_bytes()));
            }
            prop_assert!(reader.text().is_none());
        }
    }
}
