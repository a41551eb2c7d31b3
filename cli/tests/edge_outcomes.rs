//! The exit codes that `EDGE.md` gives for failures of an edge are those of the command line. That gets end
//! in those kinds of trouble is tested beside the edge, with each failure.

use blobmesh_cli::exit;
use blobmesh_node::control::api::Trouble;

#[test]
fn documented_exit_codes_of_edge_failures_are_the_real_ones() {
    let text = include_str!("../../node/EDGE.md");
    // Wherever a kind of trouble stands with a code: `kind`, 5
    let mut found = 0;
    for (kind, rest) in pairs(text) {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let Ok(code) = digits.parse::<u8>() else { continue };
        let expected = match kind {
            "done" => exit::DONE,
            kind => exit::code_of(trouble(kind)),
        };
        assert_eq!(code, expected, "{kind}");
        found += 1;
    }
    assert!(found > 40, "{found} codes, which is not the whole table");
}

/// Returns each word in backquotes that a comma follows, and what follows the comma.
fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.match_indices("`, ").filter_map(|(at, separator)| {
        let (_, kind) = text[..at].rsplit_once('`')?;
        Some((kind, &text[at + separator.len()..]))
    })
}

fn trouble(kind: &str) -> Trouble {
    serde_json::from_value(kind.into()).unwrap_or_else(|_| panic!("no kind of trouble: {kind}"))
}
