//! The users of nodes: each slot of a client is a thread that types one get after another.
//!
//! A get that its node did not survive is wanted again when the node is back, as in a world. At the run's
//! end what is under way is cut, and told as unfinished.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Deserialize;

use super::{
    Stage,
    player::{Player, State},
};
use crate::{
    netns::{client::TierBytes, command::Finished, error::Error},
    outcome::FetchRow,
    script::{Script, ScriptClient},
};

/// How often a slot looks whether its moment has come or its node is back.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// How long after its node's end a get may fail and still count as killed with it.
const DEATH_LIMIT: Duration = Duration::from_millis(500);

/// Is what was seen of the gets.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Gets in the order of their ends.
    pub(super) fetches: Vec<Fetch>,
    /// How many gets are under way.
    pub(super) open: u64,
}

/// Is a get that ended.
#[derive(Clone, Debug)]
pub(super) struct Fetch {
    /// Indexes the script's nodes.
    pub(super) node: usize,
    /// Indexes its blobs.
    pub(super) blob: usize,
    pub(super) row: FetchRow,
}

/// Holds the clients of a run.
#[derive(Debug)]
pub(super) struct Users {
    clients: Vec<Client>,
    /// Slots that still want something.
    open: AtomicUsize,
}

#[derive(Debug)]
struct Client {
    script: Mutex<(ScriptClient, VecDeque<usize>)>,
    node: usize,
    start: Duration,
    timeout: Option<Duration>,
    slots: usize,
}

impl Users {
    pub(super) fn of(script: &Script) -> Self {
        let client = |client: &ScriptClient| Client {
            node: client.node,
            start: client.start,
            timeout: client.timeout,
            slots: client.parallel,
            script: Mutex::new((client.clone(), VecDeque::new())),
        };
        let clients: Vec<Client> = script.clients.iter().map(client).collect();
        let open = clients.iter().map(|client| client.slots).sum();
        Self { clients, open: AtomicUsize::new(open) }
    }

    /// Returns whether nobody wants anything any more.
    pub(super) fn are_done(&self) -> bool {
        self.open.load(Ordering::SeqCst) == 0
    }

    /// Returns each slot's work, to be done on a thread of its own.
    pub(super) fn slots(&self) -> impl Iterator<Item = Slot<'_>> {
        let slots = self.clients.iter().flat_map(|client| (0..client.slots).map(move |_| client));
        slots.map(|client| Slot { client, open: &self.open })
    }
}

/// Is one slot of a client.
pub(super) struct Slot<'a> {
    client: &'a Client,
    open: &'a AtomicUsize,
}

impl Slot<'_> {
    /// Gets one blob after another until the client wants nothing more, its node is gone for good, or
    /// the run is over.
    ///
    /// # Errors
    /// Those of commands, but for gets that end without the blob.
    pub(super) fn work(&self, stage: &Stage<'_>) -> Result<(), Error> {
        let worked = self.gets(stage);
        self.open.fetch_sub(1, Ordering::SeqCst);
        if worked.is_err() {
            stage.over.store(true, Ordering::SeqCst);
        }
        worked
    }

    fn gets(&self, stage: &Stage<'_>) -> Result<(), Error> {
        let Some(player) = stage.players.get(self.client.node) else { return Ok(()) };
        let Some(joined) = wait(stage, || Ok(player.joined()))? else { return Ok(()) };
        let mut next = joined + self.client.start;
        while wait_until(stage, next)? {
            let up = wait(stage, || {
                Ok(match player.state() {
                    State::Up(life) => Some(Some(life)),
                    State::Down => None,
                    State::Gone => Some(None),
                })
            })?;
            let Some(Some(life)) = up else { return Ok(()) };
            let Some(blob) = self.client.next() else { return Ok(()) };
            if !self.get(stage, player, life, blob)? {
                return Ok(());
            }
            next = stage.now() + self.client.think();
        }
        Ok(())
    }

    /// Gets a blob; returns false when the run ended meanwhile.
    fn get(
        &self,
        stage: &Stage<'_>,
        player: &Player<'_>,
        life: u32,
        blob: usize,
    ) -> Result<bool, Error> {
        let Some(hash) = stage.hashes.get(blob) else { return Ok(true) };
        let started = stage.now();
        let left = stage.plan.duration.saturating_sub(started);
        let timeout = self.client.timeout.map(|timeout| format!("{}ms", timeout.as_millis()));
        let mut words = vec!["get", hash];
        words.extend(timeout.iter().flat_map(|timeout| ["--timeout", timeout]));
        lock(&stage.seen).open += 1;
        let finished = match player.home.run(&words, b"", left) {
            Err(Error::Late { .. }) => None,
            finished => Some(finished?),
        };
        let ended = stage.now();
        let mut row = self.row(stage, blob, started, ended);
        let got = finished.as_ref().and_then(receipt_of);
        match (&finished, got) {
            (None, _) => {}
            (Some(_), Some(got)) => got.fill(&mut row, ended),
            (Some(finished), None) => {
                let killed = died(stage, player, life)?;
                row.result = if killed { "killed" } else { result_of(finished) };
                if killed {
                    self.client.again(blob);
                }
            }
        }
        let mut seen = lock(&stage.seen);
        seen.open -= 1;
        seen.fetches.push(Fetch { node: self.client.node, blob, row });
        Ok(finished.is_some())
    }

    fn row(&self, stage: &Stage<'_>, blob: usize, from: Duration, to: Duration) -> FetchRow {
        let (node, known) =
            (stage.script.nodes.get(self.client.node), stage.script.blobs.get(blob));
        FetchRow {
            node: node.map_or_else(String::new, |node| node.name.clone()),
            blob: known.map_or_else(String::new, |blob| blob.name.clone()),
            size: known.map_or(0, |blob| blob.size),
            start_ns: nanos(from),
            took_ns: nanos(to.saturating_sub(from)),
            result: "unfinished",
            found: "-",
            local_bytes: 0,
            lan_bytes: 0,
            edge_bytes: 0,
            asks: 0,
            asks_wasted: 0,
            skipped: 0,
            sources: 0,
            hedged: false,
            local_ns: 0,
            find_ns: 0,
            first_group_ns: 0,
            transfer_ns: 0,
            store_ns: 0,
        }
    }
}

impl Client {
    fn next(&self) -> Option<usize> {
        let mut script = lock(&self.script);
        script.1.pop_front().or_else(|| script.0.next_blob())
    }

    fn again(&self, blob: usize) {
        lock(&self.script).1.push_back(blob);
    }

    fn think(&self) -> Duration {
        lock(&self.script).0.think()
    }
}

/// Returns whether the life in which a get began has ended: its command may hear of it a moment sooner
/// than the player does.
fn died(stage: &Stage<'_>, player: &Player<'_>, life: u32) -> Result<bool, Error> {
    let dead = || Ok((player.state() != State::Up(life)).then_some(()));
    stage.setting.stop.within(DEATH_LIMIT, LOOK_PAUSE, dead).map(|dead| dead.is_some())
}

/// Waits until `moment` of the run; returns false when the run is over before.
fn wait_until(stage: &Stage<'_>, moment: Duration) -> Result<bool, Error> {
    while stage.now() < moment {
        if stage.over.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let left = moment.saturating_sub(stage.now());
        stage.setting.stop.pause(left.min(10 * LOOK_PAUSE))?;
    }
    Ok(!stage.over.load(Ordering::SeqCst))
}

/// Waits for an answer; returns none when the run is over before.
fn wait<T>(
    stage: &Stage<'_>,
    mut ask: impl FnMut() -> Result<Option<T>, Error>,
) -> Result<Option<T>, Error> {
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        if stage.over.load(Ordering::SeqCst) {
            return Ok(None);
        }
        stage.setting.stop.pause(LOOK_PAUSE)?;
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Is the last line of a `blobmesh get` that succeeded.
#[derive(Debug, Deserialize)]
struct Got {
    found: String,
    tier: TierBytes,
    seconds: f64,
    phases: Phases,
}

/// Says where the time of a get went, in seconds.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Phases {
    pub(crate) local_s: f64,
    pub(crate) find_s: f64,
    pub(crate) first_group_s: f64,
    pub(crate) transfer_s: f64,
    pub(crate) store_s: f64,
}

impl Got {
    /// Fills a row. The get began when the node says that it did, counted back from its end: what the
    /// command itself took before is not the node's.
    fn fill(&self, row: &mut FetchRow, ended: Duration) {
        let took = seconds(self.seconds);
        row.start_ns = nanos(ended).saturating_sub(took).max(row.start_ns);
        row.took_ns = took;
        row.result = "ok";
        row.found = match self.found.as_str() {
            "local" => "local",
            "lan" => "lan",
            "dht" => "dht",
            "edge" => "edge",
            _ => "-",
        };
        let TierBytes { local, lan, edge } = self.tier;
        (row.local_bytes, row.lan_bytes, row.edge_bytes) = (local, lan, edge);
        row.local_ns = seconds(self.phases.local_s);
        row.find_ns = seconds(self.phases.find_s);
        row.first_group_ns = seconds(self.phases.first_group_s);
        row.transfer_ns = seconds(self.phases.transfer_s);
        row.store_ns = seconds(self.phases.store_s);
    }
}

/// Reads the receipt of a get that succeeded.
fn receipt_of(finished: &Finished) -> Option<Got> {
    let mut lines = finished.stdout.lines().rev().filter(|_| finished.status.success());
    lines.find_map(|line| serde_json::from_str(line).ok())
}

/// Tells how a get failed by its documented exit code.
fn result_of(finished: &Finished) -> &'static str {
    match finished.status.code() {
        Some(3) => "not_found",
        Some(4) => "wrong_bytes",
        Some(5) => "refused",
        Some(6) => "unreachable",
        Some(7 | 10) => "store_failed",
        Some(130) => "cancelled",
        Some(_) | None => "unreachable",
    }
}

/// Rounds seconds to nanoseconds; what is no time is none.
fn seconds(seconds: f64) -> u64 {
    Duration::try_from_secs_f64(seconds).map_or(0, nanos)
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
