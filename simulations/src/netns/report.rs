//! What an experiment tells: steps to people, metrics to people or programs.
//!
//! Metrics go to the output as they are measured with JSON, and as one table at the end without.
//! Steps are talk and go beside it. Metrics that were declared but never measured are reported at
//! the end, so that an experiment that stopped half-way cannot look like one that held.

use std::io::{self, Write};

use super::{
    error::Error,
    metric::{Metric, MetricSpec},
};

/// Chooses how metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One table at the end.
    Table,
    /// One JSON object a line, as soon as it is known.
    JsonLines,
}

/// Collects the metrics of one experiment and writes them.
pub struct Report<'a> {
    experiment: &'static str,
    specs: &'static [MetricSpec],
    format: Format,
    output: &'a mut dyn Write,
    talk: &'a mut dyn Write,
    metrics: Vec<Metric>,
}

impl std::fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Report")
            .field("experiment", &self.experiment)
            .field("metrics", &self.metrics)
            .finish_non_exhaustive()
    }
}

impl<'a> Report<'a> {
    /// Makes the empty report of an experiment with these metrics.
    pub fn new(
        experiment: &'static str,
        specs: &'static [MetricSpec],
        format: Format,
        output: &'a mut dyn Write,
        talk: &'a mut dyn Write,
    ) -> Self {
        Self { experiment, specs, format, output, talk, metrics: Vec::new() }
    }

    /// Tells people what happens next. Nobody needs to hear it, so failures to write are ignored.
    pub fn step(&mut self, text: &str) {
        let _unheard = writeln!(self.talk, "{}: {text}", self.experiment);
    }

    /// Records a measurement.
    ///
    /// # Errors
    /// [`Error::Report`] when it cannot be written.
    pub fn record(&mut self, spec: &MetricSpec, value: f64) -> Result<(), Error> {
        debug_assert!(self.specs.contains(spec), "{} is not declared", spec.name);
        self.push(Metric::new(self.experiment, spec, Some(value)))
    }

    /// Records what was not measured and writes the table; returns whether all metrics hold.
    ///
    /// # Errors
    /// [`Error::Report`] when it cannot be written.
    pub fn finish(mut self) -> Result<bool, Error> {
        for spec in self.specs {
            if !self.metrics.iter().any(|metric| metric.metric == spec.name) {
                self.push(Metric::new(self.experiment, spec, None))?;
            }
        }
        if self.format == Format::Table {
            self.table().map_err(|source| Error::Report { source })?;
        }
        Ok(self.metrics.iter().all(|metric| metric.holds))
    }

    fn push(&mut self, metric: Metric) -> Result<(), Error> {
        if self.format == Format::JsonLines {
            self.line(&metric).map_err(|source| Error::Report { source })?;
        }
        self.metrics.push(metric);
        Ok(())
    }

    fn line(&mut self, metric: &Metric) -> io::Result<()> {
        serde_json::to_writer(&mut *self.output, metric)?;
        self.output.write_all(b"\n")?;
        self.output.flush()
    }

    fn table(&mut self) -> io::Result<()> {
        let width = self.metrics.iter().map(|metric| metric.metric.len()).max().unwrap_or(0).max(6);
        writeln!(
            self.output,
            "{:width$}  {:>10}  {:6}  {:8}  holds",
            "metric", "value", "unit", "bound"
        )?;
        for metric in &self.metrics {
            writeln!(
                self.output,
                "{:width$}  {:>10}  {:6}  {:8}  {}",
                metric.metric,
                value_text(metric.value),
                metric.unit,
                metric.bound.as_deref().unwrap_or("-"),
                if metric.holds { "yes" } else { "NO" },
            )?;
        }
        self.output.flush()
    }
}

/// Writes whole numbers whole and others with three places.
fn value_text(value: Option<f64>) -> String {
    match value {
        Some(whole) if whole.fract() == 0.0 => format!("{whole}"),
        Some(value) => format!("{value:.3}"),
        None => "missing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::metric::Bound, *};

    const SPECS: &[MetricSpec] = &[
        MetricSpec { name: "wait_s", unit: "s", bound: Some(Bound::AtMost(3.0)), about: "" },
        MetricSpec { name: "found", unit: "bool", bound: Some(Bound::Exactly(1.0)), about: "" },
        MetricSpec { name: "rate", unit: "MiB/s", bound: None, about: "" },
    ];

    /// Records `values` in the order of [`SPECS`]; returns the verdict and the output.
    fn report(format: Format, values: &[f64]) -> (bool, String) {
        let (mut output, mut talk) = (Vec::new(), Vec::new());
        let mut report = Report::new("x", SPECS, format, &mut output, &mut talk);
        for (spec, value) in SPECS.iter().zip(values) {
            report.record(spec, *value).unwrap();
        }
        let holds = report.finish().unwrap();
        (holds, String::from_utf8(output).unwrap())
    }

    #[test]
    fn one_bound_that_does_not_hold_decides() {
        assert!(report(Format::Table, &[3.0, 1.0, 7.0]).0);
        assert!(!report(Format::Table, &[3.5, 1.0, 7.0]).0);
    }

    #[test]
    fn bound_without_a_measurement_decides_too() {
        let (holds, output) = report(Format::JsonLines, &[1.0]);
        assert!(!holds);
        let lines: Vec<&str> = output.lines().collect();
        assert_eq!(lines.len(), SPECS.len());
        assert!(lines[1].contains(r#""metric":"found","value":null"#), "{output}");
    }

    #[test]
    fn figure_without_a_bound_may_be_missing() {
        assert!(report(Format::Table, &[1.0, 1.0]).0);
    }

    #[test]
    fn table_marks_the_bound_that_does_not_hold() {
        let (_, output) = report(Format::Table, &[3.5, 1.0]);
        let marked: Vec<&str> = output.lines().filter(|line| line.ends_with("NO")).collect();
        assert_eq!(marked, ["wait_s       3.500  s       <= 3      NO"]);
    }

    #[test]
    fn reader_that_went_away_is_an_error() {
        let mut output: &mut [u8] = &mut [];
        let mut talk = Vec::new();
        let mut report = Report::new("x", SPECS, Format::JsonLines, &mut output, &mut talk);
        assert!(matches!(report.record(&SPECS[0], 1.0), Err(Error::Report { .. })));
    }
}
