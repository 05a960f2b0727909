//! The scores of an exported folder: reconstructions of the VAE, and clips of held-out prompts by number of steps.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use sango_shapes::{Clip, Prompt, rng};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::clips::{ClipBatch, FRAMES, SIZE, settle, to_frames};
use super::export::DIFFUSION;
use super::latents::{Vae, pack, unpack};
use super::sampler::{Sampling, sample};
use super::text::train::TextEncoder;
use super::train::{held_out, rope, sheet, trained_on};
use super::transformer::{LTXVideoTransformer3DModel, RotaryPosEmbed, TransformerConfig};
use super::vae_train::score;
use crate::checkpoint;
use crate::data::{mix, save_sheet};
use crate::files::read_json;
use crate::judge::{self, Tally};

/// How to judge.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct EvaluateOptions {
    /// Held-out prompts to draw (there are a little over 350).
    #[arg(long, default_value_t = 240)]
    pub prompts: usize,
    /// Numbers of steps to try.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 8, 16, 28, 50])]
    pub step_counts: Vec<usize>,
    /// Guidance scales to try; that of `sango.json` if none is given.
    #[arg(long, value_delimiter = ',')]
    pub guidance_scales: Vec<f64>,
    /// Shifts of the scheduler to try; that of the folder if none is given.
    #[arg(long, value_delimiter = ',')]
    pub shifts: Vec<f64>,
    /// Held-out clips to reconstruct.
    #[arg(long, default_value_t = 300)]
    pub reconstructions: usize,
    /// Compute in bf16 instead of f32.
    #[arg(long)]
    pub bf16: bool,
}

/// An exported folder: everything that draws.
#[derive(Debug)]
pub struct Drawer {
    transformer: LTXVideoTransformer3DModel,
    channels: i64,
    vae: Vae,
    text: TextEncoder,
    rope: RotaryPosEmbed,
    kind: Kind,
}

impl Drawer {
    /// Opens a folder that [`super::export::export`] wrote, to compute in `kind`.
    ///
    /// # Errors
    /// When a part is missing or of another form.
    pub fn open(model: &Path, kind: Kind) -> Result<Self> {
        let config: TransformerConfig = read_json(&model.join("transformer/config.json"))?;
        let mut vs = VarStore::new(Device::Cpu);
        let transformer = LTXVideoTransformer3DModel::new(&vs.root(), &config);
        vs.freeze();
        let weights = checkpoint::load(&model.join("transformer").join(DIFFUSION))?;
        checkpoint::fill(&vs, &weights, kind)?;
        let vae = checkpoint::load(&model.join("vae").join(DIFFUSION))?;
        let vae = Vae::load(read_json(&model.join("vae/config.json"))?, &vae, kind)?;
        let rope = rope(&config, &vae, kind);
        let text = TextEncoder::load(&model.join("text_encoder/model.safetensors"))?;
        Ok(Self { transformer, channels: config.in_channels, vae, text, rope, kind })
    }

    /// Draws every prompt once; the same seed gives the same clips. `first` are the frames to begin with, if they are
    /// given, `[N, 3, 1, H, W]` in −1..1.
    ///
    /// # Errors
    /// When a prompt cannot be encoded (never).
    pub fn draw(
        &mut self,
        prompts: &[Prompt],
        first: Option<&Tensor>,
        sampling: &Sampling,
        seed: u64,
    ) -> Result<Vec<Vec<Vec<u8>>>> {
        const PART: usize = 40;
        let grid = self.vae.grid();
        let empty = self.text.encode(&[String::new()])?;
        let mut clips = Vec::new();
        for (i, part) in prompts.chunks(PART).enumerate() {
            tch::manual_seed(mix(seed, i as u64) as i64);
            let captions: Vec<String> = part.iter().map(Prompt::caption).collect();
            let caption = self.text.encode(&captions)?;
            let n = part.len() as i64;
            let given = first.map(|first| pack(&self.vae.encode(&first.narrow(0, (i * PART) as i64, n))));
            let noise = Tensor::randn([n, grid.iter().product(), self.channels], (Kind::Float, Device::Cpu));
            let latents = sample(
                &self.transformer,
                self.kind,
                &noise,
                given.as_ref(),
                (&caption.0, &caption.1),
                (&empty.0, &empty.1),
                &self.rope,
                sampling,
            );
            clips.extend(to_frames(&self.vae.decode(&unpack(&latents, grid))));
        }
        Ok(clips)
    }

    /// Encodes and decodes clips; what the oracle reads in them, and their signal-to-noise ratio in dB.
    pub fn reconstruct(&self, batch: &ClipBatch) -> (Tally, f64) {
        let score = score(batch, &self.vae.decode(&self.vae.encode(&batch.pixels)));
        (score.right, score.psnr)
    }
}

/// Judges the folder `model`; writes `dir/evaluation.json` and `dir/evaluation.png`.
///
/// # Errors
/// When a part of the folder is missing or a file cannot be written.
pub fn evaluate(options: &EvaluateOptions, seed: u64, model: &Path, dir: &Path) -> Result<Value> {
    let mut drawer = Drawer::open(model, if options.bf16 { Kind::BFloat16 } else { Kind::Float })?;
    let defaults: Value = read_json(&model.join("sango.json"))?;
    let scheduler: Value = read_json(&model.join("scheduler/scheduler_config.json"))?;
    let or_default = |given: &[f64], default: &Value| -> Vec<f64> {
        if given.is_empty() { vec![default.as_f64().unwrap_or(1.0)] } else { given.to_vec() }
    };
    let guidance_scales = or_default(&options.guidance_scales, &defaults["guidance_scale"]);
    let shifts = or_default(&options.shifts, &scheduler["shift"]);
    let shown_steps = defaults["steps"].as_u64().unwrap_or(16) as usize;
    let mut lines = Vec::new();
    let mut say = |what: &str, tally: &Tally, more: Value| {
        println!("{what} {more}: {tally}");
        let mut line = Map::new();
        line.insert("what".into(), json!(what));
        line.insert("clips".into(), json!(tally.pictures));
        let shares = tally.shares().into_iter().map(|(name, share)| (name.to_owned(), json!(share)));
        line.extend(shares.chain(more.as_object().cloned().into_iter().flatten()));
        lines.push(Value::Object(line));
    };
    let mut rng = rng(mix(seed, 111));
    for (what, centred) in [("reconstructions, centred", true), ("reconstructions, anywhere", false)] {
        let mut draw = |_| {
            let clip = Clip::sample_held_out(&mut rng);
            (if centred { settle(clip, 0.2, true, &mut rng) } else { clip }, 0)
        };
        let batch = ClipBatch::render((0..options.reconstructions).map(&mut draw).collect(), FRAMES);
        let (tally, psnr) = drawer.reconstruct(&batch);
        say(what, &tally, json!({ "psnr": psnr }));
    }
    let (unseen, seen) = (held_out(options.prompts), trained_on(options.prompts));
    for &shift in &shifts {
        for &guidance_scale in &guidance_scales {
            for &steps in &options.step_counts {
                let sampling = Sampling { steps, guidance_scale, shift };
                let clips = drawer.draw(&unseen, None, &sampling, mix(seed, 112))?;
                let how = json!({ "steps": steps, "guidance_scale": guidance_scale, "shift": shift });
                say("held-out prompts", &judge::tally_clips(&unseen, &clips, SIZE), how);
            }
        }
    }
    let sampling = Sampling { steps: shown_steps, guidance_scale: guidance_scales[0], shift: shifts[0] };
    let how = json!({ "steps": shown_steps, "guidance_scale": guidance_scales[0], "shift": shifts[0] });
    let clips = drawer.draw(&seen, None, &sampling, mix(seed, 113))?;
    say("trained combinations", &judge::tally_clips(&seen, &clips, SIZE), how.clone());
    let begun = ClipBatch::begun(mix(seed, 117), options.prompts, 0.2);
    let prompts = begun.prompts();
    let clips = drawer.draw(&prompts, Some(&begun.first_frames()), &sampling, mix(seed, 116))?;
    say("held-out clips, first frame given", &judge::tally_clips(&prompts, &clips, SIZE), how);
    let shown = held_out(32);
    save_sheet(
        &sheet(&drawer.draw(&shown, None, &sampling, mix(seed, 114))?),
        SIZE as u32,
        12,
        &dir.join("evaluation.png"),
    )?;
    let value = json!({ "seed": seed, "scores": lines });
    std::fs::write(dir.join("evaluation.json"), serde_json::to_string_pretty(&value)?)
        .with_context(|| format!("writing to {}", dir.display()))?;
    Ok(value)
}
