//! iroh-blobs as a rival: its file store, and direct addresses without relay or discovery.
//!
//! `iroh-peer provide STORE LIST` takes in the files that LIST names, says `ready ID ADDRESS`, serves until
//! stdin ends. `iroh-peer fetch STORE ID ADDRESS` connects, says `ready`, and for each line `get HASH` fetches
//! into its store and says `done`. `iroh-peer ask ID ADDRESS LIST` connects, says `ready`, and for each line
//! `ask FROM COUNT CONCURRENCY` fetches that many of the hashes that LIST names to memory, so many at once,
//! and says `asked SECONDS` and the microseconds of each.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use iroh::endpoint::{Connection, presets};
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode};
use iroh_blobs::api::blobs::{AddPathOptions, ImportMode};
use iroh_blobs::get::request::get_blob;
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::{BlobFormat, BlobsProtocol, Hash, HashAndFormat};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};

/// How many requests go before those that are counted.
const WARM_LEN: usize = 50;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["provide", store, list] => provide(Path::new(store), list).await,
        ["fetch", store, id, address] => fetch(Path::new(store), id, address).await,
        ["ask", id, address, list] => ask(id, address, list).await,
        _ => bail!("provide STORE LIST, fetch STORE ID ADDRESS, or ask ID ADDRESS LIST"),
    }
}

async fn provide(store: &Path, list: &str) -> Result<()> {
    let store = FsStore::load(store).await?;
    for path in std::fs::read_to_string(list)?.lines() {
        let (path, format, mode) = (path.into(), BlobFormat::Raw, ImportMode::TryReference);
        store.blobs().add_path_with_opts(AddPathOptions { path, format, mode }).await?;
    }
    let endpoint = endpoint().await?;
    let id = endpoint.id();
    let address = endpoint.bound_sockets().first().copied().context("no socket")?;
    let router = Router::builder(endpoint)
        .accept(iroh_blobs::ALPN, BlobsProtocol::new(&store, None))
        .spawn();
    println!("ready {id} {address}");
    let mut lines = lines();
    while lines.next_line().await?.is_some() {}
    router.shutdown().await?;
    Ok(())
}

async fn fetch(store: &Path, id: &str, address: &str) -> Result<()> {
    let store = FsStore::load(store).await?;
    let (_endpoint, connection) = connect(id, address).await?;
    println!("ready");
    let mut lines = lines();
    while let Some(line) = lines.next_line().await? {
        let hash: Hash = line.strip_prefix("get ").context("get HASH")?.parse()?;
        store.remote().fetch(connection.clone(), HashAndFormat::raw(hash)).complete().await?;
        println!("done");
    }
    Ok(())
}

async fn ask(id: &str, address: &str, list: &str) -> Result<()> {
    let hashes = std::fs::read_to_string(list)?;
    let hashes: Vec<Hash> = hashes.lines().map(str::parse).collect::<Result<_, _>>()?;
    let (_endpoint, connection) = connect(id, address).await?;
    for hash in hashes.iter().take(WARM_LEN) {
        get_blob(connection.clone(), *hash).bytes().await?;
    }
    println!("ready");
    let mut lines = lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["ask", from, count, concurrency] = words[..] else { bail!("ask FROM COUNT CONCURRENCY") };
        let (from, count): (usize, usize) = (from.parse()?, count.parse()?);
        let wanted = hashes.get(from..from + count).context("not so many hashes")?;
        let started = Instant::now();
        let waits = ask_all(&connection, wanted, concurrency.parse()?).await?;
        let seconds = started.elapsed().as_secs_f64();
        let waits: Vec<String> = waits.iter().map(u128::to_string).collect();
        println!("asked {seconds} {}", waits.join(" "));
    }
    Ok(())
}

async fn ask_all(connection: &Connection, wanted: &[Hash], concurrency: usize) -> Result<Vec<u128>> {
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..concurrency {
        let own: Vec<Hash> = wanted.iter().copied().skip(first).step_by(concurrency).collect();
        let connection = connection.clone();
        tasks.spawn(async move {
            let mut waits = Vec::with_capacity(own.len());
            for hash in own {
                let asked = Instant::now();
                get_blob(connection.clone(), hash).bytes().await?;
                waits.push(asked.elapsed().as_micros());
            }
            anyhow::Ok(waits)
        });
    }
    let mut all = Vec::with_capacity(wanted.len());
    while let Some(waits) = tasks.join_next().await {
        all.extend(waits??);
    }
    Ok(all)
}

async fn connect(id: &str, address: &str) -> Result<(Endpoint, Connection)> {
    let id: EndpointId = id.parse()?;
    let endpoint = endpoint().await?;
    let peer = EndpointAddr::new(id).with_ip_addr(address.parse()?);
    let connection = endpoint.connect(peer, iroh_blobs::ALPN).await?;
    Ok((endpoint, connection))
}

async fn endpoint() -> Result<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal).relay_mode(RelayMode::Disabled);
    Ok(builder.clear_ip_transports().bind_addr("127.0.0.1:0")?.bind().await?)
}

fn lines() -> Lines<BufReader<Stdin>> {
    BufReader::new(tokio::io::stdin()).lines()
}
