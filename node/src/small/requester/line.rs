//! The line: a stream that whoever has a request may write to, while its task has none.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use blobmesh_protocol::wire::small::SmallRequest;
use tokio::io::{AsyncRead, AsyncWrite, WriteHalf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::STREAM_REST_MAX;
use super::quick::Quick;
use super::unanswered::Unanswered;
use crate::small::Request;

/// Lets a stream be written by whoever has a request, while its task has none.
#[derive(Debug)]
pub(crate) struct Line<S> {
    idle: Mutex<Option<Idle<S>>>,
    /// Told when the task has to go on with what was begun.
    pub(super) begun: Notify,
}

/// Is a stream that nothing is being written to.
#[derive(Debug)]
pub(super) struct Idle<S> {
    pub(super) writer: WriteHalf<S>,
    pub(super) unanswered: Arc<Unanswered>,
    pub(super) quick: Option<Quick>,
    /// When the stream was last written to.
    pub(super) written: Instant,
    /// How many requests may be written by others before the task looks whether it should ask for a quick lane.
    pub(super) free: u32,
    /// What the stream did not take at once, for the task to write.
    pub(super) rest: Option<Vec<u8>>,
}

impl<S> Default for Line<S> {
    fn default() -> Self {
        Self { idle: Mutex::new(None), begun: Notify::new() }
    }
}

impl<S: AsyncRead + AsyncWrite> Line<S> {
    /// Writes a request, if the stream is open, and no other is out; false where the task has to. Never waits: what is not
    /// taken at once is left to the task.
    pub(crate) fn write(&self, request: Request) -> bool {
        let Ok(mut idle) = self.idle.try_lock() else { return false };
        let Some(idle) = idle.as_mut() else { return false };
        let written = idle.write(request);
        if written == Written::InPart {
            self.begun.notify_one();
        }
        written != Written::Nothing
    }

    pub(super) fn close(&self) {
        drop(self.lock().take());
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Option<Idle<S>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says how much of a request was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    Nothing,
    InPart,
    Whole,
}

impl<S: AsyncRead + AsyncWrite> Idle<S> {
    /// Writes a request to the quick lane, or else to the stream, unless others are out: the task writes together those
    /// that follow.
    fn write(&mut self, request: Request) -> Written {
        let is_quick = self.written.elapsed() < STREAM_REST_MAX;
        let quick = self.quick.as_mut().filter(|_| is_quick);
        let owes = |unanswered: &Unanswered| unanswered.len() > 0;
        let owed = owes(&self.unanswered) || quick.as_ref().is_some_and(|of| owes(&of.unanswered));
        if owed || self.rest.is_some() {
            return Written::Nothing;
        }
        let Some(quick) = quick else { return self.write_to_stream(request) };
        match quick.ask(&[request]) {
            None => Written::Nothing,
            Some(true) => Written::Whole,
            Some(false) => {
                self.rest = Some(Vec::new());
                Written::InPart
            }
        }
    }

    fn write_to_stream(&mut self, request: Request) -> Written {
        match self.free.checked_sub(1) {
            Some(free) => self.free = free,
            None => return Written::Nothing,
        }
        let id = self.unanswered.add(request);
        let Ok(frame) = (SmallRequest { id, hash: request.hash }).encode() else {
            self.unanswered.take(id).ok();
            return Written::Nothing;
        };
        self.written = Instant::now();
        let mut cx = Context::from_waker(Waker::noop());
        let mut writer = Pin::new(&mut self.writer);
        let written = match writer.as_mut().poll_write(&mut cx, &frame) {
            Poll::Ready(Ok(len)) => len,
            // The task meets the same, and its waker is woken.
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        let left = frame.get(written..).unwrap_or_default();
        if left.is_empty() && matches!(writer.poll_flush(&mut cx), Poll::Ready(Ok(()))) {
            return Written::Whole;
        }
        self.rest = Some(left.to_vec());
        Written::InPart
    }
}
