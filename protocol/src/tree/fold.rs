//! What file systems may take for the same name.

use std::borrow::Cow;

use icu_normalizer::DecomposingNormalizerBorrowed;

/// Returns what names have in common that some file system cannot tell apart: those that fold case
/// (NTFS, APFS, ext4 and f2fs where a directory asks for it), normalise (APFS, HFS+) or pass over what is
/// not seen (HFS+, ext4). Two names may clash where their keys are the same.
///
/// Coarser than each of them: upper case, then lower case, so that one `ß` and two `s` are the same, too.
pub(super) fn fold(name: &[u8]) -> Cow<'_, [u8]> {
    if name.is_ascii() {
        let folded = !name.iter().any(u8::is_ascii_uppercase);
        return if folded { name.into() } else { name.to_ascii_lowercase().into() };
    }
    let mut key = Vec::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        key.extend_from_slice(fold_text(chunk.valid()).as_bytes());
        key.extend_from_slice(chunk.invalid());
    }
    key.into()
}

fn fold_text(text: &str) -> String {
    let nfd = DecomposingNormalizerBorrowed::new_nfd();
    let visible: String = text.chars().filter(|character| !is_passed_over(*character)).collect();
    let upper = nfd.normalize(&visible).to_uppercase();
    // By character: a whole text's lower case knows of a final sigma.
    let lower: String = upper.chars().flat_map(char::to_lowercase).collect();
    nfd.normalize(&lower).into_owned()
}

/// Says whether a character is one of Unicode's default ignorables, which HFS+ and ext4 pass over in names.
fn is_passed_over(character: char) -> bool {
    matches!(character,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
        | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// Names that mean something to a program that works in the directory: `.git` has hooks and
/// configuration that git executes, `.blobmesh` holds what a checkout remembers.
const RESERVED: [&[u8]; 2] = [b".git", b".blobmesh"];
/// What they are called where names have eight characters.
const RESERVED_SHORT: [&[u8]; 2] = [b"git~1", b"blobme~1"];

/// Says whether some file system takes `name` for a [reserved](RESERVED) one.
///
/// As git does: whatever the case, with characters that HFS+ passes over, with the dots, spaces and
/// streams that NTFS cuts off, and the short names that it makes.
pub(super) fn is_reserved(name: &[u8]) -> bool {
    // Nearly all names are done with here: each look-alike begins so.
    if !matches!(name.first(), Some(b'.' | b'g' | b'G' | b'b' | b'B' | 0x80..)) {
        return false;
    }
    let key = fold(name);
    let cut = key.split(|byte| matches!(byte, b':' | b'\\')).next().unwrap_or_default();
    let len = cut.iter().rposition(|byte| !matches!(byte, b'.' | b' ')).map_or(0, |last| last + 1);
    let seen = &cut[..len];
    RESERVED.contains(&seen) || RESERVED_SHORT.contains(&seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clash(one: &str, other: &str) -> bool {
        fold(one.as_bytes()) == fold(other.as_bytes())
    }

    #[test]
    fn names_that_some_file_system_cannot_tell_apart_have_one_key() {
        let pairs = [
            ("Makefile", "makefile"),
            ("é", "e\u{301}"),
            ("É", "e\u{301}"),
            ("straße", "STRASSE"),
            ("ΣΑΣ", "σας"),
            ("\u{212a}", "k"),
            ("ſ", "s"),
            ("a\u{200d}b", "ab"),
            ("가", "\u{1100}\u{1161}"),
            ("ǅ", "ǆ"),
        ];
        for (one, other) in pairs {
            assert!(clash(one, other), "{one} {other}");
        }
        for (one, other) in [("a", "b"), ("e", "é"), ("a ", "a"), ("1", "¹"), ("a", "а")] {
            assert!(!clash(one, other), "{one} {other}");
        }
        assert_eq!(fold(b"\xffA"), Cow::Borrowed(b"\xffa"));
        assert_ne!(fold(b"\xff"), fold(b"\xfe"));
    }

    #[test]
    fn look_alikes_of_reserved_names_are_reserved() {
        let look_alikes: [&[u8]; 15] = [
            b".git",
            b".GIT",
            b".gIt",
            b".git ",
            b".git.",
            b".git. .",
            b"git~1",
            b"GIT~1",
            b".git::$INDEX_ALLOCATION",
            b".git:x",
            b".git\\config",
            ".g\u{200c}it".as_bytes(),
            "\u{feff}.Git".as_bytes(),
            b".blobmesh",
            b".BlobMesh",
        ];
        for name in look_alikes {
            assert!(is_reserved(name), "{}", name.escape_ascii());
        }
        let harmless: [&[u8]; 8] =
            [b".gitignore", b".github", b"git", b".gi", b"..git", b"x.git", b"git~2", b"..."];
        for name in harmless {
            assert!(!is_reserved(name), "{}", name.escape_ascii());
        }
    }
}
