//! `/v1/jobs` and `/v1/jobs/{id}`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sango_jobs::{ErrorKind, JobId, JobPage, JobView, ListParams, ListQuery};

use super::upload::read_submission;
use crate::error::ApiError;
use crate::state::AppState;

/// `POST /v1/jobs`.
pub(super) async fn submit(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let submission = read_submission(request, &state).await?;
    let submitted = state.call(move |engine| engine.submit(submission)).await?;
    let answered = !submitted.created || submitted.job.state.has_ended();
    let status = if answered { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = format!("/v1/jobs/{}", submitted.job.id);
    let mut response = (status, Json(submitted.job)).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `GET /v1/jobs`.
pub(super) async fn list(
    State(state): State<AppState>,
    params: Result<Query<ListParams>, QueryRejection>,
) -> Result<Json<JobPage>, ApiError> {
    let Query(params) = params.map_err(bad_query)?;
    let query = ListQuery::try_from(params)?;
    Ok(Json(state.call(move |engine| engine.list(&query)).await?))
}

/// `GET /v1/jobs/{id}`.
pub(super) async fn get(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<JobView>, ApiError> {
    let id: JobId = id.parse()?;
    Ok(Json(state.call(move |engine| engine.get(id)).await?))
}

/// `DELETE /v1/jobs/{id}`.
pub(super) async fn cancel(State(state): State<AppState>, Path(id): Path<String>) -> Result<Json<JobView>, ApiError> {
    let id: JobId = id.parse()?;
    Ok(Json(state.call(move |engine| engine.cancel(id)).await?))
}

pub(super) fn bad_query(rejection: QueryRejection) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, rejection.body_text())
}
