//! `status`: the running node.

use std::collections::BTreeMap;
use std::path::Path;

use blobmesh_node::control::api::{Answer, Request, Status};
use serde::Serialize;

use super::{Context, unexpected};
use crate::error::CommandError;
use crate::session::Need;
use crate::units::{count, seconds, size};

pub(super) async fn run(context: &Context) -> Result<(), CommandError> {
    let answer = context.ask(Need::RunningNode, Request::Status, "status").await?;
    let Answer::Status(status) = answer else { return Err(unexpected(&answer)) };
    context.printer.line("summary", &Summary::of(&status))?;
    context.printer.answer(text(&status))
}

/// The status for programs: as the node gives it, but for `version`, which is that of the line.
#[derive(Serialize)]
struct Summary<'a> {
    command: &'static str,
    program: &'a str,
    pid: u32,
    peer: &'a str,
    addresses: &'a [String],
    uptime_s: u64,
    home: &'a Path,
    mesh: Option<&'a str>,
    edge: Option<&'a str>,
    mdns: bool,
    peers: u64,
    blobs: u64,
    bytes: u64,
    bytes_max: u64,
    counters: BTreeMap<&'a str, u64>,
}

impl<'a> Summary<'a> {
    fn of(status: &'a Status) -> Self {
        Self {
            command: "status",
            program: &status.version,
            pid: status.pid,
            peer: &status.peer,
            addresses: &status.addresses,
            uptime_s: status.uptime_s,
            home: &status.home,
            mesh: status.mesh.as_deref(),
            edge: status.edge.as_deref(),
            mdns: status.mdns,
            peers: status.peers,
            blobs: status.blobs,
            bytes: status.bytes,
            bytes_max: status.bytes_max,
            counters: status.counters.iter().map(|(name, count)| (name.as_str(), *count)).collect(),
        }
    }
}

fn text(status: &Status) -> String {
    let on = |on: bool| if on { "on" } else { "off" };
    let uptime = std::time::Duration::from_secs(status.uptime_s).as_secs_f64();
    let mesh = status.mesh.as_deref().unwrap_or("open to everybody");
    let mut lines = vec![
        format!("node      {}", status.peer),
        format!("version   {}, pid {}, up {}", status.version, status.pid, seconds(uptime)),
        format!("home      {}", status.home.display()),
        format!("mesh      {mesh}"),
        format!("edge      {}", status.edge.as_deref().unwrap_or("none")),
        format!("mdns      {}", on(status.mdns)),
        format!("peers     {}", status.peers),
        format!(
            "store     {}, {} of {}",
            count(status.blobs, "blob"),
            size(status.bytes),
            size(status.bytes_max)
        ),
    ];
    lines.extend(status.addresses.iter().map(|address| format!("address   {address}")));
    lines.extend(status.counters.iter().map(|(name, value)| format!("{name}  {value}")));
    lines.join("\n")
}
