//! The settings there are: the one table that the file, the environment and `config show` go by.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Names a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Listen,
    LanePort,
    UploadRateMax,
    Peers,
    Mdns,
    Adverts,
    Open,
    Timeout,
    Profile,
    Prefetch,
    StoreBytesMax,
    BlobBytesMax,
    EdgeUrl,
    EdgeCaFile,
    EdgeHttp,
    EdgeAccessKeyId,
    EdgeSecret,
    EdgeSecretKeyFile,
}

/// Says what a setting's value looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Text,
    /// A text, or a number of bytes.
    Size,
    /// A text, or the number of a port.
    Port,
    /// A text, or a number.
    Version,
    List,
    Switch,
}

/// Describes a setting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) key: Key,
    /// Its name in the configuration file, the table's name before the dot.
    pub(crate) name: &'static str,
    /// Its environment variable.
    pub(crate) env: &'static str,
    pub(crate) shape: Shape,
}

const fn spec(key: Key, name: &'static str, env: &'static str, shape: Shape) -> Spec {
    Spec { key, name, env, shape }
}

/// The secret key is the only setting that has no place in the file.
pub(crate) const SECRET: &str = "edge.secret_access_key";

/// Every setting.
pub(crate) const SPECS: [Spec; 18] = [
    spec(Key::Listen, "listen", "BLOBMESH_LISTEN", Shape::List),
    spec(Key::LanePort, "lane_port", "BLOBMESH_LANE_PORT", Shape::Port),
    spec(Key::UploadRateMax, "upload_rate_max", "BLOBMESH_UPLOAD_RATE_MAX", Shape::Text),
    spec(Key::Peers, "peers", "BLOBMESH_PEERS", Shape::List),
    spec(Key::Mdns, "mdns", "BLOBMESH_MDNS", Shape::Switch),
    spec(Key::Adverts, "adverts", "BLOBMESH_ADVERTS", Shape::Switch),
    spec(Key::Open, "open", "BLOBMESH_OPEN", Shape::Switch),
    spec(Key::Timeout, "timeout", "BLOBMESH_TIMEOUT", Shape::Text),
    spec(Key::Profile, "profile", "BLOBMESH_PROFILE", Shape::Text),
    spec(Key::Prefetch, "prefetch", "BLOBMESH_PREFETCH", Shape::Text),
    spec(Key::StoreBytesMax, "store.bytes_max", "BLOBMESH_STORE_BYTES_MAX", Shape::Size),
    spec(Key::BlobBytesMax, "store.blob_bytes_max", "BLOBMESH_STORE_BLOB_BYTES_MAX", Shape::Size),
    spec(Key::EdgeUrl, "edge.url", "BLOBMESH_EDGE_URL", Shape::Text),
    spec(Key::EdgeCaFile, "edge.ca_file", "BLOBMESH_EDGE_CA_FILE", Shape::Text),
    spec(Key::EdgeHttp, "edge.http", "BLOBMESH_EDGE_HTTP", Shape::Version),
    spec(Key::EdgeAccessKeyId, "edge.access_key_id", "BLOBMESH_EDGE_ACCESS_KEY_ID", Shape::Text),
    spec(Key::EdgeSecret, SECRET, "BLOBMESH_EDGE_SECRET_ACCESS_KEY", Shape::Text),
    spec(
        Key::EdgeSecretKeyFile,
        "edge.secret_key_file",
        "BLOBMESH_EDGE_SECRET_KEY_FILE",
        Shape::Text,
    ),
];

/// Variables of the same prefix that are no settings.
pub(crate) const OTHER_VARIABLES: [&str; 5] =
    ["BLOBMESH_HOME", "BLOBMESH_CONFIG", "BLOBMESH_LOG", "BLOBMESH_TICKET", "BLOBMESH_BIN"];

/// Holds a value as it was given; what it means is checked once the layers are one.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    List(Vec<String>),
    Switch(bool),
}

/// Says where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    /// The profile of this name, where nothing else says.
    Profile(&'static str),
    /// A line of the configuration file.
    File(PathBuf, usize),
    /// An environment variable.
    Env(&'static str),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Profile(name) => write!(f, "profile {name}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Env(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// The values of all layers, the highest of each.
pub(crate) type Values = BTreeMap<Key, (Value, Origin)>;

/// Returns the description of a setting.
pub(crate) fn spec_of(key: Key) -> &'static Spec {
    // The table has every key, which a test checks; the first row stands in for none.
    SPECS.iter().find(|spec| spec.key == key).unwrap_or(&SPECS[0])
}

/// Returns the name that takes the fewest changes to become `wrong`.
pub(crate) fn nearest<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let last = |name: &str| name.rsplit_once('.').map_or(0, |(table, _)| table.len() + 1);
    names.min_by_key(|name| {
        // A right key in a wrong table is near, too.
        let whole = distance(wrong, name);
        whole.min(distance(&wrong[last(wrong)..], &name[last(name)..]) + 1)
    })
}

/// Returns how many letters have to be put, taken or changed to make `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_its_own_row_name_and_variable() {
        for (index, spec) in SPECS.iter().enumerate() {
            assert_eq!(spec_of(spec.key).name, spec.name);
            let variable = format!("BLOBMESH_{}", spec.name.replace('.', "_").to_uppercase());
            assert_eq!(spec.env, variable);
            assert_eq!(spec.key as usize, index, "{}", spec.name);
        }
    }

    #[test]
    fn nearest_name_is_found_for_typos_and_wrong_tables() {
        let names = || SPECS.iter().map(|spec| spec.name);
        for (wrong, name) in [
            ("lisen", "listen"),
            ("mDNS", "mdns"),
            ("bytes_max", "store.bytes_max"),
            ("store.byte_max", "store.bytes_max"),
            ("edge.ulr", "edge.url"),
            ("peer", "peers"),
            ("edge.secret_file", "edge.secret_key_file"),
        ] {
            assert_eq!(nearest(wrong, names()), Some(name), "{wrong}");
        }
    }

    #[test]
    fn distance_counts_single_letters() {
        for (a, b, changes) in
            [("", "", 0), ("", "abc", 3), ("abc", "abc", 0), ("abc", "acb", 2), ("ab", "xaby", 2)]
        {
            assert_eq!(distance(a, b), changes, "{a} {b}");
        }
    }
}
