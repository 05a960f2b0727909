//! Training of the video VAE: single pictures first, a fraction of the price of a clip, then short clips, then whole ones.

use std::path::Path;

use anyhow::{Result, ensure};
use clap::Args;
use sango_shapes::Prompt;
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::clips::{ClipBatch, FRAMES, SIZE, to_frames};
use super::vae::{AutoencoderKLLTXVideo, VaeConfig};
use crate::checkpoint::{self, State};
use crate::data::{mix, save_sheet};
use crate::judge::{self, Tally};
use crate::optim::{AdamW, Optimizer, Schedule};
use crate::report::Report;

/// How to train the VAE.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct VaeOptions {
    /// Minutes of training (checked against the log, resumes included).
    #[arg(long, default_value_t = 40.0)]
    pub vae_minutes: f64,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1.5e-3)]
    pub vae_rate: f64,
    /// Pictures per step of the first part; clips of 9 and 17 frames come by fewer, so that a step costs about the same.
    #[arg(long, default_value_t = 32)]
    pub vae_batch: usize,
    /// Share of the time for single pictures.
    #[arg(long, default_value_t = 0.3)]
    pub picture_share: f64,
    /// Share of the time for clips of 9 frames; those of 17 get the rest.
    #[arg(long, default_value_t = 0.4)]
    pub short_share: f64,
    /// Weight of the distance between latents and the normal distribution.
    #[arg(long, default_value_t = 5e-5)]
    pub kl: f64,
    /// Channels of the latents.
    #[arg(long, default_value_t = 24)]
    pub latent_channels: i64,
    /// Compute in f32 instead of bf16.
    #[arg(long)]
    pub vae_f32: bool,
}

impl VaeOptions {
    /// The model that these options ask for.
    pub fn config(&self) -> VaeConfig {
        VaeConfig { latent_channels: self.latent_channels, ..VaeConfig::default() }
    }

    /// Frames of the clips at this share of the training.
    fn frames(&self, progress: f64) -> usize {
        if progress < self.picture_share {
            1
        } else if progress < self.picture_share + self.short_share {
            9
        } else {
            FRAMES
        }
    }
}

/// The VAE in training.
#[derive(Debug)]
pub struct VaeTrainer {
    options: VaeOptions,
    model: AutoencoderKLLTXVideo,
    optimizer: Optimizer,
    seed: u64,
    step: u64,
    inflated: bool,
}

/// What one step measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VaeLosses {
    /// Weighted reconstruction, L1 + 2·L2.
    pub reconstruction: f64,
    /// Distance of the latents from the normal distribution.
    pub kl: f64,
    /// Norm of the gradient.
    pub norm: f64,
}

impl VaeTrainer {
    /// A fresh model.
    ///
    /// # Errors
    /// When the options describe none.
    pub fn new(options: &VaeOptions, seed: u64) -> Result<Self> {
        ensure!(options.vae_batch > 0, "--vae-batch must not be 0");
        let config = options.config();
        config.validate()?;
        tch::manual_seed(mix(seed, 81) as i64);
        let vs = VarStore::new(Device::Cpu);
        let model = AutoencoderKLLTXVideo::new(&vs.root(), &config);
        let settings = AdamW { weight_decay: 0.0, ema: 0.998, ..AdamW::default() };
        let optimizer = Optimizer::new(&vs, settings, options.kind())?;
        Ok(Self { options: options.clone(), model, optimizer, seed, step: 0, inflated: false })
    }

    /// One update at the given rate on clips of so many frames.
    pub fn train_step(&mut self, rate: f64, frames: usize) -> VaeLosses {
        if frames > 1 && !self.inflated {
            self.optimizer.edit(|| self.model.inflate());
            self.inflated = true;
        }
        tch::manual_seed(mix(self.seed, self.step + 1) as i64);
        // A clip costs about half of what as many pictures would: its latents have fewer frames.
        let n = (2 * self.options.vae_batch / (frames + 1)).max(1);
        let batch = ClipBatch::training(mix(self.seed, 82), self.step, n, frames);
        let posterior = self.model.encode(&batch.pixels.to_kind(self.options.kind()));
        let decoded = self.model.decode(&posterior.sample().to_kind(self.options.kind()));
        let reconstruction = reconstruction_loss(&decoded, &batch, false);
        let kl = posterior.kl();
        let loss = &reconstruction + &kl * self.options.kl;
        let norm = self.optimizer.step(&loss, rate);
        self.step += 1;
        VaeLosses { reconstruction: reconstruction.double_value(&[]), kl: kl.double_value(&[]), norm }
    }

    /// What the oracle reads in held-out clips that were encoded and decoded by the averaged weights, frame by frame
    /// (`frames` 1) or whole; their peak signal-to-noise ratio in dB; and the frames.
    pub fn evaluate(&mut self, clips: usize, frames: usize) -> VaeScore {
        let (model, kind) = (&self.model, self.options.kind());
        self.optimizer.with_average(|| reconstruct(model, kind, mix(self.seed, 83), clips, frames))
    }

    /// Writes everything the next step depends on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut state = self.optimizer.state("model");
        state.push(("step".into(), Tensor::from_slice(&[self.step as i64])));
        state.push(("inflated".into(), Tensor::from_slice(&[i64::from(self.inflated)])));
        checkpoint::save(path, &state)
    }

    /// Continues from what [`VaeTrainer::save`] wrote.
    ///
    /// # Errors
    /// When the file is missing or of another model.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let state = checkpoint::load(path)?;
        self.optimizer.restore("model", &state)?;
        self.step = checkpoint::get(&state, "step")?.int64_value(&[0]) as u64;
        self.inflated = checkpoint::get(&state, "inflated")?.int64_value(&[0]) != 0;
        Ok(())
    }

    /// The weights to ship, averaged, under the names of `diffusers`.
    pub fn weights(&self) -> State {
        self.optimizer.averaged()
    }
}

impl VaeOptions {
    fn kind(&self) -> Kind {
        if self.vae_f32 { Kind::Float } else { Kind::BFloat16 }
    }
}

/// Encodes and decodes held-out clips, frame by frame (`frames` 1) or whole, and compares.
pub(super) fn reconstruct(
    model: &AutoencoderKLLTXVideo,
    kind: Kind,
    seed: u64,
    clips: usize,
    frames: usize,
) -> VaeScore {
    let batch = ClipBatch::held_out(seed, clips);
    let decode = |part: &Tensor| {
        let (size, part) = (part.size(), part.to_kind(kind));
        if frames > 1 {
            return model.decode(&model.encode(&part).mean.to_kind(kind));
        }
        let pictures = part.transpose(1, 2).reshape([-1, size[1], 1, size[3], size[4]]);
        let decoded = model.decode(&model.encode(&pictures).mean.to_kind(kind));
        decoded.view([size[0], size[2], size[1], size[3], size[4]]).transpose(1, 2)
    };
    let decoded = tch::no_grad(|| {
        let parts: Vec<Tensor> = batch.pixels.split(8, 0).iter().map(decode).collect();
        Tensor::cat(&parts, 0).clamp(-1.0, 1.0)
    });
    score(&batch, &decoded)
}

/// Part of a picture that an object and what is around it cover on average.
const COVERED: f64 = 0.12;

/// L1 + 2·L2 with pixels in and around the object weighted up, the more the less it stands out. On a scale of 0..1.
///
/// If they count `alike`, objects have the same weight however small they are.
pub(super) fn reconstruction_loss(decoded: &Tensor, batch: &ClipBatch, alike: bool) -> Tensor {
    let near = batch.coverage.squeeze_dim(1).max_pool2d([5, 5], [1, 1], [2, 2], [1, 1], false).unsqueeze(1);
    let gain: Vec<f32> = batch
        .clips
        .iter()
        .map(|clip| {
            let attributes = clip.scene.attributes;
            let (a, b) = (attributes.colour.rgb(), attributes.background.rgb());
            let distance = (0..3).map(|i| (f32::from(a[i]) - f32::from(b[i])).powi(2)).sum::<f32>().sqrt();
            8.0 * (300.0 / distance).clamp(1.0, 2.0)
        })
        .collect();
    let mut gain = Tensor::from_slice(&gain).view([-1, 1, 1, 1, 1]);
    if alike {
        let covered = near.mean_dim([1i64, 2, 3, 4].as_slice(), true, Kind::Float);
        gain *= (covered.reciprocal() * COVERED).clamp(0.5, 4.0);
    }
    let weight = near * gain + 1.0;
    let error = (decoded - &batch.pixels).abs() * 0.5;
    let per_pixel = &error + error.square() * 2.0;
    (per_pixel * &weight).mean(Kind::Float) / weight.mean(Kind::Float)
}

/// Result of [`VaeTrainer::evaluate`].
#[derive(Debug)]
pub struct VaeScore {
    /// What the oracle read.
    pub right: Tally,
    /// Peak signal-to-noise ratio in dB.
    pub psnr: f64,
    /// Some frames, as drawn above as decoded.
    pub sheet: Vec<Vec<u8>>,
}

/// Compares decoded clips with what was drawn.
pub(super) fn score(batch: &ClipBatch, decoded: &Tensor) -> VaeScore {
    let error = (decoded - &batch.pixels).square().mean(Kind::Float).double_value(&[]) / 4.0;
    let (drawn, frames) = (to_frames(&batch.pixels), to_frames(decoded));
    let prompts: Vec<Prompt> = batch.clips.iter().map(|clip| clip.prompt()).collect();
    let shown = |clips: &[Vec<Vec<u8>>], i: usize| -> Vec<Vec<u8>> {
        [0, 3, 6, 9, 12, 16].iter().map(|&frame| clips[i][frame].clone()).collect()
    };
    let rows = (0..clips_shown(&drawn)).step_by(2);
    let sheet = rows
        .flat_map(|i| {
            let pair = |clips: &[Vec<Vec<u8>>]| -> Vec<Vec<u8>> {
                (i..(i + 2).min(clips.len())).flat_map(|j| shown(clips, j)).collect()
            };
            [pair(&drawn), pair(&frames)].concat()
        })
        .collect();
    VaeScore { right: judge::tally_clips(&prompts, &frames, SIZE), psnr: -10.0 * error.log10(), sheet }
}

fn clips_shown(clips: &[Vec<Vec<u8>>]) -> usize {
    clips.len().min(8)
}

/// Trains (or goes on training) in `dir`, ends with `dir/vae.safetensors` and `dir/vae.json`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn train(options: &VaeOptions, seed: u64, dir: &Path) -> Result<Tally> {
    let mut trainer = VaeTrainer::new(options, seed)?;
    let saved = dir.join("vae.checkpoint.safetensors");
    if saved.exists() {
        trainer.resume(&saved)?;
    }
    println!("{:.2} M parameters", trainer.optimizer.len() as f64 / 1e6);
    let mut report = Report::open(dir, "vae", options, trainer.step, (options.vae_minutes * 60.0) as u64)?;
    let warmup = 100;
    let schedule = Schedule { peak: options.vae_rate, warmup, total: 1_000_000 + warmup, floor: 0.02 };
    loop {
        let progress = report.elapsed().as_secs_f64() / (60.0 * options.vae_minutes);
        if progress >= 1.0 {
            break;
        }
        let at = (progress * 1e6) as u64 + warmup;
        let rate = schedule.rate(if trainer.step < warmup { trainer.step } else { at });
        let frames = options.frames(progress);
        let losses = trainer.train_step(rate, frames);
        let step = trainer.step;
        if step.is_multiple_of(50) {
            let values = [
                ("reconstruction", losses.reconstruction),
                ("kl", losses.kl),
                ("norm", losses.norm),
                ("frames", frames as f64),
                ("rate", rate),
            ];
            report.log(step, &values)?;
        }
        if step.is_multiple_of(500) {
            trainer.save(&saved)?;
            write_weights(&trainer, dir)?;
            log_score(&mut report, step, &trainer.evaluate(48, frames), dir)?;
        }
    }
    trainer.save(&saved)?;
    write_weights(&trainer, dir)?;
    let score = trainer.evaluate(300, FRAMES);
    log_score(&mut report, trainer.step, &score, dir)?;
    report.finish("reconstruction")?;
    Ok(score.right)
}

pub(super) fn log_score(report: &mut Report, step: u64, score: &VaeScore, dir: &Path) -> Result<()> {
    let mut values = score.right.shares();
    values.push(("psnr", score.psnr));
    report.log(step, &values)?;
    save_sheet(&score.sheet, SIZE as u32, 12, &dir.join("vae.samples.png"))
}

fn write_weights(trainer: &VaeTrainer, dir: &Path) -> Result<()> {
    checkpoint::save(&dir.join("vae.safetensors"), &trainer.weights())?;
    std::fs::write(dir.join("vae.json"), serde_json::to_string_pretty(&trainer.options.config())?)?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::optim::tests::same;

    /// Leaves a VAE in `dir` that has learned nothing.
    pub(crate) fn save_untrained_vae(dir: &Path) {
        write_weights(&VaeTrainer::new(&options(), 1).expect("a model"), dir).expect("saved");
    }

    fn options() -> VaeOptions {
        VaeOptions {
            vae_minutes: 1.0,
            vae_rate: 1e-3,
            vae_batch: 4,
            picture_share: 0.3,
            short_share: 0.4,
            kl: 1e-4,
            latent_channels: 4,
            vae_f32: false,
        }
    }

    #[test]
    fn a_resumed_run_is_the_same_bit_for_bit() {
        let _generator = crate::generator();
        let dir = tempfile::tempdir().expect("a folder");
        let saved = dir.path().join("checkpoint.safetensors");
        let mut straight = VaeTrainer::new(&options(), 3).expect("a model");
        straight.train_step(1e-3, 1);
        straight.save(&saved).expect("saved");
        let mut resumed = VaeTrainer::new(&options(), 3).expect("a model");
        resumed.resume(&saved).expect("resumed");
        for frames in [1, 5, 5] {
            assert_eq!(straight.train_step(1e-3, frames), resumed.train_step(1e-3, frames));
        }
        same(&straight.weights(), &resumed.weights());
        let score = straight.evaluate(2, 1);
        assert_eq!((score.right.pictures, score.sheet.len()), (2, 24));
        assert!(score.psnr.is_finite());
    }

    #[test]
    fn a_few_steps_learn_something() {
        let _generator = crate::generator();
        let options = VaeOptions { vae_batch: 16, latent_channels: 16, ..options() };
        let mut trainer = VaeTrainer::new(&options, 4).expect("a model");
        let losses: Vec<f64> = (0..50).map(|_| trainer.train_step(1e-3, 1).reconstruction).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        assert!(mean(&losses[40..]) < 0.85 * mean(&losses[..5]), "{losses:?}");
    }
}
