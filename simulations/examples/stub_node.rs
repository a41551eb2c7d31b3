//! A stand-in for `blobmesh` with which the experiments themselves are tested.
//!
//! It understands the part of the command line that experiments use and does the same things over
//! the same kind of network in the crudest way: multicast hellos on port 5353, one text line and
//! whole blobs over TCP, provide records at every peer it was told of. So a test with it shows that
//! the lab carries multicast and TCP where it should, and that a bound fails when it should:
//! run under the name `stub_node.FAULT`, it does one thing wrong, where FAULT is
//! - `deaf`: it says and hears no hello;
//! - `edge`: it claims to have got blobs from the edge;
//! - `forget`: it does not store what it gets;
//! - `loud`: it advertises although it was told not to;
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
        ("add", [file]) => add(home, Path::new(file)).map(Some),
        ("get", [hash]) => get(home, hash),
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
    let (began, mut stream) = (Instant::now(), TcpStream::connect((peer, PORT))?);
    let patience = if fault("wrong") { PATIENCE_WITH_FAULTS } else { PATIENCE };
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
    if let Ok(bytes) = fs::read(home.blob(hash)) {
        return Ok(Some(receipt(hash, "local", [bytes.len(), 0, 0])));
    }
    let known = [home.addresses("met"), home.addresses("told")].concat();
    let mut sources: Vec<(IpAddr, &str)> = known.iter().map(|peer| (*peer, "lan")).collect();
    for peer in &known {
        // A peer that has stopped since knows no providers and has no blobs.
        let answer = ask(*peer, &format!("providers {hash}")).unwrap_or_default();
        let providers = String::from_utf8(answer)?;
        sources.extend(providers.lines().flat_map(str::parse).map(|peer| (peer, "dht")));
    }
    for (peer, found) in sources {
        let bytes = ask(peer, &format!("get {hash}")).unwrap_or_default();
        if blake3::hash(&bytes).to_hex().as_str() == hash {
            let edge = if fault("edge") { bytes.len() } else { 0 };
            let line = receipt(hash, found, [0, bytes.len() - edge, edge]);
            fs::write(home.0.join(format!("why-{hash}")), &line)?;
            if !fault("forget") {
                fs::write(home.blob(hash), bytes)?;
            }
            return Ok(Some(line));
        }
    }
    Ok(None)
}

fn receipt(hash: &str, found: &str, [local, lan, edge]: [usize; 3]) -> String {
    let size = local + lan + edge;
    let tier = format!(r#"{{"local":{local},"lan":{lan},"edge":{edge}}}"#);
    format!(r#"{{"type":"summary","hash":"{hash}","size":{size},"found":"{found}","tier":{tier}}}"#)
}

fn peers(home: &Home) -> String {
    let known = [home.addresses("met"), home.addresses("told")].concat();
    let rows = known.iter().map(|peer| {
        let fields = r#""neighbour":true,"filter_blobs":9"#;
        format!("{{\"type\":\"peer\",\"peer\":\"{peer}\",{fields}}}\n")
    });
    rows.chain([format!(r#"{{"type":"summary","peers":{}}}"#, known.len())]).collect()
}

fn fault(name: &str) -> bool {
    let program = std::env::args().next().unwrap_or_default();
    program.strip_suffix(name).is_some_and(|rest| rest.ends_with("stub_node."))
}
