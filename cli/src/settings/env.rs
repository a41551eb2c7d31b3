//! The environment.

use std::ffi::OsString;

use blobmesh_node::control::api::Trouble;

use super::keys::{OTHER_VARIABLES, Origin, SPECS, Shape, Spec, Value, Values, nearest};
use crate::error::CommandError;
use crate::units::quoted;

/// Puts the values of `variables` over those of the lower layers. Empty ones count as not set.
///
/// Returns warnings about variables that look like settings and are none.
///
/// # Errors
/// `Configuration`, naming the variable; never its value where that is a secret.
pub(super) fn overlay(
    variables: impl Iterator<Item = (OsString, OsString)>,
    values: &mut Values,
) -> Result<Vec<String>, CommandError> {
    let mut warnings = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with("BLOBMESH_")) else {
            continue;
        };
        let Some(spec) = SPECS.iter().find(|spec| spec.env == name) else {
            warnings.extend(unknown(name));
            continue;
        };
        let value = value.into_string().map_err(|_| error(spec, "is not UTF-8"))?;
        if !value.is_empty() {
            values.insert(spec.key, (read(spec, value)?, Origin::Env(spec.env)));
        }
    }
    // The order of the environment is by chance.
    warnings.sort();
    Ok(warnings)
}

fn read(spec: &Spec, value: String) -> Result<Value, CommandError> {
    Ok(match spec.shape {
        Shape::Text | Shape::Size | Shape::Port | Shape::Version => Value::Text(value),
        Shape::List => Value::List(
            value.split(',').map(str::trim).filter(|v| !v.is_empty()).map(str::to_owned).collect(),
        ),
        Shape::Switch => Value::Switch(match value.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => true,
            "0" | "false" | "no" | "off" => false,
            _ => {
                let text = format!("wants true or false, and is {}", quoted(&value));
                return Err(error(spec, &text));
            }
        }),
    })
}

fn error(spec: &Spec, text: &str) -> CommandError {
    CommandError::new(Trouble::Configuration, format!("{} {text}", spec.env))
}

fn unknown(name: &str) -> Option<String> {
    if OTHER_VARIABLES.contains(&name) {
        return None;
    }
    let nearest = nearest(name, SPECS.iter().map(|spec| spec.env))?;
    Some(format!("the environment variable {name} means nothing; the nearest is {nearest}"))
}
