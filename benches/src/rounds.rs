//! Contenders that take turns, so that what else the machine does meets them alike.

use std::io;
use std::time::Duration;

use serde::Serialize;

use crate::process::{Cost, Taken};
use crate::stats::{Spread, median};

/// Is what one round of a contender came to, in a line for people.
pub trait Told {
    /// Returns the line.
    fn told(&self) -> String;
}

/// Is one of those who do the same work.
pub struct Contender<'a, T = Taken> {
    /// Its name in tables.
    pub name: &'static str,
    /// Does the work once. It is told whether this is the round that is not counted, in which it shows that
    /// the bytes are right.
    pub run: Box<dyn FnMut(Round) -> io::Result<T> + 'a>,
}

impl<T> std::fmt::Debug for Contender<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contender").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Says which round it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// The first, which is not counted: what it brings is compared with the source.
    First,
    /// One that is counted.
    Counted,
}

/// Is what the rounds of one contender took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row<T = Taken> {
    /// Its name.
    pub name: &'static str,
    /// What each counted round took, in order.
    pub rounds: Vec<T>,
}

/// Is what all contenders took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rows<T = Taken>(pub Vec<Row<T>>);

/// Has all contenders do their work `runs` times and once before, each round beginning with another of
/// them. `ours` must not fail; a rival that does is told of, and not measured any further.
///
/// # Errors
/// When ours fails, or `go_on` says that it is time to end.
pub fn take_turns<T: Told>(
    contenders: &mut [Contender<'_, T>],
    ours: &'static str,
    runs: usize,
    mut tell: impl FnMut(&str),
    mut go_on: impl FnMut() -> io::Result<()>,
) -> io::Result<Rows<T>> {
    let count = contenders.len();
    let mut rows: Vec<_> = contenders
        .iter()
        .map(|contender| Row { name: contender.name, rounds: Vec::new() })
        .collect();
    let mut failed = vec![false; count];
    for round in 0..=runs {
        for turn in 0..count {
            let at = (turn + round) % count;
            go_on()?;
            if failed[at] {
                continue;
            }
            let kind = if round == 0 { Round::First } else { Round::Counted };
            let contender = &mut contenders[at];
            match (contender.run)(kind) {
                Ok(taken) => {
                    tell(&format!("{round} {:<16} {}", contender.name, taken.told()));
                    rows[at].rounds.extend((kind == Round::Counted).then_some(taken));
                }
                Err(error) => {
                    // Whoever interrupts us may have ended a rival first.
                    go_on()?;
                    if contender.name == ours {
                        return Err(error);
                    }
                    tell(&format!("{} is left out: {error}", contender.name));
                    failed[at] = true;
                }
            }
        }
    }
    Ok(Rows(rows))
}

impl<T> Rows<T> {
    /// Returns the ratios of something of two contenders, round by round.
    pub fn ratio_of(
        &self,
        over: &str,
        under: &str,
        of: impl Fn(&T) -> Option<f64>,
    ) -> Option<Spread> {
        let pairs = self.rounds(over).iter().zip(self.rounds(under));
        Spread::of(pairs.filter_map(|(over, under)| Some(of(over)? / of(under)?)))
    }

    /// Returns the median of something of a contender's rounds.
    pub fn median(&self, name: &str, of: impl Fn(&T) -> Option<f64>) -> Option<f64> {
        median(self.rounds(name).iter().filter_map(of))
    }

    /// Returns the counted rounds of a contender; none of one that there is not.
    pub fn rounds(&self, name: &str) -> &[T] {
        let row = self.0.iter().find(|row| row.name == name);
        row.map_or(&[], |row| &row.rounds)
    }
}

impl Rows {
    /// Returns the ratios of two contenders' seconds, round by round.
    pub fn ratio(&self, over: &str, under: &str) -> Option<Spread> {
        self.ratio_of(over, under, |taken| Some(taken.seconds))
    }

    /// Writes a table: seconds, what both sides spent, and how `ours` compares.
    pub fn table(&self, ours: &str, bytes: u64) -> String {
        let gib = gib(bytes);
        let mut lines = vec![format!(
            "{:<16} {:>22}  {:>6}  {:>22}  {:>17}  {:>18}",
            "",
            "seconds (quartiles)",
            "MiB/s",
            "processor s serve+get",
            "peak MiB serve+get",
            "ratio (quartiles)"
        )];
        for Row { name, rounds } in &self.0 {
            let Some(seconds) = Spread::of(rounds.iter().map(|taken| taken.seconds)) else {
                lines.push(format!("{name:<16} {:>22}", "not measured"));
                continue;
            };
            let of = |of: fn(&Taken) -> f64| {
                self.median(name, |taken| Some(of(taken))).unwrap_or(f64::NAN)
            };
            let ratio = self.ratio(name, ours).map_or_else(String::new, |ratio| spread(ratio, 2));
            lines.push(format!(
                "{name:<16} {:>22}  {:>6.0}  {:>22}  {:>17}  {ratio:>18}",
                spread(seconds, 3),
                gib * 1024.0 / seconds.median,
                format!(
                    "{:.2} + {:.2}",
                    of(|taken| taken.serving.processor_s),
                    of(|taken| taken.fetching.processor_s)
                ),
                format!(
                    "{:.0} + {:.0}",
                    of(|taken| taken.serving.peak_mib),
                    of(|taken| taken.fetching.peak_mib)
                ),
            ));
        }
        let others = median(self.0.iter().flat_map(|row| &row.rounds).map(busy_others));
        lines.push(format!(
            "others on this machine used {:.2} processors meanwhile",
            others.unwrap_or(f64::NAN)
        ));
        lines.join("\n")
    }
}

/// Returns bytes in GiB.
pub fn gib(bytes: u64) -> f64 {
    Duration::from_secs(bytes).as_secs_f64() / f64::from(1 << 30)
}

fn busy_others(taken: &Taken) -> f64 {
    taken.others_s / taken.seconds
}

fn spread(Spread { median, low, high }: Spread, places: usize) -> String {
    format!("{median:.places$} ({low:.places$}-{high:.places$})")
}

impl Told for Taken {
    fn told(&self) -> String {
        let cost = |cost: Cost| format!("{:.2} s {:.0} MiB", cost.processor_s, cost.peak_mib);
        format!(
            "{:.3} s; processor and peak: serving {}, fetching {}; others {:.2} s",
            self.seconds,
            cost(self.serving),
            cost(self.fetching),
            self.others_s
        )
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn taken(seconds: f64) -> Taken {
        let cost = Cost { processor_s: 1.0, peak_mib: 2.0 };
        Taken { seconds, serving: cost, fetching: cost, others_s: 0.5 }
    }

    fn always(name: &'static str, seconds: f64) -> Contender<'static> {
        Contender { name, run: Box::new(move |_| Ok(taken(seconds))) }
    }

    #[test]
    fn each_round_begins_with_another_and_the_first_is_not_counted() {
        let order = RefCell::new(String::new());
        let mut contenders: Vec<_> = ["a", "b", "c"]
            .map(|name| Contender {
                name,
                run: Box::new(|round| {
                    order.borrow_mut().push_str(name);
                    Ok(taken(if round == Round::First { 100.0 } else { 1.0 }))
                }),
            })
            .into();
        let rows = take_turns(&mut contenders, "a", 2, |_| (), || Ok(())).unwrap();
        drop(contenders);
        assert_eq!(order.into_inner(), "abcbcacab");
        assert!(rows.0.iter().all(|row| row.rounds == [taken(1.0), taken(1.0)]));
    }

    #[test]
    fn ratio_is_of_the_rounds_and_not_of_the_medians() {
        let row = |name, seconds: [f64; 3]| Row { name, rounds: seconds.map(taken).to_vec() };
        let rows = Rows(vec![row("ours", [1.0, 4.0, 2.0]), row("rival", [3.0, 4.0, 8.0])]);
        let ratio = rows.ratio("rival", "ours").unwrap();
        assert!((ratio.median - 3.0).abs() < 1e-9, "{ratio:?}");
        assert_eq!(rows.ratio("nobody", "ours"), None);
    }

    #[test]
    fn rival_that_fails_is_left_out_and_ours_is_not() {
        let fails = |name| Contender { name, run: Box::new(|_| Err(io::Error::other("broken"))) };
        let mut told = Vec::new();
        let mut contenders = [always("ours", 1.0), fails("rival")];
        let rows =
            take_turns(&mut contenders, "ours", 1, |text| told.push(text.to_owned()), || Ok(()));
        let rows = rows.unwrap();
        assert!(told.iter().any(|text| text == "rival is left out: broken"), "{told:?}");
        assert_eq!(rows.ratio("rival", "ours"), None);
        assert!(rows.table("ours", 1 << 30).contains("not measured"));
        let mut contenders = [fails("ours"), always("rival", 1.0)];
        assert!(take_turns(&mut contenders, "ours", 1, |_| (), || Ok(())).is_err());
    }

    #[test]
    fn interruption_ends_the_rounds() {
        let mut contenders = [always("ours", 1.0)];
        let stop = || Err(io::ErrorKind::Interrupted.into());
        assert!(take_turns(&mut contenders, "ours", 1, |_| (), stop).is_err());
    }

    #[test]
    fn table_tells_rates_and_ratios() {
        let row = |name, seconds| Row { name, rounds: vec![taken(seconds)] };
        let rows = Rows(vec![row("ours", 2.0), row("rival", 3.0)]);
        let table = rows.table("ours", 1 << 30);
        let line = table.lines().find(|line| line.starts_with("rival")).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[1..3], ["3.000", "(3.000-3.000)"]);
        assert!(line.contains("341") && line.contains("1.50 (1.50-1.50)"), "{line}");
    }
}
