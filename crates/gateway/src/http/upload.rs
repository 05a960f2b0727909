//! A submission from a request body: JSON, or a form with files.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{FromRequest, Request};
use axum::http::header;
use futures_util::StreamExt;
use sango_jobs::{ErrorKind, MAX_MEDIA, Received, Submission, Upload};
use serde_json::Value;

use crate::error::ApiError;
use crate::state::AppState;

/// Bytes of a file that are gathered before they are written.
const WRITTEN_AT_ONCE: usize = 1 << 20;
/// A body that was refused is read on up to this size.
const MOST_DISCARDED: u64 = 64 << 20;

/// Reads a body: at most `max_body_bytes` of it into memory, and of a form's `media` at most `max_media_bytes`, to disk.
pub(super) async fn read_submission(request: Request, state: &AppState) -> Result<Submission, ApiError> {
    // A copy: a borrow of the request may not be held while it is read.
    let headers = request.headers().clone();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let content_type = text(header::CONTENT_TYPE.as_str()).unwrap_or_default().to_ascii_lowercase();
    let content_type = content_type.split(';').next().unwrap_or("").trim().to_owned();
    let key = text("idempotency-key");
    let in_memory = state.config.max_body_bytes as u64;
    let limit = match content_type.as_str() {
        "multipart/form-data" => in_memory + state.config.max_media_bytes,
        _ => in_memory,
    };
    // Refused before it is kept, where the client says how much it will be.
    if text("content-length").and_then(|length| length.parse().ok()).is_some_and(|length: u64| length > limit) {
        discard(request.into_body(), limit.min(MOST_DISCARDED)).await;
        return Err(too_large(limit));
    }
    let mut submission = match content_type.as_str() {
        "multipart/form-data" => Form::read(request, state).await?.submission()?,
        "application/json" => {
            let body = to_bytes(request.into_body(), in_memory as usize).await.map_err(|_| too_large(in_memory))?;
            Submission::from_json(parse(&body)?)?
        }
        other => {
            let message = format!("a job is application/json or multipart/form-data, not `{other}`");
            return Err(ApiError::new(ErrorKind::UnsupportedMediaType, message));
        }
    };
    if key.is_some() {
        submission.idempotency_key = key;
    }
    Ok(submission)
}

/// The parts of a form.
#[derive(Default)]
struct Form {
    job: Option<Vec<u8>>,
    image: Option<Vec<u8>>,
    mask: Option<Vec<u8>>,
    media: Vec<Upload>,
}

impl Form {
    async fn read(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let refuse = |message: String| ApiError::new(ErrorKind::InvalidRequest, message);
        let failed = |error: MultipartError| refuse(error.body_text());
        let mut parts =
            Multipart::from_request(request, &()).await.map_err(|rejection| refuse(rejection.body_text()))?;
        let mut form = Self::default();
        let (mut memory, mut disk) = (state.config.max_body_bytes as u64, state.config.max_media_bytes);
        while let Some(mut field) = parts.next_field().await.map_err(failed)? {
            let name = field.name().unwrap_or("").to_owned();
            let part = match name.as_str() {
                "job" => &mut form.job,
                "image" => &mut form.image,
                "mask" => &mut form.mask,
                "media" => {
                    if form.media.len() == MAX_MEDIA {
                        return Err(refuse(format!("more than {MAX_MEDIA} parts are named `media`")));
                    }
                    form.media.extend(receive(&mut field, state, &mut disk).await?.map(Upload::Received));
                    continue;
                }
                _ => {
                    let known = "the parts are `job` (the JSON), `image`, `mask` and `media`";
                    return Err(refuse(format!("unknown part `{name}`: {known}")));
                }
            };
            if part.is_some() {
                return Err(refuse(format!("two parts are named `{name}`")));
            }
            let bytes = part.insert(Vec::new());
            while let Some(chunk) = field.chunk().await.map_err(failed)? {
                memory = memory
                    .checked_sub(chunk.len() as u64)
                    .ok_or_else(|| too_large(state.config.max_body_bytes as u64))?;
                bytes.extend_from_slice(&chunk);
            }
        }
        Ok(form)
    }

    fn submission(self) -> Result<Submission, ApiError> {
        let missing = || ApiError::new(ErrorKind::InvalidRequest, "the part `job` (the JSON) is missing");
        let mut submission = Submission::from_json(parse(&self.job.ok_or_else(missing)?)?)?;
        // An empty part is what a page sends for a file field that was left empty.
        let file = |part: Option<Vec<u8>>| part.filter(|bytes| !bytes.is_empty());
        submission.image = file(self.image).or(submission.image);
        submission.mask = file(self.mask).or(submission.mask);
        submission.media.extend(self.media);
        Ok(submission)
    }
}

/// Writes a part to disk as it comes; `None` for an empty one. `left` is what all of them may have yet.
async fn receive(field: &mut Field<'_>, state: &AppState, left: &mut u64) -> Result<Option<Received>, ApiError> {
    let mut incoming = state.call(|engine| engine.receive()).await?;
    let mut gathered = Vec::with_capacity(WRITTEN_AT_ONCE);
    let mut empty = true;
    loop {
        let chunk = field.chunk().await;
        let chunk = chunk.map_err(|error| ApiError::new(ErrorKind::InvalidRequest, error.body_text()))?;
        let end = chunk.is_none();
        if let Some(chunk) = chunk {
            let size = chunk.len() as u64;
            *left = left.checked_sub(size).ok_or_else(|| too_large(state.config.max_media_bytes))?;
            empty &= chunk.is_empty();
            gathered.extend_from_slice(&chunk);
        }
        if !gathered.is_empty() && (end || gathered.len() >= WRITTEN_AT_ONCE) {
            // On a thread that may wait for the disk.
            let writing = state.call(move |_| {
                incoming.write(&gathered)?;
                gathered.clear();
                Ok((incoming, gathered))
            });
            (incoming, gathered) = writing.await?;
        }
        if end {
            return match empty {
                true => Ok(None),
                false => Ok(Some(state.call(move |_| incoming.finish()).await?)),
            };
        }
    }
}

/// Reads on without keeping anything: a client that is cut off while it sends never sees the answer. Not for ever,
/// though.
async fn discard(body: Body, limit: u64) {
    let mut left = limit.saturating_mul(2);
    let mut frames = body.into_data_stream();
    let reading = async {
        while let Some(Ok(bytes)) = frames.next().await {
            left = left.saturating_sub(bytes.len() as u64);
            if left == 0 {
                return;
            }
        }
    };
    // Whether it was all read or took too long, the answer is the same.
    let _ = tokio::time::timeout(Duration::from_secs(10), reading).await;
}

fn parse(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::new(ErrorKind::InvalidRequest, format!("not JSON: {error}")))
}

fn too_large(limit: u64) -> ApiError {
    ApiError::new(ErrorKind::TooLarge, format!("the body is over {limit} bytes: send smaller files"))
}
