//! Contrastive training: of a batch, each picture must find its caption and each caption its picture.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use sango_shapes::{Prompt, Scene, rng};
use serde::{Deserialize, Serialize};
use tch::nn::{Init, VarStore};
use tch::{Device, Kind, Tensor};

use super::model::{ClipConfig, TextTower, VisionTower};
use super::tokenizer::{POSITIONS, Tokenizer};
use crate::checkpoint::{self, State};
use crate::data::{Batch, mix};
use crate::optim::{AdamW, Optimizer, Schedule};
use crate::report::Report;

/// Tokens that a prompt is padded or cut to: the longest caption of this world and some room.
pub const CONTEXT: i64 = 20;
/// Picture size and patch of the image tower.
const SIZE: i64 = 64;
const PATCH: i64 = 8;

/// How to train the small CLIP.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct ClipOptions {
    /// Steps in all.
    #[arg(long, default_value_t = 800)]
    pub clip_steps: u64,
    /// Pairs per step.
    #[arg(long, default_value_t = 96)]
    pub clip_batch: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1.5e-3)]
    pub clip_rate: f64,
}

/// Both towers in training.
#[derive(Debug)]
pub struct ClipTrainer {
    options: ClipOptions,
    seed: u64,
    tokenizer: Tokenizer,
    text: TextTower,
    vision: VisionTower,
    logit_scale: Tensor,
    optimizer: Optimizer,
    step: u64,
}

/// The tokenizer of this world.
pub fn tokenizer() -> Tokenizer {
    Tokenizer::learn(sango_shapes::VOCABULARY.iter().copied())
}

/// Captions as `[N, length]` ids.
pub fn ids(tokenizer: &Tokenizer, captions: &[String], length: i64) -> Tensor {
    let rows: Vec<i64> = captions.iter().flat_map(|c| tokenizer.encode(c)).collect();
    Tensor::from_slice(&rows).view([-1, POSITIONS as i64]).narrow(1, 0, length)
}

impl ClipTrainer {
    /// Fresh towers.
    ///
    /// # Errors
    /// Never for these sizes; see [`Optimizer::new`].
    pub fn new(options: &ClipOptions, seed: u64) -> Result<Self> {
        tch::manual_seed(mix(seed, 0) as i64);
        let tokenizer = tokenizer();
        let config = ClipConfig::default();
        let vs = VarStore::new(Device::Cpu);
        let root = vs.root();
        let (vocab, positions) = (tokenizer.vocab_size(), POSITIONS as i64);
        let text = TextTower::new(&root, &config, vocab, positions, tokenizer.end());
        let vision = VisionTower::new(&root, &config, SIZE, PATCH);
        let logit_scale = root.var("logit_scale", &[1], Init::Const(2.0));
        let settings = AdamW { weight_decay: 0.05, ema: 0.99, ..AdamW::default() };
        let optimizer = Optimizer::new(&vs, settings, Kind::Float)?;
        Ok(Self { options: options.clone(), seed, tokenizer, text, vision, logit_scale, optimizer, step: 0 })
    }

    fn logits(&self, pixels: &Tensor, captions: &[String]) -> Tensor {
        let unit = |x: Tensor| {
            let norm = x.norm_scalaropt_dim(2.0, [-1i64].as_slice(), true);
            x / norm.clamp_min(1e-6)
        };
        let ids = ids(&self.tokenizer, captions, CONTEXT);
        let images = unit(self.vision.forward(pixels));
        let texts = unit(self.text.forward(&ids).text_embeds);
        let scale = self.logit_scale.clamp(0.0, 4.6).exp();
        images.matmul(&texts.transpose(0, 1)) * scale
    }

    /// One update; returns the loss and the gradient's norm.
    pub fn train_step(&mut self) -> (f64, f64) {
        tch::manual_seed(mix(self.seed, self.step + 1) as i64);
        let n = self.options.clip_batch;
        let batch = Batch::training(mix(self.seed, 11), self.step, n, SIZE as usize);
        let mut rng = rng(mix(mix(self.seed, 12), self.step));
        let prompts: Vec<Prompt> = batch.scenes.iter().map(Scene::prompt).collect();
        let captions: Vec<String> = prompts.iter().map(|p| p.paraphrase(&mut rng)).collect();
        let logits = self.logits(&batch.pixels, &captions);
        let targets = same(&prompts, &prompts);
        let loss =
            (cross_entropy(&logits, &targets) + cross_entropy(&logits.transpose(0, 1), &targets.transpose(0, 1))) * 0.5;
        let schedule =
            Schedule { peak: self.options.clip_rate, warmup: 50, total: self.options.clip_steps, floor: 0.02 };
        let norm = self.optimizer.step(&loss, schedule.rate(self.step));
        self.step += 1;
        (loss.double_value(&[]), norm)
    }

    /// Share of held-out pictures that choose their own caption among those of `pictures` scenes.
    pub fn evaluate(&mut self, pictures: usize) -> f64 {
        let batch = Batch::held_out(mix(self.seed, 13), pictures, SIZE as usize);
        let prompts: Vec<Prompt> = batch.scenes.iter().map(Scene::prompt).collect();
        let captions: Vec<String> = prompts.iter().map(Prompt::caption).collect();
        let logits = tch::no_grad(|| self.logits(&batch.pixels, &captions));
        let chosen = logits.argmax(-1, true);
        let right = same(&prompts, &prompts).gather(1, &chosen, false);
        right.gt(0.0).to_kind(Kind::Float).mean(Kind::Float).double_value(&[])
    }

    /// The text tower alone, under the names of `transformers`.
    fn text_weights(&self) -> State {
        let weights = self.optimizer.weights().into_iter();
        weights.filter(|(name, _)| name.starts_with("text_")).collect()
    }

    fn state(&self) -> State {
        let mut state = self.optimizer.state("model");
        state.push(("step".into(), Tensor::from_slice(&[self.step as i64])));
        state
    }
}

/// `[n, m]`: in each row equal shares for all the prompts that say the same, which are as right as the row's own.
fn same(rows: &[Prompt], columns: &[Prompt]) -> Tensor {
    let equal: Vec<f32> = rows.iter().flat_map(|a| columns.iter().map(move |b| f32::from(u8::from(a == b)))).collect();
    let equal = Tensor::from_slice(&equal).view([rows.len() as i64, columns.len() as i64]);
    &equal / equal.sum_dim_intlist([1i64].as_slice(), true, Kind::Float)
}

fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Tensor {
    let per_row =
        (logits.log_softmax(-1, Kind::Float) * targets).sum_dim_intlist([-1i64].as_slice(), false, Kind::Float);
    -per_row.mean(Kind::Float)
}

/// Trains (or goes on training) in `dir`, ends with `dir/text_encoder.safetensors` (text tower only).
///
/// # Errors
/// When a file cannot be read or written.
pub fn train(options: &ClipOptions, seed: u64, dir: &Path) -> Result<()> {
    let mut trainer = ClipTrainer::new(options, seed)?;
    let saved = dir.join("clip.checkpoint.safetensors");
    if saved.exists() {
        let state = checkpoint::load(&saved)?;
        trainer.optimizer.restore("model", &state)?;
        trainer.step = checkpoint::get(&state, "step")?.int64_value(&[0]) as u64;
    }
    let mut report = Report::open(dir, "clip", options, trainer.step, options.clip_steps)?;
    while trainer.step < options.clip_steps {
        let (loss, norm) = trainer.train_step();
        let step = trainer.step;
        report.tick(step);
        if step.is_multiple_of(20) {
            report.log(step, &[("loss", loss), ("norm", norm)])?;
        }
        if step.is_multiple_of(200) || step == options.clip_steps {
            report.log(step, &[("retrieval", trainer.evaluate(256))])?;
            checkpoint::save(&saved, &trainer.state())?;
        }
    }
    report.finish("loss")?;
    trainer.text.tie_padding_positions(CONTEXT - 1);
    checkpoint::save(&dir.join("text_encoder.safetensors"), &trainer.text_weights())?;
    println!("held-out pictures that chose their caption among 256: {:.3}", trainer.evaluate(256));
    Ok(())
}

/// A text tower with the weights that [`train`] left in `dir`, and its tokenizer.
///
/// # Errors
/// When the file is missing or of another model.
pub fn load_text_tower(dir: &Path) -> Result<(TextTower, Tokenizer)> {
    let tokenizer = tokenizer();
    let mut vs = VarStore::new(Device::Cpu);
    let (vocab, positions) = (tokenizer.vocab_size(), POSITIONS as i64);
    let tower = TextTower::new(&vs.root(), &ClipConfig::default(), vocab, positions, tokenizer.end());
    // Loading writes in place, which libtorch refuses for variables that want gradients.
    vs.freeze();
    vs.read_safetensors(dir.join("text_encoder.safetensors"))?;
    Ok((tower, tokenizer))
}

/// Leaves a text tower with its first random weights in `dir`, for tests of what comes after it.
#[cfg(test)]
pub(crate) fn save_untrained(seed: u64, dir: &Path) -> Result<()> {
    let options = ClipOptions { clip_steps: 1, clip_batch: 2, clip_rate: 1e-3 };
    let trainer = ClipTrainer::new(&options, seed)?;
    checkpoint::save(&dir.join("text_encoder.safetensors"), &trainer.text_weights())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_does_not_change_the_pooled_text() {
        let _generator = crate::generator();
        tch::manual_seed(1);
        let dir = tempfile::tempdir().expect("a folder");
        save_untrained(4, dir.path()).expect("saved");
        let (tower, tokenizer) = load_text_tower(dir.path()).expect("loaded");
        let caption = vec!["a small cyan star".to_owned()];
        let short = tower.forward(&ids(&tokenizer, &caption, 8)).text_embeds;
        let long = tower.forward(&ids(&tokenizer, &caption, POSITIONS as i64)).text_embeds;
        assert!((short - long).abs().max().double_value(&[]) < 1e-5);
    }

    #[test]
    fn equal_prompts_share_their_target() {
        let _generator = crate::generator();
        let a = Prompt { place: Some(sango_shapes::Place::Center), ..Prompt::default() };
        let b = Prompt::default();
        let rows = [a, b, a];
        let targets = same(&rows, &rows);
        assert!((targets.double_value(&[0, 2]) - 0.5).abs() < 1e-6);
        assert_eq!(targets.double_value(&[0, 1]), 0.0);
        assert_eq!(targets.double_value(&[1, 1]), 1.0);
    }

    #[test]
    fn a_few_steps_learn_something() {
        let _generator = crate::generator();
        let options = ClipOptions { clip_steps: 12, clip_batch: 16, clip_rate: 1e-3 };
        let mut trainer = ClipTrainer::new(&options, 6).expect("towers");
        let losses: Vec<f64> = (0..12).map(|_| trainer.train_step().0).collect();
        assert!(losses[9..].iter().sum::<f64>() < losses[..3].iter().sum::<f64>(), "{losses:?}");
    }
}
