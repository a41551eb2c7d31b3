//! Waits on a lane's socket: they block, and yet end at once when the lane is stopped.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often a blocked lane looks whether it was stopped, or is out of time. Bytes wake it at once.
const TICK: Duration = Duration::from_millis(50);

/// Says how long a lane waits for the other side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience<'a> {
    pub(super) stop: &'a AtomicBool,
    pub(super) deadline: Instant,
}

impl Patience<'_> {
    /// Returns an error when there is nothing left to wait for.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        if Instant::now() >= self.deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Does something with a socket until it does not end for a tick alone.
    pub(super) fn wait(&self, mut attempt: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
        loop {
            self.check()?;
            match attempt() {
                Err(error) if is_tick(&error) => {}
                done => return done,
            }
        }
    }
}

/// Makes a socket block for a tick at most, and send small frames at once.
pub(super) fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nonblocking(false)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(TICK))?;
    tcp.set_write_timeout(Some(TICK))
}

/// Returns whether an error only says that nothing happened for a tick.
pub(super) fn is_tick(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
