//! The arguments, as clap reads them; nothing here is checked against the world.

use std::ffi::OsString;
use std::path::PathBuf;

use blobmesh_node::control::api::CheckoutOptions;
use clap::builder::Resettable;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::exit;

/// The arguments that a variable of the environment may stand for. An empty one counts as not set, as everywhere.
const BY_VARIABLE: [(&str, &str); 2] = [("home", "BLOBMESH_HOME"), ("config", "BLOBMESH_CONFIG")];

/// Reads the arguments.
///
/// # Errors
/// Also for `--help` and `--version`, which are errors to clap.
pub(crate) fn parse(argv: &[OsString]) -> Result<Arguments, clap::Error> {
    let mut command = command();
    for (argument, variable) in BY_VARIABLE {
        if std::env::var_os(variable).is_some_and(|value| value.is_empty()) {
            command = command.mut_arg(argument, |argument| argument.env(Resettable::Reset));
        }
    }
    Arguments::from_arg_matches(&command.try_get_matches_from(argv)?)
}

/// Returns the command with all that is not derived.
pub(crate) fn command() -> clap::Command {
    Arguments::command().after_help(exit::help())
}

/// Peer-to-peer blob mesh: gets a blob from the local store, a LAN peer or the edge, in this order.
#[derive(Debug, Parser)]
#[command(name = "blobmesh", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The flags every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Directory of one node's identity, store, socket and configuration
    #[arg(long, global = true, env = "BLOBMESH_HOME", value_name = "DIR", hide_env_values = true)]
    pub(crate) home: Option<PathBuf>,
    /// Configuration file [default: config.toml in the home directory]
    #[arg(
        long,
        global = true,
        env = "BLOBMESH_CONFIG",
        value_name = "FILE",
        hide_env_values = true
    )]
    pub(crate) config: Option<PathBuf>,
    /// Answer in JSON lines, each with a `type` and a `version`
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say only what went wrong
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Log more; up to three times (BLOBMESH_LOG takes filters such as `blobmesh_node=debug`)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// When to colour
    #[arg(long, global = true, value_enum, default_value_t = ColorWhen::Auto, value_name = "WHEN")]
    pub(crate) color: ColorWhen,
    /// Never draw progress bars
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
}

/// Says when to colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the node in the foreground
    Up(UpArgs),
    /// Add files and directories to the store and print their hashes
    Add(AddArgs),
    /// Get blobs from the first tier that has them
    Get(GetArgs),
    /// Get a blob and write its bytes to stdout
    Cat(CatArgs),
    /// Make a directory hold a tree of the store
    Checkout(CheckoutArgs),
    /// Fetch what is missing of a tree, and make a directory hold it
    Pull(PullArgs),
    /// Tell which blobs are in the store, without fetching
    Has(HashesArgs),
    /// Get blobs and trees ahead, while nobody waits for other bytes
    Prefetch(PrefetchArgs),
    /// List the blobs of the store
    Ls,
    /// List what is in a directory that was added, by its hash
    Tree(TreeArgs),
    /// Remove blobs from the store
    Rm(RmArgs),
    /// Protect blobs from eviction
    Pin(HashesArgs),
    /// End the protection from eviction
    Unpin(HashesArgs),
    /// Upload blobs to the edge
    Push(PushArgs),
    /// List the peers of the running node
    Peers,
    /// Describe the running node
    Status,
    /// Explain how the last get of a blob was resolved
    Why(WhyArgs),
    /// Show what the edge was spared, day by day
    Savings(SavingsArgs),
    /// Hash blobs of the store again: all, or those named
    Verify(VerifyArgs),
    /// Evict down to the store's bound and clear what was left over
    Gc,
    /// Print a ticket with which other machines join this mesh
    Invite,
    /// Join the mesh of a ticket, read from a prompt, `-` (stdin) or BLOBMESH_TICKET
    Join(JoinArgs),
    /// Show the configuration
    Config(ConfigArgs),
    /// Check what makes nodes fail first: store, ports, multicast, clock, edge
    Doctor(DoctorArgs),
    /// Show the main job with three nodes and an edge directory on this machine
    Demo(DemoArgs),
    /// Print the completions for a shell
    Completions(CompletionsArgs),
}

/// The settings of a node that may be given as flags.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Node options")]
pub(crate) struct NodeArgs {
    /// Address to listen on: a multiaddress or HOST:PORT; repeatable
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<String>,
    /// Address of a peer to stay connected with; repeatable
    #[arg(long, value_name = "MULTIADDR")]
    pub(crate) peer: Vec<String>,
    /// Neither announce this node by mDNS nor look for others
    #[arg(long)]
    pub(crate) no_mdns: bool,
    /// Do not advertise blobs in the DHT
    #[arg(long)]
    pub(crate) no_adverts: bool,
    /// The edge: dir:PATH, https://…, or s3://BUCKET?endpoint=…
    #[arg(long, value_name = "URL")]
    pub(crate) edge: Option<String>,
    /// Certificates in PEM to check the edge's by, instead of the system's
    #[arg(long, value_name = "FILE")]
    pub(crate) edge_ca: Option<String>,
    /// By which HTTP the edge is read: auto, 1, 2 or 3
    #[arg(long, value_name = "VERSION")]
    pub(crate) edge_http: Option<String>,
    /// The kind of machine this is: office, or ci, which fetches nothing that was not asked for
    #[arg(long, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// Run without a mesh key, open to everybody who can connect
    #[arg(long)]
    pub(crate) open: bool,
}

/// Runs the node.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// File to write once the node serves: JSON with peer, addresses and pid
    #[arg(long, value_name = "PATH")]
    pub(crate) ready_file: Option<PathBuf>,
    /// Stop when stdin ends, so that a node never outlives what started it
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

/// Adds.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// Files, directories, or `-` for stdin
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Pin them too, of a directory all that is in it
    #[arg(long)]
    pub(crate) pin: bool,
    /// Add all that is in a directory, whatever its .gitignore and .blobmeshignore say; .git stays out
    #[arg(long)]
    pub(crate) no_ignore: bool,
}

/// Gets.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Blobs, 64 hex digits each
    #[arg(required_unless_present = "from", value_name = "HASH")]
    pub(crate) hashes: Vec<String>,
    /// File that lists blobs, one hash a line, or `-` for stdin; blank lines and `#` comments are skipped
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// File to write, or `-` for stdout; without it the blob is got into the store only
    #[arg(short, long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// Replace an existing output file
    #[arg(long)]
    pub(crate) force: bool,
    /// Keep no copy in the store: the blob is moved to the output, and no peer can get it from here afterwards
    #[arg(long, requires = "output")]
    pub(crate) no_store: bool,
    /// Older version of the blob, 64 hex digits or a file: what it has is copied, and only the rest fetched
    #[arg(long, value_name = "HASH|FILE")]
    pub(crate) base: Option<String>,
    /// Give up after so long, such as 30s
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Prefetches.
#[derive(Debug, Args)]
pub(crate) struct PrefetchArgs {
    /// Blobs and trees, 64 hex digits each
    #[arg(required_unless_present = "from", value_name = "HASH")]
    pub(crate) hashes: Vec<String>,
    /// File that lists blobs, one hash a line, or `-` for stdin; blank lines and `#` comments are skipped
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Get no more than this, such as 500MiB [default: 10GiB]
    #[arg(long, value_name = "SIZE")]
    pub(crate) budget: Option<String>,
    /// Wait for the end, which needs no running node; Ctrl-C ends the prefetch then
    #[arg(long)]
    pub(crate) wait: bool,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Checks out.
#[derive(Debug, Args)]
pub(crate) struct CheckoutArgs {
    /// The tree, 64 hex digits, as `blobmesh add DIR` prints it
    #[arg(value_name = "HASH")]
    pub(crate) hash: String,
    /// Directory that is to hold it: a new or empty one, or an earlier checkout, of which only what differs is touched
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Replace what was changed, and what is in the way
    #[arg(long)]
    pub(crate) force: bool,
    /// Files that are to share no block with the store, such as '*.pyc' or 'bin/**'; repeatable
    #[arg(long, value_name = "PATTERN")]
    pub(crate) copy: Vec<String>,
    /// Make files names of the store's own, which nobody may write to
    #[arg(long)]
    pub(crate) hard_link: bool,
    /// Hash every byte, and not one group in 64
    #[arg(long)]
    pub(crate) verify: bool,
}

impl CheckoutArgs {
    /// Returns what the node is told of them.
    pub(crate) fn options(&self) -> CheckoutOptions {
        let Self { force, copy, hard_link, verify, .. } = self;
        let (force, hard_link, verify) = (*force, *hard_link, *verify);
        CheckoutOptions { force, copy: copy.clone(), hard_link, verify }
    }
}

/// Pulls.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    pub(crate) checkout: CheckoutArgs,
    /// Give up fetching after so long, such as 30s
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Writes a blob to stdout.
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// The blob, 64 hex digits
    #[arg(value_name = "HASH")]
    pub(crate) hash: String,
    /// Give up after so long, such as 30s
    #[arg(long, value_name = "DURATION")]
    pub(crate) timeout: Option<String>,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Names blobs.
#[derive(Debug, Args)]
pub(crate) struct HashesArgs {
    /// Blobs, 64 hex digits each
    #[arg(required = true, value_name = "HASH")]
    pub(crate) hashes: Vec<String>,
}

/// Removes.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Blobs, 64 hex digits each
    #[arg(required = true, value_name = "HASH")]
    pub(crate) hashes: Vec<String>,
    /// Remove pinned blobs too
    #[arg(long)]
    pub(crate) force: bool,
}

/// Lists a tree.
#[derive(Debug, Args)]
pub(crate) struct TreeArgs {
    /// The tree, 64 hex digits: what `add DIR` printed
    #[arg(value_name = "HASH")]
    pub(crate) hash: String,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Uploads.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// Blobs of the store, 64 hex digits each; a tree goes with all that is in it
    #[arg(required = true, value_name = "HASH")]
    pub(crate) hashes: Vec<String>,
    /// Push only the blobs named, of a tree its manifest without what is in it
    #[arg(long)]
    pub(crate) only: bool,
    /// Push every blob as an object of its own: other programs do not look into packs
    #[arg(long)]
    pub(crate) no_packs: bool,
    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Explains.
#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The blob, 64 hex digits
    #[arg(value_name = "HASH")]
    pub(crate) hash: String,
}

/// Shows savings.
#[derive(Debug, Args)]
pub(crate) struct SavingsArgs {
    /// Show the last days only, 400 at most
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=400))]
    pub(crate) days: u16,
}

/// Verifies.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Blobs, 64 hex digits each; all of the store without any
    #[arg(value_name = "HASH")]
    pub(crate) hashes: Vec<String>,
}

/// Joins.
#[derive(Debug, Args)]
pub(crate) struct JoinArgs {
    /// `-` to read the ticket from stdin; a ticket itself is refused here
    #[arg(value_name = "-")]
    pub(crate) source: Option<OsString>,
    /// Leave the mesh this home belongs to
    #[arg(long)]
    pub(crate) force: bool,
}

/// Shows the configuration.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the effective values and where each comes from; secrets are not shown
    Show,
}

/// Checks.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Measure the edge's rate with this blob, which it has: at most 32 MiB are read by each HTTP
    #[arg(long, value_name = "HASH")]
    pub(crate) edge_blob: Option<String>,

    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

/// Demonstrates.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The size of the demo's blobs
    #[arg(long, default_value = "8MiB", value_name = "SIZE")]
    pub(crate) size: String,
}

/// Prints completions.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

#[cfg(test)]
mod tests {
    #[test]
    fn arguments_do_not_contradict_each_other() {
        super::command().debug_assert();
    }
}
