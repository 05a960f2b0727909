//! `GET /v1/jobs/{id}/events`: Server-Sent Events.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use sango_jobs::JobId;
use serde::Deserialize;

use super::jobs::bad_query;
use crate::error::ApiError;
use crate::state::AppState;

#[derive(Debug, Deserialize)]
pub(super) struct Params {
    after: Option<u64>,
}

pub(super) async fn stream(
    State(state): State<AppState>,
    Path(id): Path<String>,
    params: Result<Query<Params>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id: JobId = id.parse()?;
    let Query(params) = params.map_err(bad_query)?;
    // A browser that reconnects repeats the address and adds how far it got.
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).and_then(|n| n.parse().ok());
    let after = last.or(params.after).unwrap_or(0);
    let (job, subscription) = state.call(move |engine| Ok((engine.get(id)?, engine.subscribe(id, after)?))).await?;
    if job.state.has_ended() && after >= job.last_event {
        // The one answer after which an `EventSource` does not come back.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let events = stream::unfold(subscription, |mut subscription| async {
        let event = subscription.next().await?;
        let text = serde_json::json!(*event).to_string();
        let sse = Event::default().id(event.n.to_string()).event(event.event.as_str()).data(text);
        Some((Ok::<_, Infallible>(sse), subscription))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response())
}
