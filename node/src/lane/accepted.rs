//! The provider's end of a lane: a blocking socket and the TLS over it.
//!
//! What is sent is gathered into TLS records from wherever it lies, and the records go out many at a
//! time. Nothing is read while a response is sent: what a requester asks for too early waits in its own
//! socket.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::TcpStream;

use blobmesh_protocol::PeerId;
use blobmesh_protocol::wire::frame::{Frame, FrameReader};
use blobmesh_protocol::wire::message::{LANE_OPEN, REQUEST, body_len_max};
use blobmesh_protocol::wire::small::{CODED_PACK, SMALL_PACK};
use rustls::ServerConnection;

use super::tls::proven_peer;
use super::wait::{self, Patience};
use crate::transfer::StreamError;

/// How many decrypted bytes are taken at once; requests are small.
const PIECE_LEN: usize = 4 << 10;

/// Is a lane that a requester opens.
pub(super) struct Accepted {
    tcp: TcpStream,
    tls: ServerConnection,
    frames: FrameReader,
    /// Decrypted bytes that are not cut into frames yet.
    plain: Vec<u8>,
    /// How many bytes of them are.
    cut: usize,
}

impl Accepted {
    /// Shakes hands, and returns the lane and the peer whose key the handshake has proven.
    pub(super) fn open(
        tcp: TcpStream,
        mut tls: ServerConnection,
        patience: Patience<'_>,
    ) -> io::Result<(Self, PeerId)> {
        wait::prepare(&tcp)?;
        // What is handed over is encrypted at once and sent before the next: this side's own bound.
        tls.set_buffer_limit(None);
        let frames = FrameReader::new(|kind| match kind {
            REQUEST | LANE_OPEN | SMALL_PACK | CODED_PACK => body_len_max(kind),
            _ => 0,
        });
        let mut lane = Self { tcp, tls, frames, plain: Vec::new(), cut: 0 };
        while lane.tls.is_handshaking() {
            lane.send(patience)?;
            if lane.tls.is_handshaking() && !lane.fill(patience)? {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        lane.send(patience)?;
        let peer = proven_peer(&lane.tls).ok_or(ErrorKind::PermissionDenied)?;
        Ok((lane, peer))
    }

    /// Waits for the next frame; none when the requester has closed the lane.
    ///
    /// # Errors
    /// Also when there is no frame in time; the lane is then what it was before.
    pub(super) fn next_frame(
        &mut self,
        patience: Patience<'_>,
    ) -> Result<Option<Frame>, StreamError> {
        loop {
            let mut rest = self.plain.get(self.cut..).unwrap_or_default();
            let frame = self.frames.poll_frame(&mut rest)?;
            self.cut = self.plain.len() - rest.len();
            if frame.is_some() {
                return Ok(frame);
            }
            self.plain.clear();
            self.cut = 0;
            if !self.take_plain()? && !self.fill(patience)? {
                return Ok(None);
            }
        }
    }

    /// Encrypts frames that lie in pieces.
    pub(super) fn put(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<()> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let written = self.tls.writer().write_vectored(pieces)?;
        if written == len { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
    }

    /// Sends what was put.
    pub(super) fn send(&mut self, patience: Patience<'_>) -> io::Result<()> {
        while self.tls.wants_write() {
            if patience.wait(|| self.tls.write_tls(&mut self.tcp))? == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Moves decrypted bytes to where frames are cut; false if there are none.
    fn take_plain(&mut self) -> io::Result<bool> {
        self.plain.resize(PIECE_LEN, 0);
        let read = match self.tls.reader().read(&mut self.plain) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
            read => read,
        };
        self.plain.truncate(*read.as_ref().unwrap_or(&0));
        Ok(read? > 0)
    }

    /// Reads from the socket and decrypts; false at the end of the connection.
    fn fill(&mut self, patience: Patience<'_>) -> io::Result<bool> {
        if patience.wait(|| self.tls.read_tls(&mut self.tcp))? == 0 {
            return Ok(false);
        }
        let state = self.tls.process_new_packets();
        let state = state.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(!state.peer_has_closed() || state.plaintext_bytes_to_read() > 0)
    }
}
