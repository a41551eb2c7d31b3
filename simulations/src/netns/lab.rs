//! A lab: hosts as network namespaces of this machine, cabled by a bridge or a router.
//!
//! Everything of a lab lives in namespaces and in one temporary directory, both named after our
//! process id and a random tag; the machine's own network is not touched. A [`Lab`] removes all of
//! it when it is dropped, so also when a step fails, a signal comes or we panic. What a killed
//! process could not remove, the next lab does.
//!
//! A lab knows nothing about blobmesh: it runs commands in hosts. Delay and loss are not modelled;
//! links are as fast as the kernel copies.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use super::{command, error::Error, leftovers, stop::Stop, tools::Tools};

/// How long one `ip` or `nft` command may take; they take milliseconds.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// How long new interfaces may take until their addresses may be used; IPv6 takes a second or two
/// to detect duplicates of its link-local ones.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// The most hosts of one lab: one octet of an address holds them, and one machine bears them.
pub const HOSTS_MAX: u8 = 32;

/// Chooses how the hosts of a lab are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// All hosts on one bridge and in one subnet: they hear each other's multicast.
    Bridge,
    /// Every host in a subnet of its own behind one router, which forwards no multicast.
    Router,
}

/// Owns the namespaces and the directory of one experiment.
#[derive(Debug)]
pub struct Lab {
    tools: Tools,
    tag: String,
    hosts: Vec<Host>,
    namespaces: Vec<String>,
    /// Taken when the lab is kept.
    directory: Option<TempDir>,
    /// Waits of the clean-up, which no signal cuts short.
    cleanup: Stop,
}

/// Is one machine of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The name in the experiment: `n1`, `n2`, ….
    pub name: String,
    /// The address on its only network.
    pub address: Ipv4Addr,
    namespace: String,
}

impl Lab {
    /// Makes `hosts` connected hosts, at most [`HOSTS_MAX`], whose addresses are ready for use.
    ///
    /// Left-overs of earlier runs whose process is gone are removed first.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when this machine has no namespaces for us, [`Error::Interrupted`],
    /// and others when a step fails; nothing is left behind then.
    pub fn new(topology: Topology, hosts: u8, stop: &Stop) -> Result<Self, Error> {
        let tools = Tools::find()?;
        let cleanup = Stop::never()?;
        leftovers::sweep(&tools, &cleanup)?;
        let directory = tempfile::Builder::new()
            .prefix(&leftovers::directory_prefix(std::process::id()))
            .tempdir()
            .map_err(Error::system("make a temporary directory"))?;
        let tag = leftovers::tag_of(directory.path());
        let mut lab = Self {
            tools,
            tag,
            hosts: Vec::new(),
            namespaces: Vec::new(),
            directory: Some(directory),
            cleanup,
        };
        lab.probe(stop)?;
        match topology {
            Topology::Bridge => lab.bridge(hosts, stop)?,
            Topology::Router => lab.router(hosts, stop)?,
        }
        lab.settle(stop)?;
        Ok(lab)
    }

    /// Returns the hosts, `n1` first.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Returns one host, by its number from 1.
    ///
    /// # Errors
    /// [`Error::NoHost`] beyond the number of hosts the lab was made with.
    pub fn host(&self, number: u8) -> Result<&Host, Error> {
        let index = usize::from(number).checked_sub(1);
        index.and_then(|index| self.hosts.get(index)).ok_or(Error::NoHost { number })
    }

    /// Returns the lab's directory, for homes, logs and files.
    pub fn path(&self) -> &Path {
        self.directory.as_ref().map_or(Path::new(""), TempDir::path)
    }

    /// Makes a command that runs `program` in a host, without our own `BLOBMESH_*` environment.
    pub fn command(&self, host: &Host, program: &Path) -> Command {
        let mut command = Command::new(&self.tools.ip);
        command.args(["netns", "exec", &host.namespace]).arg(program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("BLOBMESH_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Drops all multicast that reaches a host, silently, as many office networks do.
    ///
    /// # Errors
    /// Those of a command that fails or is interrupted.
    pub fn mute_multicast(&self, host: &Host, stop: &Stop) -> Result<(), Error> {
        const RULES: &str = "table inet mute {\n\
            chain in {\n\
            type filter hook input priority 0;\n\
            udp dport 5353 drop\n\
            ip daddr 224.0.0.0/4 drop\n\
            ip6 daddr ff02::fb drop\n\
            }\n}\n";
        let mut command = self.command(host, &self.tools.nft);
        command.args(["-f", "-"]);
        command::run(command, RULES.as_bytes(), COMMAND_LIMIT, stop)?.success().map(drop)
    }

    /// Leaves the namespaces and the directory for inspection; returns what was left.
    ///
    /// The next lab of any process removes them, once our process is gone.
    pub fn keep(mut self) -> (PathBuf, Vec<String>) {
        let path = self.directory.take().map(TempDir::keep).unwrap_or_default();
        (path, std::mem::take(&mut self.namespaces))
    }

    /// Tries everything a lab needs of the kernel, so that a machine without is told from a failure.
    fn probe(&mut self, stop: &Stop) -> Result<(), Error> {
        let unavailable = |error| {
            let Error::Command { command, stderr, .. } = error else { return error };
            Error::Unavailable { reason: format!("`{command}` failed: {stderr}") }
        };
        let namespace = self.namespace("probe", stop).map_err(unavailable)?;
        self.ip_in(&namespace, "link add bridge0 type bridge", stop).map_err(unavailable)?;
        self.ip_in(&namespace, "link add one type veth peer name two", stop)
            .map_err(unavailable)?;
        let mut nft = Command::new(&self.tools.ip);
        nft.args(["netns", "exec", &namespace]).arg(&self.tools.nft).args(["list", "tables"]);
        let listed = command::run(nft, b"", COMMAND_LIMIT, stop)?;
        listed.success().map_err(unavailable)?;
        leftovers::remove_namespace(&self.tools, &namespace, &self.cleanup)?;
        self.namespaces.retain(|name| *name != namespace);
        Ok(())
    }

    fn bridge(&mut self, hosts: u8, stop: &Stop) -> Result<(), Error> {
        let switch = self.namespace("switch", stop)?;
        // Snooping would need a querier; without one a plain switch floods, as this one does.
        self.ip_in(&switch, "link add bridge0 type bridge stp_state 0 mcast_snooping 0", stop)?;
        // The gateway of an office LAN: hosts need a default route to send multicast without
        // naming an interface, and have one wherever people are.
        let gateway = Ipv4Addr::new(10, 77, 0, 254);
        self.ip_in(&switch, &format!("addr add {gateway}/24 dev bridge0"), stop)?;
        self.ip_in(&switch, "link set bridge0 up", stop)?;
        for number in 1..=hosts {
            let host = self.add_host(number, Ipv4Addr::new(10, 77, 0, number), &switch, stop)?;
            self.ip_in(&switch, &format!("link set port{number} master bridge0 up"), stop)?;
            self.ip_in(&host.namespace, &format!("route add default via {gateway}"), stop)?;
            self.hosts.push(host);
        }
        Ok(())
    }

    fn router(&mut self, hosts: u8, stop: &Stop) -> Result<(), Error> {
        let router = self.namespace("router", stop)?;
        self.forward(&router, stop)?;
        for number in 1..=hosts {
            let host = self.add_host(number, Ipv4Addr::new(10, 77, number, 2), &router, stop)?;
            let gateway = Ipv4Addr::new(10, 77, number, 1);
            self.ip_in(&router, &format!("addr add {gateway}/24 dev port{number}"), stop)?;
            self.ip_in(&router, &format!("link set port{number} up"), stop)?;
            self.ip_in(&host.namespace, &format!("route add default via {gateway}"), stop)?;
            self.hosts.push(host);
        }
        Ok(())
    }

    /// Makes a host with its interface `eth0`, cabled to `portN` of the namespace `to`.
    fn add_host(
        &mut self,
        number: u8,
        address: Ipv4Addr,
        to: &str,
        stop: &Stop,
    ) -> Result<Host, Error> {
        let name = format!("n{number}");
        let namespace = self.namespace(&name, stop)?;
        let cable = format!("link add eth0 type veth peer name port{number} netns {to}");
        self.ip_in(&namespace, &cable, stop)?;
        self.ip_in(&namespace, &format!("addr add {address}/24 dev eth0"), stop)?;
        self.ip_in(&namespace, "link set lo up", stop)?;
        self.ip_in(&namespace, "link set eth0 up", stop)?;
        Ok(Host { name, address, namespace })
    }

    fn forward(&self, namespace: &str, stop: &Stop) -> Result<(), Error> {
        let mut command = Command::new(&self.tools.ip);
        command.args(["netns", "exec", namespace, "tee", "/proc/sys/net/ipv4/ip_forward"]);
        command::run(command, b"1", COMMAND_LIMIT, stop)?.success().map(drop)
    }

    /// Makes a namespace. It is noted first, so that it is removed however the command ends.
    fn namespace(&mut self, role: &str, stop: &Stop) -> Result<String, Error> {
        let name = leftovers::namespace_name(std::process::id(), &self.tag, role);
        self.namespaces.push(name.clone());
        let mut command = Command::new(&self.tools.ip);
        command.args(["netns", "add", &name]);
        command::run(command, b"", COMMAND_LIMIT, stop)?.success()?;
        Ok(name)
    }

    /// Runs an `ip` command, given as words between spaces, in a namespace.
    fn ip_in(&self, namespace: &str, words: &str, stop: &Stop) -> Result<String, Error> {
        let mut command = Command::new(&self.tools.ip);
        command.args(["-n", namespace]).args(words.split_whitespace());
        Ok(command::run(command, b"", COMMAND_LIMIT, stop)?.success()?.stdout)
    }

    /// Waits until no address is tentative: a machine that people use has been up for a while.
    fn settle(&self, stop: &Stop) -> Result<(), Error> {
        let pause = Duration::from_millis(50);
        stop.until("addresses that are ready for use", SETTLE_LIMIT, pause, || {
            for host in &self.hosts {
                if !self.ip_in(&host.namespace, "-o addr show tentative", stop)?.is_empty() {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in self.namespaces.drain(..) {
            // Best effort: there is nobody to tell in a drop, and the next lab tries again.
            let _removed = leftovers::remove_namespace(&self.tools, &namespace, &self.cleanup);
        }
    }
}
