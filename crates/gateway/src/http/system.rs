//! `/v1/models`, health and the description of all this.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::state::AppState;

/// Kept by hand beside `docs/protocol.md`; a test compares its paths with the router's.
const OPENAPI: &str = include_str!("../../../../docs/openapi.json");

pub(super) async fn models(State(state): State<AppState>) -> Result<Json<Value>, ApiError> {
    let models = state.call(|engine| engine.models()).await?;
    Ok(Json(json!({ "models": models })))
}

pub(super) async fn healthz() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

pub(super) async fn readyz(State(state): State<AppState>) -> Response {
    match state.call(|engine| engine.ready()).await {
        Ok(()) => Json(json!({"status": "ready"})).into_response(),
        Err(error) => ApiError(error).into_response(),
    }
}

pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}
