//! Columns for people; programs read `--json`.

/// Lines up `rows` in columns, two spaces apart; the last column is not filled up.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header = header.map(str::to_owned);
    let lines: Vec<String> =
        std::iter::once(&header).chain(rows).map(|row| aligned(row, &widths)).collect();
    lines.join("\n")
}

fn aligned(row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in row.iter().zip(widths) {
        line.push_str(&format!("{cell:<width$}  "));
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "long".to_owned()], ["bbbb".to_owned(), String::new()]];
        assert_eq!(table(["X", "YY"], &rows), "X     YY\na     long\nbbbb");
    }
}
