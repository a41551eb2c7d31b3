//! The tree that a plan's files make: TOML values, each with its place.
//!
//! Includes are merged and settings applied here, before anything is read, so that an error in a value
//! names the file and line, or the setting, that it came from. The tree knows nothing of what keys mean.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{PlanError, Problem, list, near, shorten};
use super::text;

/// The lists of a plan; their entries are found by name.
pub(super) const LISTS: &[&str] = &["site", "group", "blobs", "workload", "event"];

/// The tables that an entry of a list may have, also where it has none yet.
const TABLES_OF_ENTRIES: &[&str] = &["engine", "uplink"];

/// The most parts of a path. A plan is five deep; each part more would be a table in a table, and the
/// stack must hold them all.
const PATH_PARTS_MAX: usize = 16;

/// Is where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    origin: Arc<Origin>,
    /// From 1; 0 if the place is no line.
    line: usize,
    column: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct Origin {
    /// The file as it was named, or the setting.
    name: String,
    /// What relative paths in it are relative to.
    directory: PathBuf,
}

impl Place {
    /// Returns the place of a whole file or setting.
    pub(super) fn whole(name: &str, directory: &Path) -> Self {
        let origin = Origin { name: name.to_owned(), directory: directory.to_owned() };
        Self { origin: Arc::new(origin), line: 0, column: 0 }
    }

    /// Returns a line of the same file.
    pub(super) fn at_line(&self, line: usize) -> Self {
        Self { origin: Arc::clone(&self.origin), line, column: 1 }
    }

    pub(super) fn file(&self) -> &str {
        &self.origin.name
    }

    pub(super) fn directory(&self) -> &Path {
        &self.origin.directory
    }

    pub(super) fn line(&self) -> Option<usize> {
        (self.line > 0).then_some(self.line)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.origin.name)?;
        if self.line == 0 {
            return Ok(());
        }
        write!(formatter, ":{}:{}", self.line, self.column)
    }
}

/// Is a value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// Is a TOML value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Whole(i128),
    Real(f64),
    Flag(bool),
    Date(String),
    List(Vec<Node>),
    Table(Table),
}

/// Is a table: the values by key, and where the key was written.
pub(super) type Table = BTreeMap<String, Entry>;

/// Is a key's place and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: Place,
    pub(super) node: Node,
}

impl Value {
    /// Says what it is, for errors.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Whole(_) => "a whole number",
            Self::Real(_) => "a number with a point",
            Self::Flag(_) => "a boolean",
            Self::Date(_) => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

impl Node {
    /// Returns the value as TOML text.
    pub(super) fn text(&self) -> String {
        text::value_text(&self.value)
    }

    /// Says whether a word is a key of this table rather than a name.
    fn takes(&self, word: &str) -> bool {
        let has = matches!(&self.value, Value::Table(table) if table.contains_key(word));
        has || TABLES_OF_ENTRIES.contains(&word)
    }

    /// Returns the `name` of a table that has one.
    pub(super) fn name(&self) -> Option<&str> {
        let Value::Table(table) = &self.value else { return None };
        match table.get("name").map(|entry| &entry.node.value) {
            Some(Value::Text(name)) => Some(name),
            _ => None,
        }
    }
}

/// Reads TOML text into a tree. `place` is that of the whole text.
pub(super) fn parse(text: &str, place: &Place) -> Result<Table, PlanError> {
    let lines = Lines::new(text, place);
    let table = DeTable::parse(text).map_err(|error| {
        let place = error.span().map_or_else(|| place.clone(), |span| lines.place(span.start));
        PlanError::new(&place, "", Problem::Syntax(error.message().trim().to_owned()))
    })?;
    lines.table(table.into_inner())
}

/// Reads one TOML value; none if the text is no value.
pub(super) fn parse_value(text: &str, place: &Place) -> Option<Node> {
    let value = DeValue::parse(text).ok()?;
    let lines = Lines { place, starts: Vec::new(), text };
    lines.node(value).ok()
}

/// Turns offsets into places.
struct Lines<'a> {
    place: &'a Place,
    /// Where each line starts; empty for text that is no file.
    starts: Vec<usize>,
    text: &'a str,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str, place: &'a Place) -> Self {
        let after = text.match_indices('\n').map(|(offset, _)| offset + 1);
        Self { place, starts: std::iter::once(0).chain(after).collect(), text }
    }

    fn place(&self, offset: usize) -> Place {
        let line = self.starts.partition_point(|start| *start <= offset);
        let Some(start) = line.checked_sub(1).and_then(|index| self.starts.get(index)) else {
            return self.place.clone();
        };
        let before = self.text.get(*start..offset).unwrap_or("");
        let origin = Arc::clone(&self.place.origin);
        Place { origin, line, column: before.chars().count() + 1 }
    }

    fn table(&self, table: DeTable<'_>) -> Result<Table, PlanError> {
        let mut entries = Table::new();
        for (key, node) in table {
            let place = self.place(key.span().start);
            let entry = Entry { key: place, node: self.node(node)? };
            entries.insert(key.into_inner().into_owned(), entry);
        }
        Ok(entries)
    }

    fn node(&self, node: Spanned<DeValue<'_>>) -> Result<Node, PlanError> {
        let place = self.place(node.span().start);
        let value = match node.into_inner() {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Integer(number) => {
                let read = i128::from_str_radix(number.as_str(), number.radix());
                Value::Whole(read.map_err(|_| self.bad_number(&place, number.as_str()))?)
            }
            DeValue::Float(number) => {
                let read = number.as_str().parse();
                Value::Real(read.map_err(|_| self.bad_number(&place, number.as_str()))?)
            }
            DeValue::Boolean(flag) => Value::Flag(flag),
            DeValue::Datetime(date) => Value::Date(date.to_string()),
            DeValue::Array(items) => Value::List(
                items.into_iter().map(|item| self.node(item)).collect::<Result<_, _>>()?,
            ),
            DeValue::Table(table) => Value::Table(self.table(table)?),
        };
        Ok(Node { value, place })
    }

    fn bad_number(&self, place: &Place, text: &str) -> PlanError {
        PlanError::new(place, "", Problem::Syntax(format!("`{}` is no number", shorten(text))))
    }
}

/// Lays a later tree over an earlier one: tables are merged key by key, entries of a plan's lists by
/// their name or appended, and everything else is replaced.
pub(super) fn merge(base: &mut Table, later: Table) {
    for (key, entry) in later {
        match base.get_mut(&key) {
            Some(present) if LISTS.contains(&key.as_str()) => merge_lists(present, entry),
            Some(present) => merge_entry(present, entry),
            None => {
                base.insert(key, entry);
            }
        }
    }
}

fn merge_lists(present: &mut Entry, later: Entry) {
    let (Value::List(base), Value::List(items)) = (&mut present.node.value, &later.node.value)
    else {
        *present = later;
        return;
    };
    for item in items {
        let same =
            base.iter_mut().find(|known| item.name().is_some() && known.name() == item.name());
        match (same.map(|node| &mut node.value), &item.value) {
            (Some(Value::Table(known)), Value::Table(later)) => merge_tables(known, later.clone()),
            _ => base.push(item.clone()),
        }
    }
}

fn merge_tables(base: &mut Table, later: Table) {
    for (key, entry) in later {
        match base.get_mut(&key) {
            Some(present) => merge_entry(present, entry),
            None => {
                base.insert(key, entry);
            }
        }
    }
}

fn merge_entry(present: &mut Entry, later: Entry) {
    // A distribution is one value: the keys of two shapes must not mix.
    let replaces = |table: &Table| table.contains_key("dist");
    match (&mut present.node.value, later.node.value) {
        (Value::Table(base), Value::Table(table)) if !replaces(&table) => merge_tables(base, table),
        (_, value) => {
            *present = Entry { key: later.key, node: Node { value, place: later.node.place } };
        }
    }
}

/// Puts a value where a path leads, as `group.runner.count`: keys of tables, and names or numbers of
/// entries of lists; a list with one entry may be passed through without either.
pub(super) fn set(root: &mut Table, path: &str, node: &Node) -> Result<(), PlanError> {
    let fail = |problem| PlanError::new(&node.place, path, problem);
    let segments: Vec<&str> = path.split('.').map(str::trim).collect();
    if segments.len() > PATH_PARTS_MAX {
        let problem = format!("it has more than {PATH_PARTS_MAX} parts");
        return Err(fail(Problem::BadPath(problem)));
    }
    let Some((last, parents)) = segments.split_last() else { return Ok(()) };
    if segments.iter().any(|segment| segment.is_empty()) {
        return Err(fail(Problem::BadPath("it has an empty part".to_owned())));
    }
    if parents.is_empty() && LISTS.contains(last) {
        return Err(fail(Problem::BadPath(format!("`{last}` is a list; name an entry and a key"))));
    }
    let mut table = root;
    let mut parents = parents.iter();
    while let Some(segment) = parents.next() {
        table = match child(table, segment, &node.place) {
            Ok(Value::Table(table)) => table,
            Ok(Value::List(items)) => {
                let rest = parents.as_slice();
                let (index, passed) = entry(items, rest.first().copied(), segment).map_err(fail)?;
                if passed {
                    parents.next();
                }
                match items.get_mut(index).map(|item| &mut item.value) {
                    Some(Value::Table(table)) => table,
                    _ => return Err(fail(Problem::BadPath(format!("`{segment}` has no tables")))),
                }
            }
            Ok(other) => {
                let found = other.kind();
                return Err(fail(Problem::BadPath(format!("`{segment}` is {found}, not a table"))));
            }
            Err(problem) => return Err(fail(problem)),
        };
    }
    table.insert((*last).to_owned(), Entry { key: node.place.clone(), node: node.clone() });
    Ok(())
}

/// Returns what a key holds; a table that is absent is made, a list is not.
fn child<'a>(table: &'a mut Table, key: &str, place: &Place) -> Result<&'a mut Value, Problem> {
    if LISTS.contains(&key) && !table.contains_key(key) {
        return Err(Problem::BadPath(format!("the plan has no `[[{key}]]`")));
    }
    let entry = table.entry(key.to_owned()).or_insert_with(|| Entry {
        key: place.clone(),
        node: Node { value: Value::Table(Table::new()), place: place.clone() },
    });
    Ok(&mut entry.node.value)
}

/// Finds the entry of a list that a segment chooses, and whether the segment is used up by that.
fn entry(items: &[Node], segment: Option<&str>, what: &str) -> Result<(usize, bool), Problem> {
    let named = segment.and_then(|segment| {
        let by_name = items.iter().position(|item| item.name() == Some(segment));
        by_name.or_else(|| segment.parse().ok().filter(|index| *index < items.len()))
    });
    if let Some(index) = named {
        return Ok((index, true));
    }
    let names: Vec<&str> = items.iter().filter_map(Node::name).collect();
    match segment {
        Some(word) if items.len() == 1 && items.iter().all(|item| item.takes(word)) => {
            Ok((0, false))
        }
        Some(word) => Err(Problem::UnknownWord {
            what: "entry",
            word: format!("{what}.{}", shorten(word)),
            near: near(word, &names),
            allowed: if names.is_empty() {
                format!("numbers below {}", items.len())
            } else {
                list(&names)
            },
        }),
        None if items.len() == 1 => Ok((0, false)),
        None => Err(Problem::BadPath(format!(
            "`{what}` has {} entries; say which: {}",
            items.len(),
            list(&names)
        ))),
    }
}
