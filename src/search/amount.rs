//! Sizes and times as people write them: `2MB`, `600kB`, `50us`, `10m`.

use std::time::Duration;

/// Units of bytes: powers of ten, as for disks, and powers of two.
const BYTES: [(&str, f64); 8] = [
    ("B", 1.0),
    ("kB", 1e3),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("KiB", 1024.0),
    ("MiB", 1_048_576.0),
    ("GiB", 1_073_741_824.0),
];

/// Units of the time of a step, in microseconds.
const STEP: [(&str, f64); 5] = [("ns", 1e-3), ("us", 1.0), ("\u{b5}s", 1.0), ("ms", 1e3), ("s", 1e6)];

/// Units of the time of a search, in seconds.
const TIME: [(&str, f64); 4] = [("s", 1.0), ("m", 60.0), ("min", 60.0), ("h", 3600.0)];

/// A number and its unit. `example` is what an error shows.
fn amount(text: &str, units: &[(&str, f64)], example: &str) -> Result<f64, String> {
    let text = text.trim();
    let end = text.find(|c: char| c.is_alphabetic()).unwrap_or(text.len());
    let (number, unit) = (text[..end].trim(), text[end..].trim());
    let expected = || {
        let names: Vec<&str> = units.iter().map(|(name, _)| *name).collect();
        format!("expected a number above 0 with a unit ({}), such as {example}", names.join(", "))
    };
    let (_, factor) = units.iter().find(|(name, _)| *name == unit).ok_or_else(expected)?;
    let value = number.parse::<f64>().ok().map(|n| n * factor);
    value.filter(|v| v.is_finite() && *v > 0.0).ok_or_else(expected)
}

/// A size in bytes; a number alone is bytes.
pub fn bytes(text: &str) -> Result<usize, String> {
    let is_plain = text.chars().all(|c| c.is_ascii_digit()) && !text.is_empty();
    let spelled = if is_plain { format!("{text}B") } else { text.to_string() };
    amount(&spelled, &BYTES, "2MB or 600kB").map(|n| n as usize)
}

/// The time of a step, in microseconds.
pub fn microseconds(text: &str) -> Result<f64, String> {
    amount(text, &STEP, "50us or 1.5ms")
}

/// The time of a search.
pub fn duration(text: &str) -> Result<Duration, String> {
    let seconds = amount(text, &TIME, "10m or 90s")?;
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

/// A part of one: `2%` or `0.02`.
pub fn fraction(text: &str) -> Result<f64, String> {
    let value = match text.strip_suffix('%') {
        Some(percent) => percent.trim_end().parse::<f64>().map(|p| p / 100.0),
        None => text.parse(),
    };
    value.ok().filter(|v| v.is_finite() && *v >= 0.0).ok_or("expected a number such as 2% or 0.02".into())
}

/// An integer with its thousands separated.
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        assert_eq!(bytes("2MB"), Ok(2_000_000));
        assert_eq!(bytes("600 kB"), Ok(600_000));
        assert_eq!(bytes("1.5MiB"), Ok(1_572_864));
        assert_eq!(bytes("1234"), Ok(1234));
        assert_eq!(microseconds("50us"), Ok(50.0));
        assert_eq!(microseconds("1.5ms"), Ok(1500.0));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!((fraction("2%"), fraction("0.02")), (Ok(0.02), Ok(0.02)));
        for wrong in ["", "MB", "2mb", "-1MB", "0MB", "2 M B", "infMB", "1e999MB"] {
            let error = bytes(wrong).unwrap_err();
            assert!(error.contains("2MB"), "{wrong}: {error}");
        }
        assert!(microseconds("50").is_err() && duration("10").is_err() && fraction("-1%").is_err());
    }
}
