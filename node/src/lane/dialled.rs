//! The requester's end of a lane: a blocking socket and the TLS over it.
//!
//! The socket is read in large pieces, and the [records](Records) in them are decrypted one after another.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use blobmesh_protocol::PeerId;
use rustls::client::UnbufferedClientConnection;

use super::records::{Reached, Records, io_error};
use super::wait::{self, Patience};
use crate::transfer::FetchError;

/// How many bytes are read from a socket at once.
const INCOMING_LEN: usize = 256 << 10;
/// How long one address of a peer may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How many addresses of one name are tried.
const ADDRESSES_MAX: usize = 4;

/// Is an open lane, or one in the middle of its handshake.
pub(super) struct Dialled {
    tcp: TcpStream,
    records: Records,
    /// What came and is not decrypted: the bytes from `start` to `end`.
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    /// Whether the last bytes that came filled all the room there was for them.
    was_filled: bool,
    /// What is to be encrypted once the handshake is over.
    queued: Vec<u8>,
}

/// Says what came of a look at the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Bytes, which were handed on.
    Bytes,
    /// Nothing for a moment.
    Nothing,
    /// The provider has closed the lane.
    End,
}

impl Dialled {
    /// Connects to the lane port of a peer and shakes hands; the peer's key is proven when it returns.
    pub(super) fn open(
        tls: UnbufferedClientConnection,
        peer: PeerId,
        (host, port): (&str, u16),
        patience: Patience<'_>,
    ) -> io::Result<Self> {
        let tcp = connect(host, port, patience)?;
        wait::prepare(&tcp)?;
        let mut lane = Self {
            tcp,
            records: Records::new(tls),
            incoming: vec![0; INCOMING_LEN],
            start: 0,
            end: 0,
            was_filled: false,
            queued: Vec::new(),
        };
        lane.shake_hands(patience)?;
        if lane.records.peer() != Some(peer) {
            return Err(ErrorKind::PermissionDenied.into());
        }
        Ok(lane)
    }

    fn shake_hands(&mut self, patience: Patience<'_>) -> io::Result<()> {
        loop {
            // Nothing may come before the first request.
            let early = |_: &[u8]| Err(FetchError::Short);
            match self.advance(patience, early).map_err(io::Error::other)? {
                Reached::Traffic => return Ok(()),
                Reached::End => return Err(ErrorKind::UnexpectedEof.into()),
                Reached::Handshake => {}
            }
            if patience.wait(|| self.fill())? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Sends what is queued, and returns the socket, its TLS, and what came and is not decrypted.
    pub(super) fn into_parts(
        mut self,
        patience: Patience<'_>,
    ) -> Result<(TcpStream, Records, Vec<u8>), FetchError> {
        self.advance(patience, |_| Err(FetchError::Short))?;
        let rest = self.incoming.get(self.start..self.end).unwrap_or_default().to_vec();
        Ok((self.tcp, self.records, rest))
    }

    /// Returns whether everything that came was taken, and everything queued was sent.
    pub(super) fn is_quiet(&self) -> bool {
        self.start == self.end && self.queued.is_empty() && self.records.outgoing.is_empty()
    }

    /// Returns whether more bytes may have come than the last [`receive`](Self::receive) took: then the link is not what
    /// this side waits for.
    pub(super) fn was_filled(&self) -> bool {
        self.was_filled
    }

    /// Queues bytes to be sent with the next [`receive`](Self::receive).
    pub(super) fn queue(&mut self, bytes: &[u8]) {
        self.queued.extend_from_slice(bytes);
    }

    /// Sends what is queued, waits a moment for bytes, and hands `take` what they are.
    ///
    /// # Errors
    /// What `take` returns, and what ails the connection.
    pub(super) fn receive(
        &mut self,
        patience: Patience<'_>,
        take: impl FnMut(&[u8]) -> Result<(), FetchError>,
    ) -> Result<Received, FetchError> {
        if !self.queued.is_empty() {
            self.advance(patience, |_| Ok(()))?;
        }
        match self.fill() {
            Ok(0) => return Ok(Received::End),
            Ok(_) => {}
            Err(error) if wait::is_tick(&error) => return Ok(Received::Nothing),
            Err(error) => return Err(io_error(error)),
        }
        match self.advance(patience, take)? {
            Reached::End => Ok(Received::End),
            Reached::Handshake | Reached::Traffic => Ok(Received::Bytes),
        }
    }

    /// Reads from the socket what there is room for.
    fn fill(&mut self) -> io::Result<usize> {
        if self.start > 0 {
            // Less than one record: everything before it is decrypted.
            self.incoming.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let room = self.incoming.get_mut(self.end..).unwrap_or_default();
        let len = self.tcp.read(room)?;
        self.was_filled = len == room.len();
        self.end += len;
        Ok(len)
    }

    /// Works off what came, and sends what TLS wants answered and what is queued.
    fn advance(
        &mut self,
        patience: Patience<'_>,
        take: impl FnMut(&[u8]) -> Result<(), FetchError>,
    ) -> Result<Reached, FetchError> {
        let came = self.incoming.get_mut(self.start..self.end).unwrap_or_default();
        let (done, reached) = self.records.advance(came, &mut self.queued, take)?;
        self.start += done;
        send(&mut self.tcp, &mut self.records.outgoing, patience)?;
        Ok(reached)
    }
}

fn send(
    tcp: &mut TcpStream,
    outgoing: &mut Vec<u8>,
    patience: Patience<'_>,
) -> Result<(), FetchError> {
    let mut sent = 0;
    while let Some(rest) = outgoing.get(sent..).filter(|rest| !rest.is_empty()) {
        match patience.wait(|| tcp.write(rest)).map_err(io_error)? {
            0 => return Err(io_error(ErrorKind::WriteZero.into())),
            len => sent += len,
        }
    }
    outgoing.clear();
    Ok(())
}

fn connect(host: &str, port: u16, patience: Patience<'_>) -> io::Result<TcpStream> {
    let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.take(ADDRESSES_MAX).collect();
    for address in addresses {
        patience.check()?;
        let left = patience.deadline.saturating_duration_since(Instant::now());
        let timeout = CONNECT_TIMEOUT.min(left).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}
