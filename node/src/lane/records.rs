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
    /// Whether the other side broke the rules: nothing more is asked of the TLS library, see [`Records::advance`].
    broken: bool,
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
        Self { tls, outgoing: Vec::new(), broken: false }
    }

    /// Returns the peer whose key a finished handshake has proven.
    pub(super) fn peer(&self) -> Option<PeerId> {
        proven_peer(&self.tls)
    }

    /// Works off what came, answers what TLS wants answered, and encrypts what is queued once the handshake is over.
    /// Returns how many of the bytes that came are done with; the others are the beginning of a record, and are to come
    /// first the next time.
    ///
    /// Once the handshake is over nothing may come that takes more than one record, such as a part of a handshake message:
    /// the library waits for the rest, and would panic where the bytes that it has seen are not shown to it again, as when
    /// something is sent meanwhile. No lane has a use for such a message.
    ///
    /// # Errors
    /// What `take` returns, and what ails the connection: then every further call fails.
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
        if self.broken {
            return Err(io_error(ErrorKind::InvalidData.into()));
        }
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
            let rest = came.get(done..).unwrap_or_default();
            if matches!(reached, Some(Reached::Traffic)) && begins_with_record(rest) {
                self.broken = true;
                return Err(io_error(ErrorKind::InvalidData.into()));
            }
            if let Some(reached) = reached {
                return Ok((done, reached));
            }
        }
    }
}

/// Says whether bytes begin with a whole record of TLS: its kind, a version, and the length of what follows.
fn begins_with_record(bytes: &[u8]) -> bool {
    let Some(([_, _, _, high, low], body)) = bytes.split_first_chunk() else { return false };
    body.len() >= usize::from(*high) << 8 | usize::from(*low)
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

#[cfg(test)]
mod tests {
    use super::super::tls::Tls;
    use super::*;
    use crate::identity::Identity;

    /// Returns bytes without their last record.
    fn without_last_record(bytes: &[u8]) -> &[u8] {
        let mut end = 0;
        loop {
            let rest = bytes.get(end..).expect("whole records");
            let len = 5
                + usize::from(*rest.get(3).expect("a length")) * 256
                + usize::from(*rest.get(4).expect("a length"));
            if rest.len() == len {
                return bytes.get(..end).expect("records");
            }
            end += len;
        }
    }

    #[test]
    fn part_of_a_handshake_message_ends_a_lane_and_panics_nobody() {
        let identity = || Identity::generate().expect("random bytes");
        let (me, other) = (identity(), identity());
        let peer = other.peer();
        let provider = Tls::new(&other, |_| true).expect("a key");
        let mut provider = provider.accept_talkative().expect("a handshake");
        let requester = Tls::new(&me, |_| true).expect("a key").connect(peer);
        let mut requester = Records::new(requester.expect("a handshake"));
        let (mut came, mut told) = (Vec::new(), Vec::new());
        // Until the provider has nothing more to say but what it says unasked.
        while provider.is_handshaking() {
            let step = requester.advance(&mut came, &mut Vec::new(), |_| Ok(()));
            let (done, _) = step.expect("a step");
            came.drain(..done);
            let sent = std::mem::take(&mut requester.outgoing);
            let mut sent = &sent[..];
            while !sent.is_empty() {
                provider.read_tls(&mut sent).expect("taken");
                provider.process_new_packets().expect("in order");
            }
            told.clear();
            while provider.wants_write() {
                provider.write_tls(&mut told).expect("written");
            }
            if provider.is_handshaking() {
                came.extend_from_slice(&told);
            }
        }
        assert!(requester.peer() == Some(peer), "it is over here, too");
        let mut part = without_last_record(&told).to_vec();
        assert!(part.len() > 5, "a message of several records");
        assert!(requester.advance(&mut part, &mut Vec::new(), |_| Ok(())).is_err());
        assert!(requester.advance(&mut [], &mut b"asked".to_vec(), |_| Ok(())).is_err());
    }
}
