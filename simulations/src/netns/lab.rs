//! A lab: hosts as network namespaces of this machine, cabled by a bridge, a router or a relay.
//!
//! Everything of a lab lives in namespaces and in one temporary directory, both named after our
//! process id and a random tag; the machine's own network is not touched. A [`Lab`] removes all of
//! it when it is dropped, so also when a step fails, a signal comes or we panic. What a killed
//! process could not remove, the next lab does.
//!
//! A lab knows nothing about blobmesh: it runs commands in hosts. Behind a bridge or a router links are
//! as fast as the kernel copies; delay, loss, rates and partitions take a [`relay`](super::relay).

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use super::{
    command,
    error::Error,
    leftovers, memory,
    relay::{Layout, Network, frame::Mac, layout::gateway_of},
    stop::Stop,
    tools::Tools,
};

/// How long one `ip` or `nft` command may take; they take milliseconds.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// How long new interfaces may take until their addresses may be used; IPv6 takes a second or two
/// to detect duplicates of its link-local ones.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// Up to a round trip of two to the power of so many microseconds, 16 ms, the kernel joins segments of TCP to the longest
/// frame whatever the flow's rate; by itself up to half a millisecond.
const JOINED_RTT_LOG: &str = "14";

/// The most hosts of one lab: one octet of an address holds them, and one machine bears them.
pub const HOSTS_MAX: u8 = 32;

/// Chooses how the hosts of a lab are connected.
#[derive(Clone, Copy, Debug)]
pub enum Topology {
    /// All hosts on one bridge and in one subnet: they hear each other's multicast.
    Bridge,
    /// Every host in a subnet of its own behind one router, which forwards no multicast.
    Router,
    /// Behind a relay, with the wires of a layout that is made for a number of nodes.
    Relay(fn(u8) -> Layout),
}

/// Owns the namespaces and the directory of one experiment.
#[derive(Debug)]
pub struct Lab {
    tools: Tools,
    tag: String,
    hosts: Vec<Host>,
    namespaces: Vec<String>,
    /// Only behind a relay.
    network: Option<Network>,
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

impl Host {
    /// Returns the name of the host's namespace.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }
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
        let mut lab = Self::empty(stop)?;
        match topology {
            Topology::Bridge => lab.bridge(hosts, stop)?,
            Topology::Router => lab.router(hosts, stop)?,
            Topology::Relay(layout) => lab.relay(&layout(hosts), stop)?,
        }
        lab.settle(stop)?;
        Ok(lab)
    }

    /// Makes the hosts of a layout, with wires between them that do what it says.
    ///
    /// # Errors
    /// As of [`new`](Self::new), and [`Error::Layout`] for one that cannot be.
    pub fn shaped(layout: &Layout, stop: &Stop) -> Result<Self, Error> {
        let mut lab = Self::empty(stop)?;
        lab.relay(layout, stop)?;
        lab.settle(stop)?;
        Ok(lab)
    }

    /// Makes a lab without hosts, once it is known that this machine can have them.
    fn empty(stop: &Stop) -> Result<Self, Error> {
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
            network: None,
            directory: Some(directory),
            cleanup,
        };
        lab.probe(stop)?;
        Ok(lab)
    }

    /// Touches as much of this machine's memory as a run is going to fill, so that the run need not wait for it.
    ///
    /// # Errors
    /// [`Error::Interrupted`], and [`Error::System`] on a kernel without files in memory.
    pub fn touch_memory(&self, bytes: u64, stop: &Stop) -> Result<(), Error> {
        memory::touch(bytes, stop)
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

    /// Returns the network whose wires can be changed.
    ///
    /// # Errors
    /// [`Error::NoRelay`] behind a bridge or a router.
    pub fn network(&self) -> Result<&Network, Error> {
        self.network.as_ref().ok_or(Error::NoRelay)
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
        let mac = Mac::of(address);
        let cable =
            format!("link add eth0 address {mac} type veth peer name port{number} netns {to}");
        self.ip_in(&namespace, &cable, stop)?;
        self.ip_in(&namespace, &format!("addr add {address}/24 dev eth0"), stop)?;
        self.ip_in(&namespace, "link set lo up", stop)?;
        self.ip_in(&namespace, "link set eth0 up", stop)?;
        Ok(Host { name, address, namespace })
    }

    /// Cables every host to a device that only the relay reads, and starts the relay.
    fn relay(&mut self, layout: &Layout, stop: &Stop) -> Result<(), Error> {
        layout.check()?;
        let switch = self.namespace("switch", stop)?;
        let indexes = first_device_index(&self.tag)..;
        let mut devices = Vec::new();
        for ((number, index), (address, _)) in (1..).zip(indexes).zip(layout.hosts()) {
            let host = self.add_host(number, address, &switch, stop)?;
            self.join_segments(&host.namespace, stop)?;
            devices.push(self.add_device(number, index, &switch, stop)?);
            let gateway = gateway_of(address);
            self.ip_in(&host.namespace, &format!("route add default via {gateway}"), stop)?;
            // Nobody answers for the gateway: the relay routes what is sent to its address.
            let known = format!("neigh add {gateway} lladdr {} dev eth0", Mac::of(gateway));
            self.ip_in(&host.namespace, &known, stop)?;
            self.hosts.push(host);
        }
        self.network = Some(Network::start(layout, &self.hosts, &devices, &self.tools, stop)?);
        Ok(())
    }

    /// Makes the device that takes all frames of `portN`; returns the path of its node.
    fn add_device(
        &self,
        number: u8,
        index: u32,
        switch: &str,
        stop: &Stop,
    ) -> Result<PathBuf, Error> {
        let node = PathBuf::from(format!("/dev/tap{index}"));
        if node.exists() {
            let taken = std::io::ErrorKind::AlreadyExists.into();
            return Err(Error::file("make the device", &node)(taken));
        }
        // Without addresses: the switch's own kernel is to say nothing to the host.
        self.ip_in(switch, &format!("link set port{number} addrgenmode none up"), stop)?;
        let words = format!(
            "link add link port{number} name tap{number} index {index} type macvtap mode passthru"
        );
        self.ip_in(switch, &words, stop).map_err(unavailable)?;
        // It would be given the multicast only of groups that somebody joined on it.
        let up = format!("link set tap{number} addrgenmode none allmulticast on up");
        self.ip_in(switch, &up, stop)?;
        if node.exists() {
            return Ok(node);
        }
        Err(Error::Unavailable { reason: format!("the kernel made no {}", node.display()) })
    }

    fn forward(&self, namespace: &str, stop: &Stop) -> Result<(), Error> {
        self.set(namespace, "ip_forward", "1", stop)
    }

    /// Has the kernel hand over TCP in frames as long as the wires allow, though each flow is slow: it would make them
    /// short for the sake of the burst, which the wires bound already, and each costs the relay the same.
    fn join_segments(&self, namespace: &str, stop: &Stop) -> Result<(), Error> {
        self.set(namespace, "tcp_tso_rtt_log", JOINED_RTT_LOG, stop)
    }

    /// Gives a namespace's kernel another setting of IPv4.
    fn set(&self, namespace: &str, key: &str, value: &str, stop: &Stop) -> Result<(), Error> {
        let mut command = Command::new(&self.tools.ip);
        command.args(["netns", "exec", namespace, "tee", &format!("/proc/sys/net/ipv4/{key}")]);
        command::run(command, value.as_bytes(), COMMAND_LIMIT, stop)?.success().map(drop)
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

/// Says that a machine cannot do what a command asked of it, which is no failure of ours.
fn unavailable(error: Error) -> Error {
    let Error::Command { command, stderr, .. } = error else { return error };
    Error::Unavailable { reason: format!("`{command}` failed: {stderr}") }
}

/// Returns the first of the numbers of interfaces that get a node in `/dev`, where all namespaces share
/// the names: far from those the kernel gives, and labs at the same time far from each other.
fn first_device_index(tag: &str) -> u32 {
    let mixed = tag.bytes().fold(0_u32, |mixed, byte| mixed.wrapping_mul(61) ^ u32::from(byte));
    // 22 bits for the lab, 8 for its hosts, and what results is a positive `int`.
    (1 << 30) | ((mixed << 8) & 0x3fff_ff00)
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Before its devices go: it would take their end for a failure.
        drop(self.network.take());
        for namespace in self.namespaces.drain(..) {
            // Best effort: there is nobody to tell in a drop, and the next lab tries again.
            let _removed = leftovers::remove_namespace(&self.tools, &namespace, &self.cleanup);
        }
    }
}
