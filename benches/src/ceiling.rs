//! The ceiling of a transfer: TLS, hashing and the write between two processes, and nothing else.
//!
//! No identity, no request but an offset and a length, no frames, no list to verify against, no store:
//! what any program must do that moves a file encrypted, hashes it by groups and writes it. Two lanes, a
//! writer apart, plain blocking threads; blobmesh cannot be faster than this by much.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use blobmesh_protocol::blob::{ChainingValue, GROUP_LEN, group_value};
use rustls::client::UnbufferedClientConnection;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{
    CipherSuite, ClientConfig, DigitallySignedStruct, Error, ServerConfig, ServerConnection,
    SignatureScheme, version,
};

/// How many lanes there are.
const LANES: usize = 2;
/// How many bytes are asked for at once.
const RANGE_LEN: u64 = 4 << 20;
/// How many bytes are written at once, and in how many buffers.
const BUFFER_LEN: usize = 1 << 20;
const BUFFERS: usize = 12;
/// How many bytes are read from the file and from a socket at once.
const PIECE_LEN: usize = 256 << 10;

/// A key that proves nothing: an ed25519 secret of ones, in PKCS #8.
const KEY: [u8; 48] = {
    let mut key = [1; 48];
    let prefix = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    let mut at = 0;
    while at < prefix.len() {
        key[at] = prefix[at];
        at += 1;
    }
    key
};

/// Serves a file to whoever connects, for as long as the process lives; `ready` is told the port.
///
/// # Errors
/// When the file or the port cannot be had.
pub fn serve(path: &Path, ready: impl FnOnce(u16) -> io::Result<()>) -> io::Result<()> {
    let file = Arc::new(File::open(path)?);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let tls = Arc::new(server_config().map_err(io::Error::other)?);
    ready(listener.local_addr()?.port())?;
    loop {
        let (tcp, _) = listener.accept()?;
        let (file, tls) = (Arc::clone(&file), Arc::clone(&tls));
        // A lane ends with its connection.
        std::thread::spawn(move || serve_lane(tcp, &file, tls));
    }
}

fn serve_lane(mut tcp: TcpStream, file: &File, tls: Arc<ServerConfig>) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut tls = ServerConnection::new(tls).map_err(io::Error::other)?;
    tls.set_buffer_limit(None);
    let mut piece = vec![0; PIECE_LEN];
    loop {
        let mut request = [0; 16];
        rustls::Stream::new(&mut tls, &mut tcp).read_exact(&mut request)?;
        let (offset, len) = request.split_at(8);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let (mut offset, end) = (number(offset), number(offset) + number(len));
        while offset < end {
            let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
            let piece = &mut piece[..left.min(PIECE_LEN)];
            file.read_exact_at(piece, offset)?;
            tls.writer().write_all(piece)?;
            while tls.wants_write() {
                tls.write_tls(&mut tcp)?;
            }
            offset += u64::try_from(piece.len()).unwrap_or(u64::MAX);
        }
    }
}

/// Fetches a file of `size` bytes to `path`, and returns the values of its groups.
///
/// # Errors
/// When a lane breaks or the file cannot be written.
pub fn fetch(port: u16, size: u64, path: &Path) -> io::Result<Vec<ChainingValue>> {
    let file = File::create(path)?;
    file.set_len(size)?;
    let tls = Arc::new(client_config().map_err(io::Error::other)?);
    let (full, filled) = sync_channel(BUFFERS);
    let (empty, emptied) = sync_channel(BUFFERS);
    (0..BUFFERS).for_each(|_| drop(empty.send(vec![0; BUFFER_LEN])));
    let groups = usize::try_from(size.div_ceil(GROUP_LEN)).unwrap_or(usize::MAX);
    let common = Common {
        size,
        next: AtomicU64::new(0),
        emptied: Mutex::new(emptied),
        values: Mutex::new(vec![[0; 32]; groups]),
    };
    std::thread::scope(|threads| {
        let file = &file;
        let writer = threads.spawn(move || write(file, &filled, &empty));
        let lanes: Vec<_> = (0..LANES)
            .map(|_| {
                let (tls, full, common) = (Arc::clone(&tls), full.clone(), &common);
                threads.spawn(move || Lane::open(port, tls)?.run(common, &full))
            })
            .collect();
        drop(full);
        let lost = |_| io::Error::other("a thread panicked");
        for lane in lanes {
            lane.join().map_err(lost)??;
        }
        writer.join().map_err(lost)?
    })?;
    Ok(common.values.into_inner().unwrap_or_else(PoisonError::into_inner))
}

type Full = (u64, usize, Vec<u8>);

struct Common {
    size: u64,
    /// The offset that nobody has asked for yet.
    next: AtomicU64,
    emptied: Mutex<Receiver<Vec<u8>>>,
    values: Mutex<Vec<ChainingValue>>,
}

fn write(file: &File, filled: &Receiver<Full>, empty: &SyncSender<Vec<u8>>) -> io::Result<()> {
    for (offset, len, buffer) in filled {
        file.write_all_at(&buffer[..len], offset)?;
        // At the end nobody wants it back.
        empty.send(buffer).ok();
    }
    Ok(())
}

struct Lane {
    tcp: TcpStream,
    tls: UnbufferedClientConnection,
    incoming: Vec<u8>,
    start: usize,
    end: usize,
    outgoing: Vec<u8>,
}

impl Lane {
    fn open(port: u16, tls: Arc<ClientConfig>) -> io::Result<Self> {
        let tcp = TcpStream::connect(("127.0.0.1", port))?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from("ceiling.invalid").map_err(io::Error::other)?;
        let tls = UnbufferedClientConnection::new(tls, name).map_err(io::Error::other)?;
        let incoming = vec![0; PIECE_LEN];
        Ok(Self { tcp, tls, incoming, start: 0, end: 0, outgoing: Vec::new() })
    }

    fn run(mut self, common: &Common, full: &SyncSender<Full>) -> io::Result<()> {
        let mut filling = Filling { common, full, ranges: Vec::new(), buffer: None, filled: 0 };
        loop {
            let mut queued = Vec::new();
            while filling.ranges.len() < 2 {
                let offset = common.next.fetch_add(RANGE_LEN, Ordering::Relaxed);
                if offset >= common.size {
                    break;
                }
                let len = RANGE_LEN.min(common.size - offset);
                filling.ranges.push((offset, offset + len));
                queued.extend(offset.to_le_bytes().into_iter().chain(len.to_le_bytes()));
            }
            if filling.ranges.is_empty() {
                return Ok(());
            }
            self.turn(queued, &mut filling)?;
            self.incoming.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let len = self.tcp.read(&mut self.incoming[self.end..])?;
            if len == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.end += len;
            self.turn(Vec::new(), &mut filling)?;
        }
    }

    /// Works off what came, and sends what is queued as soon as that may be.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library may add states; they end a lane"
    )]
    fn turn(&mut self, mut queued: Vec<u8>, filling: &mut Filling<'_>) -> io::Result<()> {
        loop {
            let came = &mut self.incoming[self.start..self.end];
            let UnbufferedStatus { mut discard, state, .. } = self.tls.process_tls_records(came);
            let is_done = match state.map_err(io::Error::other)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(io::Error::other)?;
                        discard += record.discard;
                        filling.take(record.payload)?;
                    }
                    false
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    grow(&mut self.outgoing, |room| match data.encode(room) {
                        Err(EncodeError::InsufficientSize(need)) => Err(need.required_size),
                        done => Ok(done.unwrap_or(0)),
                    });
                    false
                }
                ConnectionState::TransmitTlsData(data) => {
                    self.tcp.write_all(&self.outgoing)?;
                    self.outgoing.clear();
                    data.done();
                    false
                }
                ConnectionState::WriteTraffic(_) if queued.is_empty() => true,
                ConnectionState::WriteTraffic(mut traffic) => {
                    grow(&mut self.outgoing, |room| match traffic.encrypt(&queued, room) {
                        Err(EncryptError::InsufficientSize(need)) => Err(need.required_size),
                        done => Ok(done.unwrap_or(0)),
                    });
                    queued.clear();
                    self.tcp.write_all(&self.outgoing)?;
                    self.outgoing.clear();
                    false
                }
                ConnectionState::BlockedHandshake => {
                    self.start += discard;
                    discard = 0;
                    self.incoming.copy_within(self.start..self.end, 0);
                    (self.start, self.end) = (0, self.end - self.start);
                    self.end += self.tcp.read(&mut self.incoming[self.end..])?;
                    false
                }
                _ => return Err(ErrorKind::UnexpectedEof.into()),
            };
            self.start += discard;
            if is_done {
                return Ok(());
            }
        }
    }
}

/// Makes room until `write` has enough.
fn grow(outgoing: &mut Vec<u8>, mut write: impl FnMut(&mut [u8]) -> Result<usize, usize>) {
    let filled = outgoing.len();
    let mut room = 0;
    loop {
        outgoing.resize(filled + room, 0);
        match write(&mut outgoing[filled..]) {
            Ok(len) => return outgoing.truncate(filled + len),
            Err(needed) => room = needed,
        }
    }
}

/// What a lane fills: the buffer of the first range that it has asked for.
struct Filling<'a> {
    common: &'a Common,
    full: &'a SyncSender<Full>,
    ranges: Vec<(u64, u64)>,
    buffer: Option<Vec<u8>>,
    filled: usize,
}

impl Filling<'_> {
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let (false, Some((offset, end))) = (bytes.is_empty(), self.ranges.first().copied()) {
            let mut buffer = match self.buffer.take() {
                Some(buffer) => buffer,
                None => self.common.buffer()?,
            };
            let left = usize::try_from(end - offset).unwrap_or(usize::MAX).min(BUFFER_LEN);
            let (now, rest) = bytes.split_at(bytes.len().min(left - self.filled));
            buffer[self.filled..self.filled + now.len()].copy_from_slice(now);
            let hashed = self.filled / group();
            self.filled += now.len();
            bytes = rest;
            let is_full = self.filled == left;
            let ready = if is_full { self.filled.div_ceil(group()) } else { self.filled / group() };
            for at in hashed..ready {
                let bytes = &buffer[at * group()..self.filled.min((at + 1) * group())];
                let index = offset / GROUP_LEN + u64::try_from(at).unwrap_or(0);
                self.common.hashed(index, group_value(index, bytes));
            }
            if !is_full {
                self.buffer = Some(buffer);
                continue;
            }
            let len = std::mem::take(&mut self.filled);
            let sent = self.full.send((offset, len, buffer));
            sent.map_err(|_| io::Error::other("the writer has ended"))?;
            self.ranges[0].0 += u64::try_from(len).unwrap_or(0);
            if self.ranges[0].0 == end {
                self.ranges.remove(0);
            }
        }
        Ok(())
    }
}

impl Common {
    fn buffer(&self) -> io::Result<Vec<u8>> {
        let emptied = self.emptied.lock().unwrap_or_else(PoisonError::into_inner);
        emptied.recv().map_err(|_| io::Error::other("the writer has ended"))
    }

    fn hashed(&self, index: u64, value: ChainingValue) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = usize::try_from(index).ok().and_then(|index| values.get_mut(index)) {
            *place = value;
        }
    }
}

fn group() -> usize {
    usize::try_from(GROUP_LEN).unwrap_or(usize::MAX)
}

/// Has the one cipher that lanes take first on a processor with AES.
fn crypto() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn server_config() -> Result<ServerConfig, Error> {
    let signer = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&KEY[..]))?;
    let key = signer.public_key().ok_or(Error::General("no public key".to_owned()))?;
    let key = CertifiedKey::new(vec![CertificateDer::from(key.as_ref().to_vec())], signer);
    let config = ServerConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::new(key))));
    Ok(config)
}

fn client_config() -> Result<ClientConfig, Error> {
    let config = ClientConfig::builder_with_provider(crypto())
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    Ok(config)
}

/// Takes every key, and checks that the other side has it.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(cert.as_ref());
        let algorithms = ring::default_provider().signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
