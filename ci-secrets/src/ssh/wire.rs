//! How SSH writes data (RFC 4251, section 5).

/// What is left of a message that is being read. Nothing is copied, and nothing is believed of a length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(super) fn flag(&mut self) -> Option<bool> {
        Some(self.byte()? != 0)
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let length = usize::try_from(ahead.number()?).ok()?;
        let (string, rest) = ahead.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }

    /// A number that is not negative, without the zeros in front.
    pub(super) fn positive(&mut self) -> Option<&'a [u8]> {
        let bytes = self.string()?;
        let is_negative = bytes.first().is_some_and(|first| *first >= 0x80);
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        (!is_negative).then_some(&bytes[zeros..])
    }

    /// That nothing is left.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// Adds a string to a message.
pub(super) fn put_string(message: &mut Vec<u8>, string: &[u8]) {
    let length = u32::try_from(string.len()).expect("nothing that is written here has 4 GiB");
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(string);
}
