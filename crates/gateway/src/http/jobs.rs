//! `/v1/jobs` and `/v1/jobs/{id}`.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sango_jobs::{ErrorKind, JobId, JobPage, JobView, ListQuery};
use serde::Deserialize;

use super::upload::read_submission;
use crate::error::ApiError;
use crate::state::AppState;

/// `?state=&limit=&before=`, and the payload of `list` on the socket.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ListParams {
    state: Option<String>,
    limit: Option<u32>,
    before: Option<String>,
}

impl ListParams {
    pub(crate) fn query(self) -> Result<ListQuery, ApiError> {
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        let limit = self.limit.unwrap_or(50);
        if !(1..=ListQuery::MAX_LIMIT).contains(&limit) {
            let message = format!("`limit` is {limit}, outside 1 to {}", ListQuery::MAX_LIMIT);
            return Err(ApiError::new(ErrorKind::InvalidOption, message));
        }
        Ok(ListQuery {
            state: filled(self.state).map(|state| state.parse()).transpose()?,
            limit,
            before: filled(self.before).map(|id| id.parse()).transpose()?,
        })
    }
}

/// `POST /v1/jobs`.
pub(super) async fn submit(State(state): State<AppState>, request: Request) -> Result<Response, ApiError> {
    let submission = read_submission(request, state.config.max_body_bytes).await?;
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
    let query = params.query()?;
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
