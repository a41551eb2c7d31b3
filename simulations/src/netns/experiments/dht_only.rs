//! `dht-only`: the DHT finds what nothing else can.
//!
//! A, B and C sit in three subnets behind a router, without mDNS. A and C are told the address of B
//! only and are no neighbours, so neither filter nor gossip can tell C what A holds. A blob added on
//! A must be found by its provide record, and must not be found when nobody writes such records.

use std::time::{Duration, Instant};

use super::{ASK_PAUSE, Experiment, Trial};
use crate::netns::{
    client::Receipt,
    error::Error,
    lab::Topology,
    metric::{Bound, MetricSpec, one_if},
    process::Node,
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "dht-only",
    about: "a node finds a blob of a node it was never told of, by its provide record",
    topology: Topology::Router,
    nodes: 3..=3,
    metrics: &[
        HOLDER_UNKNOWN_BEFORE,
        FOUND,
        FOUND_BY_DHT,
        LAN_BYTES_SHARE,
        FOUND_AFTER_S,
        GETS_UNTIL_FOUND,
        HOLDER_UNKNOWN_BEFORE_WITHOUT_ADVERTS,
        FOUND_WITHOUT_ADVERTS,
    ],
    run,
};

/// How long A and C may take until they list B.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// How long gets are tried again: adverts leave a node at a limited rate, after the add returned.
const SEEK_LIMIT: Duration = Duration::from_secs(30);

/// How long a blob without an advert is sought: some times what one with an advert takes.
const SEEK_IN_VAIN_LIMIT: Duration = Duration::from_secs(10);

/// The pause between two gets.
const SEEK_PAUSE: Duration = Duration::from_millis(200);

/// The length of the blob: a hundred groups and more, and no load.
const BLOB_BYTES_MAX: u64 = 8 << 20;

const HOLDER_UNKNOWN_BEFORE: MetricSpec = MetricSpec {
    name: "holder_unknown_before",
    unit: "bool",
    bound: Some(Bound::Exactly(1.0)),
    about: "whether C, before its first get, has no neighbour A and no filter of A",
};
const FOUND: MetricSpec = MetricSpec {
    name: "found",
    unit: "bool",
    bound: Some(Bound::Exactly(1.0)),
    about: "whether C gets the blob of A within 30 s of the add",
};
const FOUND_BY_DHT: MetricSpec = MetricSpec {
    name: "found_by_dht",
    unit: "bool",
    bound: Some(Bound::Exactly(1.0)),
    about: "whether `why` on C says that the DHT found it",
};
const LAN_BYTES_SHARE: MetricSpec = MetricSpec {
    name: "lan_bytes_share",
    unit: "share",
    bound: Some(Bound::Exactly(1.0)),
    about: "bytes of that get that came from peers",
};
const FOUND_AFTER_S: MetricSpec = MetricSpec {
    name: "found_after_s",
    unit: "s",
    bound: None,
    about: "from the end of the add to the end of the get that found it",
};
const GETS_UNTIL_FOUND: MetricSpec = MetricSpec {
    name: "gets_until_found",
    unit: "count",
    bound: None,
    about: "how many gets it took, 200 ms apart",
};
const HOLDER_UNKNOWN_BEFORE_WITHOUT_ADVERTS: MetricSpec = MetricSpec {
    name: "holder_unknown_before_without_adverts",
    unit: "bool",
    bound: Some(Bound::Exactly(1.0)),
    about: "as `holder_unknown_before`, in the run with `--no-adverts` on all nodes",
};
const FOUND_WITHOUT_ADVERTS: MetricSpec = MetricSpec {
    name: "found_without_adverts",
    unit: "bool",
    bound: Some(Bound::Exactly(0.0)),
    about: "whether C gets the blob of A within 10 s with `--no-adverts` on all nodes",
};

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    trial.report.step("C looks for a blob of A that is advertised");
    let nodes = Nodes::start(trial, "", &["--no-mdns"])?;
    trial.report.record(&HOLDER_UNKNOWN_BEFORE, one_if(nodes.holder_is_unknown()?))?;
    let hash = trial.add(&nodes.a.home, trial.blob_bytes.min(BLOB_BYTES_MAX), 1)?;
    let sought = nodes.seek(trial, &hash, SEEK_LIMIT)?;
    record_found(trial, &nodes, &hash, &sought)?;
    nodes.stop()?;

    trial.report.step("C looks for a blob of A that is not advertised");
    let nodes = Nodes::start(trial, "-silent", &["--no-mdns", "--no-adverts"])?;
    let unknown = one_if(nodes.holder_is_unknown()?);
    trial.report.record(&HOLDER_UNKNOWN_BEFORE_WITHOUT_ADVERTS, unknown)?;
    let hash = trial.add(&nodes.a.home, trial.blob_bytes.min(BLOB_BYTES_MAX), 2)?;
    let sought = nodes.seek(trial, &hash, SEEK_IN_VAIN_LIMIT)?;
    trial.report.record(&FOUND_WITHOUT_ADVERTS, one_if(sought.receipt.is_some()))?;
    nodes.stop()
}

fn record_found(
    trial: &mut Trial<'_, '_>,
    nodes: &Nodes<'_>,
    hash: &str,
    sought: &Sought,
) -> Result<(), Error> {
    trial.report.record(&FOUND, one_if(sought.receipt.is_some()))?;
    let Some(receipt) = &sought.receipt else { return Ok(()) };
    let why = nodes.c.home.why(hash)?;
    trial.report.record(&FOUND_BY_DHT, one_if(why.found == "dht"))?;
    trial.report.record(&LAN_BYTES_SHARE, receipt.share_of(|tier| tier.lan))?;
    trial.report.record(&FOUND_AFTER_S, sought.seconds)?;
    trial.report.record(&GETS_UNTIL_FOUND, f64::from(sought.gets))
}

/// Holds the three nodes: A has the blob, B is known to both, C looks for it.
struct Nodes<'a> {
    a: Node<'a>,
    b: Node<'a>,
    c: Node<'a>,
}

/// Tells what a row of gets came to.
struct Sought {
    receipt: Option<Receipt>,
    seconds: f64,
    gets: u32,
}

impl<'a> Nodes<'a> {
    /// Starts fresh nodes; A and C are told of B and connected with it when this returns.
    fn start(trial: &Trial<'a, '_>, suffix: &str, flags: &[&str]) -> Result<Self, Error> {
        let home = trial.home(2, suffix)?;
        let ticket = home.invite()?;
        let mut b = home.start(flags)?;
        b.ready()?;
        let known = b.home.multiaddress();
        let flags = [flags, &["--peer", &known]].concat();
        let [a, c] = [1, 3].map(|number| {
            let home = trial.home(number, suffix)?;
            home.join(&ticket)?;
            home.start(&flags)
        });
        let mut nodes = Self { a: a?, b, c: c? };
        nodes.a.ready()?;
        nodes.c.ready()?;
        nodes.connect(trial)?;
        Ok(nodes)
    }

    fn connect(&self, trial: &Trial<'_, '_>) -> Result<(), Error> {
        trial.setting.stop.until("A and C to list B", CONNECT_LIMIT, ASK_PAUSE, || {
            for node in [&self.a, &self.c] {
                if !node.home.peers()?.iter().any(|row| row.peer == self.b.peer) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    /// Returns whether C has neither gossip with A nor a filter of it. A connection that the DHT
    /// opened is no acquaintance.
    fn holder_is_unknown(&self) -> Result<bool, Error> {
        let rows = self.c.home.peers()?;
        let mut of_a = rows.iter().filter(|row| row.peer == self.a.peer);
        Ok(of_a.all(|row| !row.neighbour && row.filter_blobs.is_none()))
    }

    /// Gets the blob on C, again and again until it is found or `limit` is over.
    fn seek(&self, trial: &Trial<'_, '_>, hash: &str, limit: Duration) -> Result<Sought, Error> {
        let started = Instant::now();
        let mut gets = 0;
        let receipt = trial.setting.stop.within(limit, SEEK_PAUSE, || {
            gets += 1;
            self.c.home.get(hash, None)
        })?;
        Ok(Sought { receipt, seconds: started.elapsed().as_secs_f64(), gets })
    }

    fn stop(self) -> Result<(), Error> {
        [self.c, self.a, self.b].into_iter().try_for_each(Node::stop)
    }
}
