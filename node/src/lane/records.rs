//! The TLS of a requester's end of a lane, without its socket.
//!
//! What came is decrypted where it lies, in pieces as large as were read: the buffered interface of the TLS library
//! would read 4 to 16 KiB at a time.

use std::io::{self, ErrorKind};

use rustls::client::UnbufferedClientConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use super::tls::proven_peer;
use crate::transfer::FetchError;
use blobmesh_protocol::PeerId;

/// Encrypts and decrypts.
pub(super) struct Records {
    tls: UnbufferedClientConnection,
    /// What is encrypted and not sent. All of it is to be sent in its order.
    pub(super) outgoing: Vec<u8>,
}

/// Says where a look at what came has ended.
pub(super) enum Reached {
    /// Bytes are missing, and the handshake is not over.
    Handshake,
    /// Bytes are missing, and what was queued is encrypted.
    Traffic,
    End,
}

impl Records {
    pub(super) fn new(tls: UnbufferedClientConnection) -> Self {
        Self { tls, outgoing: Vec::new() }
    }

    /// Returns the peer whose key a finished handshake has proven.
    pub(super) fn peer(&self) -> Option<PeerId> {
        proven_peer(&self.tls)
    }

    /// Works off what came, answers what TLS wants answered, and encrypts what is queued once the handshake is over.
    /// Returns how many of the bytes that came are done with; the others are the beginning of a record.
    ///
    /// # Errors
    /// What `take` returns, and what ails the connection.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library may add states; they end a lane"
    )]
    pub(super) fn advance(
        &mut self,
        came: &mut [u8],
        queued: &mut Vec<u8>,
        mut take: impl FnMut(&[u8]) -> Result<(), FetchError>,
    ) -> Result<(usize, Reached), FetchError> {
        let mut done = 0;
        loop {
            let rest = came.get_mut(done..).unwrap_or_default();
            let UnbufferedStatus { mut discard, state, .. } = self.tls.process_tls_records(rest);
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
                // Whoever called sends it.
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    None
                }
                ConnectionState::WriteTraffic(mut traffic) => {
                    if queued.is_empty() {
                        Some(Reached::Traffic)
                    } else {
                        encode(&mut self.outgoing, |room| match traffic.encrypt(queued, room) {
                            Ok(len) => Ok(len),
                            Err(EncryptError::InsufficientSize(need)) => {
                                Err(Some(need.required_size))
                            }
                            Err(EncryptError::EncryptExhausted) => Err(None),
                        })?;
                        queued.clear();
                        None
                    }
                }
                ConnectionState::BlockedHandshake => Some(Reached::Handshake),
                _ => Some(Reached::End),
            };
            done += discard;
            if let Some(reached) = reached {
                return Ok((done, reached));
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

pub(super) fn io_error(error: io::Error) -> FetchError {
    FetchError::Stream(error.into())
}

/// A broken handshake or record says nothing about the peer: anybody on the way can break it.
fn tls_error(error: rustls::Error) -> FetchError {
    io_error(io::Error::new(ErrorKind::InvalidData, error))
}
