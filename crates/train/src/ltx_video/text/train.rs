//! Training of the text encoder: small heads on the mean of a prompt's tokens name what the prompt names. They are
//! thrown away; the transformer then reads from the tokens.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Result, ensure};
use clap::Args;
use rand::{Rng, RngExt};
use sango_shapes::{Background, Clip, Colour, Motion, Prompt, Shape, Size, rng};
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Reduction, Tensor};

use super::config::T5Config;
use super::t5::T5EncoderModel;
use super::tokenizer::T5Tokenizer;
use crate::checkpoint;
use crate::data::mix;
use crate::nn::Linear;
use crate::optim::{AdamW, Optimizer, Schedule};
use crate::report::Report;

/// Values of each attribute that a prompt may name; one more for those that it leaves open.
const ATTRIBUTES: [usize; 5] = [Shape::COUNT, Colour::COUNT, Size::COUNT, Background::COUNT, Motion::COUNT];

/// How to train the text encoder.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct TextOptions {
    /// Steps in all.
    #[arg(long, default_value_t = 400)]
    pub text_steps: u64,
    /// Prompts per step.
    #[arg(long, default_value_t = 64)]
    pub text_batch: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 2e-3)]
    pub text_rate: f64,
}

/// What a person might write for a clip: one prompt in six leaves something open, some end with a full stop.
pub fn write_prompt(clip: &Clip, rng: &mut impl Rng) -> (Prompt, String) {
    let mut prompt = clip.prompt();
    if rng.random_ratio(1, 6) {
        match rng.random_range(0..5) {
            0 => prompt.size = None,
            1 => prompt.background = None,
            2 => prompt.colour = None,
            3 => prompt.motion = None,
            _ => (prompt.size, prompt.background) = (None, None),
        }
    }
    let mut text = if rng.random_ratio(4, 5) { prompt.caption() } else { prompt.paraphrase(rng) };
    if rng.random_ratio(1, 10) {
        text.push('.');
    }
    if rng.random_ratio(1, 10)
        && let Some((word, rest)) = text.split_once(' ')
        && matches!(word, "a" | "small" | "large")
    {
        let (first, others) = word.split_at(1);
        text = format!("{}{others} {rest}", first.to_uppercase());
    }
    (prompt, text)
}

fn labels(prompt: &Prompt) -> [i64; 5] {
    let values = [
        prompt.shape.map(Shape::index),
        prompt.colour.map(Colour::index),
        prompt.size.map(Size::index),
        prompt.background.map(Background::index),
        prompt.motion.map(Motion::index),
    ];
    let mut labels = [0; 5];
    for (i, value) in values.into_iter().enumerate() {
        labels[i] = value.unwrap_or(ATTRIBUTES[i]) as i64;
    }
    labels
}

#[derive(Debug)]
struct TextTrainer {
    tokenizer: T5Tokenizer,
    model: T5EncoderModel,
    heads: Vec<Linear>,
    optimizer: Optimizer,
    seed: u64,
    step: u64,
}

impl TextTrainer {
    fn new(seed: u64) -> Result<Self> {
        tch::manual_seed(mix(seed, 91) as i64);
        let tokenizer = T5Tokenizer::shapes()?;
        let config = T5Config::shapes(tokenizer.vocab_size());
        let vs = VarStore::new(Device::Cpu);
        let model = T5EncoderModel::new(&(vs.root() / "model"), &config);
        let heads = ATTRIBUTES
            .iter()
            .enumerate()
            .map(|(i, &values)| Linear::new(&(vs.root() / "heads" / i), config.d_model, values as i64 + 1, true))
            .collect();
        let settings = AdamW { weight_decay: 0.0, ema: 0.98, ..AdamW::default() };
        let optimizer = Optimizer::new(&vs, settings, Kind::Float)?;
        Ok(Self { tokenizer, model, heads, optimizer, seed, step: 0 })
    }

    /// The loss on training prompts, and the share of attributes that are named right.
    fn losses(&self, prompts: usize, held_out: bool) -> Result<(Tensor, f64)> {
        let mut rng = rng(mix(mix(self.seed, 92 + u64::from(held_out)), self.step));
        let (mut ids, mut weights, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..prompts {
            let clip = if held_out { Clip::sample_held_out(&mut rng) } else { Clip::sample_training(&mut rng) };
            let (prompt, text) = write_prompt(&clip, &mut rng);
            let (tokens, length) = self.tokenizer.encode(&text)?;
            weights.extend((0..tokens.len()).map(|i| if i < length { 1.0 / length as f32 } else { 0.0 }));
            ids.extend(tokens);
            targets.extend(labels(&prompt));
        }
        let n = prompts as i64;
        let hidden = self.model.forward(&Tensor::from_slice(&ids).view([n, -1]));
        let mean = Tensor::from_slice(&weights).view([n, 1, -1]).matmul(&hidden).squeeze_dim(1);
        let targets = Tensor::from_slice(&targets).view([n, -1]);
        let mut loss = Tensor::zeros([], (Kind::Float, Device::Cpu));
        let mut right = 0.0;
        for (i, head) in self.heads.iter().enumerate() {
            let (logits, target) = (head.forward(&mean), targets.select(1, i as i64));
            loss += logits.cross_entropy_loss::<Tensor>(&target, None, Reduction::Mean, -100, 0.0);
            right +=
                logits.argmax(-1, false).eq_tensor(&target).to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
        }
        Ok((loss, right / ATTRIBUTES.len() as f64))
    }
}

/// Trains the encoder in `dir` (a minute or two; an interrupted run begins again), ends with
/// `dir/text_encoder.safetensors`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn train(options: &TextOptions, seed: u64, dir: &Path) -> Result<()> {
    ensure!(options.text_batch > 0, "--text-batch must not be 0");
    let path = dir.join("text_encoder.safetensors");
    if path.exists() {
        println!("{} is there already", path.display());
        return Ok(());
    }
    let mut trainer = TextTrainer::new(seed)?;
    let mut report = Report::open(dir, "text", options, 0, options.text_steps)?;
    let schedule = Schedule { peak: options.text_rate, warmup: 50, total: options.text_steps, floor: 0.02 };
    while trainer.step < options.text_steps {
        let (loss, right) = trainer.losses(options.text_batch, false)?;
        let norm = trainer.optimizer.step(&loss, schedule.rate(trainer.step));
        trainer.step += 1;
        report.tick(trainer.step);
        if trainer.step.is_multiple_of(50) {
            let values = [("loss", loss.double_value(&[])), ("right", right), ("norm", norm)];
            report.log(trainer.step, &values)?;
        }
    }
    let (_, right) = tch::no_grad(|| trainer.losses(512, true))?;
    report.log(trainer.step, &[("held_out", right)])?;
    let kept = trainer.optimizer.averaged().into_iter();
    let kept = kept.filter_map(|(name, tensor)| Some((name.strip_prefix("model.")?.to_owned(), tensor))).collect();
    checkpoint::save(&path, &kept)?;
    report.finish("loss")
}

/// A trained encoder that remembers what it encoded.
#[derive(Debug)]
pub struct TextEncoder {
    tokenizer: T5Tokenizer,
    model: T5EncoderModel,
    known: HashMap<String, (Tensor, usize)>,
}

impl TextEncoder {
    /// Loads what [`train`] left in `dir`.
    ///
    /// # Errors
    /// When the stage has not run yet.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::load(&dir.join("text_encoder.safetensors"))
    }

    /// Loads the weights of the encoder from a file.
    ///
    /// # Errors
    /// When it is missing or of another model.
    pub fn load(path: &Path) -> Result<Self> {
        let tokenizer = T5Tokenizer::shapes()?;
        let vs = VarStore::new(Device::Cpu);
        let model = T5EncoderModel::new(&vs.root(), &T5Config::shapes(tokenizer.vocab_size()));
        checkpoint::fill(&vs, &checkpoint::load(path)?, Kind::Float)?;
        Ok(Self { tokenizer, model, known: HashMap::new() })
    }

    /// Prompts → `[B, S, d_model]`, as long as the longest of them, and what is no padding, `[B, S]` of 0 and 1.
    ///
    /// The encoder itself sees the padding, all of it, as it does in the pipeline.
    ///
    /// # Errors
    /// When the tokenizer fails (never, on text).
    pub fn encode(&mut self, prompts: &[String]) -> Result<(Tensor, Tensor)> {
        let mut new: Vec<&String> = prompts.iter().filter(|prompt| !self.known.contains_key(*prompt)).collect();
        new.sort();
        new.dedup();
        if !new.is_empty() {
            let encoded: Vec<(Vec<i64>, usize)> =
                new.iter().map(|prompt| self.tokenizer.encode(prompt)).collect::<Result<_>>()?;
            let ids: Vec<i64> = encoded.iter().flat_map(|(ids, _)| ids.iter().copied()).collect();
            let ids = Tensor::from_slice(&ids).view([new.len() as i64, -1]);
            let hidden = tch::no_grad(|| self.model.forward(&ids));
            for (i, (prompt, (_, length))) in new.into_iter().zip(encoded).enumerate() {
                let row = hidden.get(i as i64).narrow(0, 0, length as i64).copy();
                self.known.insert(prompt.clone(), (row, length));
            }
        }
        let rows: Vec<&(Tensor, usize)> = prompts.iter().map(|prompt| &self.known[prompt]).collect();
        let longest = rows.iter().map(|row| row.1).max().unwrap_or(1);
        let padded: Vec<Tensor> =
            rows.iter().map(|(row, length)| row.constant_pad_nd([0, 0, 0, (longest - length) as i64])).collect();
        let mask: Vec<f32> =
            rows.iter().flat_map(|row| (0..longest).map(move |i| if i < row.1 { 1.0 } else { 0.0 })).collect();
        Ok((Tensor::stack(&padded, 0), Tensor::from_slice(&mask).view([-1, longest as i64])))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Leaves an encoder in `dir` that has learned nothing.
    pub(crate) fn save_untrained(dir: &Path) {
        let trainer = TextTrainer::new(1).expect("an encoder");
        let weights = trainer.optimizer.weights().into_iter();
        let kept = weights.filter_map(|(name, tensor)| Some((name.strip_prefix("model.")?.to_owned(), tensor)));
        checkpoint::save(&dir.join("text_encoder.safetensors"), &kept.collect()).expect("saved");
    }

    #[test]
    fn prompts_say_what_their_labels_name() {
        let mut rng = rng(3);
        for _ in 0..300 {
            let (prompt, text) = write_prompt(&Clip::sample_training(&mut rng), &mut rng);
            let parsed = Prompt::parse(&text.to_lowercase().replace('.', "")).expect("in the grammar");
            assert_eq!(parsed, prompt, "{text:?}");
        }
    }

    #[test]
    fn a_prompt_is_encoded_the_same_alone_and_in_company() {
        let _generator = crate::generator();
        let dir = tempfile::tempdir().expect("a folder");
        save_untrained(dir.path());
        let prompts = ["a ring".to_owned(), "a small green star moves left over a white background".to_owned()];
        let (both, mask) = TextEncoder::open(dir.path()).expect("opened").encode(&prompts).expect("encoded");
        let (one, _) = TextEncoder::open(dir.path()).expect("opened").encode(&prompts[..1]).expect("encoded");
        assert_eq!((both.size(), mask.sum(Kind::Float).double_value(&[])), (vec![2, 11, 96], 14.0));
        assert!(both.get(0).narrow(0, 0, 3).allclose(&one.get(0), 1e-5, 1e-5, false));
    }
}
