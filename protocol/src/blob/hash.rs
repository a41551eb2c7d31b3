//! The name of a blob.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::compare;

/// Names a blob: the 32-byte BLAKE3 root hash of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hash([u8; 32]);

/// Hashes are sorted as their bytes are.
impl Ord for Hash {
    fn cmp(&self, other: &Self) -> Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for Hash {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash {
    /// Makes a hash from its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Hashes `bytes` in one go; for streams see [`BlobHasher`](super::BlobHasher).
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Returns the 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the first eight bytes, the item that filters hold.
    pub fn prefix(&self) -> [u8; 8] {
        let mut prefix = [0; 8];
        prefix.copy_from_slice(&self.0[..8]);
        prefix
    }

    /// Returns the short form for logs and progress lines: the first 10 hex digits.
    pub fn fmt_short(&self) -> String {
        self.to_hex()[..10].to_owned()
    }

    /// Returns the 64 lower-case hex digits.
    pub fn to_hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// Returns the path of the blob under a base, the same in a store and in a bucket:
    /// `ab/cdef…`, two digits and 62 digits.
    pub fn sharded_path(&self) -> String {
        let hex = self.to_hex();
        format!("{}/{}", &hex[..2], &hex[2..])
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({})", self.fmt_short())
    }
}

/// Says why a text is not a hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseHashError {
    /// The text has the wrong number of characters.
    #[error("a hash has 64 hex digits, this has {found}")]
    Length {
        /// How many characters there are.
        found: usize,
    },
    /// A character is not a hex digit.
    #[error("a hash has hex digits only, character {position} is {found:?}")]
    Digit {
        /// The character's place, counted from 1.
        position: usize,
        /// The character.
        found: char,
    },
}

impl FromStr for Hash {
    type Err = ParseHashError;

    /// Reads 64 hex digits; upper case is accepted and folded.
    ///
    /// # Errors
    /// [`ParseHashError`] that names what is wrong first.
    fn from_str(text: &str) -> Result<Self, ParseHashError> {
        let found = text.chars().count();
        if found != 64 {
            return Err(ParseHashError::Length { found });
        }
        let mut bytes = [0; 32];
        for (index, digit) in text.chars().enumerate() {
            let Some(value) = digit.to_digit(16).and_then(|value| u8::try_from(value).ok()) else {
                return Err(ParseHashError::Digit { position: index + 1, found: digit });
            };
            bytes[index / 2] = bytes[index / 2] << 4 | value;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_survives_a_round_trip_and_folds_case() {
        let hash = Hash::of(b"blobmesh");
        assert_eq!(hash.to_hex().parse(), Ok(hash));
        assert_eq!(hash.to_hex().to_uppercase().parse(), Ok(hash));
        assert_eq!(hash.sharded_path().len(), 65);
    }

    #[test]
    fn wrong_texts_say_what_is_wrong() {
        assert_eq!("".parse::<Hash>(), Err(ParseHashError::Length { found: 0 }));
        assert_eq!("a".repeat(63).parse::<Hash>(), Err(ParseHashError::Length { found: 63 }));
        assert_eq!("a".repeat(65).parse::<Hash>(), Err(ParseHashError::Length { found: 65 }));
        let mut text = "a".repeat(64);
        text.replace_range(9..10, "g");
        let expected = ParseHashError::Digit { position: 10, found: 'g' };
        assert_eq!(text.parse::<Hash>(), Err(expected));
        // 64 characters of more than one byte each must not be sliced as bytes.
        assert!("é".repeat(64).parse::<Hash>().is_err());
    }
}
