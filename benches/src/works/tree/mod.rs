//! Directories: brought from a peer and checked out of the local store, beside git, rsync and `cp`.

mod checkout;
mod clone;

pub(super) use self::clone::PULL_STEPS;

use std::io;

use serde_json::json;

use super::{Figures, Setting, Work};
use crate::rivals::Rival;
use blobmesh_simulations::netns::metric::MetricSpec;

/// The work.
pub const WORK: Work = Work {
    name: "tree",
    about: "10,000 files and our own dependencies: from a peer on a tmpfs, and out of the store on ext4, xfs and btrfs",
    metrics: &METRICS,
    rivals: &[Rival::Git, Rival::Rsync],
    run,
};

const METRICS: [MetricSpec; CLONES + CHECKOUTS] = {
    let mut all = [clone::METRICS[0]; CLONES + CHECKOUTS];
    let mut at = 0;
    while at < CLONES {
        all[at] = clone::METRICS[at];
        at += 1;
    }
    while at < CLONES + CHECKOUTS {
        all[at] = checkout::METRICS[at - CLONES];
        at += 1;
    }
    all
};
const CLONES: usize = clone::METRICS.len();
const CHECKOUTS: usize = checkout::METRICS.len();

fn run(setting: &Setting) -> io::Result<Figures> {
    let clones = clone::run(setting)?;
    let checkouts = checkout::run(setting)?;
    Ok(Figures {
        text: format!("{}\n{}", clones.text, checkouts.text),
        values: clones.values.into_iter().chain(checkouts.values).collect(),
        raw: json!({ "clone": clones.raw, "checkout": checkouts.raw }),
    })
}
