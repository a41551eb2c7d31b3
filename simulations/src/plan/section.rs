//! Reading one table of a plan: which keys it may have, what they hold, what is taken where they are
//! absent.
//!
//! A [`Keys`] is the one source of truth for a table. The reader refuses what it does not list and takes
//! defaults from it, as TOML text, through the same checks as values from a file; the tables of
//! `PLANS.md` are made of it.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::{PlanError, Problem, list, near, shorten};
use super::tree::{Node, Place, Table, Value, parse_value};
use super::units::Quantity;

/// The longest time that a plan may name, a year: sums of a few fit into 64 bits of nanoseconds.
pub(super) const TIME_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Lists the keys of a table.
#[derive(Debug)]
pub(super) struct Keys {
    /// As it is written in a plan.
    pub(super) header: &'static str,
    /// What it is about.
    pub(super) about: &'static str,
    /// The keys, in parts that tables may share.
    pub(super) parts: &'static [&'static [Key]],
}

/// Is a key that a table may have.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// What it takes, for errors and documents.
    pub(super) takes: &'static str,
    pub(super) default: Default,
    /// What it is.
    pub(super) about: &'static str,
}

/// Says what is taken where a key is absent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Default {
    /// Nothing: the plan is refused.
    Required,
    /// A value, as TOML text.
    Toml(&'static str),
    /// What the words say.
    Says(&'static str),
}

impl Keys {
    pub(super) fn iter(&self) -> impl Iterator<Item = &'static Key> {
        self.parts.iter().flat_map(|part| part.iter())
    }
}

/// Is a table under its keys.
#[derive(Debug)]
pub(super) struct Section<'a> {
    pub(super) keys: &'static Keys,
    pub(super) path: String,
    pub(super) place: Place,
    table: Cow<'a, Table>,
}

impl<'a> Section<'a> {
    /// Looks through a table for keys that nothing reads; the first in the file is the error.
    pub(super) fn open(
        table: Cow<'a, Table>,
        path: &str,
        place: &Place,
        keys: &'static Keys,
    ) -> Result<Self, PlanError> {
        let known: Vec<&str> = keys.iter().map(|key| key.name).collect();
        let unknown = table.iter().filter(|(key, _)| !known.contains(&key.as_str()));
        if let Some((key, entry)) = unknown.min_by_key(|(_, entry)| entry.key.line()) {
            let problem = Problem::UnknownKey {
                key: shorten(key),
                near: near(key, &known),
                allowed: list(&known),
            };
            return Err(PlanError::new(&entry.key, path, problem));
        }
        Ok(Self { keys, path: path.to_owned(), place: place.clone(), table })
    }

    /// Says whether the plan has the key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Returns a key's value, its default if there is one, or refuses.
    pub(super) fn field(&self, key: &'static str) -> Result<Field<'_>, PlanError> {
        let takes =
            self.keys.iter().find(|known| known.name == key).map_or("", |known| known.takes);
        let missing = Problem::Missing { key, takes };
        self.optional(key)?.ok_or_else(|| PlanError::new(&self.place, &self.path, missing))
    }

    /// Returns a key's value or its default, if there is either.
    pub(super) fn optional(&self, key: &'static str) -> Result<Option<Field<'_>>, PlanError> {
        let path = join(&self.path, key);
        let known = self.keys.iter().find(|known| known.name == key);
        if let Some(entry) = self.table.get(key) {
            let takes = known.map_or("", |known| known.takes);
            return Ok(Some(Field { node: Cow::Borrowed(&entry.node), path, takes }));
        }
        let Some(Key { takes, default: Default::Toml(text), .. }) = known else { return Ok(None) };
        let node = parse_value(text, &self.place);
        let bad = || PlanError::new(&self.place, &path, Problem::Syntax((*text).to_owned()));
        Ok(Some(Field { node: Cow::Owned(node.ok_or_else(bad)?), path: path.clone(), takes }))
    }

    /// Makes an error about the table.
    pub(super) fn fail(&self, problem: Problem) -> PlanError {
        PlanError::new(&self.place, &self.path, problem)
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Is the value of one key.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub(super) node: Cow<'a, Node>,
    pub(super) path: String,
    /// What the key takes, for errors.
    pub(super) takes: &'static str,
}

impl<'a> Field<'a> {
    /// Reads a table under its keys, which outlives the field.
    pub(super) fn into_section(self, keys: &'static Keys) -> Result<Section<'a>, PlanError> {
        let Self { node, path, takes } = self;
        let wrong = |node: &Node| {
            PlanError::new(
                &node.place,
                &path,
                Problem::WrongType { takes, found: node.value.kind() },
            )
        };
        match node {
            Cow::Borrowed(Node { value: Value::Table(table), place }) => {
                Section::open(Cow::Borrowed(table), &path, place, keys)
            }
            Cow::Owned(Node { value: Value::Table(table), place }) => {
                Section::open(Cow::Owned(table), &path, &place, keys)
            }
            Cow::Borrowed(node) => Err(wrong(node)),
            Cow::Owned(node) => Err(wrong(&node)),
        }
    }
}

impl Field<'_> {
    /// Makes an error about the value.
    pub(super) fn fail(&self, problem: Problem) -> PlanError {
        PlanError::new(&self.node.place, &self.path, problem)
    }

    fn wrong_type(&self) -> PlanError {
        self.fail(Problem::WrongType { takes: self.takes, found: self.node.value.kind() })
    }

    pub(super) fn text(&self) -> Result<&str, PlanError> {
        let Value::Text(text) = &self.node.value else { return Err(self.wrong_type()) };
        Ok(text)
    }

    /// Says whether the value is this word.
    pub(super) fn is(&self, word: &str) -> bool {
        matches!(&self.node.value, Value::Text(text) if text == word)
    }

    pub(super) fn flag(&self) -> Result<bool, PlanError> {
        let Value::Flag(flag) = self.node.value else { return Err(self.wrong_type()) };
        Ok(flag)
    }

    /// Reads a whole number.
    pub(super) fn whole(&self, bounds: RangeInclusive<u64>) -> Result<u64, PlanError> {
        let Value::Whole(number) = self.node.value else { return Err(self.wrong_type()) };
        u64::try_from(number).ok().filter(|number| bounds.contains(number)).ok_or_else(|| {
            let allowed = format!("{} to {}", bounds.start(), bounds.end());
            self.fail(Problem::out_of_bounds(number, allowed))
        })
    }

    /// Reads a whole number that counts things in memory.
    pub(super) fn count(&self, bounds: RangeInclusive<usize>) -> Result<usize, PlanError> {
        let number = self.whole(*bounds.start() as u64..=*bounds.end() as u64)?;
        usize::try_from(number).map_err(|_| self.fail(Problem::out_of_bounds(number, "what fits")))
    }

    /// Reads a number, with or without a point.
    pub(super) fn real(&self, bounds: RangeInclusive<f64>) -> Result<f64, PlanError> {
        let number = if let Value::Whole(number) = self.node.value {
            number as f64
        } else if let Value::Real(number) = self.node.value {
            number
        } else {
            return Err(self.wrong_type());
        };
        // Not a number is in no range.
        if bounds.contains(&number) {
            return Ok(number);
        }
        let allowed = format!("{} to {}", bounds.start(), bounds.end());
        Err(self.fail(Problem::out_of_bounds(number, allowed)))
    }

    /// Reads the share of packets that are lost; all of them would be a cut, which is an event.
    pub(super) fn loss(&self) -> Result<f64, PlanError> {
        self.real(0.0..=0.99)
    }

    /// Reads one of a few words.
    pub(super) fn word<T: Copy>(
        &self,
        what: &'static str,
        words: &[(&'static str, T)],
    ) -> Result<T, PlanError> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        found.ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            self.fail(Problem::unknown_word(what, text, &known))
        })
    }

    fn quantity(&self, quantity: Quantity) -> Result<u64, PlanError> {
        quantity.parse(self.text()?).map_err(|problem| self.fail(problem))
    }

    /// Reads a time in nanoseconds, up to [`TIME_MAX`].
    pub(super) fn nanos(&self) -> Result<u64, PlanError> {
        let nanos = self.quantity(Quantity::Time)?;
        if u128::from(nanos) > TIME_MAX.as_nanos() {
            return Err(self.fail(Problem::out_of_bounds(shorten(self.text()?), "up to 366d")));
        }
        Ok(nanos)
    }

    /// Reads a time, which may be none.
    pub(super) fn time(&self) -> Result<Duration, PlanError> {
        self.nanos().map(Duration::from_nanos)
    }

    /// Reads a time of a nanosecond at least.
    pub(super) fn time_above_zero(&self) -> Result<Duration, PlanError> {
        let time = self.time()?;
        self.above_zero(u64::from(!time.is_zero()))?;
        Ok(time)
    }

    fn above_zero(&self, number: u64) -> Result<u64, PlanError> {
        if number > 0 {
            return Ok(number);
        }
        Err(self.fail(Problem::out_of_bounds(shorten(self.text()?), "more than zero")))
    }

    /// Reads a size in bytes, from 1.
    pub(super) fn size(&self) -> Result<u64, PlanError> {
        self.above_zero(self.quantity(Quantity::Size)?)
    }

    /// Reads a size of which there may be no end.
    pub(super) fn size_or_unlimited(&self) -> Result<Option<u64>, PlanError> {
        if self.is("unlimited") { Ok(None) } else { self.size().map(Some) }
    }

    /// Reads a rate in bytes a second, from 1.
    pub(super) fn rate(&self) -> Result<u64, PlanError> {
        self.above_zero(self.quantity(Quantity::Rate)?)
    }

    /// Reads a rate that may be without limit.
    pub(super) fn rate_or_unlimited(&self) -> Result<Option<u64>, PlanError> {
        if self.is("unlimited") { Ok(None) } else { self.rate().map(Some) }
    }

    /// Reads the entries of a list, each under its number.
    pub(super) fn list(&self) -> Result<Vec<Field<'_>>, PlanError> {
        let Value::List(items) = &self.node.value else { return Err(self.wrong_type()) };
        let fields = items.iter().enumerate().map(|(index, node)| Field {
            node: Cow::Borrowed(node),
            path: join(&self.path, &index.to_string()),
            takes: "a table",
        });
        Ok(fields.collect())
    }

    /// Reads a table under its keys.
    pub(super) fn section(&self, keys: &'static Keys) -> Result<Section<'_>, PlanError> {
        let Value::Table(table) = &self.node.value else { return Err(self.wrong_type()) };
        Section::open(Cow::Borrowed(table), &self.path, &self.node.place, keys)
    }
}
