//! The table that a compression ends with.

use crate::passes::{Measure, Report, Verdict};
use crate::terminal::{columns, thousands};
use std::fmt::Write;

/// A line for the model as it came and one for each pass, then the notes.
pub(crate) fn table(report: &Report) -> String {
    let header = ["pass", "bytes", "ratio", "multiply-adds", "perplexity", "change", "verdict"];
    let mut rows: Vec<[String; 7]> = vec![header.map(str::to_string)];
    let Some(first) = report.before else { return String::new() };
    rows.push(row("(as given)", &first, &first, String::new()));
    for record in &report.passes {
        let verdict = match &record.verdict {
            Verdict::Applied => "accepted".to_string(),
            other => other.to_string(),
        };
        rows.push(row(&record.invocation, &record.after, &first, verdict));
    }
    let mut out = columns(&rows, &[0, header.len() - 1]);
    for record in &report.passes {
        for note in &record.notes {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "note: {}: {note}", record.pass);
        }
    }
    out
}

fn row(pass: &str, measure: &Measure, first: &Measure, verdict: String) -> [String; 7] {
    let ratio = first.bytes.zip(measure.bytes).map(|(a, b)| format!("{:.2}x", a as f64 / b.max(1) as f64));
    let change =
        measure.perplexity.zip(first.perplexity).map(|(p, f)| format!("{:+.2}%", (p / f - 1.0) * 100.0));
    [
        pass.to_string(),
        measure.bytes.map_or(String::new(), thousands),
        ratio.unwrap_or_default(),
        measure.multiply_adds.map_or(String::new(), thousands),
        measure.perplexity.map_or(String::new(), |p| format!("{p:.2}")),
        change.unwrap_or_default(),
        verdict,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::{Budget, Record, Trail};

    #[test]
    fn the_table_lines_up() {
        let first = Measure {
            bytes: Some(18_606_400),
            parameters: 4_651_600,
            multiply_adds: Some(2_640_000),
            perplexity: None,
        };
        let measured = Measure { perplexity: Some(117.5), ..first };
        let record = |invocation: &str, verdict, before, after| Record {
            pass: "quantize",
            invocation: invocation.into(),
            verdict,
            seconds: 1.0,
            weights_changed: vec![],
            before,
            after,
            notes: vec![],
        };
        let small = Measure { bytes: Some(2_600_000), perplexity: Some(118.2), ..first };
        let over = Measure { bytes: Some(1_000_000), perplexity: Some(300.0), ..first };
        let mut records = vec![
            record("canonicalize", Verdict::Applied, first, first),
            record("quantize(bits=4, group=40)", Verdict::Applied, measured, small),
            record("prune(sparsity=0.99)", Verdict::Rejected("perplexity 300.00 > 120".into()), small, over),
        ];
        records[1].notes.push("squared error relative to the outputs: decoder 1.0e-3".into());
        let report = Report::new("m", &Trail { records }, Budget::default());
        let text = table(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        let verdicts =
            [(0, "verdict"), (2, "accepted"), (3, "accepted"), (4, "rejected: perplexity 300.00 > 120")];
        let column = lines[0].find("verdict");
        for (k, verdict) in verdicts {
            assert_eq!(lines[k].find(verdict), column, "{text}");
            assert!(lines[k].ends_with(verdict), "{text}");
        }
        // Ratios and changes are against the model as it was given, whose perplexity is that before the first lossy pass.
        assert!(lines[3].contains("7.16x") && lines[3].contains("+0.60%"), "{text}");
        assert_eq!(lines[5], "note: quantize: squared error relative to the outputs: decoder 1.0e-3");
    }
}
