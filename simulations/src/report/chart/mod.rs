//! Pictures with axes, drawn as SVG.
//!
//! One size fits a telephone and a third of a desktop page, so there is one drawing of each.
//! Colours are classes: `palette.css` gives them for light and dark, in a page and in a picture on
//! its own.

mod axis;

pub(crate) use axis::Axis;

use super::markup::{Markup, Px, shortened};

/// The width of a picture, in its own pixels.
pub(crate) const WIDTH: f64 = 420.0;
/// The height of a picture with axes.
pub(crate) const HEIGHT: f64 = 280.0;

const LEFT: f64 = 50.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 44.0;
const HEADING_LETTERS_MAX: usize = 46;
const SUBTITLE_LETTERS_MAX: usize = 66;
/// The same of pictures at least twice as wide.
const WIDE_SUBTITLE_LETTERS_MAX: usize = 140;
/// The least distance of two labels, from line to line.
const LABEL_GAP: f64 = 13.0;

/// Is a picture.
#[derive(Clone, Debug)]
pub(crate) struct Chart {
    /// Names its file and its element: lowercase letters, digits and dashes.
    pub(crate) name: String,
    svg: Markup,
    size: (f64, f64),
    /// Whether it takes the place of two on a wide page.
    pub(crate) tall: bool,
}

impl Chart {
    /// Returns it for a page, which has the palette.
    pub(crate) fn inline(&self) -> &Markup {
        &self.svg
    }

    /// Returns it as a file of its own.
    pub(crate) fn standalone(&self) -> String {
        let (width, height) = self.size;
        let size = format!("<svg width=\"{}\" height=\"{}\"", Px(width), Px(height));
        let palette = format!("<style>{}</style>", super::PALETTE);
        let svg = self.svg.as_str();
        let body = svg.find('>').map_or(svg.len(), |end| end + 1);
        let (open, rest) = svg.split_at(body);
        format!("{}\n{palette}{rest}", open.replacen("<svg", &size, 1))
    }
}

/// Says what a picture is called.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caption {
    pub(crate) name: String,
    pub(crate) heading: String,
    pub(crate) subtitle: String,
    /// What one sees, for those who do not.
    pub(crate) description: String,
}

/// Draws a picture of this height whose inside `body` adds.
pub(crate) fn picture(caption: Caption, (width, height): (f64, f64), body: &Markup) -> Chart {
    let (title, description) = (format!("{}-t", caption.name), format!("{}-d", caption.name));
    let mut svg = Markup::default();
    svg.open(
        "svg",
        &[
            ("xmlns", &"http://www.w3.org/2000/svg"),
            ("class", &"chart"),
            ("viewBox", &format!("0 0 {} {}", Px(width), Px(height))),
            ("role", &"img"),
            ("aria-labelledby", &format!("{title} {description}")),
        ],
    );
    svg.leaf("title", &[("id", &title)], &caption.heading);
    svg.leaf("desc", &[("id", &description)], &caption.description);
    svg.empty("rect", &[("class", &"ground"), ("width", &Px(width)), ("height", &Px(height))]);
    let heading = shortened(&caption.heading, HEADING_LETTERS_MAX);
    let letters_max =
        if width >= 2.0 * WIDTH { WIDE_SUBTITLE_LETTERS_MAX } else { SUBTITLE_LETTERS_MAX };
    let subtitle = shortened(&caption.subtitle, letters_max);
    svg.leaf("text", &[("class", &"heading"), ("x", &12), ("y", &22)], &heading);
    svg.leaf("text", &[("class", &"subtitle"), ("x", &12), ("y", &40)], &subtitle);
    svg.append(body);
    svg.close("svg");
    Chart { name: caption.name, svg, size: (width, height), tall: height > 1.3 * HEIGHT }
}

/// Is the inside of a picture with two axes.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    right: f64,
}

impl Frame {
    /// Makes a frame that leaves `labels` pixels for labels at the right.
    pub(crate) fn new(x: Axis, y: Axis, labels: f64) -> Self {
        Self { x, y, right: WIDTH - 14.0 - labels }
    }

    /// Returns where a value of the x axis is.
    pub(crate) fn left_of(&self, value: f64) -> f64 {
        LEFT + self.x.share_of(value) * (self.right - LEFT)
    }

    /// Returns where a value of the y axis is.
    pub(crate) fn top_of(&self, value: f64) -> f64 {
        let (top, bottom) = (TOP, HEIGHT - BOTTOM);
        bottom - self.y.share_of(value) * (bottom - top)
    }

    /// Returns where a point is.
    pub(crate) fn point(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (self.left_of(x), self.top_of(y))
    }

    /// Returns the lowest line.
    pub(crate) fn ground(&self) -> f64 {
        HEIGHT - BOTTOM
    }

    /// Returns the right end.
    pub(crate) fn right(&self) -> f64 {
        self.right
    }

    /// Draws axes, and over them what `body` has.
    pub(crate) fn chart(&self, caption: Caption, body: &Markup) -> Chart {
        let mut all = Markup::default();
        self.grid(&mut all);
        all.append(body);
        picture(caption, (WIDTH, HEIGHT), &all)
    }

    fn grid(&self, svg: &mut Markup) {
        for (value, label) in self.y.ticks() {
            let y = Px(self.top_of(*value));
            svg.empty(
                "line",
                &[
                    ("class", &"grid"),
                    ("x1", &Px(LEFT)),
                    ("x2", &Px(self.right)),
                    ("y1", &y),
                    ("y2", &y),
                ],
            );
            let y = Px(self.top_of(*value) + 4.0);
            svg.leaf("text", &[("class", &"tick end"), ("x", &Px(LEFT - 6.0)), ("y", &y)], label);
        }
        let ground = self.ground();
        svg.empty(
            "line",
            &[
                ("class", &"base"),
                ("x1", &Px(LEFT)),
                ("x2", &Px(self.right)),
                ("y1", &Px(ground)),
                ("y2", &Px(ground)),
            ],
        );
        let mut free_from = 0.0;
        for (value, label) in self.x.ticks() {
            let x = self.left_of(*value);
            svg.empty(
                "line",
                &[
                    ("class", &"base"),
                    ("x1", &Px(x)),
                    ("x2", &Px(x)),
                    ("y1", &Px(ground)),
                    ("y2", &Px(ground + 4.0)),
                ],
            );
            // Labels of a crowded axis are left out where they would touch the one before.
            let half = label.chars().count() as f64 * 3.3;
            if x - half >= free_from {
                svg.leaf(
                    "text",
                    &[("class", &"tick middle"), ("x", &Px(x)), ("y", &Px(ground + 16.0))],
                    label,
                );
                free_from = x + half + 6.0;
            }
        }
        let middle = f64::midpoint(LEFT, self.right);
        let title = shortened(&self.x.title, 52);
        svg.leaf(
            "text",
            &[("class", &"axis middle"), ("x", &Px(middle)), ("y", &Px(HEIGHT - 8.0))],
            &title,
        );
    }
}

/// Is a label at the right end of a line: where the line ends, what it says, and its colour's
/// class.
#[derive(Clone, Debug)]
pub(crate) struct EndLabel {
    pub(crate) y: f64,
    pub(crate) text: String,
    pub(crate) class: &'static str,
}

/// Draws labels beside the ends of lines, apart from each other.
pub(crate) fn end_labels(svg: &mut Markup, frame: &Frame, mut labels: Vec<EndLabel>) {
    labels.sort_by(|a, b| a.y.total_cmp(&b.y));
    let mut free_from = TOP - LABEL_GAP;
    for label in &mut labels {
        label.y = label.y.max(free_from + LABEL_GAP);
        free_from = label.y;
    }
    let mut free_to = frame.ground() + LABEL_GAP;
    for label in labels.iter_mut().rev() {
        label.y = label.y.min(free_to - LABEL_GAP);
        free_to = label.y;
    }
    for label in &labels {
        let class = format!("label {}", label.class);
        let (x, y) = (Px(frame.right() + 6.0), Px(label.y + 4.0));
        svg.leaf("text", &[("class", &class), ("x", &x), ("y", &y)], &shortened(&label.text, 18));
    }
}

/// Draws a legend into the lower right, which curves of distributions leave free.
pub(crate) fn legend(svg: &mut Markup, frame: &Frame, entries: &[(&'static str, String)]) {
    for (index, (class, text)) in entries.iter().rev().enumerate() {
        let y = frame.ground() - 12.0 - index as f64 * 15.0;
        let x = frame.right() - 152.0;
        let line = format!("line {class}");
        svg.empty(
            "line",
            &[
                ("class", &line),
                ("x1", &Px(x)),
                ("x2", &Px(x + 18.0)),
                ("y1", &Px(y)),
                ("y2", &Px(y)),
            ],
        );
        svg.leaf(
            "text",
            &[("class", &"label"), ("x", &Px(x + 24.0)), ("y", &Px(y + 4.0))],
            &shortened(text, 24),
        );
    }
}
