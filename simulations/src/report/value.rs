//! Settings of cells as people read and order them: numbers as numbers, the rest as text.

use std::cmp::Ordering;

/// Is a setting's value: TOML text such as `100`, `0.5`, `"50ms"` or `"random"`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Setting {
    text: String,
    number: Option<f64>,
    unit: String,
}

impl Setting {
    /// Takes TOML text apart: quotes off, and a leading number from its unit.
    pub(crate) fn of(toml: &str) -> Self {
        let text = toml.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(toml);
        let plain = text.replace('_', "");
        let numeric = |letter: char| letter.is_ascii_digit() || letter == '.' || letter == '-';
        let (number, unit) = match plain.parse::<f64>() {
            Ok(number) => (Some(number), ""),
            Err(_) => {
                let end = plain.find(|letter| !numeric(letter)).unwrap_or(plain.len());
                let (number, unit) = plain.split_at(end);
                (number.parse().ok(), unit)
            }
        };
        let number = number.filter(|number| number.is_finite());
        Self { text: text.to_owned(), number, unit: unit.trim().to_owned() }
    }

    /// Returns it for people.
    pub(crate) fn text(&self) -> String {
        self.text.clone()
    }

    /// Returns the number that it is or begins with.
    pub(crate) fn number(&self) -> Option<f64> {
        self.number
    }

    /// Returns what stands behind the number.
    pub(crate) fn unit(&self) -> &str {
        &self.unit
    }
}

impl Eq for Setting {}

impl PartialOrd for Setting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Setting {
    /// Orders by unit, then number, then text.
    fn cmp(&self, other: &Self) -> Ordering {
        let number = |setting: &Self| setting.number.unwrap_or(f64::INFINITY);
        let numbers = number(self).total_cmp(&number(other));
        self.unit.cmp(&other.unit).then(numbers).then_with(|| self.text.cmp(&other.text))
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
        let mut settings: Vec<Setting> =
            ["\"100ms\"", "\"9ms\"", "1_000", "30", "\"x\""].into_iter().map(Setting::of).collect();
        settings.sort();
        let texts: Vec<String> = settings.iter().map(Setting::text).collect();
        assert_eq!(texts, ["30", "1_000", "9ms", "100ms", "x"]);
    }

    #[test]
    fn text_that_is_no_number_is_none() {
        for text in ["\"random\"", "", "\"-\"", "[1, 2]", "nan", "inf"] {
            assert_eq!(Setting::of(text).number(), None, "{text}");
        }
    }
}
