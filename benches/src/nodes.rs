//! Real nodes of the built program, on loopback.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use blobmesh_protocol::Hash;
use serde_json::Value;

use crate::content::{Made, hash_of};
use crate::process::{Background, Sides, run};

/// How long a node may take to serve, or to find its neighbour.
const SOON: Duration = Duration::from_secs(20);

/// How long one get may take.
const GET_LIMIT: &str = "10m";

/// How many files are added by one command: a command's arguments have a bound.
const ADDED_AT_ONCE: usize = 2_000;

/// Is one running node.
#[derive(Debug)]
pub struct BenchNode {
    program: PathBuf,
    home: PathBuf,
    /// The node's process.
    pub process: Background,
}

/// Is a directory that a node has taken in.
#[derive(Clone, Copy, Debug)]
pub struct AddedTree {
    /// The tree's hash.
    pub hash: Hash,
    /// How many files it has.
    pub files: u64,
    /// How many bytes they have.
    pub bytes: u64,
}

impl BenchNode {
    /// Starts a node in `home` that links with the peers at some addresses.
    ///
    /// # Errors
    /// When it does not serve in time.
    pub fn start(
        program: &Path,
        home: &Path,
        peers: &[String],
        lane_port: &str,
    ) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg("--home").arg(home).args(["up", "--open", "--no-mdns", "--no-adverts"]);
        command.args(["--listen", "/ip4/127.0.0.1/tcp/0"]).env("BLOBMESH_LANE_PORT", lane_port);
        for peer in peers {
            command.arg("--peer").arg(peer);
        }
        let process = Background::start(&mut command)?;
        let node = Self { program: program.to_owned(), home: home.to_owned(), process };
        node.until(&["status"], |_| true)?;
        if !peers.is_empty() {
            let is_told = |row: &Value| row["filter_blobs"].is_u64();
            node.until(&["peers"], |lines| lines.iter().any(is_told))?;
        }
        Ok(node)
    }

    /// Returns the address at which others link with it.
    ///
    /// # Errors
    /// When it does not tell.
    pub fn address(&self) -> io::Result<String> {
        let lines = self.ask(&["status"])?;
        let status = lines.last().cloned().unwrap_or_default();
        let part = |value: &Value| value.as_str().map(str::to_owned);
        let (address, peer) = (part(&status["addresses"][0]), part(&status["peer"]));
        let found = address.zip(peer).map(|(address, peer)| format!("{address}/p2p/{peer}"));
        found.ok_or_else(|| io::Error::other("the node does not say where it listens"))
    }

    /// Returns the node's control socket.
    pub fn socket(&self) -> PathBuf {
        self.home.join("control.sock")
    }

    /// Returns the file in which the node's store keeps a blob that is not among the shortest.
    pub fn blob_file(&self, hash: Hash) -> PathBuf {
        let hash = hash.to_hex();
        let (shard, name) = hash.split_at(2);
        self.home.join("store").join("blobs").join(shard).join(name)
    }

    /// Returns the hash of the bytes that the node's store has of a blob.
    ///
    /// # Errors
    /// When it has none.
    pub fn hash_held(&self, hash: Hash) -> io::Result<Hash> {
        let file = self.blob_file(hash);
        if file.is_file() {
            return hash_of(&file);
        }
        // The shortest ones lie in the index.
        let output = self.command().arg("cat").arg(hash.to_hex()).output()?;
        Ok(Hash::of(&output.stdout))
    }

    /// Adds files.
    ///
    /// # Errors
    /// When the command fails.
    pub fn add(&self, files: &[Made]) -> io::Result<()> {
        for files in files.chunks(ADDED_AT_ONCE) {
            let mut command = self.command();
            run(command.arg("add").args(files.iter().map(|made| &made.path)))?;
        }
        Ok(())
    }

    /// Adds what `write` writes, without a file of it, and returns what that does.
    ///
    /// # Errors
    /// When the command or `write` fails.
    pub fn add_written(
        &self,
        write: impl FnOnce(&mut dyn Write) -> io::Result<Hash>,
    ) -> io::Result<Hash> {
        let mut command = self.command();
        command.args(["add", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        let mut process = Background::of(child);
        let mut input = input.ok_or_else(|| io::Error::other("a process without pipes"))?;
        let hash = write(&mut input)?;
        drop(input);
        process.ended()?;
        Ok(hash)
    }

    /// Gets blobs by one command, and returns how long it took.
    ///
    /// # Errors
    /// When the command fails.
    pub fn get(&self, sides: &Sides, hashes: &[Hash]) -> io::Result<Duration> {
        let mut command = self.getting();
        sides.run(command.args(hashes.iter().map(Hash::to_hex))).map(|(_, took)| took)
    }

    /// Gets a blob and writes it to a file, and returns how long that took.
    ///
    /// # Errors
    /// When the command fails.
    pub fn get_to(
        &self,
        sides: &Sides,
        hash: Hash,
        output: &Path,
        options: &[&str],
    ) -> io::Result<Duration> {
        let mut command = self.getting();
        command.arg(hash.to_hex()).arg("--output").arg(output).args(options);
        sides.run(&mut command).map(|(_, took)| took)
    }

    /// Removes a blob, whether it is there or not.
    ///
    /// # Errors
    /// When the command cannot be run.
    pub fn remove(&self, hash: Hash) -> io::Result<()> {
        self.command().args(["rm", "--force"]).arg(hash.to_hex()).output().map(drop)
    }

    /// Returns the command that gets, without the blobs.
    pub fn getting(&self) -> Command {
        let mut command = self.command();
        command.args(["--no-progress", "--quiet", "get", "--timeout", GET_LIMIT]);
        command
    }

    /// Adds a directory with all that is in it.
    ///
    /// # Errors
    /// When the command fails, or does not tell of the tree.
    pub fn add_tree(&self, source: &Path) -> io::Result<AddedTree> {
        let (said, _) = run(self.adding(source).arg("--json"))?;
        let rows = said.lines().map(serde_json::from_str::<Value>);
        let row = rows.flatten().find(|row| row["type"] == "tree").unwrap_or_default();
        let hash = row["hash"].as_str().and_then(|hash| hash.parse().ok());
        let counts = row["files"].as_u64().zip(row["bytes"].as_u64());
        let tree = hash.zip(counts).map(|(hash, (files, bytes))| AddedTree { hash, files, bytes });
        tree.ok_or_else(|| io::Error::other("`add` does not tell of the tree"))
    }

    /// Returns the command that adds a directory with all that is in it.
    pub fn adding(&self, source: &Path) -> Command {
        let mut command = self.command();
        command.args(["--no-progress", "add", "--no-ignore"]).arg(source);
        command
    }

    /// Returns the command that gets a tree and makes it a directory's content, and tells of it in JSON.
    pub fn pulling(&self, root: Hash, out: &Path) -> Command {
        let mut command = self.command();
        command.args(["--no-progress", "--json", "pull"]).arg(root.to_hex()).arg(out);
        command
    }

    /// Checks a tree out.
    ///
    /// # Errors
    /// When the command fails.
    pub fn check_out(&self, root: Hash, out: &Path) -> io::Result<()> {
        run(&mut self.checking_out(root, out)).map(drop)
    }

    /// Returns the command that checks a tree out.
    pub fn checking_out(&self, root: Hash, out: &Path) -> Command {
        let mut command = self.command();
        command.args(["--no-progress", "--quiet", "checkout"]).arg(root.to_hex()).arg(out);
        command
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--home").arg(&self.home);
        command
    }

    /// Runs a command with `--json`, and returns the lines that it printed.
    fn ask(&self, args: &[&str]) -> io::Result<Vec<Value>> {
        let (said, _) = run(self.command().arg("--json").args(args))?;
        let lines: Result<_, _> = said.lines().map(serde_json::from_str).collect();
        Ok(lines?)
    }

    fn until(&self, args: &[&str], ready: impl Fn(&[Value]) -> bool) -> io::Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            match self.ask(args) {
                Ok(answer) if ready(&answer) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                // Each question is a process of its own: pause enough.
                Ok(_) | Err(_) if Instant::now() < deadline => {}
                Ok(_) | Err(_) => return Err(io::Error::other(format!("not in time: {args:?}"))),
            }
        }
    }
}
