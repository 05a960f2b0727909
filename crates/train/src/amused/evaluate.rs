//! The scores of a finished run: reconstructions of the VQ model and pictures of held-out prompts.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use sango_shapes::{Prompt, Scene, rng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tch::nn::VarStore;
use tch::{Device, Kind};

use super::patches::PatchCodebook;
use super::sampler::{Sampling, sample};
use super::text::TextCache;
use super::train::{SIZE, held_out, trained_on};
use super::uvit_2d::{UVit2DModel, UVitConfig};
use super::vq_model::VqModel;
use crate::data::{Batch, mix, save_sheet, settle, to_rgb};
use crate::files::read_json;
use crate::judge::{self, Tally};

/// How to judge.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct EvaluateOptions {
    /// Held-out prompts to draw (there are a little over 300).
    #[arg(long, default_value_t = 400)]
    pub prompts: usize,
    /// Guidance scales to try.
    #[arg(long, value_delimiter = ',', default_values_t = [1.25])]
    pub guidance_scales: Vec<f64>,
    /// Steps of each drawing.
    #[arg(long, default_value_t = 12)]
    pub sampling_steps: i64,
    /// Temperature at the first step.
    #[arg(long, default_value_t = 2.0)]
    pub temperature: f64,
    /// Scenes to reconstruct.
    #[arg(long, default_value_t = 1000)]
    pub reconstructions: usize,
}

/// A finished run: everything that draws.
#[derive(Debug)]
pub struct Drawer {
    transformer: UVit2DModel,
    vq: VqModel,
    text: TextCache,
    book: PatchCodebook,
    grid: i64,
}

impl Drawer {
    /// Loads the weights that the stages left in `dir`.
    ///
    /// # Errors
    /// When a stage has not run yet.
    pub fn open(dir: &Path) -> Result<Self> {
        let config: UVitConfig = read_json(&dir.join("transformer.json"))?;
        let mut vs = VarStore::new(Device::Cpu);
        let transformer = UVit2DModel::new(&vs.root(), &config, Kind::Float);
        vs.freeze();
        vs.read_safetensors(dir.join("transformer.safetensors"))?;
        let (vq, vq_config) = VqModel::open(dir)?;
        Ok(Self {
            transformer,
            vq,
            text: TextCache::open(dir, SIZE)?,
            book: PatchCodebook::load(&dir.join("codebook.safetensors"))?,
            grid: vq_config.grid(),
        })
    }

    /// Draws every prompt once, as RGB bytes; the same seed gives the same pictures.
    pub fn draw(&mut self, prompts: &[Prompt], sampling: &Sampling, seed: u64) -> Vec<Vec<u8>> {
        let mut pictures = Vec::new();
        for (i, part) in prompts.chunks(64).enumerate() {
            tch::manual_seed(mix(seed, i as u64) as i64);
            let captions: Vec<String> = part.iter().map(Prompt::caption).collect();
            let condition = self.text.conditions(&captions);
            let empty = self.text.empty(part.len() as i64);
            let tokens = sample(&self.transformer, &condition, &empty, sampling);
            let ids = tokens.view([-1, self.grid, self.grid]);
            pictures.extend(to_rgb(&self.vq.detokenize(&ids)));
        }
        pictures
    }

    /// Encodes and decodes scenes of held-out combinations: with the codes of the codebook's patches, and with the
    /// codes that the encoder chooses.
    pub fn reconstruct(&self, scenes: Vec<Scene>) -> (Tally, Tally) {
        let prompts: Vec<Prompt> = scenes.iter().map(Scene::prompt).collect();
        let (mut taught, mut encoded) = (Vec::new(), Vec::new());
        for part in scenes.chunks(64) {
            let batch = Batch::render(part.to_vec(), SIZE as usize);
            let ids = self.book.tokenize(&batch).view([-1, self.grid, self.grid]);
            taught.extend(to_rgb(&self.vq.detokenize(&ids)));
            encoded.extend(to_rgb(&self.vq.detokenize(&self.vq.tokenize(&batch.pixels))));
        }
        let size = SIZE as usize;
        (judge::tally(&prompts, &taught, size), judge::tally(&prompts, &encoded, size))
    }
}

/// Judges the run in `dir`; writes `dir/evaluation.json` and `dir/evaluation.png`.
///
/// # Errors
/// When a stage has not run yet or a file cannot be written.
pub fn evaluate(options: &EvaluateOptions, seed: u64, dir: &Path) -> Result<Value> {
    let mut drawer = Drawer::open(dir)?;
    let mut rng = rng(mix(seed, 51));
    let anywhere: Vec<Scene> = (0..options.reconstructions).map(|_| Scene::sample_held_out(&mut rng)).collect();
    let settled: Vec<Scene> = anywhere.iter().map(|&s| settle(s, 0.25, &mut rng)).collect();
    let mut lines = Vec::new();
    let mut say = |what: String, tally: &Tally| {
        println!("{what}: {tally}");
        let mut line = serde_json::Map::new();
        line.insert("what".into(), json!(what));
        line.insert("pictures".into(), json!(tally.pictures));
        for (name, share) in tally.shares() {
            line.insert(name.into(), json!(share));
        }
        lines.push(Value::Object(line));
    };
    for (name, scenes) in [("on the grid", settled), ("anywhere", anywhere)] {
        let (taught, encoded) = drawer.reconstruct(scenes);
        say(format!("reconstructions, objects {name}, codes of the patches"), &taught);
        say(format!("reconstructions, objects {name}, codes of the encoder"), &encoded);
    }
    let (unseen, seen) = (held_out(options.prompts), trained_on(options.prompts));
    for (i, &guidance_scale) in options.guidance_scales.iter().enumerate() {
        let sampling =
            Sampling { steps: options.sampling_steps, guidance_scale, temperature: (options.temperature, 0.0) };
        let pictures = drawer.draw(&unseen, &sampling, seed);
        let steps = sampling.steps;
        let tally = judge::tally(&unseen, &pictures, SIZE as usize);
        say(format!("held-out prompts, {steps} steps, guidance {guidance_scale}"), &tally);
        if i == 0 {
            save_sheet(&pictures, SIZE as u32, 24, &dir.join("evaluation.png"))?;
            let pictures = drawer.draw(&seen, &sampling, seed);
            let tally = judge::tally(&seen, &pictures, SIZE as usize);
            say(format!("trained combinations, {steps} steps, guidance {guidance_scale}"), &tally);
        }
    }
    let value = json!({ "seed": seed, "scores": lines });
    std::fs::write(dir.join("evaluation.json"), serde_json::to_string_pretty(&value)?)?;
    Ok(value)
}
