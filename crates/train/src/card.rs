//! What the model cards have in common.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::files::read_json;

/// The rows of a card's table of stages: their options, steps and time, from the logs of the run in `dir`.
pub(crate) fn stage_rows(dir: &Path, stages: &[&str]) -> Result<String> {
    stages.iter().map(|stage| stage_row(dir, stage, stage, "")).collect()
}

/// One such row, under the name `shown`, with something said `before` the options.
pub(crate) fn stage_row(dir: &Path, stage: &str, shown: &str, before: &str) -> Result<String> {
    let (steps, seconds) = spent(dir, stage)?;
    let options: Value = read_json(&dir.join(format!("{stage}.options.json")))?;
    let named = options.as_object().into_iter().flatten();
    let given = named.filter(|(_, value)| !value.is_null() && **value != Value::Bool(false));
    let options: Vec<String> = given.map(|(name, value)| option(name, value)).collect();
    Ok(format!("| {shown} | {before}{} | {steps} | {:.0} min |\n", options.join(" "), seconds / 60.0))
}

fn option(name: &str, value: &Value) -> String {
    let name = name.replace('_', "-");
    match value {
        Value::Bool(_) => format!("`--{name}`"),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(Value::to_string).collect();
            format!("`--{name} {}`", items.join(","))
        }
        _ => format!("`--{name} {value}`"),
    }
}

/// Steps and seconds of a stage, from the last line of its log.
fn spent(dir: &Path, stage: &str) -> Result<(u64, f64)> {
    let path = dir.join(format!("{stage}.jsonl"));
    let log = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let last = log.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
    let value = |name: &str| last.as_ref().and_then(|v| v[name].as_f64()).unwrap_or(0.0);
    Ok((value("step") as u64, value("seconds")))
}
