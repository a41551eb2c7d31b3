//! `savings`: what the edge was spared, day by day.

use blobmesh_node::control::api::{Answer, Request, Saved, SavingsRow};
use serde::Serialize;

use super::{Context, unexpected};
use crate::args::SavingsArgs;
use crate::error::CommandError;
use crate::output::table;
use crate::session::Need;
use crate::units::{count, size};

/// One day, or the sum of those shown.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    row: &'a SavingsRow,
    /// Bytes that gets were given and that the edge did not send.
    spared: u64,
}

#[derive(Serialize)]
struct Summary<'a> {
    command: &'static str,
    days: usize,
    #[serde(flatten)]
    sum: Row<'a>,
}

pub(super) async fn run(context: &Context, args: &SavingsArgs) -> Result<(), CommandError> {
    let answer = context.ask(Need::Store, Request::Savings, "savings").await?;
    let Answer::Savings { days } = answer else { return Err(unexpected(&answer)) };
    let days = &days[days.len().saturating_sub(args.days.into())..];
    let sum = sum(days);
    for row in days {
        context.printer.line("day", &Row::of(row))?;
    }
    let summary = Summary { command: "savings", days: days.len(), sum: Row::of(&sum) };
    context.printer.line("summary", &summary)?;
    context.printer.answer(text(days, &sum))
}

impl<'a> Row<'a> {
    fn of(row: &'a SavingsRow) -> Self {
        Self { row, spared: row.saved.spared() }
    }
}

fn sum(days: &[SavingsRow]) -> SavingsRow {
    let span = match days {
        [] => String::new(),
        [day] => day.day.clone(),
        [first, .., last] => format!("{} to {}", first.day, last.day),
    };
    let saved = days.iter().fold(Saved::default(), |sum, row| sum.plus(&row.saved));
    SavingsRow { day: span, saved }
}

fn text(days: &[SavingsRow], sum: &SavingsRow) -> String {
    if days.is_empty() {
        return "nothing was got yet".to_owned();
    }
    let saved = &sum.saved;
    let header = ["DAY", "GETS", "FROM STORE", "FROM PEERS", "FROM EDGE", "EDGE REQUESTS"];
    let cells = |SavingsRow { day, saved }: &SavingsRow| {
        let [local, lan, edge] = [saved.tier.local, saved.tier.lan, saved.tier.edge].map(size);
        [day.clone(), saved.gets.to_string(), local, lan, edge, saved.edge_requests.to_string()]
    };
    let rows: Vec<_> = days.iter().map(cells).collect();
    let all = saved.spared().saturating_add(saved.tier.edge);
    let spared = format!(
        "spared the edge {} of {}{}, and {} of {} any request for bytes",
        size(saved.spared()),
        size(all),
        percent(saved.spared(), all),
        saved.without_edge,
        count(saved.gets, "get"),
    );
    let ahead = match saved.ahead {
        0 => String::new(),
        ahead => {
            format!(
                "\nprefetches brought {}, of which {} was used",
                size(ahead),
                size(saved.ahead_used)
            )
        }
    };
    format!("{}\n{spared}{ahead}", table(header, &rows))
}

/// Returns the share in percent, rounded down, in brackets; nothing of nothing.
fn percent(part: u64, all: u64) -> String {
    let share = (u128::from(part) * 100).checked_div(u128::from(all));
    share.map_or_else(String::new, |share| format!(" ({share} %)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use blobmesh_node::control::api::TierBytes;

    fn day(day: &str, local: u64, lan: u64, edge: u64) -> SavingsRow {
        let tier = TierBytes { local, lan, edge };
        let without_edge = u64::from(edge == 0) * 3;
        let edge_requests = edge >> 20;
        let saved = Saved { gets: 3, without_edge, tier, edge_requests, ..Saved::default() };
        SavingsRow { day: day.to_owned(), saved }
    }

    #[test]
    fn table_has_the_days_and_what_they_come_to() {
        let days = [day("2026-11-21", 1 << 20, 6 << 20, 0), day("2026-11-22", 0, 0, 3 << 20)];
        let shown = text(&days, &sum(&days));
        let expected = "\
DAY         GETS  FROM STORE  FROM PEERS  FROM EDGE  EDGE REQUESTS
2026-11-21  3     1 MiB       6 MiB       0          0
2026-11-22  3     0           0           3 MiB      3
spared the edge 7 MiB of 10 MiB (70 %), and 3 of 6 gets any request for bytes";
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_came_ahead_saves_once_it_is_used() {
        // One from the edge that is used, and one from a peer that is not.
        let mut row = day("2026-11-21", 2 << 20, 3 << 20, 2 << 20);
        (row.saved.ahead, row.saved.ahead_used) = (5 << 20, 2 << 20);
        assert_eq!(row.saved.spared(), 0);
        let shown = text(&[row.clone()], &row);
        assert!(shown.ends_with("\nprefetches brought 5 MiB, of which 2 MiB was used"), "{shown}");
    }

    #[test]
    fn nothing_got_is_nothing_divided() {
        assert_eq!(text(&[], &sum(&[])), "nothing was got yet");
        assert_eq!(percent(0, 0), "");
        assert_eq!(percent(u64::MAX, u64::MAX), " (100 %)");
    }
}
