//! The JSON files of runs and models.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

/// Reads a JSON file of a run.
///
/// # Errors
/// When it is missing (the stage that writes it has not run) or of another form.
pub fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("reading {}: run the stage that writes it first", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

/// Writes a JSON file, making its folder if need be.
///
/// # Errors
/// When it cannot be written.
pub fn write_json(path: &Path, value: &Value) -> Result<()> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let text = format!("{}\n", serde_json::to_string_pretty(value)?);
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
