//! What can be wrong with a plan, where, and what would be right.

use std::fmt;

use super::tree::Place;

/// Says that a plan cannot be run: the file, line and column, the key, what is wrong and what is
/// allowed, in one sentence.
#[derive(Clone, Debug)]
pub struct PlanError {
    /// Boxed, since it lies in every result of the reader.
    parts: Box<Parts>,
}

#[derive(Clone, Debug)]
struct Parts {
    place: Place,
    key: String,
    problem: Problem,
}

impl PlanError {
    pub(super) fn new(place: &Place, key: &str, problem: Problem) -> Self {
        Self { parts: Box::new(Parts { place: place.clone(), key: key.to_owned(), problem }) }
    }

    /// Returns the file, or the command line's setting, that is wrong.
    pub fn file(&self) -> &str {
        self.parts.place.file()
    }

    /// Returns the line, from 1; none if it is about a whole file or a setting.
    pub fn line(&self) -> Option<usize> {
        self.parts.place.line()
    }

    /// Returns the path of the key, as `group.runner.count`; empty if it is about none.
    pub fn key(&self) -> &str {
        &self.parts.key
    }

    /// Returns what is wrong.
    pub fn problem(&self) -> &Problem {
        &self.parts.problem
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.parts.place)?;
        if !self.parts.key.is_empty() {
            write!(formatter, "{}: ", self.parts.key)?;
        }
        self.parts.problem.fmt(formatter)
    }
}

impl std::error::Error for PlanError {}

/// Says what is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The file is larger than a plan may be.
    #[error("is larger than {0} bytes")]
    TooLarge(u64),
    /// The file is no TOML.
    #[error("is not TOML: {0}")]
    Syntax(String),
    /// Nothing reads this key.
    #[error("unknown key `{key}`{}; allowed: {allowed}", near_hint(.near))]
    UnknownKey {
        /// The key.
        key: String,
        /// A known key that looks like it.
        near: Option<String>,
        /// The known keys.
        allowed: String,
    },
    /// A key without a default is absent.
    #[error("`{key}` is missing; it takes {takes}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What it takes.
        takes: &'static str,
    },
    /// A value of another type.
    #[error("takes {takes}, not {found}")]
    WrongType {
        /// What it takes.
        takes: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// Text that is no quantity.
    #[error("`{text}` is no {quantity}{}; write a number and one of {units}, without a space, as {example}", near_hint(.near))]
    BadQuantity {
        /// The text.
        text: String,
        /// What it should be.
        quantity: &'static str,
        /// What was perhaps meant.
        near: Option<String>,
        /// The units.
        units: String,
        /// One that is right.
        example: &'static str,
    },
    /// A number out of its bounds.
    #[error("{value} is out of bounds; allowed: {allowed}")]
    OutOfBounds {
        /// The value.
        value: String,
        /// The bounds.
        allowed: String,
    },
    /// One of a few words was expected.
    #[error("unknown {what} `{word}`{}; allowed: {allowed}", near_hint(.near))]
    UnknownWord {
        /// What it should be.
        what: &'static str,
        /// The word.
        word: String,
        /// One that looks like it.
        near: Option<String>,
        /// All of them.
        allowed: String,
    },
    /// A name that nothing has.
    #[error("no `{name}` among the {what}{}; there are: {known}", near_hint(.near))]
    UnknownName {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
        /// A name that looks like it.
        near: Option<String>,
        /// The names that there are.
        known: String,
    },
    /// A key that may be absent only where there is one name to take.
    #[error("`{key}` is missing, and there is not just one of the {what}: {known}")]
    Choose {
        /// The key.
        key: &'static str,
        /// What is named.
        what: &'static str,
        /// The names that there are.
        known: String,
    },
    /// A name that is no name.
    #[error("`{0}` is no name: 1 to 64 lowercase letters, digits and dashes, not only digits")]
    BadName(String),
    /// A name that two have.
    #[error("two {what} are named `{name}`, the first at {first}")]
    Duplicate {
        /// What is named.
        what: &'static str,
        /// The name.
        name: String,
        /// Where the first is.
        first: String,
    },
    /// More than fits.
    #[error("{count} {what} in all; at most {most}")]
    TooMany {
        /// What.
        what: &'static str,
        /// How many.
        count: u128,
        /// The bound.
        most: u128,
    },
    /// Files that include each other in a circle.
    #[error("includes go in a circle: {0}")]
    IncludeCycle(String),
    /// A path that leads nowhere.
    #[error("the path leads nowhere: {0}")]
    BadPath(String),
    /// What no other variant says.
    #[error("{0}")]
    Other(String),
}

impl Problem {
    pub(super) fn out_of_bounds(value: impl ToString, allowed: impl Into<String>) -> Self {
        Self::OutOfBounds { value: value.to_string(), allowed: allowed.into() }
    }

    pub(super) fn unknown_word(what: &'static str, word: &str, known: &[&str]) -> Self {
        Self::UnknownWord {
            what,
            word: shorten(word),
            near: near(word, known),
            allowed: list(known),
        }
    }
}

fn near_hint(near: &Option<String>) -> String {
    near.as_ref().map_or_else(String::new, |near| format!(", did you mean `{near}`?"))
}

/// Lists words for an error, as many as one reads.
pub(super) fn list(known: &[&str]) -> String {
    const SHOWN: usize = 60;
    if known.is_empty() {
        return "none".to_owned();
    }
    let more = if known.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", known.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", "))
}

/// Cuts text from a file to what fits into an error.
pub(super) fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain(['…']).collect()
}

/// Finds the known word that a misspelt one most likely stands for.
pub(super) fn near(word: &str, known: &[&str]) -> Option<String> {
    const LONGEST: usize = 64;
    if word.chars().count() > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    known
        .iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1.max((candidate.len() + 1) / 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| (*candidate).to_owned())
}

/// Counts the letters to insert, remove or replace between two words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (index, left) in a.chars().enumerate() {
        let mut next = vec![index + 1];
        for ((right, pair), inserted) in b.iter().zip(row.windows(2)).zip(1..) {
            let [diagonal, above] = pair else { continue };
            let before: usize = next.last().copied().unwrap_or(inserted);
            next.push((diagonal + usize::from(*right != left)).min(above + 1).min(before + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_finds_its_word_and_a_far_one_none() {
        let known = ["bandwidth", "count", "cache", "site"];
        assert_eq!(near("bandwith", &known).as_deref(), Some("bandwidth"));
        assert_eq!(near("COUNT", &known).as_deref(), Some("count"));
        assert_eq!(near("cuont", &known).as_deref(), Some("count"));
        assert_eq!(near("sight", &known), None);
        assert_eq!(near("x", &known), None);
        assert_eq!(near(&"count".repeat(100), &known), None);
    }

    #[test]
    fn a_distance_counts_letters() {
        for (a, b, expected) in
            [("", "", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("same", "same", 0)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
