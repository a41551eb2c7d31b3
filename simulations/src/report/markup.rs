//! HTML and SVG that cannot be broken by what is written into it.
//!
//! Tags and attribute names are the program's own, by type; all else, names from plans above all,
//! goes through [`Markup::text`] or an attribute's value, which escape it. There is no way around
//! them.

use std::fmt::{self, Display, Write as _};

/// Is a part of a page or picture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Markup(String);

/// Is an attribute's name and value.
pub(crate) type Attribute<'a> = (&'static str, &'a dyn Display);

impl Markup {
    /// Begins an element.
    pub(crate) fn open(&mut self, tag: &'static str, attributes: &[Attribute<'_>]) {
        self.tag(tag, attributes);
        self.0.push('>');
    }

    /// Ends an element.
    pub(crate) fn close(&mut self, tag: &'static str) {
        self.0.push_str("</");
        self.0.push_str(tag);
        self.0.push_str(">\n");
    }

    /// Adds an element without content.
    pub(crate) fn empty(&mut self, tag: &'static str, attributes: &[Attribute<'_>]) {
        self.tag(tag, attributes);
        self.0.push_str("/>\n");
    }

    /// Adds an element with text in it.
    pub(crate) fn leaf(&mut self, tag: &'static str, attributes: &[Attribute<'_>], text: &str) {
        self.open(tag, attributes);
        self.text(text);
        self.close(tag);
    }

    /// Adds text.
    pub(crate) fn text(&mut self, text: &str) {
        escape(text, &mut self.0);
    }

    /// Adds markup of the program's own, such as its style sheet.
    pub(crate) fn raw(&mut self, markup: &'static str) {
        self.0.push_str(markup);
    }

    /// Adds markup that was made before.
    pub(crate) fn append(&mut self, other: &Self) {
        self.0.push_str(&other.0);
    }

    /// Returns it as text.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    fn tag(&mut self, tag: &'static str, attributes: &[Attribute<'_>]) {
        self.0.push('<');
        self.0.push_str(tag);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            // Writing into a String does not fail.
            let _written = write!(Escaped(&mut self.0), "{value}");
            self.0.push('"');
        }
    }
}

struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(text, self.0);
        Ok(())
    }
}

/// Writes text so that no markup can begin or end in it; control characters, which XML forbids, and
/// those that turn the direction of writing are shown as a replacement.
fn escape(text: &str, into: &mut String) {
    for letter in text.chars() {
        match letter {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            '\'' => into.push_str("&#39;"),
            '\n' | '\t' => into.push(letter),
            '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                into.push('\u{fffd}');
            }
            '\u{fffe}' | '\u{ffff}' => into.push('\u{fffd}'),
            _ if letter.is_control() => into.push('\u{fffd}'),
            _ => into.push(letter),
        }
    }
}

/// Is a coordinate, written with at most one decimal: a tenth of a pixel is not seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Px(pub(crate) f64);

impl Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = (self.0 * 10.0).round() / 10.0;
        // Adding 0 turns -0 into 0.
        write!(f, "{}", tenths + 0.0)
    }
}

/// Is the `d` of an SVG path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Path(String);

impl Path {
    /// Makes the line through these points.
    pub(crate) fn line(points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut path = Self::default();
        for (x, y) in points {
            path.point(x, y);
        }
        path
    }

    /// Makes the area between a line and another, both from left to right.
    pub(crate) fn between(upper: &[(f64, f64)], lower: &[(f64, f64)]) -> Self {
        let mut path = Self::line(upper.iter().chain(lower.iter().rev()).copied());
        path.0.push('Z');
        path
    }

    fn point(&mut self, x: f64, y: f64) {
        let letter = if self.0.is_empty() { 'M' } else { 'L' };
        let _written = write!(self.0, "{letter}{} {}", Px(x), Px(y));
    }

    /// Adds a rectangle.
    pub(crate) fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64) {
        let (x, y, width, height) = (Px(x), Px(y), Px(width), Px(height));
        let _written = write!(self.0, "M{x} {y}h{width}v{height}h-{width}z");
    }
}

impl Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Cuts text to at most this many characters, the last of them an ellipsis.
pub(crate) fn shortened(text: &str, letters_max: usize) -> String {
    if text.chars().count() <= letters_max {
        return text.to_owned();
    }
    text.chars().take(letters_max.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_cannot_begin_markup() {
        let hostile = "</style><script>alert('x')</script>\" onload=\"y & \u{1}\u{202e}";
        let mut markup = Markup::default();
        markup.leaf("p", &[("title", &hostile)], hostile);
        let escaped = "&lt;/style&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\
            &quot; onload=&quot;y &amp; \u{fffd}\u{fffd}";
        assert_eq!(markup.as_str(), format!("<p title=\"{escaped}\">{escaped}</p>\n"));
    }

    #[test]
    fn coordinates_have_one_decimal_and_no_negative_zero() {
        assert_eq!([Px(1.25).to_string(), Px(-0.01).to_string()], ["1.3", "0"]);
    }

    #[test]
    fn long_text_is_cut_at_letters_not_bytes() {
        assert_eq!(shortened("äöüäöü", 4), "äöü…");
        assert_eq!(shortened("äöü", 3), "äöü");
    }
}
