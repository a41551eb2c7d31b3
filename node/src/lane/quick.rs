//! A lane for single small requests: the requester's end does not block.
//!
//! A small blob over the stream of the swarm passes the connection's task on both sides, and is encrypted by Noise. Here
//! whoever asks writes to the socket itself, and the task that hears reads from it: on this side nobody is woken but
//! by the answer, and on the other it is the thread of the lane that answers.

use std::io::ErrorKind;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use blobmesh_protocol::PeerId;
use blobmesh_protocol::wire::lane::LaneOffer;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::OwnedSemaphorePermit;

use super::fetch::OPEN_TIMEOUT;
use super::records::{Reached, Records, io_error};
use super::wait::Patience;
use super::{Lanes, lock};
use crate::transfer::FetchError;

/// How many bytes are read from the socket at once: the answer with the longest small blob, and more.
const INCOMING_LEN: usize = 128 << 10;
/// How many bytes of what TLS wants answered may wait for the next request.
const ANSWERS_LEN_MAX: usize = 4 << 10;

/// Is an open lane, of which one side asks and the other hears.
#[derive(Debug)]
pub(crate) struct QuickLane {
    pub(crate) reader: QuickReader,
    pub(crate) writer: QuickWriter,
}

/// Hears what comes.
pub(crate) struct QuickReader {
    tcp: OwnedReadHalf,
    records: Arc<Mutex<Records>>,
    incoming: Vec<u8>,
    /// How many bytes came and are not decrypted.
    filled: usize,
    _permit: OwnedSemaphorePermit,
}

/// Asks.
pub(crate) struct QuickWriter {
    tcp: OwnedWriteHalf,
    records: Arc<Mutex<Records>>,
    /// What is encrypted and the socket has not taken.
    unsent: Vec<u8>,
}

impl Lanes {
    /// Returns whether one more quick lane could be opened to a peer now.
    pub(crate) fn takes_quick(&self, peer: PeerId) -> bool {
        self.takes(peer) && self.0.quick.available_permits() > 0
    }

    /// Opens a lane to the host of a peer's control connection, as the peer has offered. Blocks; must be called within
    /// the runtime.
    ///
    /// # Errors
    /// Where it cannot be opened, the peer's lanes are not tried for a while; `NoBuffer` while too many are in use.
    pub(crate) fn open_quick(
        &self,
        peer: PeerId,
        (host, offer): (&str, &LaneOffer),
        stop: &AtomicBool,
    ) -> Result<QuickLane, FetchError> {
        let permit = Arc::clone(&self.0.quick).try_acquire_owned();
        let permit = permit.map_err(|_| FetchError::NoBuffer)?;
        let token = offer.tokens.first().copied().ok_or(FetchError::Short)?;
        let patience = Patience { stop, deadline: Instant::now() + OPEN_TIMEOUT };
        let lane = self.dial(peer, (host, offer.port, token), stop);
        let parts = lane.and_then(|lane| lane.into_parts(patience));
        let (tcp, records, rest) = parts.inspect_err(|_| self.avoid(peer))?;
        let tcp = tcp.set_nonblocking(true).and_then(|()| TcpStream::from_std(tcp));
        let (from, to) = tcp.map_err(io_error)?.into_split();
        let records = Arc::new(Mutex::new(records));
        let mut incoming = vec![0; INCOMING_LEN];
        incoming.get_mut(..rest.len()).ok_or(FetchError::Short)?.copy_from_slice(&rest);
        Ok(QuickLane {
            writer: QuickWriter { tcp: to, records: Arc::clone(&records), unsent: Vec::new() },
            reader: QuickReader {
                tcp: from,
                records,
                incoming,
                filled: rest.len(),
                _permit: permit,
            },
        })
    }
}

impl QuickReader {
    /// Waits for bytes, and hands `take` what they are. Cancel safe.
    ///
    /// # Errors
    /// What `take` returns, what ails the connection, and its end.
    pub(crate) async fn receive(
        &mut self,
        take: impl FnMut(&[u8]) -> Result<(), FetchError>,
    ) -> Result<(), FetchError> {
        // Less than one record is left of what came before, and there is room for several.
        let room = self.incoming.get_mut(self.filled..).unwrap_or_default();
        match self.tcp.read(room).await.map_err(io_error)? {
            0 => return Err(FetchError::Short),
            len => self.filled += len,
        }
        let came = self.incoming.get_mut(..self.filled).unwrap_or_default();
        let mut records = lock(&self.records);
        let (done, reached) = records.advance(came, &mut Vec::new(), take)?;
        // What TLS wants answered leaves with the next request.
        if matches!(reached, Reached::End) || records.outgoing.len() > ANSWERS_LEN_MAX {
            return Err(FetchError::Short);
        }
        drop(records);
        self.incoming.copy_within(done..self.filled, 0);
        self.filled -= done;
        Ok(())
    }
}

impl QuickWriter {
    /// Sends bytes, behind all that was to be sent before; false where the socket did not take everything at once, and
    /// they are to be [flushed](Self::flush).
    ///
    /// # Errors
    /// What ails the connection: whoever hears meets it, too.
    pub(crate) fn send(&mut self, bytes: Vec<u8>) -> Result<bool, FetchError> {
        let mut queued = bytes;
        {
            let mut records = lock(&self.records);
            records.advance(&mut [], &mut queued, |_| Ok(()))?;
            self.unsent.append(&mut records.outgoing);
        }
        self.send_rest()
    }

    /// Sends what the socket did not take at once. Cancel safe.
    ///
    /// # Errors
    /// As of [`send`](Self::send).
    pub(crate) async fn flush(&mut self) -> Result<(), FetchError> {
        while !self.send_rest()? {
            self.tcp.writable().await.map_err(io_error)?;
        }
        Ok(())
    }

    fn send_rest(&mut self) -> Result<bool, FetchError> {
        while !self.unsent.is_empty() {
            match self.tcp.try_write(&self.unsent) {
                Ok(0) => return Err(io_error(ErrorKind::WriteZero.into())),
                Ok(len) => drop(self.unsent.drain(..len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(io_error(error)),
            }
        }
        Ok(true)
    }
}

impl std::fmt::Debug for QuickReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuickReader").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for QuickWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuickWriter").finish_non_exhaustive()
    }
}
