//! The first stage: the vision tower and the connector learn to see, before there is any text.
//!
//! A small network on each token that the connector makes says what stands there. It is thrown away afterwards; what
//! it needed to know is then in the tokens, where the decoder can read it. Every picture is a moment of a story of its
//! own, so that a step shows as many different things as it can.

use std::path::Path;

use anyhow::{Result, ensure};
use clap::Args;
use rand::RngExt;
use sango_shapes::story::{Story, StoryKind};
use sango_shapes::{Background, Colour, Object, Shape, rng};
use serde::{Deserialize, Serialize};
use tch::nn::VarStore;
use tch::{Device, Kind, Reduction, Tensor};

use super::clips::{Chunk, SIZE};
use super::config::SmolVlmConfig;
use super::connector::Connector;
use super::prompt::Layout;
use super::vision::VisionTransformer;
use crate::checkpoint::{self, State};
use crate::data::mix;
use crate::nn::{Linear, fan_in_uniform};
use crate::optim::{AdamW, Optimizer, Schedule};
use crate::report::Report;

/// Where each part of the network's output begins: presence, shape, colour, then place, radius and angle.
const SHAPES: i64 = Shape::COUNT as i64;
const COLOURS: i64 = Colour::COUNT as i64;
const NUMBERS: i64 = 5;

/// How to train the vision tower.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct VisionOptions {
    /// Steps in all.
    #[arg(long, default_value_t = 3000)]
    pub vision_steps: u64,
    /// Pictures per step.
    #[arg(long, default_value_t = 96)]
    pub vision_batch: usize,
    /// Peak learning rate.
    #[arg(long, default_value_t = 1.5e-3)]
    pub vision_rate: f64,
}

/// Pictures with what they show.
struct Moments {
    pixels: Tensor,
    present: Tensor,
    shape: Tensor,
    colour: Tensor,
    /// `[cells, 5]`: place in the cell, radius, cosine and sine of the angle.
    numbers: Tensor,
    weights: Tensor,
    background: Tensor,
}

impl Moments {
    /// The pictures of one step.
    fn training(seed: u64, step: u64, count: usize, side: usize) -> Self {
        let mut rng = rng(mix(seed, step));
        let (mut rgb, mut shown) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let story = Story::sample_training(StoryKind::sample(&mut rng), &mut rng);
            let (frame, frames) = (rng.random_range(0..=64), 65);
            rgb.extend(story.render_frame(frame, frames, SIZE));
            shown.push((story.background, story.objects_at(frame as f32 / (frames - 1) as f32)));
        }
        let size = SIZE as i64;
        let pixels = Tensor::from_slice(&rgb).view([-1, size, size, 3]).permute([0, 3, 1, 2]).to_kind(Kind::Float);
        let noise = pixels.randn_like() * (rng.random_range(0.0..0.03));
        Self::of(half_chroma(&(pixels / 127.5 - 1.0)) + noise, &shown, side)
    }

    /// The frames of filmed stories.
    fn filmed(chunk: &Chunk, side: usize) -> Self {
        let count = chunk.stories.len();
        let shown: Vec<_> = (0..count)
            .flat_map(|i| chunk.objects(i).into_iter().map(move |objects| (chunk.stories[i].background, objects)))
            .collect();
        Self::of(chunk.pixels(0, count), &shown, side)
    }

    /// Pictures with `side × side` tokens each.
    fn of(pixels: Tensor, shown: &[(Background, Vec<Object>)], side: usize) -> Self {
        let cells = shown.len() * side * side;
        let (mut present, mut shape, mut colour) = (vec![0.0f32; cells], vec![-100i64; cells], vec![-100i64; cells]);
        let (mut numbers, mut weights) = (vec![[0.0f32; 5]; cells], vec![[0.0f32; 5]; cells]);
        for (picture, (_, objects)) in shown.iter().enumerate() {
            for object in objects {
                let at = object.center.map(|c| c * side as f32);
                let cell = at.map(|c| (c as usize).min(side - 1));
                let i = (picture * side + cell[1]) * side + cell[0];
                present[i] = 1.0;
                shape[i] = object.shape.index() as i64;
                colour[i] = object.colour.index() as i64;
                let turned = object.angle * symmetry(object.shape);
                let inside = [at[0] - cell[0] as f32 - 0.5, at[1] - cell[1] as f32 - 0.5];
                numbers[i] = [2.0 * inside[0], 2.0 * inside[1], 6.0 * object.radius, turned.cos(), turned.sin()];
                let angle = if object.shape.can_spin() { 0.5 } else { 0.0 };
                weights[i] = [1.0, 1.0, 1.0, angle, angle];
            }
        }
        let background: Vec<i64> = shown.iter().map(|(background, _)| background.index() as i64).collect();
        Self {
            pixels,
            present: Tensor::from_slice(&present),
            shape: Tensor::from_slice(&shape),
            colour: Tensor::from_slice(&colour),
            numbers: Tensor::from_slice(numbers.as_flattened()).view([-1, NUMBERS]),
            weights: Tensor::from_slice(weights.as_flattened()).view([-1, NUMBERS]),
            background: Tensor::from_slice(&background),
        }
    }
}

/// What is left of the colours in a video: one value for every two by two pixels.
fn half_chroma(pixels: &Tensor) -> Tensor {
    let weights = Tensor::from_slice(&[0.2126f32, 0.7152, 0.0722]).view([1, 3, 1, 1]);
    let luma = (pixels * weights).sum_dim_intlist([1i64].as_slice(), true, Kind::Float);
    let chroma = (pixels - &luma).avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None);
    let size = SIZE as i64;
    (chroma.upsample_nearest2d([size, size], None, None) + luma).clamp(-1.0, 1.0)
}

/// How often a shape looks the same in one turn.
const fn symmetry(shape: Shape) -> f32 {
    match shape {
        Shape::Triangle => 3.0,
        Shape::Square | Shape::Cross => 4.0,
        Shape::Star => 5.0,
        Shape::Circle | Shape::Ring => 1.0,
    }
}

/// The tower in training.
#[derive(Debug)]
struct VisionTrainer {
    options: VisionOptions,
    vision: VisionTransformer,
    connector: Connector,
    hidden: Linear,
    tokens: Linear,
    background: Linear,
    optimizer: Optimizer,
    /// Tokens on a side of a frame.
    side: usize,
    seed: u64,
    step: u64,
}

impl VisionTrainer {
    fn new(options: &VisionOptions, config: &SmolVlmConfig, seed: u64) -> Result<Self> {
        ensure!(options.vision_batch > 0, "--vision-batch must not be 0");
        tch::manual_seed(mix(seed, 61) as i64);
        let vs = VarStore::new(Device::Cpu);
        let (root, dim) = (vs.root(), config.text.hidden_size);
        let model = &root / "model";
        let vision = VisionTransformer::new(&(&model / "vision_model"), &config.vision);
        let connector = Connector::new(&(&model / "connector"), config.vision.hidden_size, dim, config.scale_factor);
        let heads = &root / "heads";
        let out = 1 + SHAPES + COLOURS + NUMBERS;
        let hidden = Linear::new(&(&heads / "hidden"), dim, dim, true);
        let tokens = Linear::new(&(&heads / "tokens"), dim, out, true);
        let backgrounds = Background::COUNT as i64;
        let background = Linear::with_init(&(&heads / "background"), dim, backgrounds, true, fan_in_uniform(dim));
        let settings = AdamW { weight_decay: 0.02, ema: 0.998, beta2: 0.98, ..AdamW::default() };
        let optimizer = Optimizer::new(&vs, settings, Kind::BFloat16)?;
        let side = (config.image_seq_len() as f64).sqrt() as usize;
        Ok(Self {
            options: options.clone(),
            vision,
            connector,
            hidden,
            tokens,
            background,
            optimizer,
            side,
            seed,
            step: 0,
        })
    }

    /// What the network says: `[frames·cells, out]` and `[frames, backgrounds]`, f32.
    fn read(&self, pixels: &Tensor) -> (Tensor, Tensor) {
        let pixels = pixels.to_kind(Kind::BFloat16);
        let features = self.connector.forward(&self.vision.forward(&pixels, None, true), true);
        let seen = self.tokens.forward(&self.hidden.forward(&features).gelu("tanh")).flatten(0, 1);
        let behind = self.background.forward(&features.mean_dim([1i64].as_slice(), false, Kind::BFloat16));
        (seen.to_kind(Kind::Float), behind.to_kind(Kind::Float))
    }

    fn train_step(&mut self, rate: f64) -> (f64, f64) {
        tch::manual_seed(mix(self.seed, self.step) as i64);
        let targets = Moments::training(mix(self.seed, 62), self.step, self.options.vision_batch, self.side);
        let (seen, behind) = self.read(&targets.pixels);
        let none: Option<&Tensor> = None;
        let parts = seen.split_with_sizes([1, SHAPES, COLOURS, NUMBERS], 1);
        let presence =
            parts[0].squeeze_dim(1).binary_cross_entropy_with_logits(&targets.present, none, none, Reduction::Mean);
        let named =
            |logits: &Tensor, target: &Tensor| logits.cross_entropy_loss(target, none, Reduction::Mean, -100, 0.0);
        let apart = ((&parts[3] - &targets.numbers).square() * &targets.weights).sum(Kind::Float);
        let objects = targets.present.sum(Kind::Float).clamp_min(1.0);
        let loss = presence
            + named(&parts[1], &targets.shape)
            + named(&parts[2], &targets.colour)
            + named(&behind, &targets.background)
            + apart / objects;
        let norm = self.optimizer.step(&loss, rate);
        self.step += 1;
        (loss.double_value(&[]), norm)
    }

    /// Shares of right presence, shape, colour and background, and the mean error of the numbers.
    fn evaluate(&mut self, chunk: &Chunk) -> Vec<(&'static str, f64)> {
        let targets = Moments::filmed(chunk, self.side);
        let this = &*self;
        let (seen, behind) = tch::no_grad(|| this.read(&targets.pixels));
        let parts = seen.split_with_sizes([1, SHAPES, COLOURS, NUMBERS], 1);
        let mean = |right: Tensor| right.to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
        let there = targets.present.gt(0.5);
        let named =
            |logits: &Tensor, target: &Tensor| mean(logits.argmax(-1, false).eq_tensor(target).masked_select(&there));
        let apart = ((&parts[3] - &targets.numbers).abs() * &targets.weights).sum(Kind::Float);
        vec![
            ("presence", mean(parts[0].squeeze_dim(1).gt(0.0).eq_tensor(&there))),
            ("shape", named(&parts[1], &targets.shape)),
            ("colour", named(&parts[2], &targets.colour)),
            ("background", mean(behind.argmax(-1, false).eq_tensor(&targets.background))),
            ("numbers", (apart / targets.weights.sum(Kind::Float)).double_value(&[])),
        ]
    }

    fn state(&self) -> State {
        let mut state = self.optimizer.state("model");
        state.push(("step".into(), Tensor::from_slice(&[self.step as i64])));
        state
    }
}

/// Trains (or goes on training) in `dir`, ends with `dir/vision.safetensors`.
///
/// # Errors
/// When a file cannot be read or written, or `ffmpeg` fails.
pub fn train(options: &VisionOptions, config: &SmolVlmConfig, seed: u64, dir: &Path) -> Result<()> {
    let mut trainer = VisionTrainer::new(options, config, seed)?;
    let saved = dir.join("vision.checkpoint.safetensors");
    if saved.exists() {
        let state = checkpoint::load(&saved)?;
        trainer.optimizer.restore("model", &state)?;
        trainer.step = checkpoint::get(&state, "step")?.int64_value(&[0]) as u64;
    }
    println!("{:.2} M parameters", trainer.optimizer.len() as f64 / 1e6);
    let held_out = Chunk::held_out(Layout::Clip { frames: 17, fps: 8.0 }, 32)?;
    let mut report = Report::open(dir, "vision", options, trainer.step, options.vision_steps)?;
    let schedule = Schedule { peak: options.vision_rate, warmup: 100, total: options.vision_steps, floor: 0.02 };
    while trainer.step < options.vision_steps {
        let (loss, norm) = trainer.train_step(schedule.rate(trainer.step));
        let step = trainer.step;
        report.tick(step);
        if step.is_multiple_of(20) {
            report.log(step, &[("loss", loss), ("norm", norm)])?;
        }
        if step.is_multiple_of(200) || step == options.vision_steps {
            report.log(step, &trainer.evaluate(&held_out))?;
            checkpoint::save(&saved, &trainer.state())?;
        }
    }
    let kept = trainer.optimizer.averaged().into_iter().filter(|(name, _)| name.starts_with("model.")).collect();
    checkpoint::save(&dir.join("vision.safetensors"), &kept)?;
    report.finish("loss")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_steps_learn_something() {
        let _generator = crate::generator();
        let options = VisionOptions { vision_steps: 30, vision_batch: 16, vision_rate: 1e-3 };
        let mut config = SmolVlmConfig::shapes(64, 3);
        (config.vision.num_hidden_layers, config.vision.hidden_size) = (1, 64);
        let mut trainer = VisionTrainer::new(&options, &config, 3).expect("a tower");
        let losses: Vec<f64> = (0..30).map(|_| trainer.train_step(2e-3).0).collect();
        assert!(losses[25..].iter().sum::<f64>() < 0.9 * losses[..5].iter().sum::<f64>(), "{losses:?}");
        let chunk = Chunk::training(1, 0, 4).expect("ffmpeg");
        let scores = trainer.evaluate(&chunk);
        assert!(scores.iter().all(|(name, value)| value.is_finite() && (*name == "numbers" || *value <= 1.0)));
    }
}
