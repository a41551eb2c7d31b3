//! The lines of JSON that open a connection.

use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::api::CONTROL_VERSION;

const HELLO_BYTES_MAX: usize = 4096;

/// Introduces one side of a connection to the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// The version of the control protocol.
    pub(super) blobmesh_control: u32,
    /// The program's version, for the message when the two differ.
    pub(super) program: String,
}

impl Hello {
    fn ours() -> Self {
        Self { blobmesh_control: CONTROL_VERSION, program: env!("CARGO_PKG_VERSION").to_owned() }
    }

    /// Returns whether the other side speaks our version.
    pub(super) fn fits(&self) -> bool {
        self.blobmesh_control == CONTROL_VERSION
    }
}

/// Sends our hello and reads the other side's.
pub(super) async fn greet<R, W>(reader: &mut R, writer: &mut W) -> io::Result<Hello>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    write_line(writer, &serde_json::to_vec(&Hello::ours())?).await?;
    let line = read_line(reader, HELLO_BYTES_MAX).await?;
    Ok(serde_json::from_slice(&line)?)
}

/// Writes one line and flushes it.
pub(super) async fn write_line<W>(writer: &mut W, line: &[u8]) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    writer.write_all(line).await?;
    writer.write_all(b"\n").await?;
    writer.flush().await
}

/// Reads one line of at most `len_max` bytes, and returns it without its end.
///
/// # Errors
/// `InvalidData` for a longer line, `UnexpectedEof` where the line does not end.
pub(super) async fn read_line<R>(reader: &mut R, len_max: usize) -> io::Result<Vec<u8>>
where
    R: AsyncBufRead + Unpin,
{
    let mut line = Vec::new();
    let bound = u64::try_from(len_max).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(bound).read_until(b'\n', &mut line).await?;
    if line.pop_if(|last| *last == b'\n').is_some() {
        return Ok(line);
    }
    if line.len() > len_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a line over its bound"));
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_read_up_to_their_bound_and_no_further() {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        let table = [
            (&b""[..], Err(UnexpectedEof)),
            (&b"abcd"[..], Err(UnexpectedEof)),
            (&b"\n"[..], Ok(&b""[..])),
            (&b"abcd\nrest"[..], Ok(&b"abcd"[..])),
            (&b"abcde\n"[..], Err(InvalidData)),
            (&b"abcdefgh"[..], Err(InvalidData)),
        ];
        for (mut bytes, expected) in table {
            let shown = bytes.escape_ascii().to_string();
            let line = read_line(&mut bytes, 4).await;
            assert_eq!(line.as_deref().map_err(io::Error::kind), expected, "{shown}");
        }
    }
}
