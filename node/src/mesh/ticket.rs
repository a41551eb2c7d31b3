//! How a newcomer is brought into a mesh.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, DecodeKind};

use super::MeshKey;
use crate::secret_file::SECRET_BYTES;

const CONTEXT_CHECKSUM: &str = "blobmesh 2026-11 ticket checksum v1";

/// Brings a newcomer into a mesh: the mesh key and where members may be found.
///
/// Its text, `bm1` and base32 digits, **is the key**: it belongs into a prompt, a pipe or an
/// environment variable, never into an argument list or a log. `Debug` does not show it. The bytes
/// under the base32 are a version (1), the key, the number of addresses, for each its length and its
/// characters, and four bytes of checksum over all before, against slips of the hand only.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket {
    key: MeshKey,
    addresses: Vec<String>,
}

/// Says why a text is not a ticket, without repeating any of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// The text does not look like a ticket at all.
    #[error("this is not a ticket: one begins with bm1, and letters a-z and digits 2-7 follow")]
    Garbage,
    /// The ticket is of a version this program does not know.
    #[error("this ticket is of a version that this program does not know")]
    Version,
    /// The end of the ticket is missing.
    #[error("this ticket is cut short")]
    Truncated,
    /// Some characters of the ticket are wrong.
    #[error("this ticket has wrong characters: its checksum does not match")]
    Checksum,
    /// The text is longer than any ticket.
    #[error("this is not a ticket: one has at most {} characters", Ticket::TEXT_LEN_MAX)]
    TooLong,
    /// The ticket's key is known to everybody.
    #[error("the mesh key of this ticket is known to everybody and keeps nobody out")]
    KnownKey,
    /// An address cannot be carried, or there are too many.
    #[error(
        "a ticket carries at most {} addresses of at most {} printable characters",
        Ticket::ADDRESSES_MAX,
        Ticket::ADDRESS_LEN_MAX
    )]
    Addresses,
}

impl Ticket {
    /// The most addresses a ticket carries.
    pub const ADDRESSES_MAX: usize = 4;
    /// The length of the longest address a ticket carries, in characters.
    pub const ADDRESS_LEN_MAX: usize = 160;
    /// The length of the longest ticket, in characters.
    pub const TEXT_LEN_MAX: usize = 1_200;

    const PREFIX: &str = "bm1";
    const VERSION: u8 = 1;
    const CHECKSUM_BYTES: usize = 4;
    const HEADER_BYTES: usize = 1 + SECRET_BYTES + 1;

    /// Makes a ticket of a key and the first few of `addresses`, each `/ip4/…/tcp/…/p2p/…`.
    ///
    /// # Errors
    /// [`TicketError::Addresses`] for too many addresses, for a long one and for one with blanks, and
    /// [`TicketError::KnownKey`] for an open mesh, which needs no ticket.
    pub fn new(key: MeshKey, addresses: Vec<String>) -> Result<Self, TicketError> {
        if key.is_open() {
            return Err(TicketError::KnownKey);
        }
        if addresses.len() > Self::ADDRESSES_MAX || !addresses.iter().all(|text| fits(text)) {
            return Err(TicketError::Addresses);
        }
        Ok(Self { key, addresses })
    }

    /// Returns the mesh key.
    pub fn key(&self) -> &MeshKey {
        &self.key
    }

    /// Returns addresses of members, to be dialled in any order; there may be none.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        bytes.extend_from_slice(&self.key.0);
        bytes.push(small(self.addresses.len()));
        for address in &self.addresses {
            bytes.push(small(address.len()));
            bytes.extend_from_slice(address.as_bytes());
        }
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, TicketError> {
        match bytes.first() {
            None => return Err(TicketError::Truncated),
            Some(&Self::VERSION) => {}
            Some(_) => return Err(TicketError::Version),
        }
        let Some((body, sum)) = bytes.split_last_chunk::<{ Self::CHECKSUM_BYTES }>() else {
            return Err(TicketError::Truncated);
        };
        if *sum != checksum(body) {
            // The lengths inside tell a missing end from a wrong character, unless that hit a length.
            let cut = Self::whole_len(bytes).is_none_or(|whole| bytes.len() < whole);
            return Err(if cut { TicketError::Truncated } else { TicketError::Checksum });
        }
        Self::decode_body(body)
    }

    /// Returns the length that the lengths inside promise; none where one of them is missing.
    fn whole_len(bytes: &[u8]) -> Option<usize> {
        let count = *bytes.get(Self::HEADER_BYTES - 1)?;
        let mut end = Self::HEADER_BYTES;
        for _ in 0..count {
            end += 1 + usize::from(*bytes.get(end)?);
        }
        Some(end + Self::CHECKSUM_BYTES)
    }

    /// Reads what the checksum covers; what is wrong here was made by a program, not by a slip.
    fn decode_body(body: &[u8]) -> Result<Self, TicketError> {
        let (_version, rest) = body.split_first().ok_or(TicketError::Garbage)?;
        let (key, rest) = rest.split_first_chunk().ok_or(TicketError::Garbage)?;
        let (count, mut rest) = rest.split_first().ok_or(TicketError::Garbage)?;
        let mut addresses = Vec::new();
        for _ in 0..(*count).min(small(Self::ADDRESSES_MAX + 1)) {
            let (len, tail) = rest.split_first().ok_or(TicketError::Garbage)?;
            let (text, tail) =
                tail.split_at_checked(usize::from(*len)).ok_or(TicketError::Garbage)?;
            addresses.push(str::from_utf8(text).map_err(|_| TicketError::Addresses)?.to_owned());
            rest = tail;
        }
        let key = MeshKey::from_bytes(*key).map_err(|_| TicketError::KnownKey)?;
        let ticket = Self::new(key, addresses)?;
        if rest.is_empty() { Ok(ticket) } else { Err(TicketError::Garbage) }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("key", &self.key)
            .field("addresses", &self.addresses)
            .finish()
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = BASE32_NOPAD.encode(&self.encode()).to_ascii_lowercase();
        write!(f, "{}{digits}", Self::PREFIX)
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads a ticket; blanks around it and upper case do no harm.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        if text.len() > Self::TEXT_LEN_MAX {
            return Err(TicketError::TooLong);
        }
        let text = text.to_ascii_uppercase();
        let Some(rest) = text.strip_prefix("BM") else { return Err(TicketError::Garbage) };
        let Some(digits) = rest.strip_prefix('1') else {
            let other = rest.starts_with(|next: char| next.is_ascii_digit());
            return Err(if other { TicketError::Version } else { TicketError::Garbage });
        };
        let bytes = BASE32_NOPAD.decode(digits.as_bytes()).map_err(|error| match error.kind {
            // Both come from a number of characters that no ticket has.
            DecodeKind::Length | DecodeKind::Trailing => TicketError::Truncated,
            DecodeKind::Symbol | DecodeKind::Padding => TicketError::Garbage,
        })?;
        Self::decode(&bytes)
    }
}

fn fits(address: &str) -> bool {
    (1..=Ticket::ADDRESS_LEN_MAX).contains(&address.len())
        && address.bytes().all(|byte| byte.is_ascii_graphic())
}

fn checksum(body: &[u8]) -> [u8; Ticket::CHECKSUM_BYTES] {
    let digest = blake3::derive_key(CONTEXT_CHECKSUM, body);
    let mut sum = [0; Ticket::CHECKSUM_BYTES];
    sum.copy_from_slice(&digest[..Ticket::CHECKSUM_BYTES]);
    sum
}

/// Narrows a length that a bound above keeps below 256.
fn small(len: usize) -> u8 {
    debug_assert!(u8::try_from(len).is_ok(), "bounded by ADDRESSES_MAX and ADDRESS_LEN_MAX");
    u8::try_from(len).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: &str = "/ip4/192.0.2.7/tcp/4001/p2p/12D3KooWFakeFakeFake";

    fn key(seed: u8) -> MeshKey {
        MeshKey::from_bytes([seed; 32]).unwrap()
    }

    fn ticket(addresses: usize) -> Ticket {
        Ticket::new(key(9), vec![ADDRESS.to_owned(); addresses]).unwrap()
    }

    #[test]
    fn an_open_mesh_needs_no_ticket() {
        assert_eq!(Ticket::new(MeshKey::open(), Vec::new()), Err(TicketError::KnownKey));
    }

    #[test]
    fn debug_shows_neither_the_key_nor_the_text() {
        let shown = format!("{:?}", ticket(1));
        assert!(!shown.contains("9, 9") && !shown.contains("0909"), "{shown}");
        assert!(!shown.contains("bm1"), "{shown}");
    }

    #[test]
    fn tickets_survive_their_text() {
        for count in 0..=Ticket::ADDRESSES_MAX {
            let text = ticket(count).to_string();
            assert!(text.starts_with("bm1"));
            assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
            assert_eq!(text.parse(), Ok(ticket(count)));
            assert_eq!(format!(" {}\n", text.to_uppercase()).parse(), Ok(ticket(count)));
        }
        let longest = "x".repeat(Ticket::ADDRESS_LEN_MAX);
        let largest = Ticket::new(key(9), vec![longest; Ticket::ADDRESSES_MAX]).unwrap();
        assert!(largest.to_string().len() <= Ticket::TEXT_LEN_MAX);
        assert_eq!(largest.to_string().parse(), Ok(largest));
    }

    #[test]
    fn every_cut_of_a_ticket_is_called_a_cut() {
        for count in [0, 1, 4] {
            let text = ticket(count).to_string();
            for len in 3..text.len() {
                assert_eq!(text[..len].parse::<Ticket>(), Err(TicketError::Truncated), "{len}");
            }
        }
    }

    #[test]
    fn every_wrong_character_is_noticed() {
        let text = ticket(1).to_string();
        for place in 3..text.len() {
            let wrong = if text.as_bytes()[place] == b'a' { "b" } else { "a" };
            let mut changed = text.clone();
            changed.replace_range(place..=place, wrong);
            assert!(changed.parse::<Ticket>().is_err(), "character {place}");
        }
        // Characters of the key itself are called wrong, not missing.
        let mut changed = text.clone();
        changed.replace_range(20..21, if text.as_bytes()[20] == b'a' { "b" } else { "a" });
        assert_eq!(changed.parse::<Ticket>(), Err(TicketError::Checksum));
    }

    #[test]
    fn other_texts_are_told_apart() {
        let text = ticket(1).to_string();
        let cases = [
            ("", TicketError::Garbage),
            ("hello", TicketError::Garbage),
            ("bm", TicketError::Garbage),
            ("bmx", TicketError::Garbage),
            ("bm1", TicketError::Truncated),
            ("bm1!!!!!!!!", TicketError::Garbage),
            ("bm10189", TicketError::Garbage),
            ("bm2aaaaaaaa", TicketError::Version),
            ("bm1éééé", TicketError::Garbage),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Ticket>(), Err(expected), "{text:?}");
        }
        let long = format!("{text}{}", "a".repeat(Ticket::TEXT_LEN_MAX));
        assert_eq!(long.parse::<Ticket>(), Err(TicketError::TooLong));
        assert_eq!(format!("{text}aaaaaaaa").parse::<Ticket>(), Err(TicketError::Checksum));
    }

    #[test]
    fn well_summed_nonsense_is_refused() {
        let seal = |mut body: Vec<u8>| {
            let sum = checksum(&body);
            body.extend_from_slice(&sum);
            format!("bm1{}", BASE32_NOPAD.encode(&body)).parse::<Ticket>()
        };
        let head = |version: u8, key: u8, count: u8| {
            let mut body = vec![version];
            body.extend([key; 32]);
            body.push(count);
            body
        };
        assert!(seal(head(1, 9, 0)).is_ok());
        assert_eq!(seal(head(2, 9, 0)), Err(TicketError::Version));
        assert_eq!(seal(head(1, 0, 0)), Err(TicketError::KnownKey));
        assert_eq!(seal(head(1, 9, 1)), Err(TicketError::Garbage));
        assert_eq!(seal([head(1, 9, 0), vec![0]].concat()), Err(TicketError::Garbage));
        assert_eq!(seal([head(1, 9, 1), vec![0]].concat()), Err(TicketError::Addresses));
        assert_eq!(seal([head(1, 9, 1), vec![1, b' ']].concat()), Err(TicketError::Addresses));
        assert_eq!(seal([head(1, 9, 1), vec![1, 0xff]].concat()), Err(TicketError::Addresses));
        let many = [head(1, 9, 200), [1, b'x'].repeat(200)].concat();
        assert_eq!(seal(many), Err(TicketError::Addresses));
    }

    #[test]
    fn tickets_carry_few_and_short_addresses_only() {
        let too_many = vec![ADDRESS.to_owned(); Ticket::ADDRESSES_MAX + 1];
        let too_long = vec!["x".repeat(Ticket::ADDRESS_LEN_MAX + 1)];
        for addresses in [too_many, too_long, vec![String::new()], vec!["a b".to_owned()]] {
            assert_eq!(Ticket::new(key(9), addresses), Err(TicketError::Addresses));
        }
    }
}
