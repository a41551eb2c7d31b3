//! The grammar of quantities: a number, a unit, nothing between them.
//!
//! `number = digit+ ["." digit+]`, without a sign, an exponent or separators. Units are decimal (`MB`)
//! or binary (`MiB`); rates are in bits (`Mbps`) or bytes (`MB/s`) a second. The arithmetic is in whole
//! numbers: `0.25ms` is 250,000 ns and never something beside it. What is finer than a nanosecond or a
//! byte is rounded to the nearest.

use super::error::{Problem, shorten};

/// Is a kind of quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quantity {
    /// In nanoseconds.
    Time,
    /// In bytes.
    Size,
    /// In bytes a second.
    Rate,
}

/// Is a unit: its name, and how many of the smallest it is, as a fraction.
type Unit = (&'static str, u128, u128);

const TIMES: &[Unit] = &[
    ("ns", 1, 1),
    ("us", 1_000, 1),
    ("ms", 1_000_000, 1),
    ("s", 1_000_000_000, 1),
    ("m", 60_000_000_000, 1),
    ("h", 3_600_000_000_000, 1),
    ("d", 86_400_000_000_000, 1),
];

const SIZES: &[Unit] = &[
    ("B", 1, 1),
    ("kB", 1_000, 1),
    ("MB", 1_000_000, 1),
    ("GB", 1_000_000_000, 1),
    ("TB", 1_000_000_000_000, 1),
    ("KiB", 1 << 10, 1),
    ("MiB", 1 << 20, 1),
    ("GiB", 1 << 30, 1),
    ("TiB", 1 << 40, 1),
];

const RATES: &[Unit] = &[
    ("bps", 1, 8),
    ("kbps", 1_000, 8),
    ("Mbps", 1_000_000, 8),
    ("Gbps", 1_000_000_000, 8),
    ("B/s", 1, 1),
    ("kB/s", 1_000, 1),
    ("MB/s", 1_000_000, 1),
    ("GB/s", 1_000_000_000, 1),
    ("KiB/s", 1 << 10, 1),
    ("MiB/s", 1 << 20, 1),
    ("GiB/s", 1 << 30, 1),
];

impl Quantity {
    fn units(self) -> &'static [Unit] {
        match self {
            Self::Time => TIMES,
            Self::Size => SIZES,
            Self::Rate => RATES,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::Size => "size",
            Self::Rate => "rate",
        }
    }

    fn example(self) -> &'static str {
        match self {
            Self::Time => "\"0.25ms\"",
            Self::Size => "\"64MiB\"",
            Self::Rate => "\"100Mbps\" or \"12.5MB/s\"",
        }
    }

    /// Reads a quantity.
    pub(super) fn parse(self, text: &str) -> Result<u64, Problem> {
        let bad = || Problem::BadQuantity {
            text: shorten(text),
            quantity: self.name(),
            near: self.near(text),
            units: self.unit_names(),
            example: self.example(),
        };
        let (number, unit) = split(text).ok_or_else(bad)?;
        let (_, times, over) =
            self.units().iter().find(|(name, ..)| *name == unit).ok_or_else(bad)?;
        let too_large =
            || Problem::out_of_bounds(shorten(text), "what 64 bits hold, with 18 digits at most");
        scale(number, *times, *over).ok_or_else(too_large)
    }

    /// Lists the units.
    pub(super) fn unit_names(self) -> String {
        self.units().iter().map(|(name, ..)| *name).collect::<Vec<_>>().join(" ")
    }

    /// Guesses what was meant: a space too much, a letter too large.
    fn near(self, text: &str) -> Option<String> {
        let dense: String = text.split_whitespace().collect();
        let (number, unit) = split(&dense)?;
        let mut alike = self.units().iter().filter(|(name, ..)| name.eq_ignore_ascii_case(unit));
        let exact = self.units().iter().find(|(name, ..)| *name == unit);
        let (name, ..) = exact.or_else(|| alike.next())?;
        // Of `mb/s` nobody can say whether it is bits or bytes, but no unit reads as both.
        Some(format!("{number}{name}"))
    }
}

/// Returns what kind of quantity a text is, in a word, and how much in the smallest unit of its kind.
pub(crate) fn measure(text: &str) -> Option<(&'static str, f64)> {
    let kinds = [Quantity::Time, Quantity::Size, Quantity::Rate];
    kinds.iter().find_map(|kind| Some((kind.name(), kind.parse(text).ok()? as f64)))
}

/// Splits a number from its unit; none if it is no number.
fn split(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let (number, unit) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    (!whole.is_empty() && !fraction.is_empty() && !fraction.contains('.')).then_some((number, unit))
}

/// Multiplies a decimal number exactly and rounds it; none if it does not fit.
fn scale(number: &str, times: u128, over: u128) -> Option<u64> {
    const DIGITS_MAX: usize = 18;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.len() > DIGITS_MAX || fraction.len() > DIGITS_MAX {
        return None;
    }
    let decimals = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let part = fraction.checked_mul(times)?;
    // Whole and fraction apart, or 18 digits of both would not fit into 128 bits.
    let whole = whole.parse::<u128>().ok()?.checked_mul(times)?;
    let over = over.checked_mul(decimals)?;
    let sum = whole.checked_mul(decimals)?.checked_add(part)?;
    u64::try_from(sum.checked_add(over / 2)? / over).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact() {
        for (quantity, text, expected) in [
            (Quantity::Time, "0.25ms", 250_000),
            (Quantity::Time, "15m", 900_000_000_000),
            (Quantity::Time, "0s", 0),
            (Quantity::Time, "1.000000001s", 1_000_000_001),
            (Quantity::Time, "0.1ns", 0),
            (Quantity::Time, "0.5ns", 1),
            (Quantity::Size, "20GiB", 21_474_836_480),
            (Quantity::Size, "1.5kB", 1_500),
            (Quantity::Size, "16777215TiB", 16_777_215 << 40),
            (Quantity::Rate, "1Gbps", 125_000_000),
            (Quantity::Rate, "500MB/s", 500_000_000),
            (Quantity::Rate, "1.3MB/s", 1_300_000),
            (Quantity::Rate, "8bps", 1),
            (Quantity::Rate, "2MiB/s", 2_097_152),
        ] {
            assert_eq!(quantity.parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in [
            "", "5", "ms", "-5ms", "+5ms", "5 ms", " 5ms", "5ms ", "1e3ms", "1_000ms", ".5ms",
            "5.ms", "1.2.3ms", "5min", "5MB", "nanms", "infs", "５ms", "5µs",
        ] {
            assert!(
                matches!(Quantity::Time.parse(text), Err(Problem::BadQuantity { .. })),
                "{text}"
            );
        }
        for text in ["99999999999999999999s", "18446744073710s", "0.0000000000000000001s"] {
            assert!(
                matches!(
                    Quantity::Time.parse(&text.replace("18446744073710s", "18446744073710d")),
                    Err(Problem::OutOfBounds { .. })
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn a_space_and_a_wrong_case_are_guessed() {
        for (quantity, text, guess) in [
            (Quantity::Time, "5 ms", "5ms"),
            (Quantity::Rate, "1gbps", "1Gbps"),
            (Quantity::Rate, "100 mbps", "100Mbps"),
            (Quantity::Size, "64mib", "64MiB"),
        ] {
            let Err(Problem::BadQuantity { near, .. }) = quantity.parse(text) else {
                panic!("{text} is no quantity")
            };
            assert_eq!(near.as_deref(), Some(guess));
        }
    }
}
