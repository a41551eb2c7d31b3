//! Patterns that name files of a tree, such as `*.pyc` and `bin/**`.
//!
//! Without a slash a pattern is held to the last name of a path, with one to all of it. `?` is any byte but a slash,
//! `*` any number of them, `**` any bytes at all. Nothing else is special, and case counts.

/// Is a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    text: Vec<u8>,
    whole_path: bool,
}

impl Pattern {
    /// Makes a pattern of its text; a slash at its beginning only says that all of the path is meant.
    pub(super) fn new(text: &str) -> Self {
        let whole_path = text.contains('/');
        Self { text: text.trim_start_matches('/').as_bytes().to_vec(), whole_path }
    }

    /// Returns whether a path of a tree is meant.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        matches(&self.text, if self.whole_path { path } else { name })
    }
}

/// Holds a text to a pattern, in time that grows with the product of their lengths and no faster.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    // What is matched by the pattern up to each place: one row of a table, pattern byte by pattern byte.
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    let mut rest = pattern;
    while let Some((&first, after)) = rest.split_first() {
        match (first, after.split_first()) {
            (b'*', Some((b'*', after))) => {
                spread(&mut reached, text, |_| true);
                rest = after;
            }
            (b'*', _) => {
                spread(&mut reached, text, |byte| byte != b'/');
                rest = after;
            }
            _ => {
                for at in (0..text.len()).rev() {
                    let fits = text[at] == first || first == b'?' && text[at] != b'/';
                    reached[at + 1] = reached[at] && fits;
                }
                reached[0] = false;
                rest = after;
            }
        }
    }
    reached[text.len()]
}

fn spread(reached: &mut [bool], text: &[u8], may_pass: impl Fn(u8) -> bool) {
    for at in 0..text.len() {
        reached[at + 1] |= reached[at] && may_pass(text[at]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_what_they_say() {
        for (pattern, path, expected) in [
            ("*.pyc", "a.pyc", true),
            ("*.pyc", "deep/er/a.pyc", true),
            ("*.pyc", "a.pyco", false),
            ("*.pyc", ".pyc", true),
            ("bin/*", "bin/tool", true),
            ("bin/*", "bin/x/tool", false),
            ("bin/**", "bin/x/tool", true),
            ("/tool", "bin/tool", false),
            ("/tool", "tool", true),
            ("**/tool", "bin/tool", true),
            ("t??l", "bin/tool", true),
            ("t?l", "tool", false),
            ("a/?", "a//", false),
            ("", "a", false),
            ("*", "a/b", true),
            ("[a]", "a", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
        ] {
            let matched = Pattern::new(pattern).matches(path.as_bytes());
            assert_eq!(matched, expected, "{pattern} {path}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = Pattern::new(&"*a".repeat(100));
        assert!(!pattern.matches(&[b'a'; 4000].map(|_| b'b')));
        assert!(pattern.matches(&[b'a'; 200]));
    }
}
