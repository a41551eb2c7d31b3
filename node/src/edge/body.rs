//! The bytes of a blob as they come from an edge.

use std::collections::VecDeque;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use tokio::time::timeout;

use super::answer::Promise;
use super::error::{Breach, EdgeError, Task};
use super::files;
use super::http::Body;
use super::policy::Flight;

/// How much of a file is read at a time.
const FILE_PIECE_LEN: u64 = 256 << 10;

/// Gives the bytes of one read, in order and nothing but the promised range.
///
/// The bytes are *not* verified: whoever reads them checks each group against the hash.
#[derive(Debug)]
pub struct EdgeBody {
    /// The length of the whole blob in bytes, as the edge tells it.
    pub size: u64,
    /// Which bytes of the blob follow. Where a range was asked for, it is either that range, cut at
    /// the blob's end, or the whole blob from a server that does not know ranges.
    pub range: Range<u64>,
    task: Task,
    /// How many bytes of the range are still to come.
    left: u64,
    /// What came ahead of the reader, who is told of a failure when it has read what came before.
    ahead: VecDeque<Result<Bytes, EdgeError>>,
    inner: Inner,
    /// Takes how it goes on, until that is known.
    flight: Option<Flight>,
}

#[derive(Debug)]
enum Inner {
    Remote {
        answer: Box<Response>,
        body: Body,
    },
    File {
        file: Arc<File>,
        path: PathBuf,
        wait_max: Duration,
    },
    /// All of the range.
    Memory {
        bytes: Bytes,
    },
}

impl EdgeBody {
    pub(super) fn remote(promise: Promise, answer: Response, body: Body, task: Task) -> Self {
        Self::new(promise, Inner::Remote { answer: Box::new(answer), body }, task)
    }

    pub(super) fn file(
        promise: Promise,
        file: File,
        path: PathBuf,
        wait_max: Duration,
        task: Task,
    ) -> Self {
        Self::new(promise, Inner::File { file: Arc::new(file), path, wait_max }, task)
    }

    /// Makes a body of bytes that are here already.
    pub(super) fn memory(promise: Promise, bytes: Bytes, task: Task) -> Self {
        Self::new(promise, Inner::Memory { bytes }, task)
    }

    fn new(promise: Promise, inner: Inner, task: Task) -> Self {
        let left = promise.range.end.saturating_sub(promise.range.start);
        let (ahead, flight) = (VecDeque::new(), None);
        Self { size: promise.size, range: promise.range, task, left, ahead, inner, flight }
    }

    /// Returns the next bytes, never empty, and `None` after the last byte of the range.
    ///
    /// Cancel safe: a dropped call loses no bytes. The time it waited still counts for the least rate.
    ///
    /// # Errors
    /// [`EdgeError::Stalled`] when the bytes come too slowly, [`EdgeError::Cut`] when they end too
    /// early, [`EdgeError::Protocol`] when more come than promised. After an error the body is of no
    /// further use; the bytes it gave before are as good as any.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, EdgeError> {
        match self.ahead.pop_front() {
            Some(held) => held.map(Some),
            None => self.arrived().await,
        }
    }

    /// Decides whether the rest is to be asked for anew: this connection turned out to be slow, and what is asked for
    /// now gets one of its own.
    pub(crate) fn leaves(&self) -> bool {
        match &self.inner {
            Inner::Remote { body, .. } => self.left > 0 && self.ahead.is_empty() && body.leaves(),
            Inner::File { .. } | Inner::Memory { .. } => false,
        }
    }

    /// Takes bytes ahead of the reader, up to `len_max` and a piece more, and returns once they are there, no more
    /// come, or something went wrong, which [`chunk`](Self::chunk) tells in its turn.
    ///
    /// A sender whose bytes nobody takes does not grow faster: its window is what the reader took lately.
    /// Cancel safe: what was taken is held.
    pub(crate) async fn read_ahead(&mut self, len_max: usize) {
        let mut held: usize = self.ahead.iter().flatten().map(Bytes::len).sum();
        while held < len_max && self.left > 0 && self.ahead.back().is_none_or(Result::is_ok) {
            let Some(chunk) = self.arrived().await.transpose() else { return };
            held += chunk.as_ref().map_or(0, Bytes::len);
            self.ahead.push_back(chunk);
        }
    }

    /// Waits for the next bytes, and has the policy know of them.
    async fn arrived(&mut self) -> Result<Option<Bytes>, EdgeError> {
        let chunk = self.promised().await;
        match (&chunk, &mut self.flight) {
            (Ok(_), flight) if self.left == 0 => {
                flight.take().into_iter().for_each(Flight::served);
            }
            (Ok(_), Some(flight)) => flight.answered(),
            (Err(error), flight) => {
                flight.take().into_iter().for_each(|flight| flight.failed(error));
            }
            (Ok(_), None) => {}
        }
        chunk
    }

    /// Has the policy of the edge know how the body goes on.
    pub(super) fn followed_by(mut self, flight: Flight) -> Self {
        if self.left == 0 {
            flight.served();
        } else {
            self.flight = Some(flight);
        }
        self
    }

    /// Reads the next bytes of those that are promised.
    async fn promised(&mut self) -> Result<Option<Bytes>, EdgeError> {
        while self.left > 0 {
            let bytes = self.next().await?;
            let got = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if got > self.left {
                let found = format!("at least {} bytes more", got - self.left);
                let wanted = format!("{}-{}", self.range.start, self.range.end.saturating_sub(1));
                let breach = Breach::WrongRange { wanted, found };
                return Err(EdgeError::Protocol { task: self.task, breach });
            }
            self.left -= got;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Reads some bytes; an end before the promised one is a cut.
    async fn next(&mut self) -> Result<Bytes, EdgeError> {
        let (task, expected) = (self.task, self.range.end - self.range.start);
        let got = expected - self.left;
        let bytes = match &mut self.inner {
            Inner::Remote { answer, body } => {
                body.next(answer).await.map_err(|failure| failure.during(task))?
            }
            Inner::File { file, path, wait_max } => {
                let (file, offset) = (Arc::clone(file), self.range.end - self.left);
                let len = usize::try_from(self.left.min(FILE_PIECE_LEN)).unwrap_or(usize::MAX);
                let read = files::blocking(move || {
                    let mut piece = vec![0; len];
                    let got = files::read_at(&file, &mut piece, offset)?;
                    piece.truncate(got);
                    Ok(piece)
                });
                let Ok(read) = timeout(*wait_max, read).await else {
                    return Err(EdgeError::Stalled { task, waited: *wait_max, got });
                };
                let piece = read.map_err(|error| EdgeError::io(task, Some(path.clone()), error))?;
                (!piece.is_empty()).then(|| Bytes::from(piece))
            }
            Inner::Memory { bytes } => {
                let bytes = std::mem::take(bytes);
                (!bytes.is_empty()).then_some(bytes)
            }
        };
        bytes.ok_or(EdgeError::Cut { task, got, expected, source: None })
    }
}
