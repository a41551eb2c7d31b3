//! What clap says of arguments that it could not read, in parts.

/// Is what a program reads of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Usage {
    /// What is wrong, on one line.
    pub(super) message: String,
    /// What clap advises, on one line.
    pub(super) hint: Option<String>,
}

impl Usage {
    /// Takes apart what clap would print: a paragraph on what is wrong, some of advice, and how the command is used.
    pub(super) fn of(text: &str) -> Self {
        let text = text.strip_prefix("error: ").unwrap_or(text);
        let mut paragraphs = text.split("\n\n").map(one_line);
        let message = paragraphs.next().unwrap_or_default();
        let hint = paragraphs.find_map(|text| text.strip_prefix("tip: ").map(str::to_owned));
        Self { message, hint }
    }
}

fn one_line(paragraph: &str) -> String {
    let lines = paragraph.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lines_of_what_is_wrong_are_told_and_advice_apart() {
        for (text, message, hint) in [
            ("error: none\n", "none", None),
            (
                "error: these were not provided:\n  <HASH>...\n  <DIR>\n\nUsage: blobmesh pull <HASH>\n",
                "these were not provided: <HASH>... <DIR>",
                None,
            ),
            (
                "error: unexpected argument '--jsn' found\n\n  tip: to pass it as a value,\n  use '--'\n\nUsage: x\n",
                "unexpected argument '--jsn' found",
                Some("to pass it as a value, use '--'"),
            ),
            ("", "", None),
        ] {
            let usage = Usage { message: message.to_owned(), hint: hint.map(str::to_owned) };
            assert_eq!(Usage::of(text), usage, "{text:?}");
        }
    }
}
