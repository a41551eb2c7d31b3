//! Bounds what the HTTP/3 library takes in before it understands it.
//!
//! It waits for the whole of every frame that is not data, however long the edge says that it will be. So the streams
//! that the edge sends on are read through this: frames go by as they are, and one that is too long ends the connection.

use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use h3::error::Code;
use h3::quic::{
    Connection, ConnectionErrorIncoming, OpenStreams, RecvStream, SendStream, StreamErrorIncoming,
    StreamId, WriteBuf,
};

/// How long a frame may be that is not data: the packed head of an answer, settings, and such.
const FRAME_LEN_MAX: u64 = 64 << 10;
/// The kind of frames that carry data, which are passed on as they come.
const DATA: u64 = 0;
/// The kind of the one stream of the edge that has frames on it.
const CONTROL: u64 = 0;

/// Is what opens or accepts streams, all of which are guarded.
#[derive(Clone)]
pub(super) struct Guard<C>(C);

pub(super) type GuardedConnection = Guard<h3_quinn::Connection>;
pub(super) type GuardedOpener = Guard<h3_quinn::OpenStreams>;

/// Is a stream whose frames are looked at as they come.
pub(super) struct Guarded<S> {
    inner: S,
    frames: Frames,
}

impl GuardedConnection {
    pub(super) fn new(inner: h3_quinn::Connection) -> Self {
        Self(inner)
    }
}

impl<S> Guarded<S> {
    /// Guards a stream of an answer, or one that only the edge sends on.
    fn new(inner: S, begins: Begins) -> Self {
        Self { inner, frames: Frames { begins, ..Frames::default() } }
    }
}

impl Connection<Bytes> for GuardedConnection {
    type RecvStream = Guarded<h3_quinn::RecvStream>;
    type OpenStreams = GuardedOpener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::RecvStream, ConnectionErrorIncoming>> {
        let accepted = Connection::<Bytes>::poll_accept_recv(&mut self.0, cx);
        accepted.map_ok(|stream| Guarded::new(stream, Begins::Kind))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::BidiStream, ConnectionErrorIncoming>> {
        let accepted = Connection::<Bytes>::poll_accept_bidi(&mut self.0, cx);
        accepted.map_ok(|stream| Guarded::new(stream, Begins::Frames))
    }

    fn opener(&self) -> Self::OpenStreams {
        Guard(Connection::<Bytes>::opener(&self.0))
    }
}

impl<C: OpenStreams<Bytes>> OpenStreams<Bytes> for Guard<C>
where
    C::BidiStream: RecvStream<Buf = Bytes>,
{
    type BidiStream = Guarded<C::BidiStream>;
    type SendStream = C::SendStream;

    fn poll_open_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::BidiStream, StreamErrorIncoming>> {
        self.0.poll_open_bidi(cx).map_ok(|stream| Guarded::new(stream, Begins::Frames))
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::SendStream, StreamErrorIncoming>> {
        self.0.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.0.close(code, reason);
    }
}

impl<S: RecvStream<Buf = Bytes>> RecvStream for Guarded<S> {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let read = self.inner.poll_data(cx);
        if let Poll::Ready(Ok(Some(bytes))) = &read
            && let Err(too_long) = self.frames.pass(bytes)
        {
            let connection_error = ConnectionErrorIncoming::InternalError(too_long.to_string());
            return Poll::Ready(Err(StreamErrorIncoming::ConnectionErrorIncoming {
                connection_error,
            }));
        }
        read
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.inner.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.inner.recv_id()
    }
}

impl<S: SendStream<Bytes>> SendStream<Bytes> for Guarded<S> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.inner.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.inner.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.inner.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.inner.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.inner.send_id()
    }
}

/// Says what the first bytes of a stream are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Begins {
    #[default]
    Frames,
    /// What the stream is for, and frames only if it is the control stream.
    Kind,
    /// Neither: the library reads no frames from it.
    Other,
}

#[derive(Debug, thiserror::Error)]
#[error("a frame of {0} bytes is too long for one that is not data")]
struct TooLong(u64);

/// Follows the frames of a stream.
#[derive(Debug, Default)]
struct Frames {
    begins: Begins,
    /// The number that is being read, and how many of its bytes are there and still to come.
    number: u64,
    number_left: usize,
    /// What kind of frame it is whose length comes next.
    kind: Option<u64>,
    /// What is still to come of the frame.
    left: u64,
}

impl Frames {
    /// Takes in the next bytes of the stream.
    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        while !bytes.is_empty() && self.begins != Begins::Other {
            if self.left > 0 {
                let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                bytes = &bytes[len..];
                self.left -= u64::try_from(len).unwrap_or(self.left);
                continue;
            }
            if let Some(number) = self.number(bytes.get_u8()) {
                self.next(number)?;
            }
        }
        Ok(())
    }

    /// Takes in a byte of a number, and returns the number if that was its last. The first two bits say how long it is.
    fn number(&mut self, byte: u8) -> Option<u64> {
        if self.number_left == 0 {
            self.number = u64::from(byte & 0x3f);
            self.number_left = 1 << (byte >> 6);
        } else {
            self.number = self.number << 8 | u64::from(byte);
        }
        self.number_left -= 1;
        (self.number_left == 0).then_some(self.number)
    }

    fn next(&mut self, number: u64) -> Result<(), TooLong> {
        if self.begins == Begins::Kind {
            let is_control = number == CONTROL;
            self.begins = if is_control { Begins::Frames } else { Begins::Other };
            return Ok(());
        }
        match self.kind.take() {
            None => self.kind = Some(number),
            Some(kind) if kind != DATA && number > FRAME_LEN_MAX => return Err(TooLong(number)),
            Some(_) => self.left = number,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;

    use super::*;

    /// A number in four bytes.
    fn long(number: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.put_u32(number | 2 << 30);
        bytes
    }

    fn frame(kind: u8, len: u32) -> Vec<u8> {
        let body = vec![0xff; usize::try_from(len).expect("small")];
        [&[kind][..], &long(len), &body].concat()
    }

    /// Passes the bytes in pieces of every length up to seven; the outcome must be the same.
    fn pass(begins: Begins, bytes: &[u8]) -> Result<(), u64> {
        let pass = |len: usize| {
            let mut frames = Frames { begins, ..Frames::default() };
            bytes.chunks(len).try_for_each(|piece| frames.pass(piece)).map_err(|error| error.0)
        };
        let whole = pass(bytes.len().max(1));
        (1..8).for_each(|len| assert_eq!(pass(len), whole, "in pieces of {len}"));
        whole
    }

    #[test]
    fn frame_that_is_not_data_is_bounded_and_data_is_not() {
        let most = u32::try_from(FRAME_LEN_MAX).expect("small");
        for kind in [1, 4, 0x21] {
            assert_eq!(pass(Begins::Frames, &[kind]), Ok(()));
            assert_eq!(pass(Begins::Frames, &frame(kind, most)), Ok(()));
            let too_long = [&[kind][..], &long(most + 1)].concat();
            assert_eq!(pass(Begins::Frames, &too_long), Err(FRAME_LEN_MAX + 1));
            let longest = [&[kind][..], &[0xff; 8]].concat();
            assert_eq!(pass(Begins::Frames, &longest), Err((1 << 62) - 1));
        }
        assert_eq!(pass(Begins::Frames, &frame(0, most + 1)), Ok(()));
        let after_data = [frame(1, 3), frame(0, 70_000), frame(0x21, 0), vec![1, 0xff]].concat();
        assert_eq!(pass(Begins::Frames, &after_data), Ok(()));
        let after_data = [after_data, vec![0xff; 7]].concat();
        assert_eq!(pass(Begins::Frames, &after_data), Err((1 << 62) - 1));
    }

    #[test]
    fn of_what_the_edge_opens_only_the_control_stream_has_frames() {
        let too_long = [4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let control = [&[0][..], &too_long].concat();
        assert_eq!(pass(Begins::Kind, &control), Err((1 << 62) - 1));
        let encoder = [&[2][..], &too_long].concat();
        assert_eq!(pass(Begins::Kind, &encoder), Ok(()));
    }
}
