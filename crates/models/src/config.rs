//! Reading `config.json` files, with errors that name the file and the key.

use std::path::{Path, PathBuf};

use sango_tensor::Activation;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{ModelError, Result};

/// Configurations are a few kilobytes; a much larger file is not one.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// A configuration with the file it came from.
pub(crate) struct Config<T> {
    pub(crate) path: PathBuf,
    pub(crate) value: T,
}

impl<T: DeserializeOwned> Config<T> {
    /// Reads `path`. Keys that `T` does not name are ignored, as `from_pretrained` ignores them.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), value: read_json(path)? })
    }

    /// As [`Config::read`], after checking that `_class_name` or `architectures`, where given, names `class`.
    pub(crate) fn read_class(path: &Path, class: &'static str) -> Result<Self> {
        let json: Value = read_json(path)?;
        let architectures = json["architectures"].as_array().and_then(|a| a.first());
        if let Some(found) = json["_class_name"].as_str().or(architectures.and_then(Value::as_str))
            && found != class
        {
            let detail = format!("is `{found}`; this part must be a `{class}`");
            return Err(ModelError::Config { path: path.to_owned(), field: "_class_name", detail });
        }
        Ok(Self { path: path.to_owned(), value: from_value(path, json)? })
    }
}

impl<T> Config<T> {
    /// An error about `field`.
    pub(crate) fn error(&self, field: &'static str, detail: impl Into<String>) -> ModelError {
        ModelError::Config { path: self.path.clone(), field, detail: detail.into() }
    }

    /// Checks that `value` is at least 1 and not absurd (so that products of sizes cannot overflow).
    pub(crate) fn positive(&self, field: &'static str, value: usize) -> Result<()> {
        if (1..=1 << 24).contains(&value) {
            return Ok(());
        }
        Err(self.error(field, format!("is {value}; it must be between 1 and {}", 1 << 24)))
    }

    /// Checks that `value` is a multiple of `of`, both positive.
    pub(crate) fn multiple(&self, field: &'static str, value: usize, what: &str, of: usize) -> Result<()> {
        self.positive(field, value)?;
        if of != 0 && value.is_multiple_of(of) {
            return Ok(());
        }
        Err(self.error(field, format!("is {value}, which is not a multiple of {what} ({of})")))
    }

    /// Checks that `value` equals `expected`, which comes from `what`.
    pub(crate) fn equal(&self, field: &'static str, value: usize, what: &str, expected: usize) -> Result<()> {
        if value == expected {
            return Ok(());
        }
        Err(self.error(field, format!("is {value}, but {what} is {expected}")))
    }

    /// Checks that a normalisation constant is a positive number.
    pub(crate) fn eps(&self, field: &'static str, value: f32) -> Result<()> {
        if value.is_finite() && value >= 0.0 {
            return Ok(());
        }
        Err(self.error(field, format!("is {value}; it must be a small positive number")))
    }
}

/// Reads a JSON file of moderate size.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_text(path)?;
    serde_json::from_str(&text).map_err(|source| json_error(path, source))
}

/// A part of the JSON file `path` as a configuration.
pub(crate) fn from_value<T: DeserializeOwned>(path: &Path, json: Value) -> Result<T> {
    serde_json::from_value(json).map_err(|source| json_error(path, source))
}

/// The activation that `transformers` calls `name` (`ACT2FN`), or what is wrong with it.
pub(crate) fn activation(name: &str) -> Result<Activation, String> {
    Ok(match name {
        "silu" | "swish" => Activation::Silu,
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate" => Activation::GeluTanh,
        "quick_gelu" => Activation::QuickGelu,
        "linear" => Activation::None,
        other => {
            let known = "silu, swish, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, quick_gelu and linear";
            return Err(format!("is \"{other}\"; known are {known}"));
        }
    })
}

/// Reads a text file of moderate size.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > MAX_JSON_BYTES {
        let detail = format!("{bytes} bytes are too many, at most {MAX_JSON_BYTES} are read");
        return Err(io(std::io::Error::new(std::io::ErrorKind::FileTooLarge, detail)));
    }
    std::fs::read_to_string(path).map_err(io)
}

fn json_error(path: &Path, source: serde_json::Error) -> ModelError {
    ModelError::Json { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_types_name_the_file() {
        let dir = std::env::temp_dir().join(format!("sango-config-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary folder");
        let path = dir.join("config.json");
        std::fs::write(&path, r#"{"_class_name": "VQModel"}"#).expect("written");
        let error = Config::<Value>::read_class(&path, "UVit2DModel").err().expect("another class");
        assert!(error.to_string().contains("must be a `UVit2DModel`"), "{error}");
        std::fs::write(&path, "{").expect("written");
        let error = read_json::<Value>(&path).expect_err("cut short");
        assert!(error.to_string().contains("config.json"), "{error}");
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
