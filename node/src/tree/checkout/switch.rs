//! A directory that holds one tree and is to hold another: only what differs is touched.
//!
//! First it is decided, entry by entry, what is to be done and whether somebody's work is in the way ([`plan`]); then
//! everything new is made in `.blobmesh/stage`; then the [`journal`] is written, and what it says is done.

use std::io;

use blobmesh_protocol::Hash;
use blobmesh_protocol::tree::{Change, Item, Manifest, diff};

use super::error::CheckoutError;
use super::journal::{self, STAGE};
use super::load::Manifests;
use super::plan::{Plan, Planner};
use super::stage::Maker;
use super::state::{self, Row, State, path_order};
use super::target::Target;
use super::{Recovered, bytes_of, now};
use crate::tree::beneath::{Dir, Stamp};

/// Is what a switch came to.
#[derive(Debug, Default)]
pub(super) struct Switched {
    /// What was done.
    pub(super) changes: Vec<Change>,
    /// What was found of an earlier one.
    pub(super) recovered: Option<Recovered>,
    /// What was left alone because it changed meanwhile.
    pub(super) left: Vec<Box<[u8]>>,
}

/// Makes a directory that holds a checkout, or nothing, hold the tree `root`, whose manifest was checked.
pub(super) fn switch(
    target: &Target,
    dir: &Dir,
    root: &Hash,
    new: Manifest,
    manifests: &mut Manifests<'_>,
    maker: &Maker<'_>,
) -> Result<Switched, CheckoutError> {
    let fail = |action| CheckoutError::io_at(action, &target.path);
    let own = journal::open_own(dir).map_err(fail("open .blobmesh in"))?;
    let own = own.ok_or_else(|| CheckoutError::Busy { path: target.path.clone() })?;
    let switch = Switch { target, dir, own: &own, maker };
    let done = switch.run(root, new, manifests);
    if done.is_err() {
        switch.tidy();
    }
    done
}

struct Switch<'a> {
    target: &'a Target,
    dir: &'a Dir,
    own: &'a Dir,
    maker: &'a Maker<'a>,
}

impl Switch<'_> {
    fn run(
        &self,
        root: &Hash,
        new: Manifest,
        manifests: &mut Manifests<'_>,
    ) -> Result<Switched, CheckoutError> {
        let recovered = self.recover()?;
        let done = self.run_recovered(root, new, manifests);
        match (done, recovered) {
            (Ok(done), recovered) => Ok(Switched { recovered, ..done }),
            (Err(error), None) => Err(error),
            (Err(error), Some(recovered)) => {
                Err(CheckoutError::AfterRecovery { recovered, error: Box::new(error) })
            }
        }
    }

    fn run_recovered(
        &self,
        root: &Hash,
        new: Manifest,
        manifests: &mut Manifests<'_>,
    ) -> Result<Switched, CheckoutError> {
        let state = self.state()?;
        let old = state
            .as_ref()
            .map(|state| manifests.root(&state.root).unwrap_or_else(|| state.manifest()));
        let state = state.unwrap_or(State { root: *root, noted: 0, rows: Vec::new() });
        let mut changes = diff_or_known(old.unwrap_or_default(), &state, new, manifests)?;
        let mut planner = Planner::new(self.dir, &state, self.maker.options.force, self.maker.stop);
        if self.maker.options.force {
            planner.add_unclean(&mut changes)?;
        }
        self.maker.check_blobs(&changes)?;
        self.maker.progress.begin(bytes_of(&changes));
        let plan = planner.plan(&changes)?;
        if plan.in_the_way > 0 {
            let (path, count) = (self.target.path.clone(), plan.in_the_way);
            return Err(CheckoutError::InTheWay { path, count, paths: plan.in_the_way_paths });
        }
        let left = self.carry_out(root, &state, &changes, plan)?;
        Ok(Switched { changes, recovered: None, left })
    }

    /// Stages what is new, and does what is planned.
    fn carry_out(
        &self,
        root: &Hash,
        state: &State,
        changes: &[Change],
        plan: Plan<'_>,
    ) -> Result<Vec<Box<[u8]>>, CheckoutError> {
        let fail = || CheckoutError::io_at("write .blobmesh in", &self.target.path);
        self.own.make_dir(STAGE).map_err(fail())?;
        let stage = self.own.open_below(STAGE).map_err(fail())?;
        let stamps = self.maker.make(&stage, &plan.staged)?;
        let made: Vec<(&[u8], Option<Stamp>)> =
            plan.staged.iter().map(|staged| staged.path).zip(stamps).collect();
        let next = State { root: *root, noted: now(), rows: rows_after(state, changes, &made) };
        if self.maker.stop.is_wanted() {
            return Err(CheckoutError::Stopped);
        }
        if plan.steps.is_empty() {
            next.save(self.own).and_then(|()| journal::clear(self.own)).map_err(fail())?;
            return Ok(Vec::new());
        }
        journal::begin(self.own, &plan.steps, &next).map_err(fail())?;
        // From here on it is done to its end, now or by the next checkout.
        journal::finish(self.dir, self.own, &plan.steps, next)
            .map_err(CheckoutError::io_at("finish the checkout in", &self.target.path))
    }

    /// Finishes or clears away what an interrupted checkout has left behind.
    fn recover(&self) -> Result<Option<Recovered>, CheckoutError> {
        let fail = || CheckoutError::io_at("finish an interrupted checkout in", &self.target.path);
        match journal::left_behind(self.own) {
            Ok(Some((steps, next))) => {
                let root = next.root;
                let left = journal::finish(self.dir, self.own, &steps, next).map_err(fail())?;
                Ok(Some(Recovered::Finished { root, left: left.len() }))
            }
            Ok(None) => {
                let was_there = self.own.stamp(STAGE).map_err(fail())?.is_some();
                journal::clear(self.own).map_err(fail())?;
                Ok(was_there.then_some(Recovered::Undone))
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                if !self.maker.options.force {
                    return Err(CheckoutError::StateDamaged { path: self.target.path.clone() });
                }
                journal::clear(self.own).map_err(fail())?;
                Ok(None)
            }
            Err(error) => Err(fail()(error)),
        }
    }

    /// Returns what the directory remembers; none where nothing was checked out, or nobody knows what.
    fn state(&self) -> Result<Option<State>, CheckoutError> {
        let damaged = || CheckoutError::StateDamaged { path: self.target.path.clone() };
        match State::load(self.own) {
            Ok(Some(state)) => Ok(Some(state)),
            Ok(None) => {
                let fail = CheckoutError::io_at("list", &self.target.path);
                let is_empty = self.dir.list().map_err(fail)?.len() <= 1;
                if is_empty || self.maker.options.force { Ok(None) } else { Err(damaged()) }
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                if self.maker.options.force { Ok(None) } else { Err(damaged()) }
            }
            Err(error) => Err(CheckoutError::io_at("read .blobmesh in", &self.target.path)(error)),
        }
    }

    /// Clears away after a failure, unless there is something to be finished.
    fn tidy(&self) {
        if matches!(journal::left_behind(self.own), Ok(None)) {
            journal::clear(self.own).ok();
        }
        // A directory that was empty is left so.
        if self.dir.list().is_ok_and(|entries| entries.len() == 1) {
            self.dir.remove_dir(state::DIR).ok();
        }
    }
}

/// Compares by manifests, as far as they are to be had; else by what the directory remembers.
fn diff_or_known(
    old: Manifest,
    state: &State,
    new: Manifest,
    manifests: &mut Manifests<'_>,
) -> Result<Vec<Change>, CheckoutError> {
    match diff(old, new.clone(), manifests) {
        Ok(changes) => Ok(changes),
        // Those of the new tree were all loaded before: it is the old one's that are gone.
        Err(_) => Ok(diff(state.manifest(), new, manifests)?),
    }
}

/// Returns the rows of the new tree: those of the old one, but for what changed.
pub(super) fn rows_after(
    state: &State,
    changes: &[Change],
    made: &[(&[u8], Option<Stamp>)],
) -> Vec<Row> {
    let mut made: std::collections::HashMap<&[u8], Stamp> =
        made.iter().filter_map(|(path, stamp)| Some((*path, (*stamp)?))).collect();
    let mut rows = Vec::with_capacity(state.rows.len() + changes.len());
    let mut old = state.rows.iter().peekable();
    for change in changes {
        while let Some(row) = old.next_if(|row| path_order(&row.path, &change.path).is_lt()) {
            rows.push(row.clone());
        }
        let replaced = old.next_if(|row| row.path == change.path);
        if let Some(item) = &change.new {
            let stamp = made.remove(change.path.as_ref());
            let stamp = stamp.or(replaced.map(|row| row.stamp)).unwrap_or(Stamp::NONE);
            rows.push(Row { path: change.path.clone(), item: item.clone(), stamp });
        }
    }
    rows.extend(old.cloned());
    rows
}

/// Counts what changes say.
pub(super) fn count(changes: &[Change]) -> (u64, u64, u64) {
    let is_file = |item: &Option<Item>| item.as_ref().is_some_and(|item| *item != Item::Dir);
    let mut counts = (0, 0, 0);
    for change in changes {
        match (is_file(&change.old), is_file(&change.new)) {
            (false, true) => counts.0 += 1,
            (true, true) => counts.1 += 1,
            (true, false) => counts.2 += 1,
            (false, false) => {}
        }
    }
    counts
}
