//! `sango-train ltx-video …`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use sango_train::ltx_video::text::train::{self as text, TextOptions};
use sango_train::ltx_video::train::{self as transformer, TransformerOptions};
use sango_train::ltx_video::vae_train::{self, VaeOptions};

#[derive(Args, Clone, Debug)]
pub struct Run {
    /// Folder of the run: checkpoints, logs and curves; a run that was stopped goes on from here.
    #[arg(long, default_value = "runs/ltx_video")]
    dir: PathBuf,
    /// Everything random follows from this.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Threads of libtorch.
    #[arg(long, default_value_t = 1)]
    threads: i32,
}

#[derive(Subcommand)]
pub enum Stage {
    /// Trains the video VAE (after nothing).
    Vae {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: VaeOptions,
    },
    /// Trains the text encoder (after nothing; a minute or two).
    Text {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: TextOptions,
    },
    /// Trains the transformer (after `vae` and `text`).
    Transformer {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: TransformerOptions,
    },
}

/// Runs one stage.
pub fn run(stage: Stage) -> Result<()> {
    match stage {
        Stage::Vae { run, options } => vae_train::train(&options, run.seed, &start(run).dir).map(drop),
        Stage::Text { run, options } => text::train(&options, run.seed, &start(run).dir),
        Stage::Transformer { run, options } => transformer::train(&options, run.seed, &start(run).dir),
    }
}

fn start(run: Run) -> Run {
    tch::set_num_threads(run.threads);
    run
}
