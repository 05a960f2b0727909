//! The second stage: everything end to end, on questions and answers; only the answers are learned.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use rand::seq::SliceRandom;
use rand::seq::index::sample;
use rand::{Rng, RngExt};
use sango_shapes::rng;
use sango_shapes::story::{Ask, Story};
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Reduction, Tensor};

use super::clips::{Chunk, Chunks};
use super::config::SmolVlmConfig;
use super::llama::Caches;
use super::model::SmolVlm;
use super::pack::{Exchange, IGNORED, Packed, Packer};
use super::prompt::Layout;
use super::tokenizer::ShapesTokenizer;
use crate::checkpoint::{self, State};
use crate::data::mix;
use crate::optim::{AdamW, Optimizer, Schedule};
use crate::report::Report;

/// Clips in a chunk.
const CHUNK: usize = 128;
/// Chunks that steps choose from.
const POOL: usize = 8;
/// Steps of linear warm-up.
const WARMUP: u64 = 200;

/// How to train the whole model.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct TrainOptions {
    /// Steps in all.
    #[arg(long, default_value_t = 8000)]
    pub steps: u64,
    /// Stop after this many minutes of training (checked against the log, resumes included); the rate then falls
    /// with the time instead of the steps.
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Clips per step.
    #[arg(long, default_value_t = 16)]
    pub batch: usize,
    /// Questions about each clip.
    #[arg(long, default_value_t = 8)]
    pub questions: usize,
    /// How often each clip is used, with other questions.
    #[arg(long, default_value_t = 3)]
    pub reuse: u64,
    /// Share of the training in which the vision tower stays as it came, so that it only has to look once.
    #[arg(long, default_value_t = 0.6)]
    pub frozen: f64,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1.2e-3)]
    pub rate: f64,
    /// Compute in f32 instead of bf16.
    #[arg(long)]
    pub f32: bool,
    /// Steps between evaluations.
    #[arg(long, default_value_t = 250)]
    pub evaluate_every: u64,
    /// Held-out clips of each evaluation.
    #[arg(long, default_value_t = 96)]
    pub evaluate_clips: usize,
}

impl TrainOptions {
    fn kind(&self) -> Kind {
        if self.f32 { Kind::Float } else { Kind::BFloat16 }
    }
}

/// The model in training, with all its state.
#[derive(Debug)]
pub struct Trainer {
    options: TrainOptions,
    seed: u64,
    model: SmolVlm,
    optimizer: Optimizer,
    packer: Packer,
    step: u64,
}

/// Features of a chunk's stories: `[stories, frames, tokens, dim]`.
type Seen = Tensor;

/// The latest chunks; steps draw clips from all of them.
#[derive(Debug)]
struct Pool {
    chunks: Chunks,
    held: VecDeque<(Chunk, Option<Seen>)>,
    /// Number of the newest chunk.
    newest: u64,
}

impl Pool {
    /// As it is when `newest` is the latest chunk.
    fn at(seed: u64, newest: u64) -> Result<Self> {
        let oldest = newest.saturating_sub(POOL as u64 - 1);
        let mut pool = Self { chunks: Chunks::start(seed, oldest, CHUNK), held: VecDeque::new(), newest: oldest };
        pool.held.push_back((pool.chunks.next_chunk()?, None));
        pool.advance(newest)?;
        Ok(pool)
    }

    /// Goes on until `newest` is the latest chunk.
    fn advance(&mut self, newest: u64) -> Result<()> {
        while self.newest < newest {
            self.held.push_back((self.chunks.next_chunk()?, None));
            self.newest += 1;
            if self.held.len() > POOL {
                self.held.pop_front();
            }
        }
        Ok(())
    }

    fn choose(&mut self, rng: &mut impl Rng) -> (&Chunk, &mut Option<Seen>) {
        let at = rng.random_range(0..self.held.len());
        let (chunk, seen) = &mut self.held[at];
        (chunk, seen)
    }
}

/// Right answers of all, per kind of question.
pub type Scores = BTreeMap<String, (usize, usize)>;

impl Trainer {
    /// A fresh model; `dir` holds the tokenizer and, where it was trained, the vision tower.
    ///
    /// # Errors
    /// When the tokenizer is missing or the options do not fit.
    pub fn new(options: &TrainOptions, seed: u64, dir: &Path) -> Result<Self> {
        let tokenizer = ShapesTokenizer::load(&dir.join("tokenizer.json"))?;
        let config = SmolVlmConfig::shapes(tokenizer.vocab_size(), tokenizer.image);
        Self::with_config(options, seed, dir, &config, tokenizer)
    }

    fn with_config(
        options: &TrainOptions,
        seed: u64,
        dir: &Path,
        config: &SmolVlmConfig,
        tokenizer: ShapesTokenizer,
    ) -> Result<Self> {
        ensure!(options.batch > 0 && CHUNK.is_multiple_of(options.batch), "--batch must divide {CHUNK}");
        tch::manual_seed(mix(seed, 81) as i64);
        let vs = VarStore::new(Device::Cpu);
        let model = SmolVlm::new(&vs.root(), config);
        let seeing = dir.join("vision.safetensors");
        if seeing.exists() {
            let weights = checkpoint::load(&seeing)?;
            let mut variables = vs.variables();
            tch::no_grad(|| -> Result<()> {
                for (name, weight) in &weights {
                    let variable = variables.get_mut(name).with_context(|| format!("{name} is not in the model"))?;
                    ensure!(variable.size() == weight.size(), "{name} was trained at another size");
                    variable.copy_(weight);
                }
                Ok(())
            })?;
        }
        let settings = AdamW { weight_decay: 0.0, ema: 0.998, beta2: 0.98, ..AdamW::default() };
        let optimizer = Optimizer::new(&vs, settings, options.kind())?;
        let packer = Packer::new(tokenizer, config.image_seq_len());
        Ok(Self { options: options.clone(), seed, model, optimizer, packer, step: 0 })
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.optimizer.len()
    }

    /// Adds what the model sees of a chunk, as long as the tower does not learn.
    fn look(&self, chunk: &Chunk) -> Seen {
        let parts: Vec<Tensor> = (0..chunk.stories.len())
            .step_by(16)
            .map(|from| {
                let count = 16.min(chunk.stories.len() - from);
                let pixels = chunk.pixels(from, count).to_kind(self.options.kind());
                tch::no_grad(|| self.model.image_features(&pixels, None, false))
            })
            .collect();
        let frames = chunk.layout.sampled().len() as i64;
        let all = Tensor::cat(&parts, 0);
        let (_, tokens, dim) = all.size3().unwrap_or((0, 0, 0));
        all.view([-1, frames, tokens, dim])
    }

    /// One update on clips of the pool; returns the loss and the gradient's norm.
    ///
    /// # Errors
    /// See [`Packer::pack`].
    fn train_step(&mut self, pool: &mut Pool, frozen: bool, rate: f64) -> Result<(f64, f64)> {
        let mut rng = rng(mix(mix(self.seed, 82), self.step));
        let (chunk, seen) = pool.choose(&mut rng);
        let clips = sample(&mut rng, chunk.stories.len(), self.options.batch).into_vec();
        let exchanges: Vec<Vec<Exchange>> = clips
            .iter()
            .map(|&clip| {
                let story = &chunk.stories[clip];
                let mut asks = story.asks();
                asks.shuffle(&mut rng);
                let asks = asks.into_iter().take(self.options.questions);
                asks.filter_map(|ask| Exchange::new(story, ask, ask.phrase(&mut rng))).collect()
            })
            .collect();
        let packed = self.packer.pack(chunk.layout, &exchanges)?;
        let features = if frozen {
            if seen.is_none() {
                *seen = Some(self.look(chunk));
            }
            let rows: Vec<i64> = clips.iter().map(|&clip| clip as i64).collect();
            seen.as_ref().context("looked at above")?.index_select(0, &Tensor::from_slice(&rows)).flatten(0, 1)
        } else {
            *seen = None;
            let parts: Vec<Tensor> = clips.iter().map(|&clip| chunk.pixels(clip, 1)).collect();
            self.model.image_features(&Tensor::cat(&parts, 0).to_kind(self.options.kind()), None, true)
        };
        let (logits, targets) = answer_logits(&self.model, &features, &packed, true)?;
        let none: Option<&Tensor> = None;
        let loss = logits.cross_entropy_loss(&targets, none, Reduction::Mean, IGNORED, 0.0);
        let norm = self.optimizer.step(&loss, rate);
        self.step += 1;
        Ok((loss.double_value(&[]), norm))
    }

    /// Steps for which the pool stays the same.
    fn steps_per_chunk(&self) -> u64 {
        self.options.reuse * (CHUNK / self.options.batch) as u64
    }

    /// Answers with the averaged weights, per kind of question: an answer is right when every token of it, the end
    /// included, is the likeliest one. Wrong ones come along as "story: question".
    ///
    /// # Errors
    /// See [`Packer::pack`].
    pub fn evaluate(&mut self, chunk: &Chunk) -> Result<(Scores, Vec<String>)> {
        let kind = self.options.kind();
        let (model, packer) = (&self.model, &mut self.packer);
        self.optimizer.with_average(|| exact_answers(model, packer, chunk, kind))
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

    /// Continues from what [`Trainer::save`] wrote.
    ///
    /// # Errors
    /// When the file is missing or of another model.
    pub fn resume(&mut self, path: &Path) -> Result<()> {
        let state = checkpoint::load(path)?;
        self.optimizer.restore("model", &state)?;
        self.step = checkpoint::get(&state, "step")?.int64_value(&[0]) as u64;
        Ok(())
    }

    /// The averaged weights by the names of `transformers`.
    pub fn weights(&self) -> State {
        self.optimizer.averaged()
    }
}

/// Logits `[n, vocab]` (f32) at the positions that predict answers, and the targets `[n]`, of clips with the image
/// features `[…, text]`.
///
/// # Errors
/// See [`SmolVlm::embed`].
pub fn answer_logits(model: &SmolVlm, features: &Tensor, packed: &Packed, train: bool) -> Result<(Tensor, Tensor)> {
    let embeds = model.embed(&packed.ids, Some(features))?;
    let hidden = model.text_model.forward(&embeds, &packed.positions, &packed.mask, &mut Caches::new(), train);
    let targets = packed.targets.reshape([-1]);
    let learned = targets.ne(IGNORED).nonzero().squeeze_dim(-1);
    let logits = model.head(&hidden.flatten(0, 1).index_select(0, &learned));
    Ok((logits.to_kind(Kind::Float), targets.index_select(0, &learned)))
}

/// See [`Trainer::evaluate`].
fn exact_answers(model: &SmolVlm, packer: &mut Packer, chunk: &Chunk, kind: Kind) -> Result<(Scores, Vec<String>)> {
    let (mut scores, mut wrong) = (Scores::new(), Vec::new());
    let mut rng = rng(7);
    const PART: usize = 16;
    for from in (0..chunk.stories.len()).step_by(PART) {
        let stories = &chunk.stories[from..(from + PART).min(chunk.stories.len())];
        let ask_all = |story: &Story, rng: &mut _| -> Vec<Exchange> {
            let asks: Vec<Ask> = story.asks();
            asks.into_iter().filter_map(|ask| Exchange::new(story, ask, ask.phrase(rng))).collect()
        };
        let exchanges: Vec<Vec<Exchange>> = stories.iter().map(|story| ask_all(story, &mut rng)).collect();
        let packed = packer.pack(chunk.layout, &exchanges)?;
        let pixels = chunk.pixels(from, stories.len()).to_kind(kind);
        let (logits, targets) = tch::no_grad(|| {
            let features = model.image_features(&pixels, None, false);
            answer_logits(model, &features, &packed, false)
        })?;
        let likeliest = Vec::<i64>::try_from(&logits.argmax(-1, false))?;
        let targets = Vec::<i64>::try_from(&targets)?;
        let mut at = 0;
        for ((story, exchanges), spans) in stories.iter().zip(&exchanges).zip(&packed.answers) {
            for (exchange, &(_, len)) in exchanges.iter().zip(spans) {
                let right = likeliest[at..at + len] == targets[at..at + len];
                for name in [exchange.ask.kind().to_owned(), "all".to_owned(), story.kind.name().to_owned()] {
                    let score = scores.entry(name).or_default();
                    *score = (score.0 + usize::from(right), score.1 + 1);
                }
                if !right {
                    let said = packer.tokenizer().decode(&likeliest[at..at + len])?;
                    wrong.push(format!("{} | {} | {} |{said}", story.caption(), exchange.question, exchange.answer));
                }
                at += len;
            }
        }
    }
    Ok((scores, wrong))
}

/// Trains (or goes on training) in `dir`; leaves the averaged weights in `dir/smolvlm2.safetensors` at every evaluation.
///
/// # Errors
/// When a file cannot be read or written, or `ffmpeg` fails.
pub fn train(options: &TrainOptions, seed: u64, dir: &Path) -> Result<()> {
    let mut trainer = Trainer::new(options, seed, dir)?;
    let saved = checkpoint_path(dir);
    if saved.exists() {
        trainer.resume(&saved)?;
    }
    println!("{:.2} M parameters", trainer.parameters() as f64 / 1e6);
    let held_out = Chunk::held_out(Layout::Clip { frames: 17, fps: 8.0 }, options.evaluate_clips)?;
    let mut report = Report::open(dir, "smolvlm2", options, trainer.step, options.steps)?;
    let mut pool = Pool::at(mix(seed, 83), trainer.step / trainer.steps_per_chunk())?;
    // With a time limit, progress is the share of the time used, so that the rate still falls to its floor.
    let progress = |step: u64, report: &Report| match options.minutes {
        Some(minutes) => (report.elapsed().as_secs_f64() / (60.0 * minutes)).max(step as f64 / options.steps as f64),
        None => step as f64 / options.steps as f64,
    };
    let schedule = Schedule { peak: options.rate, warmup: WARMUP, total: 1_000_000 + WARMUP, floor: 0.02 };
    loop {
        let done = progress(trainer.step, &report);
        if done >= 1.0 {
            break;
        }
        pool.advance(trainer.step / trainer.steps_per_chunk())?;
        let rate = schedule.rate(if trainer.step < WARMUP { trainer.step } else { (done * 1e6) as u64 + WARMUP });
        let (loss, norm) = trainer.train_step(&mut pool, done < options.frozen, rate)?;
        let step = trainer.step;
        report.tick(step);
        if step.is_multiple_of(25) {
            report.log(step, &[("loss", loss), ("norm", norm), ("rate", rate)])?;
        }
        if step.is_multiple_of(options.evaluate_every) {
            score(&mut trainer, &held_out, &mut report, dir)?;
            trainer.save(&saved)?;
        }
    }
    trainer.save(&saved)?;
    score(&mut trainer, &held_out, &mut report, dir)?;
    report.finish("loss")
}

fn checkpoint_path(dir: &Path) -> PathBuf {
    dir.join("smolvlm2.checkpoint.safetensors")
}

fn score(trainer: &mut Trainer, held_out: &Chunk, report: &mut Report, dir: &Path) -> Result<()> {
    let (scores, wrong) = trainer.evaluate(held_out)?;
    let shares: Vec<(&str, f64)> =
        scores.iter().map(|(name, (right, of))| (name.as_str(), *right as f64 / (*of).max(1) as f64)).collect();
    report.log(trainer.step, &shares)?;
    std::fs::write(dir.join("wrong.txt"), wrong.join("\n"))?;
    checkpoint::save(&dir.join("smolvlm2.safetensors"), &trainer.weights())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optim::tests::same;

    fn options() -> TrainOptions {
        TrainOptions {
            steps: 10,
            minutes: None,
            batch: 4,
            questions: 3,
            reuse: 1,
            frozen: 0.5,
            rate: 1e-3,
            f32: false,
            evaluate_every: 100,
            evaluate_clips: 4,
        }
    }

    fn small(seed: u64, dir: &Path) -> Trainer {
        let tokenizer = ShapesTokenizer::learn().expect("a tokenizer");
        let mut config = SmolVlmConfig::shapes(tokenizer.vocab_size(), tokenizer.image);
        (config.vision.num_hidden_layers, config.vision.hidden_size) = (1, 32);
        (config.text.num_hidden_layers, config.text.hidden_size) = (1, 64);
        Trainer::with_config(&options(), seed, dir, &config, tokenizer).expect("a model")
    }

    /// A pool that holds a few clips alone.
    fn pool(stories: usize) -> Pool {
        let chunk = Chunk::training(2, 0, stories).expect("ffmpeg");
        Pool { chunks: Chunks::start(2, 1, 1), held: VecDeque::from([(chunk, None)]), newest: 0 }
    }

    #[test]
    fn a_resumed_run_is_the_same_bit_for_bit() {
        let _generator = crate::generator();
        let dir = tempfile::tempdir().expect("a folder");
        let saved = dir.path().join("checkpoint.safetensors");
        let mut straight = small(3, dir.path());
        let mut clips = pool(16);
        let mut step =
            |trainer: &mut Trainer, i: u32| trainer.train_step(&mut clips, i.is_multiple_of(2), 1e-3).expect("a step");
        for i in 0..2 {
            step(&mut straight, i);
        }
        straight.save(&saved).expect("saved");
        let last: Vec<_> = (2..4).map(|i| step(&mut straight, i)).collect();
        let mut resumed = small(3, dir.path());
        resumed.resume(&saved).expect("resumed");
        let again: Vec<_> = (2..4).map(|i| step(&mut resumed, i)).collect();
        assert_eq!(last, again);
        same(&straight.weights(), &resumed.weights());
    }

    #[test]
    fn a_resumed_pool_holds_the_same_clips() {
        let rgb = |pool: &Pool| pool.held.iter().map(|(chunk, _)| chunk.rgb.clone()).collect::<Vec<_>>();
        let mut straight = Pool::at(6, 0).expect("ffmpeg");
        straight.advance(9).expect("ffmpeg");
        let resumed = Pool::at(6, 9).expect("ffmpeg");
        assert_eq!(straight.held.len(), POOL);
        assert!(rgb(&straight) == rgb(&resumed));
    }

    #[test]
    fn a_frozen_tower_stays_as_it_is() {
        let _generator = crate::generator();
        let dir = tempfile::tempdir().expect("a folder");
        let mut trainer = small(8, dir.path());
        let seeing = |trainer: &Trainer| -> State {
            let all = trainer.optimizer.weights().into_iter();
            all.filter(|(name, _)| name.contains("vision") || name.contains("connector")).collect()
        };
        let (before, mut clips) = (seeing(&trainer), pool(8));
        trainer.train_step(&mut clips, true, 1e-3).expect("a step");
        same(&before, &seeing(&trainer));
        trainer.train_step(&mut clips, false, 1e-3).expect("a step");
        assert!(before.iter().zip(seeing(&trainer)).any(|((_, a), (_, b))| a != &b));
    }

    #[test]
    fn a_few_steps_learn_something() {
        let _generator = crate::generator();
        let dir = tempfile::tempdir().expect("a folder");
        let mut trainer = small(5, dir.path());
        let mut clips = pool(8);
        let losses: Vec<f64> =
            (0..24).map(|_| trainer.train_step(&mut clips, false, 3e-3).expect("a step").0).collect();
        assert!(losses[20..].iter().sum::<f64>() < 0.8 * losses[..4].iter().sum::<f64>(), "{losses:?}");
        let (scores, wrong) = trainer.evaluate(&clips.held[0].0).expect("scores");
        let (right, of) = scores["all"];
        assert_eq!(right + wrong.len(), of);
    }
}
