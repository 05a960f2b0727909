//! The axum server: HTTP, the Phoenix Channels V2 socket and the studio page.
