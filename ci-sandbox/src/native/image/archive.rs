//! Tar archives on their streams.

use std::io::{self, Read};

use super::super::tar;

/// An archive on its stream.
#[derive(Debug)]
pub(super) struct Stream<R>(pub(super) R);

impl<R: Read> tar::Source for Stream<R> {
    type Error = io::Error;

    fn read_full(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.0.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}
