//! `sango-train`: the training commands.

mod commands;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};
use sango_train::amused::evaluate::{EvaluateOptions, evaluate};
use sango_train::amused::export::export;
use sango_train::amused::patches::{PatchCodebook, PatchOptions};
use sango_train::amused::train::{self as transformer, TransformerOptions};
use sango_train::amused::vq_train::{self as vq, VqOptions};
use sango_train::clip::train::{self as clip, ClipOptions};

#[derive(Parser)]
#[command(version, about = "Trains the models of Sango on the shapes world.")]
struct Cli {
    #[command(subcommand)]
    model: Model,
}

#[derive(Subcommand)]
enum Model {
    /// aMUSEd: text to image.
    #[command(subcommand)]
    Amused(Stage),
    /// LTX-Video: text to video.
    #[command(subcommand)]
    LtxVideo(commands::ltx_video::Stage),
    /// SmolVLM2: video and questions to text.
    #[command(subcommand)]
    Smolvlm2(commands::smolvlm2::Stage),
}

#[derive(Args, Clone, Debug)]
struct Run {
    /// Folder of the run: checkpoints, logs and curves; a run that was stopped goes on from here.
    #[arg(long, default_value = "runs/amused")]
    dir: PathBuf,
    /// Everything random follows from this.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Threads of libtorch.
    #[arg(long, default_value_t = 1)]
    threads: i32,
}

#[derive(Subcommand)]
enum Stage {
    /// Learns the codebook from patches of pixels (seconds to a minute).
    Codebook {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: PatchOptions,
    },
    /// Trains the small CLIP whose text tower conditions the transformer (after nothing).
    Clip {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: ClipOptions,
    },
    /// Trains the VQ model (after `codebook`).
    Vq {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: VqOptions,
    },
    /// Trains the masked-token transformer (after `codebook` and `clip`).
    Transformer {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: TransformerOptions,
    },
    /// Writes the model as a Hugging Face folder.
    Export {
        #[command(flatten)]
        run: Run,
        /// The folder to write.
        #[arg(long, default_value = "models/shapes/amused")]
        out: PathBuf,
        /// Guidance of requests that name none.
        #[arg(long, default_value_t = 1.25)]
        guidance: f64,
    },
    /// Draws held-out prompts and lets the oracle judge.
    Evaluate {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: EvaluateOptions,
    },
    /// All of it, one after the other.
    All(Box<Everything>),
}

#[derive(Args)]
struct Everything {
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    codebook: PatchOptions,
    #[command(flatten)]
    clip: ClipOptions,
    #[command(flatten)]
    vq: VqOptions,
    #[command(flatten)]
    transformer: TransformerOptions,
    #[command(flatten)]
    evaluate: EvaluateOptions,
    /// The folder to write the finished model to.
    #[arg(long, default_value = "models/shapes/amused")]
    out: PathBuf,
}

fn main() -> Result<()> {
    match Cli::parse().model {
        Model::Amused(stage) => amused(stage),
        Model::LtxVideo(stage) => commands::ltx_video::run(stage),
        Model::Smolvlm2(stage) => commands::smolvlm2::run(stage),
    }
}

fn amused(stage: Stage) -> Result<()> {
    match stage {
        Stage::Codebook { run, options } => codebook(&start(run), &options),
        Stage::Clip { run, options } => clip::train(&options, run.seed, &start(run).dir),
        Stage::Vq { run, options } => vq::train(&options, run.seed, &start(run).dir).map(drop),
        Stage::Transformer { run, options } => transformer::train(&options, run.seed, &start(run).dir),
        Stage::Export { run, out, guidance } => export(&run.dir, &out, guidance),
        Stage::Evaluate { run, options } => evaluate(&options, run.seed, &start(run).dir).map(drop),
        Stage::All(all) => everything(&all),
    }
}

/// Applies the settings that hold for the whole process.
fn start(run: Run) -> Run {
    tch::set_num_threads(run.threads);
    run
}

fn codebook(run: &Run, options: &PatchOptions) -> Result<()> {
    let path = run.dir.join("codebook.safetensors");
    if path.exists() {
        println!("{} is there already", path.display());
        return Ok(());
    }
    PatchCodebook::learn(options, run.seed).save(&path)
}

fn everything(all: &Everything) -> Result<()> {
    let run = start(all.run.clone());
    let (seed, dir): (u64, &Path) = (run.seed, &run.dir);
    codebook(&run, &all.codebook)?;
    clip::train(&all.clip, seed, dir)?;
    let reconstructions = vq::train(&all.vq, seed, dir)?;
    ensure!(
        reconstructions.share() >= 0.9,
        "the VQ model is not good enough to go on ({reconstructions}): train it longer with --vq-steps"
    );
    transformer::train(&all.transformer, seed, dir)?;
    evaluate(&all.evaluate, seed, dir)?;
    export(dir, &all.out, all.transformer.guidance)
}
