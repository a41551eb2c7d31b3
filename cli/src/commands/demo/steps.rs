//! What the demo shows, step by step.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use blobmesh_node::control::api::{Receipt, TierBytes, Trouble};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::Context;
use super::mesh::Mesh;
use crate::error::CommandError;
use crate::exit;
use crate::output::tiers;
use crate::units::{seconds, short_hash, size};

/// The demo's blobs are made from these: every run has the same hashes, so that a filter's false
/// positive cannot come up by chance.
const SEED_LAN: u64 = 0x5eed_0001;
const SEED_EDGE: u64 = 0x5eed_0002;

/// A hash that no blob of the demo has.
const NOBODY_HAS: &str = "0b0d71ab5e270b0d71ab5e270b0d71ab5e270b0d71ab5e270b0d71ab5e27ffff";

/// Plays the demo and counts what went otherwise.
pub(super) struct Demo<'a> {
    context: &'a Context,
    mesh: &'a mut Mesh,
    bytes: u64,
    hash: String,
    pub(super) steps: usize,
    pub(super) failed: usize,
}

/// The line that ends a get.
#[derive(Deserialize)]
struct Got {
    size: Option<u64>,
    tier: TierBytes,
    seconds: f64,
}

#[derive(Serialize)]
struct Step<'a> {
    step: usize,
    ok: bool,
    hash: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tier: Option<TierBytes>,
    seconds: f64,
    text: &'a str,
}

impl<'a> Demo<'a> {
    pub(super) fn new(context: &'a Context, mesh: &'a mut Mesh, bytes: u64) -> Self {
        Self { context, mesh, bytes, hash: String::new(), steps: 0, failed: 0 }
    }

    /// Starts three nodes in a fresh private mesh, as a user would: `up`, `invite`, `join`, `up`.
    pub(super) async fn start(&mut self) -> Result<(), CommandError> {
        self.say("three nodes and an edge directory on this machine, in a mesh of their own")?;
        let began = Instant::now();
        self.mesh.start("A").await?;
        let invited = self.run("A", &["invite"], "").await?;
        let ticket = text_of(last(&invited), "ticket");
        for name in ["B", "C"] {
            self.run(name, &["join", "-"], &ticket).await?;
            self.mesh.start(name).await?;
        }
        self.mesh.until_acquainted().await?;
        let took = seconds(began.elapsed().as_secs_f64());
        self.say(&format!("  A, B and C serve and know each other after {took}"))
    }

    /// A blob is added on A, and B gets it from A.
    pub(super) async fn get_from_a_peer(&mut self) -> Result<(), CommandError> {
        self.hash = self.add("A", SEED_LAN).await?;
        self.mesh.until_heard("B", "A", 1).await?;
        self.begin_blob("added on A")?;
        let wanted = TierBytes { local: 0, lan: self.bytes, edge: 0 };
        self.get("B", "got by B from A over the LAN", wanted).await
    }

    /// B gets it again.
    pub(super) async fn get_from_the_store(&mut self) -> Result<(), CommandError> {
        let wanted = TierBytes { local: self.bytes, lan: 0, edge: 0 };
        self.get("B", "got again by B from its own store", wanted).await
    }

    /// A blob is pushed to the edge by a node that then is gone, and C gets it.
    pub(super) async fn get_from_the_edge(&mut self) -> Result<(), CommandError> {
        self.hash = self.add("D", SEED_EDGE).await?;
        let push = ["push", &self.hash, "--no-mdns", "--edge", self.mesh.edge()];
        self.run("D", &push, "").await?;
        self.begin_blob("which only the edge has")?;
        let wanted = TierBytes { local: 0, lan: 0, edge: self.bytes };
        self.get("C", "got by C from the edge", wanted).await
    }

    /// B asks for a blob nobody has, and bothers nobody with it.
    pub(super) async fn get_from_nowhere(&mut self) -> Result<(), CommandError> {
        // C got a blob just now, and its new filter may be on its way still.
        self.mesh.until_heard("B", "C", 1).await?;
        NOBODY_HAS.clone_into(&mut self.hash);
        self.say(&format!("blob {}, which nobody has", short_hash(NOBODY_HAS)))?;
        let said = self.mesh.program.run(&self.mesh.place("B"), &["get", NOBODY_HAS], "").await?;
        let why = self.run("B", &["why", NOBODY_HAS], "").await?;
        let receipt: Receipt = understood(&why)?;
        let counts = (receipt.neighbours, receipt.asked.len(), receipt.skipped.len());
        let ok = said.code == Some(i32::from(exit::NOT_FOUND)) && counts == (2, 0, 2);
        let code = said.code.map_or_else(|| "none".to_owned(), |code| code.to_string());
        let (took, lan) = (seconds(receipt.seconds), receipt.lan());
        let text = format!("refused to B in {took}: {lan}; exit code {code}");
        self.end_step(ok, None, receipt.seconds, &text)
    }

    async fn get(&mut self, name: &str, what: &str, wanted: TierBytes) -> Result<(), CommandError> {
        let lines = self.run(name, &["get", &self.hash], "").await?;
        let got: Got = understood(&lines)?;
        let ok = got.tier == wanted && got.size == Some(self.bytes);
        let text = format!("{what}: {}", tiers(got.size, got.seconds, got.tier));
        self.end_step(ok, Some(got.tier), got.seconds, &text)
    }

    fn begin_blob(&self, what: &str) -> Result<(), CommandError> {
        let (hash, bytes) = (short_hash(&self.hash), size(self.bytes));
        self.say(&format!("blob {hash}, {bytes}, {what}"))
    }

    fn end_step(
        &mut self,
        ok: bool,
        tier: Option<TierBytes>,
        seconds: f64,
        text: &str,
    ) -> Result<(), CommandError> {
        self.steps += 1;
        self.failed += usize::from(!ok);
        let mark = if ok { "ok  " } else { "FAIL" };
        self.say(&format!("  {mark}  {text}"))?;
        let (step, hash) = (self.steps, self.hash.as_str());
        self.context.printer.line("step", &Step { step, ok, hash, tier, seconds, text })
    }

    /// Adds a fresh file to the store of `name` and returns the blob's hash.
    async fn add(&self, name: &str, seed: u64) -> Result<String, CommandError> {
        let path = self.mesh.place(&format!("{seed:x}.bin"));
        write_noise(&path, seed, self.bytes)
            .map_err(|error| CommandError::file("write", &path, error))?;
        let lines = self.run(name, &["add", &path.display().to_string()], "").await?;
        let added = lines.iter().find(|line| line["type"] == "added");
        Ok(added.map(|added| text_of(added, "hash")).unwrap_or_default())
    }

    async fn run(
        &self,
        name: &str,
        args: &[&str],
        input: &str,
    ) -> Result<Vec<Value>, CommandError> {
        self.mesh.program.must(&self.mesh.place(name), args, input).await
    }

    fn say(&self, text: &str) -> Result<(), CommandError> {
        self.context.printer.answer(text)
    }
}

fn last(lines: &[Value]) -> &Value {
    lines.last().unwrap_or(&Value::Null)
}

fn text_of(line: &Value, field: &str) -> String {
    line[field].as_str().unwrap_or_default().to_owned()
}

fn understood<T: serde::de::DeserializeOwned>(lines: &[Value]) -> Result<T, CommandError> {
    T::deserialize(last(lines)).map_err(|error| {
        let text = format!("the last line of the demo's command was not understood: {error}");
        CommandError::new(Trouble::Other, text)
    })
}

/// Writes bytes that do not compress: xorshift64.
fn write_noise(path: &Path, seed: u64, len: u64) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    let (mut state, mut left) = (seed, len);
    while left > 0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let bytes = state.to_le_bytes();
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        file.write_all(&bytes[..take])?;
        left = left.saturating_sub(8);
    }
    file.flush()
}
