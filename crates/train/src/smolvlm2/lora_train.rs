//! Tuning: the model stays as it is, and adapters on its layers learn the answers of a list.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rand::seq::index::sample;
use sango_shapes::rng;
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Reduction, Tensor};

use super::evaluate::write_clips;
use super::llama::Caches;
use super::lora::{self, AdapterOptions, Part};
use super::lora_data::{Sample, Samples};
use super::model::{SmolVlm, causal};
use crate::checkpoint;
use crate::data::mix;
use crate::optim::{AdamW, Optimizer, Schedule};
use crate::report::Report;

/// Questions about each clip, where the clips are drawn.
const ASKS: usize = 6;

/// What to tune, and how.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct LoraOptions {
    /// The SmolVLM2 folder to tune.
    #[arg(long)]
    pub model: PathBuf,
    /// A JSONL list of {"media": PATH, "question": TEXT, "answer": TEXT}; without one, stories of the shapes world are
    /// drawn.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// How many stories to draw.
    #[arg(long, default_value_t = 200)]
    pub clips: usize,
    /// Steps in all.
    #[arg(long, default_value_t = 500)]
    pub steps: u64,
    /// Questions per step.
    #[arg(long, default_value_t = 8)]
    pub batch: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1e-3)]
    pub rate: f64,
    /// One question in this many is not learned, but asked to see how well the rest carries over.
    #[arg(long, default_value_t = 10)]
    pub hold_out: usize,
    /// Compute in bf16 instead of f32.
    #[arg(long)]
    pub bf16: bool,
    /// The adapters.
    #[command(flatten)]
    pub adapter: AdapterOptions,
}

/// A model with adapters in training.
#[derive(Debug)]
pub struct LoraTrainer {
    options: LoraOptions,
    seed: u64,
    // Keeps the frozen variables of the model alive.
    _base: VarStore,
    model: SmolVlm,
    optimizer: Optimizer,
    samples: Samples,
    /// Features of each file, once it was looked at by a tower that does not change.
    seen: Vec<Option<Tensor>>,
    learned: Vec<usize>,
    held_out: Vec<usize>,
    step: u64,
}

impl LoraTrainer {
    /// Fresh adapters on the model that `options` names, for the questions of `samples`.
    ///
    /// # Errors
    /// When the model cannot be opened or no layer matches.
    pub fn new(options: &LoraOptions, seed: u64, samples: Samples) -> Result<Self> {
        ensure!(options.batch > 0 && options.hold_out > 1, "--batch must not be 0, and --hold-out at least 2");
        let kind = if options.bf16 { Kind::BFloat16 } else { Kind::Float };
        let (base, mut model) = SmolVlm::load(&options.model, kind)?;
        tch::manual_seed(mix(seed, 95) as i64);
        let vs = VarStore::new(Device::Cpu);
        lora::install(&mut model, &vs.root(), &options.adapter)?;
        let settings = AdamW { weight_decay: 0.0, beta2: 0.999, ema: 0.0, ..AdamW::default() };
        let optimizer = Optimizer::new(&vs, settings, kind)?;
        let (held_out, learned) = (0..samples.samples.len()).partition(|i| i % options.hold_out == 0);
        let learned: Vec<usize> = learned;
        ensure!(!learned.is_empty(), "one question is not enough: some are kept to ask afterwards");
        let seen = samples.media.iter().map(|_| None).collect();
        Ok(Self {
            options: options.clone(),
            seed,
            _base: base,
            model,
            optimizer,
            samples,
            seen,
            learned,
            held_out,
            step: 0,
        })
    }

    /// Number of parameters that learn.
    pub fn parameters(&self) -> usize {
        self.optimizer.len()
    }

    /// Features of a file; a tower without adapters looks at it once only.
    fn features(&mut self, media: usize, train: bool) -> Result<Tensor> {
        if let Some(features) = &self.seen[media] {
            return Ok(features.shallow_clone());
        }
        let (pixels, mask) = self.samples.media[media].pixels()?;
        let pixels = pixels.to_kind(if self.options.bf16 { Kind::BFloat16 } else { Kind::Float });
        if self.options.adapter.part == Part::Text {
            let features = tch::no_grad(|| self.model.image_features(&pixels, mask.as_ref(), false));
            self.seen[media] = Some(features.shallow_clone());
            return Ok(features);
        }
        Ok(self.model.image_features(&pixels, mask.as_ref(), train))
    }

    /// Logits (f32) and targets of a question's answer.
    fn answer(&mut self, sample: &Sample, train: bool) -> Result<(Tensor, Tensor)> {
        let features = self.features(sample.media, train)?;
        let model = &self.model;
        // The end of the answer is predicted, not fed.
        let fed: Vec<i64> = sample.prompt.iter().chain(&sample.answer[..sample.answer.len() - 1]).copied().collect();
        let (len, answer) = (fed.len() as i64, sample.answer.len() as i64);
        let embeds = model.embed(&Tensor::from_slice(&fed).unsqueeze(0), Some(&features))?;
        let positions = Tensor::arange(len, (Kind::Int64, Device::Cpu)).unsqueeze(0);
        let hidden = model.text_model.forward(&embeds, &positions, &causal(len, len), &mut Caches::new(), train);
        let logits = model.head(&hidden.squeeze_dim(0).narrow(0, len - answer, answer)).to_kind(Kind::Float);
        Ok((logits, Tensor::from_slice(&sample.answer)))
    }

    /// One update at the given rate; returns the loss (the mean over answers of the mean over tokens) and the gradient's
    /// norm.
    ///
    /// # Errors
    /// When a prompt does not fit the model.
    pub fn train_step(&mut self, rate: f64) -> Result<(f64, f64)> {
        tch::manual_seed(mix(self.seed, self.step + 1) as i64);
        let mut rng = rng(mix(mix(self.seed, 96), self.step));
        let batch = self.options.batch.min(self.learned.len());
        let none: Option<&Tensor> = None;
        let mut losses = Vec::new();
        for i in sample(&mut rng, self.learned.len(), batch) {
            let chosen = self.samples.samples[self.learned[i]].clone();
            let (logits, targets) = self.answer(&chosen, true)?;
            losses.push(logits.cross_entropy_loss(&targets, none, Reduction::Mean, -100, 0.0));
        }
        let loss = Tensor::stack(&losses, 0).mean(Kind::Float);
        let norm = self.optimizer.step(&loss, rate);
        self.step += 1;
        Ok((loss.double_value(&[]), norm))
    }

    /// Mean loss of the questions that are not learned, and the share of them answered exactly.
    ///
    /// # Errors
    /// When a prompt does not fit the model.
    pub fn evaluate(&mut self) -> Result<(f64, f64)> {
        let none: Option<&Tensor> = None;
        let (mut loss, mut right) = (0.0, 0);
        for at in self.held_out.clone() {
            let asked = self.samples.samples[at].clone();
            let (logits, targets) = tch::no_grad(|| self.answer(&asked, false))?;
            loss += logits.cross_entropy_loss(&targets, none, Reduction::Mean, -100, 0.0).double_value(&[]);
            right += usize::from(logits.argmax(-1, false) == targets);
        }
        let of = self.held_out.len() as f64;
        Ok((loss / of, right as f64 / of))
    }

    /// Writes the adapters as PEFT does.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, out: &Path) -> Result<()> {
        let base = std::fs::canonicalize(&self.options.model).context("the model's folder")?;
        lora::save(out, &base, &self.options.adapter, self.optimizer.weights())
    }
}

/// Trains (or goes on training) in `dir`, and writes the adapter to `out`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn train(options: &LoraOptions, seed: u64, dir: &Path, out: &Path) -> Result<()> {
    let list = match &options.data {
        Some(list) => list.clone(),
        None => write_clips(options.clips, ASKS, seed, &dir.join("lora-clips"))?,
    };
    let mut trainer = LoraTrainer::new(options, seed, Samples::read(&list, &options.model)?)?;
    let saved = dir.join("lora.checkpoint.safetensors");
    if saved.exists() {
        let state = checkpoint::load(&saved)?;
        trainer.optimizer.restore("lora", &state)?;
        trainer.step = trainer.optimizer.step_count();
    }
    println!(
        "{:.3} M parameters learn, on {} questions about {} files",
        trainer.parameters() as f64 / 1e6,
        trainer.learned.len(),
        trainer.samples.media.len()
    );
    let mut report = Report::open(dir, "lora", options, trainer.step, options.steps)?;
    let schedule =
        Schedule { peak: options.rate, warmup: (options.steps / 20).max(1), total: options.steps, floor: 0.02 };
    let scored = |trainer: &mut LoraTrainer, report: &mut Report| -> Result<()> {
        let (loss, right) = trainer.evaluate()?;
        report.log(trainer.step, &[("held_out_loss", loss), ("held_out_right", right)])
    };
    scored(&mut trainer, &mut report)?;
    while trainer.step < options.steps {
        let (loss, norm) = trainer.train_step(schedule.rate(trainer.step))?;
        let step = trainer.step;
        report.tick(step);
        if step.is_multiple_of(10) {
            report.log(step, &[("loss", loss), ("norm", norm)])?;
        }
        if step.is_multiple_of(100) {
            checkpoint::save(&saved, &trainer.optimizer.state("lora"))?;
        }
    }
    scored(&mut trainer, &mut report)?;
    trainer.save(out)?;
    report.finish("loss")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::smolvlm2::config::SmolVlmConfig;
    use crate::smolvlm2::export::write_settings;
    use crate::smolvlm2::tokenizer::ShapesTokenizer;

    /// A small model with random weights, as a folder.
    fn folder(dir: &Path) {
        tch::manual_seed(5);
        let tokenizer = ShapesTokenizer::learn().expect("a tokenizer");
        let mut config = SmolVlmConfig::shapes(tokenizer.vocab_size(), tokenizer.image);
        (config.text.num_hidden_layers, config.vision.num_hidden_layers) = (2, 1);
        let vs = VarStore::new(Device::Cpu);
        let _model = SmolVlm::new(&vs.root(), &config);
        let weights: BTreeMap<String, Tensor> =
            vs.variables().into_iter().map(|(name, t)| (name, t.detach().to_kind(Kind::BFloat16))).collect();
        checkpoint::save_weights(&dir.join("model.safetensors"), &weights).expect("saved");
        write_settings(&config, &tokenizer, dir).expect("saved");
    }

    fn options(model: &Path, part: Part) -> LoraOptions {
        let target_modules = ["q_proj", "v_proj", "down_proj"].map(str::to_owned).to_vec();
        LoraOptions {
            model: model.to_owned(),
            data: None,
            clips: 3,
            steps: 20,
            batch: 4,
            rate: 1e-2,
            hold_out: 6,
            bf16: false,
            adapter: AdapterOptions { rank: 4, alpha: 8.0, dropout: 0.0, target_modules, part },
        }
    }

    #[test]
    fn the_loss_falls_and_the_adapter_is_what_peft_writes() {
        let _generator = crate::generator();
        let dir = tempfile::tempdir().expect("a folder");
        folder(dir.path());
        let list = write_clips(3, 4, 1, &dir.path().join("clips")).expect("clips");
        let options = options(dir.path(), Part::Text);
        let samples = Samples::read(&list, dir.path()).expect("samples");
        assert_eq!((samples.media.len(), samples.samples.len()), (3, 12));
        let mut trainer = LoraTrainer::new(&options, 3, samples).expect("adapters");
        let losses: Vec<f64> = (0..20).map(|_| trainer.train_step(1e-2).expect("a step").0).collect();
        assert!(losses[16..].iter().sum::<f64>() < 0.8 * losses[..4].iter().sum::<f64>(), "{losses:?}");

        let out = dir.path().join("adapter");
        trainer.save(&out).expect("saved");
        let weights = checkpoint::load(&out.join("adapter_model.safetensors")).expect("read");
        let sizes: Vec<(&str, Vec<i64>)> = weights.iter().map(|(name, t)| (name.as_str(), t.size())).collect();
        // As `peft` 0.21 names and shapes them for this model.
        let layer = |i: usize, part: &str| format!("base_model.model.model.text_model.layers.{i}.{part}.weight");
        let expected: Vec<(String, Vec<i64>)> = (0..2)
            .flat_map(|i| {
                [
                    (layer(i, "mlp.down_proj.lora_A"), vec![4, 512]),
                    (layer(i, "mlp.down_proj.lora_B"), vec![192, 4]),
                    (layer(i, "self_attn.q_proj.lora_A"), vec![4, 192]),
                    (layer(i, "self_attn.q_proj.lora_B"), vec![192, 4]),
                    (layer(i, "self_attn.v_proj.lora_A"), vec![4, 192]),
                    (layer(i, "self_attn.v_proj.lora_B"), vec![64, 4]),
                ]
            })
            .collect();
        assert_eq!(sizes, expected.iter().map(|(name, size)| (name.as_str(), size.clone())).collect::<Vec<_>>());

        let scores = trainer.evaluate().expect("scores");
        let samples = Samples::read(&list, dir.path()).expect("samples");
        let mut other = LoraTrainer::new(&options, 4, samples).expect("adapters");
        assert_ne!(other.evaluate().expect("scores"), scores);
        lora::load(&mut other.model, &out).expect("loaded");
        assert_eq!(other.evaluate().expect("scores"), scores);
    }

    #[test]
    fn the_vision_tower_can_be_tuned_too() {
        let _generator = crate::generator();
        let dir = tempfile::tempdir().expect("a folder");
        folder(dir.path());
        let list = write_clips(2, 3, 1, &dir.path().join("clips")).expect("clips");
        let read = || Samples::read(&list, dir.path()).expect("samples");
        let mut trainer = LoraTrainer::new(&options(dir.path(), Part::Vision), 3, read()).expect("adapters");
        let before = trainer.optimizer.weights();
        trainer.train_step(1e-2).expect("a step");
        trainer.train_step(1e-2).expect("a step");
        let after = trainer.optimizer.weights();
        assert!(before.iter().zip(&after).all(|((_, a), (_, b))| a != b), "every adapter learns");
        let mut nothing = options(dir.path(), Part::Vision);
        nothing.adapter.target_modules = vec!["gate_proj".into()];
        let error = LoraTrainer::new(&nothing, 3, read()).expect_err("no such layer there");
        assert!(error.to_string().contains("gate_proj"), "{error}");
    }

    #[test]
    fn a_bad_list_is_refused_with_its_line() {
        let dir = tempfile::tempdir().expect("a folder");
        folder(dir.path());
        let list = dir.path().join("list.jsonl");
        let good = r#"{"media": "missing.mp4", "question": "What?", "answer": "that"}"#;
        for (text, word) in [("", "empty"), ("\n{}", "line 2"), (good, "missing.mp4")] {
            std::fs::write(&list, text).expect("written");
            let error = Samples::read(&list, dir.path()).expect_err("refused");
            assert!(format!("{error:#}").contains(word), "{error:#}");
        }
    }
}
