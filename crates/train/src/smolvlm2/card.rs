//! The model card: what made the model and how well it does, from the run's own logs.

use std::path::Path;

use anyhow::Result;

/// The text of `README.md` for the run in `dir`; nothing where it has not been evaluated.
///
/// # Errors
/// When a log is damaged.
pub fn write(_dir: &Path) -> Result<Option<String>> {
    Ok(None)
}
