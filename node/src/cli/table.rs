//! Aligned tables, and quantities as people read them.

use console::{measure_text_width, style};
use godwit_protocol::{Bytes, MilliCpu, Millis, PerMille, Time};
use time::UtcDateTime;

/// Where a column's cells stand.
#[derive(Clone, Copy)]
pub enum Align {
    /// For words.
    Left,
    /// For numbers.
    Right,
}

use Align::{Left, Right};

/// Rows under headings; `<` before a heading aligns its column to the left, `>` to the right.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let columns: Vec<(Align, &str)> = headings
        .iter()
        .map(|heading| match heading.strip_prefix('>') {
            Some(heading) => (Right, heading),
            None => (Left, heading.trim_start_matches('<')),
        })
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| measure_text_width(cell));
        cells.max().unwrap_or(0).max(measure_text_width(columns[column].1))
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let aligns: Vec<Align> = columns.iter().map(|(align, _)| *align).collect();
    let titles: Vec<String> = columns.iter().map(|(_, title)| style(title).bold().to_string()).collect();
    let mut text = line(&titles, &widths, &aligns);
    for row in rows {
        text.push_str(&line(row, &widths, &aligns));
    }
    text
}

fn line(cells: &[String], widths: &[usize], aligns: &[Align]) -> String {
    let mut text = String::new();
    for (index, (cell, (width, align))) in cells.iter().zip(widths.iter().zip(aligns)).enumerate() {
        let padding = " ".repeat(width.saturating_sub(measure_text_width(cell)));
        if index > 0 {
            text.push_str("  ");
        }
        match align {
            Left => text.extend([cell.as_str(), &padding]),
            Right => text.extend([padding.as_str(), cell]),
        }
    }
    let end = text.trim_end().len();
    text.truncate(end);
    text.push('\n');
    text
}

/// Names and their values, one a line.
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| measure_text_width(name)).max().unwrap_or(0);
    fields
        .iter()
        .map(|(name, value)| {
            let padding = " ".repeat(width - measure_text_width(name));
            format!("{}{padding}  {value}\n", style(name).bold())
        })
        .collect()
}

/// `256 MiB`, with one decimal below ten.
pub fn bytes(bytes: Bytes) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes.0) * 10;
    while tenths >= 10_240 && unit < UNITS.len() - 1 {
        tenths /= 1024;
        unit += 1;
    }
    if tenths % 10 == 0 || tenths >= 100 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

/// `1.5` cores.
pub fn cores(cpu: MilliCpu) -> String {
    let (whole, part) = (cpu.0 / 1000, cpu.0 % 1000);
    if part == 0 { whole.to_string() } else { format!("{whole}.{}", format!("{part:03}").trim_end_matches('0')) }
}

/// `41.5 %`.
pub fn percent(share: PerMille) -> String {
    format!("{}.{} %", share.0 / 10, share.0 % 10)
}

/// `1.250 s` from a second on, `250 ms` below, `2 h 05 min` from a minute on.
pub fn span(span: Millis) -> String {
    let (ms, s) = (span.0, span.0 / 1000);
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s}.{:03} s", ms % 1000),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {:02} h", s / 86_400, s / 3600 % 24),
    }
}

/// `2026-11-22 04:15:07.123`, UTC.
pub fn moment(time: Time) -> String {
    let parsed = UtcDateTime::from_unix_timestamp_nanos(i128::from(time.0) * 1_000_000);
    match parsed {
        Ok(t) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.millisecond()
        ),
        // Beyond the year 9999: some peer's nonsense, shown as it is.
        Err(_) => time.to_string(),
    }
}

/// Only the time of day.
pub fn time_of_day(time: Time) -> String {
    moment(time).split_once(' ').map_or_else(|| time.to_string(), |(_, time)| time.to_owned())
}

/// The beginning of an id that suffices for people.
pub fn short(id: &impl ToString) -> String {
    id.to_string().chars().take(12).collect()
}

/// A cell for what may be absent.
pub fn or_dash(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_what_a_terminal_shows() {
        console::set_colors_enabled(false);
        let rows = [["réseau", "7"], ["東京", "12,000"], ["x", "1"]].map(|row| row.map(str::to_owned).to_vec());
        let expected = "\
NAME    >COUNT
réseau       7
東京    12,000
x            1
";
        assert_eq!(table(&["NAME", ">COUNT"], &rows), expected.replace(">COUNT", " COUNT"));
    }

    #[test]
    fn quantities_are_shown_as_people_read_them() {
        assert_eq!(bytes(Bytes(0)), "0 B");
        assert_eq!(bytes(Bytes(1536)), "1.5 KiB");
        assert_eq!(bytes(Bytes(256 << 20)), "256 MiB");
        assert_eq!(bytes(Bytes(u64::MAX)), "16777215 TiB");
        assert_eq!(cores(MilliCpu(500)), "0.5");
        assert_eq!(cores(MilliCpu(2000)), "2");
        assert_eq!(percent(PerMille(415)), "41.5 %");
        assert_eq!(span(Millis(250)), "250 ms");
        assert_eq!(span(Millis(1250)), "1.250 s");
        assert_eq!(span(Millis(65_000)), "1 min 05 s");
        assert_eq!(span(Millis(90_061_000)), "1 d 01 h");
        assert_eq!(moment(Time(1_795_320_907_123)), "2026-11-22 04:15:07.123");
        assert_eq!(moment(Time(u64::MAX)), Time(u64::MAX).to_string());
    }
}
