//! The timeline of a run: nodes that join, trouble that begins and ends, and the end itself.
//!
//! One thread plays it, so what falls due while a node is being started waits for that.

use std::{sync::atomic::Ordering, time::Duration};

use super::{Stage, users::Users};
use crate::{
    netns::{
        error::Error,
        lab::Host,
        relay::{Network, Rate, Side},
    },
    plan::FaultKind,
    script::ScriptFault,
};

/// How often it is looked whether everybody has what they wanted.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// Is what happens at a moment.
#[derive(Clone, Copy, Debug)]
enum Act<'a> {
    Join(usize),
    Begin(&'a ScriptFault),
    End(&'a ScriptFault),
}

/// Plays a run to its end: until nobody wants anything more, or the plan's duration is over.
///
/// # Errors
/// Those of steps that fail, on any thread; the others end soon after.
pub(super) fn play(stage: &Stage<'_>, users: &Users) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let slots: Vec<_> =
            users.slots().map(|slot| scope.spawn(move || slot.work(stage))).collect();
        let played = timeline(stage, users);
        stage.over.store(true, Ordering::SeqCst);
        let mut ends = slots
            .into_iter()
            .map(|slot| slot.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        // Every thread is joined before the first error is told.
        let failed = ends.by_ref().filter_map(Result::err).collect::<Vec<_>>().into_iter().next();
        played.and(failed.map_or(Ok(()), Err))
    })
}

fn timeline(stage: &Stage<'_>, users: &Users) -> Result<(), Error> {
    for (at, act) in acts(stage) {
        if !wait_until(stage, users, at)? {
            return Ok(());
        }
        perform(stage, act)?;
    }
    wait_until(stage, users, stage.plan.duration).map(drop)
}

/// Waits for a moment of the run; returns false when nobody wants anything any more before.
fn wait_until(stage: &Stage<'_>, users: &Users, moment: Duration) -> Result<bool, Error> {
    while stage.now() < moment {
        if users.are_done() || stage.over.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let left = moment.saturating_sub(stage.now());
        stage.setting.stop.pause(left.min(LOOK_PAUSE))?;
    }
    Ok(true)
}

/// Returns what happens, in the order of time.
fn acts<'a>(stage: &'a Stage<'_>) -> Vec<(Duration, Act<'a>)> {
    let nodes = stage.script.nodes.iter().enumerate();
    let joins = nodes.filter(|(_, node)| !node.joins.is_zero());
    let mut acts: Vec<_> = joins.map(|(index, node)| (node.joins, Act::Join(index))).collect();
    for fault in &stage.script.faults {
        acts.push((fault.at, Act::Begin(fault)));
        acts.extend(fault.lasts.map(|lasts| (fault.at + lasts, Act::End(fault))));
    }
    acts.sort_by_key(|(at, _)| *at);
    acts
}

fn perform(stage: &Stage<'_>, act: Act<'_>) -> Result<(), Error> {
    match act {
        Act::Join(node) => start(stage, &[node]),
        Act::Begin(fault) => change(stage, fault, true),
        Act::End(fault) => change(stage, fault, false),
    }
}

/// Starts nodes all at once, and waits until they serve.
fn start(stage: &Stage<'_>, nodes: &[usize]) -> Result<(), Error> {
    let players = || nodes.iter().filter_map(|node| stage.players.get(*node));
    players().try_for_each(super::player::Player::begin)?;
    players().try_for_each(|player| player.ready(stage.now()))
}

fn change(stage: &Stage<'_>, fault: &ScriptFault, begins: bool) -> Result<(), Error> {
    let network = stage.setting.lab.network()?;
    match &fault.kind {
        FaultKind::Kill { .. } if begins => {
            let players = fault.nodes.iter().filter_map(|node| stage.players.get(*node));
            players.for_each(|player| player.kill(fault.lasts.is_none()));
            Ok(())
        }
        FaultKind::Kill { .. } => start(stage, &fault.nodes),
        FaultKind::Partition { .. } => {
            for one in hosts(stage, &fault.nodes) {
                for other in hosts(stage, &fault.others) {
                    cut(network, Side::Host(one), Side::Host(other), begins)?;
                }
            }
            Ok(())
        }
        FaultKind::Slow { rate, .. } => slow(stage, network, fault, begins.then_some(*rate)),
        FaultKind::EdgeOutage => cut(network, Side::Internet, Side::Everyone, begins),
        FaultKind::UplinkOutage { site } => {
            let site = u8::try_from(site.0 + 1).unwrap_or(u8::MAX);
            cut(network, Side::Site(site), Side::Everyone, begins)
        }
        // Refused before the run.
        FaultKind::DhtOutage | FaultKind::Malicious { .. } => Ok(()),
    }
}

fn cut(network: &Network, a: Side<'_>, b: Side<'_>, begins: bool) -> Result<(), Error> {
    if begins { network.partition(a, b) } else { network.heal(a, b) }
}

/// Gives nodes wires of a rate, or those of the plan again.
fn slow(
    stage: &Stage<'_>,
    network: &Network,
    fault: &ScriptFault,
    rate: Option<u64>,
) -> Result<(), Error> {
    for node in &fault.nodes {
        let (Some(host), Some(node)) =
            (stage.setting.lab.hosts().get(*node), stage.script.nodes.get(*node))
        else {
            continue;
        };
        let mut link = super::cast::link_of(stage.plan, node)?;
        if let Some(rate) = rate.map(super::cast::wire_rate) {
            // As in a world: a wire without a limit gets none.
            let least = |wire: Option<Rate>| wire.map(|_| rate);
            (link.up, link.down) = (least(link.up), least(link.down));
        }
        network.set_link(host, link, stage.setting.stop)?;
    }
    Ok(())
}

fn hosts<'a>(stage: &'a Stage<'_>, nodes: &[usize]) -> Vec<&'a Host> {
    nodes.iter().filter_map(|node| stage.setting.lab.hosts().get(*node)).collect()
}
