//! The thread that carries frames: it reads devices, asks the switch, and writes when frames are due.
//!
//! It owns the devices; the switch it shares with whoever changes wires, and locks it for one frame at
//! a time. It ends when the other end of its socket is closed, or when a device cannot be read.

use std::{
    collections::BTreeSet,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    num::NonZeroU64,
    os::{
        fd::AsFd as _,
        unix::{fs::OpenOptionsExt as _, net::UnixStream},
    },
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::sync_channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::OFlags,
    io::Errno,
    process::{Pid, setpriority_process},
    thread::{gettid, set_current_timer_slack},
    time::{ClockId, clock_gettime},
};

use super::{
    frame::FRAME_BYTES_MAX,
    switch::{HostIndex, Switch},
};
use crate::netns::{error::Error, stop::timespec};

/// How many frames of one host are read before the others have their turn.
const READ_BATCH: usize = 16;

/// The thread's place among others where it gets no real-time priority: first.
const NICENESS: i32 = -20;

/// How late a frame may be before it counts as late.
const LATE: Duration = Duration::from_millis(1);

/// What the thread shares with its owner.
#[derive(Debug)]
pub(super) struct Shared {
    pub switch: Switch,
    pub pace: Pace,
    /// Why the thread ended, unless it was told to.
    failure: Option<io::Error>,
}

/// Tells whether the relay kept up: experiments print it, and judge their figures by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Frames handed to their receivers.
    pub frames: u64,
    /// Frames handed over more than 1 ms after their time.
    pub late_frames: u64,
    /// The latest one.
    pub latest: Duration,
    /// Frames that the kernel refused to take or to give, such as for an interface that is down.
    pub refused_frames: u64,
    /// The processor time of the relay's thread.
    pub processor_time: Duration,
}

/// Is the running thread. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Worker {
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
    /// Closed to end the thread.
    lifeline: Option<UnixStream>,
    /// The kernel's number of the thread.
    pub id: Pid,
}

impl Worker {
    /// Starts to carry frames between devices, one for each host of the switch.
    ///
    /// # Errors
    /// [`Error::System`] when there is no thread or socket for it.
    pub(super) fn start(switch: Switch, devices: Vec<File>) -> Result<Self, Error> {
        let start = |error| Error::system("start the relay")(error);
        let (lifeline, ended) = UnixStream::pair().map_err(start)?;
        let shared = Arc::new(Mutex::new(Shared { switch, pace: Pace::default(), failure: None }));
        let carrier = Carrier {
            shared: Arc::clone(&shared),
            devices,
            ended,
            started: Instant::now(),
            buffer: vec![0; FRAME_BYTES_MAX],
            waiting: BTreeSet::new(),
        };
        let (tell, told) = sync_channel(1);
        let thread = std::thread::Builder::new().name("relay".to_owned());
        let run = move || {
            // The receiver waits for it; if not, it is gone, and so is the lifeline.
            let _heard = tell.send(gettid());
            let shared = Arc::clone(&carrier.shared);
            if let Err(error) = carrier.run() {
                lock(&shared).failure = Some(error);
            }
        };
        let thread = thread.spawn(run).map_err(start)?;
        let id = told.recv().map_err(|gone| start(io::Error::other(gone)))?;
        Ok(Self { shared, thread: Some(thread), lifeline: Some(lifeline), id })
    }

    /// Gives access to the switch and the pace; the thread waits meanwhile.
    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    /// Returns an error when frames are carried no more.
    ///
    /// # Errors
    /// [`Error::System`] with what ended it.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return Ok(());
        }
        let failure = self.lock().failure.take();
        let panic = || io::Error::other("its thread ended");
        Err(Error::system("go on carrying frames")(failure.unwrap_or_else(panic)))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        if let Some(thread) = self.thread.take() {
            // Whether it panicked was to be asked before: there is nobody to tell now.
            let _ended = thread.join();
        }
    }
}

/// Opens the device of a host.
pub(super) fn open(path: &Path) -> Result<File, Error> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    opened.map_err(Error::file("open", path))
}

/// Waits for nobody for long: a switch is consistent between any two of its calls.
fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Is what the thread has.
struct Carrier {
    shared: Arc<Mutex<Shared>>,
    devices: Vec<File>,
    ended: UnixStream,
    started: Instant,
    buffer: Vec<u8>,
    /// Whose frames were left to wait because their wire was full.
    waiting: BTreeSet<HostIndex>,
}

impl Carrier {
    fn run(mut self) -> io::Result<()> {
        // Both are best effort: without them frames are a little later, which is counted.
        let _slack = set_current_timer_slack(NonZeroU64::new(1));
        let _niceness = setpriority_process(Some(gettid()), NICENESS);
        loop {
            self.deliver();
            let Some(readable) = self.wait()? else { return Ok(()) };
            for host in readable {
                self.read(host)?;
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Hands over all frames that are due.
    fn deliver(&mut self) {
        loop {
            let now = self.now();
            // One frame a lock: writing runs the receiver's network stack.
            let Some(arrival) = lock(&self.shared).switch.arrival(now) else { return };
            let written = self.devices.get(arrival.to).map(|mut to| to.write(&arrival.frame));
            let late = now.saturating_sub(arrival.at);
            let pace = &mut lock(&self.shared).pace;
            pace.frames += 1;
            pace.late_frames += u64::from(late > LATE);
            pace.latest = pace.latest.max(late);
            pace.refused_frames += u64::from(!matches!(written, Some(Ok(_))));
        }
    }

    /// Waits for a frame or the next moment; returns whose frames to read, none at the end.
    fn wait(&self) -> io::Result<Option<Vec<HostIndex>>> {
        let (asked, until) = self.plan();
        let mut polled = vec![PollFd::new(&self.ended, PollFlags::IN)];
        let devices = asked.iter().filter_map(|host| self.devices.get(*host));
        polled
            .extend(devices.map(|device| PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN)));
        let left = until.map(|until| timespec(until.saturating_sub(self.now())));
        match poll(&mut polled, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
        if ready.next() == Some(true) {
            return Ok(None);
        }
        let ready = asked.iter().zip(ready).filter(|(_, ready)| *ready);
        Ok(Some(ready.map(|(host, _)| *host).collect()))
    }

    /// Returns whose wire takes frames, and when to look again at the latest.
    fn plan(&self) -> (Vec<HostIndex>, Option<Duration>) {
        let now = self.now();
        let processor = clock_gettime(ClockId::ThreadCPUTime);
        let mut shared = lock(&self.shared);
        shared.pace.processor_time = processor.try_into().unwrap_or_default();
        let mut until = shared.switch.next_at();
        let mut asked = Vec::with_capacity(self.devices.len());
        for host in 0..self.devices.len() {
            let full_for = shared.switch.full_for(host, now);
            if full_for.is_zero() {
                asked.push(host);
            } else {
                let again = now + full_for;
                until = Some(until.map_or(again, |until| until.min(again)));
            }
        }
        (asked, until)
    }

    /// Reads some frames of a host, as long as its wire takes them.
    fn read(&mut self, host: HostIndex) -> io::Result<()> {
        let Some(mut device) = self.devices.get(host) else { return Ok(()) };
        for _ in 0..READ_BATCH {
            let length = match device.read(&mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.waiting.remove(&host);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A frame that its header cannot describe; the kernel has dropped it.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    lock(&self.shared).pace.refused_frames += 1;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let now = self.started.elapsed();
            let frame = self.buffer.get_mut(..length).unwrap_or_default();
            let switch = &mut lock(&self.shared).switch;
            if self.waiting.contains(&host) {
                switch.enter_late(now, host, frame);
            } else {
                switch.enter(now, host, frame);
            }
            if !switch.full_for(host, now).is_zero() {
                self.waiting.insert(host);
                return Ok(());
            }
        }
        Ok(())
    }
}
