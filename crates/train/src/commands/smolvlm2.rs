//! `sango-train smolvlm2 …`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, Subcommand};
use sango_train::smolvlm2::config::SmolVlmConfig;
use sango_train::smolvlm2::evaluate::{EvaluateOptions, evaluate};
use sango_train::smolvlm2::export::export;
use sango_train::smolvlm2::lora_train::{self, LoraOptions};
use sango_train::smolvlm2::tokenizer::ShapesTokenizer;
use sango_train::smolvlm2::train::{self, TrainOptions};
use sango_train::smolvlm2::vision_train::{self, VisionOptions};

#[derive(Args, Clone, Debug)]
pub struct Run {
    /// Folder of the run: checkpoints, logs and curves; a run that was stopped goes on from here.
    #[arg(long, default_value = "runs/smolvlm2")]
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
    /// Learns the byte-level BPE tokenizer from everything the world says (seconds).
    Tokenizer {
        #[command(flatten)]
        run: Run,
    },
    /// Trains the vision tower and the connector to see (after nothing).
    Vision {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: VisionOptions,
    },
    /// Trains the whole model on questions and answers (after `tokenizer` and `vision`).
    Train {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: TrainOptions,
    },
    /// Writes the model as a Hugging Face folder.
    Export {
        #[command(flatten)]
        run: Run,
        /// The folder to write.
        #[arg(long, default_value = "models/shapes/smolvlm2")]
        out: PathBuf,
    },
    /// Renders held-out stories to MP4, asks about them, and lets the judge decide.
    Evaluate {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: EvaluateOptions,
        /// The Hugging Face folder to judge.
        #[arg(long, default_value = "models/shapes/smolvlm2")]
        model: PathBuf,
    },
    /// Tunes any SmolVLM2 folder with low-rank adapters, and writes them as PEFT does.
    Lora {
        #[command(flatten)]
        run: Run,
        #[command(flatten)]
        options: Box<LoraOptions>,
        /// The folder to write the adapter to.
        #[arg(short, long)]
        out: PathBuf,
    },
    /// All of it, one after the other.
    All(Box<Everything>),
}

#[derive(Args)]
pub struct Everything {
    #[command(flatten)]
    run: Run,
    #[command(flatten)]
    vision: VisionOptions,
    #[command(flatten)]
    train: TrainOptions,
    #[command(flatten)]
    evaluate: EvaluateOptions,
    /// The folder to write the finished model to.
    #[arg(long, default_value = "models/shapes/smolvlm2")]
    out: PathBuf,
}

/// Runs one command.
pub fn run(stage: Stage) -> Result<()> {
    match stage {
        Stage::Tokenizer { run } => tokenizer(&run.dir).map(drop),
        Stage::Vision { run, options } => vision(&start(run), &options),
        Stage::Train { run, options } => {
            tokenizer(&run.dir)?;
            let run = start(run);
            train::train(&options, run.seed, &run.dir)
        }
        Stage::Export { run, out } => export(&run.dir, &out, run.seed),
        Stage::Evaluate { run, options, model } => evaluate(&options, &model, &start(run).dir).map(drop),
        Stage::Lora { run, options, out } => {
            let run = start(run);
            lora_train::train(&options, run.seed, &run.dir, &out)
        }
        Stage::All(all) => {
            let run = start(all.run);
            vision(&run, &all.vision)?;
            train::train(&all.train, run.seed, &run.dir)?;
            export(&run.dir, &all.out, run.seed)?;
            // Once more, with the scores in the card.
            evaluate(&all.evaluate, &all.out, &run.dir)?;
            export(&run.dir, &all.out, run.seed)
        }
    }
}

/// Applies the settings that hold for the whole process.
fn start(run: Run) -> Run {
    tch::set_num_threads(run.threads);
    run
}

fn tokenizer(dir: &Path) -> Result<ShapesTokenizer> {
    let path = dir.join("tokenizer.json");
    if path.exists() {
        return ShapesTokenizer::load(&path);
    }
    let tokenizer = ShapesTokenizer::learn()?;
    tokenizer.save(dir, 2048)?;
    println!("{} tokens", tokenizer.vocab_size());
    Ok(tokenizer)
}

fn vision(run: &Run, options: &VisionOptions) -> Result<()> {
    let tokenizer = tokenizer(&run.dir)?;
    let config = SmolVlmConfig::shapes(tokenizer.vocab_size(), tokenizer.image);
    vision_train::train(options, &config, run.seed, &run.dir)
}
