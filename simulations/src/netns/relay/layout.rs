//! What a shaped network looks like: sites of hosts, their uplinks, and hosts of the internet.
//!
//! Plain data without behaviour: [`Layout::check`] says whether it can be built, and nothing here knows
//! of namespaces or frames.

use std::{net::Ipv4Addr, time::Duration};

use crate::netns::{error::Error, lab::HOSTS_MAX};

/// The site number of hosts that stand in the internet, such as an edge.
pub(crate) const INTERNET: u8 = 0;

/// The last octet of a site's gateway; hosts are numbered below it.
const GATEWAY: u8 = 254;

/// Says how many bits a wire carries in a second; frames count with their Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    bits_per_second: u64,
}

impl Rate {
    /// Makes a rate of so many million bits per second.
    pub const fn mbit(mbit: u32) -> Self {
        Self::kbit(mbit.saturating_mul(1_000))
    }

    /// Makes a rate of so many thousand bits per second.
    pub const fn kbit(kbit: u32) -> Self {
        // A cast, because `From` is not const; it widens.
        Self { bits_per_second: kbit as u64 * 1_000 }
    }

    /// Returns the rate in bits per second.
    pub const fn bits_per_second(self) -> u64 {
        self.bits_per_second
    }

    /// Returns how long `bytes` take on the wire.
    pub fn time_of(self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 8_000_000_000 / u128::from(self.bits_per_second.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Returns how many whole bytes the wire carries in `time`.
    pub fn bytes_in(self, time: Duration) -> u64 {
        let bytes = time.as_nanos() * u128::from(self.bits_per_second) / 8_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// Says what one wire does to frames. Delay, jitter and loss apply in each direction by themselves, so
/// that two hosts with a delay of 5 ms have 10 ms between them and a round trip of 20 ms.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Link {
    /// The rate from the host, or out of the site; none where it is not limited.
    pub up: Option<Rate>,
    /// The rate to the host, or into the site.
    pub down: Option<Rate>,
    /// The time a bit takes from one end to the other.
    pub delay: Duration,
    /// The most that is added to the delay of a frame, evenly spread; frames never overtake each other.
    pub jitter: Duration,
    /// The share of frames that are lost, from 0 to 1.
    pub loss: f64,
}

impl Link {
    /// Makes a wire with the same rate in both directions and a delay.
    pub const fn new(rate: Rate, delay: Duration) -> Self {
        Self { up: Some(rate), down: Some(rate), delay, jitter: Duration::ZERO, loss: 0.0 }
    }

    /// Makes a wire that only takes time.
    pub const fn slow(delay: Duration) -> Self {
        Self { up: None, down: None, delay, jitter: Duration::ZERO, loss: 0.0 }
    }

    /// Says why a wire cannot be; none for one that can.
    fn problem(&self) -> Option<&'static str> {
        if !(0.0..=1.0).contains(&self.loss) {
            return Some("a loss that is not from 0 to 1");
        }
        let stopped = [self.up, self.down].into_iter().flatten().any(|rate| rate < Rate::kbit(1));
        stopped.then_some("a rate of 0; a partition stops traffic")
    }
}

/// Is a LAN: its hosts hear each other's multicast and share an uplink to the internet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Site {
    /// The wire of each host to the site's switch.
    pub hosts: Vec<Link>,
    /// The wire to the internet: `up` out of the site, `down` into it.
    pub uplink: Link,
}

/// Says which hosts there are and what their wires do.
///
/// Hosts are numbered from 1 through the sites in order and then the internet. Host H of site S, both from
/// 1, has the address 10.77.S.H; those of the internet have 10.77.0.H.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// The LANs, with one subnet each.
    pub sites: Vec<Site>,
    /// The wires of hosts that stand in no LAN, such as an edge; they hear no multicast.
    pub internet: Vec<Link>,
    /// Where losses and jitter start from: the same seed spoils the same frames of the same sequence.
    pub seed: u64,
}

impl Layout {
    /// Makes one LAN of equal hosts, without an internet.
    pub fn lan(hosts: u8, link: Link) -> Self {
        let site = Site { hosts: vec![link; hosts.into()], uplink: Link::default() };
        Self { sites: vec![site], ..Self::default() }
    }

    /// Returns address and wire of each host, in the order of their numbers.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = (Ipv4Addr, Link)> {
        let lans = self.sites.iter().map(|site| &site.hosts);
        (INTERNET + 1..).zip(lans).chain([(INTERNET, &self.internet)]).flat_map(|(site, links)| {
            (1..).zip(links).map(move |(host, link)| (Ipv4Addr::new(10, 77, site, host), *link))
        })
    }

    /// Returns the wire of each host, in the same order.
    pub(crate) fn links_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.sites.iter_mut().flat_map(|site| &mut site.hosts).chain(&mut self.internet)
    }

    /// Returns the wires that frames of a host may cross, by its index from 0: the rate in their direction,
    /// and the loss.
    pub(crate) fn wires_from(&self, host: usize) -> impl Iterator<Item = (Option<Rate>, f64)> {
        let site_of_index = |index| self.hosts().nth(index).map(|(address, _)| site_of(address));
        let own = site_of_index(host);
        let leaves = self.hosts().any(|(address, _)| Some(site_of(address)) != own);
        let hosts = self.hosts().enumerate().map(move |(index, (_, link))| {
            (if index == host { link.up } else { link.down }, link.loss)
        });
        let uplinks = (INTERNET + 1..).zip(&self.sites).map(move |(site, Site { uplink, .. })| {
            (if Some(site) == own { uplink.up } else { uplink.down }, uplink.loss)
        });
        hosts.chain(uplinks.filter(move |_| leaves))
    }

    /// Returns all wires.
    pub(crate) fn links(&self) -> impl Iterator<Item = Link> {
        let uplinks = self.sites.iter().map(|site| site.uplink);
        self.hosts().map(|(_, link)| link).chain(uplinks)
    }

    /// Refuses what cannot be built.
    ///
    /// # Errors
    /// [`Error::Layout`] saying what is wrong.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let most = usize::from(HOSTS_MAX);
        // Counted before anything is numbered: numbers are octets.
        let hosts: usize = self.sites.iter().map(|site| site.hosts.len()).sum();
        if self.sites.len() > most || hosts.saturating_add(self.internet.len()) > most {
            return Err(Error::Layout { problem: format!("more than {most} hosts or sites") });
        }
        match self.links().find_map(|link| link.problem()) {
            Some(problem) => Err(Error::Layout { problem: problem.to_owned() }),
            None => Ok(()),
        }
    }
}

/// Returns the site of an address of a layout.
pub(crate) fn site_of(address: Ipv4Addr) -> u8 {
    let [_, _, site, _] = address.octets();
    site
}

/// Returns the gateway in the subnet of an address.
pub(crate) fn gateway_of(address: Ipv4Addr) -> Ipv4Addr {
    let [net, mesh, site, _] = address.octets();
    Ipv4Addr::new(net, mesh, site, GATEWAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_time_agree() {
        assert_eq!(Rate::mbit(100).time_of(12_500_000), Duration::from_secs(1));
        assert_eq!(Rate::mbit(100).bytes_in(Duration::from_millis(1)), 12_500);
        assert_eq!(Rate::kbit(8).time_of(1), Duration::from_millis(1));
    }

    #[test]
    fn hosts_are_numbered_through_sites_and_then_the_world() {
        let mut layout = Layout::lan(2, Link::default());
        layout.sites.push(Site { hosts: vec![Link::default()], ..Site::default() });
        layout.internet.push(Link::default());
        let addresses: Vec<String> =
            layout.hosts().map(|(address, _)| address.to_string()).collect();
        assert_eq!(addresses, ["10.77.1.1", "10.77.1.2", "10.77.2.1", "10.77.0.1"]);
    }

    #[test]
    fn layout_that_cannot_be_is_refused() {
        let lan = |link| Layout::lan(2, link).check();
        assert!(lan(Link::default()).is_ok());
        for loss in [-0.1, 1.1, f64::NAN] {
            assert!(lan(Link { loss, ..Link::default() }).is_err(), "{loss}");
        }
        assert!(lan(Link::new(Rate::mbit(0), Duration::ZERO)).is_err());
        assert!(Layout::lan(HOSTS_MAX, Link::default()).check().is_ok());
        assert!(Layout::lan(HOSTS_MAX + 1, Link::default()).check().is_err());
        let mut spoilt_uplink = Layout::lan(1, Link::default());
        spoilt_uplink.sites[0].uplink.loss = 2.0;
        assert!(spoilt_uplink.check().is_err());
    }
}
