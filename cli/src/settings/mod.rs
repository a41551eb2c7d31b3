//! What this command works with: defaults, the configuration file, the environment and flags, in
//! rising order, made into one checked [`NodeConfig`].
//!
//! A value remembers where it came from, for `config show` and for errors. Secrets come by the
//! environment or by a file of their own, and are never part of a message.

mod env;
mod file;
mod keys;
mod profile;
mod remembered;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blobmesh_node::config::{Credentials, EdgeConfig, NodeConfig};
use blobmesh_node::control::api::Trouble;
use blobmesh_node::edge::{EdgeHttp, EdgeLocation};
use serde::Serialize;

use self::keys::{Key, Origin, SPECS, Value, Values, spec_of};
use self::profile::Profile;
pub(crate) use self::remembered::remember_peers;
use crate::address::{parse_listen, parse_peer};
use crate::args::{GlobalArgs, NodeArgs};
use crate::error::CommandError;
use crate::files::read_text;
use crate::units::{parse_duration, parse_size};

/// Holds the checked settings of one command.
#[derive(Debug)]
pub(crate) struct Settings {
    /// What a node of this command is made of.
    pub(crate) node: NodeConfig,
    /// How long a get may take; none takes the node's default.
    pub(crate) timeout: Option<Duration>,
    /// What is odd but no error.
    pub(crate) warnings: Vec<String>,
    /// The effective values, for people.
    pub(crate) rows: Vec<Row>,
    /// The flags given that mean nothing to a node that runs already.
    pub(crate) flags: Vec<&'static str>,
}

/// Shows one effective value.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// The setting's name.
    pub(crate) key: &'static str,
    /// Its value as TOML; none where it is not set.
    pub(crate) value: Option<String>,
    /// Where it comes from.
    pub(crate) origin: String,
}

impl Settings {
    /// Reads all layers.
    ///
    /// # Errors
    /// `Configuration` for the file, the environment and the home directory, `Usage` for a flag.
    pub(crate) fn load(global: &GlobalArgs, flags: &NodeArgs) -> Result<Self, CommandError> {
        let home = home_of(global)?;
        let file = global.config.clone().unwrap_or_else(|| home.join("config.toml"));
        let mut values = file::read(&file, global.config.is_some())?;
        let mut warnings = env::overlay(std::env::vars_os(), &mut values)?;
        let given = overlay_flags(flags, &mut values);
        let profile = Resolver { values: &values, file: &file }.profile()?;
        profile.underlay(&mut values);

        let resolver = Resolver { values: &values, file: &file };
        let mut settings = Self {
            node: resolver.node(&home, &mut warnings)?,
            timeout: resolver.parsed(Key::Timeout, parse_duration)?,
            warnings,
            rows: Vec::new(),
            flags: given,
        };
        let remembered = remembered::peers(&home)?;
        settings.node.peers.extend(remembered.iter().cloned());
        settings.rows = rows(&values, &settings, &remembered);
        Ok(settings)
    }
}

/// Returns the home directory, absolute.
///
/// # Errors
/// `Configuration` where neither a flag nor the environment leads to one.
pub(crate) fn home_of(global: &GlobalArgs) -> Result<PathBuf, CommandError> {
    let given = global.home.clone().filter(|home| !home.as_os_str().is_empty());
    let home = given.or_else(default_home).ok_or_else(|| {
        CommandError::new(Trouble::Configuration, "there is no home directory")
            .hint("name one with --home DIR or BLOBMESH_HOME")
    })?;
    std::path::absolute(&home).map_err(|error| CommandError::file("find", &home, error))
}

fn default_home() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
    let user = || variable("HOME").map(PathBuf::from);
    let data = if cfg!(windows) {
        variable("LOCALAPPDATA").map(PathBuf::from)
    } else if cfg!(target_os = "macos") {
        user().map(|user| user.join("Library/Application Support"))
    } else {
        variable("XDG_DATA_HOME")
            .map(PathBuf::from)
            .filter(|data| data.is_absolute())
            .or_else(|| user().map(|user| user.join(".local/share")))
    };
    data.map(|data| data.join("blobmesh"))
}

/// Puts the flags over the other layers, and returns the names of those given.
fn overlay_flags(flags: &NodeArgs, values: &mut Values) -> Vec<&'static str> {
    let mut given = Vec::new();
    let mut put = |key, name, value: Option<Value>| {
        if let Some(value) = value {
            values.insert(key, (value, Origin::Flag(name)));
            given.push(name);
        }
    };
    let list = |items: &[String]| (!items.is_empty()).then(|| Value::List(items.to_vec()));
    put(Key::Listen, "--listen", list(&flags.listen));
    put(Key::Peers, "--peer", list(&flags.peer));
    put(Key::Mdns, "--no-mdns", flags.no_mdns.then_some(Value::Switch(false)));
    put(Key::Adverts, "--no-adverts", flags.no_adverts.then_some(Value::Switch(false)));
    put(Key::EdgeUrl, "--edge", flags.edge.clone().map(Value::Text));
    put(Key::EdgeCaFile, "--edge-ca", flags.edge_ca.clone().map(Value::Text));
    put(Key::EdgeHttp, "--edge-http", flags.edge_http.clone().map(Value::Text));
    put(Key::Profile, "--profile", flags.profile.clone().map(Value::Text));
    put(Key::Open, "--open", flags.open.then_some(Value::Switch(true)));
    given
}

/// Makes checked values of the given ones.
struct Resolver<'a> {
    values: &'a Values,
    file: &'a Path,
}

impl Resolver<'_> {
    fn node(&self, home: &Path, warnings: &mut Vec<String>) -> Result<NodeConfig, CommandError> {
        let mut node = NodeConfig::new(home.to_owned());
        if let Some(listen) = self.list(Key::Listen, parse_listen)? {
            node.listen = listen;
        }
        if let Some(port) = self.parsed(Key::LanePort, parse_lane_port)? {
            node.lane_port = port;
        }
        node.upload_rate_max = self.parsed(Key::UploadRateMax, parse_rate)?.flatten();
        node.peers = self.list(Key::Peers, parse_peer)?.unwrap_or_default();
        node.mdns = self.switch(Key::Mdns).unwrap_or(node.mdns);
        node.adverts = self.switch(Key::Adverts).unwrap_or(node.adverts);
        node.open = self.switch(Key::Open).unwrap_or(node.open);
        node.learn = self.parsed(Key::Prefetch, parse_prefetch)?.unwrap_or(node.learn);
        let size = |text: &str| parse_size(text).and_then(at_least_one);
        if let Some(bytes) = self.parsed(Key::StoreBytesMax, size)? {
            node.store_bytes_max = bytes;
        }
        if let Some(bytes) = self.parsed(Key::BlobBytesMax, size)? {
            node.blob_bytes_max = bytes;
        }
        let credentials = self.credentials(warnings)?;
        let location = self.parsed(Key::EdgeUrl, |url| {
            EdgeLocation::parse(url.trim()).map_err(|error| error.to_string())
        })?;
        let base = self.base(Key::EdgeUrl);
        let edge = location.map(|location| location.with_credentials(credentials));
        node.edge = edge.map(|edge| absolute_edge(edge, &base));
        let ca_file = self.text(Key::EdgeCaFile);
        node.edge_ca_file = ca_file.map(|path| self.base(Key::EdgeCaFile).join(path));
        node.edge_http = self.edge_http()?;
        Ok(node)
    }

    fn profile(&self) -> Result<Profile, CommandError> {
        Ok(self.parsed(Key::Profile, Profile::parse)?.unwrap_or_default())
    }

    fn edge_http(&self) -> Result<EdgeHttp, CommandError> {
        let http = self.parsed(Key::EdgeHttp, parse_http)?.unwrap_or_default();
        if http == EdgeHttp::Http3 && !EdgeHttp::HTTP3_IS_BUILT {
            let error = self.wrong(Key::EdgeHttp, "HTTP/3 is not built into this program");
            let hint = "build it with `cargo build --release --features http3`, or take \"auto\"";
            return Err(error.hint(hint));
        }
        Ok(http)
    }

    fn credentials(&self, warnings: &mut Vec<String>) -> Result<Option<Credentials>, CommandError> {
        let id = self.text(Key::EdgeAccessKeyId);
        let secret = match (self.text(Key::EdgeSecret), self.text(Key::EdgeSecretKeyFile)) {
            (Some(secret), _) => Some(secret.to_owned()),
            (None, Some(path)) => {
                Some(self.secret_of(&self.base(Key::EdgeSecretKeyFile).join(path), warnings)?)
            }
            (None, None) => None,
        };
        let missing = match (id, secret) {
            (None, None) => return Ok(None),
            (Some(id), Some(secret)) => {
                let access_key_id = id.to_owned();
                return Ok(Some(Credentials { access_key_id, secret_access_key: secret }));
            }
            (Some(_), None) => spec_of(Key::EdgeSecret),
            (None, Some(_)) => spec_of(Key::EdgeAccessKeyId),
        };
        let text = format!("half of the edge's credentials is missing: {}", missing.name);
        let hint = format!("set {}, or unset the other half", missing.env);
        Err(CommandError::new(Trouble::Configuration, text).hint(hint))
    }

    fn secret_of(&self, path: &Path, warnings: &mut Vec<String>) -> Result<String, CommandError> {
        let shown = path.display();
        let secret = read_text(path, 4096).map_err(|error| {
            let text = format!("cannot read the secret key file {shown}: {error}");
            self.wrong(Key::EdgeSecretKeyFile, &text)
        })?;
        let secret = secret.trim();
        if secret.is_empty() {
            let text = format!("the secret key file {shown} is empty");
            return Err(self.wrong(Key::EdgeSecretKeyFile, &text));
        }
        if is_readable_by_others(path) {
            warnings.push(format!("others may read the secret key file {shown}: want mode 0600"));
        }
        Ok(secret.to_owned())
    }

    fn text(&self, key: Key) -> Option<&str> {
        match &self.values.get(&key)?.0 {
            Value::Text(text) => Some(text),
            Value::List(_) | Value::Switch(_) => None,
        }
    }

    fn switch(&self, key: Key) -> Option<bool> {
        match &self.values.get(&key)?.0 {
            Value::Switch(on) => Some(*on),
            Value::List(_) | Value::Text(_) => None,
        }
    }

    fn list(
        &self,
        key: Key,
        parse: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Option<Vec<String>>, CommandError> {
        let Some((Value::List(items), _)) = self.values.get(&key) else { return Ok(None) };
        let parsed: Result<_, _> = items.iter().map(|item| parse(item)).collect();
        parsed.map(Some).map_err(|text| self.wrong(key, &text))
    }

    fn parsed<T>(
        &self,
        key: Key,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, CommandError> {
        let parsed = self.text(key).map(parse).transpose();
        parsed.map_err(|text| self.wrong(key, &text))
    }

    /// Returns what a relative path of this setting starts from.
    fn base(&self, key: Key) -> PathBuf {
        let file = std::path::absolute(self.file).unwrap_or_default();
        match (self.values.get(&key), file.parent()) {
            (Some((_, Origin::File(..))), Some(directory)) => directory.to_owned(),
            _ => std::env::current_dir().unwrap_or_default(),
        }
    }

    fn wrong(&self, key: Key, text: &str) -> CommandError {
        let name = spec_of(key).name;
        match self.values.get(&key).map(|(_, origin)| origin) {
            Some(Origin::Flag(flag)) => CommandError::usage(format!("{flag}: {text}")),
            Some(Origin::Env(variable)) => {
                CommandError::new(Trouble::Configuration, format!("{variable}: {text}"))
            }
            Some(origin @ Origin::File(..)) => {
                CommandError::new(Trouble::Configuration, format!("{origin}: {name}: {text}"))
            }
            Some(Origin::Default | Origin::Profile(_)) | None => {
                CommandError::new(Trouble::Configuration, format!("{name}: {text}"))
            }
        }
    }
}

/// Takes a relative directory from `base`.
fn absolute_edge(edge: EdgeConfig, base: &Path) -> EdgeConfig {
    match edge {
        EdgeConfig::Directory { path } => EdgeConfig::Directory { path: base.join(path) },
        EdgeConfig::Public { .. } | EdgeConfig::S3 { .. } => edge,
    }
}

fn at_least_one(bytes: u64) -> Result<u64, String> {
    if bytes == 0 { Err("a bound of 0 bytes leaves no room".to_owned()) } else { Ok(bytes) }
}

#[cfg(unix)]
fn is_readable_by_others(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_readable_by_others(_path: &Path) -> bool {
    false
}

/// Returns a row for each setting, and one for the peers that came by tickets.
fn rows(values: &Values, settings: &Settings, remembered: &[String]) -> Vec<Row> {
    let mut rows: Vec<Row> = SPECS
        .iter()
        .map(|spec| {
            let given = values.get(&spec.key);
            let value = match given {
                Some((value, _)) => Some(shown(spec.key, value)),
                None => default_of(spec.key, &settings.node),
            };
            let origin = given.map_or(Origin::Default, |(_, origin)| origin.clone()).to_string();
            Row { key: spec.name, value, origin }
        })
        .collect();
    if !remembered.is_empty() {
        let value = Some(shown_list(remembered));
        rows.push(Row { key: "peers", value, origin: "joined by ticket".to_owned() });
    }
    rows
}

fn shown(key: Key, value: &Value) -> String {
    match (key, value) {
        (Key::EdgeSecret, _) => "\"(set)\"".to_owned(),
        // No secret, but people put one where the other belongs.
        (Key::EdgeAccessKeyId, Value::Text(id)) => {
            format!("\"{}…\"", id.chars().take(4).collect::<String>())
        }
        (Key::EdgeUrl, Value::Text(url)) => shown_text(url.split('@').next_back().unwrap_or(url)),
        (_, Value::Text(text)) => shown_text(text),
        (_, Value::List(items)) => shown_list(items),
        (_, Value::Switch(on)) => on.to_string(),
    }
}

fn default_of(key: Key, node: &NodeConfig) -> Option<String> {
    Some(match key {
        Key::Listen => shown_list(&node.listen),
        Key::LanePort => shown_text("any"),
        Key::UploadRateMax => shown_text("off"),
        Key::Peers => shown_list(&[]),
        Key::Mdns => node.mdns.to_string(),
        Key::Adverts => node.adverts.to_string(),
        Key::Open => node.open.to_string(),
        Key::Profile => shown_text(Profile::default().name()),
        Key::Prefetch => shown_text("learned"),
        Key::EdgeHttp => shown_text("auto"),
        Key::StoreBytesMax => shown_text(&format!("{}GiB", node.store_bytes_max >> 30)),
        Key::BlobBytesMax => shown_text(&format!("{}GiB", node.blob_bytes_max >> 30)),
        Key::Timeout
        | Key::EdgeUrl
        | Key::EdgeCaFile
        | Key::EdgeAccessKeyId
        | Key::EdgeSecret
        | Key::EdgeSecretKeyFile => return None,
    })
}

/// The least bound of a rate in bytes a second: below it peers take this node for a dead one.
const RATE_MIN: u64 = 1 << 20;

/// Reads where lanes are: a port, `any` for one that is free, or `off`.
fn parse_lane_port(text: &str) -> Result<Option<u16>, String> {
    match text.trim() {
        "off" => Ok(None),
        "any" => Ok(Some(0)),
        port => match port.parse() {
            Ok(port) if port > 0 => Ok(Some(port)),
            Ok(_) | Err(_) => Err("it is a port from 1 to 65535, `any` or `off`".to_owned()),
        },
    }
}

/// Reads a bound of a rate: a size for each second, or `off`.
fn parse_rate(text: &str) -> Result<Option<u64>, String> {
    let text = text.trim();
    if text == "off" {
        return Ok(None);
    }
    let size = parse_size(text.strip_suffix("/s").unwrap_or(text)).ok();
    size.filter(|rate| *rate >= RATE_MIN)
        .map(Some)
        .ok_or_else(|| "it is a size of 1MiB/s or more, such as 20MiB/s, or `off`".to_owned())
}

/// Reads whether anything is got ahead that nobody asked for.
fn parse_prefetch(text: &str) -> Result<bool, String> {
    match text.trim() {
        "learned" => Ok(true),
        "asked" => Ok(false),
        _ => Err("it is `learned` or `asked`".to_owned()),
    }
}

/// Reads by which HTTP the edge is read.
fn parse_http(text: &str) -> Result<EdgeHttp, String> {
    match text.trim() {
        "auto" => Ok(EdgeHttp::Auto),
        "1" => Ok(EdgeHttp::Http1),
        "2" => Ok(EdgeHttp::Http2),
        "3" => Ok(EdgeHttp::Http3),
        _ => Err("it is `auto`, `1`, `2` or `3`".to_owned()),
    }
}

fn shown_list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| shown_text(item)).collect();
    format!("[{}]", items.join(", "))
}

fn shown_text(text: &str) -> String {
    toml::Value::from(text).to_string()
}
