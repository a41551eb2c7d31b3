//! The frames that follow the request's line, in both directions.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The bound of a frame's body in bytes.
pub(super) const FRAME_BYTES_MAX: usize = 1 << 20;

const HEADER_LEN: usize = 5;

/// Says what a frame's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Client: the next bytes of the input.
    Input = 1,
    /// Client: the input is complete; no body.
    InputEnd = 2,
    /// Client: the input could not be read; the body says why.
    InputFailed = 3,
    /// Node: a [`Progress`](super::api::Progress) as JSON.
    Progress = 16,
    /// Node: the next bytes of a `Cat`.
    Bytes = 17,
    /// Node: the beginning of an answer or failure that is longer than a frame.
    Part = 18,
    /// Node: the answer as JSON, or the rest of it; the last frame.
    Answer = 19,
    /// Node: the failure as JSON, or the rest of it; the last frame.
    Failure = 20,
    /// Node: a list of [`GotRow`](super::api::GotRow) as JSON.
    Got = 21,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Input,
            Self::InputEnd,
            Self::InputFailed,
            Self::Progress,
            Self::Bytes,
            Self::Part,
            Self::Answer,
            Self::Failure,
            Self::Got,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// Holds one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    /// What the body is.
    pub(super) kind: Kind,
    /// At most [`FRAME_BYTES_MAX`] bytes.
    pub(super) body: Bytes,
}

/// Says why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// The header announces more than the bound; nothing was reserved for it.
    #[error("a frame of {length} bytes is over the bound of {FRAME_BYTES_MAX}")]
    Oversize {
        /// The announced length.
        length: u32,
    },
    /// The header's first byte means nothing.
    #[error("a frame of unknown kind {kind}")]
    UnknownKind {
        /// The byte.
        kind: u8,
    },
    /// Reading failed, or ended inside a frame.
    #[error("a frame could not be read")]
    Io(#[from] io::Error),
}

/// Reads the next frame; none at an end between two frames.
///
/// Not cancel safe: dropping the future loses the bytes read so far.
pub(super) async fn read_frame<R>(reader: &mut R) -> Result<Option<Frame>, FrameError>
where
    R: AsyncRead + Unpin,
{
    let mut header = [0; HEADER_LEN];
    if reader.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut header[1..]).await?;
    let [kind, a, b, c, d] = header;
    let kind = Kind::from_byte(kind).ok_or(FrameError::UnknownKind { kind })?;
    let length = u32::from_le_bytes([a, b, c, d]);
    let len = usize::try_from(length)
        .ok()
        .filter(|len| *len <= FRAME_BYTES_MAX)
        .ok_or(FrameError::Oversize { length })?;
    let mut body = vec![0; len];
    reader.read_exact(&mut body).await?;
    Ok(Some(Frame { kind, body: body.into() }))
}

/// Writes `body` as one frame and flushes it.
///
/// # Errors
/// `InvalidInput` for a body over the bound, else what writing gave.
pub(super) async fn write_frame<W>(writer: &mut W, kind: Kind, body: &[u8]) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let length = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= FRAME_BYTES_MAX)
        .ok_or(io::ErrorKind::InvalidInput)?;
    let [a, b, c, d] = length.to_le_bytes();
    writer.write_all(&[kind as u8, a, b, c, d]).await?;
    writer.write_all(body).await?;
    writer.flush().await
}

/// Writes `body` in as many frames as it takes: `before` for all but the last, which is of `last`.
pub(super) async fn write_split<W>(
    writer: &mut W,
    before: Kind,
    last: Kind,
    body: &[u8],
) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut rest = body;
    while let Some((part, after)) = rest.split_at_checked(FRAME_BYTES_MAX) {
        if after.is_empty() {
            break;
        }
        write_frame(writer, before, part).await?;
        rest = after;
    }
    write_frame(writer, last, rest).await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(mut bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let mut frames = Vec::new();
        while let Some(frame) = read_frame(&mut bytes).await? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[tokio::test]
    async fn header_of_a_frame_over_the_bound_is_refused_without_its_body() {
        for (length, refused) in [(1 << 20, false), ((1 << 20) + 1, true), (u32::MAX, true)] {
            let mut bytes = vec![Kind::Input as u8];
            bytes.extend(length.to_le_bytes());
            let error = read_all(&bytes).await.unwrap_err();
            assert_eq!(matches!(error, FrameError::Oversize { .. }), refused, "{length}");
        }
    }

    #[tokio::test]
    async fn unknown_kinds_and_torn_frames_are_errors() {
        assert!(matches!(
            read_all(&[9, 0, 0, 0, 0]).await,
            Err(FrameError::UnknownKind { kind: 9 })
        ));
        let mut whole = Vec::new();
        write_frame(&mut whole, Kind::Bytes, b"abc").await.unwrap();
        for cut in 1..whole.len() {
            assert!(matches!(read_all(&whole[..cut]).await, Err(FrameError::Io(_))), "{cut}");
        }
    }

    #[tokio::test]
    async fn bodies_around_the_bound_are_split_and_put_together_again() {
        for len in [0, 1, FRAME_BYTES_MAX - 1, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1] {
            let body: Vec<u8> = (0..=250).cycle().take(len).collect();
            let mut written = Vec::new();
            write_split(&mut written, Kind::Part, Kind::Answer, &body).await.unwrap();
            let frames = read_all(&written).await.unwrap();
            assert_eq!(frames.len(), len.div_ceil(FRAME_BYTES_MAX).max(1), "{len}");
            assert_eq!(frames.last().unwrap().kind, Kind::Answer);
            assert!(frames.iter().rev().skip(1).all(|frame| frame.kind == Kind::Part));
            let together: Vec<u8> = frames.iter().flat_map(|frame| frame.body.to_vec()).collect();
            assert!(together == body, "{len}");
        }
    }
}
