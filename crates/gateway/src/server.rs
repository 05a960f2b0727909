//! From a configuration to a server that runs until it is told to stop.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use axum::routing::get;
use sango_jobs::worker::ModelRunner;
use sango_jobs::{EmbeddedConfig, EmbeddedEngine, Engine, JobError};
use sango_models::LoadOptions;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::state::AppState;
use crate::{channel, http, metrics, origin, studio};

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Where to listen. On a loopback address only this machine gets in, and a page of another site does not, even
    /// through a name that resolves to this machine.
    pub addr: SocketAddr,
    /// The models folder.
    pub models_dir: PathBuf,
    /// Where jobs, uploads and results are kept.
    pub data_dir: PathBuf,
    /// Runs at the same time.
    pub workers: usize,
    /// Jobs that may be queued or running.
    pub max_unfinished: u64,
    /// Largest socket message, and request body as far as it is kept in memory: two 20 MiB images in base64 fit.
    pub max_body_bytes: usize,
    /// Largest size of the `media` of one form, which go to disk as they come.
    pub max_media_bytes: u64,
    /// Pages of these origins (`https://studio.example`) may use the server besides its own page.
    pub allowed_origins: Vec<String>,
    /// How models are loaded.
    pub load: LoadOptions,
}

impl Default for ServeConfig {
    /// `127.0.0.1:4000`, `models`, `.sango`, one run at a time.
    fn default() -> Self {
        Self {
            addr: (Ipv4Addr::LOCALHOST, 4000).into(),
            models_dir: "models".into(),
            data_dir: ".sango".into(),
            workers: 1,
            max_unfinished: 256,
            max_body_bytes: 56 << 20,
            max_media_bytes: 1 << 30,
            allowed_origins: Vec::new(),
            load: LoadOptions::default(),
        }
    }
}

/// Why a server could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}; choose another with --addr, or stop what uses it")]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The job store cannot be opened.
    #[error(transparent)]
    Engine(#[from] JobError),
    /// The listener failed.
    #[error("the server stopped: {0}")]
    Stopped(#[from] io::Error),
}

/// Serves the models of a folder until `shutdown` resolves; running jobs are then marked as interrupted and run again at
/// the next start.
///
/// # Errors
/// As [`Server::bind`] and [`Server::run`].
pub async fn serve(config: ServeConfig, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
    let runner = Arc::new(ModelRunner::new(&config.models_dir, config.load.clone()));
    let engine_config = EmbeddedConfig {
        workers: config.workers,
        max_unfinished: config.max_unfinished,
        max_video_bytes: config.max_media_bytes,
        ..EmbeddedConfig::new(&config.data_dir)
    };
    let warm = Arc::clone(&runner);
    std::thread::spawn(move || {
        if let Err(error) = warm.warm() {
            tracing::warn!("{error}");
        }
    });
    let engine = EmbeddedEngine::open(engine_config, runner)?;
    let server = Server::bind(config, Arc::new(engine)).await?;
    tracing::info!("listening on http://{}", server.local_addr());
    server.run(shutdown).await
}

/// A server that listens, with an engine of the caller's choice.
pub struct Server {
    listener: TcpListener,
    addr: SocketAddr,
    app: Router,
    engine: Arc<dyn Engine>,
    close: watch::Sender<bool>,
}

impl Server {
    /// Listens on `config.addr` (port 0 takes a free one).
    ///
    /// # Errors
    /// [`ServeError::Listen`].
    pub async fn bind(config: ServeConfig, engine: Arc<dyn Engine>) -> Result<Self, ServeError> {
        let listening = async {
            let listener = TcpListener::bind(config.addr).await?;
            let addr = listener.local_addr()?;
            Ok((listener, addr))
        };
        let (listener, addr) = listening.await.map_err(|source| ServeError::Listen { addr: config.addr, source })?;
        let (close, closing) = watch::channel(false);
        let state = AppState {
            engine: Arc::clone(&engine),
            config: Arc::new(config),
            metrics: Arc::new(Metrics::default()),
            closing,
        };
        Ok(Self { listener, addr, app: app(state), engine, close })
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `shutdown` resolves, then shuts the engine down and lets requests in flight end.
    ///
    /// # Errors
    /// [`ServeError::Stopped`] when the listener fails.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        /// A client that does not hang up is not waited for any longer.
        const PATIENCE: Duration = Duration::from_secs(5);
        let Self { listener, app, engine, close, .. } = self;
        let (drain, mut draining) = watch::channel(false);
        let stop = async move {
            shutdown.await;
            tracing::info!("shutting down");
            // Sockets say goodbye; closing the engine ends the event streams.
            close.send_replace(true);
            if let Err(error) = tokio::task::spawn_blocking(move || engine.shutdown()).await {
                tracing::error!("the engine did not shut down in order: {error}");
            }
            drain.send_replace(true);
        };
        tokio::select! {
            ended = axum::serve(listener, app).with_graceful_shutdown(stop) => Ok(ended?),
            () = async {
                // An error means that the sender is gone: the server has ended, and the other branch says so.
                if draining.wait_for(|draining| *draining).await.is_ok() {
                    tokio::time::sleep(PATIENCE).await;
                } else {
                    std::future::pending::<()>().await;
                }
            } => Ok(()),
        }
    }
}

fn app(state: AppState) -> Router {
    Router::new()
        .nest("/v1", http::v1())
        .merge(http::system())
        .route("/socket/websocket", get(channel::upgrade))
        .fallback(studio::serve)
        .method_not_allowed_fallback(http::method_not_allowed)
        // `http::upload` counts by itself what it keeps in memory and what on disk; nothing else reads a body.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(state.clone(), origin::check))
        .layer(middleware::from_fn_with_state(state.clone(), metrics::count))
        .with_state(state)
}
