//! A wire that is counted: a port on loopback that leads to another one.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// How much is taken over at once.
const PIECE_LEN: usize = 256 << 10;

/// Counts the bytes that connections carry, both ways together, without the headers of the network.
#[derive(Debug)]
pub struct CountedWire {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicU64,
    is_over: AtomicBool,
}

impl CountedWire {
    /// Leads from a free port of loopback to `port` of it, until this is dropped.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn to(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let own = listener.local_addr()?.port();
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, port, &of_thread));
        Ok(Self { port: own, shared })
    }

    /// Returns the port that leads to the other one.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns how many bytes were carried so far.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for CountedWire {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // The one who accepts wakes up by a connection; those that carry end with their sockets.
        TcpStream::connect(("127.0.0.1", self.port)).ok();
    }
}

fn accept(listener: &TcpListener, port: u16, shared: &Arc<Shared>) {
    for near in listener.incoming() {
        if shared.is_over.load(Ordering::Relaxed) {
            return;
        }
        let ends = near.and_then(|near| Ok((near, TcpStream::connect(("127.0.0.1", port))?)));
        let Ok((near, far)) = ends else { continue };
        let both = near.try_clone().and_then(|near| Ok((near, far.try_clone()?)));
        let Ok((near_again, far_again)) = both else { continue };
        for (from, to) in [(near, far), (far_again, near_again)] {
            let shared = Arc::clone(shared);
            from.set_nodelay(true).ok();
            thread::spawn(move || carry(from, to, &shared));
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut piece = vec![0; PIECE_LEN];
    while let Ok(len @ 1..) = from.read(&mut piece) {
        shared.bytes.fetch_add(u64::try_from(len).unwrap_or(0), Ordering::Relaxed);
        if to.write_all(&piece[..len]).is_err() {
            break;
        }
    }
    to.shutdown(Shutdown::Write).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_and_comes_back_is_counted() {
        let echo = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = echo.local_addr().unwrap().port();
        let echoing = thread::spawn(move || {
            let (mut stream, _) = echo.accept().unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        });
        let wire = CountedWire::to(port).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", wire.port())).unwrap();
        stream.write_all(&[7; 100_000]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        echoing.join().unwrap();
        assert_eq!((back.len(), wire.bytes()), (100_000, 200_000));
    }
}
