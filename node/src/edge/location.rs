//! Where an edge is, as people write it: `dir:PATH`, `https://…`, `s3://BUCKET[/PREFIX]?endpoint=URL`.
//!
//! Whatever makes no sense is refused here with a word for it, before a request is made. Refusals
//! never repeat the text, because people paste credentials into URLs. Whether plain `http://` is
//! allowed is not decided here but where the edge is made
//! ([`EdgeOptions::plain_http`](super::EdgeOptions)).

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use reqwest::Url;

use crate::config::{Credentials, EdgeConfig};

/// The region where a location names none; what R2 calls its only one.
pub const REGION_DEFAULT: &str = "auto";

/// Says where an edge is, without saying who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EdgeLocation {
    /// `dir:PATH`.
    Directory {
        /// The directory under which `blobs/` lies.
        path: PathBuf,
    },
    /// `https://…` or `http://…`.
    Public {
        /// The base URL, without a slash at its end.
        url: String,
    },
    /// `s3://BUCKET[/PREFIX]?endpoint=URL[&region=NAME]`.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// The endpoint, without a slash at its end.
        endpoint: String,
        /// The region.
        region: String,
        /// The prefix of all keys, without slashes at its ends; empty for none.
        prefix: String,
    },
}

/// Says why a text is not an edge's location.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// There is nothing.
    #[error("the edge location is empty")]
    Empty,
    /// White space or control characters, which no URL has.
    #[error("the edge location has white space in it")]
    Space,
    /// It begins with none of the known words.
    #[error("the edge location begins with none of dir:, https://, http://, s3://")]
    Scheme,
    /// `dir:` without a path.
    #[error("dir: lacks the path of a directory")]
    NoPath,
    /// The URL cannot be read.
    #[error("{part} is not a URL: {reason}")]
    Url {
        /// Which part.
        part: Part,
        /// The reader's reason, which does not repeat the URL.
        reason: String,
    },
    /// A user name or password in the URL; never shown.
    #[error("{part} has a user name or password in it, which belongs into the credentials")]
    Credentials {
        /// Which part.
        part: Part,
    },
    /// The host is link-local, as the metadata services of clouds are, or unspecified.
    #[error("{part} leads to {address}, an address that no edge has")]
    Address {
        /// Which part.
        part: Part,
        /// The address.
        address: IpAddr,
    },
    /// The URL has a part after `#`.
    #[error("{part} has a fragment (#…)")]
    Fragment {
        /// Which part.
        part: Part,
    },
    /// A public URL or an endpoint has a query.
    #[error("{part} has a query (?…)")]
    Query {
        /// Which part.
        part: Part,
    },
    /// An `s3://` location has a query key that does not exist.
    #[error("?{key}= is not known; s3:// takes endpoint and region")]
    Key {
        /// The key.
        key: String,
    },
    /// An `s3://` location says one thing twice.
    #[error("?{key}= is there twice")]
    Twice {
        /// The key.
        key: String,
    },
    /// An `s3://` location has no endpoint.
    #[error("s3:// lacks ?endpoint=URL")]
    NoEndpoint,
    /// The endpoint's scheme is not HTTP.
    #[error("the endpoint is neither https:// nor http://")]
    EndpointScheme,
    /// The endpoint goes on after the host, as when the bucket was pasted with it.
    #[error("the endpoint goes on after its host; the bucket belongs into s3://BUCKET")]
    EndpointPath,
    /// The bucket's name cannot be one.
    #[error("{bucket:?} is not a bucket name: 3 to 63 of a-z, 0-9, - and .")]
    Bucket {
        /// The name.
        bucket: String,
    },
    /// The region has characters that no region has.
    #[error("{region:?} is not a region")]
    Region {
        /// The region.
        region: String,
    },
    /// The prefix has empty or dotted parts, or characters that would need encoding.
    #[error(
        "{prefix:?} is not a prefix: parts of letters, digits, - _ and . between single slashes"
    )]
    Prefix {
        /// The prefix.
        prefix: String,
    },
    /// Plain HTTP to another machine, which anybody on the way can read and change.
    #[error("{part} is plain http:// to another machine")]
    PlainHttp {
        /// Which part.
        part: Part,
    },
}

/// Names the part of a location that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The public URL.
    PublicUrl,
    /// The `s3://` location itself.
    S3Url,
    /// The endpoint of a bucket.
    Endpoint,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PublicUrl => "the public URL",
            Self::S3Url => "the s3:// location",
            Self::Endpoint => "the endpoint",
        })
    }
}

impl EdgeLocation {
    /// Reads a location.
    pub fn parse(text: &str) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        if let Some(path) = text.strip_prefix("dir:") {
            // A path may have spaces, so this comes before the check for them.
            return match path {
                "" => Err(LocationError::NoPath),
                path => Ok(Self::Directory { path: PathBuf::from(path) }),
            };
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(LocationError::Space);
        }
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("https" | "http") => {
                let url = base_url(text, Part::PublicUrl)?;
                Ok(Self::Public { url: without_slash(url.as_str()).to_owned() })
            }
            Some("s3") => parse_s3(text),
            _ => Err(LocationError::Scheme),
        }
    }

    /// Makes the configuration of an edge there. A directory or public URL has no use for
    /// credentials and drops them.
    pub fn with_credentials(self, credentials: Option<Credentials>) -> EdgeConfig {
        match self {
            Self::Directory { path } => EdgeConfig::Directory { path },
            Self::Public { url } => EdgeConfig::Public { url },
            Self::S3 { bucket, endpoint, region, prefix } => {
                EdgeConfig::S3 { bucket, endpoint, region, prefix, credentials }
            }
        }
    }
}

fn parse_s3(text: &str) -> Result<EdgeLocation, LocationError> {
    let part = Part::S3Url;
    let url = read_url(text, part)?;
    if url.port().is_some() {
        return Err(LocationError::Bucket { bucket: host_and_port(&url) });
    }
    let (mut endpoint, mut region) = (None, None);
    for (key, value) in url.query_pairs() {
        let slot = match key.as_ref() {
            "endpoint" => &mut endpoint,
            "region" => &mut region,
            _ => return Err(LocationError::Key { key: key.chars().take(40).collect() }),
        };
        if slot.replace(value.into_owned()).is_some() {
            return Err(LocationError::Twice { key: key.into_owned() });
        }
    }
    let bucket = url.host_str().unwrap_or_default().to_owned();
    let region = region.unwrap_or_else(|| REGION_DEFAULT.to_owned());
    let prefix = url.path().trim_start_matches('/');
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix).to_owned();
    let endpoint = endpoint_url(&endpoint.ok_or(LocationError::NoEndpoint)?)?;
    check_bucket(&bucket)?;
    check_region(&region)?;
    check_prefix(&prefix)?;
    let endpoint = without_slash(endpoint.as_str()).to_owned();
    Ok(EdgeLocation::S3 { bucket, endpoint, region, prefix })
}

/// Reads an HTTP base URL: no credentials, query or fragment, and a host that an edge can have.
pub(super) fn base_url(text: &str, part: Part) -> Result<Url, LocationError> {
    let url = read_url(text, part)?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(LocationError::Scheme);
    }
    if url.query().is_some() {
        return Err(LocationError::Query { part });
    }
    match host_address(&url) {
        Some(address) if is_forbidden(address) => Err(LocationError::Address { part, address }),
        _ => Ok(url),
    }
}

/// Reads the endpoint of a bucket: a base URL of a host alone.
pub(super) fn endpoint_url(text: &str) -> Result<Url, LocationError> {
    let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return Err(LocationError::EndpointScheme);
    }
    let url = base_url(text, Part::Endpoint)?;
    if !matches!(url.path(), "" | "/") {
        return Err(LocationError::EndpointPath);
    }
    Ok(url)
}

/// Refuses plain HTTP to other machines.
pub(super) fn check_transport(url: &Url, part: Part) -> Result<(), LocationError> {
    let encrypted = url.scheme() == "https";
    if encrypted || is_loopback(url) { Ok(()) } else { Err(LocationError::PlainHttp { part }) }
}

/// Returns whether a URL stays on this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    match host_address(url) {
        Some(address) => address.is_loopback(),
        None => url.host_str().is_some_and(|host| host.eq_ignore_ascii_case("localhost")),
    }
}

/// Returns whether no edge can have this address: link-local ones lead to the metadata services of
/// clouds, which hand out credentials.
pub(super) fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_unspecified() || v4.is_broadcast(),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_forbidden(IpAddr::V4(v4)),
            None => v6.is_unicast_link_local() || v6.is_unspecified() || v6 == METADATA_V6,
        },
    }
}

/// The IPv6 address of AWS's metadata service, which is not link-local.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

pub(super) fn check_bucket(bucket: &str) -> Result<(), LocationError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let fits = (3..=63).contains(&bucket.len())
        && bucket.chars().all(allowed)
        && bucket.starts_with(ends)
        && bucket.ends_with(ends)
        && !bucket.contains("..");
    if fits { Ok(()) } else { Err(LocationError::Bucket { bucket: bucket.to_owned() }) }
}

pub(super) fn check_region(region: &str) -> Result<(), LocationError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let fits = (1..=64).contains(&region.len()) && region.chars().all(allowed);
    if fits { Ok(()) } else { Err(LocationError::Region { region: region.to_owned() }) }
}

/// Allows only what is the same before and after any URL encoding, since a signature covers the
/// encoded path and two encoders that differ would make every request fail.
pub(super) fn check_prefix(prefix: &str) -> Result<(), LocationError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let part_fits =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(allowed);
    let fits = prefix.is_empty() || (prefix.len() <= 512 && prefix.split('/').all(part_fits));
    if fits { Ok(()) } else { Err(LocationError::Prefix { prefix: prefix.to_owned() }) }
}

pub(super) fn without_slash(url: &str) -> &str {
    url.trim_end_matches('/')
}

fn read_url(text: &str, part: Part) -> Result<Url, LocationError> {
    let url =
        Url::parse(text).map_err(|error| LocationError::Url { part, reason: error.to_string() })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(LocationError::Credentials { part });
    }
    if url.fragment().is_some() {
        return Err(LocationError::Fragment { part });
    }
    Ok(url)
}

fn host_address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: &str = "https://acc.r2.cloudflarestorage.com";

    fn refused(text: &str) -> LocationError {
        EdgeLocation::parse(text).expect_err(text)
    }

    #[test]
    fn wrong_locations_are_named_for_what_is_wrong_with_them() {
        use LocationError as E;
        let part = Part::PublicUrl;
        let metadata = "169.254.169.254".parse().expect("an address");
        let table = [
            ("", E::Empty),
            (" https://a.example", E::Space),
            ("https://a.example\n", E::Space),
            ("a.example/blobs", E::Scheme),
            ("ftp://a.example", E::Scheme),
            ("file:///etc", E::Scheme),
            ("dir:", E::NoPath),
            ("https://user:hunter2@a.example", E::Credentials { part }),
            ("https://user@a.example", E::Credentials { part }),
            ("https://a.example/?token=hunter2", E::Query { part }),
            ("https://a.example/#x", E::Fragment { part }),
            ("http://169.254.169.254/latest", E::Address { part, address: metadata }),
            ("s3://bucket", E::NoEndpoint),
            ("s3://bucket?region=auto", E::NoEndpoint),
            ("s3://bucket?endpoint=ftp://a.example", E::EndpointScheme),
            ("s3://bucket?endpoint=https://a.example/bucket", E::EndpointPath),
            (
                "s3://bucket?endpoint=https://k:hunter2@a.example",
                E::Credentials { part: Part::Endpoint },
            ),
            (
                "s3://key:hunter2@bucket?endpoint=https://a.example",
                E::Credentials { part: Part::S3Url },
            ),
            ("s3://bucket?endpoint=https://a.example&regoin=auto", E::Key { key: "regoin".into() }),
            ("s3://bucket?region=a&region=b", E::Twice { key: "region".into() }),
            ("s3://Bucket_1?endpoint=https://a.example", E::Bucket { bucket: "Bucket_1".into() }),
            ("s3://bucket/a//b?endpoint=https://a.example", E::Prefix { prefix: "a//b".into() }),
            ("s3://bucket/a%20b?endpoint=https://a.example", E::Prefix { prefix: "a%20b".into() }),
            (
                "s3://bucket?endpoint=https://a.example&region=a/b",
                E::Region { region: "a/b".into() },
            ),
        ];
        for (text, expected) in table {
            let error = refused(text);
            assert_eq!(error, expected, "{text}");
            assert!(!error.to_string().contains("hunter2"), "{text} is repeated");
        }
        assert!(matches!(refused("https://"), LocationError::Url { .. }));
        assert!(matches!(refused("https://[fe80::1]/"), LocationError::Address { .. }));
        assert!(matches!(
            refused("https://[::ffff:169.254.169.254]/"),
            LocationError::Address { .. }
        ));
    }

    #[test]
    fn right_locations_are_read_and_normalised() {
        let parse = |text: &str| EdgeLocation::parse(text).expect(text);
        assert_eq!(
            parse("dir:/srv/my edge"),
            EdgeLocation::Directory { path: "/srv/my edge".into() }
        );
        let public = |url: &str| EdgeLocation::Public { url: url.to_owned() };
        assert_eq!(parse("https://blobs.example.com/"), public("https://blobs.example.com"));
        assert_eq!(parse("HTTPS://A.example/x/"), public("https://a.example/x"));
        let s3 = |prefix: &str, region: &str| EdgeLocation::S3 {
            bucket: "team-blobs".to_owned(),
            endpoint: ENDPOINT.to_owned(),
            region: region.to_owned(),
            prefix: prefix.to_owned(),
        };
        assert_eq!(parse(&format!("s3://team-blobs?endpoint={ENDPOINT}")), s3("", "auto"));
        let full = format!("s3://team-blobs/ci/main/?endpoint={ENDPOINT}/&region=us-east-1");
        assert_eq!(parse(&full), s3("ci/main", "us-east-1"));
    }

    #[test]
    fn plain_http_is_for_this_machine_only() {
        let check = |text: &str| {
            check_transport(&base_url(text, Part::PublicUrl).expect(text), Part::PublicUrl)
        };
        for text in
            ["http://127.0.0.1:9000", "http://localhost", "http://[::1]:80", "https://a.example"]
        {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for text in ["http://a.example", "http://10.0.0.7", "http://127.0.0.1.example"] {
            assert!(check(text).is_err(), "{text}");
        }
    }

    #[test]
    fn credentials_stay_with_buckets() {
        let credentials = Some(Credentials {
            access_key_id: "id".to_owned(),
            secret_access_key: "secret".to_owned(),
        });
        let public = EdgeLocation::parse("https://a.example").expect("a URL");
        let config = public.with_credentials(credentials.clone());
        assert_eq!(config, EdgeConfig::Public { url: "https://a.example".to_owned() });
        let bucket = EdgeLocation::parse("s3://bucket?endpoint=https://a.example").expect("a URL");
        let EdgeConfig::S3 { credentials: kept, .. } = bucket.with_credentials(credentials.clone())
        else {
            panic!("a bucket");
        };
        assert_eq!(kept, credentials);
    }
}
