//! The edge of a lab: a bucket behind plain HTTP on a host of the internet.
//!
//! Nodes take plain HTTP from their own machine only. So each asks its own port, and its kernel sends
//! what goes there to the edge's host: the connection, its packets and its wire are those of a request to
//! another machine. Beside R2 there is no TLS, which is one round trip less for each new connection.
//!
//! The server knows GET and HEAD, one range, and connections that stay open. It waits before the first
//! byte, fails and slows down as it is told, and counts what each client asked for and was sent. Its files
//! come from `blobmesh push`, or are put there as by another tool, without the group lists of a push.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::{fd::AsFd as _, unix::fs::FileExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    command, error::Error, inside::inside, lab::Host, process::Home, process::Setting, stop::Stop,
};
use crate::{plan, random::Random};

/// Where nodes find the edge: at a port of their own.
pub(super) const URL: &str = "http://127.0.0.1:8080";

/// That port, and the edge's.
const PORT: u16 = 8080;

/// How long commands that fill the bucket may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// The most connections at once; one more is closed at once.
const CONNECTIONS_MAX: usize = 512;

/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// How many bytes are read and sent at a time.
const STEP_BYTES: usize = 64 << 10;

/// How often a quiet connection looks whether the server ends.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// How long a reader may take none of a body.
const SEND_LIMIT: Duration = Duration::from_secs(60);

/// Puts blobs into the bucket, as a user of a node would.
pub(super) struct Filler<'a> {
    home: Home<'a>,
}

impl<'a> Filler<'a> {
    pub(super) fn new(setting: Setting<'a>, host: &'a Host) -> Result<Self, Error> {
        let bucket = bucket(setting);
        fs::create_dir(&bucket).map_err(Error::file("make", &bucket))?;
        Ok(Self { home: Home::new(setting, host, "edge")? })
    }

    /// Pushes a file, and forgets it on this side.
    pub(super) fn push(&self, file: &Path, hash: &str) -> Result<(), Error> {
        self.home.add(file)?;
        let bucket = format!("dir:{}", bucket(self.home.setting).display());
        for words in [&["push", "--edge", &bucket, hash][..], &["rm", hash]] {
            self.home.run(words, b"", COMMAND_LIMIT)?.success()?;
        }
        Ok(())
    }

    /// Copies a file to where a blob lies, as another tool would: without a group list.
    pub(super) fn put(&self, file: &Path, hash: &str) -> Result<(), Error> {
        let path = bucket(self.home.setting).join(path_of(hash));
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(Error::file("make", directory))?;
        }
        fs::copy(file, &path).map(drop).map_err(Error::file("write", &path))
    }
}

/// Returns where a blob lies in the bucket, and behind the URL.
pub(super) fn path_of(hash: &str) -> String {
    let (shard, name) = hash.split_at_checked(2).unwrap_or((hash, ""));
    format!("blobs/{shard}/{name}")
}

fn bucket(setting: Setting<'_>) -> PathBuf {
    setting.lab.path().join("bucket")
}

/// Has a node's kernel send what goes to the node's own port to the edge.
pub(super) fn lead_to(setting: Setting<'_>, node: &Host, edge: &Host) -> Result<(), Error> {
    let rules = format!(
        "table ip edge {{\n\
         chain out {{ type nat hook output priority -100; \
         ip daddr 127.0.0.1 tcp dport {PORT} dnat to {}:{PORT}; }}\n\
         chain post {{ type nat hook postrouting priority 100; \
         ip saddr 127.0.0.0/8 oifname \"eth0\" masquerade; }}\n}}\n",
        edge.address
    );
    let run = |program: &str, words: &[&str], input: &str| {
        let mut command = setting.lab.command(node, Path::new(program));
        command.args(words);
        command::run(command, input.as_bytes(), COMMAND_LIMIT, setting.stop)?.success()
    };
    // Packets from a loopback address may not leave a machine otherwise.
    run("tee", &["/proc/sys/net/ipv4/conf/all/route_localnet"], "1")?;
    run("nft", &["-f", "-"], &rules)?;
    Ok(())
}

/// Is what was asked of the edge, and what it sent. A range, a length and a group list are a request each,
/// as they are on a bill; bytes are those of bodies, handed to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    /// For blobs: whole, in ranges, and their lengths.
    pub(super) blob_requests: u64,
    /// Of blobs.
    pub(super) blob_bytes: u64,
    /// For group lists, and what the server does not understand.
    pub(super) other_requests: u64,
    /// Of group lists.
    pub(super) other_bytes: u64,
}

impl Served {
    /// Returns how many requests there were of any kind.
    pub(super) const fn requests(&self) -> u64 {
        self.blob_requests + self.other_requests
    }

    /// Returns how many bytes of any kind were sent.
    pub(super) const fn bytes(&self) -> u64 {
        self.blob_bytes + self.other_bytes
    }

    /// Returns what was served since an earlier moment.
    pub(super) const fn since(&self, before: &Self) -> Self {
        Self {
            blob_requests: self.blob_requests.saturating_sub(before.blob_requests),
            blob_bytes: self.blob_bytes.saturating_sub(before.blob_bytes),
            other_requests: self.other_requests.saturating_sub(before.other_requests),
            other_bytes: self.other_bytes.saturating_sub(before.other_bytes),
        }
    }

    const fn plus(&self, other: &Self) -> Self {
        Self {
            blob_requests: self.blob_requests + other.blob_requests,
            blob_bytes: self.blob_bytes + other.blob_bytes,
            other_requests: self.other_requests + other.other_requests,
            other_bytes: self.other_bytes + other.other_bytes,
        }
    }

    fn count_request(&mut self, is_blob: bool) {
        *(if is_blob { &mut self.blob_requests } else { &mut self.other_requests }) += 1;
    }

    fn count_bytes(&mut self, is_blob: bool, bytes: u64) {
        *(if is_blob { &mut self.blob_bytes } else { &mut self.other_bytes }) += bytes;
    }
}

/// Is the running server. Dropping it ends it.
#[derive(Debug)]
pub(super) struct EdgeServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    bucket: PathBuf,
    spec: plan::Edge,
    random: Mutex<Random>,
    ends: AtomicBool,
    /// Pauses that no signal cuts short: the end of the run does.
    stop: Stop,
    /// By the address of the client.
    served: Mutex<BTreeMap<IpAddr, Served>>,
}

impl EdgeServer {
    pub(super) fn start(
        setting: Setting<'_>,
        host: &Host,
        spec: &plan::Edge,
        seed: u64,
    ) -> Result<Self, Error> {
        let address = SocketAddr::from((host.address, PORT));
        let listener = inside(host, move || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let shared = Arc::new(Shared {
            bucket: bucket(setting),
            spec: spec.clone(),
            random: Mutex::new(Random::new(seed).fork("edge", 0)),
            ends: AtomicBool::new(false),
            stop: Stop::never()?,
            served: Mutex::default(),
        });
        let own = Arc::clone(&shared);
        let thread = std::thread::spawn(move || accept(&own, &listener));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Returns what all clients asked for and were sent.
    pub(super) fn served(&self) -> Served {
        lock(&self.shared.served).values().fold(Served::default(), |sum, one| sum.plus(one))
    }

    /// Returns what one client asked for and was sent.
    pub(super) fn served_to(&self, client: &Host) -> Served {
        let served = lock(&self.shared.served);
        served.get(&IpAddr::V4(client.address)).copied().unwrap_or_default()
    }
}

impl Drop for EdgeServer {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of it was told on stderr.
            let _ended = thread.join();
        }
    }
}

/// Takes connections until the server ends, and waits for theirs.
fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut connections: Vec<JoinHandle<()>> = Vec::new();
    while !shared.ends.load(Ordering::Relaxed) {
        let looked = shared.stop.readable(listener.as_fd(), Instant::now() + LOOK_PAUSE);
        if !matches!(looked, Ok(true)) {
            continue;
        }
        connections.retain(|connection| !connection.is_finished());
        let Ok((stream, _)) = listener.accept() else { continue };
        if connections.len() >= CONNECTIONS_MAX {
            continue;
        }
        let own = Arc::clone(shared);
        connections.push(std::thread::spawn(move || {
            // A connection that fails is seen at its other end.
            let _ended = serve(&own, stream);
        }));
    }
    for connection in connections {
        let _ended = connection.join();
    }
}

/// Answers the requests of one connection, one after another.
fn serve(shared: &Shared, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOOK_PAUSE))?;
    stream.set_write_timeout(Some(SEND_LIMIT))?;
    let client = stream.peer_addr()?.ip();
    while let Some(head) = read_head(shared, &mut stream)? {
        answer(shared, (&mut stream, client), &head)?;
    }
    Ok(())
}

/// Reads the head of a request; none when the other side or the server ends.
fn read_head(shared: &Shared, stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(0) => return Ok(None),
            Ok(_) if head.len() >= HEAD_BYTES_MAX => return Ok(None),
            Ok(_) => head.extend_from_slice(&byte),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if shared.ends.load(Ordering::Relaxed) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

fn answer(
    shared: &Shared,
    (stream, client): (&mut TcpStream, IpAddr),
    head: &str,
) -> io::Result<()> {
    let asked = Asked::of(head);
    let is_blob = asked.as_ref().is_some_and(Asked::is_blob);
    shared.count(client, |served| served.count_request(is_blob));
    let Some(Asked { path, range, body }) = asked else {
        return stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    };
    let (wait, fails) = shared.draw(is_blob);
    shared.pause(wait)?;
    if fails {
        return stream.write_all(b"HTTP/1.1 500 Error\r\nContent-Length: 0\r\n\r\n");
    }
    let Ok(file) = File::open(shared.bucket.join(path)) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    };
    let size = file.metadata()?.len();
    let (status, from, to) = match range {
        Some((from, _)) if from >= size => {
            let text = format!(
                "HTTP/1.1 416 Range\r\nContent-Range: bytes */{size}\r\nContent-Length: 0\r\n\r\n"
            );
            return stream.write_all(text.as_bytes());
        }
        Some((from, last)) => ("206 Partial Content", from, last.saturating_add(1).min(size)),
        None => ("200 OK", 0, size),
    };
    let length = to.saturating_sub(from);
    let mut text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n"
    );
    if range.is_some() {
        let last = to.saturating_sub(1);
        text.push_str(&format!("Content-Range: bytes {from}-{last}/{size}\r\n"));
    }
    stream.write_all(format!("{text}\r\n").as_bytes())?;
    if !body {
        return Ok(());
    }
    let sent = |bytes| shared.count(client, |served| served.count_bytes(is_blob, bytes));
    shared.send(stream, &file, from..to, sent)
}

impl Shared {
    /// Draws how long a request waits, and whether it fails. Group lists are not what a plan speaks of.
    fn draw(&self, is_blob: bool) -> (Duration, bool) {
        if !is_blob {
            return (Duration::ZERO, false);
        }
        let mut random = lock(&self.random);
        let fails = random.chance(self.spec.error_rate);
        (Duration::from_nanos(self.spec.first_byte.draw(&mut random)), fails)
    }

    fn count(&self, client: IpAddr, count: impl FnOnce(&mut Served)) {
        count(lock(&self.served).entry(client).or_default());
    }

    fn pause(&self, time: Duration) -> io::Result<()> {
        self.stop.pause(time).map_err(io::Error::other)
    }

    fn send(
        &self,
        stream: &mut TcpStream,
        file: &File,
        range: std::ops::Range<u64>,
        sent: impl Fn(u64),
    ) -> io::Result<()> {
        let (began, mut at) = (Instant::now(), range.start);
        let mut buffer = vec![0; STEP_BYTES];
        while at < range.end {
            let left = usize::try_from(range.end - at).unwrap_or(STEP_BYTES).min(STEP_BYTES);
            let Some(step) = buffer.get_mut(..left) else { return Ok(()) };
            file.read_exact_at(step, at)?;
            stream.write_all(step)?;
            at += left as u64;
            sent(left as u64);
            if let Some(rate) = self.spec.rate_per_connection {
                let due = (at - range.start) as f64 / rate.max(1) as f64;
                let due = began + Duration::try_from_secs_f64(due).unwrap_or_default();
                self.pause(due.saturating_duration_since(Instant::now()))?;
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Is what a request asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// Relative to the bucket.
    path: String,
    /// The first and the last byte.
    range: Option<(u64, u64)>,
    /// Whether the body is wanted.
    body: bool,
}

impl Asked {
    fn is_blob(&self) -> bool {
        !self.path.ends_with(".groups")
    }

    /// Reads the head of a request; none of one that no node sends.
    fn of(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, path) = (words.next()?, words.next()?.strip_prefix('/')?);
        let body = match method {
            "GET" => true,
            "HEAD" => false,
            _ => return None,
        };
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
        if !path.bytes().all(known) || path.split('/').any(|part| part == "..") {
            return None;
        }
        let mut headers = lines.filter_map(|line| line.split_once(':'));
        let range = headers.find(|(name, _)| name.eq_ignore_ascii_case("range"));
        let range = match range {
            Some((_, value)) => {
                let (from, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
                let last = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
                Some((from.parse().ok()?, last))
            }
            None => None,
        };
        Some(Self { path: path.to_owned(), range, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_that_no_node_sends_is_none() {
        for head in [
            "",
            "GET\r\n",
            "PUT /blobs/a HTTP/1.1\r\n\r\n",
            "GET /../etc/passwd HTTP/1.1\r\n\r\n",
            "GET /blobs/%2e%2e HTTP/1.1\r\n\r\n",
            "GET /blobs/a HTTP/1.1\r\nRange: bytes=x-1\r\n\r\n",
        ] {
            assert_eq!(Asked::of(head), None, "{head:?}");
        }
    }

    #[test]
    fn range_is_read_with_and_without_its_end() {
        let asked = |range: &str| {
            Asked::of(&format!("GET /blobs/ab/c HTTP/1.1\r\nrange: bytes={range}\r\n\r\n")).unwrap()
        };
        assert_eq!(asked("5-9").range, Some((5, 9)));
        assert_eq!(asked("5-").range, Some((5, u64::MAX)));
        assert_eq!(asked("0-0").path, "blobs/ab/c");
        let head = Asked::of("HEAD /blobs/ab/c HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!((head.range, head.body), (None, false));
    }

    /// Serves one connection to the end of its requests; returns what was answered and counted.
    fn exchange(bucket: &Path, requests: &[&str]) -> (String, BTreeMap<IpAddr, Served>) {
        let shared = Shared {
            bucket: bucket.to_owned(),
            spec: plan::Edge::after(plan::Distribution::constant(0)),
            random: Mutex::new(Random::new(1)),
            ends: AtomicBool::new(false),
            stop: Stop::never().unwrap(),
            served: Mutex::default(),
        };
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        for request in requests {
            client.write_all(request.as_bytes()).unwrap();
        }
        client.shutdown(std::net::Shutdown::Write).unwrap();
        serve(&shared, server).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        (text, shared.served.into_inner().unwrap())
    }

    #[test]
    fn served_range_is_that_of_the_file_and_each_request_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("blobs")).unwrap();
        fs::write(directory.path().join("blobs/a"), b"0123456789").unwrap();
        fs::write(directory.path().join("blobs/a.groups"), b"list").unwrap();
        let (text, served) = exchange(
            directory.path(),
            &[
                "GET /blobs/a HTTP/1.1\r\nRange: bytes=2-4\r\n\r\n",
                "GET /blobs/b HTTP/1.1\r\n\r\n",
                "HEAD /blobs/a HTTP/1.1\r\n\r\n",
                "GET /blobs/a.groups HTTP/1.1\r\n\r\n",
                "PUT /blobs/a HTTP/1.1\r\n\r\n",
            ],
        );
        assert!(text.contains("Content-Range: bytes 2-4/10\r\n\r\n234HTTP/1.1 404"), "{text}");
        let wanted = Served { blob_requests: 3, blob_bytes: 3, other_requests: 2, other_bytes: 4 };
        assert_eq!(served, BTreeMap::from([(IpAddr::from([127, 0, 0, 1]), wanted)]));
        assert_eq!((wanted.requests(), wanted.bytes()), (5, 7));
    }

    #[test]
    fn blob_lies_where_its_url_says() {
        assert_eq!(path_of("abcdef"), "blobs/ab/cdef");
    }
}
