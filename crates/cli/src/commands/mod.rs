//! One module a subcommand.

mod bench;
mod doctor;
mod image;
mod models;
mod parity;
mod pipeline;
mod pull;
mod serve;
mod understand;
mod video;

use crate::args::{BenchCommand, Cli, Command};

/// Runs the parsed command.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    if let Some(threads) = cli.threads {
        anyhow::ensure!(threads > 0, "--threads must be at least 1");
        sango_kernels::pool::set_num_threads(threads);
    }
    match cli.command {
        Command::Understand(args) => understand::run(&args, cli.json),
        Command::Image(args) => image::run(&args, cli.json),
        Command::Video(args) => video::run(&args, cli.json),
        Command::Pipeline(args) => pipeline::run(&args, cli.json),
        Command::Serve(args) => serve::run(args),
        Command::Models(command) => models::run(command, cli.json),
        Command::Parity(args) => parity::run(&args, cli.json),
        Command::Bench(BenchCommand::Image(args)) => bench::image(&args, cli.json),
        Command::Bench(BenchCommand::Understand(args)) => bench::understand::run(&args, cli.json),
        Command::Bench(BenchCommand::Video(args)) => bench::video::run(&args, cli.json),
        Command::Doctor(args) => doctor::run(&args, cli.json),
    }
}
