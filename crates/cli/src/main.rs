//! `sango`: pictures from words, a job server with a studio page, parity checks and benchmarks, in one binary.

mod args;
mod commands;
mod model_dir;
mod pixels;
mod report;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("SANGO_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,sango=info,sango_gateway=info")),
        )
        .with_writer(std::io::stderr)
        .init();
    let json = cli.json;
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::failure(&error, json);
            ExitCode::FAILURE
        }
    }
}
