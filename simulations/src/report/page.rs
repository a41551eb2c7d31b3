//! The page: what came of it first, then how it went, then what it was.

use super::PALETTE;
use super::chart::Chart;
use super::envelope::Envelope;
use super::format::Unit;
use super::markup::{Markup, shortened};
use super::tables;
use crate::output::{Kind, Manifest, Record};

const STYLE: &str = include_str!("page.css");
/// Nothing is fetched and no script runs, whatever a plan's text may try.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
/// How much of a plan is shown; the manifest has it whole.
const PLAN_LETTERS_MAX: usize = 50_000;
/// How many broken invariants are listed.
const VIOLATIONS_MAX: usize = 20;

/// What a reader must know to judge the numbers.
const MODELLED: [(&str, &str); 2] = [
    (
        "Real",
        "Each node runs the engine that ships, with its configuration and its messages as bytes of the wire \
         format. Every decision is the engine's: whom to ask, what to fetch from whom, when to go to the edge.",
    ),
    (
        "Modelled",
        "Around it are models: links with delay, loss, slow start and rates that flows share fairly; stores, \
         disks and processors that take time; the edge; lookups in the DHT. There is no kernel, no TLS and no \
         other traffic. simulations/README.md says how each is modelled.",
    ),
];

pub(super) fn page(record: &Record, charts: &[Chart], envelope: Option<&Envelope>) -> String {
    let manifest = &record.manifest;
    let mut html = Markup::default();
    html.raw("<!doctype html>\n");
    html.open("html", &[("lang", &"en")]);
    head(&mut html, manifest);
    html.open("body", &[]);
    html.open("main", &[]);
    title(&mut html, manifest);
    tables::asserts(&mut html, manifest);
    violations(&mut html, manifest);
    html.open("section", &[("class", &"charts"), ("aria-label", &"Pictures")]);
    for chart in charts {
        let class = if chart.tall { "tall" } else { "wide" };
        html.open("figure", &[("id", &chart.name), ("class", &class)]);
        html.append(chart.inline());
        html.close("figure");
    }
    html.close("section");
    if charts.is_empty() {
        html.leaf(
            "p",
            &[("class", &"note")],
            "There is nothing to draw: the run kept no rows, or nothing varied.",
        );
    }
    match manifest.kind {
        Kind::Run => tables::metrics(&mut html, record),
        Kind::Sweep => tables::cells(&mut html, record),
    }
    validated(&mut html, envelope);
    modelled(&mut html);
    facts(&mut html, manifest);
    plan(&mut html, manifest);
    html.close("main");
    html.close("body");
    html.close("html");
    html.as_str().to_owned()
}

fn head(html: &mut Markup, manifest: &Manifest) {
    html.open("head", &[]);
    html.empty("meta", &[("charset", &"utf-8")]);
    html.empty("meta", &[("http-equiv", &"Content-Security-Policy"), ("content", &POLICY)]);
    html.empty(
        "meta",
        &[("name", &"viewport"), ("content", &"width=device-width, initial-scale=1")],
    );
    html.empty("meta", &[("name", &"color-scheme"), ("content", &"light dark")]);
    html.leaf("title", &[], &format!("{} – blobmesh-sim", shortened(&manifest.name, 80)));
    html.open("style", &[]);
    html.raw(PALETTE);
    html.raw(STYLE);
    html.close("style");
    html.close("head");
}

fn title(html: &mut Markup, manifest: &Manifest) {
    html.open("header", &[]);
    html.leaf("h1", &[], &shortened(&manifest.name, 80));
    html.leaf("p", &[("class", &"about")], &shortened(&manifest.about, 400));
    let what = match manifest.kind {
        Kind::Run => format!("seed {}", manifest.seed),
        Kind::Sweep => format!("{} runs", manifest.runs.len()),
    };
    let nodes = Unit::Count.show(manifest.nodes as f64);
    let time = Unit::Seconds.show(manifest.virtual_seconds);
    let wall = Unit::Seconds.show(manifest.wall_seconds);
    let up_to = if manifest.kind == Kind::Sweep { "up to " } else { "" };
    let line = format!("{what} · {up_to}{nodes} nodes · {up_to}{time} simulated in {wall}");
    html.leaf("p", &[("class", &"line")], &line);
    html.close("header");
    if !manifest.complete {
        let text = "The plan's duration cut gets short that were under way: times of the slowest \
            are too low.";
        html.leaf("p", &[("class", &"warning")], text);
    }
}

fn violations(html: &mut Markup, manifest: &Manifest) {
    let all =
        || manifest.runs.iter().flat_map(|run| run.violations.iter().map(move |text| (run, text)));
    let count = all().count();
    if count == 0 {
        return;
    }
    html.open("section", &[("class", &"broken")]);
    html.leaf("h2", &[], "Invariants that did not hold");
    html.open("ul", &[]);
    for (run, text) in all().take(VIOLATIONS_MAX) {
        html.leaf(
            "li",
            &[],
            &format!("cell {}, seed {}: {}", run.cell, run.seed, shortened(text, 400)),
        );
    }
    html.close("ul");
    if count > VIOLATIONS_MAX {
        html.leaf("p", &[], &format!("{} more are in manifest.json.", count - VIOLATIONS_MAX));
    }
    html.close("section");
}

fn validated(html: &mut Markup, envelope: Option<&Envelope>) {
    html.open("section", &[("id", &"validation")]);
    html.leaf("h2", &[], "How far to trust it");
    match envelope {
        None => html.leaf(
            "p",
            &[],
            "Not validated yet: these numbers were not compared with real nodes. Take them as a comparison of \
             cells among each other, not as a forecast.",
        ),
        Some(envelope) => tables::envelope(html, envelope),
    }
    html.close("section");
}

fn modelled(html: &mut Markup) {
    html.open("section", &[]);
    html.leaf("h2", &[], "What is real, what is modelled");
    html.open("dl", &[("class", &"prose")]);
    for (term, text) in MODELLED {
        html.leaf("dt", &[], term);
        html.leaf("dd", &[], text);
    }
    html.close("dl");
    html.close("section");
}

fn facts(html: &mut Markup, manifest: &Manifest) {
    let bytes = |bytes: Option<u64>| {
        bytes.map_or_else(|| "unknown".to_owned(), |bytes| Unit::Bytes.show(bytes as f64))
    };
    let mut facts = vec![
        ("Commit", manifest.commit.clone()),
        ("Event log", format!("{} (BLAKE3)", manifest.event_log_hash)),
        (
            "Events",
            format!(
                "{}, {} a second",
                show(manifest.events as f64),
                show(manifest.events_per_second)
            ),
        ),
        ("Peak memory", bytes(manifest.memory_peak_bytes)),
    ];
    if manifest.kind == Kind::Run {
        facts.push(("Memory per node", bytes(manifest.memory_per_node_bytes)));
    }
    facts.push(("All gets ended", if manifest.complete { "yes" } else { "no" }.to_owned()));
    html.open("section", &[]);
    html.leaf("h2", &[], "What was run");
    html.open("dl", &[("class", &"facts")]);
    for (term, text) in facts {
        html.leaf("dt", &[], term);
        html.leaf("dd", &[], &shortened(&text, 200));
    }
    html.close("dl");
    html.close("section");
}

fn show(count: f64) -> String {
    Unit::Count.show(count)
}

fn plan(html: &mut Markup, manifest: &Manifest) {
    html.open("details", &[]);
    html.leaf("summary", &[], "The plan");
    html.leaf("pre", &[("tabindex", &0)], &shortened(&manifest.plan, PLAN_LETTERS_MAX));
    html.close("details");
}
