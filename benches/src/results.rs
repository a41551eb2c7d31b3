//! What came of a work, told: a table for people, lines for programs, and all that was measured in a file.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use blobmesh_simulations::netns::report::{Format, Report};
use serde_json::{Value, json};

use crate::machine::{self, Machine};
use crate::rivals::Rivals;
use crate::works::{Figures, Work};

/// Writes the metrics of a work as one table; returns whether all bounds hold. A metric with a bound that was
/// not measured does not hold.
///
/// # Errors
/// When it cannot be written.
pub fn write_table(work: &'static Work, figures: &Figures, to: &mut dyn Write) -> io::Result<bool> {
    write(work, figures, Format::Table, to)
}

/// Writes the metrics of a work as the experiments of `blobmesh-sim netns` do: one JSON object a line.
///
/// # Errors
/// When it cannot be written.
pub fn write_lines(work: &'static Work, figures: &Figures, to: &mut dyn Write) -> io::Result<bool> {
    write(work, figures, Format::JsonLines, to)
}

fn write(
    work: &'static Work,
    figures: &Figures,
    format: Format,
    to: &mut dyn Write,
) -> io::Result<bool> {
    let mut talk = io::sink();
    let mut report = Report::new(work.name, work.metrics, format, to, &mut talk);
    for metric in work.metrics {
        if let Some(value) = figures.values.get(metric.name) {
            report.record(metric, *value).map_err(io::Error::other)?;
        }
    }
    report.finish().map_err(io::Error::other)
}

/// Is what the figures were measured on and of.
#[derive(Clone, Debug)]
pub struct Origin {
    machine: Machine,
    commit: String,
    load_before: f64,
}

impl Origin {
    /// Looks at the machine before anything is measured.
    pub fn this() -> Self {
        let (machine, commit) = (Machine::this(), machine::commit());
        Self { machine, commit, load_before: machine::load() }
    }

    /// Returns the line that stands above figures.
    pub fn line(&self) -> String {
        let Machine { processor, cores, memory_mib, kernel } = &self.machine;
        format!(
            "{cores} cores of {processor}, {} GiB, kernel {kernel}; commit {}; load {:.1}",
            memory_mib >> 10,
            self.commit,
            self.load_before
        )
    }

    /// Writes all that was measured in a work to a file in `directory`, named after work and commit.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn keep(
        &self,
        directory: &Path,
        work: &Work,
        runs: usize,
        rivals: &Rivals,
        figures: &Figures,
    ) -> io::Result<std::path::PathBuf> {
        let versions: serde_json::Map<String, Value> = work
            .rivals
            .iter()
            .map(|rival| (rival.to_string(), json!(rivals.version(*rival))))
            .collect();
        let text = json!({
            "work": work.name,
            "machine": self.machine,
            "commit": self.commit,
            "load": { "before": self.load_before, "after": machine::load() },
            "runs": runs,
            "versions": versions,
            "metrics": figures.values,
            "measured": figures.raw,
        });
        fs::create_dir_all(directory)?;
        let path = directory.join(format!("{}-{}.json", work.name, self.commit));
        fs::write(&path, format!("{text:#}\n"))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use crate::works;

    use super::*;

    #[test]
    fn line_is_that_of_the_experiments() {
        let work = works::find("blob").unwrap();
        let mut figures = Figures::default();
        figures.put(&work.metrics[0], Some(1.5));
        let mut lines = Vec::new();
        assert!(!write_lines(work, &figures, &mut lines).unwrap());
        let lines = String::from_utf8(lines).unwrap();
        assert_eq!(
            lines.lines().next(),
            Some(
                r#"{"experiment":"blob","metric":"ratio_rsync","value":1.5,"unit":"ratio","bound":">= 1.15","holds":true}"#
            )
        );
        assert_eq!(lines.lines().count(), work.metrics.len());
    }

    #[test]
    fn names_of_works_and_of_their_metrics_are_unique() {
        let mut names: Vec<_> = works::WORKS.iter().map(|work| work.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), works::WORKS.len());
        for work in works::WORKS {
            let mut names: Vec<_> = work.metrics.iter().map(|metric| metric.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), work.metrics.len(), "{}", work.name);
        }
    }

    #[test]
    fn all_that_was_measured_is_kept_with_machine_and_commit() {
        let room = tempfile::tempdir().unwrap();
        let work = works::find("blob").unwrap();
        let figures = Figures { raw: json!({ "bytes": 7 }), ..Figures::default() };
        let rivals = Rivals::new(room.path());
        let path = Origin::this().keep(room.path(), work, 3, &rivals, &figures).unwrap();
        let kept: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(kept["measured"]["bytes"], 7);
        assert!(kept["machine"]["cores"].as_u64().unwrap() > 0);
        assert!(kept["commit"].is_string());
    }
}
