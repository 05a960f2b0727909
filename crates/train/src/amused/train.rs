//! Masked-token training of the transformer.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use sango_shapes::{Place, Prompt, split};
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Reduction, Tensor};

use super::patches::PatchCodebook;
use super::sampler::{Sampling, sample};
use super::text::TextCache;
use super::tokens::{TokenData, mask_cells};
use super::uvit_2d::{UVit2DModel, UVitConfig};
use super::vq_model::VqModel;
use crate::checkpoint::{self, State};
use crate::clip::model::ClipConfig;
use crate::data::{mix, save_sheet, to_rgb};
use crate::judge::{self, Tally};
use crate::optim::{AdamW, Optimizer, Schedule};
use crate::report::Report;

/// Picture size in pixels.
pub const SIZE: i64 = 64;
/// Pixels along an edge of a cell of the token grid.
pub const CELL: i64 = 8;

/// How to train the transformer.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct TransformerOptions {
    /// Steps in all.
    #[arg(long, default_value_t = 10_000)]
    pub steps: u64,
    /// Stop after this many minutes of training (checked against the log, resumes included); the rate then falls
    /// with the time instead of the steps.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Pictures per step.
    #[arg(long, default_value_t = 64)]
    pub batch: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1.2e-3)]
    pub rate: f64,
    /// Pictures rendered and encoded before training.
    #[arg(long, default_value_t = 16_384)]
    pub pictures: usize,
    /// How far objects stray from the grid of tokens, 0–1 of what the world allows.
    #[arg(long, default_value_t = 0.2)]
    pub jitter: f32,
    /// Width of the model.
    #[arg(long, default_value_t = 192)]
    pub hidden: i64,
    /// Transformer layers.
    #[arg(long, default_value_t = 4)]
    pub layers: i64,
    /// Convolution blocks before and after them.
    #[arg(long, default_value_t = 1)]
    pub res_blocks: i64,
    /// Keep the grid as it is inside the model instead of halving it.
    #[arg(long)]
    pub no_downsample: bool,
    /// Fix embedding and output weight of each code to what the code looks like instead of learning them freely.
    #[arg(long)]
    pub fixed_codes: bool,
    /// Compute in f32 instead of bf16.
    #[arg(long)]
    pub f32: bool,
    /// Share of the target spread over all codes.
    #[arg(long, default_value_t = 0.0)]
    pub label_smoothing: f64,
    /// Steps between evaluations.
    #[arg(long, default_value_t = 1000)]
    pub evaluate_every: u64,
    /// Guidance of the evaluations.
    #[arg(long, default_value_t = 1.25)]
    pub guidance: f64,
}

impl TransformerOptions {
    /// The model that these options ask for.
    pub fn config(&self, codes: i64, clip: &ClipConfig) -> UVitConfig {
        UVitConfig {
            hidden_size: self.hidden,
            cond_embed_dim: clip.projection_dim,
            micro_cond_encode_dim: 32,
            micro_cond_embed_dim: 160,
            encoder_hidden_size: clip.hidden_size,
            vocab_size: codes + 1,
            codebook_size: codes,
            in_channels: self.hidden,
            block_out_channels: self.hidden,
            num_res_blocks: self.res_blocks,
            downsample: !self.no_downsample,
            upsample: !self.no_downsample,
            block_num_heads: self.hidden / 32,
            num_hidden_layers: self.layers,
            num_attention_heads: self.hidden / 32,
            intermediate_size: self.hidden * 2,
            sample_size: SIZE / CELL,
        }
    }

    fn kind(&self) -> Kind {
        if self.f32 { Kind::Float } else { Kind::BFloat16 }
    }
}

/// The model in training, with all its state.
#[derive(Debug)]
pub struct TransformerTrainer {
    options: TransformerOptions,
    config: UVitConfig,
    seed: u64,
    vs: VarStore,
    model: UVit2DModel,
    optimizer: Optimizer,
    text: TextCache,
    book: PatchCodebook,
    data: TokenData,
    dir: PathBuf,
    step: u64,
}

impl TransformerTrainer {
    /// A fresh model on the codebook and the text tower in `dir`.
    ///
    /// # Errors
    /// When one of them is missing or the options do not fit.
    pub fn new(options: &TransformerOptions, seed: u64, dir: &Path) -> Result<Self> {
        ensure!(options.hidden % 32 == 0, "--hidden must be a multiple of 32 (the size of a head)");
        let book = PatchCodebook::load(&dir.join("codebook.safetensors"))?;
        let mut text = TextCache::open(dir, SIZE)?;
        let data = TokenData::build(&book, &mut text, seed, options.pictures, SIZE as usize, options.jitter);
        tch::manual_seed(mix(seed, 0) as i64);
        let config = options.config(book.patches.size()[0], &ClipConfig::default());
        let vs = VarStore::new(Device::Cpu);
        let mut model = UVit2DModel::new(&vs.root(), &config, options.kind());
        if options.fixed_codes {
            model.fix_codes(&book.features(config.in_channels));
        }
        let settings = AdamW { weight_decay: 0.02, ema: 0.999, beta2: 0.98, ..AdamW::default() };
        let optimizer = Optimizer::new(&vs, settings, options.kind())?;
        Ok(Self {
            options: options.clone(),
            config,
            seed,
            vs,
            model,
            optimizer,
            text,
            book,
            data,
            dir: dir.to_owned(),
            step: 0,
        })
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.optimizer.len()
    }

    /// One update at the given rate; returns the loss and the gradient's norm.
    pub fn train_step(&mut self, rate: f64) -> (f64, f64) {
        tch::manual_seed(mix(self.seed, self.step + 1) as i64);
        let (tokens, rows) = self.data.batch(self.seed, self.step, self.options.batch);
        let (ids, masked) = mask_cells(&tokens, self.model.mask_token());
        let logits = self.model.forward(&ids, &self.text.condition(&rows));
        let loss = masked_loss(&logits, &tokens, &masked, self.options.label_smoothing);
        let norm = self.optimizer.step(&loss, rate);
        self.step += 1;
        (loss.double_value(&[]), norm)
    }

    /// Draws `prompts` with the averaged weights and lets the oracle judge; the pictures come along.
    ///
    /// They are decoded by the VQ model of the run as far as it is trained. Before it has left anything, the patches of
    /// the codes are pasted together, which shows outlines but not what is behind them.
    pub fn evaluate(&mut self, prompts: &[Prompt], sampling: &Sampling) -> (Tally, Vec<Vec<u8>>) {
        tch::manual_seed(mix(self.seed, 41) as i64);
        let captions: Vec<String> = prompts.iter().map(Prompt::caption).collect();
        let condition = self.text.conditions(&captions);
        let empty = self.text.empty(prompts.len() as i64);
        let (model, book) = (&self.model, &self.book);
        let tokens = self.optimizer.with_average(|| sample(model, &condition, &empty, sampling));
        let pixels = match VqModel::open(&self.dir) {
            Ok((vq, config)) => vq.detokenize(&tokens.view([-1, config.grid(), config.grid()])),
            Err(_) => book.paste(&tokens),
        };
        let rgb = to_rgb(&pixels);
        (judge::tally(prompts, &rgb, SIZE as usize), rgb)
    }

    fn state(&self) -> State {
        let mut state = self.optimizer.state("model");
        state.push(("step".into(), Tensor::from_slice(&[self.step as i64])));
        state
    }

    /// Writes everything the next step depends on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        checkpoint::save(path, &self.state())
    }

    /// Continues from what [`TransformerTrainer::save`] wrote.
    ///
    /// # Errors
    /// When the file is missing or of another model.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let state = checkpoint::load(path)?;
        self.optimizer.restore("model", &state)?;
        self.step = checkpoint::get(&state, "step")?.int64_value(&[0]) as u64;
        Ok(())
    }

    /// The weights to ship and their configuration.
    pub fn export(&self) -> (UVitConfig, State) {
        let mut weights = self.optimizer.averaged();
        let fixed = self.vs.variables().into_iter().filter(|(_, t)| !t.requires_grad());
        weights.extend(fixed.map(|(name, t)| (name, t.to_kind(Kind::Float).copy())));
        weights.sort_by(|a, b| a.0.cmp(&b.0));
        (self.config.clone(), weights)
    }
}

/// Cross-entropy of the masked cells alone.
fn masked_loss(logits: &Tensor, tokens: &Tensor, masked: &Tensor, label_smoothing: f64) -> Tensor {
    let rows = masked.reshape([-1]).nonzero().squeeze_dim(-1);
    let logits = logits.flatten(0, 1).index_select(0, &rows);
    let targets = tokens.reshape([-1]).index_select(0, &rows);
    let none: Option<&Tensor> = None;
    logits.cross_entropy_loss(&targets, none, Reduction::Mean, -100, label_smoothing)
}

/// `n` of the held-out prompts, evenly spread.
pub fn held_out(n: usize) -> Vec<Prompt> {
    let all = split::held_out_prompts();
    let n = n.min(all.len());
    (0..n).map(|i| all[i * all.len() / n]).collect()
}

/// `n` prompts of combinations that training shows, evenly spread.
pub fn trained_on(n: usize) -> Vec<Prompt> {
    let all = split::train_combinations();
    let n = n.min(all.len());
    (0..n)
        .map(|i| Prompt {
            place: Place::ALL.get(i % (Place::COUNT + 1)).copied(),
            ..Prompt::from(all[i * all.len() / n])
        })
        .collect()
}

/// Trains (or goes on training) in `dir`, ends with `dir/transformer.safetensors` and `dir/transformer.json`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn train(options: &TransformerOptions, seed: u64, dir: &Path) -> Result<()> {
    let mut trainer = TransformerTrainer::new(options, seed, dir)?;
    let saved = dir.join("transformer.checkpoint.safetensors");
    if saved.exists() {
        trainer.resume(&saved)?;
    }
    println!("{:.2} M parameters", trainer.parameters() as f64 / 1e6);
    let mut report = Report::open(dir, "transformer", options, trainer.step, options.steps)?;
    let sampling = Sampling { guidance_scale: options.guidance, ..Sampling::default() };
    let warmup = 200;
    // With a time limit, progress is the share of the time used, so that the rate still falls to its floor.
    let progress = |trainer: &TransformerTrainer, report: &Report| match options.minutes {
        Some(minutes) => report.elapsed().as_secs_f64() / (60.0 * minutes),
        None => trainer.step as f64 / options.steps as f64,
    };
    while trainer.step < options.steps && progress(&trainer, &report) < 1.0 {
        let schedule = Schedule { peak: options.rate, warmup, total: 1_000_000 + warmup, floor: 0.02 };
        let at = (progress(&trainer, &report) * 1e6) as u64 + warmup;
        let rate = schedule.rate(if trainer.step < warmup { trainer.step } else { at });
        let (loss, norm) = trainer.train_step(rate);
        let step = trainer.step;
        report.tick(step);
        if step.is_multiple_of(50) {
            report.log(step, &[("loss", loss), ("norm", norm), ("rate", rate)])?;
        }
        if step.is_multiple_of(options.evaluate_every) {
            trainer.save(&saved)?;
            let (tally, pictures) = trainer.evaluate(&held_out(96), &sampling);
            report.log(step, &tally.shares())?;
            let (trained, _) = trainer.evaluate(&trained_on(48), &sampling);
            report.log(step, &[("trained", trained.share())])?;
            save_sheet(&pictures, SIZE as u32, 12, &dir.join("samples.png"))?;
            write_weights(&trainer, dir)?;
        }
    }
    trainer.save(&saved)?;
    write_weights(&trainer, dir)?;
    report.finish("loss")
}

fn write_weights(trainer: &TransformerTrainer, dir: &Path) -> Result<()> {
    let (config, weights) = trainer.export();
    checkpoint::save(&dir.join("transformer.safetensors"), &weights)?;
    std::fs::write(dir.join("transformer.json"), serde_json::to_string_pretty(&config)?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amused::patches::PatchOptions;
    use crate::clip::train::save_untrained;
    use crate::optim::tests::same;

    fn options(no_downsample: bool) -> TransformerOptions {
        TransformerOptions {
            steps: 10,
            minutes: None,
            batch: 4,
            rate: 1e-3,
            pictures: 16,
            jitter: 0.2,
            hidden: 32,
            layers: 1,
            res_blocks: 1,
            no_downsample,
            fixed_codes: false,
            f32: false,
            label_smoothing: 0.0,
            evaluate_every: 100,
            guidance: 2.0,
        }
    }

    #[test]
    fn a_resumed_run_is_the_same_bit_for_bit() {
        let _generator = crate::generator();
        let dir = tempfile::tempdir().expect("a folder");
        let book = PatchOptions { codes: 16, code_dim: 4, patch_pictures: 16 };
        PatchCodebook::learn(&book, 1).save(&dir.path().join("codebook.safetensors")).expect("saved");
        save_untrained(2, dir.path()).expect("a text tower");
        let saved = dir.path().join("checkpoint.safetensors");
        for options in [options(true), TransformerOptions { fixed_codes: true, ..options(false) }] {
            let mut straight = TransformerTrainer::new(&options, 3, dir.path()).expect("a model");
            (0..2).for_each(|_| {
                straight.train_step(1e-3);
            });
            straight.save(&saved).expect("saved");
            let last = (0..2).map(|_| straight.train_step(1e-3)).last();

            let mut resumed = TransformerTrainer::new(&options, 3, dir.path()).expect("a model");
            resumed.resume(&saved).expect("resumed");
            let again = (0..2).map(|_| resumed.train_step(1e-3)).last();
            assert_eq!(last, again);
            same(&straight.export().1, &resumed.export().1);
            let (tally, pictures) = straight.evaluate(&held_out(2), &Sampling::default());
            assert_eq!((tally.pictures, pictures.len()), (2, 2));
            assert!(pictures == resumed.evaluate(&held_out(2), &Sampling::default()).1, "the same drawings");
        }
    }

    #[test]
    fn there_are_enough_prompts_never_trained_on() {
        let _generator = crate::generator();
        let prompts = held_out(10_000);
        assert!(prompts.len() >= 300, "{}", prompts.len());
        let held = |p: &Prompt| p.attributes().is_some_and(|a| split::is_held_out(&a));
        assert!(prompts.iter().all(held));
        assert!(!trained_on(100).iter().any(held));
    }
}
