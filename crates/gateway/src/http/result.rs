//! Files of jobs: `GET /v1/jobs/{id}/result` and `GET /v1/jobs/{id}/media/{index}`, with ranges.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sango_jobs::{ErrorKind, JobId, JobKind, ResultFile};
use serde::Deserialize;
use tower_http::services::ServeFile;

use super::jobs::bad_query;
use crate::error::ApiError;
use crate::state::AppState;

#[derive(Debug, Deserialize)]
pub(super) struct Params {
    stage: Option<String>,
}

pub(super) async fn download(
    State(state): State<AppState>,
    Path(id): Path<String>,
    params: Result<Query<Params>, QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let id: JobId = id.parse()?;
    let Query(Params { stage }) = params.map_err(bad_query)?;
    let Some(stage) = stage else {
        let file = state.call(move |engine| engine.result(id)).await?;
        return serve(file, &format!("sango-{id}"), request).await;
    };
    let stage = JobKind::stage(&stage)?;
    let file = state.call(move |engine| engine.stage_result(id, stage)).await?;
    serve(file, &format!("sango-{id}-{}", stage.as_str()), request).await
}

pub(super) async fn media(
    State(state): State<AppState>,
    Path((id, index)): Path<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    let id: JobId = id.parse()?;
    let index = index.parse().map_err(|_| {
        ApiError::new(ErrorKind::NotFound, format!("`{index}` is not the number of a file: the first is 0"))
    })?;
    let file = state.call(move |engine| engine.media(id, index)).await?;
    serve(file, &format!("sango-{id}-{index}"), request).await
}

/// Answers with a file, called `name` and the extension of its type.
async fn serve(file: ResultFile, name: &str, mut request: Request) -> Result<Response, ApiError> {
    let etag = format!("\"{}\"", file.sha256);
    let headers = request.headers().clone();
    let is_etag = |name| headers.get(name).map(|value: &HeaderValue| value.as_bytes() == etag.as_bytes());
    if is_etag(header::IF_NONE_MATCH) == Some(true) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    // A download that goes on must be of the same bytes, else it starts anew.
    if is_etag(header::IF_RANGE) == Some(false) {
        request.headers_mut().remove(header::RANGE);
    }
    let wants_file = request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair == "download=1"));
    let disposition = if wants_file { "attachment" } else { "inline" };
    let extension = file.content_type.rsplit('/').next().unwrap_or("bin");
    let served = ServeFile::new(&file.path).try_call(request).await;
    let mut response = served
        .map_err(|error| ApiError::new(ErrorKind::Storage, format!("cannot read the file {name}: {error}")))?
        .map(Body::new);
    if response.status() == StatusCode::NOT_FOUND {
        return Err(ApiError::new(ErrorKind::Expired, format!("the file {name} has just been removed")));
    }
    let set = [
        (header::CONTENT_TYPE, file.content_type.clone()),
        (header::CONTENT_DISPOSITION, format!("{disposition}; filename=\"{name}.{extension}\"")),
        (header::ETAG, etag),
        // A job's files never change, but they can expire, and they are their owner's.
        (header::CACHE_CONTROL, "private, max-age=3600".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        // Somebody else has made what was uploaded: opened by itself it may do nothing but show.
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'; sandbox".to_owned(),
        ),
    ];
    for (name, value) in set {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}
