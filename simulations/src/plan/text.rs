//! A tree as TOML text: a plan as it was run, in one piece that is read again without its files.

use std::fmt::Write;

use super::tree::{LISTS, Node, Table, Value};

/// Writes a plan's tree. Values come out as they would be written by hand, comments do not.
pub(super) fn plan_text(tree: &Table) -> String {
    let mut text = String::new();
    let is_list =
        |key: &str, value: &Value| LISTS.contains(&key) && matches!(value, Value::List(_));
    // What stands below a table's header belongs to the table, so bare keys come first.
    for (key, entry) in tree {
        if !is_list(key, &entry.node.value) && !matches!(entry.node.value, Value::Table(_)) {
            line(&mut text, key, &entry.node);
        }
    }
    for (key, entry) in tree {
        match &entry.node.value {
            Value::Table(table) => {
                text.push_str(&format!("\n[{}]\n", quoted(key)));
                lines(&mut text, table);
            }
            Value::List(items) if is_list(key, &entry.node.value) => {
                for item in items {
                    text.push_str(&format!("\n[[{}]]\n", quoted(key)));
                    if let Value::Table(table) = &item.value {
                        lines(&mut text, table);
                    }
                }
            }
            // Written above.
            Value::Text(_)
            | Value::Whole(_)
            | Value::Real(_)
            | Value::Flag(_)
            | Value::Date(_)
            | Value::List(_) => {}
        }
    }
    text
}

/// Writes a value.
pub(super) fn value_text(value: &Value) -> String {
    let mut text = String::new();
    write_value(value, &mut text);
    text
}

fn lines(text: &mut String, table: &Table) {
    for (key, entry) in table {
        line(text, key, &entry.node);
    }
}

fn line(text: &mut String, key: &str, node: &Node) {
    text.push_str(&format!("{} = ", quoted(key)));
    write_value(&node.value, text);
    text.push('\n');
}

fn write_value(value: &Value, text: &mut String) {
    // Writing to a string does not fail.
    let _written = match value {
        Value::Text(content) => write!(text, "{}", toml::Value::String(content.clone())),
        Value::Whole(number) => write!(text, "{number}"),
        Value::Real(number) => write!(text, "{}", toml::Value::Float(*number)),
        Value::Flag(flag) => write!(text, "{flag}"),
        Value::Date(date) => write!(text, "{date}"),
        Value::List(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                write_value(&item.value, text);
            }
            text.push(']');
            Ok(())
        }
        Value::Table(table) => {
            text.push('{');
            for (index, (key, entry)) in table.iter().enumerate() {
                text.push_str(if index == 0 { " " } else { ", " });
                text.push_str(&quoted(key));
                text.push_str(" = ");
                write_value(&entry.node.value, text);
            }
            text.push_str(" }");
            Ok(())
        }
    };
}

/// Returns a key as TOML takes it: bare if it can be, else as a string.
fn quoted(key: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !key.is_empty() && key.bytes().all(bare) {
        return key.to_owned();
    }
    let mut text = String::from('"');
    for letter in key.chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            control if control.is_control() => {
                text.push_str(&format!("\\u{:04x}", u32::from(control)));
            }
            plain => text.push(plain),
        }
    }
    text.push('"');
    text
}
