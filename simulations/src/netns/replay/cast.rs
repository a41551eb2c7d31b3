//! Whether a plan can be replayed, and the wires and flags it takes.
//!
//! What cannot be replayed is refused with the key that asks for it: a run that left it out would be
//! compared with one that did not. Some things a plan says of a world are not asked of real nodes, as
//! they are what they are: how fast the store and the processor work as long as the wire is slower, how
//! long discovery takes, and that a node without a `[dht]` searches no provider.

use std::time::Duration;

use blobmesh_protocol::Config;

use crate::{
    netns::{
        edge,
        error::Error,
        lab::HOSTS_MAX,
        relay::{Layout, Link, Rate, Site},
    },
    plan::{self, Distribution, FaultKind, Group, Plan, Shape, WorkloadKind},
    script::{Script, ScriptNode},
};

/// The most commands of one node at once: each is a process.
const PARALLEL_MAX: usize = 16;

/// Makes the layout of a plan: nodes in the script's order, and the edge after them.
///
/// # Errors
/// [`Error::Unplayable`] naming the first key that cannot be replayed.
pub fn layout_of(plan: &Plan, script: &Script, disk_bytes_max: u64) -> Result<Layout, Error> {
    check_sizes(plan, script, disk_bytes_max)?;
    check_groups(plan)?;
    check_rest(plan)?;
    let mut sites = Vec::new();
    for (index, site) in plan.sites.iter().enumerate() {
        let nodes = script.nodes.iter().filter(|node| node.site == index);
        let hosts = nodes.map(|node| link_of(plan, node)).collect::<Result<Vec<_>, _>>()?;
        sites.push(Site { hosts, uplink: uplink_of(site)? });
    }
    // Hosts are numbered site by site, nodes group by group: they must be the same.
    if !script.nodes.is_sorted_by_key(|node| node.site) {
        return Err(refuse("group", "groups must be in the order of their sites"));
    }
    let edge = plan.edge.as_ref().map(|edge| {
        let rate = edge.rate.map(wire_rate);
        Link { up: rate, down: rate, ..Link::default() }
    });
    Ok(Layout { sites, internet: edge.into_iter().collect(), seed: plan.seed })
}

/// Returns the flags of `up` that make a node what the plan says.
pub(super) fn flags_of(plan: &Plan, node: &ScriptNode) -> Vec<String> {
    let mut flags = Vec::new();
    let site = plan.sites.get(node.site);
    if site.is_none_or(|site| site.discovery.is_none()) {
        flags.push("--no-mdns".to_owned());
    }
    flags.push("--no-adverts".to_owned());
    if plan.edge.is_some() {
        flags.extend(["--edge".to_owned(), edge::Door::Plain.url().to_owned()]);
    }
    flags
}

/// Returns the wire of a node. Two of them are between two nodes of a site, so each has half of the
/// site's delay and loss.
///
/// # Errors
/// [`Error::Unplayable`] for a delay that no wire has.
pub(super) fn link_of(plan: &Plan, node: &ScriptNode) -> Result<Link, Error> {
    let group = plan.groups.get(node.group);
    let Some(site) = plan.sites.get(node.site) else { return Ok(Link::default()) };
    let (delay, jitter) = delay_of(&site.latency, &format!("site.{}.latency", site.name))?;
    Ok(Link {
        up: group.and_then(|group| group.up).map(wire_rate),
        down: group.and_then(|group| group.down).map(wire_rate),
        delay: delay / 2,
        jitter: jitter / 2,
        loss: 1.0 - (1.0 - site.loss).sqrt(),
    })
}

/// Returns the rate of a wire that carries so many bytes a second.
pub(super) fn wire_rate(bytes: u64) -> Rate {
    Rate::kbit(u32::try_from(bytes.saturating_mul(8) / 1_000).unwrap_or(u32::MAX).max(1))
}

fn uplink_of(site: &plan::Site) -> Result<Link, Error> {
    let Some(uplink) = &site.uplink else { return Ok(Link::default()) };
    let (delay, jitter) = delay_of(&uplink.latency, &format!("site.{}.uplink.latency", site.name))?;
    let (up, down) = (uplink.up.map(wire_rate), uplink.down.map(wire_rate));
    Ok(Link { up, down, delay, jitter, loss: uplink.loss })
}

/// Returns the least of a delay and how far it spreads.
fn delay_of(delay: &Distribution, key: &str) -> Result<(Duration, Duration), Error> {
    match delay.shape {
        Shape::Constant(nanos) => Ok((Duration::from_nanos(nanos), Duration::ZERO)),
        Shape::Uniform => {
            let spread = delay.max.saturating_sub(delay.min);
            Ok((Duration::from_nanos(delay.min), Duration::from_nanos(spread)))
        }
        Shape::Lognormal { .. } | Shape::Exponential { .. } | Shape::Weibull { .. } => {
            Err(refuse(key, "a wire's delay is one time, or \"uniform\""))
        }
    }
}

fn check_sizes(plan: &Plan, script: &Script, disk_bytes_max: u64) -> Result<(), Error> {
    let hosts = script.nodes.len() + usize::from(plan.edge.is_some());
    if hosts > usize::from(HOSTS_MAX) {
        let text = format!("{hosts} hosts, the edge included; {HOSTS_MAX} at most");
        return Err(refuse("group.count", &text));
    }
    let bytes = bytes_of(script);
    if bytes > disk_bytes_max {
        let text = format!("up to {bytes} bytes on disk; {disk_bytes_max} at most");
        return Err(refuse("blobs.size", &text));
    }
    Ok(())
}

/// Returns how many bytes homes and the edge come to at most.
pub(super) fn bytes_of(script: &Script) -> u64 {
    let homes = (0..script.nodes.len()).map(|node| script.bytes_max_of(node));
    let on_edge = script.blobs.iter().filter(|blob| blob.on_edge).map(|blob| blob.size);
    // A blob is on its way through one more file, and the edge's through one more home.
    let largest = script.blobs.iter().map(|blob| blob.size).max().unwrap_or(0);
    homes.chain(on_edge).fold(largest.saturating_mul(2), u64::saturating_add)
}

fn check_groups(plan: &Plan) -> Result<(), Error> {
    for group in &plan.groups {
        let key = |key: &str| format!("group.{}.{key}", group.name);
        if group.session.is_some() {
            return Err(refuse(&key("session"), "sessions are not replayed; write an [[event]]"));
        }
        if !group.keeps_store {
            return Err(refuse(&key("keeps_store"), "a node's store stays"));
        }
        if group.engine.as_ref().is_some_and(|engine| !is_own(plan, engine)) {
            return Err(refuse(&key("engine"), OWN_ENGINE));
        }
        for (name, rate) in [("disk", group.disk), ("hash", group.hash)] {
            if rate.is_some_and(|rate| is_slower_than_wire(rate, group)) {
                return Err(refuse(&key(name), "this machine's own cannot be made slower"));
            }
        }
    }
    Ok(())
}

const OWN_ENGINE: &str = "real nodes run with the configuration they ship with";

/// Returns whether a limit beside the wire would be the narrower one.
fn is_slower_than_wire(rate: u64, group: &Group) -> bool {
    [group.up, group.down].into_iter().flatten().any(|wire| rate < wire)
}

/// Returns whether a configuration is that of a real node, but for what the plan has not.
fn is_own(plan: &Plan, engine: &Config) -> bool {
    let own = Config::default();
    let (edge, adverts) = (engine.edge, engine.adverts);
    let own = Config { edge, adverts, provider_search: engine.provider_search, ..own };
    *engine == own && edge == plan.edge.is_some()
}

fn check_rest(plan: &Plan) -> Result<(), Error> {
    if !is_own(plan, &plan.engine) {
        return Err(refuse("engine", OWN_ENGINE));
    }
    if plan.dht.is_some() {
        return Err(refuse("dht", "a DHT is not replayed"));
    }
    for (index, workload) in plan.workloads.iter().enumerate() {
        let key = |key: &str| format!("workload.{index}.{key}");
        match workload.kind {
            WorkloadKind::PullSet { .. } | WorkloadKind::Zipf { .. } => {}
            WorkloadKind::Add { .. } => return Err(refuse(&key("kind"), "\"add\"")),
            WorkloadKind::Trace { .. } => return Err(refuse(&key("kind"), "\"trace\"")),
        }
        if workload.parallel > PARALLEL_MAX {
            return Err(refuse(&key("parallel"), &format!("{PARALLEL_MAX} at most")));
        }
    }
    for (index, fault) in plan.faults.iter().enumerate() {
        let key = |key: &str| format!("event.{index}.{key}");
        match &fault.kind {
            FaultKind::DhtOutage => return Err(refuse(&key("outage"), "there is no DHT")),
            FaultKind::Malicious { .. } => {
                return Err(refuse(&key("malicious"), "real nodes do not misbehave"));
            }
            FaultKind::Kill { .. }
            | FaultKind::Partition { .. }
            | FaultKind::Slow { .. }
            | FaultKind::EdgeOutage
            | FaultKind::UplinkOutage { .. } => {}
        }
    }
    Ok(())
}

fn refuse(key: &str, reason: &str) -> Error {
    Error::Unplayable { key: key.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Source;

    const PLAN: &str = r#"
name = "cells"
duration = "60s"
site = [{ name = "lan", latency = "2ms", uplink = { latency = "10ms", bandwidth = "50Mbps" } }]
group = [{ name = "runner", count = 3, bandwidth = "100Mbps" }]
edge = { first_byte = "20ms", rate = "1Gbps" }
blobs = [{ name = "layer", size = "1MB", held_by = { copies = 1 } }]
workload = [{ kind = "pull_set", start = "5s" }]
"#;

    fn plan(settings: &[&str]) -> Plan {
        let mut source = Source::parse("cells", PLAN).unwrap();
        for setting in settings {
            source.set(setting).unwrap();
        }
        source.plan().unwrap()
    }

    fn layout(settings: &[&str]) -> Result<Layout, Error> {
        let plan = plan(settings);
        layout_of(&plan, &Script::of(&plan), 1 << 30)
    }

    #[test]
    fn layout_has_the_wires_of_the_plan() {
        let layout = layout(&[]).unwrap();
        let link = Link::new(Rate::mbit(100), Duration::from_millis(1));
        assert_eq!(layout.sites[0].hosts, vec![link; 3]);
        assert_eq!(layout.sites[0].uplink, Link::new(Rate::mbit(50), Duration::from_millis(10)));
        assert_eq!(layout.internet, [Link::new(Rate::mbit(1_000), Duration::ZERO)]);
    }

    #[test]
    fn what_cannot_be_replayed_is_refused_by_its_key() {
        for (setting, key) in [
            ("group.runner.count=32", "group.count"),
            ("blobs.layer.size=1GiB", "blobs.size"),
            ("group.runner.session=5s", "group.runner.session"),
            ("group.runner.keeps_store=false", "group.runner.keeps_store"),
            ("group.runner.disk=1MB/s", "group.runner.disk"),
            ("engine.hedge_initial=7ms", "engine"),
            ("dht.k=20", "dht"),
            ("site.lan.latency={ dist = \"exponential\", mean = \"1ms\" }", "site.lan.latency"),
            ("workload.0.parallel=100", "workload.0.parallel"),
        ] {
            match layout(&[setting]) {
                Err(Error::Unplayable { key: found, .. }) => assert_eq!(found, key, "{setting}"),
                other => panic!("{setting}: {other:?}"),
            }
        }
    }

    #[test]
    fn nodes_take_the_edge_and_multicast_of_the_plan() {
        let plan = plan(&[]);
        let node = Script::of(&plan).nodes[0].clone();
        let flags = flags_of(&plan, &node);
        assert!(flags.iter().any(|flag| flag == "--edge"), "{flags:?}");
        assert!(!flags.iter().any(|flag| flag == "--no-mdns"), "{flags:?}");
    }
}
