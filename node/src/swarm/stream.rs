//! A byte stream to one peer, as the rest of the node sees it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt};

/// Carries bytes to and from one peer over its connection, encrypted and multiplexed.
///
/// Each end is closed on its own: `shutdown` says that nothing more will be written, and reading ends
/// with an end of file once the peer has said so. Dropping an open stream resets it. An open stream
/// keeps the connection alive and occupies one of the peer's places until it is dropped.
///
/// It is written to before the peer has agreed to it, which saves a round trip; where the peer does not, the first read
/// fails.
pub struct Stream {
    inner: Compat<libp2p::Stream>,
    /// Whether all that was written for the negotiation has left. libp2p panics at a read before that, where the peer has
    /// agreed ahead and reset the stream.
    flushed: bool,
    /// Whether a read has failed, as where the peer does not agree, or a call before all of that has left. libp2p panics
    /// at any call after the former.
    failed: bool,
    _place: OwnedSemaphorePermit,
}

impl Stream {
    pub(super) fn new(inner: libp2p::Stream, place: OwnedSemaphorePermit) -> Self {
        Self { inner: inner.compat(), flushed: false, failed: false, _place: place }
    }

    /// Returns what calls are made to.
    fn usable(&mut self) -> io::Result<Pin<&mut Compat<libp2p::Stream>>> {
        if self.failed {
            Err(io::ErrorKind::BrokenPipe.into())
        } else {
            Ok(Pin::new(&mut self.inner))
        }
    }

    /// Takes in what came of a call that writes.
    fn note<T>(&mut self, done: &Poll<io::Result<T>>) {
        self.failed |= !self.flushed && matches!(done, Poll::Ready(Err(_)));
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").finish_non_exhaustive()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.flushed {
            ready!(self.as_mut().poll_flush(cx))?;
        }
        let read = self.usable()?.poll_read(cx, buffer);
        self.failed = matches!(read, Poll::Ready(Err(_)));
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.usable()?.poll_write(cx, bytes);
        self.note(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.usable()?.poll_flush(cx);
        self.note(&flushed);
        self.flushed |= matches!(flushed, Poll::Ready(Ok(())));
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = self.usable()?.poll_shutdown(cx);
        self.note(&shut);
        shut
    }
}
