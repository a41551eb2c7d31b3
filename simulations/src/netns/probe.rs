//! Traffic of our own between two hosts, to measure a network without nodes.
//!
//! Both ends are sockets of this process, so what is sent and what comes is seen with one clock, and
//! nothing but the network is between them.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use super::{error::Error, inside::inside, lab::Host, stop::Stop};

/// The group and port of mDNS.
const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);

/// How long a probe waits for one thing; ten times the longest delay worth probing.
const LIMIT: Duration = Duration::from_secs(5);

/// The length of a datagram: a number, and the rest of a small packet.
const DATAGRAM_BYTES: usize = 64;

/// How long a sender waits for room before it looks whether it is still wanted.
const FEED_PAUSE: Duration = Duration::from_millis(50);

/// How much is written or read at a time.
const STEP_BYTES: usize = 256 << 10;

/// Is a pair of datagram sockets, one on each host.
#[derive(Debug)]
pub struct Datagrams {
    from: UdpSocket,
    to: UdpSocket,
    sent: u32,
}

/// Is a datagram that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number among those sent, from 0.
    pub number: u32,
    /// When it was read.
    pub at: Instant,
}

impl Datagrams {
    /// Makes sockets that send from one host to another.
    ///
    /// # Errors
    /// [`Error::System`] when they cannot be made.
    pub fn between(from: &Host, to: &Host) -> Result<Self, Error> {
        let bind = |host: &Host| {
            let address = host.address;
            inside(host, move || UdpSocket::bind((address, 0)))
        };
        let (from, to) = (bind(from)?, bind(to)?);
        let make = "connect datagram sockets";
        let address = to.local_addr().map_err(Error::system(make))?;
        from.connect(address).map_err(Error::system(make))?;
        Self::of(from, to).map_err(Error::system(make))
    }

    /// Makes sockets that send from one host to the group of mDNS and listen to it on another.
    ///
    /// # Errors
    /// [`Error::System`] when they cannot be made.
    pub fn multicast(from: &Host, to: &Host) -> Result<Self, Error> {
        let address = from.address;
        let from = inside(from, move || {
            let socket = UdpSocket::bind((address, 0))?;
            socket.connect(GROUP).map(|()| socket)
        })?;
        let address = to.address;
        let to = inside(to, move || {
            let socket = UdpSocket::bind(GROUP)?;
            socket.join_multicast_v4(GROUP.ip(), &address).map(|()| socket)
        })?;
        Self::of(from, to).map_err(Error::system("use datagram sockets"))
    }

    fn of(from: UdpSocket, to: UdpSocket) -> io::Result<Self> {
        // A sender waits as long as its wire is full.
        from.set_write_timeout(Some(LIMIT))?;
        to.set_nonblocking(true)?;
        Ok(Self { from, to, sent: 0 })
    }

    /// Sends a datagram with the next number; returns the moment before.
    ///
    /// # Errors
    /// [`Error::System`] when the kernel refuses it.
    pub fn send(&mut self) -> Result<Instant, Error> {
        let mut datagram = [0; DATAGRAM_BYTES];
        let (number, _) = datagram.split_at_mut(size_of::<u32>());
        number.copy_from_slice(&self.sent.to_le_bytes());
        self.sent += 1;
        let before = Instant::now();
        self.from.send(&datagram).map_err(Error::system("send a datagram"))?;
        Ok(before)
    }

    /// Returns the next datagram that comes until `deadline`.
    ///
    /// # Errors
    /// [`Error::Interrupted`] and [`Error::System`].
    pub fn receive(&self, deadline: Instant, stop: &Stop) -> Result<Option<Received>, Error> {
        if !stop.readable(self.to.as_fd(), deadline)? {
            return Ok(None);
        }
        let mut datagram = [0; DATAGRAM_BYTES];
        let received = self.to.recv(&mut datagram).map_err(Error::system("receive a datagram"));
        let at = Instant::now();
        received?;
        let number = datagram.first_chunk().copied().unwrap_or_default();
        Ok(Some(Received { number: u32::from_le_bytes(number), at }))
    }

    /// Sends `count` datagrams, `gap` apart; returns those that came until all did, or until `wait` after
    /// the last one.
    ///
    /// # Errors
    /// [`Error::Interrupted`] and [`Error::System`].
    pub fn burst(
        &mut self,
        count: u32,
        gap: Duration,
        wait: Duration,
        stop: &Stop,
    ) -> Result<Vec<(Instant, Received)>, Error> {
        let (first, started) = (self.sent, Instant::now());
        let (mut sent, mut came) = (Vec::new(), Vec::new());
        for number in 0..count {
            sent.push(self.send()?);
            let next = started + gap * (number + 1);
            while let Some(received) = self.receive(next, stop)? {
                came.push(received);
            }
        }
        let end = Instant::now() + wait;
        while came.len() < sent.len()
            && let Some(received) = self.receive(end, stop)?
        {
            came.push(received);
        }
        let with_start = came.into_iter().filter_map(|received| {
            let index = received.number.checked_sub(first)?;
            let start = sent.get(usize::try_from(index).ok()?)?;
            Some((*start, received))
        });
        Ok(with_start.collect())
    }
}

/// Measures the round trip between two hosts `count` times, one after another; lost ones are left out.
///
/// # Errors
/// [`Error::Interrupted`] and [`Error::System`].
pub fn round_trips(
    from: &Host,
    to: &Host,
    count: u32,
    stop: &Stop,
) -> Result<Vec<Duration>, Error> {
    let (mut there, mut back) = (Datagrams::between(from, to)?, Datagrams::between(to, from)?);
    let mut trips = Vec::new();
    for _ in 0..count {
        let sent = there.send()?;
        if there.receive(sent + LIMIT, stop)?.is_none() {
            continue;
        }
        back.send()?;
        trips.extend(back.receive(sent + 2 * LIMIT, stop)?.map(|received| received.at - sent));
    }
    Ok(trips)
}

/// Is a TCP connection between two hosts of which this process holds both ends.
#[derive(Debug)]
pub struct Stream {
    from: TcpStream,
    to: TcpStream,
}

impl Stream {
    /// Connects one host to another.
    ///
    /// # Errors
    /// [`Error::System`] when they do not reach each other.
    pub fn between(from: &Host, to: &Host) -> Result<Self, Error> {
        let address = to.address;
        let listener = inside(to, move || TcpListener::bind((address, 0)))?;
        let connect = "connect two hosts by TCP";
        let address = listener.local_addr().map_err(Error::system(connect))?;
        let from = inside(from, move || TcpStream::connect_timeout(&address, LIMIT))?;
        let (to, _) = listener.accept().map_err(Error::system(connect))?;
        from.set_write_timeout(Some(FEED_PAUSE)).map_err(Error::system(connect))?;
        to.set_nonblocking(true).map_err(Error::system(connect))?;
        Ok(Self { from, to })
    }
}

/// Sends through all connections at once for `warm_up`, and then counts the bytes that arrive in `time`;
/// returns them and the time it was in fact.
///
/// # Errors
/// [`Error::Interrupted`] and [`Error::System`].
pub fn bytes_through(
    streams: &mut [Stream],
    warm_up: Duration,
    time: Duration,
    stop: &Stop,
) -> Result<(u64, Duration), Error> {
    let (mut senders, mut receivers) = (Vec::new(), Vec::new());
    for Stream { from, to } in streams {
        senders.push(from);
        receivers.push(to);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for sender in senders {
            let done = &done;
            scope.spawn(move || feed(sender, done));
        }
        let counted = count(&mut receivers, warm_up, time, stop);
        done.store(true, Ordering::Relaxed);
        counted
    })
}

/// Writes until it is done. A connection that fails is seen at its other end.
fn feed(stream: &mut TcpStream, done: &AtomicBool) {
    let zeros = vec![0; STEP_BYTES];
    while !done.load(Ordering::Relaxed) {
        match stream.write(&zeros) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

fn count(
    streams: &mut [&mut TcpStream],
    warm_up: Duration,
    time: Duration,
    stop: &Stop,
) -> Result<(u64, Duration), Error> {
    let mut buffer = vec![0; STEP_BYTES];
    let begin = Instant::now() + warm_up;
    let (mut bytes, mut counted_from) = (0, None);
    loop {
        for stream in &mut *streams {
            bytes += drain(stream, &mut buffer).map_err(Error::system("receive by TCP"))?;
        }
        let now = Instant::now();
        match counted_from {
            None if now >= begin => (bytes, counted_from) = (0, Some(now)),
            Some(from) if now >= from + time => return Ok((bytes, now - from)),
            None | Some(_) => {}
        }
        match streams {
            [only] => drop(stop.readable(only.as_fd(), now + FEED_PAUSE)?),
            _ => stop.pause(Duration::from_millis(1))?,
        }
    }
}

/// Reads what has come; returns how much.
fn drain(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<u64> {
    let mut bytes = 0;
    loop {
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => bytes += length as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(bytes),
            Err(error) => return Err(error),
        }
    }
}
