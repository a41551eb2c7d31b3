//! Names: what a plan calls its things, and finding them again.

use std::collections::BTreeMap;

use super::super::error::{PlanError, Problem, list, near, shorten};
use super::super::section::{Field, Section};
use super::super::tree::Place;

/// The longest name.
const NAME_BYTES_MAX: usize = 64;

/// Is the names of one kind of thing, in the order of the plan.
pub(in super::super) struct Names {
    what: &'static str,
    names: Vec<(String, Place)>,
    indexes: BTreeMap<String, usize>,
}

impl Names {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, names: Vec::new(), indexes: BTreeMap::new() }
    }

    /// Takes a name in, which none may have yet.
    pub(super) fn add(&mut self, field: &Field<'_>) -> Result<(), PlanError> {
        let name = field.text()?;
        let letter =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        let good = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(letter);
        if !good || name.chars().all(|letter| letter.is_ascii_digit()) {
            return Err(field.fail(Problem::BadName(shorten(name))));
        }
        if let Some((_, first)) = self.indexes.get(name).and_then(|index| self.names.get(*index)) {
            let (name, first) = (name.to_owned(), first.to_string());
            return Err(field.fail(Problem::Duplicate { what: self.what, name, first }));
        }
        self.indexes.insert(name.to_owned(), self.names.len());
        self.names.push((name.to_owned(), field.node.place.clone()));
        Ok(())
    }

    /// Finds a name.
    pub(super) fn find(&self, name: &str) -> Result<usize, Problem> {
        self.indexes.get(name).copied().ok_or_else(|| {
            let known: Vec<&str> = self.names.iter().map(|(name, _)| name.as_str()).collect();
            Problem::UnknownName {
                what: self.what,
                name: shorten(name),
                near: near(name, &known),
                known: list(&known),
            }
        })
    }

    /// Finds the name that a value is.
    pub(super) fn resolve(&self, field: &Field<'_>) -> Result<usize, PlanError> {
        self.find(field.text()?).map_err(|problem| field.fail(problem))
    }

    /// Finds the name that a key holds; the only one if the key is absent.
    pub(super) fn of(&self, section: &Section<'_>, key: &'static str) -> Result<usize, PlanError> {
        match section.optional(key)? {
            Some(field) => self.resolve(&field),
            None if self.names.len() == 1 => Ok(0),
            None => {
                let known: Vec<&str> = self.names.iter().map(|(name, _)| name.as_str()).collect();
                let problem = Problem::Choose { key, what: self.what, known: list(&known) };
                Err(section.fail(problem))
            }
        }
    }
}
