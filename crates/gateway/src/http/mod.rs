//! The HTTP endpoints.

mod events;
mod jobs;
mod result;
mod system;
mod upload;

use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use sango_jobs::ErrorKind;

use crate::error::ApiError;
use crate::metrics;
use crate::state::AppState;

/// What lies below `/v1`.
pub(crate) fn v1() -> Router<AppState> {
    Router::new()
        .route("/jobs", get(jobs::list).post(jobs::submit))
        .route("/jobs/{id}", get(jobs::get).delete(jobs::cancel))
        .route("/jobs/{id}/events", get(events::stream))
        .route("/jobs/{id}/result", get(result::download))
        .route("/jobs/{id}/media/{index}", get(result::media))
        .route("/models", get(system::models))
}

/// What operators and programs look at.
pub(crate) fn system() -> Router<AppState> {
    Router::new()
        .route("/healthz", get(system::healthz))
        .route("/readyz", get(system::readyz))
        .route("/metrics", get(metrics::show))
        .route("/openapi.json", get(system::openapi))
}

/// An endpoint that exists, asked in another way.
pub(crate) async fn method_not_allowed(request: Request) -> ApiError {
    let message = format!("{} does not take {}: see /openapi.json", request.uri().path(), request.method());
    ApiError::new(ErrorKind::MethodNotAllowed, message)
}
