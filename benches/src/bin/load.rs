//! Asks a real node for blobs of another, 1, 10, 50 and 100 at once, and tells how long that takes and where the
//! time went.

#![expect(clippy::print_stdout, reason = "the program's answer")]

use std::io;
use std::path::PathBuf;

use blobmesh_benches::content::make_many;
use blobmesh_benches::load::{Load, get_all};
use blobmesh_benches::nodes::BenchNode;
use blobmesh_protocol::Hash;
use clap::Parser;

/// Asks a node for blobs of another, so many at once, and prints waits and where the time went
#[derive(Parser)]
struct Args {
    /// How many gets are under way at once, one level after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 50, 100])]
    at_once: Vec<usize>,
    /// How many gets there are at each level
    #[arg(long, default_value_t = 1_000)]
    gets: usize,
    /// The length of each blob in bytes
    #[arg(long, default_value_t = 65_536)]
    bytes: u64,
    /// Directory in which everything is put; a tmpfs keeps the disk out of it
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    dir: PathBuf,
    /// The built `blobmesh`; the one beside this program where none is named
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Answer in JSON lines, one a level
    #[arg(long)]
    json: bool,
}

fn main() -> io::Result<()> {
    let args = Args::parse();
    let program = match &args.program {
        Some(program) => std::path::absolute(program)?,
        None => std::env::current_exe()?.with_file_name("blobmesh"),
    };
    let room = tempfile::tempdir_in(&args.dir)?;
    let count = u64::try_from(args.at_once.len() * args.gets).map_err(io::Error::other)?;
    let files = make_many(&room.path().join("source"), count, (args.bytes, args.bytes))?;
    let holder = BenchNode::start(&program, &room.path().join("holder"), &[], "any")?;
    holder.add(&files)?;
    let getter_home = room.path().join("getter");
    let getter = BenchNode::start(&program, &getter_home, &[holder.address()?], "any")?;
    let hashes: Vec<Hash> = files.iter().map(|made| made.hash).collect();
    let runtime = tokio::runtime::Runtime::new()?;
    if !args.json {
        println!("{}", Load::heading());
    }
    for (at_once, hashes) in args.at_once.iter().zip(hashes.chunks(args.gets)) {
        let load = runtime.block_on(get_all(&getter.socket(), hashes, (*at_once).max(1)))?;
        match args.json {
            true => println!("{}", serde_json::to_string(&load)?),
            false => println!("{}", load.row()),
        }
    }
    Ok(())
}
