//! What jobs ask, by kind, and the checks that the kinds share.

pub(crate) mod image;
pub(crate) mod pipeline;
pub(crate) mod understand;
pub(crate) mod video;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::{ErrorKind, JobError};

/// Characters a prompt may have. CLIP reads 77 tokens, so this is far more than it uses.
pub const MAX_PROMPT_CHARS: usize = 2_000;
pub(crate) const MAX_NAME_CHARS: usize = 200;

pub(crate) fn check_prompt(field: &str, text: &str, what_to_do: &str) -> Result<(), JobError> {
    if text.trim().is_empty() {
        return Err(invalid(format!("`{field}` is empty: {what_to_do}")));
    }
    check_text(field, text)
}

pub(crate) fn check_text(field: &str, text: &str) -> Result<(), JobError> {
    let chars = text.chars().count();
    if chars > MAX_PROMPT_CHARS {
        let message = format!("`{field}` has {chars} characters, more than the {MAX_PROMPT_CHARS} allowed: shorten it");
        return Err(JobError::new(ErrorKind::TooLarge, message));
    }
    Ok(())
}

pub(crate) fn within<T: PartialOrd + std::fmt::Display>(
    field: &str,
    value: T,
    low: T,
    high: T,
) -> Result<(), JobError> {
    // Written so that NaN is outside.
    if value >= low && value <= high {
        return Ok(());
    }
    Err(invalid(format!("`{field}` is {value}, outside {low} to {high}")))
}

/// [`within`] for an option that may be left out.
pub(crate) fn option_within<T: PartialOrd + std::fmt::Display>(
    name: &str,
    value: Option<T>,
    low: T,
    high: T,
) -> Result<(), JobError> {
    value.map_or(Ok(()), |value| within(&format!("options.{name}"), value, low, high))
}

pub(crate) fn invalid(message: impl Into<String>) -> JobError {
    JobError::new(ErrorKind::InvalidOption, message)
}

pub(crate) fn decode_base64(field: &str, text: &str) -> Result<Vec<u8>, JobError> {
    // A page's FileReader gives `data:image/png;base64,…`.
    let data = match text.strip_prefix("data:") {
        Some(url) => url.split_once(";base64,").map_or("", |(_, data)| data),
        None => text,
    };
    match STANDARD.decode(data.trim()) {
        Ok(bytes) if !bytes.is_empty() => Ok(bytes),
        _ => Err(JobError::new(ErrorKind::InvalidMedia, format!("`{field}` is not a file in base64"))),
    }
}
