//! Errors as HTTP answers.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sango_jobs::{ErrorKind, JobError};

/// A [`JobError`] that axum can answer with: the status and code of the one table, and the body of the protocol.
#[derive(Debug)]
pub(crate) struct ApiError(pub(crate) JobError);

impl ApiError {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(JobError::new(kind, message))
    }
}

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        Self(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self(error) = self;
        let status = StatusCode::from_u16(error.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() && !matches!(error.kind, ErrorKind::QueueFull | ErrorKind::ShuttingDown) {
            tracing::error!(code = error.kind.code(), "{error}");
        }
        let mut response = (status, Json(error.body())).into_response();
        if matches!(error.kind, ErrorKind::QueueFull | ErrorKind::ShuttingDown) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}
