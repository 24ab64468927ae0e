//! Overrides from the environment: `NIGHTWATT_SECTION__KEY`.

use toml::{Table, Value};

use super::{ConfigError, shown};

/// A variable without the double underscore behind it is no override.
const PREFIX: &str = "NIGHTWATT_";

/// `section.key` of `NIGHTWATT_SECTION__KEY`.
pub(super) fn key_of(variable: &str) -> Option<String> {
    let key = variable.strip_prefix(PREFIX)?;
    let named = key.contains("__");
    named.then(|| key.to_lowercase().replace("__", "."))
}

/// Sets `section.key` from `NIGHTWATT_SECTION__KEY`; the text is TOML where it parses as TOML, else a string.
/// Whether it was such a variable.
pub(super) fn apply(table: &mut Table, name: &str, text: &str) -> Result<bool, ConfigError> {
    let Some(key) = key_of(name) else {
        return Ok(false);
    };
    let parts: Vec<&str> = key.split('.').collect();
    let parsed = format!("v = {text}")
        .parse::<Table>()
        .ok()
        .and_then(|mut t| t.remove("v"));
    let value = parsed.unwrap_or_else(|| Value::String(text.to_owned()));
    let mut at = table;
    for part in &parts[..parts.len() - 1] {
        at = at
            .entry(part.to_string())
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| ConfigError::Invalid {
                place: None,
                key: parts.join("."),
                value: Some(shown(&key, &value)),
                problem: format!("{name} goes into a section, but {part} is a value"),
            })?;
    }
    at.insert(parts[parts.len() - 1].to_owned(), value);
    Ok(true)
}
