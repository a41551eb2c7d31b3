//! What is to be done to a directory so that it holds another tree, and who is in the way.
//!
//! Nobody's work is lost silently: what would be replaced or removed must look as it was checked out, or hold the same
//! bytes, or those that it is to hold; else it is *in the way*, and nothing is done at all unless that is forced. Files
//! that neither tree has are not touched.

use std::io;

use blobmesh_protocol::tree::{Change, Item};

use super::IN_THE_WAY_MAX;
use super::error::CheckoutError;
use super::journal::{Expected, Step, is_gone};
use super::stage::{Here, Staged};
use super::state::{State, holds, name_of, parent_of, path_order};
use crate::stop::Stop;
use crate::tree::beneath::{Dir, Kind, Stamp};

/// Is what is to be done.
#[derive(Debug, Default)]
pub(super) struct Plan<'c> {
    /// What is to be made, each entry without its place.
    pub(super) staged: Vec<Staged<'c>>,
    /// What is to be done then.
    pub(super) steps: Vec<Step>,
    /// How many paths are in the way.
    pub(super) in_the_way: u64,
    /// Some of them.
    pub(super) in_the_way_paths: Vec<Vec<u8>>,
    removals: Vec<Step>,
    empties: Vec<Step>,
    links: Vec<Step>,
    numbers: u64,
}

/// Looks at a directory and decides.
#[derive(Debug)]
pub(super) struct Planner<'a> {
    root: &'a Dir,
    here: Here<'a>,
    state: &'a State,
    force: bool,
    stop: &'a Stop,
}

/// Says what there is at a path.
#[derive(Debug)]
enum Found {
    Nothing,
    Entry(Kind, Stamp),
    /// A path above it is no directory.
    Blocked(Vec<u8>),
}

impl<'a> Planner<'a> {
    pub(super) fn new(root: &'a Dir, state: &'a State, force: bool, stop: &'a Stop) -> Self {
        Self { root, here: Here::new(root), state, force, stop }
    }

    /// Adds all that is no longer as it was checked out, so that it is made again.
    pub(super) fn add_unclean(&mut self, changes: &mut Vec<Change>) -> Result<(), CheckoutError> {
        let mut unclean = Vec::new();
        let mut known = changes.iter().peekable();
        for row in &self.state.rows {
            while known.next_if(|change| path_order(&change.path, &row.path).is_lt()).is_some() {}
            if known.peek().is_some_and(|change| change.path == row.path) {
                continue;
            }
            let is_clean = match self.find(&row.path)? {
                Found::Nothing | Found::Blocked(_) => false,
                Found::Entry(kind, stamp) => self.is_clean(&row.path, kind, stamp)?,
            };
            if !is_clean {
                let (path, item) = (row.path.clone(), Some(row.item.clone()));
                unclean.push(Change { path, old: item.clone(), new: item });
            }
        }
        changes.extend(unclean);
        changes.sort_by(|one, other| path_order(&one.path, &other.path));
        Ok(())
    }

    /// Decides what is to be done for each change.
    pub(super) fn plan<'c>(&mut self, changes: &'c [Change]) -> Result<Plan<'c>, CheckoutError> {
        let mut plan = Plan::default();
        let mut rest = changes;
        while let Some((change, after)) = rest.split_first() {
            if self.stop.is_wanted() {
                return Err(CheckoutError::Stopped);
            }
            rest = after;
            match &change.new {
                None => self.plan_removal(&mut plan, change)?,
                Some(Item::Dir) => {
                    if self.plan_dir(&mut plan, change)? {
                        let below =
                            after.iter().take_while(|next| is_below(&next.path, &change.path));
                        let below = &after[..below.count()];
                        plan.graft(change, below, Expected::Nothing);
                        rest = &after[below.len()..];
                    }
                }
                Some(item) => self.plan_leaf(&mut plan, change, item)?,
            }
        }
        Ok(plan.in_order())
    }

    fn plan_removal(&mut self, plan: &mut Plan<'_>, change: &Change) -> Result<(), CheckoutError> {
        let Found::Entry(kind, stamp) = self.find(&change.path)? else { return Ok(()) };
        let path = change.path.clone();
        match (&change.old, kind) {
            (Some(Item::Dir), Kind::Dir) => plan.removals.push(Step::RemoveDir { path }),
            // Somebody has put something else there, which is none of the tree's.
            (Some(Item::Dir), _) => {}
            (_, Kind::Dir) if self.force => plan.removals.push(Step::RemoveAll { path }),
            _ if self.force || self.is_clean(&path, kind, stamp)? => {
                plan.removals.push(Step::Remove { path, expected: stamp });
            }
            _ => plan.block(&path),
        }
        Ok(())
    }

    /// Returns whether the directory is to be made with all that is below it.
    fn plan_dir(&mut self, plan: &mut Plan<'_>, change: &Change) -> Result<bool, CheckoutError> {
        let path = &change.path;
        let was_dir = change.old == Some(Item::Dir);
        match self.find(path)? {
            Found::Nothing => {}
            Found::Entry(Kind::Dir, _) if was_dir || change.old.is_none() => return Ok(false),
            Found::Entry(kind, stamp)
                if kind != Kind::Dir && self.is_clean(path, kind, stamp)? =>
            {
                plan.removals.push(Step::Remove { path: path.clone(), expected: stamp });
            }
            Found::Entry(..) if self.force => {
                plan.removals.push(Step::RemoveAll { path: path.clone() });
            }
            Found::Blocked(by) if self.force => plan.remove_blocking(by),
            Found::Blocked(by) => plan.block(&by),
            Found::Entry(..) => plan.block(path),
        }
        if was_dir {
            // What is below it comes by itself, as far as it is missing.
            plan.steps.push(Step::MakeDir { path: path.clone() });
        }
        Ok(!was_dir)
    }

    fn plan_leaf<'c>(
        &mut self,
        plan: &mut Plan<'c>,
        change: &'c Change,
        item: &Item,
    ) -> Result<(), CheckoutError> {
        let path = &change.path;
        let expected = match self.find(path)? {
            Found::Nothing => Expected::Nothing,
            Found::Blocked(by) => {
                match self.force {
                    true => plan.remove_blocking(by),
                    false => plan.block(&by),
                }
                Expected::Nothing
            }
            Found::Entry(Kind::Dir, _) if self.force => {
                plan.removals.push(Step::RemoveAll { path: path.clone() });
                Expected::Anything
            }
            Found::Entry(Kind::Dir, _) => {
                self.plan_dir_to_leaf(plan, change)?;
                Expected::Nothing
            }
            Found::Entry(..) if self.force => Expected::Anything,
            Found::Entry(kind, stamp) => {
                if !self.is_clean(path, kind, stamp)? && !self.holds(path, item, kind, stamp)? {
                    plan.block(path);
                }
                Expected::Entry(stamp)
            }
        };
        plan.graft(change, &[], expected);
        Ok(())
    }

    /// Plans that a directory makes room, which it does if nothing is in it but what was checked out.
    fn plan_dir_to_leaf(
        &mut self,
        plan: &mut Plan<'_>,
        change: &Change,
    ) -> Result<(), CheckoutError> {
        if change.old != Some(Item::Dir) {
            plan.block(&change.path);
            return Ok(());
        }
        plan.removals.push(Step::RemoveDir { path: change.path.clone() });
        let mut open = vec![change.path.to_vec()];
        while let Some(path) = open.pop() {
            let fail = || CheckoutError::io("list", &path);
            let entries = self.root.open_below(&path).and_then(|dir| dir.list()).map_err(fail())?;
            for (name, kind) in entries {
                let below = [&path[..], b"/", &name].concat();
                let is_known = self.state.row(&below).is_some();
                match kind {
                    Kind::Dir => {
                        if !is_known {
                            plan.empties.push(Step::RemoveDir { path: below.clone().into() });
                        }
                        open.push(below);
                    }
                    // Whether it was changed is found where its own removal is planned.
                    _ if is_known => {}
                    Kind::File | Kind::Symlink | Kind::Other => plan.block(&below),
                }
            }
        }
        Ok(())
    }

    fn find(&mut self, path: &[u8]) -> Result<Found, CheckoutError> {
        let fail = || CheckoutError::io("look at", path);
        let found = match self.here.of(parent_of(path)) {
            Ok(dir) => dir.stamp(name_of(path)).map_err(fail())?,
            Err(error) if is_gone(&error) => return self.find_blocking(path).map_err(fail()),
            Err(error) => return Err(fail()(error)),
        };
        Ok(found.map_or(Found::Nothing, |(kind, stamp)| Found::Entry(kind, stamp)))
    }

    /// Returns the first path above `path` that is no directory.
    fn find_blocking(&self, path: &[u8]) -> io::Result<Found> {
        let mut dir = self.root.open_below(b"")?;
        let ends = (0..path.len()).filter(|at| path[*at] == b'/');
        for above in ends.map(|end| &path[..end]) {
            dir = match dir.stamp(name_of(above))? {
                Some((Kind::Dir, _)) => dir.open_below(name_of(above))?,
                Some(_) => return Ok(Found::Blocked(above.to_vec())),
                None => return Ok(Found::Nothing),
            };
        }
        Ok(Found::Nothing)
    }

    /// Returns whether what is at a path is what was checked out there.
    fn is_clean(&mut self, path: &[u8], kind: Kind, stamp: Stamp) -> Result<bool, CheckoutError> {
        let fail = || CheckoutError::io("read", path);
        let Some(row) = self.state.row(path) else { return Ok(false) };
        let dir = self.here.of(parent_of(path)).map_err(fail())?;
        row.is_clean(self.state.noted, dir, (kind, stamp), self.stop).map_err(fail())
    }

    fn holds(
        &mut self,
        path: &[u8],
        item: &Item,
        kind: Kind,
        stamp: Stamp,
    ) -> Result<bool, CheckoutError> {
        let fail = || CheckoutError::io("read", path);
        let dir = self.here.of(parent_of(path)).map_err(fail())?;
        holds(item, dir, name_of(path), (kind, stamp), self.stop).map_err(fail())
    }
}

impl<'c> Plan<'c> {
    /// Has an entry made with those below it, and put into its place.
    fn graft(&mut self, change: &'c Change, below: &'c [Change], expected: Expected) {
        let number = self.numbers;
        self.numbers += 1;
        let at = number.to_string().into_bytes();
        for entry in std::iter::once(change).chain(below) {
            let Some(item) = &entry.new else { continue };
            let at = [&at[..], &entry.path[change.path.len()..]].concat().into();
            self.staged.push(Staged { at, path: &entry.path, item });
        }
        let step = Step::Place { number, path: change.path.clone(), expected };
        match change.new {
            Some(Item::Symlink { .. }) => self.links.push(step),
            _ => self.steps.push(step),
        }
    }

    /// Notes that something is in the way.
    fn block(&mut self, path: &[u8]) {
        if self.in_the_way_paths.iter().any(|known| known == path) {
            return;
        }
        self.in_the_way += 1;
        if self.in_the_way_paths.len() < IN_THE_WAY_MAX {
            self.in_the_way_paths.push(path.to_vec());
        }
    }

    fn remove_blocking(&mut self, path: Vec<u8>) {
        let step = Step::RemoveAll { path: path.into() };
        if self.removals.last() != Some(&step) {
            self.removals.push(step);
        }
    }

    /// Puts the steps into the order in which they are done: what goes before what comes, what is below before what it
    /// is in, and symbolic links last.
    fn in_order(mut self) -> Self {
        let comes = std::mem::take(&mut self.steps);
        let goes = self.removals.drain(..).chain(self.empties.drain(..)).rev();
        self.steps = goes.collect();
        self.steps.extend(comes);
        self.steps.append(&mut self.links);
        self
    }
}

fn is_below(path: &[u8], above: &[u8]) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.first() == Some(&b'/'))
}
