//! The columns of CSV files, and how each value is written and read.

use crate::outcome::{FetchRow, MessageRow, NodeRow, SeriesRow, TransferRow};

/// The longest name of a node, blob, group or site that is read, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Is a row of a CSV file.
pub(super) trait Row: Sized {
    /// The columns, in the file's order.
    const COLUMNS: &'static [&'static str];

    /// Appends the values in the columns' order.
    fn write(&self, record: &mut csv::StringRecord);

    /// Takes the values in the columns' order; a problem says what was expected.
    fn read(fields: &mut Fields<'_>) -> Result<Self, String>;
}

/// Hands out the values of one line.
pub(super) struct Fields<'a> {
    record: &'a csv::StringRecord,
    next: usize,
    columns: &'static [&'static str],
}

impl<'a> Fields<'a> {
    pub(super) fn new(record: &'a csv::StringRecord, columns: &'static [&'static str]) -> Self {
        Self { record, next: 0, columns }
    }

    fn take<T>(&mut self, read: impl FnOnce(&str) -> Result<T, String>) -> Result<T, String> {
        let column = self.columns.get(self.next).copied().unwrap_or("?");
        let field = self.record.get(self.next).unwrap_or_default();
        self.next += 1;
        read(field).map_err(|expected| {
            let shown: String = field.chars().take(40).collect();
            format!("column {column}: {shown:?} is not {expected}")
        })
    }
}

macro_rules! row {
    ($row:ty { $($column:ident: $read:expr),+ $(,)? }) => {
        impl Row for $row {
            const COLUMNS: &'static [&'static str] = &[$(stringify!($column)),+];

            fn write(&self, record: &mut csv::StringRecord) {
                $(record.push_field(&self.$column.text());)+
            }

            fn read(fields: &mut Fields<'_>) -> Result<Self, String> {
                Ok(Self { $($column: fields.take($read)?),+ })
            }
        }
    };
}

row!(FetchRow {
    node: name,
    blob: name,
    size: whole,
    start_ns: whole,
    took_ns: whole,
    result: one_of(RESULTS),
    found: one_of(FOUND),
    local_bytes: whole,
    lan_bytes: whole,
    edge_bytes: whole,
    asks: whole,
    asks_wasted: whole,
    skipped: whole,
    sources: whole,
    hedged: flag,
    local_ns: whole,
    find_ns: whole,
    first_group_ns: whole,
    transfer_ns: whole,
    store_ns: whole,
});

row!(SeriesRow {
    at_ns: whole,
    lan_bytes: whole,
    edge_bytes: whole,
    edge_requests: whole,
    gets_done: whole,
    gets_failed: whole,
    asks: whole,
    gossip_bytes: whole,
    searches: whole,
    events: whole,
    gets_open: whole,
    transfers_open: whole,
    nodes_up: whole,
    stored_bytes: whole,
});

row!(NodeRow {
    node: name,
    group: name,
    site: name,
    joined_ns: whole_or_none,
    finished_ns: whole_or_none,
    gets_done: whole,
    gets_failed: whole,
    lan_bytes: whole,
    edge_bytes: whole,
    sent_bytes: whole,
    neighbours: whole,
    stored_bytes: whole,
});

row!(TransferRow {
    start_ns: whole,
    first_byte_ns: whole_or_none,
    end_ns: whole,
    from: name,
    to: name,
    blob: name,
    bytes: whole,
    outcome: one_of(ENDS),
});

row!(MessageRow {
    sent_ns: whole,
    arrived_ns: whole_or_none,
    from: name,
    to: name,
    blob: name,
    kind: one_of(KINDS),
});

const RESULTS: &[&str] = &[
    "ok",
    "not_found",
    "wrong_bytes",
    "refused",
    "unreachable",
    "timed_out",
    "cancelled",
    "store_failed",
    "too_many",
    "killed",
    "unfinished",
];
const FOUND: &[&str] = &["local", "lan", "dht", "edge", "-"];
const ENDS: &[&str] = &["complete", "stopped", "absent", "busy", "failed", "wrong_bytes"];
const KINDS: &[&str] = &["ask", "have", "absent", "busy", "search", "providers"];

/// Is a value of a field, as text.
trait Value {
    fn text(&self) -> String;
}

impl Value for u64 {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for Option<u64> {
    fn text(&self) -> String {
        self.map(|value| value.to_string()).unwrap_or_default()
    }
}

impl Value for bool {
    fn text(&self) -> String {
        self.to_string()
    }
}

impl Value for String {
    fn text(&self) -> String {
        self.clone()
    }
}

impl Value for &'static str {
    fn text(&self) -> String {
        (*self).to_owned()
    }
}

fn whole(field: &str) -> Result<u64, String> {
    let digits = !field.is_empty() && field.bytes().all(|byte| byte.is_ascii_digit());
    field.parse().ok().filter(|_| digits).ok_or_else(|| "a whole number below 2^64".to_owned())
}

fn whole_or_none(field: &str) -> Result<Option<u64>, String> {
    if field.is_empty() { Ok(None) } else { whole(field).map(Some) }
}

fn flag(field: &str) -> Result<bool, String> {
    field.parse().map_err(|_| "true or false".to_owned())
}

fn name(field: &str) -> Result<String, String> {
    let fits = !field.is_empty() && field.len() <= NAME_BYTES_MAX;
    fits.then(|| field.to_owned()).ok_or_else(|| format!("a name of 1 to {NAME_BYTES_MAX} bytes"))
}

fn one_of(words: &'static [&'static str]) -> impl Fn(&str) -> Result<&'static str, String> {
    move |field| {
        let known = words.iter().find(|word| **word == field);
        known.copied().ok_or_else(|| format!("one of {}", words.join(", ")))
    }
}
