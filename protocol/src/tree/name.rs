//! Names of entries.

use std::fmt::{self, Write};

/// The longest name in bytes: what file systems hold.
pub const NAME_LEN_MAX: usize = 255;

/// Is the name of one entry in its directory: 1 to 255 bytes without `/` and NUL, and neither `.` nor
/// `..`.
///
/// Bytes and not text, since file names need not be UTF-8. The order is that of the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

/// Says why bytes are no [`Name`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There are no bytes.
    #[error("a name is empty")]
    Empty,
    /// There are too many bytes.
    #[error("a name has {len} bytes, more than {NAME_LEN_MAX}")]
    TooLong {
        /// How many bytes there are.
        len: usize,
    },
    /// A byte would end the name or make a path of it.
    #[error("the name {:?} has a {} in it", name.escape_ascii().to_string(), if *byte == 0 { "NUL" } else { "slash" })]
    Byte {
        /// The bytes.
        name: Box<[u8]>,
        /// The byte.
        byte: u8,
    },
    /// The name stands for the directory itself or for its parent.
    #[error("a name is {:?}", name.escape_ascii().to_string())]
    Dots {
        /// The bytes.
        name: Box<[u8]>,
    },
}

impl Name {
    /// Makes a name of `bytes`.
    ///
    /// # Errors
    /// [`NameError`] that says what is wrong with them.
    pub fn new(bytes: &[u8]) -> Result<Self, NameError> {
        if bytes.is_empty() {
            return Err(NameError::Empty);
        }
        if bytes.len() > NAME_LEN_MAX {
            return Err(NameError::TooLong { len: bytes.len() });
        }
        if let Some(&byte) = bytes.iter().find(|&&byte| byte == 0 || byte == b'/') {
            return Err(NameError::Byte { name: bytes.into(), byte });
        }
        if bytes == b"." || bytes == b".." {
            return Err(NameError::Dots { name: bytes.into() });
        }
        Ok(Self(bytes.into()))
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    /// Writes the name for people: control characters and what is not UTF-8 escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(&self.0, f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

/// Writes bytes of a name or a path for people: text as it is, control characters, backslashes and what
/// is not UTF-8 escaped, so that no terminal obeys a name and no two names look the same for that.
pub fn write_escaped(bytes: &[u8], to: &mut impl Write) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() || character == '\\' {
                write!(to, "{}", character.escape_default())?;
            } else {
                to.write_char(character)?;
            }
        }
        for byte in chunk.invalid() {
            write!(to, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_for_what_a_path_would_make_of_them() {
        assert_eq!(Name::new(b""), Err(NameError::Empty));
        assert_eq!(Name::new(&[b'a'; 256]), Err(NameError::TooLong { len: 256 }));
        for (bytes, byte) in [(&b"a/b"[..], b'/'), (b"/", b'/'), (b"a\0", 0), (b"\0/", 0)] {
            assert_eq!(Name::new(bytes), Err(NameError::Byte { name: bytes.into(), byte }));
        }
        for bytes in [&b"."[..], b".."] {
            assert_eq!(Name::new(bytes), Err(NameError::Dots { name: bytes.into() }));
        }
    }

    #[test]
    fn odd_names_are_names() {
        let odd: [&[u8]; 9] = [
            b"...",
            b"-rf",
            b" ",
            b"a\nb",
            b"\xff\xfe",
            "🙂".as_bytes(),
            b"\\",
            b"..a",
            &[b'x'; 255],
        ];
        for bytes in odd {
            assert_eq!(Name::new(bytes).as_ref().map(Name::as_bytes), Ok(bytes));
        }
    }

    #[test]
    fn terminal_is_shown_no_control_character() {
        let name = Name::new(b"a\x1b[2J\n\\\xff\xc2\x9b").expect("a name");
        assert_eq!(name.to_string(), r"a\u{1b}[2J\n\\\xff\u{9b}");
        assert_eq!(Name::new("grüße 🙂".as_bytes()).expect("a name").to_string(), "grüße 🙂");
    }
}
