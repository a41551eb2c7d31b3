//! How far long work is: a line on a terminal, or a few JSON lines a second.
//!
//! The wall clock is the caller's: each update brings the moment. So an update costs nothing but a
//! comparison where nothing is due, and tests need no waiting.

use std::io::{self, IsTerminal as _, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// At most five lines a second.
pub const LINE_EVERY: Duration = Duration::from_millis(200);
/// The form of the JSON lines.
const VERSION: u32 = 1;
/// The bar counts thousandths.
const BAR_LENGTH: u16 = 1000;

/// Tells how far a run or a sweep is.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What is under way, as `flash-crowd` or `cell 3 of 12, seed 7`.
    pub phase: String,
    /// Virtual time reached.
    pub at: Duration,
    /// The share that is done, 0 to 1.
    pub share: f64,
    /// Events handled since the start.
    pub events: u64,
}

/// Shows progress; what it showed goes when it is dropped.
pub struct Progress {
    show: Show,
    started: Instant,
    told: Option<Instant>,
}

enum Show {
    Nothing,
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = match self.show {
            Show::Nothing => "nothing",
            Show::Bar(_) => "bar",
            Show::Lines(_) => "lines",
        };
        f.debug_struct("Progress").field("show", &show).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Line<'a> {
    r#type: &'static str,
    version: u32,
    phase: &'a str,
    virtual_s: f64,
    share: f64,
    events: u64,
    events_per_s: f64,
    eta_s: Option<f64>,
}

impl Progress {
    /// Shows a line on stderr if that is a terminal, else nothing.
    pub fn on_terminal(now: Instant) -> Self {
        if !io::stderr().is_terminal() {
            return Self { show: Show::Nothing, started: now, told: None };
        }
        let target = ProgressDrawTarget::stderr_with_hz(5);
        let bar = ProgressBar::with_draw_target(Some(u64::from(BAR_LENGTH)), target);
        if let Ok(style) = ProgressStyle::with_template("{prefix}  {bar:20}  {msg}") {
            bar.set_style(style);
        }
        Self { show: Show::Bar(bar), started: now, told: None }
    }

    /// Writes JSON lines of type `progress`.
    pub fn lines(output: Box<dyn Write + Send>, now: Instant) -> Self {
        Self { show: Show::Lines(output), started: now, told: None }
    }

    /// Shows nothing.
    pub fn silent(now: Instant) -> Self {
        Self { show: Show::Nothing, started: now, told: None }
    }

    /// Says whether an update now would show; work may skip making a [`Step`] otherwise.
    pub fn due(&self, now: Instant) -> bool {
        let waited = |told: Instant| now.saturating_duration_since(told) >= LINE_EVERY;
        !matches!(self.show, Show::Nothing) && self.told.is_none_or(waited)
    }

    /// Shows how far the work is, if it is time to. Nobody needs to hear it: a failure to write is
    /// ignored.
    pub fn update(&mut self, step: &Step, now: Instant) {
        if !self.due(now) {
            return;
        }
        self.told = Some(now);
        let wall = now.saturating_duration_since(self.started);
        match &mut self.show {
            Show::Nothing => {}
            Show::Bar(bar) => draw(bar, step, wall),
            Show::Lines(output) => {
                let _unheard = write_line(output, step, wall);
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Show::Bar(bar) = &self.show {
            bar.finish_and_clear();
        }
    }
}

fn write_line(output: &mut impl Write, step: &Step, wall: Duration) -> io::Result<()> {
    let line = Line {
        r#type: "progress",
        version: VERSION,
        phase: &step.phase,
        virtual_s: step.at.as_secs_f64(),
        share: step.share.clamp(0.0, 1.0),
        events: step.events,
        events_per_s: rate(step, wall),
        eta_s: eta(step, wall).map(|eta| eta.as_secs_f64()),
    };
    serde_json::to_writer(&mut *output, &line)?;
    output.write_all(b"\n")?;
    output.flush()
}

fn draw(bar: &ProgressBar, step: &Step, wall: Duration) {
    let share = step.share.clamp(0.0, 1.0);
    // Counting up finds the thousandth without a cast that could cut.
    let done =
        (0..BAR_LENGTH).filter(|part| f64::from(*part) < share * f64::from(BAR_LENGTH)).count();
    bar.set_prefix(step.phase.clone());
    bar.set_message(message(step, wall));
    bar.set_position(done as u64);
}

/// Returns what stands behind the bar: `12.5 s simulated  40 %  1.2 M events/s  ETA 9 s`.
fn message(step: &Step, wall: Duration) -> String {
    let eta =
        eta(step, wall).map_or_else(|| "-".to_owned(), |eta| format!("{:.0} s", eta.as_secs_f64()));
    let rate = rate(step, wall);
    let rate =
        if rate >= 1e6 { format!("{:.1} M", rate / 1e6) } else { format!("{:.0} k", rate / 1e3) };
    format!(
        "{:.1} s simulated  {:.0} %  {rate} events/s  ETA {eta}",
        step.at.as_secs_f64(),
        step.share.clamp(0.0, 1.0) * 100.0,
    )
}

fn rate(step: &Step, wall: Duration) -> f64 {
    if wall.is_zero() { 0.0 } else { step.events as f64 / wall.as_secs_f64() }
}

/// Returns the time left if the rest goes as the part done; none while that is too little to tell.
fn eta(step: &Step, wall: Duration) -> Option<Duration> {
    let share = step.share.clamp(0.0, 1.0);
    (share > 0.001).then(|| wall.as_secs_f64() * (1.0 - share) / share).map(Duration::from_secs_f64)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().map_err(|_| io::ErrorKind::Other)?.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn step(share: f64) -> Step {
        Step { phase: "churn".to_owned(), at: Duration::from_secs(3), share, events: 1_000 }
    }

    fn lines_of(moments_ms: &[u64]) -> Vec<serde_json::Value> {
        let (output, start) = (Shared::default(), Instant::now());
        let mut progress = Progress::lines(Box::new(output.clone()), start);
        for moment in moments_ms {
            progress.update(&step(0.25), start + Duration::from_millis(*moment));
        }
        let text = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn no_more_than_five_lines_are_written_a_second() {
        let moments: Vec<u64> = (0..1000).collect();
        assert_eq!(lines_of(&moments).len(), 5);
    }

    #[test]
    fn a_line_tells_time_share_rate_and_what_is_left() {
        let lines = lines_of(&[2000]);
        let expected = serde_json::json!({
            "type": "progress", "version": 1, "phase": "churn", "virtual_s": 3.0, "share": 0.25,
            "events": 1000, "events_per_s": 500.0, "eta_s": 6.0,
        });
        assert_eq!(lines, [expected]);
    }

    #[test]
    fn the_line_for_people_has_the_same() {
        let text = message(&step(0.25), Duration::from_secs(2));
        assert_eq!(text, "3.0 s simulated  25 %  0 k events/s  ETA 6 s");
        assert!(message(&step(0.0), Duration::ZERO).ends_with("ETA -"));
    }
}
