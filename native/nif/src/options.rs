//! The options of `open/2`.

use std::fmt::Display;
use std::path::PathBuf;

use sango_jobs::{EmbeddedConfig, ErrorKind, JobError};
use serde::Deserialize;
use serde_json::Value;

/// How an engine is opened. What is `None` or missing takes the default.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    models_dir: String,
    data_dir: String,
    threads: Option<u64>,
    workers: Option<u64>,
    max_unfinished: Option<u64>,
    keep_jobs: Option<u64>,
    max_attempts: Option<u64>,
    max_video_bytes: Option<u64>,
    nice: Option<u64>,
}

/// Checked options.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Where the models are.
    pub(crate) models_dir: PathBuf,
    /// Threads of the kernels' pool; `None` leaves it as it is, at first one for each physical core.
    pub(crate) threads: Option<usize>,
    /// Niceness of the computing threads.
    pub(crate) niceness: i32,
    /// The engine's own.
    pub(crate) engine: EmbeddedConfig,
}

impl Options {
    /// Reads `models_dir`, `data_dir` and, unless the defaults are right, `threads` (0: all), `workers` (1), `max_unfinished`
    /// (256), `keep_jobs` (1,000), `max_attempts` (3),
    /// `max_video_bytes` (1 GiB) and `nice` (10).
    ///
    /// # Errors
    /// `invalid_request` for unknown names, missing ones and wrong types; `invalid_option` for values out of range.
    pub(crate) fn from_json(json: Value) -> Result<Self, JobError> {
        let refused =
            |why: &dyn Display| JobError::new(ErrorKind::InvalidRequest, format!("not options of an engine: {why}"));
        // A list would be read as the fields in their order.
        if !json.is_object() {
            return Err(refused(&"they are a map"));
        }
        let given: Given = serde_json::from_value(json).map_err(|error| refused(&error))?;
        let defaults = EmbeddedConfig::new(folder("data_dir", given.data_dir)?);
        let threads = within("threads", given.threads, 0, 256)?.unwrap_or(0) as usize;
        Ok(Self {
            models_dir: folder("models_dir", given.models_dir)?,
            threads: Some(threads).filter(|&threads| threads > 0),
            niceness: within("nice", given.nice, 0, 19)?.unwrap_or(10) as i32,
            engine: EmbeddedConfig {
                workers: within("workers", given.workers, 0, 64)?.map_or(defaults.workers, |workers| workers as usize),
                max_unfinished: within("max_unfinished", given.max_unfinished, 1, 1_000_000)?
                    .unwrap_or(defaults.max_unfinished),
                keep_jobs: within("keep_jobs", given.keep_jobs, 0, 1_000_000)?.unwrap_or(defaults.keep_jobs),
                max_attempts: within("max_attempts", given.max_attempts, 1, 100)?
                    .map_or(defaults.max_attempts, |attempts| attempts as u32),
                max_video_bytes: within("max_video_bytes", given.max_video_bytes, 1, 1 << 40)?
                    .unwrap_or(defaults.max_video_bytes),
                ..defaults
            },
        })
    }
}

fn within(name: &str, value: Option<u64>, low: u64, high: u64) -> Result<Option<u64>, JobError> {
    match value {
        Some(value) if !(low..=high).contains(&value) => {
            Err(invalid(format!("`{name}` is {value}, outside {low} to {high}")))
        }
        value => Ok(value),
    }
}

fn folder(name: &str, path: String) -> Result<PathBuf, JobError> {
    if path.is_empty() || path.contains('\0') {
        return Err(invalid(format!("`{name}` is not the path of a folder")));
    }
    Ok(path.into())
}

fn invalid(message: String) -> JobError {
    JobError::new(ErrorKind::InvalidOption, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_fewest_options_and_all_of_them() {
        let few = Options::from_json(json!({"models_dir": "m", "data_dir": "d", "nice": null})).unwrap();
        assert_eq!((few.threads, few.niceness, few.engine), (None, 10, EmbeddedConfig::new("d")));
        let all = Options::from_json(json!({
            "models_dir": "m", "data_dir": "d", "threads": 2, "workers": 0, "max_unfinished": 5, "keep_jobs": 0,
            "max_attempts": 1, "max_video_bytes": 9, "nice": 0
        }))
        .unwrap();
        let engine = EmbeddedConfig {
            workers: 0,
            max_unfinished: 5,
            keep_jobs: 0,
            max_attempts: 1,
            max_video_bytes: 9,
            ..EmbeddedConfig::new("d")
        };
        assert_eq!(all, Options { models_dir: "m".into(), threads: Some(2), niceness: 0, engine });
    }

    #[test]
    fn every_refusal_names_the_option() {
        for (name, value, kind) in [
            ("nice", json!(20), ErrorKind::InvalidOption),
            ("workers", json!(65), ErrorKind::InvalidOption),
            ("max_attempts", json!(0), ErrorKind::InvalidOption),
            ("data_dir", json!(""), ErrorKind::InvalidOption),
            ("models_dir", json!("a\u{0}b"), ErrorKind::InvalidOption),
            ("thread", json!(1), ErrorKind::InvalidRequest),
        ] {
            let mut options = json!({"models_dir": "m", "data_dir": "d"});
            options[name] = value;
            let error = Options::from_json(options).unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(name), "{error}");
        }
        let negative = json!({"models_dir": "m", "data_dir": "d", "nice": -1});
        assert_eq!(Options::from_json(negative).unwrap_err().kind, ErrorKind::InvalidRequest);
        assert!(Options::from_json(json!({"models_dir": "m"})).unwrap_err().message.contains("data_dir"));
        let list = json!(["m", "d", 1, 1, 1, 1, 1, 1]);
        assert_eq!(Options::from_json(list).unwrap_err().kind, ErrorKind::InvalidRequest);
    }
}
