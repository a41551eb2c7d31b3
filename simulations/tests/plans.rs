//! Plans as files: what is read, what is refused and how, what a sweep makes of them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use blobmesh_protocol::Config;
use blobmesh_simulations::plan::{
    Behaviour, BlobSetId, CANNED, Canned, Distribution, FaultKind, GroupId, Nodes, Part, Plan,
    PlanError, Problem, Shape, SiteId, Source, WorkloadKind, cells, reference,
};
use proptest::prelude::*;

const SMALL: &str = "name = \"small\"\n[[group]]\nname = \"node\"\ncount = 3\n";

fn read(text: &str) -> Result<Plan, PlanError> {
    Source::parse("test.toml", text)?.plan()
}

fn good(text: &str) -> Plan {
    read(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn refused(text: &str) -> String {
    match read(text) {
        Ok(plan) => panic!("this is no plan, but was read as {plan:?}\n{text}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn three_lines_are_a_plan_in_an_office() {
    let plan = good(SMALL);
    assert_eq!((plan.name.as_str(), plan.seed, plan.nodes()), ("small", 1, 3));
    assert_eq!(plan.duration, Duration::from_secs(900));
    let [site] = plan.sites.as_slice() else { panic!("one site") };
    assert_eq!(site.name, "office");
    let lognormal = Shape::Lognormal { median: 250_000, sigma: 0.4 };
    assert_eq!(site.latency, Distribution { shape: lognormal, min: 0, max: 1_000_000_000 });
    let uplink = site.uplink.as_ref().expect("an uplink");
    assert_eq!((uplink.up, uplink.down), (Some(62_500_000), Some(62_500_000)));
    let [group] = plan.groups.as_slice() else { panic!("one group") };
    assert_eq!(
        (group.site, group.up, group.down),
        (SiteId(0), Some(125_000_000), Some(125_000_000))
    );
    assert_eq!((&group.cache, &group.session, group.keeps_store), (&None, &None, true));
    assert_eq!((plan.edge, plan.dht), (None, None));
    // Nobody looks for what the plan lacks.
    let engine =
        Config { edge: false, provider_search: false, adverts: false, ..Config::default() };
    assert_eq!(plan.engine, engine);
    assert_eq!(plan.metrics.every, Duration::from_secs(1));
    assert_eq!((plan.sweep.repeat, plan.sweep.axes.len()), (5, 0));
}

const WHOLE: &str = r#"
schema = 1
name = "whole"
about = "everything at once"
seed = 18446744073709551615
duration = "2h"

[[site]]
name = "hq"
latency = "1ms"
loss = 0.01
discovery = "none"
uplink = { bandwidth = "100Mbps", up = "unlimited", latency = { dist = "exponential", mean = "9ms", min = "1ms", max = "1s" }, loss = 0 }

[[site]]
name = "lab"
uplink = "none"

[[group]]
name = "runner"
site = "hq"
count = 10
up = "1MB/s"
disk = "unlimited"
hash = "1GiB/s"
cache = "20GiB"
join = { dist = "uniform", over = "10s" }
session = { dist = "weibull", scale = "10m", shape = 0.5 }
absence = "1m"
keeps_store = false

[group.engine]
edge = false
hedge_initial = "0s"

[[group]]
name = "seeder"
site = "lab"
count = 2

[engine]
neighbours_max = 128
hedge_initial = "20ms"
blob_bytes_max = "1GiB"

[edge]
first_byte = "20ms"
rate_per_connection = "unlimited"
rate = "1Gbps"
error_rate = 0.5

[dht]
k = 8

[[blobs]]
name = "image"
count = 4
size = { dist = "uniform", min = "1MiB", max = "1GiB" }
held_by = [{ group = "seeder", copies = "all" }, { group = "runner", copies = 20, advertised = false }]

[[blobs]]
name = "rest"
size = "1B"
on_edge = false

[[workload]]
kind = "pull_set"
group = "runner"
blobs = "image"
order = "set"
share = 0.5
timeout = "1m"

[[workload]]
name = "pops"
kind = "zipf"
group = "runner"
blobs = "rest"
exponent = 1.5
gets = 7
parallel = 2

[[workload]]
kind = "add"
group = "seeder"
count = 5
size = "1kB"

[[event]]
at = "1m"
for = "30s"
kill = { group = "runner", share = 0.3 }

[[event]]
at = "2m"
partition = { a = "runner/0-4", b = { site = "lab" } }

[[event]]
slow = { group = "runner", count = 3, rate = "1Mbps" }

[[event]]
outage = { uplink = "hq" }

[[event]]
malicious = { group = "runner", nodes = "9", behaviour = "full_filter" }

[metrics]
every = "500ms"

[assert]
fetch.p99 = "<= 20s"
"edge.bytes / unique.bytes" = [">= 1", "<= 1.2"]

[sweep]
repeat = 2
"group.runner.count" = [10, 20]
engine.hedge_initial = ["20ms", "50ms"]
"#;

#[test]
fn every_part_of_a_plan_is_read() {
    let plan = good(WHOLE);
    assert_eq!((plan.seed, plan.duration), (u64::MAX, Duration::from_secs(7_200)));
    let uplink = plan.sites[0].uplink.as_ref().expect("an uplink");
    assert_eq!((uplink.up, uplink.down), (None, Some(12_500_000)));
    assert_eq!(plan.sites[0].latency, Distribution::constant(1_000_000));
    assert_eq!((&plan.sites[0].discovery, &plan.sites[1].uplink), (&None, &None));
    let runner = &plan.groups[0];
    assert_eq!((runner.up, runner.down, runner.disk), (Some(1_000_000), Some(125_000_000), None));
    assert_eq!(runner.join, Distribution::uniform(0, 10_000_000_000));
    let own = runner.engine.as_ref().expect("a configuration of its own");
    assert_eq!((own.edge, own.hedge_initial, own.neighbours_max), (false, Duration::ZERO, 128));
    assert!(plan.engine.edge && plan.engine.provider_search && plan.engine.adverts);
    let image = &plan.blobs[0];
    assert_eq!((image.on_edge, plan.blobs[1].on_edge), (true, false));
    let held: Vec<_> =
        image.held_by.iter().map(|held| (held.group.0, held.copies, held.advertised)).collect();
    assert_eq!(held, [(1, 2, true), (0, 10, false)]);
    assert_eq!(
        plan.workloads[0].kind,
        WorkloadKind::PullSet { blobs: BlobSetId(0), shuffled: false, share: 0.5 }
    );
    assert_eq!(
        plan.workloads[1].kind,
        WorkloadKind::Zipf { blobs: BlobSetId(1), exponent: 1.5, gets: 7 }
    );
    let runners = |part| Nodes::Group { group: GroupId(0), part };
    let kinds: Vec<&FaultKind> = plan.faults.iter().map(|fault| &fault.kind).collect();
    let expected = [
        FaultKind::Kill { nodes: runners(Part::Share(0.3)) },
        FaultKind::Partition { a: runners(Part::Indexes(0..5)), b: Nodes::Site(SiteId(1)) },
        FaultKind::Slow { nodes: runners(Part::Count(3)), rate: 125_000 },
        FaultKind::UplinkOutage { site: SiteId(0) },
        FaultKind::Malicious {
            nodes: runners(Part::Indexes(9..10)),
            behaviour: Behaviour::FullFilter,
        },
    ];
    assert_eq!(kinds, expected.iter().collect::<Vec<_>>());
    let texts: Vec<&str> = plan.asserts.iter().map(|assert| assert.text.as_str()).collect();
    assert_eq!(
        texts,
        ["edge.bytes / unique.bytes >= 1", "edge.bytes / unique.bytes <= 1.2", "fetch.p99 <= 20s"]
    );
    assert_eq!(plan.sweep.axes["group.runner.count"], ["10", "20"]);
    assert_eq!(plan.sweep.axes["engine.hedge_initial"], ["\"20ms\"", "\"50ms\""]);
}

/// What is appended to [`SMALL`], and what the error must be, from the line on.
const REFUSED: &[(&str, &str)] = &[
    (
        "bandwith = \"1Gbps\"",
        "5:1: group.node: unknown key `bandwith`, did you mean `bandwidth`?; allowed: name, count, site",
    ),
    ("flux = 1", "5:1: group.node: unknown key `flux`; allowed: name"),
    ("[engin]\nedge = true", "5:2: unknown key `engin`, did you mean `engine`?"),
    (
        "[engine]\nhedge_inital = \"1ms\"",
        "6:1: engine: unknown key `hedge_inital`, did you mean `hedge_initial`?",
    ),
    ("up = \"-1MB/s\"", "5:6: group.node.up: `-1MB/s` is no rate; write a number and one of bps"),
    ("up = \"0MB/s\"", "5:6: group.node.up: 0MB/s is out of bounds; allowed: more than zero"),
    ("up = \"1bps\"", "5:6: group.node.up: 1bps is out of bounds; allowed: more than zero"),
    ("up = \"1 gbps\"", "5:6: group.node.up: `1 gbps` is no rate, did you mean `1Gbps`?"),
    ("up = 100", "5:6: group.node.up: takes a rate, or \"unlimited\", not a whole number"),
    (
        "join = \"5 min\"",
        "5:8: group.node.join: `5 min` is no time; write a number and one of ns us ms s m h d",
    ),
    ("join = \"400d\"", "5:8: group.node.join: 400d is out of bounds; allowed: up to 366d"),
    (
        "site = \"offce\"",
        "5:8: group.node.site: no `offce` among the sites, did you mean `office`?; there are: office",
    ),
    (
        "[[group]]\nname = \"node\"\ncount = 1",
        "6:8: group.node.name: two groups are named `node`, the first at test.toml:3:8",
    ),
    ("[[group]]\nname = \"No De\"\ncount = 1", "6:8: group.No De.name: `No De` is no name"),
    ("[[group]]\nname = \"7\"\ncount = 1", "6:8: group.7.name: `7` is no name"),
    (
        "[[group]]\nname = \"b\"",
        "5:1: group.b: `count` is missing; it takes a whole number, 1 to 200,000",
    ),
    (
        "[[group]]\nname = \"b\"\ncount = 0",
        "7:9: group.b.count: 0 is out of bounds; allowed: 1 to 200000",
    ),
    (
        "[[group]]\nname = \"b\"\ncount = 199998",
        "7:9: group.b.count: 200001 nodes in all; at most 200000",
    ),
    (
        "[[site]]\nname = \"a\"\nloss = nan",
        "7:8: site.a.loss: NaN is out of bounds; allowed: 0 to 0.99",
    ),
    ("[[site]]\nname = \"a\"\nloss = 1.0", "7:8: site.a.loss: 1 is out of bounds"),
    (
        "[[site]]\nname = \"a\"\n[[site]]\nname = \"b\"",
        "2:1: group.node: `site` is missing, and there is not just one of the sites: a, b",
    ),
    (
        "[[site]]\nname = \"a\"\nlatency = { median = \"1ms\" }",
        "7:11: site.a.latency: `dist` is missing; it takes constant, uniform",
    ),
    (
        "[[site]]\nname = \"a\"\nlatency = { dist = \"lognormal\", median = \"1ms\", sigma = 99 }",
        "7:57: site.a.latency.sigma: 99 is out of bounds; allowed: 0 to 10",
    ),
    (
        "[[site]]\nname = \"a\"\nlatency = { dist = \"lognormal\", median = \"1ms\" }",
        "7:11: site.a.latency: `sigma` is missing",
    ),
    (
        "[[site]]\nname = \"a\"\nlatency = { dist = \"lognormal\", mean = \"1ms\", sigma = 1 }",
        "7:33: site.a.latency: unknown key `mean`, did you mean `median`?; allowed: dist, median, sigma, min, max",
    ),
    (
        "[[site]]\nname = \"a\"\nlatency = { dist = \"log-normal\" }",
        "7:20: site.a.latency.dist: unknown shape `log-normal`, did you mean `lognormal`?",
    ),
    (
        "[[site]]\nname = \"a\"\nlatency = { dist = \"uniform\", min = \"2ms\", max = \"1ms\" }",
        "7:11: site.a.latency: `min` is more than `max`",
    ),
    (
        "[[site]]\nname = \"a\"\nlatency = { dist = \"uniform\", min = \"2ms\", over = \"1ms\" }",
        "7:11: site.a.latency: `over` stands for `max`",
    ),
    (
        "[[site]]\nname = \"a\"\nlatency = { dist = \"uniform\" }",
        "7:11: site.a.latency: `max` is missing",
    ),
    (
        "[[site]]\nname = \"a\"\nlatency = { dist = \"weibull\", scale = \"1s\", shape = 0.01 }",
        "7:53: site.a.latency.shape: 0.01 is out of bounds; allowed: 0.1 to 20",
    ),
    ("[engine]\nedge = true", "6:8: engine.edge: is true, but the plan has no `[edge]`"),
    ("[engine]\nneighbours_max = 0", "6:18: engine.neighbours_max: 0 is out of bounds"),
    (
        "[engine]\nask_timeout = \"0s\"",
        "6:15: engine.ask_timeout: 0s is out of bounds; allowed: more than zero",
    ),
    ("[engine]\nhedge_min = \"2s\"", "5:1: engine: `hedge_min` is more than `hedge_max`"),
    ("[edge]\nerror_rate = 2", "6:14: edge.error_rate: 2 is out of bounds; allowed: 0 to 1"),
    ("[edge]\nrate = \"-1Gbps\"", "6:8: edge.rate: `-1Gbps` is no rate"),
    ("[dht]\nk = 0", "6:5: dht.k: 0 is out of bounds"),
    (
        "[[blobs]]\nname = \"x\"\nsize = \"100GiB\"",
        "7:8: blobs.x.size: 100GiB is out of bounds; allowed: up to 68719476736 bytes",
    ),
    ("[[blobs]]\nname = \"x\"\nsize = \"0B\"", "7:8: blobs.x.size: 0B is out of bounds"),
    (
        "[[blobs]]\nname = \"x\"\nsize = \"1B\"\ncount = 1000000\n[[blobs]]\nname = \"y\"\nsize = \"1B\"",
        "9:1: blobs.y.count: 1000001 blobs in all; at most 1000000",
    ),
    (
        "[[blobs]]\nname = \"x\"\nsize = \"1B\"\non_edge = true",
        "8:11: blobs.x.on_edge: is true, but the plan has no `[edge]`",
    ),
    (
        "[[blobs]]\nname = \"x\"\nsize = \"1B\"\nheld_by = { group = \"nod\" }",
        "8:21: blobs.x.held_by.group: no `nod` among the groups, did you mean `node`?",
    ),
    (
        "[[workload]]\nkind = \"pull\"",
        "6:8: workload.0.kind: unknown kind `pull`; allowed: pull_set, zipf, add, trace",
    ),
    ("[[workload]]\nshare = 1", "5:1: workload.0: `kind` is missing"),
    (
        "[[workload]]\nkind = \"pull_set\"\nexponent = 1",
        "7:1: workload.0: unknown key `exponent`; allowed: kind",
    ),
    (
        "[[workload]]\nkind = \"pull_set\"\nblobs = \"image\"",
        "7:9: workload.0.blobs: no `image` among the blob sets; there are: none",
    ),
    (
        "[[blobs]]\nname = \"x\"\nsize = \"1B\"\n[[workload]]\nkind = \"pull_set\"\nshare = 0",
        "10:9: workload.0.share: 0 is out of bounds; allowed: more than 0",
    ),
    (
        "[[blobs]]\nname = \"x\"\nsize = \"1B\"\n[[workload]]\nkind = \"zipf\"\ngets = 20000000",
        "8:1: workload.0: 60000000 gets in all; at most 20000000",
    ),
    (
        "[[workload]]\nkind = \"add\"\ncount = 1000000\nsize = \"1B\"",
        "5:1: workload.0: 3000000 blobs in all",
    ),
    (
        "[[event]]\nat = \"1s\"",
        "5:1: event.0: needs one of kill, partition, slow, outage, malicious; it has none",
    ),
    (
        "[[event]]\nkill = \"node\"\noutage = \"edge\"",
        "5:1: event.0: needs one of kill, partition, slow, outage, malicious; it has kill and outage",
    ),
    ("[[event]]\nat = \"16m\"\nkill = \"node\"", "6:6: event.0.at: is after the plan's end"),
    (
        "[[event]]\nkill = \"node/1-3\"",
        "6:8: event.0.kill: `1-3` is out of bounds; allowed: two rising numbers from 0 to below 3",
    ),
    (
        "[[event]]\nkill = { group = \"node\", share = 0.1, count = 1 }",
        "6:8: event.0.kill: takes one of `share`, `count` and `nodes`",
    ),
    ("[[event]]\nkill = { site = \"office\", count = 1 }", "6:8: event.0.kill: `site` means all"),
    (
        "[[event]]\nkill = { group = \"node\", share = -0.1 }",
        "6:34: event.0.kill.share: -0.1 is out of bounds",
    ),
    ("[[event]]\nslow = { group = \"node\" }", "6:8: event.0.slow: `rate` is missing"),
    (
        "[[event]]\nmalicious = { behaviour = \"corupt\" }",
        "6:27: event.0.malicious.behaviour: unknown behaviour `corupt`, did you mean `corrupt`?",
    ),
    ("[[event]]\noutage = \"edge\"", "6:10: event.0.outage: the plan has no `[edge]`"),
    ("[metrics]\nevery = \"0s\"", "6:9: metrics.every: 0s is out of bounds"),
    (
        "[metrics]\nevery = \"1us\"",
        "6:9: metrics.every: 900000000 rows of the time series in all; at most 1000000",
    ),
    (
        "[assert]\n\"fetch.p98\" = \"<= 1s\"",
        "6:15: assert.fetch.p98: unknown metric `fetch.p98`, did you mean `fetch.p95`?",
    ),
    ("[assert]\nasks = 5", "6:8: assert.asks: takes a string, as \"<= 20s\", not a whole number"),
    ("[assert]\nasks = \"about 5\"", "6:8: assert.asks: `about 5` begins with none of"),
    (
        "[sweep]\n\"group.node.count\" = 5",
        "6:22: sweep.group.node.count: takes a list of values, not a whole number",
    ),
    ("[sweep]\n\"group.node.count\" = []", "6:22: sweep.group.node.count: has no values"),
    ("[sweep]\nrepeat = 0", "6:10: sweep.repeat: 0 is out of bounds"),
    (
        "[sweep]\n\"sweep.repeat\" = [1]",
        "6:18: sweep.sweep.repeat: the path leads nowhere: `sweep` cannot be varied",
    ),
    ("[sweep]\n\"seed\" = [1]\nseed.x = 2", "7:1: is not TOML"),
    ("[[group]", "5:"),
    ("group = 5", "5:1: group.node: unknown key `group`"),
];

#[test]
fn what_is_wrong_is_told_once_with_its_place_and_what_would_be_right() {
    let mut wrong = Vec::new();
    for (appended, expected) in REFUSED {
        let error = refused(&format!("{SMALL}{appended}\n"));
        if !error.starts_with(&format!("test.toml:{expected}")) || error.contains('\n') {
            wrong.push(format!("for\n{appended}\nthe error is\n{error}\nnot\n{expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_is_wrong_with_the_first_keys_is_told_as_well() {
    for (text, expected) in [
        ("", "test.toml: `name` is missing; it takes a name"),
        ("name = 5", "test.toml:1:8: name: takes a name, not a whole number"),
        ("name = \"a\"", "test.toml: `group` is missing; it takes one `[[group]]`"),
        ("name = \"a\"\ngroup = []", "test.toml:2:9: group: `group` is missing"),
        (
            "name = \"a\"\ngroup = 3",
            "test.toml:2:9: group: takes a list of tables, each under `[[…]]`, not a whole number",
        ),
        ("name = \"a\"\ngroup = [3]", "test.toml:2:10: group.0: takes a table, not a whole number"),
        (
            "name = \"a\"\n[group]\nname = \"b\"",
            "test.toml:2:1: group: takes a list of tables, each under `[[…]]`, not a table",
        ),
        ("name = \"a\"\nschema = 2", "test.toml:2:10: schema: 2 is out of bounds; allowed: 1 to 1"),
        ("name = \"a\"\nseed = -1", "test.toml:2:8: seed: -1 is out of bounds"),
        ("name = \"a\"\nseed = 18446744073709551616", "test.toml:2:8: seed: 18446744073709551616"),
        ("name = \"a\"\nduration = \"0s\"", "test.toml:2:12: duration: 0s is out of bounds"),
        ("name = \"a\"\nname = \"b\"", "test.toml:2:1: is not TOML: duplicate key"),
        (
            "name = \"a\"\nsite = []\n[[group]]\nname = \"b\"\ncount = 1",
            "test.toml:2:8: site: is empty",
        ),
        ("include = [\"x.toml\"]", "test.toml:1:1: include: only a file can include others"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(expected), "for\n{text}\nthe error is\n{error}");
    }
}

fn write(directory: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).expect("a file is written");
    path
}

#[test]
fn an_included_plan_is_laid_under() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::create_dir(directory.path().join("base")).expect("a directory");
    write(
        directory.path(),
        "base/net.toml",
        "seed = 5\n[[site]]\nname = \"hq\"\nlatency = \"1ms\"\nloss = 0.1\n[engine]\nbans_max = 7\nattempts_max = 8\n",
    );
    write(
        directory.path(),
        "base/nodes.toml",
        "include = [\"net.toml\"]\nname = \"base\"\n[[group]]\nname = \"a\"\ncount = 1\n[[group]]\nname = \"b\"\ncount = 2\njoin = { dist = \"lognormal\", median = \"1s\", sigma = 1 }\n[[event]]\nkill = \"a\"\n",
    );
    let top = write(
        directory.path(),
        "top.toml",
        "include = [\"base/nodes.toml\"]\nname = \"top\"\n[[site]]\nname = \"hq\"\nloss = 0.2\n[[group]]\nname = \"b\"\njoin = { dist = \"uniform\", over = \"3s\" }\n[engine]\nattempts_max = 9\n[[event]]\nkill = \"b\"\n",
    );
    let plan = Source::load(&top).and_then(|source| source.plan());
    let plan = plan.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((plan.name.as_str(), plan.seed, plan.nodes()), ("top", 5, 3));
    assert_eq!(
        (plan.sites[0].loss, &plan.sites[0].latency),
        (0.2, &Distribution::constant(1_000_000))
    );
    assert_eq!((plan.engine.bans_max, plan.engine.attempts_max), (7, 9));
    // A distribution is replaced as one; entries without a name are appended.
    assert_eq!(plan.groups[1].join, Distribution::uniform(0, 3_000_000_000));
    assert_eq!(plan.faults.len(), 2);
}

#[test]
fn an_error_in_an_included_plan_names_its_own_file_and_line() {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), "base.toml", "seed = 1\n\nduration = \"five\"\n");
    let top = write(directory.path(), "top.toml", &format!("include = [\"base.toml\"]\n{SMALL}"));
    let error = Source::load(&top).and_then(|source| source.plan()).expect_err("a bad duration");
    assert!(error.file().ends_with("base.toml"), "{error}");
    assert_eq!((error.line(), error.key()), (Some(3), "duration"));
    assert!(matches!(error.problem(), Problem::BadQuantity { .. }), "{error}");
}

#[test]
fn includes_in_a_circle_are_refused_with_the_circle() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = write(directory.path(), "a.toml", "seed = 1\ninclude = [\"b.toml\"]\n");
    write(directory.path(), "b.toml", "include = [\"c.toml\"]\n");
    write(directory.path(), "c.toml", "include = [\"a.toml\"]\n");
    let error = Source::load(&first).expect_err("a circle");
    let told = error.to_string().replace(&directory.path().display().to_string(), "D");
    assert_eq!(
        told,
        "D/c.toml:1:12: include: includes go in a circle: \
         D/a.toml includes D/b.toml includes D/c.toml includes D/a.toml"
    );
}

#[test]
fn a_file_may_be_included_twice_but_not_often() {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), "leaf.toml", "seed = 3\n");
    write(directory.path(), "b.toml", "include = [\"leaf.toml\"]\n");
    write(directory.path(), "c.toml", "include = [\"leaf.toml\"]\n");
    let twice =
        write(directory.path(), "a.toml", &format!("include = [\"b.toml\", \"c.toml\"]\n{SMALL}"));
    assert_eq!(
        Source::load(&twice).and_then(|source| source.plan()).map(|plan| plan.seed).ok(),
        Some(3)
    );
    let often = vec!["\"leaf.toml\""; 40].join(", ");
    let often = write(directory.path(), "often.toml", &format!("include = [{often}]\n{SMALL}"));
    let error = Source::load(&often).expect_err("too many files");
    assert!(error.to_string().contains("33 included files in all; at most 32"), "{error}");
}

#[test]
fn a_file_that_cannot_be_a_plan_is_refused_before_it_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    for (path, expected) in [
        (directory.path().join("absent.toml"), "cannot be read: "),
        (directory.path().to_owned(), "cannot be read: it is no file"),
        (
            write(directory.path(), "large.toml", &"#".repeat(300_000)),
            "is larger than 262144 bytes",
        ),
    ] {
        let error = Source::load(&path).expect_err("no plan");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.file(), path.display().to_string());
    }
    let path = directory.path().join("latin.toml");
    fs::write(&path, b"name = \"\xe4\"").expect("a file is written");
    assert!(Source::load(&path).expect_err("not UTF-8").to_string().contains("not UTF-8"));
}

const TRACED: &str = "[[blobs]]\nname = \"x\"\nsize = \"1B\"\ncount = 2\n[[workload]]\nkind = \"trace\"\nfile = \"gets.csv\"\n";

/// Reads a trace of a plan in a directory.
fn traced(directory: &Path, csv: &str) -> Result<Plan, PlanError> {
    write(directory, "gets.csv", csv);
    Source::load(&write(directory, "plan.toml", &format!("{SMALL}{TRACED}")))?.plan()
}

#[test]
fn a_trace_is_read_in_the_order_of_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let csv = "at,node,blobs,blob\n5s,2,x,1\n# a remark\n 1s , 0, x,0\n5s,1,x,0\n";
    let plan = traced(directory.path(), csv);
    let plan = plan.unwrap_or_else(|error| panic!("{error}"));
    let WorkloadKind::Trace { gets } = &plan.workloads[0].kind else { panic!("a trace") };
    let gets: Vec<_> = gets.iter().map(|get| (get.at.as_secs(), get.node, get.blob)).collect();
    assert_eq!(gets, [(1, 0, 0), (5, 2, 1), (5, 1, 0)]);
}

#[test]
fn a_bad_row_of_a_trace_is_told_with_its_line_and_column() {
    for (csv, expected) in [
        ("", "gets.csv:1:1: the header is ``, not `at,node,blobs,blob`"),
        ("at,node,blob,blobs\n", "gets.csv:1:1: the header is `at,node,blob,blobs`"),
        ("at,node,blobs,blob\n1s,0,x,0\n1,0,x,0\n", "gets.csv:3:1: at: `1` is no time"),
        (
            "at,node,blobs,blob\n1s,3,x,0\n",
            "gets.csv:2:1: node: `3` is out of bounds; allowed: a number from 0 to below 3",
        ),
        ("at,node,blobs,blob\n1s,-1,x,0\n", "gets.csv:2:1: node: `-1` is out of bounds"),
        ("at,node,blobs,blob\n1s,0,y,0\n", "gets.csv:2:1: blobs: no `y` among the blob sets"),
        ("at,node,blobs,blob\n1s,0,x,2\n", "gets.csv:2:1: blob: `2` is out of bounds"),
        ("at,node,blobs,blob\n1s,0,x\n", "gets.csv:2:1: is no CSV"),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let error = traced(directory.path(), csv).expect_err("a bad trace").to_string();
        assert!(error.contains(expected), "for\n{csv}\nthe error is\n{error}");
    }
}

#[test]
fn a_setting_replaces_what_its_path_leads_to() {
    let mut source = Source::parse("whole.toml", WHOLE).expect("a tree");
    for setting in [
        "seed=7",
        "name = renamed",
        "group.runner.count=30",
        "group.runner.engine.hedge_initial=5ms",
        "engine.serves_max=3",
        "edge.error_rate=0.25",
        "workload.pops.gets=9",
        "workload.0.share=1",
        "event.0.kill.share=0.5",
        "site.lab.uplink={ bandwidth = \"1Mbps\" }",
        "metrics.every=2s",
    ] {
        source.set(setting).unwrap_or_else(|error| panic!("{error}"));
    }
    let plan = source.plan().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((plan.seed, plan.name.as_str(), plan.groups[0].count), (7, "renamed", 30));
    let own = plan.groups[0].engine.as_ref().expect("a configuration of its own");
    assert_eq!((own.hedge_initial, own.serves_max), (Duration::from_millis(5), 3));
    assert_eq!(plan.edge.map(|edge| edge.error_rate), Some(0.25));
    assert!(matches!(plan.workloads[1].kind, WorkloadKind::Zipf { gets: 9, .. }));
    assert!(plan.sites[1].uplink.is_some());
}

#[test]
fn a_setting_makes_tables_and_passes_through_the_only_entry_of_a_list() {
    let mut source = Source::parse("small.toml", SMALL).expect("a tree");
    for setting in ["edge.rate=1Gbps", "group.count=9", "group.engine.serves_max=3"] {
        source.set(setting).unwrap_or_else(|error| panic!("{error}"));
    }
    let plan = source.plan().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (plan.groups[0].count, plan.edge.and_then(|edge| edge.rate)),
        (9, Some(125_000_000))
    );
    assert_eq!(plan.groups[0].engine.as_ref().map(|engine| engine.serves_max), Some(3));
}

#[test]
fn a_setting_that_leads_nowhere_or_is_wrong_names_itself() {
    let deep = format!("{}a=1", "a.".repeat(100_000));
    for (setting, expected) in [
        ("seed", "--set seed: is no setting; write PATH=VALUE"),
        (deep.as_str(), "--set a.a.a."),
        ("=5", "--set =5: the path leads nowhere: it has an empty part"),
        (
            "group.ruñner.count=5",
            "--set group.ruñner.count=5: group.ruñner.count: unknown entry `group.ruñner`, did you mean `runner`?",
        ),
        (
            "group.count=5",
            "--set group.count=5: group.count: the path leads nowhere: `group` has 2 entries; say which: runner, seeder",
        ),
        ("group=5", "--set group=5: group: the path leads nowhere: `group` is a list"),
        (
            "event.9.at=5s",
            "--set event.9.at=5s: event.9.at: unknown entry `event.9`; allowed: numbers below 5",
        ),
        (
            "seed.x=5",
            "--set seed.x=5: seed.x: the path leads nowhere: `seed` is a whole number, not a table",
        ),
        (
            "group.runner.count=many",
            "--set group.runner.count=many: group.runner.count: takes a whole number, 1 to 200,000, not a string",
        ),
        (
            "group.runner.cuont=5",
            "--set group.runner.cuont=5: group.runner: unknown key `cuont`, did you mean `count`?",
        ),
        (
            "engine.hedge_initial=-5ms",
            "--set engine.hedge_initial=-5ms: engine.hedge_initial: `-5ms` is no time",
        ),
    ] {
        let mut source = Source::parse("whole.toml", WHOLE).expect("a tree");
        let error = source.set(setting).and_then(|()| source.plan().map(|_| ()));
        let error = error.map_or_else(|error| error.to_string(), |()| "no error".to_owned());
        assert!(error.starts_with(expected), "{setting}: {error}");
    }
    let mut source = Source::parse("small.toml", SMALL).expect("a tree");
    let error = source.set("site.hq.loss=0").expect_err("no site is named").to_string();
    assert!(error.contains("the plan has no `[[site]]`"), "{error}");
}

#[test]
fn a_sweep_is_every_combination_of_its_values() {
    let source = Source::parse("whole.toml", WHOLE).expect("a tree");
    let made = cells(&source).unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<&str> = made.iter().map(|cell| cell.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "engine.hedge_initial=20ms group.runner.count=10",
            "engine.hedge_initial=20ms group.runner.count=20",
            "engine.hedge_initial=50ms group.runner.count=10",
            "engine.hedge_initial=50ms group.runner.count=20",
        ]
    );
    assert_eq!(made[2].plan.engine.hedge_initial, Duration::from_millis(50));
    assert_eq!(made[3].plan.groups[0].count, 20);
    assert!(made[3].plan.sweep.axes.is_empty());
    assert_eq!(made[3].settings[1], ("group.runner.count".to_owned(), "20".to_owned()));
    let source = Source::parse("small.toml", SMALL).expect("a tree");
    let only = cells(&source).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(only.iter().map(|cell| cell.name.as_str()).collect::<Vec<_>>(), ["plan"]);
}

#[test]
fn a_bad_value_of_a_sweep_is_told_at_its_place_in_the_sweep() {
    for (sweep, expected) in [
        ("\"group.node.count\" = [1, 0]", "test.toml:6:26: group.node.count: 0 is out of bounds"),
        ("\"group.nod.count\" = [1]", "test.toml:6:22: group.nod.count: unknown entry `group.nod`"),
        ("\"engine.hedge\" = [\"1s\"]", "test.toml:6:19: engine: unknown key `hedge`"),
        ("\"seed\" = [[1]]", "test.toml:6:11: seed: takes a whole number, not a list"),
    ] {
        let source = Source::parse("test.toml", &format!("{SMALL}[sweep]\n{sweep}\n"));
        let error = cells(&source.expect("a tree")).expect_err("a bad sweep").to_string();
        assert!(error.starts_with(expected), "{sweep}: {error}");
    }
    let many: String = (0..1_001).map(|seed| format!("{seed},")).collect();
    let source = Source::parse("test.toml", &format!("{SMALL}[sweep]\nseed = [{many}]\n"));
    let error = cells(&source.expect("a tree")).expect_err("too many cells").to_string();
    assert!(error.contains("1001 cells in all; at most 1000"), "{error}");
}

#[test]
fn every_canned_plan_says_what_it_asks_and_holds_in_every_cell() {
    for canned in CANNED {
        let source = canned.source().unwrap_or_else(|error| panic!("{error}"));
        let plan = source.plan().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(plan.name, canned.name);
        assert!(plan.about.len() > 40, "{}: {}", canned.name, plan.about);
        assert!(!plan.workloads.is_empty() && !plan.asserts.is_empty(), "{}", canned.name);
        let made = cells(&source).unwrap_or_else(|error| panic!("{error}"));
        assert!(made.len() > 1, "{} has no sweep", canned.name);
        assert!(
            canned.text.lines().all(|line| line.len() <= 125),
            "{} has long lines",
            canned.name
        );
    }
    assert_eq!(Canned::find("bloom").map(|canned| canned.name), Some("bloom"));
    assert_eq!(Canned::find("blom"), None);
}

#[test]
fn the_reference_holds_every_key_that_the_reader_knows() {
    const MARK: &str =
        "<!-- from here on: cargo test -p blobmesh-simulations --test plans, with BLESS=1 -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("PLANS.md");
    let document = fs::read_to_string(&path).expect("PLANS.md");
    let (guide, tables) = document.split_once(MARK).expect("the mark in PLANS.md");
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, format!("{guide}{MARK}\n{}", reference())).expect("PLANS.md is written");
        return;
    }
    let told = tables.trim_start();
    let first = reference()
        .lines()
        .zip(told.lines())
        .find(|(is, told)| is != told)
        .map(|(is, told)| format!("PLANS.md says\n{told}\nand the reader\n{is}"));
    assert!(
        told == reference(),
        "{}",
        first.unwrap_or_else(|| "PLANS.md lacks its end".to_owned())
    );
}

#[test]
fn the_plan_of_the_guide_is_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("PLANS.md");
    let document = fs::read_to_string(path).expect("PLANS.md");
    let plans: Vec<&str> = document
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .filter(|text| text.starts_with("name"))
        .collect();
    assert!(!plans.is_empty());
    plans.into_iter().for_each(|text| drop(good(text)));
}

/// Changes, doubles or loses letters and lines of a plan.
fn mutated() -> impl Strategy<Value = String> {
    let texts: Vec<&'static str> =
        CANNED.iter().map(|canned| canned.text).chain([WHOLE, SMALL]).collect();
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8, any::<char>()), 1..6);
    (prop::sample::select(texts), edits).prop_map(|(text, edits)| {
        edits.into_iter().fold(text.to_owned(), |text, (at, kind, letter)| {
            let mut letters: Vec<char> = text.chars().collect();
            let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
            if letters.is_empty() {
                return text;
            }
            let (line, at) = (at.index(lines.len()), at.index(letters.len()));
            match kind {
                0 => letters[at] = letter,
                1 => letters.insert(at, letter),
                2 => drop(letters.remove(at)),
                3 => letters.truncate(at),
                4 => letters.insert(at, '9'),
                5 => letters.insert(at, '-'),
                6 => {
                    lines.remove(line);
                    return lines.concat();
                }
                _ => {
                    lines.insert(line, lines[line]);
                    return lines.concat();
                }
            }
            letters.into_iter().collect()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_mutated_plan_is_read_or_refused_with_its_file(text in mutated(), setting in ".{0,40}") {
        match Source::parse("test.toml", &text) {
            Ok(mut source) => {
                if let Err(error) = source.plan() {
                    prop_assert!(error.to_string().starts_with("test.toml"), "{error}");
                }
                let _set = source.set(&setting);
                let _plan = source.plan();
            }
            Err(error) => prop_assert!(error.to_string().starts_with("test.toml"), "{error}"),
        }
    }

    #[test]
    fn any_sweep_is_read_or_refused(path in "[a-z.0]{0,30}", values in "\\PC{0,30}") {
        let text = format!("{WHOLE}{path} = [{values}]\n");
        if let Ok(source) = Source::parse("test.toml", &text) {
            let _cells = cells(&source);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        let _plan = read(&text);
    }
}

#[test]
fn every_canned_plan_is_the_same_plan_when_it_is_resolved() {
    for canned in CANNED {
        let mut source = canned.source().unwrap();
        assert_eq!(source.text(), canned.text);
        let plan = source.plan().unwrap();
        source.set(&format!("seed={}", plan.seed)).unwrap();
        let text = source.text();
        assert_ne!(text, canned.text);
        assert_eq!(Source::parse("resolved", &text).unwrap().plan().unwrap(), plan, "{text}");
    }
}
