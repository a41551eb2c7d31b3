//! Caddy before a directory, and a wire to it whose UDP can be cut.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::task::{JoinHandle, JoinSet};

/// Serves a directory by HTTP/1.1, 2 and 3, and odd answers beside it; ends when dropped.
pub(crate) struct Caddy {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) root: PathBuf,
    _home: TempDir,
}

impl Caddy {
    /// Starts one; `None`, told on stderr, where there is no caddy. `bucket` is where `/team-blobs/…` is sent on to.
    pub(crate) fn start(bucket: Option<&str>) -> Option<Self> {
        if Command::new("caddy").arg("version").stdout(Stdio::null()).status().is_err() {
            say("skipped: there is no caddy, a web server that speaks HTTP/3");
            return None;
        }
        let home = tempfile::tempdir().expect("a directory");
        let root = home.path().join("served");
        std::fs::create_dir(&root).expect("a directory");
        // Somebody else may take the port that was free a moment ago.
        let started = (0..10).find_map(|_| run(home.path(), &root, bucket));
        let (child, address) = started.expect("caddy serves");
        Some(Self { child, address, root, _home: home })
    }
}

impl Drop for Caddy {
    fn drop(&mut self) {
        self.child.kill().expect("it ran");
        self.child.wait().expect("it ended");
    }
}

#[expect(clippy::print_stderr, reason = "whoever runs tests reads it there")]
fn say(what: &str) {
    eprintln!("{what}");
}

/// Runs caddy on a port that is free; `None` when it ends before it serves.
fn run(home: &Path, root: &Path, bucket: Option<&str>) -> Option<(Child, SocketAddr)> {
    let address = free_address();
    let tls = [env!("CARGO_MANIFEST_DIR"), "tests/edge_support/tls"].iter().collect::<PathBuf>();
    let (certificate, key) = (tls.join("certificate.pem"), tls.join("key.pem"));
    let upstream = bucket.unwrap_or("http://127.0.0.1:9").trim_start_matches("http://");
    let port = address.port();
    let config = format!(
        "{{
            admin off
            auto_https off
            default_sni localhost
            servers {{
                protocols h1 h2 h3
            }}
        }}
        https://:{port} {{
            bind 127.0.0.1
            tls {certificate:?} {key:?}
            redir /loop/* {{uri}}
            redir /elsewhere/* https://elsewhere.invalid{{uri}}
            handle_path /moved/* {{
                redir {{uri}}
            }}
            handle /page/* {{
                header Content-Type text/html
                respond \"<html>log in</html>\" 200
            }}
            handle /private/* {{
                respond 403
            }}
            handle /busy/* {{
                respond 503
            }}
            handle /team-blobs/* {{
                reverse_proxy {upstream}
            }}
            handle {{
                root * {root:?}
                file_server
            }}
        }}"
    );
    let file = home.join("Caddyfile");
    std::fs::write(&file, config).expect("written");
    // It connects there once it serves, and repeats what it read from its standard input.
    let ready = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let mut child = Command::new("caddy")
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(&file)
        .arg("--pingback")
        .arg(ready.local_addr().expect("an address").to_string())
        .env("HOME", home)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_DATA_HOME")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(home.join("log")).expect("a log"))
        .spawn()
        .expect("caddy runs");
    child.stdin.take().expect("a pipe").write_all(b"ready").expect("written");
    // Whatever ends it ends the wait, too.
    let (said, waiter) = (ready.try_clone().expect("a copy"), ready);
    let serves = std::thread::spawn(move || {
        let (mut connection, _) = waiter.accept().expect("a connection");
        let mut words = [0; 5];
        connection.read_exact(&mut words).is_ok() && words == *b"ready"
    });
    while !serves.is_finished() {
        if child.try_wait().expect("it ran").is_some() {
            let address = said.local_addr().expect("an address");
            drop(std::net::TcpStream::connect(address).expect("the waiter"));
            say(&std::fs::read_to_string(home.join("log")).unwrap_or_default());
            break;
        }
        std::thread::yield_now();
    }
    serves.join().expect("no panic").then_some((child, address))
}

/// Returns an address whose port is free for TCP and UDP.
fn free_address() -> SocketAddr {
    let free = || {
        let tcp = TcpListener::bind("127.0.0.1:0").ok()?;
        let address = tcp.local_addr().ok()?;
        UdpSocket::bind(address).is_ok().then_some(address)
    };
    (0..100).find_map(|_| free()).expect("a free port")
}

/// Leads to a server by TCP and UDP, counts what goes by, and can swallow what comes over UDP.
pub(crate) struct Wire {
    pub(crate) url: String,
    counts: Arc<Counts>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    cut: AtomicBool,
    /// Connections over TCP, senders over UDP, and datagrams to the server.
    tcp: AtomicUsize,
    udp: AtomicUsize,
    datagrams: AtomicUsize,
}

impl Wire {
    /// Leads to `server`; swallows UDP at once where it is to.
    pub(crate) async fn to(server: SocketAddr, cut: bool) -> Self {
        let (tcp, udp) = loop {
            let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = tcp.local_addr().expect("an address");
            if let Ok(udp) = tokio::net::UdpSocket::bind(address).await {
                break (tcp, udp);
            }
        };
        let url = format!("https://{}", tcp.local_addr().expect("an address"));
        let counts = Arc::new(Counts { cut: AtomicBool::new(cut), ..Counts::default() });
        let tasks = vec![
            tokio::spawn(carry_streams(tcp, server, Arc::clone(&counts))),
            tokio::spawn(carry_datagrams(udp, server, Arc::clone(&counts))),
        ];
        Self { url, counts, tasks }
    }

    /// Swallows what comes over UDP from now on.
    pub(crate) fn cut_udp(&self) {
        self.counts.cut.store(true, Ordering::Relaxed);
    }

    pub(crate) fn tcp_connections(&self) -> usize {
        self.counts.tcp.load(Ordering::Relaxed)
    }

    pub(crate) fn udp_senders(&self) -> usize {
        self.counts.udp.load(Ordering::Relaxed)
    }

    pub(crate) fn datagrams(&self) -> usize {
        self.counts.datagrams.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn carry_streams(listener: tokio::net::TcpListener, server: SocketAddr, counts: Arc<Counts>) {
    let mut carried = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        counts.tcp.fetch_add(1, Ordering::Relaxed);
        carried.spawn(async move {
            let Ok(mut far) = tokio::net::TcpStream::connect(server).await else { return };
            let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        });
    }
}

async fn carry_datagrams(near: tokio::net::UdpSocket, server: SocketAddr, counts: Arc<Counts>) {
    let near = Arc::new(near);
    let mut back = JoinSet::new();
    let mut senders = std::collections::BTreeMap::new();
    let mut bytes = vec![0; 1 << 16];
    while let Ok((len, sender)) = near.recv_from(&mut bytes).await {
        counts.datagrams.fetch_add(1, Ordering::Relaxed);
        if counts.cut.load(Ordering::Relaxed) {
            continue;
        }
        let far = match senders.get(&sender) {
            Some(far) => Arc::clone(far),
            None => {
                counts.udp.fetch_add(1, Ordering::Relaxed);
                let far = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
                far.connect(server).await.expect("an address");
                let far = Arc::new(far);
                let (from, to, counts) = (Arc::clone(&far), Arc::clone(&near), Arc::clone(&counts));
                back.spawn(async move {
                    let mut bytes = vec![0; 1 << 16];
                    while let Ok(len) = from.recv(&mut bytes).await {
                        if !counts.cut.load(Ordering::Relaxed) {
                            to.send_to(&bytes[..len], sender).await.ok();
                        }
                    }
                });
                senders.insert(sender, Arc::clone(&far));
                far
            }
        };
        far.send(&bytes[..len]).await.ok();
    }
}
