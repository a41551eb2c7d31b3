//! How a get was resolved, for people.

use blobmesh_node::control::api::{DeltaRow, FetchRow, Phases, Receipt, TierBytes, WayRow};

use crate::units::{seconds, short_hash, short_peer, size};

/// Returns the line that ends a get:
/// `got 3f9a1c20be  1.2 GiB in 12.8s  (local 0, lan 1.1 GiB, edge 96 MiB)`.
pub(crate) fn got_line(receipt: &Receipt) -> String {
    format!("got {}  {}", short_hash(&receipt.hash), tiers_of(receipt))
}

/// Returns the line that ends a get of many:
/// `got 10000 blobs, 96.8 MiB in 0.5s  (local 0, lan 96.8 MiB, edge 0)`.
pub(crate) fn got_many_line(got: u64, took_s: f64, tier: TierBytes) -> String {
    let bytes = tier.local.saturating_add(tier.lan).saturating_add(tier.edge);
    format!("got {got} blobs, {}", tiers(Some(bytes), took_s, tier))
}

fn tiers_of(receipt: &Receipt) -> String {
    tiers(receipt.size, receipt.seconds, receipt.tier)
}

/// Returns `1.2 GiB in 12.8s  (local 0, lan 1.1 GiB, edge 96 MiB)`.
pub(crate) fn tiers(bytes: Option<u64>, took_s: f64, tier: TierBytes) -> String {
    format!(
        "{} in {}  (local {}, lan {}, edge {})",
        bytes.map_or_else(|| "?".to_owned(), size),
        seconds(took_s),
        size(tier.local),
        size(tier.lan),
        size(tier.edge),
    )
}

/// Returns the whole receipt: every tier in order, who was asked and skipped, who gave what, and
/// where the time went.
pub(crate) fn receipt_text(receipt: &Receipt) -> String {
    let mut lines = vec![headline(receipt), local_line(receipt)];
    lan_lines(receipt, &mut lines);
    lines.push(dht_line(receipt));
    lines.push(format!("  edge   {}", receipt.edge.as_deref().unwrap_or("not asked")));
    if !receipt.fetches.is_empty() {
        lines.push("fetched from".to_owned());
        lines.extend(receipt.fetches.iter().map(fetch_line));
    }
    lines.extend(receipt.delta.as_ref().map(delta_line));
    lines.push(phases_line(&receipt.phases));
    lines.extend(receipt.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}

fn headline(receipt: &Receipt) -> String {
    let hash = &receipt.hash;
    match receipt.found.as_str() {
        "none" | "" => format!("{hash} was not found, after {}", seconds(receipt.seconds)),
        found => format!("{hash}\nfound: {found}, {}", tiers_of(receipt)),
    }
}

fn local_line(receipt: &Receipt) -> String {
    let held = match (receipt.tier.local, receipt.size) {
        (0, Some(0)) if receipt.found == "local" => "complete".to_owned(),
        (0, _) => "absent".to_owned(),
        (local, Some(size)) if local == size => "complete".to_owned(),
        (local, _) => format!("partial, {} held", size(local)),
    };
    format!("  local  {held}")
}

fn lan_lines(receipt: &Receipt, lines: &mut Vec<String>) {
    if receipt.found == "local" {
        lines.push("  lan    not needed".to_owned());
        return;
    }
    lines.push(format!("  lan    {}", receipt.lan()));
    for asked in &receipt.asked {
        let ms = seconds(asked.ms / 1e3);
        lines.push(format!("           {}  {} in {ms}", short_peer(&asked.peer), asked.answer));
    }
    for peer in &receipt.skipped {
        lines.push(format!("           {}  skipped by its filter", short_peer(peer)));
    }
}

fn dht_line(receipt: &Receipt) -> String {
    let Some(dht) = &receipt.dht else { return "  dht    not asked".to_owned() };
    let providers = match dht.providers {
        1 => "1 provider".to_owned(),
        providers => format!("{providers} providers"),
    };
    let end = if dht.ended { "" } else { ", not waited for" };
    format!("  dht    {providers} in {}{end}", seconds(dht.ms / 1e3))
}

fn fetch_line(fetch: &FetchRow) -> String {
    let FetchRow { source, bytes, outcome, ms, way } = fetch;
    let ms = seconds(ms / 1e3);
    let way = way.as_ref().map(way_text).unwrap_or_default();
    format!("  {:<18}  {:>9}  in {ms}, {outcome}{way}", short_peer(source), size(*bytes))
}

/// Says what an older version gave.
fn delta_line(delta: &DeltaRow) -> String {
    let DeltaRow { base, peer, copied, fetched, beside, outcome, ms } = delta;
    let from = peer.as_deref().map_or_else(|| "nobody".to_owned(), short_peer);
    let (copied, fetched, beside) = (size(*copied), size(*fetched), size(*beside));
    let ms = seconds(ms / 1e3);
    format!(
        "older version {base}\n  {copied} copied from it, {fetched} fetched by the range from {from}, \
         {beside} of list and map, in {ms}: {outcome}"
    )
}

fn way_text(way: &WayRow) -> String {
    let path = match (way.lane_bytes, way.stream_bytes, way.lanes) {
        (0, 0, _) => return String::new(),
        (0, ..) => "over a stream".to_owned(),
        (_, _, 1) => "over 1 lane".to_owned(),
        (_, _, lanes) => format!("over {lanes} lanes"),
    };
    let ms = |ms: f64| seconds(ms / 1e3);
    format!(
        "\n    {path}: connect {}, first byte {}, dial {}, verify {}, write {}",
        ms(way.connect_ms),
        ms(way.answer_ms),
        ms(way.dial_ms),
        ms(way.verify_ms),
        ms(way.write_ms),
    )
}

fn phases_line(phases: &Phases) -> String {
    format!(
        "phases: local {}, find {}, first group {}, transfer {}, store {}",
        seconds(phases.local_s),
        seconds(phases.find_s),
        seconds(phases.first_group_s),
        seconds(phases.transfer_s),
        seconds(phases.store_s),
    )
}

#[cfg(test)]
mod tests {
    use blobmesh_node::control::api::{AskedRow, DhtRow};

    use super::*;

    #[test]
    fn way_of_the_bytes_is_told_with_the_time_it_took() {
        let way = WayRow {
            lanes: 2,
            lane_bytes: 1 << 20,
            stream_bytes: 65_536,
            verify_ms: 1.5,
            ..WayRow::default()
        };
        let text = way_text(&way);
        assert!(text.contains("over 2 lanes: ") && text.contains("verify 1.50 ms"), "{text}");
        let stream = WayRow { lanes: 0, lane_bytes: 0, ..way };
        assert!(way_text(&stream).contains("over a stream: "));
        assert_eq!(way_text(&WayRow::default()), "");
    }

    const PEER: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";

    #[test]
    fn got_line_names_bytes_time_and_tiers() {
        let receipt = Receipt {
            hash: "3f9a1c20be".repeat(7)[..64].to_owned(),
            size: Some(1_288_490_189),
            seconds: 12.84,
            tier: TierBytes { local: 0, lan: 1_181_116_007, edge: 96 << 20 },
            ..Receipt::default()
        };
        assert_eq!(
            got_line(&receipt),
            "got 3f9a1c20be  1.2 GiB in 12.8s  (local 0, lan 1.1 GiB, edge 96 MiB)"
        );
    }

    #[test]
    fn receipt_of_a_blob_nobody_has_tells_that_nobody_was_asked() {
        let receipt = Receipt {
            hash: "ab".repeat(32),
            found: "none".to_owned(),
            seconds: 0.0021,
            neighbours: 2,
            skipped: vec![PEER.to_owned(), "12D3short".to_owned()],
            edge: Some("404".to_owned()),
            ..Receipt::default()
        };
        let expected = format!(
            "{} was not found, after 2.10 ms\n  \
               local  absent\n  \
               lan    asked 0 of 2 peers: both filters rule it out\n           \
                        12D3KooWEyoppNCU..  skipped by its filter\n           \
                        12D3short  skipped by its filter\n  \
               dht    not asked\n  \
               edge   404\n\
             phases: local 0.00 ms, find 0.00 ms, first group 0.00 ms, transfer 0.00 ms, store 0.00 ms",
            "ab".repeat(32)
        );
        assert_eq!(receipt_text(&receipt), expected);
    }

    #[test]
    fn older_version_is_told_with_what_it_gave() {
        let delta = DeltaRow {
            base: "old.img".to_owned(),
            peer: Some(PEER.to_owned()),
            copied: 3 << 20,
            fetched: 5 << 10,
            beside: 1 << 10,
            outcome: "whole".to_owned(),
            ms: 12.0,
        };
        let receipt = Receipt { delta: Some(delta), ..Receipt::default() };
        let text = receipt_text(&receipt);
        let line = "  3 MiB copied from it, 5 KiB fetched by the range from 12D3KooWEyoppNCU.., \
                    1 KiB of list and map, in 12 ms: whole";
        assert!(text.contains("older version old.img\n") && text.contains(line), "{text}");
    }

    #[test]
    fn receipt_of_a_mixed_get_tells_each_source() {
        let receipt = Receipt {
            hash: "ab".repeat(32),
            size: Some(4096),
            found: "dht".to_owned(),
            tier: TierBytes { local: 1024, lan: 1024, edge: 2048 },
            neighbours: 1,
            asked: vec![AskedRow { peer: PEER.to_owned(), answer: "have".to_owned(), ms: 0.4 }],
            fetches: vec![FetchRow {
                source: "edge".to_owned(),
                bytes: 2048,
                outcome: "complete".to_owned(),
                ms: 31.0,
                way: None,
            }],
            dht: Some(DhtRow { providers: 1, ms: 3.0, ended: false }),
            notes: vec!["the edge was asked after 250 ms without a holder".to_owned()],
            ..Receipt::default()
        };
        let text = receipt_text(&receipt);
        for line in [
            "found: dht, 4 KiB in 0.00 ms  (local 1 KiB, lan 1 KiB, edge 2 KiB)",
            "  local  partial, 1 KiB held",
            "  lan    asked 1 of 1 peer",
            "           12D3KooWEyoppNCU..  have in 0.40 ms",
            "  dht    1 provider in 3.00 ms, not waited for",
            "  edge                    2 KiB  in 31 ms, complete",
            "note: the edge was asked after 250 ms without a holder",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
