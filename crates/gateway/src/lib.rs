//! The axum server: HTTP, the Phoenix Channels V2 socket and the studio page. `docs/protocol.md` says what it speaks.
//!
//! ```no_run
//! # async fn example() -> Result<(), sango_gateway::ServeError> {
//! use sango_gateway::{ServeConfig, serve};
//!
//! let config = ServeConfig { models_dir: "models".into(), ..ServeConfig::default() };
//! serve(config, async { drop(tokio::signal::ctrl_c().await) }).await
//! # }
//! ```

mod channel;
mod error;
mod http;
mod metrics;
mod origin;
mod server;
mod state;
mod studio;

pub use server::{ServeConfig, ServeError, Server, serve};
