//! Replays: the run of a plan with real nodes, where a world has simulated it with the very same dice.
//!
//! Each node of the plan is a `blobmesh up` in a namespace of its own, behind the wires of a
//! [relay](super::relay); each get is a `blobmesh get` of one of its users; trouble is a kill, a cut or
//! a slower wire. What comes out has the form of a simulated run, so that the two can be compared.
//!
//! Who owns what: `cast` says whether a plan can be replayed and which wires it needs, `player` owns a
//! node's process through its lives, `users` the gets, `trouble` the timeline, `tell` makes rows of what
//! was seen. The lab owns everything on disk, and removes it.
//!
//! What a replay does not do: it has this machine's processors, disk and clock, so it tells how busy
//! those were ([`Replayed::processor_share`]). A get is timed by the node, from the command's arrival to
//! its end, as a world times it; the start of a process costs what it costs.

use std::{
    io::Write,
    path::Path,
    sync::{Mutex, atomic::AtomicBool},
    time::{Duration, Instant},
};

use self::{
    player::Player,
    users::{Seen, Users},
};
pub(super) use self::{processor::Busy, users::Phases};
use super::{
    blob,
    edge::{self, EdgeServer},
    error::Error,
    lab::Lab,
    process::{Home, Setting},
    relay::Counters,
    stop::Stop,
};
use crate::{outcome::Outcome, plan::Plan, script::Script};

pub mod cast;
mod player;
mod processor;
mod tell;
mod trouble;
mod users;

/// The bytes that homes and the edge may take on disk unless told otherwise.
pub const DISK_BYTES_MAX_DEFAULT: u64 = 12 << 30;

/// From this share of busy processor time on a replay tells of the machine rather than of the plan.
pub const PROCESSOR_SHARE_MAX: f64 = 0.8;

/// How long commands before and after the run may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// Says what is replayed, and with what.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// The plan, with the seed in it.
    pub plan: &'a Plan,
    /// The `blobmesh` binary.
    pub binary: &'a Path,
    /// The bytes that may lie on disk at most.
    pub disk_bytes_max: u64,
}

/// Is what a replay came to.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// What a simulated run ends with too.
    pub outcome: Outcome,
    /// The share of this machine's processor time that the replay took; or that was busy, whoever used it,
    /// where the nodes could not go before others.
    pub processor_share: f64,
    /// How long all took, with making and removing the lab.
    pub wall: Duration,
}

impl Replayed {
    /// Returns whether the machine had processor time to spare, without which times mean little.
    pub fn is_sound(&self) -> bool {
        self.processor_share < PROCESSOR_SHARE_MAX
    }
}

/// Is what everybody on the stage needs.
#[derive(Debug)]
struct Stage<'a> {
    plan: &'a Plan,
    script: &'a Script,
    setting: Setting<'a>,
    players: Vec<Player<'a>>,
    /// The hashes of the script's blobs.
    hashes: Vec<String>,
    /// The moment zero of the run.
    began: Instant,
    /// Set when the run ends, whatever is under way.
    over: AtomicBool,
    seen: Mutex<Seen>,
}

impl Stage<'_> {
    /// Returns the time since the run's start.
    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Replays a plan. Steps are told to `talk`.
///
/// # Errors
/// [`Error::Unplayable`] for a plan that cannot be replayed, [`Error::Unavailable`] on a machine without
/// namespaces, [`Error::Interrupted`], and others when a step fails. Nothing is left behind.
pub fn replay(options: &Options<'_>, stop: &Stop, talk: &mut dyn Write) -> Result<Replayed, Error> {
    let (plan, begun) = (options.plan, Instant::now());
    let script = Script::of(plan);
    let layout = cast::layout_of(plan, &script, options.disk_bytes_max)?;
    if !options.binary.is_file() {
        return Err(Error::NoBinary { path: options.binary.to_owned() });
    }
    let lab = Lab::shaped(&layout, stop)?;
    let setting = Setting { lab: &lab, binary: options.binary, stop };
    step(talk, &format!("{} nodes, {} blobs", script.nodes.len(), script.blobs.len()));
    let players = players(plan, &script, setting)?;
    let hashes = deal(plan, &script, &players, setting)?;
    let edge = edge_of(plan, setting)?;
    for (node, player) in script.nodes.iter().zip(&players) {
        if node.joins.is_zero() {
            player.begin()?;
        }
    }
    for player in &players {
        player.ready(Duration::ZERO)?;
    }
    lab.touch_memory(cast::bytes_of(&script), stop)?;
    let stage = Stage {
        plan,
        script: &script,
        setting,
        players,
        hashes,
        began: Instant::now(),
        over: AtomicBool::new(false),
        seen: Mutex::default(),
    };
    step(talk, "the run begins");
    let before = lab.network()?.counters()?;
    let busy = Busy::begin(&pids(&stage.players));
    let users = Users::of(&script);
    trouble::play(&stage, &users)?;
    let ended = stage.now();
    let shares = busy.shares(&pids(&stage.players));
    let first = stage.players.iter().all(Player::is_first);
    let processor_share = if first { shares.own } else { shares.machine };
    let after = lab.network()?.counters()?;
    step(talk, "the run ended");
    let facts = tell::Facts {
        ended,
        processor_share,
        machine_share: shares.machine,
        before,
        after,
        edge: edge.as_ref(),
    };
    let outcome = tell::outcome(&stage, &facts)?;
    Ok(Replayed { outcome, processor_share, wall: begun.elapsed() })
}

/// Returns the processes that run.
fn pids(players: &[Player<'_>]) -> Vec<rustix::process::Pid> {
    players.iter().filter_map(Player::pid).collect()
}

/// Tells people what happens next; nobody needs to hear it.
fn step(talk: &mut dyn Write, text: &str) {
    let _unheard = writeln!(talk, "replay: {text}");
}

/// Makes the homes of all nodes, in one mesh.
fn players<'a>(
    plan: &Plan,
    script: &Script,
    setting: Setting<'a>,
) -> Result<Vec<Player<'a>>, Error> {
    let mut players: Vec<Player<'a>> = Vec::new();
    let mut ticket: Option<String> = None;
    for (node, host) in script.nodes.iter().zip(setting.lab.hosts()) {
        let home = Home::new(setting, host, &node.name)?;
        match &ticket {
            // Taken before any node runs, so that it names no address: peers are found as they would be.
            None => ticket = Some(home.invite()?),
            Some(ticket) => home.join(ticket)?,
        }
        if let Some(bytes) = plan.groups.get(node.group).and_then(|group| group.cache) {
            let path = home.file(".home").join("config.toml");
            let text = format!("[store]\nbytes_max = {bytes}\n");
            std::fs::write(&path, text).map_err(Error::file("write", &path))?;
        }
        players.push(Player::new(home, cast::flags_of(plan, node)));
    }
    Ok(players)
}

/// Gives everybody, the edge too, what they hold at the start; returns the hashes of all blobs.
fn deal(
    plan: &Plan,
    script: &Script,
    players: &[Player<'_>],
    setting: Setting<'_>,
) -> Result<Vec<String>, Error> {
    let mut hashes = Vec::new();
    let filler = match setting.lab.hosts().get(script.nodes.len()) {
        Some(host) => Some(edge::Filler::new(setting, host)?),
        None => None,
    };
    for (index, known) in script.blobs.iter().enumerate() {
        let path = setting.lab.path().join("blob");
        let seed = plan.seed.wrapping_mul(1_000_003).wrapping_add(index as u64);
        let hash = blob::write(&path, known.size, seed)?;
        let holders = script.holdings.iter().filter(|held| held.blob == index);
        for holder in holders.filter_map(|held| players.get(held.node)) {
            holder.home.add(&path)?;
        }
        if let Some(filler) = filler.as_ref().filter(|_| known.on_edge) {
            filler.push(&path, &hash)?;
        }
        std::fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        hashes.push(hash);
    }
    Ok(hashes)
}

/// Starts the edge of a plan that has one.
fn edge_of(plan: &Plan, setting: Setting<'_>) -> Result<Option<EdgeServer>, Error> {
    let Some(spec) = &plan.edge else { return Ok(None) };
    let hosts = setting.lab.hosts();
    let Some((host, nodes)) = hosts.split_last() else { return Ok(None) };
    for node in nodes {
        edge::lead_to(setting, node, host)?;
    }
    EdgeServer::start(setting, host, spec, plan.seed).map(Some)
}
