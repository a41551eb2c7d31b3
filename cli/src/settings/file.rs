//! The configuration file.

use std::io;
use std::ops::Range;
use std::path::Path;

use blobmesh_node::control::api::{Failure, Trouble};
use toml::de::{DeTable, DeValue};

use super::keys::{Origin, SECRET, SPECS, Shape, Spec, Value, Values, nearest};
use crate::error::CommandError;
use crate::files::read_text;

/// The bound of a configuration file in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads the values of the configuration file; an absent one has none, unless it was `asked_for`.
///
/// # Errors
/// `Configuration`, naming file, line and key.
pub(super) fn read(path: &Path, asked_for: bool) -> Result<Values, CommandError> {
    let text = match read_text(path, FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if is_absent(&error) && !asked_for => {
            return Ok(Values::new());
        }
        Err(error) => {
            let text = format!("cannot read the configuration file {}", path.display());
            let failure = Failure::new(Trouble::Configuration, text);
            return Err(failure.cause(error.to_string()).into());
        }
    };
    File { path, text: text.trim_start_matches('\u{feff}') }.values()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn values(&self) -> Result<Values, CommandError> {
        let root = DeTable::parse(self.text)
            .map_err(|error| self.error(&error.span().unwrap_or_default(), error.message()))?;
        let mut values = Values::new();
        self.collect("", root.get_ref(), &mut values)?;
        Ok(values)
    }

    fn collect(
        &self,
        table_name: &str,
        table: &DeTable<'_>,
        values: &mut Values,
    ) -> Result<(), CommandError> {
        for (key, value) in table {
            let name = format!("{table_name}{}", key.get_ref());
            let below = format!("{name}.");
            let has_keys = SPECS.iter().any(|spec| spec.name.starts_with(&below));
            if let (true, DeValue::Table(inner)) = (has_keys, value.get_ref()) {
                self.collect(&below, inner, values)?;
                continue;
            }
            let spec = self.spec(&name, &key.span())?;
            let value = self.value(spec, value.get_ref(), &value.span())?;
            let origin = Origin::File(self.path.to_owned(), self.line(&key.span()));
            values.insert(spec.key, (value, origin));
        }
        Ok(())
    }

    fn spec(&self, name: &str, span: &Range<usize>) -> Result<&'static Spec, CommandError> {
        if name == SECRET {
            let text = format!("{name} does not go into the configuration file");
            return Err(self.error(span, &text).hint(
                "name a file of mode 0600 as edge.secret_key_file, \
                 or set BLOBMESH_EDGE_SECRET_ACCESS_KEY",
            ));
        }
        SPECS.iter().find(|spec| spec.name == name).ok_or_else(|| {
            let names = SPECS.iter().map(|spec| spec.name).filter(|name| *name != SECRET);
            let nearest = nearest(name, names).unwrap_or_default();
            self.error(span, &format!("unknown key {name}; the nearest known key is {nearest}"))
                .hint("`blobmesh config show` lists every key")
        })
    }

    fn value(
        &self,
        spec: &Spec,
        found: &DeValue<'_>,
        span: &Range<usize>,
    ) -> Result<Value, CommandError> {
        let value = match (spec.shape, found) {
            (Shape::Text | Shape::Size | Shape::Port | Shape::Version, DeValue::String(text)) => {
                Some(Value::Text(text.to_string()))
            }
            (Shape::Size | Shape::Port | Shape::Version, DeValue::Integer(number)) => {
                Some(Value::Text(number.to_string()))
            }
            (Shape::Switch, DeValue::Boolean(on)) => Some(Value::Switch(*on)),
            (Shape::List, DeValue::Array(items)) => items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .map(Value::List),
            _ => None,
        };
        let wanted = match spec.shape {
            Shape::Text => "a string",
            Shape::Size => "a size such as \"20GiB\"",
            Shape::Port => "a port such as 4002, \"any\" or \"off\"",
            Shape::Version => "\"auto\", \"1\", \"2\" or \"3\"",
            Shape::Switch => "true or false",
            Shape::List => "a list of strings",
        };
        value.ok_or_else(|| self.error(span, &format!("{} wants {wanted}", spec.name)))
    }

    fn error(&self, span: &Range<usize>, message: &str) -> CommandError {
        // Of several lines the parser wrote, the first says what is wrong.
        let message = message.lines().next().unwrap_or_default();
        let text = format!("{}:{}: {message}", self.path.display(), self.line(span));
        CommandError::new(Trouble::Configuration, text)
    }

    /// Returns the line of a place in the text, counted from 1.
    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().iter().take(span.start);
        1 + before.filter(|byte| **byte == b'\n').count()
    }
}
