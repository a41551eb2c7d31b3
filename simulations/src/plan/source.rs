//! Where a plan comes from: a file and what it includes, with settings laid over it.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::canned::{CANNED, Canned};
use super::error::{PlanError, Problem, shorten};
use super::read;
use super::read::sweep::{Axis, axes};
use super::section::{Field, join};
use super::text;
use super::tree::{self, Entry, LISTS, Node, Place, Table, Value, parse_value};
use super::{CELL_ENTRIES_MAX, FILE_BYTES_MAX, FILES_MAX, Plan, TRACED_GETS_MAX, WorkloadKind};

/// Is the text of a plan, its includes merged, before it is checked.
#[derive(Clone, Debug)]
pub struct Source {
    tree: Table,
    place: Place,
    /// The file's own text, as long as that is the whole plan: nothing included, nothing set.
    written: Option<String>,
    /// What was set, in its order.
    set: Vec<String>,
}

impl Source {
    /// Reads a plan's file or, if there is none of that name, the canned plan of that name.
    ///
    /// # Errors
    /// As [`load`](Self::load); a name of neither.
    pub fn open(name: &str) -> Result<Self, PlanError> {
        let path = Path::new(name);
        if path.exists() {
            return Self::load(path);
        }
        if let Some(canned) = Canned::find(name) {
            return canned.source();
        }
        let names: Vec<&str> = CANNED.iter().map(|canned| canned.name).collect();
        // What looks like a file was meant as one.
        if name.contains(['/', '\\', '.']) {
            return Self::load(path);
        }
        let problem = Problem::unknown_word("plan", name, &names);
        Err(PlanError::new(&place_of(path), "", problem))
    }

    /// Reads a file and what it includes.
    ///
    /// # Errors
    /// A file that cannot be read, is too large or no TOML; includes in a circle.
    pub fn load(path: &Path) -> Result<Self, PlanError> {
        let place = place_of(path);
        let mut loader = Loader { chain: Vec::new(), files: 0, text: String::new() };
        let tree = loader.load(path, &place, "")?;
        let written = (loader.files == 1).then_some(loader.text);
        Ok(Self { tree, place, written, set: Vec::new() })
    }

    /// Takes text that is no file; it can include none. Traces are looked for in the working directory.
    ///
    /// # Errors
    /// Text that is no TOML, or includes something.
    pub fn parse(name: &str, text: &str) -> Result<Self, PlanError> {
        let place = Place::whole(name, Path::new(""));
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(PlanError::new(&place, "", Problem::TooLarge(FILE_BYTES_MAX)));
        }
        let tree = tree::parse(text, &place)?;
        if let Some(include) = tree.get("include") {
            let problem = Problem::Other("only a file can include others".to_owned());
            return Err(PlanError::new(&include.key, "include", problem));
        }
        Ok(Self { tree, place, written: Some(text.to_owned()), set: Vec::new() })
    }

    /// Returns the plan as one text that [`parse`](Self::parse) reads to the same plan: its file as it is,
    /// or, if that includes others or something was set, all of it resolved. A trace is not part of it, and
    /// is found where it was if the working directory is the same.
    pub fn text(&self) -> String {
        let elsewhere = self.place.directory() != Path::new("") && has_trace(&self.tree);
        if let Some(text) = self.written.as_ref().filter(|_| !elsewhere) {
            return text.clone();
        }
        let mut tree = self.tree.clone();
        find_traces(&mut tree);
        let set = self.set.iter().map(|setting| format!("# --set {}\n", one_line(setting)));
        set.collect::<String>() + &text::plan_text(&tree)
    }

    /// Sets what a path leads to, as `group.runner.count=30`. The value is TOML, or else a string, so that
    /// `engine.hedge_initial=20ms` needs no quotes.
    ///
    /// # Errors
    /// A setting without `=`, and a path that leads nowhere. What the value may be shows
    /// [`plan`](Self::plan).
    pub fn set(&mut self, setting: &str) -> Result<(), PlanError> {
        let place = Place::whole(&format!("--set {}", shorten(setting)), self.place.directory());
        let Some((path, value)) = setting.split_once('=') else {
            let problem = Problem::Other("is no setting; write PATH=VALUE".to_owned());
            return Err(PlanError::new(&place, "", problem));
        };
        let value = value.trim();
        let node = parse_value(value, &place)
            .unwrap_or_else(|| Node { value: Value::Text(value.to_owned()), place });
        tree::set(&mut self.tree, path.trim(), &node)?;
        self.written = None;
        self.set.push(setting.to_owned());
        Ok(())
    }

    /// Checks everything and makes the plan.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        read::plan(&self.tree, &self.place)
    }

    fn axes(&self) -> Result<Vec<Axis>, PlanError> {
        let Some(Entry { node, .. }) = self.tree.get("sweep") else { return Ok(Vec::new()) };
        let field = Field { node: Cow::Borrowed(node), path: "sweep".to_owned(), takes: "a table" };
        Ok(axes(&field)?.axes)
    }
}

/// Is one combination of a sweep's values.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// Names the cell by its settings, as `group.runner.count=10 seed=7`; `plan` if nothing is varied.
    pub name: String,
    /// The paths and their values, as TOML text.
    pub settings: Vec<(String, String)>,
    /// The plan with them, in which nothing is left to vary.
    pub plan: Plan,
}

/// Makes every combination of what `[sweep]` varies; the last path varies fastest. A plan without a sweep
/// is one cell.
///
/// # Errors
/// The first thing that is wrong in any cell; it names the place of the value in `[sweep]`, if that is
/// what is wrong.
pub fn cells(source: &Source) -> Result<Vec<Cell>, PlanError> {
    let axes = source.axes()?;
    let mut combinations: Vec<Vec<(&str, &Node)>> = vec![Vec::new()];
    for axis in &axes {
        let with_each = |combination: Vec<_>| {
            let with = move |value| {
                let mut longer = combination.clone();
                longer.push((axis.path.as_str(), value));
                longer
            };
            axis.values.iter().map(with)
        };
        combinations = combinations.into_iter().flat_map(with_each).collect();
    }
    let (mut gets, mut parts) = (0_u128, 0_u128);
    let mut cells = Vec::with_capacity(combinations.len());
    for combination in combinations {
        let cell = cell(source, &combination)?;
        gets += traced_gets(&cell.plan);
        parts += entries(&cell.plan);
        for (what, count, most) in [
            ("gets of traces in all cells", gets, TRACED_GETS_MAX),
            ("sites, groups and other entries in all cells", parts, CELL_ENTRIES_MAX),
        ] {
            if count > most {
                let problem = Problem::TooMany { what, count, most };
                return Err(PlanError::new(&source.place, "sweep", problem));
            }
        }
        cells.push(cell);
    }
    Ok(cells)
}

fn cell(source: &Source, combination: &[(&str, &Node)]) -> Result<Cell, PlanError> {
    let mut varied = source.clone();
    for (path, value) in combination {
        tree::set(&mut varied.tree, path, value)?;
    }
    let settings: Vec<(String, String)> =
        combination.iter().map(|(path, value)| ((*path).to_owned(), value.text())).collect();
    let names: Vec<String> = settings
        .iter()
        .map(|(path, value)| format!("{path}={}", value.trim_matches('"')))
        .collect();
    let name = if names.is_empty() { "plan".to_owned() } else { names.join(" ") };
    let mut plan = varied.plan()?;
    // What was to be varied is settled in a cell, and a thousand copies of a long list are not free.
    plan.sweep.axes.clear();
    Ok(Cell { name, settings, plan })
}

/// Counts what a plan holds entry by entry.
fn entries(plan: &Plan) -> u128 {
    let Plan { sites, groups, blobs, workloads, faults, asserts, .. } = plan;
    let places = sites.len() + groups.len() + blobs.len();
    (places + workloads.len() + faults.len() + asserts.len()) as u128
}

fn traced_gets(plan: &Plan) -> u128 {
    let traced = |kind: &WorkloadKind| match kind {
        WorkloadKind::Trace { gets } => gets.len() as u128,
        WorkloadKind::PullSet { .. } | WorkloadKind::Zipf { .. } | WorkloadKind::Add { .. } => 0,
    };
    plan.workloads.iter().map(|workload| traced(&workload.kind)).sum()
}

fn has_trace(tree: &Table) -> bool {
    let names_file =
        |item: &Node| matches!(&item.value, Value::Table(table) if table.contains_key("file"));
    let Some(Value::List(items)) = tree.get("workload").map(|entry| &entry.node.value) else {
        return false;
    };
    items.iter().any(names_file)
}

/// Makes the paths of traces relative to the working directory, where they were relative to a plan's file.
fn find_traces(tree: &mut Table) {
    let Some(Value::List(items)) = tree.get_mut("workload").map(|entry| &mut entry.node.value)
    else {
        return;
    };
    for item in items {
        let Value::Table(table) = &mut item.value else { continue };
        let Some(Entry { node, .. }) = table.get_mut("file") else { continue };
        let directory = node.place.directory().to_path_buf();
        if let Value::Text(path) = &mut node.value {
            *path = directory.join(path.as_str()).display().to_string();
        }
    }
}

/// Returns a text without its line feeds, for a comment.
fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

fn place_of(path: &Path) -> Place {
    Place::whole(&path.display().to_string(), path.parent().unwrap_or(Path::new("")))
}

/// Reads files and what they include.
struct Loader {
    /// The files that are being read, each included by the one before it: as named, and as found.
    chain: Vec<(String, PathBuf)>,
    files: usize,
    /// The text of the file that was read last.
    text: String,
}

impl Loader {
    /// Reads a file. Errors of reaching it belong to `from`, the place that names it.
    fn load(&mut self, path: &Path, from: &Place, key: &str) -> Result<Table, PlanError> {
        let fail = |problem| PlanError::new(from, key, problem);
        let named = path.display().to_string();
        let unreadable = |error: &std::io::Error| {
            let text =
                if key.is_empty() { error.to_string() } else { format!("`{named}`: {error}") };
            fail(Problem::Unreadable(text))
        };
        let found = fs::canonicalize(path).map_err(|error| unreadable(&error))?;
        self.enter(&named, &found).map_err(fail)?;
        let text = read_text(&found).map_err(|error| match error {
            ReadError::Io(error) => unreadable(&error),
            ReadError::Problem(problem) => fail(problem),
        })?;
        let place = place_of(path);
        let mut tree = tree::parse(&text, &place)?;
        no_name_twice(&tree)?;
        let mut merged = Table::new();
        for (included, at) in includes(&mut tree)? {
            let path = place.directory().join(included);
            tree::merge(&mut merged, self.load(&path, &at, "include")?);
        }
        tree::merge(&mut merged, tree);
        self.chain.pop();
        self.text = text;
        Ok(merged)
    }

    fn enter(&mut self, named: &str, found: &Path) -> Result<(), Problem> {
        if let Some(first) = self.chain.iter().position(|(_, path)| path == found) {
            let circle = self.chain.iter().skip(first).map(|(name, _)| name.as_str());
            let names: Vec<&str> = circle.chain([named]).collect();
            return Err(Problem::IncludeCycle(names.join(" includes ")));
        }
        self.files += 1;
        if self.files > FILES_MAX {
            let (count, most) = (self.files as u128, FILES_MAX as u128);
            return Err(Problem::TooMany { what: "included files", count, most });
        }
        self.chain.push((named.to_owned(), found.to_owned()));
        Ok(())
    }
}

enum ReadError {
    Io(std::io::Error),
    Problem(Problem),
}

/// Reads a file that must be small, and a file.
fn read_text(path: &Path) -> Result<String, ReadError> {
    if !fs::metadata(path).map_err(ReadError::Io)?.is_file() {
        return Err(ReadError::Problem(Problem::Unreadable("it is no file".to_owned())));
    }
    let file = File::open(path).map_err(ReadError::Io)?;
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(ReadError::Io)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(ReadError::Problem(Problem::TooLarge(FILE_BYTES_MAX)));
    }
    String::from_utf8(text)
        .map_err(|_| ReadError::Problem(Problem::Syntax("it is not UTF-8".to_owned())))
}

/// Takes the includes out of a tree: the paths, and where they are named.
fn includes(tree: &mut Table) -> Result<Vec<(String, Place)>, PlanError> {
    let Some(Entry { node, .. }) = tree.remove("include") else { return Ok(Vec::new()) };
    let field =
        Field { node: Cow::Owned(node), path: "include".to_owned(), takes: "a list of paths" };
    let paths = field.list()?;
    let path = |path: &Field<'_>| {
        let path = Field { path: "include".to_owned(), takes: "a path", ..path.clone() };
        Ok((path.text()?.to_owned(), path.node.place.clone()))
    };
    paths.iter().map(path).collect()
}

/// Refuses two entries of one name in one file; the merge would make them one.
fn no_name_twice(tree: &Table) -> Result<(), PlanError> {
    for what in LISTS {
        let Some(Value::List(items)) = tree.get(*what).map(|entry| &entry.node.value) else {
            continue;
        };
        let mut seen: Vec<(&str, &Place)> = Vec::new();
        for item in items {
            let Some(name) = item.name() else { continue };
            if let Some((_, first)) = seen.iter().find(|(known, _)| *known == name) {
                let (name, first) = (shorten(name), first.to_string());
                let path = join(what, &name);
                let problem = Problem::Duplicate { what: plural(what), name, first };
                return Err(PlanError::new(&item.place, &path, problem));
            }
            seen.push((name, &item.place));
        }
    }
    Ok(())
}

fn plural(list: &str) -> &'static str {
    match list {
        "site" => "sites",
        "group" => "groups",
        "blobs" => "blob sets",
        "workload" => "workloads",
        _ => "events",
    }
}
