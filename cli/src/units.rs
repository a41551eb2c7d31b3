//! Sizes and durations, as people write and read them.

use std::time::Duration;

const UNITS: [(&str, u64); 11] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("PiB", 1 << 50),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("PB", 1_000_000_000_000_000),
];

const SPANS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// The longest duration that can be asked for.
const DURATION_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Reads a size: `20GiB`, `512 MiB`, `1.5GB`, `4096`. Units fold case, `K` alone is no unit.
///
/// # Errors
/// Says what a size looks like; never more than `u64::MAX` bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    scaled(text, &UNITS, Some(1)).ok_or_else(|| {
        format!("{} is not a size: write a number and a unit, such as 20GiB", quoted(text))
    })
}

/// Reads a duration: `250ms`, `30s`, `5m`, `2h`; from 1 ms to 30 days.
///
/// # Errors
/// Says what a duration looks like.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    scaled(text, &SPANS, None)
        .map(Duration::from_millis)
        .filter(|duration| !duration.is_zero() && *duration <= DURATION_MAX)
        .ok_or_else(|| {
            format!("{} is not a duration from 1ms to 30d, such as 250ms or 30s", quoted(text))
        })
}

/// Multiplies a decimal number by the unit behind it; `bare` is the factor without a unit.
fn scaled(text: &str, units: &[(&str, u64)], bare: Option<u64>) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim_start();
    let known = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
    let factor = match known {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => bare?,
        None => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Nine digits are exact to the byte up to a gigabyte, and keep the product within 128 bits.
    if whole.is_empty() || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    u64::try_from(digits.checked_mul(u128::from(factor))? / scale).ok()
}

/// Shows a size in its binary unit: `0`, `17 B`, `1.2 GiB`, `96 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let binary = &UNITS[..6];
    let (name, unit) = binary.iter().rev().find(|(_, unit)| bytes >= *unit).unwrap_or(&UNITS[0]);
    let tenths = u128::from(bytes) * 10 / u128::from(*unit);
    match (bytes, tenths % 10) {
        (0, _) => "0".to_owned(),
        (_, tenth) if *unit > 1 && tenths < 100 && tenth > 0 => {
            format!("{}.{tenth} {name}", tenths / 10)
        }
        _ => format!("{} {name}", tenths / 10),
    }
}

/// Shows seconds: `0.41 ms`, `41 ms`, `12.8s`, `3m12s`.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 0.010 {
        format!("{:.2} ms", seconds * 1e3)
    } else if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds < 60.0 {
        format!("{seconds:.1}s")
    } else {
        format!("{:.0}m{:02.0}s", (seconds / 60.0).floor(), (seconds % 60.0).floor())
    }
}

/// Shows how many there are of what: `1 blob`, `3 blobs`.
pub(crate) fn count(number: impl TryInto<u64>, what: &str) -> String {
    match number.try_into().unwrap_or(u64::MAX) {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

/// Shows the first ten digits of a hash.
pub(crate) fn short_hash(hash: &str) -> &str {
    hash.get(..10).unwrap_or(hash)
}

/// Shows the beginning of a peer's id, which is enough to tell peers apart.
pub(crate) fn short_peer(peer: &str) -> String {
    match peer.get(..16) {
        Some(start) if peer.len() > 20 => format!("{start}.."),
        _ => peer.to_owned(),
    }
}

/// Shows a text of the user's in quotes, escaped and at most 80 characters of it.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(80).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_are_none_are_refused() {
        for text in [
            "",
            " ",
            "-1",
            "+1",
            "10XB",
            "GiB",
            "1K",
            "1.",
            ".5GiB",
            "1..2B",
            "0x10",
            "1 2",
            "1e3",
            "NaN",
            "20000000TiB",
            "18446744073709551616",
            "1.0000000001GB",
            "١GiB",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_exactly() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("17B", 17),
            ("20GiB", 20 << 30),
            ("20 gib", 20 << 30),
            (" 512 MiB ", 512 << 20),
            ("1.5GB", 1_500_000_000),
            ("0.1KiB", 102),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn durations_have_a_unit_and_bounds() {
        for text in ["", "0", "0s", "30", "-5s", "31d", "99999999999h", "1w", "1 minute"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for (text, ms) in [("1ms", 1), ("250ms", 250), ("1.5s", 1500), ("5m", 300_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10 << 20, "10 MiB"),
            ((96 << 20) + 1, "96 MiB"),
            (1_288_490_189, "1.2 GiB"),
            (u64::MAX, "16383 PiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn one_is_no_plural() {
        let shown = [0, 1, 2].map(|number: usize| count(number, "blob"));
        assert_eq!(shown, ["0 blobs", "1 blob", "2 blobs"]);
    }

    #[test]
    fn seconds_are_shown_in_the_unit_that_fits() {
        for (value, text) in
            [(0.000_41, "0.41 ms"), (0.041, "41 ms"), (12.84, "12.8s"), (192.9, "3m12s")]
        {
            assert_eq!(seconds(value), text);
        }
    }
}
