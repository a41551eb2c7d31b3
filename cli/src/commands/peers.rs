//! `peers`: who the running node is connected with.

use std::time::Duration;

use blobmesh_node::control::api::{Answer, PeerRow, Request};
use serde::Serialize;

use super::{Context, unexpected};
use crate::error::CommandError;
use crate::output::table;
use crate::session::Need;
use crate::units::{count, seconds, size};

#[derive(Serialize)]
struct Summary {
    command: &'static str,
    peers: usize,
}

pub(super) async fn run(context: &Context) -> Result<(), CommandError> {
    let answer = context.ask(Need::RunningNode, Request::Peers, "peers").await?;
    let Answer::Peers { peers } = answer else { return Err(unexpected(&answer)) };
    for peer in &peers {
        context.printer.line("peer", peer)?;
    }
    context.printer.line("summary", &Summary { command: "peers", peers: peers.len() })?;
    if !peers.is_empty() {
        let rows: Vec<_> = peers.iter().map(row).collect();
        let header = ["PEER", "KIND", "FILTER", "RTT", "IN", "OUT", "ADDRESS"];
        context.printer.answer(table(header, &rows))?;
    }
    context.printer.status(count(peers.len(), "peer"));
    Ok(())
}

fn row(peer: &PeerRow) -> [String; 7] {
    let rtt = peer.rtt_us.map(|us| seconds(Duration::from_micros(us).as_secs_f64()));
    [
        peer.peer.clone(),
        if peer.neighbour { "neighbour" } else { "peer" }.to_owned(),
        peer.filter_blobs.map_or_else(|| "none".to_owned(), |blobs| count(blobs, "blob")),
        rtt.unwrap_or_default(),
        size(peer.bytes_in),
        size(peer.bytes_out),
        peer.address.clone(),
    ]
}
