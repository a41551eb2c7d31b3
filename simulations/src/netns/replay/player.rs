//! One node through its lives: it is started, killed, and started again in the same home.

use std::{
    fs,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::process::Pid;

use crate::netns::{
    error::Error,
    process::{Home, Node},
};

/// Is a node of the plan: a home, and a process while it lives.
#[derive(Debug)]
pub(super) struct Player<'a> {
    pub(super) home: Home<'a>,
    flags: Vec<String>,
    life: Mutex<Life<'a>>,
}

/// Is what changes about a player.
#[derive(Debug, Default)]
struct Life<'a> {
    node: Option<Node<'a>>,
    /// Whether the node serves.
    up: bool,
    /// How often it was started.
    lives: u32,
    /// When it first served.
    joined: Option<Duration>,
    peer: String,
    /// Whether it will never start again.
    gone: bool,
    /// Whether the system would not let it go before others.
    slow: bool,
}

/// Says how a player is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It serves, in the life of this number.
    Up(u32),
    /// It is down, and will come.
    Down,
    /// It is down for good.
    Gone,
}

impl<'a> Player<'a> {
    pub(super) fn new(home: Home<'a>, flags: Vec<String>) -> Self {
        Self { home, flags, life: Mutex::default() }
    }

    /// Starts the process and does not wait for it.
    pub(super) fn begin(&self) -> Result<(), Error> {
        let ready = self.home.file(".ready");
        match fs::remove_file(&ready) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &ready)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let node = self.home.start(&flags)?;
        let hurried = node.hurry();
        let mut life = self.lock();
        life.slow |= !hurried;
        (life.node, life.gone) = (Some(node), false);
        life.lives += 1;
        Ok(())
    }

    /// Waits until the process that was started serves; `now` is noted as the moment it joined.
    pub(super) fn ready(&self, now: Duration) -> Result<(), Error> {
        // Taken out, so that whoever asks how the player is need not wait for its start.
        let Some(mut node) = self.lock().node.take() else { return Ok(()) };
        node.ready()?;
        let mut life = self.lock();
        life.peer.clone_from(&node.peer);
        life.joined.get_or_insert(now);
        (life.node, life.up) = (Some(node), true);
        Ok(())
    }

    /// Ends the process without a word, for now or for good.
    pub(super) fn kill(&self, for_good: bool) {
        let mut life = self.lock();
        (life.up, life.gone) = (false, for_good);
        // Dropping it kills and reaps it.
        drop(life.node.take());
    }

    pub(super) fn state(&self) -> State {
        let life = self.lock();
        match (life.up, life.gone) {
            (true, _) => State::Up(life.lives),
            (false, true) => State::Gone,
            (false, false) => State::Down,
        }
    }

    /// Returns the process id of a node that runs.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.lock().node.as_ref().and_then(|node| node.pid().ok())
    }

    /// Returns whether the node went before whatever else the machine did, in all its lives.
    pub(super) fn is_first(&self) -> bool {
        !self.lock().slow
    }

    /// Returns when the node first served.
    pub(super) fn joined(&self) -> Option<Duration> {
        self.lock().joined
    }

    /// Returns the peer id, empty before the first start.
    pub(super) fn peer(&self) -> String {
        self.lock().peer.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Life<'a>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
