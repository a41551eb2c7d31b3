//! The diagram: a line down for each node, messages as arrows, transfers as bars.

use std::collections::BTreeMap;

use super::lines::{EDGE, Lines, Moments};
use crate::outcome::{MessageRow, Outcome, TransferRow};
use crate::report::{Caption, Markup, Path, Px, Unit, picture, shortened};

/// The most messages and the most transfers that are drawn, the first ones.
const ROWS_MAX: usize = 2_000;
/// With more messages their words are left to their titles.
const WORDS_MAX: usize = 120;
/// With more lines their names are slanted.
const LEVEL_NAMES_MAX: usize = 11;

const LEFT: f64 = 84.0;
const RIGHT: f64 = 90.0;
const BOTTOM: f64 = 28.0;
const BAR: f64 = 6.0;
/// The most bars side by side, which is what fits right of the last line; further ones lie on the
/// last.
const SLOTS_MAX: usize = 11;

/// Draws the way of a blob as SVG; none if no row is about it.
pub fn diagram(outcome: &Outcome, blob: &str) -> Option<String> {
    let mut transfers: Vec<&TransferRow> =
        outcome.transfers.iter().filter(|row| row.blob == blob).collect();
    let mut messages: Vec<&MessageRow> =
        outcome.messages.iter().filter(|row| row.blob == blob).collect();
    if transfers.is_empty() && messages.is_empty() {
        return None;
    }
    transfers.sort_by_key(|row| row.start_ns);
    messages.sort_by_key(|row| row.sent_ns);
    let left_out = [transfers.len(), messages.len()].map(|count| count.saturating_sub(ROWS_MAX));
    transfers.truncate(ROWS_MAX);
    messages.truncate(ROWS_MAX);
    let sheet = Sheet::of(&transfers, &messages);
    let mut svg = Markup::default();
    sheet.lines(&mut svg);
    for row in &transfers {
        sheet.request(&mut svg, row);
    }
    sheet.bars(&mut svg, &transfers);
    for row in &messages {
        sheet.message(&mut svg, row, messages.len() <= WORDS_MAX);
    }
    sheet.legend(&mut svg);
    let caption = caption(blob, &transfers, &messages, left_out.iter().sum());
    Some(picture(caption, (sheet.width(), sheet.height()), &svg).standalone())
}

fn caption(
    blob: &str,
    transfers: &[&TransferRow],
    messages: &[&MessageRow],
    left_out: usize,
) -> Caption {
    let bytes: u64 = transfers.iter().fold(0, |sum, row| sum.saturating_add(row.bytes));
    let mut subtitle = format!(
        "{} transfers, {}, {} messages; time runs down, pauses cut short",
        transfers.len(),
        Unit::Bytes.show(bytes as f64),
        messages.len(),
    );
    if left_out > 0 {
        subtitle = format!("{left_out} later rows are not drawn; {subtitle}");
    }
    Caption {
        name: "trace".to_owned(),
        heading: format!("The way of {blob}"),
        description: format!("Space-time diagram of one blob: {subtitle}."),
        subtitle,
    }
}

/// Knows where everything is.
struct Sheet {
    lines: Lines,
    moments: Moments,
    names: Vec<String>,
    gap: f64,
    top: f64,
}

impl Sheet {
    fn of(transfers: &[&TransferRow], messages: &[&MessageRow]) -> Self {
        let lines = Lines::of(transfers, messages);
        let of_transfers = transfers.iter().flat_map(|row| {
            [Some(row.start_ns), row.first_byte_ns, Some(row.end_ns)].into_iter().flatten()
        });
        let of_messages = messages
            .iter()
            .flat_map(|row| [Some(row.sent_ns), row.arrived_ns].into_iter().flatten());
        let moments = Moments::of(of_transfers.chain(of_messages));
        let names = lines.names();
        let gap = (1000.0 / names.len().max(1) as f64).clamp(24.0, 150.0);
        let top = if names.len() <= LEVEL_NAMES_MAX { 96.0 } else { 158.0 };
        Self { lines, moments, names, gap, top }
    }

    fn width(&self) -> f64 {
        (LEFT + self.gap * self.names.len() as f64 + RIGHT).max(460.0)
    }

    fn height(&self) -> f64 {
        self.top + self.moments.height() + BOTTOM
    }

    fn x(&self, name: &str) -> f64 {
        self.x_of(self.lines.index_of(name))
    }

    fn x_of(&self, index: usize) -> f64 {
        LEFT + self.gap * (index as f64 + 0.5)
    }

    fn y(&self, moment: u64) -> f64 {
        self.top + self.moments.at(moment)
    }

    /// Draws the time at the left and a line with its name for each node.
    fn lines(&self, svg: &mut Markup) {
        let (right, end) = (self.x_of(self.names.len()), self.top + self.moments.height());
        for (moment, place) in self.moments.ticks(26.0) {
            let y = self.top + place;
            svg.empty(
                "line",
                &[
                    ("class", &"grid"),
                    ("x1", &Px(LEFT - 8.0)),
                    ("x2", &Px(right)),
                    ("y1", &Px(y)),
                    ("y2", &Px(y)),
                ],
            );
            let text = clock(moment);
            svg.leaf(
                "text",
                &[("class", &"tick end"), ("x", &Px(LEFT - 14.0)), ("y", &Px(y + 4.0))],
                &text,
            );
        }
        for (index, name) in self.names.iter().enumerate() {
            let x = self.x_of(index);
            svg.empty(
                "line",
                &[
                    ("class", &"base"),
                    ("x1", &Px(x)),
                    ("x2", &Px(x)),
                    ("y1", &Px(self.top - 6.0)),
                    ("y2", &Px(end)),
                ],
            );
            self.name(svg, (x, self.top - 12.0), name);
        }
    }

    fn name(&self, svg: &mut Markup, (x, y): (f64, f64), name: &str) {
        let class = if name == EDGE { "label edge" } else { "label" };
        if self.names.len() <= LEVEL_NAMES_MAX {
            let class = format!("{class} middle");
            svg.leaf(
                "text",
                &[("class", &class), ("x", &Px(x)), ("y", &Px(y))],
                &shortened(name, 16),
            );
            return;
        }
        let turned = format!("rotate(-55 {} {})", Px(x), Px(y));
        svg.leaf(
            "text",
            &[("class", &class), ("x", &Px(x)), ("y", &Px(y)), ("transform", &turned)],
            &shortened(name, 18),
        );
    }

    /// Draws the way of a transfer's first byte.
    fn request(&self, svg: &mut Markup, row: &TransferRow) {
        let first = row.first_byte_ns.unwrap_or(row.end_ns);
        let (from, to) =
            ((self.x(&row.from), self.y(row.start_ns)), (self.x(&row.to), self.y(first)));
        arrow(svg, "flow", tier(&row.from), (from, to));
    }

    /// Draws a bar on the receiver's line for each transfer while bytes flow; several at once stand
    /// side by side.
    fn bars(&self, svg: &mut Markup, transfers: &[&TransferRow]) {
        let mut busy: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        for row in transfers {
            let line = self.lines.index_of(&row.to);
            let slots = busy.entry(line).or_default();
            let free = slots.iter().position(|until| *until <= row.start_ns);
            let slot = free.unwrap_or(slots.len());
            match slots.get_mut(slot) {
                Some(until) => *until = row.end_ns,
                None => slots.push(row.end_ns),
            }
            self.bar(
                svg,
                row,
                self.x_of(line) - BAR / 2.0 + slot.min(SLOTS_MAX - 1) as f64 * (BAR + 1.0),
            );
        }
    }

    fn bar(&self, svg: &mut Markup, row: &TransferRow, x: f64) {
        let (from, to) = (self.y(row.first_byte_ns.unwrap_or(row.start_ns)), self.y(row.end_ns));
        let height = (to - from).max(2.0);
        let whole = row.outcome == "complete";
        let class = format!("{} {}", if whole { "bar" } else { "bar broken" }, tier(&row.from));
        let bytes = Unit::Bytes.show(row.bytes as f64);
        let title = format!(
            "{} from {} to {}, {} to {}: {}",
            bytes,
            row.from,
            row.to,
            clock(row.start_ns),
            clock(row.end_ns),
            row.outcome,
        );
        svg.open(
            "rect",
            &[
                ("class", &class),
                ("x", &Px(x)),
                ("y", &Px(from)),
                ("width", &Px(BAR)),
                ("height", &Px(height)),
            ],
        );
        svg.leaf("title", &[], &title);
        svg.close("rect");
        if self.gap >= 70.0 && height >= 12.0 {
            let text = if whole { bytes } else { format!("{bytes}, {}", row.outcome) };
            let (x, y) = (Px(x + BAR + 4.0), Px(to - 3.0));
            svg.leaf("text", &[("class", &"tick"), ("x", &x), ("y", &y)], &text);
        }
    }

    fn message(&self, svg: &mut Markup, row: &MessageRow, word: bool) {
        if self.lines.index_of(&row.from) == self.lines.index_of(&row.to) {
            return; // Both are among the others.
        }
        let (x, y) = (self.x(&row.from), self.y(row.sent_ns));
        let across = self.x(&row.to);
        let Some(arrived) = row.arrived_ns else {
            // What never arrived ends half-way, in a cross.
            let end = (f64::midpoint(x, across), y + 4.0);
            svg.empty("path", &[("class", &"message lost"), ("d", &Path::line([(x, y), end]))]);
            svg.leaf(
                "text",
                &[("class", &"tick middle"), ("x", &Px(end.0)), ("y", &Px(end.1 + 4.0))],
                "×",
            );
            return;
        };
        let to = (across, self.y(arrived));
        arrow(svg, "message", colour(row.kind), ((x, y), to));
        if word && (across - x).abs() >= 40.0 {
            // Near the sender, where arrows to one node have not met yet.
            let (x, y) = (x + (to.0 - x) * 0.3, y + (to.1 - y) * 0.3 - 3.0);
            let class = format!("word middle {}", colour(row.kind));
            svg.leaf("text", &[("class", &class), ("x", &Px(x)), ("y", &Px(y))], row.kind);
        }
    }

    fn legend(&self, svg: &mut Markup) {
        let entries =
            [("ask", 34.0), ("have", 40.0), ("absent", 50.0), ("busy", 40.0), ("search", 50.0)];
        let mut x = 12.0;
        for (kind, width) in entries {
            arrow(svg, "message", colour(kind), ((x, 56.0), (x + 18.0, 56.0)));
            svg.leaf("text", &[("class", &"tick"), ("x", &Px(x + 23.0)), ("y", &60)], kind);
            x += 26.0 + width;
        }
        for (class, text) in [("lan", "bytes from a peer"), ("edge", "bytes from the edge")] {
            let class = format!("bar {class}");
            svg.empty(
                "rect",
                &[
                    ("class", &class),
                    ("x", &Px(x)),
                    ("y", &51),
                    ("width", &Px(BAR)),
                    ("height", &10),
                ],
            );
            svg.leaf("text", &[("class", &"tick"), ("x", &Px(x + 11.0)), ("y", &60)], text);
            x += 122.0;
        }
    }
}

/// Draws a line with a head; of length 0 nothing.
fn arrow(
    svg: &mut Markup,
    kind: &'static str,
    colour: &'static str,
    (from, to): ((f64, f64), (f64, f64)),
) {
    let (across, down) = (to.0 - from.0, to.1 - from.1);
    let length = across.hypot(down);
    if length < 1.0 {
        return;
    }
    let class = format!("{kind} {colour}");
    svg.empty("path", &[("class", &class), ("d", &Path::line([from, to]))]);
    let (along, aside) = ((across / length, down / length), (-down / length, across / length));
    let corner =
        |side: f64| (to.0 - along.0 * 7.0 + aside.0 * side, to.1 - along.1 * 7.0 + aside.1 * side);
    let class = format!("head {colour}");
    svg.empty("path", &[("class", &class), ("d", &Path::line([to, corner(3.0), corner(-3.0)]))]);
}

fn tier(from: &str) -> &'static str {
    if from == EDGE { "edge" } else { "lan" }
}

fn colour(kind: &str) -> &'static str {
    match kind {
        "have" | "providers" => "local",
        "absent" => "faint",
        "busy" => "s4",
        "search" => "s3",
        _ => "all",
    }
}

/// Shows a moment with enough places to tell neighbours apart, however late it is.
fn clock(ns: u64) -> String {
    format!("{:.4} s", ns as f64 / 1e9)
}
