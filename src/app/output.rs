//! Output of the commands: tables for people, JSON for programs. Errors always go to standard error.

use std::io::{self, Write};

use serde::Serialize;

use super::exit::{Exit, Failure};

/// The form of a command's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns, for people. May change with any release.
    #[default]
    Table,
    /// A JSON document (with --watch: a document per line). Fields are added, never changed.
    Json,
}

/// Table with a header row. Control characters in values are escaped: a value must not be able to control the
/// terminal.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|it| (*it).to_owned()).collect()] }
    }

    pub(crate) fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        self.rows.push(cells.into_iter().map(|it| printable(&it)).collect());
    }

    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|at| {
                let widths = self.rows.iter().filter_map(|row| row.get(at));
                widths.map(|it| it.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 3));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Returns the text with its control characters escaped.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for it in text.chars() {
        if it.is_control() {
            shown.extend(it.escape_debug());
        } else {
            shown.push(it);
        }
    }
    shown
}

/// Readable form of a value: the text if it is text, else its first bytes in hex.
pub(crate) fn shown_value(value: &[u8]) -> String {
    const MOST: usize = 200;
    let cut = |text: &str| match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}… ({} bytes)", &text[..at], value.len()),
        None => text.to_owned(),
    };
    if let Ok(text) = std::str::from_utf8(value) {
        return printable(&cut(text));
    }
    let hex: Vec<String> = value.iter().take(16).map(|it| format!("{it:02x}")).collect();
    let more = if value.len() > 16 { "…" } else { "" };
    format!("0x{}{more} ({} bytes)", hex.concat(), value.len())
}

/// Readable form of a duration, in one unit: `3.2s`, `850ms`, `4m`.
pub(crate) fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{}m{:02}s", ms / 60_000, ms % 60_000 / 1_000),
        3_600_000..86_400_000 => format!("{}h{:02}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
        _ => format!("{}d{:02}h", ms / 86_400_000, ms % 86_400_000 / 3_600_000),
    }
}

/// Prints to standard output.
///
/// # Errors
///
/// A [`Failure`] if the text cannot be written. If the reader has closed the pipe (`| head`), the command
/// ends without a message.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Prints raw bytes, otherwise as [`print()`].
///
/// # Errors
///
/// The same as for [`print()`].
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Err(Failure::new(Exit::Done, String::new()))
        }
        Err(error) => Err(Failure::caused(Exit::Local, "writing to standard output", &error)),
    }
}

/// Prints one JSON document: on several lines for people, on one line in a stream.
///
/// # Errors
///
/// The same as for [`print()`].
pub(crate) fn print_json<T: Serialize>(value: &T, layout: Layout) -> Result<(), Failure> {
    let text = match layout {
        Layout::Pretty => serde_json::to_string_pretty(value),
        Layout::Line => serde_json::to_string(value),
    };
    let mut text = text.expect("reports have string keys and no foreign types");
    text.push('\n');
    print(&text)
}

/// Layout of a JSON document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Pretty,
    Line,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_cannot_drive_the_terminal() {
        let mut table = Table::new(&["NODE", "ADDRESS"]);
        table.row(["1".into(), "a\u{1b}[2Jb".into()]);
        table.row(["1000".into(), "c".into()]);
        assert_eq!(table.render(), "NODE   ADDRESS\n1      a\\u{1b}[2Jb\n1000   c\n");
    }

    #[test]
    fn a_value_is_shown_as_text_if_it_is_text_and_cut_if_it_is_long() {
        assert_eq!(shown_value("grün".as_bytes()), "grün");
        assert_eq!(shown_value(&[0xff, 0x00]), "0xff00 (2 bytes)");
        assert_eq!(shown_value(&[b'x'; 300]), format!("{}… (300 bytes)", "x".repeat(200)));
    }

    #[test]
    fn a_span_is_told_in_a_unit_that_fits() {
        let told: Vec<String> =
            [7, 1_250, 61_000, 3_660_000, 90_000_000].into_iter().map(span).collect();
        assert_eq!(told, ["7ms", "1.2s", "1m01s", "1h01m", "1d01h"]);
    }
}
