//! Aligned tables of text.

use pangea_base::Civil;

/// Which side a column's text is put to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Lays out rows under a header. The last column is not padded.
pub(crate) fn render(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let header: Vec<String> = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&header).chain(rows).collect();
    let width = |column: usize| {
        all.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for row in all {
        let mut line = String::new();
        for ((cell, width), (_, align)) in row.iter().zip(&widths).zip(columns) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let fill = " ".repeat(width.saturating_sub(cell.chars().count()));
            match align {
                Align::Left => line.push_str(&format!("{cell}{fill}")),
                Align::Right => line.push_str(&format!("{fill}{cell}")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// Seconds for people.
pub(crate) fn seconds(count: f64) -> String {
    if count < 10.0 { format!("{count:.1} s") } else { format!("{count:.0} s") }
}

/// Microseconds as milliseconds: what people compare changes of primary by.
pub(crate) fn milliseconds(us: u64) -> String {
    format!("{} ms", us.saturating_add(500) / 1000)
}

/// Facts by name, the values below one another.
pub(crate) fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    facts.iter().map(|(name, value)| format!("  {name:<width$}  {value}\n")).collect()
}

/// Seconds since 1970 as a date, in UTC.
pub(crate) fn utc(seconds: u64) -> String {
    let Civil { year, month, day, hour, minute, second } = Civil::of(seconds);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = vec![
            vec!["eu-west-1".to_owned(), "12 B".to_owned(), "fine".to_owned()],
            vec!["a".to_owned(), "1.5 MB".to_owned(), String::new()],
        ];
        let columns = [("REGION", Align::Left), ("LAG", Align::Right), ("HEALTH", Align::Left)];
        let expected = "REGION        LAG  HEALTH\neu-west-1    12 B  fine\na          1.5 MB\n";
        assert_eq!(render(&columns, &rows), expected);
    }

    #[test]
    fn numbers() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 kB");
        assert_eq!(bytes(40 * 1024 * 1024), "40.0 MB");
        assert_eq!(seconds(0.04), "0.0 s");
        assert_eq!(seconds(63.2), "63 s");
        assert_eq!(milliseconds(1_499), "1 ms");
        assert_eq!(milliseconds(1_500), "2 ms");
    }

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_772_323_200), "2026-03-01 00:00:00 UTC");
        assert_eq!(utc(1_798_761_599), "2026-12-31 23:59:59 UTC");
    }

    #[test]
    fn values_stand_below_one_another() {
        assert_eq!(facts(&[("a", "1".into()), ("long", "2".into())]), "  a     1\n  long  2\n");
    }
}
