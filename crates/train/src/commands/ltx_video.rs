//! `sango-train ltx-video …`.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use sango_train::ltx_video::decoder_train::{self as decoder, DecoderOptions};
use sango_train::ltx_video::evaluate::{EvaluateOptions, evaluate};
use sango_train::ltx_video::export::{ExportOptions, export, import};
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
    /// Trains the VAE's decoder alone (after `vae`; may run beside `transformer`).
    Decoder {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: DecoderOptions,
    },
    /// Writes the model as a Hugging Face folder.
    Export {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: ExportOptions,
        /// The folder to write.
        #[arg(long, default_value = FOLDER)]
        out: PathBuf,
    },
    /// Takes up an exported folder in an empty run, to train its transformer or decoder further.
    Import {
        /// Folder of the run.
        #[arg(long, default_value = "runs/ltx_video")]
        dir: PathBuf,
        /// The Hugging Face folder to take up.
        #[arg(long, default_value = FOLDER)]
        model: PathBuf,
    },
    /// Draws held-out prompts with an exported folder and lets the oracle judge.
    Evaluate {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: EvaluateOptions,
        /// The Hugging Face folder to judge.
        #[arg(long, default_value = FOLDER)]
        model: PathBuf,
    },
    /// All of it, one after the other.
    All(Box<Everything>),
}

/// The folder of the shipped model.
const FOLDER: &str = "models/shapes/ltx_video";

#[derive(Args)]
pub struct Everything {
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    vae: VaeOptions,
    #[command(flatten)]
    text: TextOptions,
    #[command(flatten)]
    transformer: TransformerOptions,
    #[command(flatten)]
    decoder: DecoderOptions,
    #[command(flatten)]
    export: ExportOptions,
    #[command(flatten)]
    evaluate: EvaluateOptions,
    /// The folder to write the finished model to.
    #[arg(long, default_value = FOLDER)]
    out: PathBuf,
}

/// Runs one stage.
pub fn run(stage: Stage) -> Result<()> {
    match stage {
        Stage::Vae { run, options } => vae_train::train(&options, run.seed, &start(run).dir).map(drop),
        Stage::Text { run, options } => text::train(&options, run.seed, &start(run).dir),
        Stage::Transformer { run, options } => transformer::train(&options, run.seed, &start(run).dir),
        Stage::Decoder { run, options } => decoder::train(&options, run.seed, &start(run).dir),
        Stage::Export { run, options, out } => export(&options, &run.dir, &out, run.seed),
        Stage::Import { dir, model } => import(&model, &dir),
        Stage::Evaluate { run, options, model } => {
            let run = start(run);
            evaluate(&options, run.seed, &model, &run.dir).map(drop)
        }
        Stage::All(all) => everything(&all),
    }
}

fn everything(all: &Everything) -> Result<()> {
    let run = start(all.run.clone());
    let reconstructions = vae_train::train(&all.vae, run.seed, &run.dir)?;
    ensure!(
        reconstructions.share() >= 0.8,
        "the VAE is not good enough to go on ({reconstructions}): train it longer with --vae-minutes"
    );
    text::train(&all.text, run.seed, &run.dir)?;
    transformer::train(&all.transformer, run.seed, &run.dir)?;
    decoder::train(&all.decoder, run.seed, &run.dir)?;
    export(&all.export, &run.dir, &all.out, run.seed)?;
    // Once more, with the scores in the card.
    evaluate(&all.evaluate, run.seed, &all.out, &run.dir)?;
    export(&all.export, &run.dir, &all.out, run.seed)
}

/// Applies the settings that hold for the whole process.
fn start(run: Run) -> Run {
    tch::set_num_threads(run.threads);
    run
}
