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
