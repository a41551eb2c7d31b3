//! Waiting that ends at a deadline or at a signal, whichever is first.
//!
//! Every wait of an experiment goes through a [`Stop`], so that Ctrl-C and SIGTERM end it between
//! two steps, as an error that unwinds through the lab's clean-up. Nothing here sleeps blindly: all
//! waits are one `poll(2)` on the signal pipe and, where there is one, the file descriptor waited for.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::error::Error;

/// Knows whether a signal asked for the end, and wakes whoever waits when one does.
#[derive(Debug)]
pub struct Stop {
    /// The number of the last signal; 0 before one came.
    signal: Arc<AtomicUsize>,
    /// Readable for ever once a signal came: nobody reads from it.
    woken: UnixStream,
    /// The other end, of which each signal handler holds a copy.
    waker: UnixStream,
}

impl Stop {
    /// Makes a stop that SIGINT, SIGTERM and SIGHUP trigger from now on, for the whole process.
    ///
    /// # Errors
    /// [`Error::System`] when the handlers cannot be installed.
    pub fn on_signals() -> Result<Self, Error> {
        let stop = Self::never()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            stop.listen(signal).map_err(Error::system("install signal handlers"))?;
        }
        Ok(stop)
    }

    /// Makes a stop that nothing triggers.
    ///
    /// # Errors
    /// [`Error::System`] when the process has no descriptors left.
    pub fn never() -> Result<Self, Error> {
        let (woken, waker) =
            UnixStream::pair().map_err(Error::system("make a pair of connected sockets"))?;
        Ok(Self { signal: Arc::default(), woken, waker })
    }

    fn listen(&self, signal: i32) -> io::Result<()> {
        let number = usize::try_from(signal).map_err(io::Error::other)?;
        // The number is stored before the pipe is written: handlers run in order of registration.
        signal_hook::flag::register_usize(signal, Arc::clone(&self.signal), number)?;
        signal_hook::low_level::pipe::register(signal, self.waker.try_clone()?)?;
        Ok(())
    }

    /// Returns an error once a signal came.
    ///
    /// # Errors
    /// [`Error::Interrupted`] with the signal's number.
    pub fn check(&self) -> Result<(), Error> {
        match self.signal.load(Ordering::SeqCst) {
            0 => Ok(()),
            number => Err(Error::Interrupted { signal: i32::try_from(number).unwrap_or(SIGTERM) }),
        }
    }

    /// Waits for `duration`.
    ///
    /// # Errors
    /// [`Error::Interrupted`] at once when a signal comes or came.
    pub fn pause(&self, duration: Duration) -> Result<(), Error> {
        self.wait(None, Instant::now() + duration).map(drop)
    }

    /// Waits until `fd` is readable; returns false when `deadline` came first.
    ///
    /// # Errors
    /// [`Error::Interrupted`] at once when a signal comes or came.
    pub fn readable(&self, fd: BorrowedFd<'_>, deadline: Instant) -> Result<bool, Error> {
        self.wait(Some(fd), deadline)
    }

    /// Calls `probe` as [`within`](Self::within) does, for an answer that must come.
    ///
    /// # Errors
    /// Those of `probe`, [`Error::Late`] naming `what`, and [`Error::Interrupted`].
    pub fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        pause: Duration,
        probe: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let answer = self.within(limit, pause, probe)?;
        answer.ok_or_else(|| Error::Late { what: what.to_owned(), limit })
    }

    /// Calls `probe` every `pause` until it answers, and once more when `limit` is over.
    ///
    /// # Errors
    /// Those of `probe`, and [`Error::Interrupted`].
    pub fn within<T>(
        &self,
        limit: Duration,
        pause: Duration,
        mut probe: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        let deadline = Instant::now() + limit;
        loop {
            let last = Instant::now() >= deadline;
            let answer = probe()?;
            if last || answer.is_some() {
                return Ok(answer);
            }
            self.pause(pause)?;
        }
    }

    fn wait(&self, fd: Option<BorrowedFd<'_>>, deadline: Instant) -> Result<bool, Error> {
        loop {
            self.check()?;
            let left = deadline.saturating_duration_since(Instant::now());
            let mut polled = vec![PollFd::from_borrowed_fd(self.woken.as_fd(), PollFlags::IN)];
            polled.extend(fd.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            match poll(&mut polled, Some(&timespec(left))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::system("wait")(error.into())),
            }
            if polled.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
                return Ok(true);
            }
            if left.is_zero() {
                return self.check().map(|()| false);
            }
        }
    }
}

/// Converts a wait to the kernel's form; one beyond 292 billion years is cut to that.
pub(super) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_is_asked_once_more_when_the_time_is_over() {
        let stop = Stop::never().unwrap();
        let mut asked = 0;
        let answer = stop.until("it", Duration::ZERO, Duration::ZERO, || {
            asked += 1;
            Ok(None::<()>)
        });
        assert!(matches!(answer, Err(Error::Late { what, .. }) if what == "it"));
        assert_eq!(asked, 1);
    }

    #[test]
    fn answer_ends_the_wait() {
        let stop = Stop::never().unwrap();
        let mut asked = 0;
        let answer = stop.until("it", Duration::from_secs(60), Duration::ZERO, || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(answer.unwrap(), 3);
    }

    #[test]
    fn signal_ends_a_pause_before_its_time() {
        // SIGUSR1, because a test must not take the terminal's Ctrl-C away from its runner.
        let stop = Stop::never().unwrap();
        stop.listen(signal_hook::consts::SIGUSR1).unwrap();
        let started = Instant::now();
        signal_hook::low_level::raise(signal_hook::consts::SIGUSR1).unwrap();
        let ended = stop.pause(Duration::from_secs(60));
        assert!(matches!(ended, Err(Error::Interrupted { signal: 10 })));
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn readable_tells_data_from_a_deadline() {
        use std::io::Write as _;
        let stop = Stop::never().unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        assert!(!stop.readable(ours.as_fd(), Instant::now()).unwrap());
        theirs.write_all(b"x").unwrap();
        assert!(stop.readable(ours.as_fd(), Instant::now() + Duration::from_secs(60)).unwrap());
    }
}
