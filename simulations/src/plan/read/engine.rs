//! Reading `[engine]` and `[group.engine]`: any field of the engine's configuration by its own name.

use std::ops::RangeInclusive;
use std::time::Duration;

use blobmesh_protocol::Config;

use super::super::error::PlanError;
use super::super::section::{Default, Field, Key, Keys, Section};

/// What a count of the engine may be: none would leave it without a way to work, and more than a million
/// of anything would fill this machine instead of the simulated one.
const COUNTS: RangeInclusive<usize> = 1..=1_000_000;

/// Makes the keys, the reader and the defaults of the engine's fields from one list. A field of
/// [`Config`] that the list lacks is an error of the compiler.
macro_rules! fields {
    ($($name:ident: $kind:ident,)*) => {
        pub(in super::super) static ENGINE: Keys = Keys {
            header: "[engine]",
            about: "The engine's own configuration by its own names; `protocol/src/config.rs` says \
                what each does and costs. `[group.engine]` after a `[[group]]` has the same keys for \
                that group alone.",
            parts: &[&[$(Key {
                name: stringify!($name),
                takes: <$kind as Kind>::TAKES,
                default: Default::Says(<$kind as Kind>::DEFAULT),
                about: "",
            }),*]],
        };

        fn read_fields(section: &Section<'_>, config: &mut Config) -> Result<(), PlanError> {
            // Names every field, so that none is forgotten here when the engine gets a new one.
            let Config { $($name),* } = config;
            $(if let Some(field) = section.optional(stringify!($name))? {
                *$name = $kind::read(&field)?;
            })*
            Ok(())
        }

        /// Returns what the engine's fields are where a plan says nothing.
        pub(in super::super) fn defaults() -> Vec<String> {
            let Config { $($name),* } = Config::default();
            vec![$($kind::show(&$name)),*]
        }
    };
}

fields! {
    neighbours_max: Count,
    resolutions_max: Count,
    wants_per_hash_max: Count,
    asks_parallel_max: Count,
    asks_per_neighbour_max: Count,
    small_per_peer_max: Count,
    small_rest: Time,
    fetches_per_peer_max: Count,
    fetches_per_hash_max: Count,
    swarm_bytes_min: Size,
    partners_max: Count,
    asks_one_for_all: Flag,
    shares_parts: Flag,
    ask_timeout: TimeAboveZero,
    hedge_initial: Time,
    hedge_min: Time,
    hedge_max: Time,
    hedge_unsettled: Time,
    first_group_hedge: Time,
    stall_timeout: TimeAboveZero,
    attempts_max: Number,
    busy_patience: TimeAboveZero,
    backoff_initial: TimeAboveZero,
    backoff_max: TimeAboveZero,
    provider_search: NeedsDht,
    provider_search_timeout: TimeAboveZero,
    providers_max: Count,
    edge: NeedsEdge,
    edge_range_bytes: Size,
    edge_ranges_max: Count,
    edge_pause: Time,
    claim_ttl: TimeAboveZero,
    claim_patience: TimeAboveZero,
    blob_bytes_max: Size,
    gossip_interval: TimeAboveZero,
    word_time: Time,
    gossip_burst: Number,
    filter_interval: TimeAboveZero,
    hello_timeout: TimeAboveZero,
    filter_refresh: TimeAboveZero,
    filter_ttl: TimeAboveZero,
    filter_judged_after: Number,
    filter_ignored_for: Time,
    ban: Time,
    bans_max: Count,
    adverts: NeedsDht,
    adverts_max: Count,
    adverts_per_s: Number,
    adverts_burst: Number,
    advert_interval: TimeAboveZero,
    serves_max: Count,
    serves_per_peer_max: Count,
    busy_retry_after: TimeAboveZero,
}

/// Reads the differences of a section to a configuration.
pub(super) fn read(section: &Section<'_>, mut config: Config) -> Result<Config, PlanError> {
    read_fields(section, &mut config)?;
    Ok(config)
}

/// Is a kind of field.
trait Kind {
    /// The field's type.
    type Of;
    /// What it takes.
    const TAKES: &'static str;
    /// What it is where a plan says nothing.
    const DEFAULT: &'static str = "the engine's own";

    fn read(field: &Field<'_>) -> Result<Self::Of, PlanError>;

    /// Writes the default as a plan would.
    fn show(value: &Self::Of) -> String;
}

/// Counts what lies in memory.
struct Count;
/// Is any other whole number.
struct Number;
/// Is a time that may be none.
struct Time;
/// Is a time that none would turn into a busy loop or a failure.
struct TimeAboveZero;
/// Is a number of bytes.
struct Size;
/// Is a yes or no.
struct Flag;
/// Is what makes no sense without a DHT.
struct NeedsDht;
/// Is what makes no sense without an edge.
struct NeedsEdge;

impl Kind for Count {
    type Of = usize;
    const TAKES: &'static str = "a whole number, 1 to 1,000,000";

    fn read(field: &Field<'_>) -> Result<usize, PlanError> {
        field.count(COUNTS)
    }

    fn show(value: &usize) -> String {
        value.to_string()
    }
}

impl Kind for Number {
    type Of = u32;
    const TAKES: &'static str = Count::TAKES;

    fn read(field: &Field<'_>) -> Result<u32, PlanError> {
        Ok(u32::try_from(field.count(COUNTS)?).unwrap_or(u32::MAX))
    }

    fn show(value: &u32) -> String {
        value.to_string()
    }
}

impl Kind for Time {
    type Of = Duration;
    const TAKES: &'static str = "a time";

    fn read(field: &Field<'_>) -> Result<Duration, PlanError> {
        field.time()
    }

    fn show(value: &Duration) -> String {
        show_time(value)
    }
}

impl Kind for TimeAboveZero {
    type Of = Duration;
    const TAKES: &'static str = "a time above zero";

    fn read(field: &Field<'_>) -> Result<Duration, PlanError> {
        field.time_above_zero()
    }

    fn show(value: &Duration) -> String {
        show_time(value)
    }
}

impl Kind for Size {
    type Of = u64;
    const TAKES: &'static str = "a size";

    fn read(field: &Field<'_>) -> Result<u64, PlanError> {
        field.size()
    }

    fn show(value: &u64) -> String {
        let mib = value >> 20;
        if mib.is_multiple_of(1_024) {
            format!("`\"{}GiB\"`", mib >> 10)
        } else {
            format!("`\"{mib}MiB\"`")
        }
    }
}

impl Kind for Flag {
    type Of = bool;
    const TAKES: &'static str = "a boolean";

    fn read(field: &Field<'_>) -> Result<bool, PlanError> {
        field.flag()
    }

    fn show(value: &bool) -> String {
        format!("`{value}`")
    }
}

impl Kind for NeedsDht {
    type Of = bool;
    const TAKES: &'static str = "a boolean";
    const DEFAULT: &'static str = "whether the plan has a `[dht]`";

    fn read(field: &Field<'_>) -> Result<bool, PlanError> {
        field.flag()
    }

    fn show(_: &bool) -> String {
        Self::DEFAULT.to_owned()
    }
}

impl Kind for NeedsEdge {
    type Of = bool;
    const TAKES: &'static str = "a boolean";
    const DEFAULT: &'static str = "whether the plan has an `[edge]`";

    fn read(field: &Field<'_>) -> Result<bool, PlanError> {
        field.flag()
    }

    fn show(_: &bool) -> String {
        Self::DEFAULT.to_owned()
    }
}

fn show_time(time: &Duration) -> String {
    let millis = time.as_millis();
    if millis.is_multiple_of(1_000) {
        format!("`\"{}s\"`", millis / 1_000)
    } else {
        format!("`\"{millis}ms\"`")
    }
}
