//! The edge of a lab: a bucket behind a web server on a host of the internet.
//!
//! It has two [doors](Door): plain HTTP/1.1, where many requests at once are many connections, and TLS, where
//! HTTP/2 is offered beside HTTP/1.1 as R2 and most others do. Nodes take plain HTTP from their own machine only, and
//! the certificate is of no other. So each asks its own ports, and its kernel sends what goes there to the
//! edge's host: the connection, its packets and its wire are those of a request to another machine.
//!
//! The server knows GET and HEAD, one range, and connections that stay open. It waits before the first
//! byte, fails and slows down as it is told, and counts what each client asked for and was sent. Its files
//! come from `blobmesh push`, or are put there as by another tool, without the group lists of a push.

mod answer;
mod caddy;
mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

pub(super) use caddy::CaddyServer;
pub(super) use server::EdgeServer;

use super::{command, error::Error, lab::Host, process::Home, process::Setting};

/// What shows that the edge is the edge, to whoever is told to trust it. Its key is a secret of nobody.
const CERTIFICATE: &str = include_str!("certificate.pem");

/// How long commands that fill the bucket may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// Is a way to talk to the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    /// HTTP/1.1 without TLS.
    Plain,
    /// TLS, and HTTP/2 for whoever wants it.
    Tls,
}

impl Door {
    const ALL: [Self; 2] = [Self::Plain, Self::Tls];

    /// Returns where nodes find the edge: at a port of their own.
    pub(super) const fn url(self) -> &'static str {
        match self {
            Self::Plain => "http://127.0.0.1:8080",
            Self::Tls => "https://127.0.0.1:8443",
        }
    }

    /// Returns that port, which is the edge's, too.
    const fn port(self) -> u16 {
        match self {
            Self::Plain => 8080,
            Self::Tls => 8443,
        }
    }
}

/// Writes the certificate that is to be trusted into the lab's directory, and returns where it is.
pub(super) fn certificate(setting: Setting<'_>) -> Result<PathBuf, Error> {
    let path = setting.lab.path().join("edge.pem");
    fs::write(&path, CERTIFICATE).map_err(Error::file("write", &path))?;
    Ok(path)
}

/// Puts blobs into the bucket, as a user of a node would.
pub(super) struct Filler<'a> {
    home: Home<'a>,
}

impl<'a> Filler<'a> {
    pub(super) fn new(setting: Setting<'a>, host: &'a Host) -> Result<Self, Error> {
        let bucket = bucket(setting);
        fs::create_dir(&bucket).map_err(Error::file("make", &bucket))?;
        Ok(Self { home: Home::new(setting, host, "edge")? })
    }

    /// Pushes a file, and forgets it on this side.
    pub(super) fn push(&self, file: &Path, hash: &str) -> Result<(), Error> {
        self.home.add(file)?;
        let bucket = format!("dir:{}", bucket(self.home.setting).display());
        for words in [&["push", "--edge", &bucket, hash][..], &["rm", hash]] {
            self.home.run(words, b"", COMMAND_LIMIT)?.success()?;
        }
        Ok(())
    }

    /// Copies a file to where a blob lies, as another tool would: without a group list.
    pub(super) fn put(&self, file: &Path, hash: &str) -> Result<(), Error> {
        let path = bucket(self.home.setting).join(path_of(hash));
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(Error::file("make", directory))?;
        }
        fs::copy(file, &path).map(drop).map_err(Error::file("write", &path))
    }
}

/// Returns where a blob lies in the bucket, and behind the URL.
pub(super) fn path_of(hash: &str) -> String {
    let (shard, name) = hash.split_at_checked(2).unwrap_or((hash, ""));
    format!("blobs/{shard}/{name}")
}

fn bucket(setting: Setting<'_>) -> PathBuf {
    setting.lab.path().join("bucket")
}

/// Has a node's kernel send what goes to the node's own ports to the edge.
pub(super) fn lead_to(setting: Setting<'_>, node: &Host, edge: &Host) -> Result<(), Error> {
    let ports = Door::ALL.map(|door| door.port().to_string()).join(", ");
    let rules = format!(
        "table ip edge {{\n\
         chain out {{ type nat hook output priority -100; \
         ip daddr 127.0.0.1 meta l4proto {{ tcp, udp }} th dport {{ {ports} }} dnat to {}; }}\n\
         chain post {{ type nat hook postrouting priority 100; \
         ip saddr 127.0.0.0/8 oifname \"eth0\" masquerade; }}\n}}\n",
        edge.address
    );
    let run = |program: &str, words: &[&str], input: &str| {
        let mut command = setting.lab.command(node, Path::new(program));
        command.args(words);
        command::run(command, input.as_bytes(), COMMAND_LIMIT, setting.stop)?.success()
    };
    // Packets from a loopback address may not leave a machine otherwise.
    run("tee", &["/proc/sys/net/ipv4/conf/all/route_localnet"], "1")?;
    run("nft", &["-f", "-"], &rules)?;
    Ok(())
}

/// Has a host's kernel send by the rules of one way to control congestion.
pub(super) fn control_congestion(
    setting: Setting<'_>,
    host: &Host,
    name: &str,
) -> Result<(), Error> {
    let mut command = setting.lab.command(host, Path::new("tee"));
    command.arg("/proc/sys/net/ipv4/tcp_congestion_control");
    command::run(command, name.as_bytes(), COMMAND_LIMIT, setting.stop)?.success().map(drop)
}

/// Is what was asked of the edge, and what it sent. A range, a length and a group list are a request each,
/// as they are on a bill; bytes are those of bodies, handed to the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    /// For blobs: whole, in ranges, and their lengths.
    pub(super) blob_requests: u64,
    /// Of blobs.
    pub(super) blob_bytes: u64,
    /// For group lists, and what the server does not understand.
    pub(super) other_requests: u64,
    /// Of group lists.
    pub(super) other_bytes: u64,
}

impl Served {
    /// Returns how many requests there were of any kind.
    pub(super) const fn requests(&self) -> u64 {
        self.blob_requests + self.other_requests
    }

    /// Returns how many bytes of any kind were sent.
    pub(super) const fn bytes(&self) -> u64 {
        self.blob_bytes + self.other_bytes
    }

    /// Returns what was served since an earlier moment.
    pub(super) const fn since(&self, before: &Self) -> Self {
        Self {
            blob_requests: self.blob_requests.saturating_sub(before.blob_requests),
            blob_bytes: self.blob_bytes.saturating_sub(before.blob_bytes),
            other_requests: self.other_requests.saturating_sub(before.other_requests),
            other_bytes: self.other_bytes.saturating_sub(before.other_bytes),
        }
    }

    const fn plus(&self, other: &Self) -> Self {
        Self {
            blob_requests: self.blob_requests + other.blob_requests,
            blob_bytes: self.blob_bytes + other.blob_bytes,
            other_requests: self.other_requests + other.other_requests,
            other_bytes: self.other_bytes + other.other_bytes,
        }
    }

    fn count_request(&mut self, is_blob: bool) {
        *(if is_blob { &mut self.blob_requests } else { &mut self.other_requests }) += 1;
    }

    fn count_bytes(&mut self, is_blob: bool, bytes: u64) {
        *(if is_blob { &mut self.blob_bytes } else { &mut self.other_bytes }) += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blob_lies_where_its_url_says() {
        assert_eq!(path_of("abcdef"), "blobs/ab/cdef");
    }
}
