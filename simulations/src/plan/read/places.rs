//! Reading what there is: sites, groups of nodes, the edge, the DHT.

use blobmesh_protocol::Config;

use super::super::error::{PlanError, Problem};
use super::super::section::{Field, Keys, Section};
use super::super::{Dht, Distribution, Edge, Group, NODES_MAX, Site, SiteId, Uplink};
use super::engine::{self, ENGINE};
use super::names::Names;
use super::{or, required, says};

pub(in super::super) static SITE: Keys = Keys {
    header: "[[site]]",
    about: "A LAN. A plan without any has one, an office named `office` with all defaults.",
    parts: &[&[
        required("name", "a name", "what groups and events call it"),
        or(
            "latency",
            "times",
            r#"{ dist = "lognormal", median = "0.25ms", sigma = 0.4, max = "1s" }"#,
            "one way between two nodes of the site",
        ),
        or("loss", "a number, 0 to 0.99", "0.0", "the share of packets that the LAN loses"),
        or(
            "discovery",
            "times, or \"none\"",
            r#"{ dist = "uniform", min = "10ms", max = "50ms" }"#,
            "how long after a join a node is found by multicast; none where multicast is dropped",
        ),
        or(
            "uplink",
            "a table, or \"none\"",
            "{}",
            "the way to other sites and to the edge, see below; none where nothing limits or delays it",
        ),
    ]],
};

pub(in super::super) static UPLINK: Keys = Keys {
    header: "[site.uplink]",
    about: "What all nodes of a site share on their way out; after its `[[site]]`, or inline.",
    parts: &[&[
        or("bandwidth", "a rate, or \"unlimited\"", "\"500Mbps\"", "both ways"),
        says("up", "a rate, or \"unlimited\"", "`bandwidth`", "out of the site"),
        says("down", "a rate, or \"unlimited\"", "`bandwidth`", "into the site"),
        or("latency", "times", "\"10ms\"", "one way between the site and the world outside"),
        or("loss", "a number, 0 to 0.99", "0.0", "the share of packets lost on it"),
    ]],
};

pub(in super::super) static GROUP: Keys = Keys {
    header: "[[group]]",
    about: "A number of nodes alike. A plan needs one at least, and 200,000 nodes at most in all.",
    parts: &[&[
        required("name", "a name", "what workloads and events call it"),
        required("count", "a whole number, 1 to 200,000", "how many nodes"),
        says("site", "the name of a site", "the only site", "where they are"),
        or("bandwidth", "a rate, or \"unlimited\"", "\"1Gbps\"", "of each node's link, each way"),
        says("up", "a rate, or \"unlimited\"", "`bandwidth`", "what a node sends at most"),
        says("down", "a rate, or \"unlimited\"", "`bandwidth`", "what a node receives at most"),
        or("disk", "a rate, or \"unlimited\"", "\"500MB/s\"", "what its disk writes and reads"),
        or("hash", "a rate, or \"unlimited\"", "\"1GB/s\"", "what it hashes"),
        or(
            "cache",
            "a size, or \"unlimited\"",
            "\"unlimited\"",
            "what a node keeps before the least recently used blobs go",
        ),
        or("join", "times", "\"0s\"", "when a node starts, after the run's start"),
        or("session", "times, or \"forever\"", "\"forever\"", "how long a node stays"),
        or(
            "absence",
            "times, or \"forever\"",
            "\"forever\"",
            "how long a node is away after a session",
        ),
        or(
            "keeps_store",
            "a boolean",
            "true",
            "whether a node that starts again still has its store",
        ),
        says("engine", "a table", "as `[engine]`", "what differs from `[engine]` for this group"),
    ]],
};

pub(in super::super) static EDGE: Keys = Keys {
    header: "[edge]",
    about: "A bucket behind a network. A plan without this table has no edge; the bare header is one with \
        all defaults.",
    parts: &[&[
        or(
            "first_byte",
            "times",
            r#"{ dist = "lognormal", median = "45ms", sigma = 0.5, max = "10s" }"#,
            "from a request's arrival to its first byte",
        ),
        or(
            "rate_per_connection",
            "a rate, or \"unlimited\"",
            "\"25MB/s\"",
            "of one connection at most",
        ),
        or("rate", "a rate, or \"unlimited\"", "\"unlimited\"", "of the edge in all"),
        or(
            "error_rate",
            "a number, 0 to 1",
            "0.0",
            "the share of requests that fail with a server's error",
        ),
    ]],
};

pub(in super::super) static DHT: Keys = Keys {
    header: "[dht]",
    about: "The Kademlia DHT that all nodes are in. A plan without this table has none.",
    parts: &[&[
        or(
            "k",
            "a whole number, 1 to 256",
            "20",
            "the size of a bucket, and how many nodes keep a record",
        ),
        or("alpha", "a whole number, 1 to 64", "3", "questions of one lookup at once"),
        or(
            "timeout",
            "a time above zero",
            "\"10s\"",
            "how long a node that is gone is waited for; blobmesh's own wait 5 s",
        ),
        or(
            "record_ttl",
            "a time above zero",
            "\"48h\"",
            "how long a provide record lives; blobmesh's live 1 h",
        ),
    ]],
};

/// Reads the sites; a plan that names none has one office.
pub(super) fn sites(field: Option<&Field<'_>>) -> Result<(Vec<Site>, Names), PlanError> {
    let mut names = Names::new("sites");
    let mut sites = Vec::new();
    for section in super::entries(field, &SITE)? {
        names.add(&section.field("name")?)?;
        sites.push(site(&section)?);
    }
    Ok((sites, names))
}

pub(super) fn site(section: &Section<'_>) -> Result<Site, PlanError> {
    let uplink = section.field("uplink")?;
    Ok(Site {
        name: section.field("name")?.text()?.to_owned(),
        latency: section.field("latency")?.times()?,
        loss: section.field("loss")?.loss()?,
        discovery: times_or(&section.field("discovery")?, "none")?,
        uplink: if uplink.is("none") { None } else { Some(read_uplink(&uplink)?) },
    })
}

fn read_uplink(field: &Field<'_>) -> Result<Uplink, PlanError> {
    let section = field.section(&UPLINK)?;
    let (up, down) = both_ways(&section)?;
    Ok(Uplink {
        up,
        down,
        latency: section.field("latency")?.times()?,
        loss: section.field("loss")?.loss()?,
    })
}

/// Reads `up` and `down`, each `bandwidth` where it is absent.
fn both_ways(section: &Section<'_>) -> Result<(Option<u64>, Option<u64>), PlanError> {
    let both = section.field("bandwidth")?.rate_or_unlimited()?;
    let way = |key| match section.optional(key)? {
        Some(field) => field.rate_or_unlimited(),
        None => Ok(both),
    };
    Ok((way("up")?, way("down")?))
}

fn times_or(field: &Field<'_>, word: &str) -> Result<Option<Distribution>, PlanError> {
    if field.is(word) { Ok(None) } else { field.times().map(Some) }
}

/// Says which of the engine's wishes the plan can fulfil.
pub(super) fn check_engine(
    section: &Section<'_>,
    config: &Config,
    has_edge: bool,
    has_dht: bool,
) -> Result<(), PlanError> {
    for (key, wanted, there, table) in [
        ("edge", config.edge, has_edge, "[edge]"),
        ("provider_search", config.provider_search, has_dht, "[dht]"),
        ("adverts", config.adverts, has_dht, "[dht]"),
    ] {
        if wanted && !there && section.has(key) {
            let problem = Problem::Other(format!("is true, but the plan has no `{table}`"));
            return Err(section.field(key)?.fail(problem));
        }
    }
    let [min, max] = [config.hedge_min, config.hedge_max];
    if min > max {
        return Err(section.fail(Problem::Other("`hedge_min` is more than `hedge_max`".to_owned())));
    }
    Ok(())
}

/// Is what a group refers to.
pub(super) struct Around<'a> {
    pub(super) sites: &'a Names,
    pub(super) engine: &'a Config,
    pub(super) has_edge: bool,
    pub(super) has_dht: bool,
}

pub(super) fn groups(
    field: Option<&Field<'_>>,
    around: &Around<'_>,
) -> Result<(Vec<Group>, Names), PlanError> {
    let mut names = Names::new("groups");
    let mut groups = Vec::new();
    let mut total = 0_usize;
    for section in super::entries(field, &GROUP)? {
        names.add(&section.field("name")?)?;
        let group = group(&section, around)?;
        total = total.saturating_add(group.count);
        if total > NODES_MAX {
            let problem =
                Problem::TooMany { what: "nodes", count: total as u128, most: NODES_MAX as u128 };
            return Err(section.field("count")?.fail(problem));
        }
        groups.push(group);
    }
    Ok((groups, names))
}

fn group(section: &Section<'_>, around: &Around<'_>) -> Result<Group, PlanError> {
    let (up, down) = both_ways(section)?;
    Ok(Group {
        name: section.field("name")?.text()?.to_owned(),
        count: section.field("count")?.count(1..=NODES_MAX)?,
        site: SiteId(around.sites.of(section, "site")?),
        up,
        down,
        disk: section.field("disk")?.rate_or_unlimited()?,
        hash: section.field("hash")?.rate_or_unlimited()?,
        cache: section.field("cache")?.size_or_unlimited()?,
        join: section.field("join")?.times()?,
        session: times_or(&section.field("session")?, "forever")?,
        absence: times_or(&section.field("absence")?, "forever")?,
        keeps_store: section.field("keeps_store")?.flag()?,
        engine: group_engine(section, around)?,
    })
}

fn group_engine(section: &Section<'_>, around: &Around<'_>) -> Result<Option<Config>, PlanError> {
    let Some(field) = section.optional("engine")? else { return Ok(None) };
    let section = field.section(&ENGINE)?;
    let config = engine::read(&section, around.engine.clone())?;
    check_engine(&section, &config, around.has_edge, around.has_dht)?;
    Ok(Some(config))
}

pub(super) fn edge(field: Option<&Field<'_>>) -> Result<Option<Edge>, PlanError> {
    let Some(field) = field else { return Ok(None) };
    let section = field.section(&EDGE)?;
    Ok(Some(Edge {
        first_byte: section.field("first_byte")?.times()?,
        rate_per_connection: section.field("rate_per_connection")?.rate_or_unlimited()?,
        rate: section.field("rate")?.rate_or_unlimited()?,
        error_rate: section.field("error_rate")?.real(0.0..=1.0)?,
    }))
}

pub(super) fn dht(field: Option<&Field<'_>>) -> Result<Option<Dht>, PlanError> {
    let Some(field) = field else { return Ok(None) };
    let section = field.section(&DHT)?;
    Ok(Some(Dht {
        k: section.field("k")?.count(1..=256)?,
        alpha: section.field("alpha")?.count(1..=64)?,
        timeout: section.field("timeout")?.time_above_zero()?,
        record_ttl: section.field("record_ttl")?.time_above_zero()?,
    }))
}
