//! The Phoenix Channels V2 socket.

mod message;
mod socket;
mod topics;

use std::sync::atomic::Ordering;

use axum::extract::rejection::QueryRejection;
use axum::extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{Query, State};
use axum::response::Response;
use sango_jobs::ErrorKind;
use serde::Deserialize;

use crate::error::ApiError;
use crate::state::AppState;

#[derive(Debug, Deserialize)]
pub(crate) struct Params {
    vsn: Option<String>,
}

/// `GET /socket/websocket?vsn=2.0.0`.
pub(crate) async fn upgrade(
    State(state): State<AppState>,
    params: Result<Query<Params>, QueryRejection>,
    socket: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let refuse = |message: String| ApiError::new(ErrorKind::InvalidRequest, message);
    let Query(params) = params.map_err(|rejection| refuse(rejection.body_text()))?;
    // Version 1 has frames of another shape; only a client that says so speaks it.
    if let Some(vsn) = params.vsn.filter(|vsn| !vsn.starts_with("2.")) {
        return Err(refuse(format!("the socket speaks version 2.0.0 of Phoenix Channels, not {vsn}")));
    }
    let socket = socket.map_err(|rejection| refuse(rejection.body_text()))?;
    let limit = state.config.max_body_bytes;
    Ok(socket.max_message_size(limit).max_frame_size(limit).on_upgrade(move |socket| async move {
        state.metrics.sockets.fetch_add(1, Ordering::Relaxed);
        socket::run(socket, &state).await;
        state.metrics.sockets.fetch_sub(1, Ordering::Relaxed);
    }))
}
