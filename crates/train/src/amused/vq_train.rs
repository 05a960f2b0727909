//! Training of the VQ model, optionally with an adversary.
//!
//! By default the codes are those of [`super::patches`]: the encoder learns to name each patch's code, the decoder to
//! draw from codes. With `--learn-codebook` the model finds its own: a plain autoencoder first, then k-means on its
//! latents, then a moving average, with the straight-through gradient.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Reduction, Tensor};

use super::codebook::{EmaCodebook, kmeans};
use super::discriminator::PatchDiscriminator;
use super::patches::PatchCodebook;
use super::vq_loss::{flat_cells, flat_spread, reconstruction_loss, unique};
use super::vq_model::{VqConfig, VqModel, nearest_codes};
use crate::checkpoint::{self, State};
use crate::data::{Batch, mix, save_sheet, to_rgb};
use crate::judge;
use crate::optim::{AdamW, Optimizer, Schedule};
use crate::report::Report;

/// How to train the VQ model.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct VqOptions {
    /// Steps in all.
    #[arg(long, default_value_t = 6000)]
    pub vq_steps: u64,
    /// Learn the codebook with the model instead of taking it from patches.
    #[arg(long)]
    pub learn_codebook: bool,
    /// Steps as a plain autoencoder before a learned codebook.
    #[arg(long, default_value_t = 800)]
    pub vq_warmup: u64,
    /// Pictures per step.
    #[arg(long, default_value_t = 8)]
    pub vq_batch: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 2e-3)]
    pub vq_rate: f64,
    /// Number of codes of a learned codebook (that of the patches has its own).
    #[arg(long, default_value_t = 512)]
    pub learned_codes: i64,
    /// Dimensions of a learned code.
    #[arg(long, default_value_t = 16)]
    pub learned_dim: i64,
    /// Width of each level; every level but the last halves the picture.
    #[arg(long, value_delimiter = ',', default_values_t = [32, 32, 32, 32])]
    pub vq_widths: Vec<i64>,
    /// Resnets per level of the encoder (the decoder has one more).
    #[arg(long, default_value_t = 0)]
    pub vq_layers: i64,
    /// Weight of the adversary's loss; 0 trains without one.
    #[arg(long, default_value_t = 0.0)]
    pub gan: f64,
    /// Compute in f32 instead of bf16.
    #[arg(long)]
    pub vq_f32: bool,
}

impl VqOptions {
    /// The model that these options ask for, with as many codes and dimensions as `codebook` has.
    fn config(&self, codebook: Option<&PatchCodebook>) -> VqConfig {
        let codes = codebook.map_or(self.learned_codes, |book| book.vectors.size()[0]);
        let dim = codebook.map_or(self.learned_dim, |book| book.vectors.size()[1]);
        VqConfig {
            block_out_channels: self.vq_widths.clone(),
            layers_per_block: self.vq_layers,
            num_vq_embeddings: codes,
            latent_channels: dim,
            vq_embed_dim: dim,
            ..VqConfig::default()
        }
    }
}

/// The model in training, with all its state.
#[derive(Debug)]
pub struct VqTrainer {
    options: VqOptions,
    config: VqConfig,
    seed: u64,
    model: VqModel,
    optimizer: Optimizer,
    codebook: EmaCodebook,
    teacher: Option<PatchCodebook>,
    kind: Kind,
    adversary: Option<(PatchDiscriminator, Optimizer)>,
    step: u64,
}

/// What one step measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VqLosses {
    /// Weighted reconstruction, L1 + 2·L2.
    pub reconstruction: f64,
    /// Distance of the latents from their codes.
    pub commitment: f64,
    /// Spread of the latents of flat background.
    pub flat: f64,
    /// Norm of the gradient.
    pub norm: f64,
}

impl VqTrainer {
    /// A fresh model, on the codes of `teacher` if there is one.
    ///
    /// # Errors
    /// When the options describe no model, or one that does not fit the teacher.
    pub fn new(options: &VqOptions, seed: u64, teacher: Option<PatchCodebook>) -> Result<Self> {
        let config = options.config(teacher.as_ref());
        ensure!(
            config.block_out_channels.iter().all(|w| w % config.norm_num_groups == 0),
            "every width of --vq-widths must be a multiple of {}",
            config.norm_num_groups
        );
        tch::manual_seed(mix(seed, 0) as i64);
        let vs = VarStore::new(Device::Cpu);
        let model = VqModel::new(&vs.root(), &config);
        // Counted, not trained: see `codebook`.
        let _ = model.codebook().set_requires_grad(false);
        if let Some(teacher) = &teacher {
            tch::no_grad(|| model.codebook().shallow_clone().copy_(&teacher.vectors));
        }
        let settings = AdamW { weight_decay: 0.0, ema: 0.998, ..AdamW::default() };
        let kind = if options.vq_f32 { Kind::Float } else { Kind::BFloat16 };
        let optimizer = Optimizer::new(&vs, settings, kind)?;
        let adversary = if options.gan > 0.0 {
            let vs = VarStore::new(Device::Cpu);
            let network = PatchDiscriminator::new(&vs.root(), 32);
            let settings = AdamW { beta1: 0.5, ..settings };
            Some((network, Optimizer::new(&vs, settings, Kind::Float)?))
        } else {
            None
        };
        let codebook = EmaCodebook::new(model.codebook(), 0.99);
        Ok(Self {
            options: options.clone(),
            config,
            seed,
            model,
            optimizer,
            codebook,
            teacher,
            kind,
            adversary,
            step: 0,
        })
    }

    /// Whether the codebook is in use yet.
    fn quantizes(&self) -> bool {
        self.teacher.is_some() || self.step >= self.options.vq_warmup
    }

    fn rate(&self) -> f64 {
        let schedule = Schedule { peak: self.options.vq_rate, warmup: 100, total: self.options.vq_steps, floor: 0.02 };
        schedule.rate(self.step)
    }

    /// One update.
    pub fn train_step(&mut self) -> VqLosses {
        tch::manual_seed(mix(self.seed, self.step + 1) as i64);
        if self.teacher.is_none() && self.step == self.options.vq_warmup {
            self.start_codebook();
        }
        let size = self.config.sample_size as usize;
        let batch = Batch::training(self.seed, self.step, self.options.vq_batch, size);
        let latents = self.model.encode(&batch.pixels.to_kind(self.kind)).to_kind(Kind::Float);
        let mut losses = VqLosses::default();
        let (decoder_input, mut loss) = match &self.teacher {
            Some(teacher) => self.taught(teacher, &batch, &latents, &mut losses),
            None => self.quantized(&batch, &latents, &mut losses),
        };
        let decoded = self.model.decode(&decoder_input.to_kind(self.kind)).to_kind(Kind::Float);
        let reconstruction = reconstruction_loss(&decoded, &batch);
        losses.reconstruction = reconstruction.double_value(&[]);
        loss += reconstruction;
        let rate = self.rate();
        let warm = self.step >= self.options.vq_warmup;
        if let Some((network, optimizer)) = self.adversary.as_mut().filter(|_| warm) {
            let judged = network.loss(&batch.pixels, &decoded);
            optimizer.step(&judged, rate * 0.25);
            loss += network.generator_loss(&decoded) * self.options.gan;
        }
        losses.norm = self.optimizer.step(&loss, rate);
        self.step += 1;
        losses
    }

    /// The codes of the teacher for the decoder, and how far the encoder is from naming them.
    fn taught(
        &self,
        teacher: &PatchCodebook,
        batch: &Batch,
        latents: &Tensor,
        losses: &mut VqLosses,
    ) -> (Tensor, Tensor) {
        let (n, _, h, w) = latents.size4().unwrap_or((0, 0, 0, 0));
        let codes = self.model.lookup(&teacher.tokenize(batch).view([n, h, w]));
        let commitment = latents.mse_loss(&codes, Reduction::Mean);
        losses.commitment = commitment.double_value(&[]);
        (codes, commitment * 0.5)
    }

    /// The latents for the decoder, quantised once the codebook is in use, and what keeps them near their codes.
    fn quantized(&mut self, batch: &Batch, latents: &Tensor, losses: &mut VqLosses) -> (Tensor, Tensor) {
        let flat_loss = flat_spread(latents, batch);
        losses.flat = flat_loss.double_value(&[]);
        if !self.quantizes() {
            return (latents.shallow_clone(), flat_loss);
        }
        let (n, dim, h, w) = latents.size4().unwrap_or((0, 0, 0, 0));
        let flat = latents.permute([0, 2, 3, 1]).reshape([n * h * w, dim]);
        let ids = nearest_codes(&flat, self.model.codebook());
        let codes = self.model.lookup(&ids.view([n, h, w]));
        let commitment = latents.mse_loss(&codes, Reduction::Mean);
        losses.commitment = commitment.double_value(&[]);
        let settled = self.step * 10 > self.options.vq_steps * 8;
        let mut table = self.model.codebook().shallow_clone();
        self.codebook.update(&mut table, &flat, &ids, !settled);
        let straight = latents + (codes - latents).detach();
        (straight, flat_loss + commitment * 0.25)
    }

    /// Puts the codes where the autoencoder's latents are.
    fn start_codebook(&mut self) {
        let size = self.config.sample_size as usize;
        let latents = tch::no_grad(|| {
            let parts: Vec<Tensor> = (0..32)
                .map(|i| {
                    let batch = Batch::training(mix(self.seed, 7), i, 16, size);
                    let z = self.model.encode(&batch.pixels.to_kind(self.kind)).to_kind(Kind::Float);
                    z.permute([0, 2, 3, 1]).reshape([-1, self.config.vq_embed_dim])
                })
                .collect();
            Tensor::cat(&parts, 0)
        });
        let centres = kmeans(&latents, self.config.num_vq_embeddings, 10);
        tch::no_grad(|| self.model.codebook().shallow_clone().copy_(&centres));
        self.codebook = EmaCodebook::new(&centres, 0.99);
        self.optimizer.reset_average();
    }

    /// Share of held-out pictures whose every attribute the oracle still reads after encoding and decoding, the
    /// peak signal-to-noise ratio in dB, and the pictures (original above its reconstruction).
    pub fn evaluate(&mut self, pictures: usize) -> VqScore {
        let size = self.config.sample_size as usize;
        let batch = Batch::held_out(self.seed, pictures, size);
        let quantizes = self.quantizes();
        let (model, kind) = (&self.model, self.kind);
        let (decoded, ids) = self.optimizer.with_average(|| {
            tch::no_grad(|| {
                let mut outs = Vec::new();
                let mut ids = Vec::new();
                for part in batch.pixels.split(64, 0) {
                    let z = model.encode(&part.to_kind(kind)).to_kind(Kind::Float);
                    let id = model.nearest(&z);
                    let z = if quantizes { model.lookup(&id) } else { z };
                    outs.push(model.decode(&z.to_kind(kind)).to_kind(Kind::Float).clamp(0.0, 1.0));
                    ids.push(id);
                }
                (Tensor::cat(&outs, 0), Tensor::cat(&ids, 0))
            })
        });
        let mse = decoded.mse_loss(&batch.pixels, Reduction::Mean).double_value(&[]);
        let rgb = to_rgb(&decoded);
        let prompts: Vec<_> = batch.scenes.iter().map(|s| s.prompt()).collect();
        let flat = flat_cells(&batch, self.config.grid());
        let (used, flat_used) = (unique(&ids), unique(&ids.masked_select(&flat)));
        VqScore {
            right: judge::tally(&prompts, &rgb, size),
            psnr: -10.0 * mse.log10(),
            codes_used: used,
            flat_codes: flat_used,
            originals: to_rgb(&batch.pixels),
            decoded: rgb,
        }
    }

    fn state(&self) -> State {
        let mut state = self.optimizer.state("model");
        if let Some((_, optimizer)) = &self.adversary {
            state.extend(optimizer.state("adversary"));
        }
        state.push(("codebook".into(), self.model.codebook().copy()));
        state.push(("codebook.counts".into(), self.codebook.counts.copy()));
        state.push(("codebook.sums".into(), self.codebook.sums.copy()));
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

    /// Continues from what [`VqTrainer::save`] wrote.
    ///
    /// # Errors
    /// When the file is missing or of another model.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let state = checkpoint::load(path)?;
        self.optimizer.restore("model", &state)?;
        if let Some((_, optimizer)) = &mut self.adversary {
            optimizer.restore("adversary", &state)?;
        }
        let get = |name: &str| checkpoint::get(&state, name);
        tch::no_grad(|| -> Result<()> {
            self.model.codebook().shallow_clone().f_copy_(get("codebook")?)?;
            self.codebook.counts.f_copy_(get("codebook.counts")?)?;
            self.codebook.sums.f_copy_(get("codebook.sums")?)?;
            Ok(())
        })?;
        self.step = get("step")?.int64_value(&[0]) as u64;
        Ok(())
    }

    /// The weights to ship: averaged, with the codebook, under the names of `diffusers`.
    pub fn weights(&self) -> State {
        let mut weights = self.optimizer.averaged();
        weights.push(("quantize.embedding.weight".into(), self.model.codebook().copy()));
        weights
    }
}

/// Result of [`VqTrainer::evaluate`].
#[derive(Debug)]
pub struct VqScore {
    /// What the oracle read.
    pub right: judge::Tally,
    /// Peak signal-to-noise ratio in dB.
    pub psnr: f64,
    /// Distinct codes in the pictures.
    pub codes_used: i64,
    /// Distinct codes among cells of plain background.
    pub flat_codes: i64,
    /// The pictures as drawn.
    pub originals: Vec<Vec<u8>>,
    /// The same after encoding and decoding.
    pub decoded: Vec<Vec<u8>>,
}

/// Trains (or goes on training) in `dir`, ends with `dir/vq.safetensors`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn train(options: &VqOptions, seed: u64, dir: &Path) -> Result<judge::Tally> {
    let teacher = match options.learn_codebook {
        true => None,
        false => Some(PatchCodebook::load(&dir.join("codebook.safetensors"))?),
    };
    let mut trainer = VqTrainer::new(options, seed, teacher)?;
    let saved: PathBuf = dir.join("vq.checkpoint.safetensors");
    if saved.exists() {
        trainer.resume(&saved)?;
    }
    let mut report = Report::open(dir, "vq", options, trainer.step, options.vq_steps)?;
    while trainer.step < options.vq_steps {
        let losses = trainer.train_step();
        let step = trainer.step;
        report.tick(step);
        if step.is_multiple_of(50) {
            report.log(
                step,
                &[
                    ("loss", losses.reconstruction),
                    ("commitment", losses.commitment),
                    ("flat", losses.flat),
                    ("norm", losses.norm),
                ],
            )?;
        }
        if step.is_multiple_of(500) || step == options.vq_steps {
            let score = trainer.evaluate(256);
            report.log(step, &score.summary())?;
            save_comparison(&score, trainer.config.sample_size as u32, &dir.join("vq-samples.png"))?;
            trainer.save(&saved)?;
            checkpoint::save(&dir.join("vq.safetensors"), &trainer.weights())?;
            std::fs::write(dir.join("vq.json"), serde_json::to_string_pretty(&trainer.config)?)?;
        }
    }
    report.finish("loss")?;
    let score = trainer.evaluate(1000);
    println!("reconstructions of 1000 held-out pictures: {}", score.right);
    Ok(score.right)
}

impl VqScore {
    fn summary(&self) -> Vec<(&'static str, f64)> {
        let mut values = self.right.shares();
        values.push(("psnr", self.psnr));
        values.push(("codes_used", self.codes_used as f64));
        values.push(("flat_codes", self.flat_codes as f64));
        values
    }
}

fn save_comparison(score: &VqScore, size: u32, path: &Path) -> Result<()> {
    let mut sheet = Vec::new();
    for row in 0..4 {
        for set in [&score.originals, &score.decoded] {
            sheet.extend(set.iter().skip(row * 16).take(16).cloned());
        }
    }
    save_sheet(&sheet, size, 16, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amused::patches::PatchOptions;
    use crate::optim::tests::same;

    fn options() -> VqOptions {
        VqOptions {
            vq_steps: 8,
            learn_codebook: false,
            vq_warmup: 2,
            vq_batch: 2,
            vq_rate: 1e-3,
            learned_codes: 16,
            learned_dim: 4,
            vq_widths: vec![8, 8, 8, 8],
            vq_layers: 0,
            gan: 0.1,
            vq_f32: false,
        }
    }

    fn teacher(learned: bool) -> Option<PatchCodebook> {
        let options = PatchOptions { codes: 16, code_dim: 4, patch_pictures: 16 };
        (!learned).then(|| PatchCodebook::learn(&options, 1))
    }

    #[test]
    fn a_resumed_run_is_the_same_bit_for_bit() {
        let _generator = crate::generator();
        let dir = tempfile::tempdir().expect("a folder");
        for learned in [false, true] {
            let path = dir.path().join(format!("{learned}.safetensors"));
            let mut straight = VqTrainer::new(&options(), 3, teacher(learned)).expect("a model");
            (0..3).for_each(|_| {
                straight.train_step();
            });
            straight.save(&path).expect("saved");
            let last = (0..2).map(|_| straight.train_step()).last();

            let mut resumed = VqTrainer::new(&options(), 99, teacher(learned)).expect("a model");
            resumed.seed = 3;
            resumed.resume(&path).expect("resumed");
            let again = (0..2).map(|_| resumed.train_step()).last();
            assert_eq!(last, again);
            same(&straight.weights(), &resumed.weights());
        }
    }

    #[test]
    fn an_adversary_changes_the_training() {
        let _generator = crate::generator();
        let train = |gan: f64| {
            let options = VqOptions { gan, ..options() };
            let mut trainer = VqTrainer::new(&options, 3, teacher(false)).expect("a model");
            (0..4).map(|_| trainer.train_step()).last().map(|losses| losses.norm)
        };
        assert_ne!(train(0.0), train(1.0));
    }

    #[test]
    fn a_few_steps_reduce_the_loss() {
        let _generator = crate::generator();
        let options = VqOptions { vq_steps: 40, vq_rate: 4e-3, gan: 0.0, vq_batch: 4, ..options() };
        let mut trainer = VqTrainer::new(&options, 5, teacher(false)).expect("a model");
        let losses: Vec<f64> = (0..40).map(|_| trainer.train_step().reconstruction).collect();
        assert!(losses[30..].iter().sum::<f64>() < 0.8 * losses[..10].iter().sum::<f64>(), "{losses:?}");
    }
}
