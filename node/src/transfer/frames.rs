//! Frames on an async stream.

use std::io;

use blobmesh_protocol::wire::frame::{FRAME_HEADER_LEN, Frame, FrameError, FrameHeader};
use blobmesh_protocol::wire::message::body_len_max;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Says why a stream of frames is of no further use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The connection failed, or ended within a frame.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The peer broke the rules of the wire.
    #[error("the peer sent a malformed frame")]
    Frame(#[from] FrameError),
}

/// Reads and writes frames on one stream.
#[derive(Debug)]
pub(crate) struct FrameIo<S> {
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> FrameIo<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream }
    }

    /// Returns the stream, on which nothing was read past the last frame.
    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    /// Reads the next frame, `None` at an end between two frames.
    ///
    /// Not cancel safe: a dropped call loses the bytes it had read.
    pub(crate) async fn read(&mut self) -> Result<Option<Frame>, StreamError> {
        read_frame(&mut self.stream).await
    }

    /// Writes whole frames and sends them off.
    ///
    /// Not cancel safe: a dropped call may leave half a frame behind.
    pub(crate) async fn write(&mut self, frames: &[u8]) -> Result<(), StreamError> {
        self.stream.write_all(frames).await?;
        Ok(self.stream.flush().await?)
    }

    /// Says that nothing more will be written.
    pub(crate) async fn close(&mut self) -> Result<(), StreamError> {
        Ok(self.stream.shutdown().await?)
    }
}

/// Reads the next frame of `stream`, `None` at an end between two frames.
///
/// The body's bound is checked before memory is taken for it, and the memory grows with what arrives.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, StreamError> {
    let mut header = [0; FRAME_HEADER_LEN];
    if stream.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[1..]).await?;
    let header = FrameHeader::decode(header, body_len_max)?;
    let mut body = Vec::new();
    let got = stream.take(u64::from(header.len)).read_to_end(&mut body).await?;
    if u32::try_from(got) != Ok(header.len) {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Some(Frame { kind: header.kind, body }))
}
