//! The catalogue of experiments.
//!
//! To add one: a module with a `pub static EXPERIMENT`, a line in [`CATALOGUE`], and a section in
//! `simulations/README.md`, which a test compares with the declared metrics.

use std::{ops::RangeInclusive, path::Path, time::Duration};

use super::{
    blob,
    error::Error,
    lab::Topology,
    metric::MetricSpec,
    process::{Home, Setting},
    report::Report,
};

pub mod adversaries;
pub mod dht_only;
pub mod edge_loss;
pub mod herd;
pub mod holders_fail;
pub mod http3;
pub mod impairment;
mod lan;
pub mod lan_against_edge;
pub mod lan_rsync;
mod office;
pub mod prefetch;
pub mod remote_git;
pub mod resume;
mod specs;
pub mod swarm;
pub mod three_nodes;
pub mod two_nodes_shaped;

/// All experiments, in the order of the README.
pub static CATALOGUE: &[&Experiment] = &[
    &three_nodes::EXPERIMENT,
    &dht_only::EXPERIMENT,
    &impairment::EXPERIMENT,
    &two_nodes_shaped::EXPERIMENT,
    &swarm::EXPERIMENT,
    &holders_fail::EXPERIMENT,
    &resume::EXPERIMENT,
    &herd::EXPERIMENT,
    &herd::KILL,
    &adversaries::EXPERIMENT,
    &edge_loss::EXPERIMENT,
    &http3::EXPERIMENT,
    &lan_against_edge::EXPERIMENT,
    &prefetch::EXPERIMENT,
    &lan_rsync::EXPERIMENT,
    &remote_git::EXPERIMENT,
];

/// How often a question is asked again while its answer is waited for.
const ASK_PAUSE: Duration = Duration::from_millis(20);

/// Declares an experiment.
#[derive(Debug)]
pub struct Experiment {
    /// The name on the command line.
    pub name: &'static str,
    /// What it shows, in one sentence.
    pub about: &'static str,
    /// How the hosts are connected.
    pub topology: Topology,
    /// How many nodes it can have; the first is the default.
    pub nodes: RangeInclusive<u8>,
    /// All its metrics, in the order of their measurement.
    pub metrics: &'static [MetricSpec],
    /// Runs it. Returns an error only when a step fails that is not measured.
    pub run: fn(&mut Trial<'_, '_>) -> Result<(), Error>,
}

/// Finds an experiment by its name.
pub fn find(name: &str) -> Option<&'static Experiment> {
    CATALOGUE.iter().copied().find(|experiment| experiment.name == name)
}

/// Is one run of an experiment.
#[derive(Debug)]
pub struct Trial<'a, 'r> {
    /// The lab, the binary and the signal.
    pub setting: Setting<'a>,
    /// How many nodes there are.
    pub nodes: u8,
    /// The length of the large blob in bytes.
    pub blob_bytes: u64,
    /// How often one thing is measured at most.
    pub repeats_max: u8,
    /// Where measurements go.
    pub report: &'a mut Report<'r>,
}

impl<'a> Trial<'a, '_> {
    /// Makes a fresh home on a host, by its number from 1, named after the host and a suffix.
    fn home(&self, number: u8, suffix: &str) -> Result<Home<'a>, Error> {
        let host = self.setting.lab.host(number)?;
        Home::new(self.setting, host, &format!("{}{suffix}", host.name))
    }

    /// Touches as much memory as all nodes together are going to fill: what a real machine has for itself.
    fn touch_memory(&self, bytes: u64) -> Result<(), Error> {
        self.setting.lab.touch_memory(bytes, self.setting.stop)
    }

    /// Writes a blob of the lab's directory and adds it at a home; returns its hash.
    ///
    /// The hash is ours, and a node that names another one is not worth measuring.
    fn add(&self, home: &Home<'_>, bytes: u64, seed: u64) -> Result<String, Error> {
        let path = self.setting.lab.path().join(format!("blob-{seed}"));
        let hash = blob::write(&path, bytes, seed)?;
        self.add_file(home, &path, hash)
    }

    /// Writes a text that compresses and adds it at a home; returns its hash.
    fn add_text(&self, home: &Home<'_>, bytes: u64, seed: u64) -> Result<String, Error> {
        let path = self.setting.lab.path().join(format!("text-{seed}"));
        let hash = blob::write_text(&path, bytes, seed)?;
        self.add_file(home, &path, hash)
    }

    fn add_file(&self, home: &Home<'_>, path: &Path, hash: String) -> Result<String, Error> {
        let answer = home.add(path)?;
        // The node has its own copy: the lab need not hold another.
        std::fs::remove_file(path).map_err(Error::file("remove", path))?;
        if answer == hash {
            return Ok(hash);
        }
        let problem = format!("hash {answer} for a blob of hash {hash}");
        Err(Error::Answer { command: "blobmesh add".to_owned(), problem })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::lab::HOSTS_MAX, *};

    const README: &str = include_str!("../../../README.md");

    #[test]
    fn names_are_unique_and_found() {
        for experiment in CATALOGUE {
            assert_eq!(find(experiment.name).map(|found| found.name), Some(experiment.name));
            let names: BTreeSet<&str> = experiment.metrics.iter().map(|spec| spec.name).collect();
            assert_eq!(names.len(), experiment.metrics.len(), "{}", experiment.name);
        }
        assert!(find("no-such-experiment").is_none());
    }

    #[test]
    fn every_experiment_fits_into_a_lab() {
        for experiment in CATALOGUE {
            assert!(*experiment.nodes.start() >= 1 && *experiment.nodes.end() <= HOSTS_MAX);
        }
    }

    #[test]
    fn readme_lists_every_metric_with_its_bound() {
        for experiment in CATALOGUE {
            let heading = format!("### `{}`\n", experiment.name);
            let section = README.split_once(&heading).map(|(_, rest)| rest);
            let section = section.unwrap_or_else(|| panic!("no section {heading}"));
            let section = section.split("\n#").next().unwrap();
            for spec in experiment.metrics {
                let bound = spec.bound.map_or("–".to_owned(), |bound| bound.to_string());
                let row = format!("| `{}` | {} | {bound} |", spec.name, spec.unit);
                assert!(section.contains(&row), "{} misses the row {row}", experiment.name);
            }
        }
    }
}
