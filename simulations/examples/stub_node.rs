//! A stand-in for `blobmesh` with which the experiments themselves are tested.
//!
//! It understands the part of the command line that experiments use and does the same things over
//! the same kind of network in the crudest way: multicast hellos on port 5353, one text line and
//! whole blobs over TCP, provide records at every peer it was told of, whole blobs of the edge when no peer has
//! one. So a test with it shows that
//! the lab carries multicast and TCP where it should, and that a bound fails when it should:
//! run under the name `stub_node.FAULT`, it does one thing wrong, where FAULT is
//! - `deaf`: it says and hears no hello;
//! - `edge`: it claims to have got blobs from the edge;
//! - `forget`: it does not store what it gets;
//! - `hasty`: it waits a tenth of a second for each answer;
//! - `loud`: it advertises although it was told not to;
//! - `one`: it asks the edge only where it has the lowest address of all it knows, or that peer is dead (this one
//!   is right);
//! - `stubborn`: it refuses every get, with an exit code that means no absence;
//! - `wrong`: it writes a byte too many into output files.
//!
//! It has no security, no bounds and one deadline, because it only ever meets itself.

use std::{
    error::Error,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use signal_hook::{consts::SIGTERM, flag::register_conditional_shutdown};

type Outcome<T> = Result<T, Box<dyn Error>>;

const PORT: u16 = 4001;
const GROUP: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 0, 251), 5353);
const HELLO: &[u8] = b"stub hello";

/// How long a node waits from one hello to the next. One for each hello heard would be a storm: each is heard
/// by all others, who would answer all.
const HELLO_INTERVAL: Duration = Duration::from_millis(50);

/// How long an answer may take, all of it: a stand-in asks one peer after another and notices nothing before.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for one that meets peers which fail: where it were longer, so would be the test.
const PATIENCE_WITH_FAULTS: Duration = Duration::from_secs(8);
const PATIENCE_IN_HASTE: Duration = Duration::from_millis(100);

/// How often a node asks again for what another one is to take from the edge, and how long it waits.
const ASK_INTERVAL: Duration = Duration::from_millis(20);
const ASK_LIMIT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--json").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["--home", home, command, rest @ ..] => act(&Home(PathBuf::from(home)), command, rest),
        _ => Err("usage".into()),
    };
    match result {
        Ok(Some(line)) => {
            let _unheard = writeln!(std::io::stdout(), "{line}");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::from(3),
        Err(error) => {
            let _unheard = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(home: &Home, command: &str, rest: &[&str]) -> Outcome<Option<String>> {
    match (command, rest) {
        ("up", flags) => up(home, flags).map(Some),
        ("invite", []) => Ok(Some("stub ticket".to_owned())),
        ("join", ["-"]) => {
            let mut ticket = String::new();
            std::io::stdin().read_to_string(&mut ticket)?;
            if ticket == "stub ticket" { Ok(Some(String::new())) } else { Err("ticket".into()) }
        }
        ("add", [files @ .., last]) => {
            for file in files {
                add(home, Path::new(file))?;
            }
            add(home, Path::new(last)).map(Some)
        }
        ("get", [hash]) => get(home, hash),
        ("get", [hash, "--no-mdns", "--peer", peer]) => {
            home.note("told", peer.split('/').nth(2).ok_or("address")?)?;
            get(home, hash)
        }
        ("get", [hash, "-o", output]) => {
            let answer = get(home, hash)?;
            let mut bytes = fs::read(home.blob(hash)).unwrap_or_default();
            if fault("wrong") {
                bytes.push(0);
            }
            fs::write(output, bytes)?;
            Ok(answer)
        }
        ("why", [hash]) => Ok(Some(fs::read_to_string(home.0.join(format!("why-{hash}")))?)),
        ("has", hashes) => Ok(Some(has(home, hashes))),
        ("rm", [hash]) => {
            fs::remove_file(home.blob(hash))?;
            Ok(Some(String::new()))
        }
        ("push", ["--edge", edge, hash]) => push(home, edge, hash).map(Some),
        ("peers", []) => Ok(Some(peers(home))),
        _ => Err(format!("{command} {rest:?} is unknown").into()),
    }
}

struct Home(PathBuf);

impl Home {
    /// Returns where a blob is, as in a real home: experiments spoil it there.
    fn blob(&self, hash: &str) -> PathBuf {
        let (shard, name) = hash.split_at_checked(2).unwrap_or((hash, ""));
        let directory = self.0.join("store/blobs").join(shard);
        // Whoever writes there hears of what went wrong here.
        let _made = fs::create_dir_all(&directory);
        directory.join(name)
    }

    /// Returns the addresses in one of the files `met` and `told`.
    fn addresses(&self, file: &str) -> Vec<IpAddr> {
        let text = fs::read_to_string(self.0.join(file)).unwrap_or_default();
        let mut addresses: Vec<IpAddr> = text.lines().flat_map(str::parse).collect();
        addresses.sort();
        addresses.dedup();
        addresses
    }

    fn note(&self, file: &str, line: &str) -> Outcome<()> {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.0.join(file))?;
        Ok(file.write_all(format!("{line}\n").as_bytes())?)
    }
}

fn up(home: &Home, flags: &[&str]) -> Outcome<String> {
    register_conditional_shutdown(SIGTERM, 0, Arc::new(AtomicBool::new(true)))?;
    let value = |flag| flags.windows(2).filter(move |pair| pair[0] == flag).map(|pair| pair[1]);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    let own = own_address()?;
    for peer in value("--peer") {
        let address = peer.split('/').nth(2).ok_or("address")?;
        home.note("told", address)?;
        ask(address.parse()?, &format!("told {own}"))?;
    }
    if flags.contains(&"--no-adverts") && !fault("loud") {
        home.note("silent", "")?;
    }
    for url in value("--edge") {
        home.note("edge", url)?;
    }
    for certificate in value("--edge-ca") {
        home.note("edge-ca", certificate)?;
    }
    home.note("own", &own.to_string())?;
    if !flags.contains(&"--no-mdns") && !fault("deaf") {
        let home = Home(home.0.clone());
        std::thread::spawn(move || hellos(&home, own));
    }
    let ready = format!(r#"{{"peer":"{own}","addresses":[],"pid":{}}}"#, std::process::id());
    fs::write(value("--ready-file").next().ok_or("ready file")?, ready)?;
    for stream in listener.incoming() {
        // A client that went before its answer says nothing of this node.
        serve(home, stream?).ok();
    }
    Ok(String::new())
}

/// Finds our address as the kernel would: nothing is sent.
fn own_address() -> Outcome<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((Ipv4Addr::new(10, 77, 0, 254), PORT))?;
    Ok(socket.local_addr()?.ip())
}

/// Says hello twenty times a second and notes who else does.
fn hellos(home: &Home, own: IpAddr) -> Option<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, GROUP.1)).ok()?;
    let IpAddr::V4(interface) = own else { return None };
    socket.join_multicast_v4(&GROUP.0, &interface).ok()?;
    socket.set_read_timeout(Some(HELLO_INTERVAL)).ok()?;
    let mut buffer = [0; HELLO.len()];
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            let _unheard = socket.send_to(HELLO, GROUP);
            next = Instant::now() + HELLO_INTERVAL;
        }
        if let Ok((length, SocketAddr::V4(from))) = socket.recv_from(&mut buffer)
            && buffer[..length] == *HELLO
            && *from.ip() != interface
            && !home.addresses("met").contains(&IpAddr::V4(*from.ip()))
        {
            home.note("met", &from.ip().to_string()).ok()?;
        }
    }
}

fn serve(home: &Home, mut stream: TcpStream) -> Outcome<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    let from = stream.peer_addr()?.ip();
    match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["told", address] => home.note("met", address)?,
        ["provide", hash] => home.note(&format!("provide-{hash}"), &from.to_string())?,
        ["providers", hash] => {
            for provider in home.addresses(&format!("provide-{hash}")) {
                writeln!(stream, "{provider}")?;
            }
        }
        ["get", hash] => stream.write_all(&fs::read(home.blob(hash)).unwrap_or_default())?,
        other => return Err(format!("{other:?} from {from}").into()),
    }
    Ok(())
}

/// Asks a peer and returns its answer as far as it has come when it ends or patience does.
fn ask(peer: IpAddr, line: &str) -> Outcome<Vec<u8>> {
    let patience = match () {
        () if fault("wrong") => PATIENCE_WITH_FAULTS,
        () if fault("hasty") => PATIENCE_IN_HASTE,
        () => PATIENCE,
    };
    let (began, address) = (Instant::now(), SocketAddr::from((peer, PORT)));
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    writeln!(stream, "{line}")?;
    let (mut answer, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    while began.elapsed() < patience {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(len) => answer.extend_from_slice(&buffer[..len]),
        }
    }
    Ok(answer)
}

fn add(home: &Home, file: &Path) -> Outcome<String> {
    let bytes = fs::read(file)?;
    let hash = blake3::hash(&bytes).to_hex().to_string();
    fs::write(home.blob(&hash), bytes)?;
    if !home.0.join("silent").exists() {
        for peer in home.addresses("told") {
            ask(peer, &format!("provide {hash}"))?;
        }
    }
    Ok(format!(r#"{{"type":"summary","hash":"{hash}"}}"#))
}

fn get(home: &Home, hash: &str) -> Outcome<Option<String>> {
    if fault("stubborn") {
        return Err("stubborn".into());
    }
    let began = Instant::now();
    if let Ok(bytes) = fs::read(home.blob(hash)) {
        return Ok(Some(receipt(hash, "local", [bytes.len(), 0, 0], began)));
    }
    let Some((bytes, found)) = find(home, hash)? else { return Ok(None) };
    let edge = if fault("edge") || found == "edge" { bytes.len() } else { 0 };
    let line = receipt(hash, found, [0, bytes.len() - edge, edge], began);
    fs::write(home.0.join(format!("why-{hash}")), &line)?;
    if !fault("forget") {
        store(home, hash, &bytes)?;
    }
    Ok(Some(line))
}

/// Writes a blob so that nobody reads half of it.
fn store(home: &Home, hash: &str, bytes: &[u8]) -> Outcome<()> {
    let path = home.0.join(format!("part-{hash}"));
    fs::write(&path, bytes)?;
    Ok(fs::rename(path, home.blob(hash))?)
}

/// Finds the bytes of a blob, and where: at a peer, else at a peer's provider, else at the edge.
fn find(home: &Home, hash: &str) -> Outcome<Option<(Vec<u8>, &'static str)>> {
    let known = [home.addresses("met"), home.addresses("told")].concat();
    let mut sources: Vec<(IpAddr, &str)> = known.iter().map(|peer| (*peer, "lan")).collect();
    for peer in &known {
        // A peer that has stopped since knows no providers and has no blobs.
        let answer = ask(*peer, &format!("providers {hash}")).unwrap_or_default();
        let providers = String::from_utf8(answer)?;
        sources.extend(providers.lines().flat_map(str::parse).map(|peer| (peer, "dht")));
    }
    for (peer, found) in sources {
        if let Some(bytes) = ask_blob(peer, hash).unwrap_or_default() {
            return Ok(Some((bytes, found)));
        }
    }
    let Ok(url) = fs::read_to_string(home.0.join("edge")) else { return Ok(None) };
    if fault("one")
        && let Some(first) = known.iter().min()
        && home.addresses("own").iter().all(|own| first < own)
    {
        let began = Instant::now();
        while let Ok(answer) = ask_blob(*first, hash)
            && began.elapsed() < ASK_LIMIT
        {
            if let Some(bytes) = answer {
                return Ok(Some((bytes, "lan")));
            }
            std::thread::park_timeout(ASK_INTERVAL);
        }
    }
    let bytes = match url.trim().strip_prefix("http://") {
        Some(address) => ask_edge(address, hash)?,
        None => ask_edge_by_curl(home, url.trim(), hash)?,
    };
    Ok(bytes.map(|bytes| (bytes, "edge")))
}

/// Asks a peer for a blob; none where it has none.
fn ask_blob(peer: IpAddr, hash: &str) -> Outcome<Option<Vec<u8>>> {
    let bytes = ask(peer, &format!("get {hash}"))?;
    Ok((blake3::hash(&bytes).to_hex().as_str() == hash).then_some(bytes))
}

/// Asks the edge for a blob and its group list, which nobody reads; none where it has none.
fn ask_edge(address: &str, hash: &str) -> Outcome<Option<Vec<u8>>> {
    let mut stream = TcpStream::connect(address)?;
    let path = path_at_edge(hash);
    ask_http(&mut stream, &format!("{path}.groups"))?;
    ask_http(&mut stream, &path)
}

/// Asks an edge behind TLS for a blob and its group list; none where it has none.
fn ask_edge_by_curl(home: &Home, url: &str, hash: &str) -> Outcome<Option<Vec<u8>>> {
    let (certificate, path) = (fs::read_to_string(home.0.join("edge-ca"))?, path_at_edge(hash));
    let ask = |path: &str| {
        let mut curl = std::process::Command::new("curl");
        curl.args(["--silent", "--fail", "--cacert", certificate.trim()]);
        curl.arg(format!("{url}/{path}")).output()
    };
    ask(&format!("{path}.groups"))?;
    let answer = ask(&path)?;
    Ok(answer.status.success().then_some(answer.stdout))
}

fn ask_http(stream: &mut TcpStream, path: &str) -> Outcome<Option<Vec<u8>>> {
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: edge\r\n\r\n")?;
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?;
    let mut lines = head.lines();
    let is_found = lines.next().is_some_and(|status| status.contains(" 200 "));
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    let length = fields.find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let mut body = vec![0; length.ok_or("length")?.1.trim().parse()?];
    stream.read_exact(&mut body)?;
    Ok(is_found.then_some(body))
}

fn path_at_edge(hash: &str) -> String {
    let (shard, name) = hash.split_at_checked(2).unwrap_or((hash, ""));
    format!("blobs/{shard}/{name}")
}

fn push(home: &Home, edge: &str, hash: &str) -> Outcome<String> {
    let bucket = Path::new(edge.strip_prefix("dir:").ok_or("edge")?);
    let path = bucket.join(path_at_edge(hash));
    fs::create_dir_all(path.parent().ok_or("edge")?)?;
    fs::copy(home.blob(hash), &path)?;
    fs::write(bucket.join(format!("{}.groups", path_at_edge(hash))), b"list")?;
    Ok(String::new())
}

fn has(home: &Home, hashes: &[&str]) -> String {
    let row = |hash: &&str| {
        let has = home.blob(hash).exists();
        format!("{{\"type\":\"has\",\"hash\":\"{hash}\",\"has\":{has}}}\n")
    };
    hashes.iter().map(row).chain([r#"{"type":"summary"}"#.to_owned()]).collect()
}

fn receipt(hash: &str, found: &str, [local, lan, edge]: [usize; 3], began: Instant) -> String {
    let (size, seconds) = (local + lan + edge, began.elapsed().as_secs_f64());
    let tier = format!(r#"{{"local":{local},"lan":{lan},"edge":{edge}}}"#);
    let what = format!(r#""hash":"{hash}","size":{size},"found":"{found}""#);
    format!(r#"{{"type":"summary",{what},"tier":{tier},"seconds":{seconds}}}"#)
}

fn peers(home: &Home) -> String {
    let known = [home.addresses("met"), home.addresses("told")].concat();
    let rows = known.iter().map(|peer| {
        let fields = r#""neighbour":true,"filter_blobs":999"#;
        format!("{{\"type\":\"peer\",\"peer\":\"{peer}\",{fields}}}\n")
    });
    rows.chain([format!(r#"{{"type":"summary","peers":{}}}"#, known.len())]).collect()
}

fn fault(name: &str) -> bool {
    let program = std::env::args().next().unwrap_or_default();
    program.strip_suffix(name).is_some_and(|rest| rest.ends_with("stub_node."))
}
