//! Real nodes: one home directory and one `blobmesh up` process on a host of the lab.
//!
//! A [`Home`] is where a node lives and where its user types commands; a [`Node`] is its running
//! process. Both borrow the lab, so that processes are gone before their namespaces go. Dropping a
//! node kills it; [`Node::stop`] asks it to end and fails when it does not.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process, setpriority_process};
use serde::Deserialize;

use super::{
    command::{self, Finished, Reaped},
    error::Error,
    lab::{Host, Lab},
    machine,
    stop::Stop,
};

/// The port every node listens on: each has a network namespace of its own.
const PORT: u16 = 4001;

/// How long a node may take from its start to its ready file.
const READY_LIMIT: Duration = Duration::from_secs(20);

/// How long a node may take from SIGTERM to its end.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The place of a node that goes before others: behind the relay only.
const NICENESS: i32 = -19;

/// How often a ready file is looked for; adds this much to a measured start at most.
const READY_PAUSE: Duration = Duration::from_millis(5);

/// Names what every step of an experiment needs.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// The lab.
    pub lab: &'a Lab,
    /// The `blobmesh` binary.
    pub binary: &'a Path,
    /// Ends waits.
    pub stop: &'a Stop,
}

/// Is the home directory of a node, with or without a running node.
#[derive(Clone, Debug)]
pub struct Home<'a> {
    /// What every step needs.
    pub setting: Setting<'a>,
    /// The host it is on.
    pub host: &'a Host,
    /// The name in file names and errors, such as `n1-late`.
    pub name: String,
}

impl<'a> Home<'a> {
    /// Makes a fresh home on a host. The name must be new in the lab.
    ///
    /// # Errors
    /// [`Error::File`] when the directory exists or cannot be made.
    pub fn new(setting: Setting<'a>, host: &'a Host, name: &str) -> Result<Self, Error> {
        let home = Self { setting, host, name: name.to_owned() };
        fs::create_dir(home.path()).map_err(Error::file("make the directory", &home.path()))?;
        Ok(home)
    }

    /// Returns a path in the lab's directory that carries the home's name.
    pub fn file(&self, suffix: &str) -> PathBuf {
        self.setting.lab.path().join(format!("{}{suffix}", self.name))
    }

    /// Returns the address others dial, `/ip4/…/tcp/…`.
    pub fn multiaddress(&self) -> String {
        format!("/ip4/{}/tcp/{PORT}", self.host.address)
    }

    /// Runs `blobmesh --home HOME --json` with `words` on the host.
    ///
    /// # Errors
    /// [`Error::Late`], [`Error::Interrupted`] and [`Error::System`]; any exit code is an answer.
    pub fn run(&self, words: &[&str], input: &[u8], limit: Duration) -> Result<Finished, Error> {
        let mut command = self.blobmesh();
        command.arg("--json").args(words);
        command::run(command, input, limit, self.setting.stop)
    }

    /// Makes a mesh, where this home is in none yet, and returns a ticket for it.
    ///
    /// While no node runs here the ticket names no address, and only then: an experiment that is
    /// to find peers in another way takes it before the start.
    ///
    /// # Errors
    /// Those of a command that fails.
    pub fn invite(&self) -> Result<String, Error> {
        let mut command = self.blobmesh();
        command.arg("invite");
        let finished = command::run(command, b"", STOP_LIMIT, self.setting.stop)?.success()?;
        Ok(finished.stdout.trim().to_owned())
    }

    /// Makes this home a member of the ticket's mesh.
    ///
    /// # Errors
    /// Those of a command that fails.
    pub fn join(&self, ticket: &str) -> Result<(), Error> {
        let mut command = self.blobmesh();
        command.args(["join", "-"]);
        command::run(command, ticket.as_bytes(), STOP_LIMIT, self.setting.stop)?.success()?;
        Ok(())
    }

    /// Starts a node with these flags of `up` and does not wait for it.
    ///
    /// # Errors
    /// [`Error::System`] and [`Error::File`] when it cannot be started.
    pub fn start(&self, flags: &[&str]) -> Result<Node<'a>, Error> {
        // That of an earlier node here speaks of another process.
        fs::remove_file(self.file(".ready")).ok();
        let log_path = self.file(".log");
        let log = File::create(&log_path).map_err(Error::file("make the log", &log_path))?;
        let errors = log.try_clone().map_err(Error::file("make the log", &log_path))?;
        let mut command = self.blobmesh();
        command
            .args(["up", "--listen", &format!("/ip4/0.0.0.0/tcp/{PORT}"), "--ready-file"])
            .arg(self.file(".ready"))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        let start = Error::system(format!("run `{}`", command::line_of(&command)));
        let child = command.spawn().map_err(start)?;
        Ok(Node { home: self.clone(), process: Reaped(child), peer: String::new() })
    }

    /// Returns the file in which the home's store keeps a blob, by the hash in hex digits.
    pub fn blob_file(&self, hash: &str) -> PathBuf {
        let (shard, name) = hash.split_at_checked(2).unwrap_or((hash, ""));
        self.path().join("store").join("blobs").join(shard).join(name)
    }

    fn path(&self) -> PathBuf {
        self.file(".home")
    }

    fn blobmesh(&self) -> Command {
        let mut command = self.setting.lab.command(self.host, self.setting.binary);
        command.arg("--home").arg(self.path());
        command
    }
}

/// Is a running node. It is killed when dropped.
#[derive(Debug)]
pub struct Node<'a> {
    /// Where it lives.
    pub home: Home<'a>,
    /// Its peer id, known once it is ready.
    pub peer: String,
    process: Reaped,
}

impl<'a> Node<'a> {
    /// Waits until the node serves.
    ///
    /// # Errors
    /// [`Error::NodeEnded`] as soon as it has ended, [`Error::Late`] and [`Error::Interrupted`].
    pub fn ready(&mut self) -> Result<(), Error> {
        let what = format!("the ready file of {}", self.home.name);
        let path = self.home.file(".ready");
        let stop = self.home.setting.stop;
        let ready = stop.until(&what, READY_LIMIT, READY_PAUSE, || {
            self.alive()?;
            // One that is not whole yet is read again.
            let text = fs::read(&path).unwrap_or_default();
            Ok(serde_json::from_slice::<Ready>(&text).ok())
        })?;
        self.peer = ready.peer;
        Ok(())
    }

    /// Asks the node to end, as a user or an init system would, and waits until it did.
    ///
    /// # Errors
    /// [`Error::Late`] when it does not end, [`Error::NodeEnded`] when it ended before or fails.
    pub fn stop(mut self) -> Result<(), Error> {
        self.alive()?;
        self.signal(Signal::TERM)?;
        match self.process.wait(STOP_LIMIT, self.home.setting.stop)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Error::NodeEnded { node: self.home.name.clone(), status }),
            None => {
                let what = format!("the end of {} after SIGTERM", self.home.name);
                Err(Error::Late { what, limit: STOP_LIMIT })
            }
        }
    }

    /// Returns the process id.
    ///
    /// # Errors
    /// [`Error::System`] for a process that has none.
    pub(super) fn pid(&self) -> Result<Pid, Error> {
        self.process.pid()
    }

    /// Asks that the node goes before whatever else the machine does; returns whether that was granted.
    /// Threads take it from the one that makes them, so it is for a node that has just been started.
    pub(super) fn hurry(&self) -> bool {
        let pid = self.process.pid().ok();
        pid.is_some_and(|pid| setpriority_process(Some(pid), NICENESS).is_ok())
    }

    /// Sends the node's process a signal.
    ///
    /// # Errors
    /// [`Error::System`] when it cannot be sent.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        kill_process(self.process.pid()?, signal)
            .map_err(|error| Error::system("signal a node")(error.into()))
    }

    /// Returns the processor time that the node's threads took so far; nothing where the kernel does not say.
    ///
    /// # Errors
    /// [`Error::System`] for a process without an id.
    pub fn processor_time(&self) -> Result<Duration, Error> {
        let path = format!("/proc/{}/stat", self.process.pid()?.as_raw_nonzero());
        let text = fs::read_to_string(path).unwrap_or_default();
        Ok(machine::processor_time(&text))
    }

    /// Kills the node, whatever it does, and returns its home, in which it can be started again.
    #[must_use]
    pub fn kill(self) -> Home<'a> {
        self.home
    }

    /// Kills the node, whatever it does, and removes its home.
    ///
    /// # Errors
    /// [`Error::File`] when the home cannot be removed.
    pub fn discard(self) -> Result<(), Error> {
        let Self { home, process, .. } = self;
        drop(process);
        let path = home.path();
        fs::remove_dir_all(&path).map_err(Error::file("remove", &path))
    }

    /// Returns an error when the node has ended by itself.
    fn alive(&mut self) -> Result<(), Error> {
        match self.process.0.try_wait().map_err(Error::system("look at a process"))? {
            Some(status) => Err(Error::NodeEnded { node: self.home.name.clone(), status }),
            None => Ok(()),
        }
    }
}

/// Is what a node writes into its ready file; other fields are nothing to us.
#[derive(Debug, Deserialize)]
struct Ready {
    peer: String,
}
