//! What the relay reads of a frame, and the two addresses it writes when it routes one.
//!
//! A frame comes from a device with a virtio header before it. Where that says so, the frame stands for
//! several packets of one TCP stream that the kernel has not cut yet; header and frame go on together,
//! and the receiving kernel takes them as one. Bytes come from whatever runs in a host: nothing here
//! believes a length or an offset before it is looked up.

use std::{fmt, net::Ipv4Addr};

/// The length of the virtio header, as these devices have it unless told otherwise.
const HEADER_BYTES: usize = 10;

/// The longest frame with its header: a packet of 65,535 bytes behind an Ethernet header and a tag.
pub(super) const FRAME_BYTES_MAX: usize = HEADER_BYTES + 18 + 65_535;

/// Where the fields lie, counted from the start of the Ethernet header.
const SOURCE: usize = 6;
const ETHERTYPE: usize = 12;
const IPV4_DESTINATION: usize = 30;

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];

/// Kinds of a frame that is to be cut, in the second byte of the virtio header.
const KIND_NONE: u8 = 0;
const KIND_UDP: u8 = 5;
/// Marks that the packets carry congestion notification; not a kind of its own.
const KIND_ECN: u8 = 0x80;

/// Is the address of an interface. Each of ours is made of its IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mac([u8; 6]);

impl Mac {
    /// Returns the address of the interface that has an IPv4 address.
    pub(crate) fn of(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        // 02: not given by a manufacturer.
        Self([0x02, 0, a, b, c, d])
    }

    /// Returns the IPv4 address an interface of ours has; none for foreign addresses.
    pub(super) fn ipv4(self) -> Option<Ipv4Addr> {
        let [0x02, 0, a, b, c, d] = self.0 else { return None };
        Some(Ipv4Addr::new(a, b, c, d))
    }

    /// Returns whether this is multicast or broadcast.
    pub(super) fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Returns whom a frame is for; none for one that is cut short.
pub(super) fn destination(frame: &[u8]) -> Option<Mac> {
    field(frame, 0).map(Mac)
}

/// Returns the IPv4 destination of a frame that carries IPv4.
pub(super) fn ipv4_destination(frame: &[u8]) -> Option<Ipv4Addr> {
    if field(frame, ETHERTYPE)? != ETHERTYPE_IPV4 {
        return None;
    }
    field::<4>(frame, IPV4_DESTINATION).map(Ipv4Addr::from)
}

/// Writes new Ethernet addresses into a frame, as a router does.
pub(super) fn readdress(frame: &mut [u8], to: Mac, from: Mac) {
    let both = HEADER_BYTES..HEADER_BYTES + 2 * SOURCE;
    if let Some(addresses) = frame.get_mut(both) {
        let (destination, source) = addresses.split_at_mut(SOURCE);
        destination.copy_from_slice(&to.0);
        source.copy_from_slice(&from.0);
    }
}

/// Returns how many bytes a frame takes on a wire: each packet it stands for has headers of its own.
pub(super) fn wire_bytes(frame: &[u8]) -> u64 {
    let whole = frame.len().saturating_sub(HEADER_BYTES);
    let again = repeated_header_bytes(frame, whole).unwrap_or_default();
    whole.saturating_add(again) as u64
}

/// Returns the length of the headers that packets after the first will have; none for one packet.
fn repeated_header_bytes(frame: &[u8], whole: usize) -> Option<usize> {
    let header: &[u8; HEADER_BYTES] = frame.first_chunk()?;
    let [_, kind, _, _, size_low, size_high, start_low, start_high, ..] = *header;
    let packet_bytes = usize::from(native([size_low, size_high]));
    if kind == KIND_NONE || packet_bytes == 0 {
        return None;
    }
    let start = usize::from(native([start_low, start_high]));
    let transport = if kind & !KIND_ECN == KIND_UDP {
        8
    } else {
        let [offset] = field(frame, start.checked_add(12)?)?;
        usize::from(offset >> 4) * 4
    };
    let headers = start + transport;
    let packets = whole.checked_sub(headers)?.div_ceil(packet_bytes);
    Some(packets.saturating_sub(1).saturating_mul(headers))
}

/// Reads a number of the virtio header: these devices have it in the machine's own order.
fn native(bytes: [u8; 2]) -> u16 {
    let little = u16::from_le_bytes(bytes);
    if cfg!(target_endian = "big") { little.swap_bytes() } else { little }
}

/// Returns bytes at an offset from the start of the Ethernet header.
fn field<const N: usize>(frame: &[u8], offset: usize) -> Option<[u8; N]> {
    frame.get(HEADER_BYTES.checked_add(offset)?..)?.first_chunk().copied()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Makes an IPv4 frame of `bytes` bytes without its virtio header, which says nothing.
    pub(in super::super) fn ipv4(from: Ipv4Addr, to: Ipv4Addr, via: Mac, bytes: usize) -> Vec<u8> {
        let mut frame = vec![0; HEADER_BYTES + bytes];
        readdress(&mut frame, via, Mac::of(from));
        frame[HEADER_BYTES + ETHERTYPE..][..2].copy_from_slice(&ETHERTYPE_IPV4);
        frame[HEADER_BYTES + IPV4_DESTINATION..][..4].copy_from_slice(&to.octets());
        frame
    }

    const A: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 1);
    const B: Ipv4Addr = Ipv4Addr::new(10, 77, 2, 1);

    #[test]
    fn addresses_are_read_and_rewritten() {
        let gateway = Mac::of(Ipv4Addr::new(10, 77, 1, 254));
        let mut frame = ipv4(A, B, gateway, 60);
        assert_eq!(destination(&frame), Some(gateway));
        assert_eq!(ipv4_destination(&frame), Some(B));
        readdress(&mut frame, Mac::of(B), gateway);
        assert_eq!(destination(&frame).and_then(Mac::ipv4), Some(B));
        assert_eq!(ipv4_destination(&frame), Some(B));
    }

    #[test]
    fn frame_cut_short_anywhere_is_no_panic() {
        let mut frame = ipv4(A, B, Mac::of(B), 60);
        frame[1] = 1;
        frame[4] = 1;
        frame[6] = 34;
        for length in 0..frame.len() {
            let cut = &mut frame.clone()[..length];
            readdress(cut, Mac::of(A), Mac::of(B));
            assert_eq!(destination(cut).is_some(), length >= HEADER_BYTES + 6);
            assert_eq!(ipv4_destination(cut).is_some(), length >= HEADER_BYTES + 34);
            assert!(wire_bytes(cut) >= length.saturating_sub(HEADER_BYTES) as u64);
        }
    }

    #[test]
    fn uncut_tcp_counts_as_the_packets_it_becomes() {
        // Ethernet 14, IPv4 20, TCP 32: 66 bytes of headers before three packets, the last one short.
        let mut frame = ipv4(A, B, Mac::of(B), 66 + 2 * 1448 + 10);
        assert_eq!(wire_bytes(&frame), 66 + 2 * 1448 + 10);
        frame[1] = 1;
        frame[4..6].copy_from_slice(&1448_u16.to_le_bytes());
        frame[6..8].copy_from_slice(&34_u16.to_le_bytes());
        frame[HEADER_BYTES + 34 + 12] = 8 << 4;
        assert_eq!(wire_bytes(&frame), 3 * 66 + 2 * 1448 + 10);
    }

    #[test]
    fn multicast_and_broadcast_are_groups() {
        assert!(Mac([0xff; 6]).is_group() && Mac([0x01, 0, 0x5e, 0, 0, 0xfb]).is_group());
        assert!(!Mac::of(A).is_group());
        assert_eq!(Mac::of(A).to_string(), "02:00:0a:4d:01:01");
        assert_eq!(Mac([0x33, 0x33, 0, 0, 0, 0xfb]).ipv4(), None);
    }
}
