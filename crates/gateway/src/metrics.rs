//! `/metrics`: what Prometheus reads.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sango_jobs::Stats;

use crate::error::ApiError;
use crate::state::AppState;

/// Counts of this process.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    /// Answers by status.
    answers: Mutex<BTreeMap<u16, u64>>,
    /// Open sockets.
    pub(crate) sockets: AtomicI64,
}

/// Middleware that counts answers.
pub(crate) async fn count(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let mut answers = state.metrics.answers.lock().unwrap_or_else(PoisonError::into_inner);
    *answers.entry(response.status().as_u16()).or_default() += 1;
    drop(answers);
    response
}

/// `GET /metrics`.
pub(crate) async fn show(State(state): State<AppState>) -> Result<Response, ApiError> {
    let stats = state.call(|engine| engine.stats()).await?;
    let text = state.metrics.text(&stats);
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

impl Metrics {
    fn text(&self, stats: &Stats) -> String {
        let mut text = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, values: &[(String, String)]| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let plain = |value: u64| [(String::new(), value.to_string())];
        let states: Vec<_> = stats
            .jobs
            .iter()
            .map(|(state, count)| (format!("{{state=\"{}\"}}", state.as_str()), count.to_string()))
            .collect();
        metric("sango_jobs", "gauge", "Stored jobs by state.", &states);
        metric("sango_jobs_submitted_total", "counter", "Jobs taken in.", &plain(stats.submitted));
        metric("sango_jobs_refused_total", "counter", "Jobs refused by a full queue.", &plain(stats.refused));
        metric("sango_cache_hits_total", "counter", "Jobs answered by a finished one.", &plain(stats.cache_hits));
        metric("sango_jobs_shared_total", "counter", "Jobs that joined a run in flight.", &plain(stats.shared));
        metric("sango_runs_total", "counter", "Runs begun.", &plain(stats.runs));
        let seconds = format!("{:.3}", stats.run_ms as f64 / 1e3);
        let run = [("_sum".into(), seconds), ("_count".into(), stats.run_count.to_string())];
        metric("sango_run_seconds", "summary", "Time that runs took.", &run);
        metric("sango_tokens_total", "counter", "Tokens of answers.", &plain(stats.tokens));
        let seconds = format!("{:.3}", stats.first_token_ms as f64 / 1e3);
        let first = [("_sum".into(), seconds), ("_count".into(), stats.first_token_count.to_string())];
        metric("sango_first_token_seconds", "summary", "Time from the start of a run to its first token.", &first);
        metric("sango_subscriptions", "gauge", "Listeners to jobs in flight.", &plain(stats.feeds));
        let sockets = self.sockets.load(Ordering::Relaxed).to_string();
        metric("sango_sockets", "gauge", "Open sockets.", &[(String::new(), sockets)]);
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let answers: Vec<_> =
            answers.iter().map(|(status, count)| (format!("{{status=\"{status}\"}}"), count.to_string())).collect();
        metric("sango_http_requests_total", "counter", "HTTP answers by status.", &answers);
        text
    }
}
