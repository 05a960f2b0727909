//! A submission from a request body: JSON, or a form with files.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::multipart::{Multipart, MultipartError};
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use futures_util::StreamExt;
use sango_jobs::{ErrorKind, Submission};
use serde_json::Value;

use crate::error::ApiError;

/// Reads at most `limit` bytes.
pub(super) async fn read_submission(request: Request, limit: usize) -> Result<Submission, ApiError> {
    // A copy: a borrow of the request may not be held while it is read.
    let headers = request.headers().clone();
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let content_type = text(header::CONTENT_TYPE.as_str()).unwrap_or_default().to_ascii_lowercase();
    let key = text("idempotency-key");
    // Refused before it is kept, where the client says how much it will be.
    if text("content-length").and_then(|length| length.parse().ok()).is_some_and(|length: usize| length > limit) {
        discard(request.into_body(), limit).await;
        return Err(too_large(limit));
    }
    let mut submission = match content_type.split(';').next().unwrap_or("").trim() {
        "multipart/form-data" => from_form(request, limit).await?,
        "application/json" => {
            let body = to_bytes(request.into_body(), limit).await.map_err(|_| too_large(limit))?;
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

async fn from_form(request: Request, limit: usize) -> Result<Submission, ApiError> {
    let failed = |error: MultipartError| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(limit),
        _ => ApiError::new(ErrorKind::InvalidRequest, error.body_text()),
    };
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|rejection| ApiError::new(ErrorKind::InvalidRequest, rejection.body_text()))?;
    let (mut job, mut image, mut mask) = (None, None, None);
    while let Some(field) = form.next_field().await.map_err(failed)? {
        let name = field.name().unwrap_or("").to_owned();
        let part = match name.as_str() {
            "job" => &mut job,
            "image" => &mut image,
            "mask" => &mut mask,
            _ => {
                let message = format!("unknown part `{name}`: the parts are `job` (the JSON), `image` and `mask`");
                return Err(ApiError::new(ErrorKind::InvalidRequest, message));
            }
        };
        if part.replace(field.bytes().await.map_err(failed)?).is_some() {
            return Err(ApiError::new(ErrorKind::InvalidRequest, format!("two parts are named `{name}`")));
        }
    }
    let job: Bytes =
        job.ok_or_else(|| ApiError::new(ErrorKind::InvalidRequest, "the part `job` (the JSON) is missing"))?;
    let mut submission = Submission::from_json(parse(&job)?)?;
    // An empty part is what a page sends for a file field that was left empty.
    let file = |part: Option<Bytes>| part.filter(|bytes| !bytes.is_empty()).map(|bytes| bytes.to_vec());
    submission.image = file(image).or(submission.image);
    submission.mask = file(mask).or(submission.mask);
    Ok(submission)
}

/// Reads on without keeping anything: a client that is cut off while it sends never sees the answer. Not for ever,
/// though.
async fn discard(body: Body, limit: usize) {
    let mut left = limit.saturating_mul(2);
    let mut frames = body.into_data_stream();
    let reading = async {
        while let Some(Ok(bytes)) = frames.next().await {
            left = left.saturating_sub(bytes.len());
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

fn too_large(limit: usize) -> ApiError {
    ApiError::new(ErrorKind::TooLarge, format!("the body is over {limit} bytes: send smaller images"))
}
