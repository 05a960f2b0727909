//! Training the decoder alone, after the VAE: the latents stay what they are, so this may run beside the transformer's
//! training. The decoder learns to draw sharp outlines from latents that are a little off, as a transformer's are.

use std::path::Path;

use anyhow::{Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor, no_grad};

use super::clips::{ClipBatch, FRAMES};
use super::vae::{AutoencoderKLLTXVideo, VaeConfig};
use super::vae_train::{log_score, reconstruct, reconstruction_loss};
use crate::checkpoint::{self, State};
use crate::data::mix;
use crate::files::read_json;
use crate::optim::{AdamW, Optimizer, Schedule};
use crate::report::Report;

const KIND: Kind = Kind::BFloat16;

/// How to train the decoder.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct DecoderOptions {
    /// Minutes of training (checked against the log, resumes included).
    #[arg(long, default_value_t = 40.0)]
    pub decoder_minutes: f64,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1e-3)]
    pub decoder_rate: f64,
    /// Clips per step.
    #[arg(long, default_value_t = 4)]
    pub decoder_batch: usize,
    /// Most noise that latents get, in deviations of their channels.
    #[arg(long, default_value_t = 0.15)]
    pub latent_noise: f64,
}

/// The decoder in training.
#[derive(Debug)]
pub struct DecoderTrainer {
    options: DecoderOptions,
    model: AutoencoderKLLTXVideo,
    encoder: State,
    optimizer: Optimizer,
    seed: u64,
    step: u64,
}

impl DecoderTrainer {
    /// Takes up the VAE in `dir`.
    ///
    /// # Errors
    /// When it has not been trained yet.
    pub fn new(options: &DecoderOptions, seed: u64, dir: &Path) -> Result<Self> {
        ensure!(options.decoder_batch > 0, "--decoder-batch must not be 0");
        let config: VaeConfig = read_json(&dir.join("vae.json"))?;
        let weights = checkpoint::load(&dir.join("vae.safetensors"))?;
        let vs = VarStore::new(Device::Cpu);
        let model = AutoencoderKLLTXVideo::new(&vs.root(), &config);
        let mut encoder = State::new();
        for (name, mut variable) in vs.variables() {
            let weight = checkpoint::get(&weights, &name)?;
            if name.starts_with("encoder.") {
                let _ = variable.set_requires_grad(false);
                variable.set_data(&weight.to_kind(KIND));
                encoder.push((name, weight.copy()));
            } else {
                no_grad(|| variable.f_copy_(weight))?;
            }
        }
        let settings = AdamW { weight_decay: 0.0, ema: 0.998, ..AdamW::default() };
        let optimizer = Optimizer::new(&vs, settings, KIND)?;
        Ok(Self { options: options.clone(), model, encoder, optimizer, seed, step: 0 })
    }

    /// One update at the given rate; returns the loss and the gradient's norm.
    pub fn train_step(&mut self, rate: f64) -> (f64, f64) {
        tch::manual_seed(mix(self.seed, self.step + 1) as i64);
        let batch = ClipBatch::settled(mix(self.seed, 121), self.step, self.options.decoder_batch);
        let latents = no_grad(|| {
            let mean = self.model.encode(&batch.pixels.to_kind(KIND)).mean;
            let spread = mean.std_dim([0i64, 2, 3, 4].as_slice(), true, true);
            let amount = Tensor::rand([mean.size()[0], 1, 1, 1, 1], (Kind::Float, mean.device()));
            &mean + mean.randn_like() * amount * spread * self.options.latent_noise
        });
        let loss = reconstruction_loss(&self.model.decode(&latents.to_kind(KIND)), &batch, true);
        let norm = self.optimizer.step(&loss, rate);
        self.step += 1;
        (loss.double_value(&[]), norm)
    }

    fn state(&self) -> State {
        let mut state = self.optimizer.state("model");
        state.push(("step".into(), Tensor::from_slice(&[self.step as i64])));
        state
    }

    /// All weights of the VAE, those of the decoder averaged.
    pub fn weights(&self) -> State {
        let mut weights = self.optimizer.averaged();
        weights.extend(self.encoder.iter().map(|(name, tensor)| (name.clone(), tensor.copy())));
        weights
    }
}

/// Trains (or goes on training) in `dir`, and puts the decoder into `dir/vae.safetensors`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn train(options: &DecoderOptions, seed: u64, dir: &Path) -> Result<()> {
    let mut trainer = DecoderTrainer::new(options, seed, dir)?;
    let saved = dir.join("decoder.checkpoint.safetensors");
    if saved.exists() {
        let state = checkpoint::load(&saved)?;
        trainer.optimizer.restore("model", &state)?;
        trainer.step = checkpoint::get(&state, "step")?.int64_value(&[0]) as u64;
    }
    let mut report = Report::open(dir, "decoder", options, trainer.step, (options.decoder_minutes * 60.0) as u64)?;
    let warmup = 100;
    let schedule = Schedule { peak: options.decoder_rate, warmup, total: 1_000_000 + warmup, floor: 0.02 };
    loop {
        let progress = report.elapsed().as_secs_f64() / (60.0 * options.decoder_minutes);
        if progress >= 1.0 {
            break;
        }
        let at = (progress * 1e6) as u64 + warmup;
        let (loss, norm) = trainer.train_step(schedule.rate(if trainer.step < warmup { trainer.step } else { at }));
        let step = trainer.step;
        if step.is_multiple_of(50) {
            report.log(step, &[("loss", loss), ("norm", norm)])?;
        }
        if step.is_multiple_of(500) {
            checkpoint::save(&saved, &trainer.state())?;
            let model = &trainer.model;
            let score = trainer.optimizer.with_average(|| reconstruct(model, KIND, mix(seed, 83), 48, FRAMES));
            log_score(&mut report, step, &score, dir)?;
        }
    }
    checkpoint::save(&saved, &trainer.state())?;
    checkpoint::save(&dir.join("vae.safetensors"), &trainer.weights())?;
    let model = &trainer.model;
    let score = trainer.optimizer.with_average(|| reconstruct(model, KIND, mix(seed, 83), 300, FRAMES));
    log_score(&mut report, trainer.step, &score, dir)?;
    report.finish("loss")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ltx_video::vae_train::tests::save_untrained_vae;

    #[test]
    fn the_encoder_stays_what_it_was() {
        let _generator = crate::generator();
        let dir = tempfile::tempdir().expect("a folder");
        save_untrained_vae(dir.path());
        let before = checkpoint::load(&dir.path().join("vae.safetensors")).expect("weights");
        let options = DecoderOptions { decoder_minutes: 1.0, decoder_rate: 1e-3, decoder_batch: 1, latent_noise: 0.3 };
        let mut trainer = DecoderTrainer::new(&options, 3, dir.path()).expect("a decoder");
        trainer.train_step(1e-3);
        let after = trainer.weights();
        assert_eq!(after.len(), before.len());
        for (name, tensor) in after {
            assert_eq!(tensor == before[&name], name.starts_with("encoder."), "{name}");
        }
    }
}
