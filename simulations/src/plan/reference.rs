//! The reference of plans: every key in tables, made of what the reader knows.

use std::fmt::Write;

use super::read;
use super::read::{blobs, distribution, engine, event, places, sweep, workload};
use super::section::{Default, Key, Keys};
use super::units::Quantity;
use crate::outcome::METRICS;

/// The tables in the order of the document; `[engine]` has a form of its own.
const TABLES: &[&[&Keys]] = &[
    &[&read::PLAN, &places::SITE, &places::UPLINK, &places::GROUP],
    &[&engine::ENGINE],
    &[&places::EDGE, &places::DHT, &blobs::BLOBS, &blobs::HELD_BY],
    &[&workload::PULL_SET, &workload::ZIPF, &workload::ADD, &workload::TRACE],
    &[
        &event::EVENT,
        &event::NODES,
        &event::PARTITION,
        &event::SLOW,
        &event::OUTAGE,
        &event::MALICIOUS,
    ],
    &[&read::METRICS_KEYS, &sweep::SWEEP],
];

const SHAPES: &[&Keys] = &[
    &distribution::CONSTANT,
    &distribution::UNIFORM,
    &distribution::LOGNORMAL,
    &distribution::EXPONENTIAL,
    &distribution::WEIBULL,
];

/// Returns the reference as Markdown, as `PLANS.md` holds it.
pub fn reference() -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _written = write_reference(&mut text);
    text
}

fn write_reference(text: &mut String) -> std::fmt::Result {
    writeln!(text, "| quantity | units |\n|---|---|")?;
    for (name, quantity) in
        [("time", Quantity::Time), ("size", Quantity::Size), ("rate", Quantity::Rate)]
    {
        writeln!(text, "| {name} | {} |", quantity.unit_names())?;
    }
    for shape in SHAPES {
        write_table(text, &format!("`dist = \"{}\"`", shape.header), shape)?;
    }
    for keys in TABLES.iter().flat_map(|tables| tables.iter()) {
        let title = if keys.header.starts_with("the ") {
            keys.header.to_owned()
        } else {
            format!("`{}`", keys.header)
        };
        if keys.header == engine::ENGINE.header {
            write_engine(text, &title, keys)?;
        } else {
            write_table(text, &title, keys)?;
        }
    }
    write_metrics(text)
}

fn write_metrics(text: &mut String) -> std::fmt::Result {
    writeln!(
        text,
        "\n### `[assert]`\n\nA key is a metric or one over another, as `\"edge.bytes / unique.bytes\"`; its \
         value is one of `<= >= == < >` and a time, a size or a bare number, whichever is the metric's \
         unit, or a list of such. `==` is equal to nine digits.\n"
    )?;
    writeln!(text, "| metric | unit | what it is |\n|---|---|---|")?;
    for (name, unit, about) in METRICS {
        writeln!(text, "| `{name}` | {unit} | {about} |")?;
    }
    Ok(())
}

fn write_table(text: &mut String, title: &str, keys: &Keys) -> std::fmt::Result {
    writeln!(text, "\n### {title}\n\n{}\n", keys.about)?;
    writeln!(text, "| key | takes | default | what it is |\n|---|---|---|---|")?;
    for Key { name, takes, default, about } in keys.iter() {
        let default = match default {
            Default::Required => "required".to_owned(),
            Default::Toml(text) => format!("`{text}`"),
            Default::Says(words) => (*words).to_owned(),
        };
        writeln!(text, "| `{name}` | {takes} | {default} | {about} |")?;
    }
    Ok(())
}

fn write_engine(text: &mut String, title: &str, keys: &Keys) -> std::fmt::Result {
    writeln!(text, "\n### {title}\n\n{}\n", keys.about)?;
    writeln!(text, "| key | takes | default |\n|---|---|---|")?;
    for (Key { name, takes, .. }, default) in keys.iter().zip(engine::defaults()) {
        writeln!(text, "| `{name}` | {takes} | {default} |")?;
    }
    Ok(())
}
