//! Training of the transformer: rectified flow on the latents of clips, given their prompts.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use rand::RngExt;
use sango_shapes::{Attributes, Motion, Prompt, rng, split};
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::clips::{ClipBatch, FPS, SIZE, to_frames};
use super::latents::{LatentData, Vae, pack, unpack};
use super::sampler::{Sampling, sample};
use super::text::config::T5Config;
use super::text::train::{TextEncoder, write_prompt};
use super::transformer::{LTXVideoTransformer3DModel, RotaryPosEmbed, TransformerConfig};
use crate::checkpoint::{self, State};
use crate::data::{mix, save_sheet};
use crate::judge::{self, Tally};
use crate::optim::{AdamW, Optimizer, Schedule};
use crate::report::Report;

/// Files of what the stage leaves.
pub const WEIGHTS: &str = "transformer.safetensors";
/// Beside the weights: by what the latents they know are normalised.
pub const STATISTICS: [&str; 2] = ["latents_mean", "latents_std"];

/// How to train the transformer.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct TransformerOptions {
    /// Minutes of training (checked against the log, resumes included).
    #[arg(long, default_value_t = 75.0)]
    pub minutes: f64,
    /// Clips per step.
    #[arg(long, default_value_t = 48)]
    pub batch: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1.5e-3)]
    pub rate: f64,
    /// Clips rendered and encoded before training.
    #[arg(long, default_value_t = 10_240)]
    pub clips: usize,
    /// How far objects stray from the grid, 0–1 of what the world allows.
    #[arg(long, default_value_t = 0.2)]
    pub jitter: f32,
    /// Share of the clips whose objects may be to one side of the axis they travel on; they are shown with their first
    /// frame given, which says where. Clips of prompts alone keep to the middle (unless all are scattered).
    #[arg(long, default_value_t = 0.3)]
    pub scattered: f64,
    /// Heads of 64 channels each.
    #[arg(long, default_value_t = 4)]
    pub heads: i64,
    /// Layers.
    #[arg(long, default_value_t = 4)]
    pub layers: i64,
    /// Centre of the logit of the share of noise; its deviation is 1.
    #[arg(long, default_value_t = 0.4)]
    pub noise_center: f64,
    /// Share of the prompts that are left out.
    #[arg(long, default_value_t = 0.1)]
    pub empty: f64,
    /// Share of the steps in which the first frame is given, as in image-to-video.
    #[arg(long, default_value_t = 0.15)]
    pub image: f64,
    /// Compute in f32 instead of bf16.
    #[arg(long)]
    pub f32: bool,
    /// Steps between evaluations.
    #[arg(long, default_value_t = 500)]
    pub evaluate_every: u64,
    /// Guidance of the evaluations.
    #[arg(long, default_value_t = 2.0)]
    pub guidance: f64,
    /// The scheduler's shift in the evaluations.
    #[arg(long, default_value_t = 2.0)]
    pub shift: f64,
}

impl TransformerOptions {
    /// The model that these options ask for.
    pub fn config(&self, latent_channels: i64, text: &T5Config) -> TransformerConfig {
        TransformerConfig {
            in_channels: latent_channels,
            out_channels: latent_channels,
            num_attention_heads: self.heads,
            attention_head_dim: 64,
            num_layers: self.layers,
            caption_channels: text.d_model,
        }
    }

    fn kind(&self) -> Kind {
        if self.f32 { Kind::Float } else { Kind::BFloat16 }
    }
}

/// The rotations for whole clips, as the pipeline computes them from the frame rate and the VAE.
pub fn rope(config: &TransformerConfig, vae: &Vae, kind: Kind) -> RotaryPosEmbed {
    let (time, space) = (vae.config.temporal_compression_ratio(), vae.config.spatial_compression_ratio() as f64);
    RotaryPosEmbed::new(config.inner_dim(), vae.grid(), [time as f64 / FPS, space, space], kind)
}

/// The transformer in training, with all its state.
#[derive(Debug)]
pub struct TransformerTrainer {
    options: TransformerOptions,
    config: TransformerConfig,
    model: LTXVideoTransformer3DModel,
    rope: RotaryPosEmbed,
    optimizer: Optimizer,
    text: TextEncoder,
    vae: Vae,
    data: LatentData,
    seed: u64,
    step: u64,
}

impl TransformerTrainer {
    /// A model on the VAE and the text encoder in `dir`: a fresh one, or the one whose weights are there; encodes the
    /// clips.
    ///
    /// # Errors
    /// When a part is missing or the options do not fit.
    pub fn new(options: &TransformerOptions, seed: u64, dir: &Path) -> Result<Self> {
        ensure!(options.batch > 0 && options.clips > 0, "--batch and --clips must not be 0");
        let mut vae = Vae::open(dir, options.kind())?;
        let weights = dir.join(WEIGHTS);
        let begun = weights.exists().then(|| checkpoint::load(&weights)).transpose()?;
        if let Some(begun) = &begun {
            let [mean, std] = STATISTICS.map(|name| checkpoint::get(begun, name));
            vae.set_statistics(mean?, std?);
        }
        let text = TextEncoder::open(dir)?;
        let bar = indicatif::ProgressBar::new(options.clips as u64);
        let tick = |done: usize| bar.set_position(done as u64);
        let draw = (options.clips, options.jitter, options.scattered);
        let data = LatentData::build(&mut vae, begun.is_none(), seed, draw, &tick);
        bar.finish_and_clear();
        tch::manual_seed(mix(seed, 102) as i64);
        let config = options.config(vae.config.latent_channels, &T5Config::shapes(0));
        let vs = VarStore::new(Device::Cpu);
        let model = LTXVideoTransformer3DModel::new(&vs.root(), &config);
        if let Some(begun) = &begun {
            checkpoint::fill(&vs, begun, Kind::Float)?;
        }
        let settings = AdamW { weight_decay: 0.01, ema: 0.999, beta2: 0.98, ..AdamW::default() };
        let optimizer = Optimizer::new(&vs, settings, options.kind())?;
        let rope = rope(&config, &vae, options.kind());
        Ok(Self { options: options.clone(), config, model, rope, optimizer, text, vae, data, seed, step: 0 })
    }

    /// One update at the given rate; returns the loss and the gradient's norm.
    ///
    /// # Errors
    /// When a prompt cannot be encoded (never).
    pub fn train_step(&mut self, rate: f64) -> Result<(f64, f64)> {
        let kind = self.options.kind();
        tch::manual_seed(mix(self.seed, self.step + 1) as i64);
        let mut rng = rng(mix(mix(self.seed, 103), self.step));
        let given = rng.random_bool(self.options.image);
        let shown = if given || self.data.centred == 0 { self.data.clips.len() } else { self.data.centred };
        let (mut rows, mut prompts, mut logits) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.options.batch {
            let row = rng.random_range(0..shown);
            let (_, text) = write_prompt(&self.data.clips[row], &mut rng);
            rows.push(row as i64);
            prompts.push(if rng.random_bool(self.options.empty) { String::new() } else { text });
            logits.push(self.options.noise_center as f32);
        }
        let latents = self.data.latents.index_select(0, &Tensor::from_slice(&rows)).to_kind(Kind::Float);
        let logits = Tensor::from_slice(&logits);
        let share = (&logits + logits.randn_like()).sigmoid();
        let noise = latents.randn_like();
        let spread = share.view([-1, 1, 1]);
        let noisy = &latents + (&noise - &latents) * &spread;
        let (caption, mask) = self.text.encode(&prompts)?;
        let timestep = share * 1000.0;
        let (tokens, first) = (latents.size()[1], self.vae.grid()[1] * self.vae.grid()[2]);
        let still = Tensor::zeros_like(&timestep);
        let (parts, noisy) = if given {
            let noisy = Tensor::cat(&[latents.narrow(1, 0, first), noisy.narrow(1, first, tokens - first)], 1);
            (vec![(first, &still), (tokens - first, &timestep)], noisy)
        } else {
            (vec![(tokens, &timestep)], noisy)
        };
        let velocity = self.model.forward(&noisy.to_kind(kind), &parts, &caption.to_kind(kind), &mask, &self.rope);
        let error = (velocity.to_kind(Kind::Float) - (noise - latents)).square();
        // A frame that is given needs no velocity.
        let known = if given { first } else { 0 };
        let loss = error.narrow(1, known, tokens - known).mean(Kind::Float);
        let norm = self.optimizer.step(&loss, rate);
        self.step += 1;
        Ok((loss.double_value(&[]), norm))
    }

    /// Draws `prompts` with the averaged weights and lets the oracle judge; the frames come along. `first` are the frames
    /// to begin with, if they are given, `[N, 3, 1, H, W]` in −1..1.
    ///
    /// # Errors
    /// When a prompt cannot be encoded (never).
    pub fn evaluate(
        &mut self,
        prompts: &[Prompt],
        first: Option<&Tensor>,
        sampling: &Sampling,
    ) -> Result<(Tally, Vec<Vec<Vec<u8>>>)> {
        tch::manual_seed(mix(self.seed, 104) as i64);
        let captions: Vec<String> = prompts.iter().map(Prompt::caption).collect();
        let (caption, mask) = self.text.encode(&captions)?;
        let (none, none_mask) = self.text.encode(&[String::new()])?;
        let grid = self.vae.grid();
        let tokens = grid.iter().product::<i64>();
        let shape = [prompts.len() as i64, tokens, self.config.in_channels];
        let noise = Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let (model, rope, kind) = (&self.model, &self.rope, self.options.kind());
        let given = first.map(|first| pack(&self.vae.encode(first)));
        let (said, none) = ((&caption, &mask), (&none, &none_mask));
        let latents =
            self.optimizer.with_average(|| sample(model, kind, &noise, given.as_ref(), said, none, rope, sampling));
        let clips = to_frames(&self.vae.decode(&unpack(&latents, grid)));
        Ok((judge::tally_clips(prompts, &clips, SIZE), clips))
    }

    /// Writes everything the next step depends on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut state = self.optimizer.state("model");
        state.push(("step".into(), Tensor::from_slice(&[self.step as i64])));
        checkpoint::save(path, &state)
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

    /// The weights to ship, averaged.
    pub fn weights(&self) -> State {
        self.optimizer.averaged()
    }

    fn write(&self, dir: &Path) -> Result<()> {
        let mut weights = self.weights();
        let (mean, std) = self.vae.statistics();
        weights.extend(STATISTICS.map(String::from).into_iter().zip([mean, std]));
        checkpoint::save(&dir.join(WEIGHTS), &weights)?;
        std::fs::write(dir.join("transformer.json"), serde_json::to_string_pretty(&self.config)?)?;
        Ok(())
    }
}

/// `n` prompts of combinations that training never shows, with every motion that suits them, evenly spread.
pub fn held_out(n: usize) -> Vec<Prompt> {
    spread(&prompts_of(split::held_out_combinations()), n)
}

/// `n` prompts of combinations that training shows, evenly spread.
pub fn trained_on(n: usize) -> Vec<Prompt> {
    spread(&prompts_of(split::train_combinations()), n)
}

fn prompts_of(combinations: &[Attributes]) -> Vec<Prompt> {
    let motions = |a: Attributes| Motion::ALL.iter().copied().filter(move |motion| motion.suits(a.shape));
    let one = |a, motion| Prompt { motion: Some(motion), ..Prompt::from(a) };
    combinations.iter().flat_map(|&a| motions(a).map(move |motion| one(a, motion))).collect()
}

fn spread(all: &[Prompt], n: usize) -> Vec<Prompt> {
    let n = n.min(all.len());
    (0..n).map(|i| all[i * all.len() / n]).collect()
}

/// Six frames of each clip, side by side.
pub fn sheet(clips: &[Vec<Vec<u8>>]) -> Vec<Vec<u8>> {
    clips.iter().flat_map(|frames| [0, 3, 6, 10, 13, 16].map(|i| frames[i].clone())).collect()
}

/// Trains (or goes on training) in `dir`, ends with `dir/transformer.safetensors` and `dir/transformer.json`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn train(options: &TransformerOptions, seed: u64, dir: &Path) -> Result<()> {
    let mut trainer = TransformerTrainer::new(options, seed, dir)?;
    let saved: PathBuf = dir.join("transformer.checkpoint.safetensors");
    if saved.exists() {
        trainer.resume(&saved)?;
    }
    println!("{:.2} M parameters", trainer.optimizer.len() as f64 / 1e6);
    let mut report = Report::open(dir, "transformer", options, trainer.step, (options.minutes * 60.0) as u64)?;
    let sampling = Sampling { steps: 10, guidance_scale: options.guidance, shift: options.shift };
    let warmup = 200;
    let schedule = Schedule { peak: options.rate, warmup, total: 1_000_000 + warmup, floor: 0.02 };
    let (mut sum, mut count) = (0.0, 0.0);
    loop {
        let progress = report.elapsed().as_secs_f64() / (60.0 * options.minutes);
        if progress >= 1.0 {
            break;
        }
        let at = (progress * 1e6) as u64 + warmup;
        let rate = schedule.rate(if trainer.step < warmup { trainer.step } else { at });
        let (loss, norm) = trainer.train_step(rate)?;
        (sum, count) = (sum + loss, count + 1.0);
        let step = trainer.step;
        if step.is_multiple_of(50) {
            report.log(step, &[("loss", sum / count), ("norm", norm), ("rate", rate)])?;
            (sum, count) = (0.0, 0.0);
        }
        if step.is_multiple_of(options.evaluate_every) {
            trainer.save(&saved)?;
            trainer.write(dir)?;
            let (tally, clips) = trainer.evaluate(&held_out(72), None, &sampling)?;
            report.log(step, &tally.shares())?;
            let begun = ClipBatch::begun(mix(seed, 105), 72, options.jitter);
            let (given, _) = trainer.evaluate(&begun.prompts(), Some(&begun.first_frames()), &sampling)?;
            report.log(step, &[("all, first frame given", given.share())])?;
            save_sheet(&sheet(&clips[..24]), SIZE as u32, 12, &dir.join("samples.png"))?;
        }
    }
    trainer.save(&saved)?;
    trainer.write(dir)?;
    report.finish("loss")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx_video::export::{ExportOptions, export, import};
    use crate::ltx_video::text::train::tests::save_untrained;
    use crate::ltx_video::vae_train::tests::save_untrained_vae;
    use crate::optim::tests::same;

    fn options() -> TransformerOptions {
        TransformerOptions {
            minutes: 1.0,
            batch: 4,
            rate: 1e-3,
            clips: 8,
            jitter: 0.2,
            scattered: 0.5,
            heads: 1,
            layers: 1,
            noise_center: 0.4,
            empty: 0.1,
            image: 0.5,
            f32: false,
            evaluate_every: 100,
            guidance: 2.0,
            shift: 2.0,
        }
    }

    #[test]
    fn a_resumed_run_is_the_same_bit_for_bit() {
        let _generator = crate::generator();
        let dir = tempfile::tempdir().expect("a folder");
        save_untrained(dir.path());
        save_untrained_vae(dir.path());
        let saved = dir.path().join("checkpoint.safetensors");
        let mut straight = TransformerTrainer::new(&options(), 3, dir.path()).expect("a model");
        straight.train_step(1e-3).expect("a step");
        straight.save(&saved).expect("saved");
        let mut resumed = TransformerTrainer::new(&options(), 3, dir.path()).expect("a model");
        resumed.resume(&saved).expect("resumed");
        for _ in 0..2 {
            assert_eq!(straight.train_step(1e-3).expect("a step"), resumed.train_step(1e-3).expect("a step"));
        }
        same(&straight.weights(), &resumed.weights());
        let sampling = Sampling { steps: 2, guidance_scale: 2.0, shift: 2.0 };
        let (tally, clips) = straight.evaluate(&held_out(2), None, &sampling).expect("clips");
        assert_eq!((tally.pictures, clips.len(), clips[0].len()), (2, 2, 17));
        assert!(clips == resumed.evaluate(&held_out(2), None, &sampling).expect("clips").1, "the same drawings");
    }

    #[test]
    fn an_exported_folder_is_taken_up_again() {
        let _generator = crate::generator();
        let (run, folder) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        save_untrained(run.path());
        save_untrained_vae(run.path());
        let mut first = TransformerTrainer::new(&options(), 3, run.path()).expect("a model");
        first.train_step(1e-3).expect("a step");
        first.write(run.path()).expect("written");
        let settings = ExportOptions { guidance_scale: 2.0, steps: 4, scheduler_shift: 2.0 };
        export(&settings, run.path(), folder.path(), 3).expect("exported");
        let next = run.path().join("next");
        import(folder.path(), &next).expect("taken up");
        let second = TransformerTrainer::new(&options(), 3, &next).expect("a model");
        assert_eq!(second.config, first.config);
        assert_eq!(second.vae.statistics(), first.vae.statistics());
        let rounded = |state: State| state.into_iter().map(|(name, x)| (name, x.to_kind(Kind::BFloat16))).collect();
        let [first, second]: [State; 2] = [first.weights(), second.weights()].map(rounded);
        same(&first, &second);
        assert!(import(folder.path(), &next).is_err(), "a run is never overwritten");
    }

    #[test]
    fn there_are_enough_prompts_never_trained_on() {
        let prompts = held_out(10_000);
        assert!(prompts.len() >= 300, "{}", prompts.len());
        let held = |p: &Prompt| p.attributes().is_some_and(|a| split::is_held_out(&a));
        assert!(prompts.iter().all(held));
        assert!(!trained_on(100).iter().any(held));
    }
}
