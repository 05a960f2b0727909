//! `sango`: pictures and videos from words, answers about videos, a job server with a studio page, parity checks and benchmarks, in one binary.

mod args;
mod commands;
mod files;
mod model_dir;
mod pixels;
mod report;

use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    // `hf_hub` logs what the command then fails of. What a server tells its log, `pipeline` shows on the screen.
    let usual = match cli.command {
        args::Command::Pipeline(_) => "warn",
        _ => "warn,hf_hub=off,sango=info,sango_gateway=info",
    };
    let filter = EnvFilter::try_from_env("SANGO_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    // Escapes belong on a terminal, not in a log file.
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr).init();
    let json = cli.json;
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::failure(&error, json);
            ExitCode::FAILURE
        }
    }
}
