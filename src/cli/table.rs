//! Tables for people: a head, and columns as wide as what is in them. Programs take `--json`.

use unicode_width::UnicodeWidthStr as _;

use super::{is_coloured, print};

/// What an empty cell shows.
const NOTHING: &str = "-";

/// Rows under a head.
pub(super) struct Table<const COLUMNS: usize> {
    head: [&'static str; COLUMNS],
    widths: [usize; COLUMNS],
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(super) fn new(head: [&'static str; COLUMNS]) -> Self {
        Self {
            head,
            widths: head.map(str::len),
            rows: Vec::new(),
        }
    }

    pub(super) fn row(&mut self, cells: [String; COLUMNS]) {
        let cells = cells.map(|cell| match cell.as_str() {
            "" => NOTHING.to_owned(),
            _ => shown(&cell),
        });
        for (width, cell) in self.widths.iter_mut().zip(&cells) {
            *width = cell.width().max(*width);
        }
        self.rows.push(cells);
    }

    /// Prints it; of no rows only the head, so that it is seen that there are none.
    pub(super) fn print(&self) -> anyhow::Result<()> {
        let head = self.line(self.head);
        let mut text = match is_coloured(&std::io::stdout()) {
            true => format!("\u{1b}[1m{head}\u{1b}[0m\n"),
            false => format!("{head}\n"),
        };
        for row in &self.rows {
            text.push_str(&self.line(row.each_ref().map(String::as_str)));
            text.push('\n');
        }
        print(&text)
    }

    fn line(&self, cells: [&str; COLUMNS]) -> String {
        let mut line = String::new();
        for (cell, width) in cells.into_iter().zip(self.widths) {
            line.push_str(cell);
            let blanks = width - cell.width().min(width) + 2;
            line.extend(std::iter::repeat_n(' ', blanks));
        }
        line.truncate(line.trim_end().len());
        line
    }
}

/// Text of a pool as a terminal may have it: whoever names a VM writes no control characters here.
fn shown(cell: &str) -> String {
    let mut shown = String::new();
    for character in cell.chars() {
        match character.is_control() {
            true => shown.extend(character.escape_default()),
            false => shown.push(character),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new(["VM", "STATE", "UUID"]);
        table.row(["größe", "running", "1"].map(str::to_owned));
        table.row(["a", "", ""].map(str::to_owned));
        assert_eq!(table.line(table.head), "VM     STATE    UUID");
        let lines = table
            .rows
            .iter()
            .map(|row| table.line(row.each_ref().map(String::as_str)));
        assert_eq!(
            lines.collect::<Vec<_>>(),
            ["größe  running  1", "a      -        -"]
        );
    }

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        assert_eq!(shown("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
    }
}
