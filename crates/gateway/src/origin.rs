//! Keeps pages of other sites out.
//!
//! A browser lets any page open a WebSocket to this machine and post forms to it, and says in `Origin` whose page it is.
//! A page can also be served under a name that its owner then points at 127.0.0.1 ("DNS rebinding"); `Host` tells.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sango_jobs::ErrorKind;

use crate::error::ApiError;
use crate::server::ServeConfig;
use crate::state::AppState;

/// Middleware for every request.
pub(crate) async fn check(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let reads_only = request.method().is_safe() && !request.headers().contains_key(header::UPGRADE);
    match allowed(&state.config, request.headers(), reads_only) {
        Ok(()) => next.run(request).await,
        Err(message) => ApiError::new(ErrorKind::ForbiddenOrigin, message).into_response(),
    }
}

fn allowed(config: &ServeConfig, headers: &HeaderMap, reads_only: bool) -> Result<(), String> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).unwrap_or("");
    if config.addr.ip().is_loopback() && !is_loopback(host) {
        return Err(format!("this server is only for its own machine, not for `{host}`: use --addr to open it"));
    }
    let Some(origin) = text(header::ORIGIN) else { return Ok(()) };
    let same = origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
    // What another site may read of a `GET` is the browser's to decide: without CORS headers, nothing.
    if reads_only || same || config.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
        return Ok(());
    }
    Err(format!("pages of `{origin}` may not use this server"))
}

/// Whether a `Host` header names this machine; a client so old that it sends none is no browser.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name.is_empty()
        || name.eq_ignore_ascii_case("localhost")
        || name.to_ascii_lowercase().ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(addr: &str, host: &str, origin: Option<&str>, reads_only: bool) -> bool {
        let config = ServeConfig {
            addr: addr.parse().unwrap(),
            allowed_origins: vec!["https://studio.example".into()],
            ..ServeConfig::default()
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, origin.parse().unwrap());
        }
        allowed(&config, &headers, reads_only).is_ok()
    }

    #[test]
    fn only_the_own_page_and_programs_may_write() {
        let local = "127.0.0.1:4000";
        assert!(check(local, "localhost:4000", None, false), "curl sends no origin");
        assert!(check(local, "localhost:4000", Some("http://localhost:4000"), false));
        assert!(check(local, "[::1]:4000", Some("http://[::1]:4000"), false));
        assert!(check(local, "127.0.0.1:4000", Some("https://studio.example"), false));
        assert!(!check(local, "127.0.0.1:4000", Some("https://evil.example"), false));
        assert!(!check(local, "127.0.0.1:4000", Some("http://127.0.0.1:9999"), false));
        assert!(!check(local, "127.0.0.1:4000", Some("null"), false), "a sandboxed frame");
        assert!(check(local, "127.0.0.1:4000", Some("https://evil.example"), true));
    }

    #[test]
    fn a_rebound_name_is_refused_unless_the_server_is_open() {
        assert!(!check("127.0.0.1:4000", "evil.example:4000", Some("http://evil.example:4000"), true));
        assert!(!check("127.0.0.1:4000", "localhost.evil.example", None, true));
        assert!(!check("[::1]:4000", "192.168.0.7:4000", None, true));
        assert!(check("0.0.0.0:4000", "sango.example", Some("https://sango.example"), false));
    }
}
