//! The one error type of this crate.

use std::path::PathBuf;

use sango_media::MediaError;
use sango_tensor::TensorError;

/// `Result` with [`ModelError`].
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

/// Everything that can go wrong while loading or running a model.
///
/// Messages name the file or option, what was found and what would be accepted, so that they can be shown to a user as
/// they are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The folder is not a model this crate knows.
    #[error("{}: {detail}", dir.display())]
    UnknownModel {
        /// The folder.
        dir: PathBuf,
        /// What was found and what is known.
        detail: String,
    },
    /// A file could not be opened or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A JSON file is damaged or a value in it has the wrong type.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A configuration asks for something that this crate cannot run.
    #[error("{}: `{field}` {detail}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// The key in it.
        field: &'static str,
        /// The value that was found, and what is accepted.
        detail: String,
    },
    /// The tokenizer's files do not make a tokenizer.
    #[error("{}: {detail}", path.display())]
    Tokenizer {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// An option of a request is missing or out of range.
    #[error("`{field}` {detail}")]
    Request {
        /// Name of the option.
        field: &'static str,
        /// The value that was found, and what is accepted.
        detail: String,
    },
    /// A request needs more memory than it may use.
    #[error(
        "the request needs about {} GB of memory ({parts}), but only {} GB may be used; {advice}",
        gigabytes(*needed),
        gigabytes(*budget)
    )]
    Memory {
        /// Bytes that are needed at the peak.
        needed: u64,
        /// Bytes that may be used.
        budget: u64,
        /// What the bytes are for.
        parts: String,
        /// What to change.
        advice: String,
    },
    /// Weights are missing or damaged, or tensors do not fit each other.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A picture or a video could not be read.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The model computed something that is not a number, which damaged weights do.
    #[error(
        "step {step}: the model's output is not a number; its weights may be damaged, so download or export them again"
    )]
    NotFinite {
        /// The step, from 1.
        step: usize,
    },
    /// A part of a model computed something that is not a number, which damaged weights do.
    #[error("the {part}'s output is not a number; its weights may be damaged, so download or export them again")]
    PartNotFinite {
        /// The part, in words.
        part: &'static str,
    },
    /// The step callback asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Bytes as gigabytes with one digit, rounded up so that nothing needs 0.
fn gigabytes(bytes: u64) -> String {
    format!("{:.1}", (bytes as f64 / 1e8).ceil() / 10.0)
}

impl ModelError {
    pub(crate) fn request(field: &'static str, detail: impl Into<String>) -> Self {
        Self::Request { field, detail: detail.into() }
    }
}
