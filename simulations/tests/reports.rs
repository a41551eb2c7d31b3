//! Reports: one page that needs nothing else, whatever the plan is called and however large the run
//! was.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeSet;
use std::fs;

use blobmesh_simulations::outcome::{FetchRow, NodeRow, Outcome};
use blobmesh_simulations::output::{Record, file};
use blobmesh_simulations::plan::{Plan, Relation};
use blobmesh_simulations::report::{self, Envelope, MeasuredError, Range, Report};
use synthetic::{Cells, Shape, assert, outcome, plan, staged_run, staged_sweep};

#[allow(dead_code, reason = "each test program uses its own part")]
mod synthetic;

fn rendered(plan: &Plan, outcome: &Outcome, envelope: Option<&Envelope>) -> Report {
    let room = tempfile::tempdir().unwrap();
    let place = staged_run(&room.path().join("run"), plan, outcome).publish().unwrap();
    report::render(&Record::open(&place).unwrap(), Some(outcome), envelope)
}

/// Returns every tag of a page by its name, and fails where one is not closed.
fn tags(html: &str) -> BTreeSet<&str> {
    let (mut open, mut names) = (Vec::new(), BTreeSet::new());
    for part in html.split('<').skip(1) {
        let (tag, _) = part.split_once('>').unwrap();
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        names.insert(name);
        match (tag.starts_with('/'), tag.ends_with('/') || name.starts_with('!')) {
            (true, _) => assert_eq!(open.pop(), Some(name), "closed out of order"),
            (false, false) => open.push(name),
            (false, true) => {}
        }
    }
    assert!(open.is_empty(), "never closed: {open:?}");
    names
}

const HOSTILE: &str =
    "</style></title><script>alert(1)</script><img src=x onerror=\"alert(2)\">'\u{202e}";

#[test]
fn a_hostile_plan_cannot_write_markup() {
    let mut plan = plan(HOSTILE, 4);
    plan.about = HOSTILE.to_owned();
    plan.asserts.push(assert("asks", Relation::AtMost, 1.0, HOSTILE));
    let mut outcome = outcome(Shape { nodes: 4, ..Shape::default() });
    for node in &mut outcome.nodes {
        (node.group, node.site) = (HOSTILE.to_owned(), HOSTILE.to_owned());
    }
    outcome.violations = vec![HOSTILE.to_owned()];
    let envelope = Envelope {
        commit: HOSTILE.to_owned(),
        command: HOSTILE.to_owned(),
        cells: 6,
        ranges: vec![Range {
            what: HOSTILE.to_owned(),
            from: HOSTILE.to_owned(),
            to: HOSTILE.to_owned(),
        }],
        errors: vec![MeasuredError {
            metric: HOSTILE.to_owned(),
            median: 0.1,
            worst: 0.2,
            bound: 0.15,
        }],
        replays: Vec::new(),
    };
    let report = rendered(&plan, &outcome, Some(&envelope));

    let names = tags(&report.html);
    assert!(names.is_disjoint(&BTreeSet::from(["script", "img"])), "{names:?}");
    assert!(report.html.contains("&lt;script&gt;alert(1)") && !report.html.contains('\u{202e}'));
    for (_, svg) in &report.pictures {
        assert!(tags(svg).is_disjoint(&BTreeSet::from(["script", "img"])));
    }
}

#[test]
fn hostile_settings_cannot_write_markup_or_file_names() {
    let room = tempfile::tempdir().unwrap();
    let hedges = ["../../etc/passwd", HOSTILE];
    let cells = Cells { nodes: &[4, 8], hedges: &hedges, seeds: 2, slowness: 1.0 };
    let place = staged_sweep(&room.path().join("sweep"), &cells).publish().unwrap();
    let report = report::render(&Record::open(&place).unwrap(), None, None);
    assert!(!tags(&report.html).contains("script"));
    let plain =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    assert!(!report.pictures.is_empty() && report.pictures.iter().all(|(name, _)| plain(name)));
}

#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let report = rendered(&plan("flash-crowd", 40), &outcome(Shape::default()), None);
    assert!(report.html.contains("default-src &#39;none&#39;"));
    for (name, text) in
        report.pictures.iter().map(|(n, t)| (n.as_str(), t)).chain([("page", &report.html)])
    {
        let text = text.replace("http://www.w3.org/2000/svg", "");
        for elsewhere in ["http:", "https:", "src=", "href=", "url(", "@import"] {
            assert!(!text.contains(elsewhere), "{name} has {elsewhere}");
        }
    }
}

#[test]
fn every_picture_is_named_and_described_once() {
    let report = rendered(&plan("flash-crowd", 40), &outcome(Shape::default()), None);
    let names: Vec<&str> = report.pictures.iter().map(|picture| picture.0.as_str()).collect();
    let expected = [
        "finish-cdf.svg",
        "fetch-cdf.svg",
        "bytes-by-tier.svg",
        "finish-heat.svg",
        "edge-heat.svg",
        "gets-open.svg",
        "nodes-up.svg",
    ];
    assert_eq!(names, expected);
    for (name, svg) in &report.pictures {
        let id = name.trim_end_matches(".svg");
        assert!(svg.contains(&format!("aria-labelledby=\"{id}-t {id}-d\"")), "{name}");
        assert_eq!(report.html.matches(&format!("id=\"{id}-t\"")).count(), 1);
        assert!(svg.contains("prefers-color-scheme: dark"), "{name} has no colours of its own");
    }
}

#[test]
fn a_large_run_has_a_small_page() {
    let nodes: Vec<NodeRow> = (0..60_000)
        .map(|index| NodeRow {
            node: format!("runner-{index}"),
            group: format!("group-{}", index % 40),
            site: "hq".to_owned(),
            edge_bytes: index * 7919 % 1000,
            lan_bytes: 1000,
            ..NodeRow::default()
        })
        .collect();
    let fetch = |index: u64| FetchRow {
        node: format!("runner-{}", index % 60_000),
        took_ns: 1_000_000 + index * 7919 % 5_000_000_000,
        ..outcome(Shape { nodes: 1, gets_per_node: 1, ..Shape::default() }).fetches[0].clone()
    };
    let large = Outcome { nodes, fetches: (0..120_000).map(fetch).collect(), ..Outcome::default() };
    let room = tempfile::tempdir().unwrap();
    let small = outcome(Shape::default());
    let place = staged_run(&room.path().join("run"), &plan("large", 40), &small).publish().unwrap();
    let report = report::render(&Record::open(&place).unwrap(), Some(&large), None);
    assert!(report.html.len() < 1_000_000, "{}", report.html.len());
    assert!(report.html.contains("a cell is 6 nodes, the largest of them"));
}

#[test]
fn an_assert_that_fails_is_seen_first() {
    let mut plan = plan("flash-crowd", 40);
    plan.asserts.push(assert("finish.p50", Relation::AtMost, 0.001, "finish.p50 <= 1ms"));
    plan.asserts.push(assert("dht.hops.mean", Relation::AtMost, 9.0, "dht.hops.mean <= 9"));
    let report = rendered(&plan, &outcome(Shape::default()), None);
    assert!(report.html.contains("2 of 5 asserts fail"));
    assert!(report.html.contains("not measured"));
    assert_eq!(report.html.matches("FAILS").count(), 2);
}

#[test]
fn invariants_that_broke_are_listed_up_to_a_bound() {
    let mut broken = outcome(Shape::default());
    broken.violations = (0..30).map(|index| format!("lease {index} was held twice")).collect();
    let html = rendered(&plan("flash-crowd", 40), &broken, None).html;
    assert!(
        html.contains("cell 0, seed 1: lease 19 was held twice") && !html.contains("lease 20 ")
    );
    assert!(html.contains("10 more are in manifest.json."));
}

#[test]
fn a_page_says_what_was_validated_or_that_nothing_was() {
    let (plan, outcome) = (plan("flash-crowd", 40), outcome(Shape::default()));
    assert!(rendered(&plan, &outcome, None).html.contains("Not validated yet"));
    let range = Range { what: "nodes".to_owned(), from: "2".to_owned(), to: "8".to_owned() };
    let error =
        MeasuredError { metric: "finish.p50".to_owned(), median: 0.04, worst: 0.2, bound: 0.15 };
    let envelope = Envelope {
        commit: "abc".to_owned(),
        command: "blobmesh-sim compare a b".to_owned(),
        cells: 6,
        ranges: vec![range],
        errors: vec![error],
        replays: Vec::new(),
    };
    let html = rendered(&plan, &outcome, Some(&envelope)).html;
    assert!(html.contains("blobmesh-sim compare a b") && html.contains("20\u{a0}%"));
    assert!(html.contains("FAILS") && !html.contains("Not validated yet"));
}

#[test]
fn a_run_of_nothing_has_a_page_too() {
    let report = rendered(&plan("empty", 0), &Outcome::default(), None);
    assert!(report.pictures.is_empty());
    assert!(report.html.contains("There is nothing to draw"));
    tags(&report.html);
}

#[test]
fn writing_again_from_the_files_gives_the_same_page() {
    let room = tempfile::tempdir().unwrap();
    let staged =
        staged_run(&room.path().join("run"), &plan("flash-crowd", 40), &outcome(Shape::default()));
    report::write(staged.path(), None).unwrap();
    let first = fs::read(staged.path().join(file::REPORT)).unwrap();
    let place = staged.publish().unwrap();
    report::write(&place, None).unwrap();
    assert_eq!(fs::read(place.join(file::REPORT)).unwrap(), first);
    assert!(place.join("finish-cdf.svg").is_file());
}
