//! `lan-against-edge`: what a neighbour has comes in a fiftieth of the time that the edge takes.
//!
//! Small blobs one after another: first from a neighbour across an office switch, then from an edge that is
//! 50 ms away, both over connections that are open. Then from a neighbour by nodes that have just started
//! and know no more than its address; and the same from so far away that the round trips of it can be counted. Times
//! are those of receipts: from the command's arrival at the node to the end of the get. What a shell takes to start a
//! command is not in them.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use super::{
    Experiment, Trial, lan,
    office::{self, EDGE_FLAGS, Edge, Original, median, slowest_but_one},
    specs::LATE_SHARE,
};
use crate::{
    netns::{
        client::{Receipt, TierBytes},
        error::Error,
        inside::inside,
        lab::Topology,
        metric::{Bound, MetricSpec, share},
        process::{Home, Node},
        relay::{Layout, Link, Rate},
    },
    random::Random,
};

/// The experiment.
pub static EXPERIMENT: Experiment = Experiment {
    name: "lan-against-edge",
    about: "64 KiB come from a neighbour in a millisecond, and 50 times sooner than from an edge 50 ms away",
    topology: Topology::Relay(layout),
    nodes: 3..=3,
    metrics: &[
        LAN_P50_MS,
        LAN_P99_MS,
        BARE_P50_MS,
        EDGE_P50_MS,
        LAN_GAIN,
        LAN_COLD_MS,
        COLD_ROUND_TRIPS,
        EXISTS_10K_S,
        EXISTS_RIGHT,
        RIGHT_TIER_SHARE,
        LATE_SHARE,
    ],
    run,
};

/// Two wires are between two hosts of the office: 0.1 ms one way. At 1 Gbit/s the bytes of a blob alone would take
/// 0.53 ms and bare TCP 0.93 ms in this lab: hardly anything of a millisecond would be left for a node.
const LINK: Link = Link::new(Rate::mbit(10_000), Duration::from_micros(50));

/// Round trips to the edge take 50 ms, those of the LAN aside.
const UPLINK: Link = Link { down: Some(Rate::mbit(200)), ..Link::slow(Duration::from_millis(25)) };

/// The wire of the host that is far away: any machine's own work is little beside such a round trip.
const FAR: Link = Link::slow(Duration::from_millis(125));
const FAR_ROUND_TRIP_MS: f64 = 250.0;
const FAR_HOST: u8 = 3;
/// What is got from there is so short that TCP's slow start adds no round trip.
const FAR_BLOB_BYTES: u64 = 4 << 10;

/// The length of a blob.
const BLOB_LEN: usize = 64 << 10;
const BLOB_BYTES: u64 = BLOB_LEN as u64;

/// How many gets of each kind are counted.
const LAN_GETS: u8 = 100;
const EDGE_GETS: u8 = 30;
const COLD_GETS: u8 = 5;

/// How many more open the connections, before those over open ones are counted.
const WARM_UP_GETS: u8 = 5;

/// How many hashes `has` is asked for.
const HASHES: u64 = 10_000;

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(30);

const LAN_P50_MS: MetricSpec = MetricSpec {
    name: "lan_p50_ms",
    unit: "ms",
    bound: Some(Bound::AtMost(1.0)),
    about: "the median of 100 gets of 64 KiB from a neighbour, over open connections",
};
const LAN_P99_MS: MetricSpec = MetricSpec {
    name: "lan_p99_ms",
    unit: "ms",
    bound: None,
    about: "the slowest but one of them",
};
const BARE_P50_MS: MetricSpec = MetricSpec {
    name: "bare_p50_ms",
    unit: "ms",
    bound: None,
    about: "the median of 100 times one byte there and 64 KiB back by bare TCP: what the lab itself takes",
};
const EDGE_P50_MS: MetricSpec = MetricSpec {
    name: "edge_p50_ms",
    unit: "ms",
    bound: None,
    about: "the median of 30 gets of 64 KiB from the edge, over open connections",
};
const LAN_GAIN: MetricSpec = MetricSpec {
    name: "lan_gain",
    unit: "ratio",
    bound: Some(Bound::AtLeast(50.0)),
    about: "`edge_p50_ms` over `lan_p50_ms`",
};
const LAN_COLD_MS: MetricSpec = MetricSpec {
    name: "lan_cold_ms",
    unit: "ms",
    bound: Some(Bound::AtMost(5.0)),
    about: "the median of 5 such gets by commands that start a node of their own, which dials first",
};
const COLD_ROUND_TRIPS: MetricSpec = MetricSpec {
    name: "cold_round_trips",
    unit: "count",
    // Four, and not half of one for what machines and relay take meanwhile.
    bound: Some(Bound::AtMost(4.5)),
    about: "the same of 4 KiB by a host whose round trips to the neighbour take 250 ms: the median over that",
};
const EXISTS_10K_S: MetricSpec = MetricSpec {
    name: "exists_10k_s",
    unit: "s",
    bound: Some(Bound::AtMost(0.1)),
    about: "`has` of 10,000 hashes at a running node, its command's start to its end; it asks the store only",
};
const EXISTS_RIGHT: MetricSpec = MetricSpec {
    name: "exists_right",
    unit: "count",
    bound: Some(Bound::Exactly(10_000.0)),
    about: "hashes of these of which it told rightly whether they are held",
};
const RIGHT_TIER_SHARE: MetricSpec = MetricSpec {
    name: "right_tier_share",
    unit: "share",
    bound: Some(Bound::Exactly(1.0)),
    about: "gets of all the above whose bytes all came from the tier that they were to come from",
};

fn layout(nodes: u8) -> Layout {
    let mut layout = office::layout(nodes, LINK, UPLINK);
    if let Some(link) = layout.links_mut().nth(usize::from(FAR_HOST) - 1) {
        *link = FAR;
    }
    layout
}

fn run(trial: &mut Trial<'_, '_>) -> Result<(), Error> {
    let edge = Edge::start(trial)?;
    let most = trial.repeats_max;
    let warm = blobs(LAN_GETS.min(most) + WARM_UP_GETS, 1_000, |seed| {
        Original::new(trial, BLOB_BYTES, seed)
    })?;
    let cold = blobs(COLD_GETS.min(most), 2_000, |seed| Original::new(trial, BLOB_BYTES, seed))?;
    let from_far =
        blobs(COLD_GETS.min(most), 4_000, |seed| Original::new(trial, FAR_BLOB_BYTES, seed))?;
    let far =
        blobs(EDGE_GETS.min(most) + WARM_UP_GETS, 3_000, |seed| edge.put(trial, BLOB_BYTES, seed))?;
    let mut nodes = lan::start_with(trial, 1..=2, "", &EDGE_FLAGS)?;
    let Some(getter) = nodes.pop() else { return Err(Error::NoHost { number: 2 }) };
    let Some(holder) = nodes.first() else { return Err(Error::NoHost { number: 1 }) };
    let files: Vec<_> =
        warm.iter().chain(&cold).chain(&from_far).map(|blob| blob.path.as_path()).collect();
    holder.home.add_all(&files)?;
    lan::know(trial, std::slice::from_ref(&getter), &nodes, files.len() as u64)?;

    let mut gets = Gets::default();
    trial.report.step("gets from a neighbour");
    let near_ms = gets.get_all(&getter.home, &warm, |tier| tier.lan)?;
    let bare_ms = bare_exchanges(trial, LAN_GETS.min(most))?;
    trial.report.step("gets from the edge");
    let far_ms = gets.get_all(&getter.home, &far, |tier| tier.edge)?;
    trial.report.step("10,000 questions to the store");
    let (exists_s, right) = exists(&getter.home, &warm)?;
    getter.stop()?;
    trial.report.step("gets by commands that start a node of their own");
    let cold_ms = cold_gets(trial, 2, holder, &cold, &mut gets)?;
    trial.report.step("the same from far away");
    let from_far_ms = cold_gets(trial, FAR_HOST, holder, &from_far, &mut gets)?;

    let counted = |times: Vec<f64>| times.into_iter().skip(WARM_UP_GETS.into()).collect();
    let (near_ms, far_ms): (Vec<f64>, Vec<f64>) = (counted(near_ms), counted(far_ms));
    let (near, far) = (median(near_ms.clone()), median(far_ms));
    let pace = trial.setting.lab.network()?.counters()?.pace;
    for (metric, value) in [
        (&LAN_P50_MS, near),
        (&LAN_P99_MS, slowest_but_one(near_ms)),
        (&BARE_P50_MS, median(bare_ms)),
        (&EDGE_P50_MS, far),
        (&LAN_GAIN, far / near),
        (&LAN_COLD_MS, median(cold_ms)),
        (&COLD_ROUND_TRIPS, median(from_far_ms) / FAR_ROUND_TRIP_MS),
        (&EXISTS_10K_S, exists_s),
        (&EXISTS_RIGHT, right),
        (&RIGHT_TIER_SHARE, share(gets.right, gets.all)),
        (&LATE_SHARE, share(pace.late_frames, pace.frames)),
    ] {
        trial.report.record(metric, value)?;
    }
    nodes.into_iter().try_for_each(Node::stop)
}

/// Makes so many blobs, each of its own seed.
fn blobs(
    count: u8,
    first_seed: u64,
    make: impl FnMut(u64) -> Result<Original, Error>,
) -> Result<Vec<Original>, Error> {
    (first_seed..).take(count.into()).map(make).collect()
}

/// Counts gets, and those whose bytes all came from where they were to come from.
#[derive(Default)]
struct Gets {
    all: u64,
    right: u64,
}

impl Gets {
    /// Gets blobs one after another; returns the milliseconds of each, NaN of one that failed.
    fn get_all(
        &mut self,
        getter: &Home<'_>,
        blobs: &[Original],
        tier: impl Fn(&TierBytes) -> u64,
    ) -> Result<Vec<f64>, Error> {
        let times = blobs.iter().map(|blob| {
            let receipt = getter.try_get(&blob.hash, None, LIMIT)?;
            Ok(self.judge(receipt, &tier))
        });
        times.collect()
    }

    fn judge(&mut self, receipt: Option<Receipt>, tier: impl Fn(&TierBytes) -> u64) -> f64 {
        self.all += 1;
        let Some(receipt) = receipt else { return f64::NAN };
        self.right += u64::from(receipt.is_all(tier));
        receipt.seconds * 1_000.0
    }
}

/// Exchanges a byte for as many as a blob has between the same two hosts, over a connection that is open;
/// returns the milliseconds of each time.
fn bare_exchanges(trial: &Trial<'_, '_>, count: u8) -> Result<Vec<f64>, Error> {
    let (holder, getter) = (trial.setting.lab.host(1)?, trial.setting.lab.host(2)?);
    let listener = inside(holder, || TcpListener::bind((holder.address, 0)))?;
    let address = listener.local_addr().map_err(Error::system("name a socket"))?;
    let exchange = move || {
        let mut client = TcpStream::connect(address)?;
        let (mut server, _) = listener.accept()?;
        for side in [&client, &server] {
            side.set_nodelay(true)?;
            side.set_read_timeout(Some(LIMIT))?;
            side.set_write_timeout(Some(LIMIT))?;
        }
        let answering = std::thread::spawn(move || {
            let (mut asked, answer) = ([0], vec![7; BLOB_LEN]);
            while server.read_exact(&mut asked).is_ok() && server.write_all(&answer).is_ok() {}
        });
        let (mut answer, mut times) = (vec![0; BLOB_LEN], Vec::new());
        for _ in 0..WARM_UP_GETS + count {
            let started = Instant::now();
            client.write_all(&[1])?;
            client.read_exact(&mut answer)?;
            times.push(started.elapsed().as_secs_f64() * 1_000.0);
        }
        drop(client);
        let _ended = answering.join();
        Ok(times.into_iter().skip(WARM_UP_GETS.into()).collect())
    };
    inside(getter, exchange)
}

/// Gets each blob by a command in a fresh home at a host, which starts a node of its own and knows the holder's
/// address only; returns the milliseconds of each.
fn cold_gets(
    trial: &Trial<'_, '_>,
    host: u8,
    holder: &Node<'_>,
    blobs: &[Original],
    gets: &mut Gets,
) -> Result<Vec<f64>, Error> {
    let (ticket, address) = (holder.home.invite()?, holder.home.multiaddress());
    let times = (1..).zip(blobs).map(|(number, blob)| {
        let home = trial.home(host, &format!("-cold-{number}"))?;
        home.join(&ticket)?;
        let receipt = home.get_alone(&blob.hash, &address, LIMIT)?;
        Ok(gets.judge(receipt, |tier| tier.lan))
    });
    times.collect()
}

/// Asks for many hashes, of which these are held; returns the command's seconds, and of how many it told
/// rightly whether they are.
fn exists(getter: &Home<'_>, held: &[Original]) -> Result<(f64, f64), Error> {
    let mut random = Random::new(1).fork("hashes", 0);
    let mut hashes: Vec<String> = held.iter().map(|blob| blob.hash.clone()).collect();
    while (hashes.len() as u64) < HASHES {
        hashes.push((0..4).map(|_| format!("{:016x}", random.draw())).collect());
    }
    let started = Instant::now();
    let finished = getter.ask_has(&hashes, LIMIT)?;
    let took = started.elapsed();
    let told = Home::has_rows(&finished)?;
    let right = told.iter().zip(0..).filter(|(has, index)| **has == (*index < held.len()));
    Ok((took.as_secs_f64(), share(right.count() as u64, 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn get_from_another_tier_is_not_right_and_one_that_failed_has_no_time() {
        let receipt = |lan, edge| -> Option<Receipt> {
            let tier = format!(r#"{{"local":0,"lan":{lan},"edge":{edge}}}"#);
            let text = format!(r#"{{"size":3,"found":"lan","tier":{tier},"seconds":0.002}}"#);
            serde_json::from_str(&text).unwrap()
        };
        let mut gets = Gets::default();
        assert!((gets.judge(receipt(3, 0), |tier| tier.lan) - 2.0).abs() < 1e-9);
        gets.judge(receipt(0, 3), |tier| tier.lan);
        assert!(gets.judge(None, |tier| tier.lan).is_nan());
        assert_eq!((gets.right, gets.all), (1, 3));
        assert!(!LAN_P50_MS.bound.unwrap().holds(median(vec![0.5, f64::NAN])));
    }
}
