//! Settings of cells as people read and order them: numbers as numbers, the rest as text.

use std::cmp::Ordering;

use crate::plan::measure;

/// Is a setting's value: TOML text such as `100`, `0.5`, `"50ms"` or `"random"`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    text: String,
    number: Option<f64>,
    /// What the number measures: a time in whatever unit lies on one axis with all others.
    kind: &'static str,
}

impl Setting {
    /// Takes TOML text apart: quotes off; a number is one, and a quantity is in the smallest unit of its kind.
    pub(crate) fn of(toml: &str) -> Self {
        let text = toml.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(toml);
        let number: Option<f64> = text.replace('_', "").parse().ok();
        let number = number.filter(|number| number.is_finite()).map(|number| ("", number));
        let (kind, number) = number.or_else(|| measure(text)).unzip();
        Self { text: text.to_owned(), number, kind: kind.unwrap_or("") }
    }

    /// Returns it for people.
    pub(crate) fn text(&self) -> String {
        self.text.clone()
    }

    /// Returns how much it is, if it is a number or a quantity.
    pub(crate) fn number(&self) -> Option<f64> {
        self.number
    }

    /// Returns what it measures; nothing of a number alone, and of text.
    pub(crate) fn kind(&self) -> &'static str {
        self.kind
    }
}

impl Eq for Setting {}

impl PartialOrd for Setting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Setting {
    /// Orders by kind, then number, then text.
    fn cmp(&self, other: &Self) -> Ordering {
        let number = |setting: &Self| setting.number.unwrap_or(f64::INFINITY);
        let numbers = number(self).total_cmp(&number(other));
        self.kind.cmp(other.kind).then(numbers).then_with(|| self.text.cmp(&other.text))
    }
}

/// Returns the last two parts of a path into a plan, which say enough in a caption.
pub(crate) fn short_axis(path: &str) -> String {
    let parts: Vec<&str> = path.split('.').collect();
    parts.iter().skip(parts.len().saturating_sub(2)).copied().collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_ordered_as_numbers_whatever_their_unit_is_called() {
        let mut settings: Vec<Setting> = ["\"10m\"", "\"9ms\"", "\"2s\"", "1_000", "30", "\"x\""]
            .into_iter()
            .map(Setting::of)
            .collect();
        settings.sort();
        let texts: Vec<String> = settings.iter().map(Setting::text).collect();
        assert_eq!(texts, ["30", "1_000", "x", "9ms", "2s", "10m"]);
    }

    #[test]
    fn text_that_is_no_number_is_none() {
        for text in ["\"random\"", "", "\"-\"", "[1, 2]", "nan", "inf", "\"3 apples\""] {
            assert_eq!(Setting::of(text).number(), None, "{text}");
        }
    }
}
