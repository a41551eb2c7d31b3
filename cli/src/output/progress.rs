//! How far long work is: a bar on a terminal, a few JSON lines a second with `--json`.

use std::time::{Duration, Instant};

use blobmesh_node::control::api;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::Printer;
use crate::error::CommandError;

/// At most five lines a second.
const LINE_EVERY: Duration = Duration::from_millis(200);

const BAR: &str =
    "{prefix}  {binary_bytes} / {binary_total_bytes}  {binary_bytes_per_sec}  ETA {eta}{msg}";
const COUNT: &str = "{prefix}  {pos} / {len} blobs  {msg}  {per_sec}  ETA {eta}";
const FILES: &str = "{prefix}  {pos} / {len} files  {per_sec}{msg}  ETA {eta}";
const FILES_WITHOUT_TOTAL: &str = "{prefix}  {pos} files  {per_sec}{msg}";
const BAR_WITHOUT_TOTAL: &str = "{prefix}  {binary_bytes}  {binary_bytes_per_sec}{msg}";

/// Shows the progress of one request; cleared when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    printer: Printer,
    title: String,
    phase: String,
    told: Option<Instant>,
    bar: Option<ProgressBar>,
}

#[derive(Serialize)]
struct PhaseBody<'a> {
    phase: &'a str,
}

impl Progress {
    pub(super) fn new(printer: Printer, verb: &str, what: &str) -> Self {
        let bar = printer
            .bars
            .then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5)));
        let title = format!("{verb} {what}");
        Self { printer, title, phase: String::new(), told: None, bar }
    }

    fn update(&mut self, progress: &api::Progress) -> Result<(), CommandError> {
        let new_phase = self.phase != progress.phase;
        if new_phase {
            self.phase.clone_from(&progress.phase);
            self.printer.line("phase", &PhaseBody { phase: &progress.phase })?;
        }
        if let Some(bar) = &self.bar {
            draw(bar, &self.title, progress, new_phase);
        }
        if self.told.is_none_or(|told| told.elapsed() >= LINE_EVERY) {
            self.told = Some(Instant::now());
            self.printer.line("progress", progress)?;
        }
        Ok(())
    }
}

/// Takes what a node sends while it serves a request.
pub(crate) trait TakeEvents {
    /// Takes one event.
    ///
    /// # Errors
    /// When nobody reads what is shown of it; this ends the request.
    fn take(&mut self, event: &api::Event) -> Result<(), CommandError>;
}

impl TakeEvents for Progress {
    /// Shows how far the node is, and the bytes of a blob, which go to stdout.
    fn take(&mut self, event: &api::Event) -> Result<(), CommandError> {
        match event {
            api::Event::Progress(progress) => self.update(progress),
            api::Event::Bytes(bytes) => self.printer.bytes(bytes),
            // Who asks for many takes them himself.
            api::Event::Got(_) => Ok(()),
        }
    }
}

/// Counts the parts of a work on a terminal; cleared when it is dropped.
#[derive(Debug)]
pub(crate) struct Count {
    bar: Option<ProgressBar>,
    bytes: u64,
}

impl Count {
    pub(super) fn new(printer: Printer, verb: &str, parts: usize) -> Self {
        let parts = u64::try_from(parts).unwrap_or(u64::MAX);
        let target = ProgressDrawTarget::stderr_with_hz(5);
        let bar = printer.bars.then(|| ProgressBar::with_draw_target(Some(parts), target));
        if let Some(bar) = &bar {
            if let Ok(style) = ProgressStyle::with_template(COUNT) {
                bar.set_style(style);
            }
            bar.set_prefix(verb.to_owned());
        }
        Self { bar, bytes: 0 }
    }

    /// Counts parts that are done, and their bytes.
    pub(crate) fn add(&mut self, parts: usize, bytes: u64) {
        self.bytes += bytes;
        if let Some(bar) = &self.bar {
            bar.set_message(crate::units::size(self.bytes));
            bar.inc(u64::try_from(parts).unwrap_or(u64::MAX));
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn draw(bar: &ProgressBar, title: &str, progress: &api::Progress, new_phase: bool) {
    if new_phase {
        bar.reset_eta();
    }
    if let Some(files) = progress.files {
        return draw_files(bar, title, progress, files);
    }
    let template = if progress.total.is_some() { BAR } else { BAR_WITHOUT_TOTAL };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if let Some(total) = progress.total {
        bar.set_length(total);
    }
    bar.set_prefix(format!("{title}  {}", progress.phase));
    bar.set_message(match progress.peers {
        0 => String::new(),
        1 => "  1 peer".to_owned(),
        peers => format!("  {peers} peers"),
    });
    bar.set_position(progress.done);
}

fn draw_files(bar: &ProgressBar, title: &str, progress: &api::Progress, files: api::FileCount) {
    if let (Some(bytes), Some(total)) = (progress.total, files.total) {
        return draw_files_by_bytes(bar, title, progress, bytes, (files.done, total));
    }
    let template = if files.total.is_some() { FILES } else { FILES_WITHOUT_TOTAL };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if let Some(total) = files.total {
        bar.set_length(total);
    }
    bar.set_prefix(format!("{title}  {}", progress.phase));
    bar.set_message(format!("  {}", crate::units::size(progress.done)));
    bar.set_position(files.done);
}

/// Draws the bytes, which say better than the files when all is done.
fn draw_files_by_bytes(
    bar: &ProgressBar,
    title: &str,
    progress: &api::Progress,
    bytes: u64,
    (done, total): (u64, u64),
) {
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    bar.set_length(bytes);
    bar.set_prefix(format!("{title}  {}", progress.phase));
    bar.set_message(format!("  {done} / {total} files"));
    bar.set_position(progress.done);
}
