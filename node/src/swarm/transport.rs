//! How connections are made: TCP, then Noise with the mesh's prologue, then Yamux. Nothing else.
//!
//! Both ends mix the prologue into the handshake's hash, so a handshake with a stranger to the mesh
//! fails before a protocol of ours is named. The prologue enters the hash and not the keys: a stranger
//! who dials still learns this node's public key from the answer.

use std::io;
use std::net::{IpAddr, TcpListener};
use std::time::Duration;

use libp2p::core::Multiaddr;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::timeout::TransportTimeoutError;
use libp2p::core::transport::{Boxed, TransportError};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::DialError;
use libp2p::{PeerId, Transport, dns, noise, tcp, yamux};

use super::DialFailure;

/// How long a connection may take from the first packet to the multiplexer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How many connections may wait to be accepted by this process.
const LISTEN_BACKLOG: u32 = 256;
/// Yamux ends a whole connection that has more streams, so this is above all bounds of single kinds.
const STREAMS_PER_CONNECTION_MAX: usize = 1_024;

/// Makes the transport of a mesh.
///
/// Names in addresses are looked up as the system is configured to; where that cannot be read, as in a
/// bare container, only numeric addresses can be dialled.
pub(super) fn build(
    keypair: &Keypair,
    prologue: &[u8],
) -> Result<Boxed<(PeerId, StreamMuxerBox)>, noise::Error> {
    let noise = noise::Config::new(keypair)?.with_prologue(prologue.to_vec());
    match dns::tokio::Transport::system(plain()) {
        Ok(named) => Ok(secured(named.map_err(lookup_error), noise)),
        Err(error) => {
            tracing::debug!(%error, "no names in addresses: the system's resolver is not configured");
            Ok(secured(plain(), noise))
        }
    }
}

/// Checks that an address with a fixed port is free.
///
/// libp2p lets its listeners share their port, so a second node on the same port would not be refused
/// but get every other connection. This socket does not share, which makes the system refuse it.
pub(super) fn check_free(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

fn plain() -> tcp::tokio::Transport {
    let config = tcp::Config::new().nodelay(true).listen_backlog(LISTEN_BACKLOG);
    tcp::tokio::Transport::new(config)
}

fn lookup_error(error: dns::Error<io::Error>) -> io::Error {
    if let dns::Error::Transport(error) = error { error } else { io::Error::other(error) }
}

fn secured<T>(inner: T, noise: noise::Config) -> Boxed<(PeerId, StreamMuxerBox)>
where
    T: Transport<Output = tcp::tokio::TcpStream, Error = io::Error> + Send + Unpin + 'static,
    T::Dial: Send,
    T::ListenerUpgrade: Send,
{
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(STREAMS_PER_CONNECTION_MAX);
    inner
        // Who dials proposes one thing each time and goes on before it is agreed to: two round trips less.
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux)
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .map_err(|error| match error {
            TransportTimeoutError::Timeout | TransportTimeoutError::TimerError(_) => Stage::Timeout,
            TransportTimeoutError::Other(error) => {
                // The error is left-left of TCP, left-right of Noise, right of Yamux.
                let text = error.to_string();
                match error.left().and_then(|error| error.left()) {
                    Some(source) => Stage::Connect(source),
                    None => Stage::Handshake(text),
                }
            }
        })
        .boxed()
}

/// Says where the making of a connection failed; libp2p's own errors nest this out of reach.
#[derive(Debug, thiserror::Error)]
enum Stage {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("handshake failed: {0}")]
    Handshake(String),
    #[error("took too long")]
    Timeout,
}

impl Stage {
    /// How much a reader learns from it, where several addresses failed in different ways.
    fn rank(&self) -> u8 {
        match self {
            Self::Handshake(_) => 2,
            Self::Timeout => 1,
            Self::Connect(_) => 0,
        }
    }
}

/// Says in our own words why a dial failed.
pub(super) fn dial_failure(error: &DialError) -> DialFailure {
    match error {
        DialError::LocalPeerId { .. } => DialFailure::OwnAddress,
        DialError::NoAddresses => DialFailure::NoAddress,
        DialError::WrongPeerId { .. } => DialFailure::OtherPeer,
        DialError::Denied { .. } => DialFailure::Denied,
        DialError::DialPeerConditionFalse(_) | DialError::Aborted => DialFailure::Aborted,
        DialError::Transport(errors) => {
            let stages = errors.iter().filter_map(|(_, error)| stage(error));
            match stages.max_by_key(|stage| stage.rank()) {
                Some(Stage::Handshake(_)) => DialFailure::Handshake,
                Some(Stage::Timeout) => DialFailure::Timeout,
                Some(Stage::Connect(_)) | None => DialFailure::Unreachable,
            }
        }
    }
}

/// Returns the addresses that are not the peer's, or not any more.
pub(super) fn failed_addresses(error: &DialError) -> Vec<&Multiaddr> {
    match error {
        DialError::Transport(errors) => errors.iter().map(|(address, _)| address).collect(),
        DialError::WrongPeerId { address, .. } | DialError::LocalPeerId { address } => {
            vec![address]
        }
        DialError::NoAddresses
        | DialError::DialPeerConditionFalse(_)
        | DialError::Aborted
        | DialError::Denied { .. } => Vec::new(),
    }
}

/// Returns what the system said when an address could not be listened on.
pub(super) fn listen_error(error: TransportError<io::Error>) -> io::Error {
    match error {
        TransportError::Other(error) => match error.downcast::<Stage>() {
            Ok(Stage::Connect(source)) => source,
            Ok(stage) => io::Error::other(stage),
            Err(error) => error,
        },
        TransportError::MultiaddrNotSupported(_) => io::ErrorKind::Unsupported.into(),
    }
}

fn stage(error: &TransportError<io::Error>) -> Option<&Stage> {
    match error {
        TransportError::Other(error) => error.get_ref()?.downcast_ref(),
        TransportError::MultiaddrNotSupported(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(stages: Vec<Stage>) -> DialFailure {
        let address: Multiaddr = "/ip4/192.0.2.7/tcp/1".parse().unwrap();
        let errors = stages
            .into_iter()
            .map(|stage| (address.clone(), TransportError::Other(io::Error::other(stage))));
        dial_failure(&DialError::Transport(errors.collect()))
    }

    #[test]
    fn the_most_telling_of_several_failures_is_reported() {
        let connect = || Stage::Connect(io::ErrorKind::ConnectionRefused.into());
        let handshake = || Stage::Handshake(String::new());
        assert_eq!(failed(Vec::new()), DialFailure::Unreachable);
        assert_eq!(failed(vec![connect()]), DialFailure::Unreachable);
        assert_eq!(failed(vec![Stage::Timeout, connect()]), DialFailure::Timeout);
        assert_eq!(failed(vec![connect(), handshake(), Stage::Timeout]), DialFailure::Handshake);
    }
}
