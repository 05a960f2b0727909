//! `sango serve`: the gateway in this process.

use crate::args::ServeArgs;
use crate::model_dir;
use anyhow::Context;
use sango_gateway::ServeConfig;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

/// Serves until interrupted (Ctrl-C or SIGTERM), then lets running jobs be marked for retry.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    let models = model_dir::models_dir(args.models_dir.models.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the server's threads")?;
    runtime.block_on(async {
        let config = ServeConfig { addr: args.addr, models_dir: models, data_dir: args.data, ..ServeConfig::default() };
        if args.open {
            open_when_ready(args.addr);
        }
        sango_gateway::serve(config, interrupted()).await?;
        anyhow::Ok(())
    })
}

/// Resolves on the first Ctrl-C or SIGTERM.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let ctrl_c = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! { _ = ctrl_c => (), _ = terminate.recv() => () },
        Err(_) => drop(ctrl_c.await),
    }
}

/// Opens the page once the port answers; where no browser can be opened, the printed address is enough.
fn open_when_ready(addr: SocketAddr) {
    tokio::spawn(async move {
        for _ in 0..100 {
            if tokio::net::TcpStream::connect(addr).await.is_ok() {
                let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
                let page = format!("http://{addr}/");
                let _ = Command::new(opener).arg(page).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
}
