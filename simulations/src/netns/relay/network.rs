//! The handle of a shaped network: experiments change wires, cut hosts apart and read what passed.

use std::{
    net::Ipv4Addr,
    path::Path,
    process::Command,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{
    Counters, Cutting, Layout, Link,
    layout::INTERNET,
    switch::{HostIndex, Switch},
    worker::{self, Worker},
};
use crate::netns::{command, error::Error, lab::Host, stop::Stop, tools::Tools};

/// How long one `ip` command may take; they take milliseconds.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// Names one side of a partition.
#[derive(Clone, Copy, Debug)]
pub enum Side<'a> {
    /// One host.
    Host(&'a Host),
    /// All hosts of a site, by its number from 1.
    Site(u8),
    /// All hosts that stand in no site.
    Internet,
    /// All hosts; as the other side of one it means all others.
    Everyone,
}

/// Is a running network with wires that can be changed. The lab owns it, and ends it.
#[derive(Debug)]
pub struct Network {
    worker: Worker,
    hosts: Vec<Host>,
    /// The wires as they are now.
    layout: Mutex<Layout>,
    tools: Tools,
}

impl Network {
    /// Starts to carry frames between hosts, whose devices are given in the layout's order.
    ///
    /// # Errors
    /// [`Error::File`] and [`Error::System`], and those of commands that fail.
    pub(in crate::netns) fn start(
        layout: &Layout,
        hosts: &[Host],
        devices: &[impl AsRef<Path>],
        tools: &Tools,
        stop: &Stop,
    ) -> Result<Self, Error> {
        let devices = devices.iter().map(|path| worker::open(path.as_ref()));
        let devices = devices.collect::<Result<Vec<_>, Error>>()?;
        let network = Self {
            worker: Worker::start(Switch::new(layout), devices)?,
            hosts: hosts.to_vec(),
            layout: Mutex::new(layout.clone()),
            tools: tools.clone(),
        };
        network.hurry(stop);
        network.cut_frames(&Cutting::all(layout), stop)?;
        Ok(network)
    }

    /// Gives a host's wire other properties. Frames under way keep their times.
    ///
    /// # Errors
    /// [`Error::Layout`] for a wire that cannot be, [`Error::NoHost`] for a host of another lab, and
    /// those of [`check`](Self::check) and of commands that fail.
    pub fn set_link(&self, host: &Host, link: Link, stop: &Stop) -> Result<(), Error> {
        let index = self.index_of(host.address)?;
        self.change(stop, |layout| {
            *layout.links_mut().nth(index).ok_or_else(|| no_host(index))? = link;
            Ok(())
        })?;
        self.worker.lock().switch.set_host(index, &link);
        self.check()
    }

    /// Gives the uplink of a site, by its number from 1, other properties.
    ///
    /// # Errors
    /// As of [`set_link`](Self::set_link), and [`Error::Layout`] where there is no such site.
    pub fn set_uplink(&self, site: u8, link: Link, stop: &Stop) -> Result<(), Error> {
        self.change(stop, |layout| {
            let index = usize::from(site).checked_sub(1);
            let found = index.and_then(|index| layout.sites.get_mut(index));
            found.ok_or_else(|| no_site(site))?.uplink = link;
            Ok(())
        })?;
        self.worker.lock().switch.set_uplink(site, &link);
        self.check()
    }

    /// Cuts all hosts of one side from all hosts of the other; what is under way between them is lost.
    ///
    /// # Errors
    /// [`Error::NoHost`] and [`Error::Layout`] for a side that is not there, and those of
    /// [`check`](Self::check).
    pub fn partition(&self, a: Side<'_>, b: Side<'_>) -> Result<(), Error> {
        self.cut(a, b, true)
    }

    /// Lets all hosts of one side reach all hosts of the other again, whatever cut them apart.
    ///
    /// # Errors
    /// As of [`partition`](Self::partition).
    pub fn heal(&self, a: Side<'_>, b: Side<'_>) -> Result<(), Error> {
        self.cut(a, b, false)
    }

    /// Returns what passed so far.
    ///
    /// # Errors
    /// Those of [`check`](Self::check): figures of a network that stopped are worth nothing.
    pub fn counters(&self) -> Result<Counters, Error> {
        self.check()?;
        let shared = self.worker.lock();
        Ok(Counters {
            hosts: shared.switch.host_traffic(),
            uplinks: shared.switch.uplink_traffic(),
            dropped_frames: shared.switch.dropped_frames,
            pace: shared.pace,
        })
    }

    /// Returns an error when the network carries nothing any more.
    ///
    /// # Errors
    /// [`Error::System`] saying what ended it.
    pub fn check(&self) -> Result<(), Error> {
        self.worker.check()
    }

    /// Asks for real-time priority, so that busy nodes do not make frames late. Best effort: not every
    /// machine grants it, and what it would have helped is counted as late.
    fn hurry(&self, stop: &Stop) {
        let mut command = Command::new("chrt");
        command.args(["--fifo", "--pid", "1", &self.worker.id.to_string()]);
        let _granted = command::run(command, b"", COMMAND_LIMIT, stop);
    }

    /// Notes a change of the layout, once it is known to be possible, and has hosts cut frames for it.
    fn change(
        &self,
        stop: &Stop,
        change: impl FnOnce(&mut Layout) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut layout = self.layout.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = layout.clone();
        change(&mut changed)?;
        changed.check()?;
        let cuttings = Cutting::all(&changed);
        if cuttings != Cutting::all(&layout) {
            self.cut_frames(&cuttings, stop)?;
        }
        *layout = changed;
        Ok(())
    }

    /// Tells each host how long the frames may be that it hands over.
    fn cut_frames(&self, cuttings: &[Cutting], stop: &Stop) -> Result<(), Error> {
        for (host, Cutting { bytes_max, packets_max }) in self.hosts.iter().zip(cuttings) {
            let words =
                format!("link set eth0 gso_max_size {bytes_max} gso_max_segs {packets_max}");
            let mut command = Command::new(&self.tools.ip);
            command.args(["-n", host.namespace()]).args(words.split(' '));
            command::run(command, b"", COMMAND_LIMIT, stop)?.success()?;
        }
        Ok(())
    }

    fn cut(&self, a: Side<'_>, b: Side<'_>, cut: bool) -> Result<(), Error> {
        let (a, b) = (self.hosts_of(a)?, self.hosts_of(b)?);
        let mut shared = self.worker.lock();
        for one in &a {
            for other in &b {
                shared.switch.cut(*one, *other, cut);
            }
        }
        drop(shared);
        self.check()
    }

    fn hosts_of(&self, side: Side<'_>) -> Result<Vec<HostIndex>, Error> {
        let of_site = |site| self.worker.lock().switch.hosts_of(site).collect::<Vec<HostIndex>>();
        match side {
            Side::Host(host) => Ok(vec![self.index_of(host.address)?]),
            Side::Internet => Ok(of_site(INTERNET)),
            Side::Everyone => Ok((0..self.hosts.len()).collect()),
            Side::Site(site) => match of_site(site) {
                hosts if site == INTERNET || hosts.is_empty() => Err(no_site(site)),
                hosts => Ok(hosts),
            },
        }
    }

    fn index_of(&self, address: Ipv4Addr) -> Result<HostIndex, Error> {
        let index = self.worker.lock().switch.find(address);
        index.ok_or_else(|| Error::Layout { problem: format!("no host {address}") })
    }
}

fn no_host(index: HostIndex) -> Error {
    Error::Layout { problem: format!("no host n{}", index + 1) }
}

fn no_site(site: u8) -> Error {
    Error::Layout { problem: format!("no site {site} with hosts") }
}
