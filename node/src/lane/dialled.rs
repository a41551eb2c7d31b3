//! The requester's end of a lane: a blocking socket and the TLS over it.
//!
//! The socket is read in large pieces and the records in them are decrypted one after another, which
//! the buffered interface of the TLS library would read 16 KiB at a time.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use blobmesh_protocol::PeerId;
use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use super::tls::proven_peer;
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
    tls: UnbufferedClientConnection,
    /// What came and is not decrypted: the bytes from `start` to `end`.
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    /// What is encrypted and not sent.
    outgoing: Vec<u8>,
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

/// Says where a look at what came has ended.
enum Reached {
    /// Bytes are missing, and the handshake is not over.
    Handshake,
    /// Bytes are missing, and what was queued is sent.
    Traffic,
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
            tls,
            incoming: vec![0; INCOMING_LEN],
            start: 0,
            end: 0,
            outgoing: Vec::new(),
            queued: Vec::new(),
        };
        lane.shake_hands(patience)?;
        if proven_peer(&lane.tls) != Some(peer) {
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

    /// Returns whether everything that came was taken, and everything queued was sent.
    pub(super) fn is_quiet(&self) -> bool {
        self.start == self.end && self.queued.is_empty() && self.outgoing.is_empty()
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
        self.end += len;
        Ok(len)
    }

    /// Works off what came, answers what TLS wants answered, and sends what is queued.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library may add states; they end a lane"
    )]
    fn advance(
        &mut self,
        patience: Patience<'_>,
        mut take: impl FnMut(&[u8]) -> Result<(), FetchError>,
    ) -> Result<Reached, FetchError> {
        loop {
            let came = self.incoming.get_mut(self.start..self.end).unwrap_or_default();
            let UnbufferedStatus { mut discard, state, .. } = self.tls.process_tls_records(came);
            let reached = match state.map_err(tls_error)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(tls_error)?;
                        discard += record.discard;
                        take(record.payload)?;
                    }
                    None
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    encode(&mut self.outgoing, |room| match data.encode(room) {
                        Ok(len) => Ok(len),
                        Err(EncodeError::InsufficientSize(need)) => Err(Some(need.required_size)),
                        Err(EncodeError::AlreadyEncoded) => Err(None),
                    })?;
                    None
                }
                ConnectionState::TransmitTlsData(data) => {
                    send(&mut self.tcp, &mut self.outgoing, patience)?;
                    data.done();
                    None
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    if self.queued.is_empty() {
                        Some(Reached::Traffic)
                    } else {
                        let queued = std::mem::take(&mut self.queued);
                        encode(&mut self.outgoing, |room| match traffic.encrypt(&queued, room) {
                            Ok(len) => Ok(len),
                            Err(EncryptError::InsufficientSize(need)) => {
                                Err(Some(need.required_size))
                            }
                            Err(EncryptError::EncryptExhausted) => Err(None),
                        })?;
                        send(&mut self.tcp, &mut self.outgoing, patience)?;
                        None
                    }
                }
                ConnectionState::BlockedHandshake => Some(Reached::Handshake),
                _ => Some(Reached::End),
            };
            self.start += discard;
            if let Some(reached) = reached {
                return Ok(reached);
            }
        }
    }
}

/// Appends what `write` puts into the room it is given, after it has said how much it needs.
fn encode(
    outgoing: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), FetchError> {
    let filled = outgoing.len();
    let mut room = 0;
    loop {
        outgoing.resize(filled + room, 0);
        match write(outgoing.get_mut(filled..).unwrap_or_default()) {
            Ok(len) => {
                outgoing.truncate(filled + len);
                return Ok(());
            }
            Err(Some(needed)) if needed > room => room = needed,
            Err(_) => return Err(io_error(ErrorKind::InvalidData.into())),
        }
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

fn io_error(error: io::Error) -> FetchError {
    FetchError::Stream(error.into())
}

/// A broken handshake or record says nothing about the peer: anybody on the way can break it.
fn tls_error(error: rustls::Error) -> FetchError {
    io_error(io::Error::new(ErrorKind::InvalidData, error))
}
