//! The event log: one line for each event, hashed as it is written.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use blobmesh_protocol::{Hash, Time};

/// Lines are hashed and written in pieces of about this many bytes.
const PIECE_LEN: usize = 1 << 16;

/// Hashes the events of a run, and writes them into a file if there is one. The hash is that of the
/// file's bytes.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    piece: Vec<u8>,
    hasher: blake3::Hasher,
    file: Option<File>,
    /// The first error of the file; the run goes on without it.
    error: Option<io::Error>,
}

/// Is the words of an event before its number, the number, and the words after it.
pub(super) type Numbered = (&'static str, u64, &'static str);

impl EventLog {
    /// Makes a log whose lines also go into a file.
    pub(super) fn to_file(path: &Path) -> io::Result<Self> {
        Ok(Self { file: Some(File::create(path)?), ..Self::default() })
    }

    /// Adds a line: the moment, the node, and what happened.
    pub(super) fn line(&mut self, at: Time, node: usize, event: std::fmt::Arguments<'_>) {
        // Writing into a vector cannot fail.
        let _written = writeln!(self.piece, "{} {node} {event}", at.as_nanos());
        if self.piece.len() >= PIECE_LEN {
            self.flush();
        }
    }

    /// Adds the line of a frame that arrived from a neighbour: its length, and the start of its hash. Most lines are
    /// such or those of flows, and without the machinery of formats they cost a fifth.
    pub(super) fn frame(&mut self, at: Time, (node, from): (usize, usize), len: usize, sum: u64) {
        self.begin(at, node);
        self.piece.extend_from_slice(b"Frames ");
        self.decimal(to_int(from));
        self.piece.push(b' ');
        self.decimal(to_int(len));
        self.piece.push(b' ');
        for place in (0..16).rev() {
            let digit = u8::try_from(sum >> (place * 4) & 0xf).unwrap_or(0);
            self.piece.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
        }
        self.end();
    }

    /// Adds the line of an event that has a number.
    pub(super) fn numbered(&mut self, at: Time, node: usize, (before, number, after): Numbered) {
        self.begin(at, node);
        self.piece.extend_from_slice(before.as_bytes());
        self.decimal(number);
        self.piece.extend_from_slice(after.as_bytes());
        self.end();
    }

    /// Adds the line of a flow of which so many bytes are there.
    pub(super) fn flow(&mut self, at: Time, node: usize, transfer: u64, done: u64) {
        self.begin(at, node);
        self.piece.extend_from_slice(b"flow ");
        self.decimal(transfer);
        self.piece.push(b' ');
        self.decimal(done);
        self.end();
    }

    fn begin(&mut self, at: Time, node: usize) {
        self.decimal(at.as_nanos());
        self.piece.push(b' ');
        self.decimal(to_int(node));
        self.piece.push(b' ');
    }

    fn end(&mut self) {
        self.piece.push(b'\n');
        if self.piece.len() >= PIECE_LEN {
            self.flush();
        }
    }

    fn decimal(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut len = 0;
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
            (number, len) = (number / 10, len + 1);
            if number == 0 {
                break;
            }
        }
        self.piece.extend(digits.iter().skip(digits.len() - len));
    }

    /// Returns the BLAKE3 hash of all lines so far.
    pub(super) fn hash(&mut self) -> Hash {
        self.flush();
        Hash::from_bytes(*self.hasher.finalize().as_bytes())
    }

    /// Returns what went wrong with the file, if something did.
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        self.flush();
        self.error.take()
    }

    fn flush(&mut self) {
        self.hasher.update(&self.piece);
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(&self.piece)
        {
            self.error = Some(error);
            self.file = None;
        }
        self.piece.clear();
    }
}

fn to_int(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_formats_are_those_with_them() {
        let numbers = [0, 1, 9, 10, 4_095, u64::MAX];
        let (mut quick, mut plain) = (EventLog::default(), EventLog::default());
        for number in numbers {
            let (at, small) =
                (Time::from_nanos(number), usize::try_from(number % 1_000).unwrap_or(0));
            quick.frame(at, (small, 7), small, number);
            plain.line(at, small, format_args!("Frames 7 {small} {number:016x}"));
            quick.flow(at, small, number, number / 3);
            plain.line(at, small, format_args!("flow {number} {}", number / 3));
            quick.numbered(at, small, ("Asked { transfer: ", number, " }"));
            plain.line(at, small, format_args!("Asked {{ transfer: {number} }}"));
        }
        assert_eq!(quick.piece, plain.piece);
    }
}
