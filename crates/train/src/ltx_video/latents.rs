//! The VAE as the transformer sees it: training clips encoded once, normalised by channel, and decoded again.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use sango_shapes::{Clip, rng};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor, no_grad};

use super::clips::{ClipBatch, FRAMES, settle};
use super::vae::{AutoencoderKLLTXVideo, VaeConfig};
use crate::checkpoint;
use crate::data::mix;
use crate::files::read_json;

/// A trained VAE with the mean and deviation of its latents.
#[derive(Debug)]
pub struct Vae {
    model: AutoencoderKLLTXVideo,
    /// What it is.
    pub config: VaeConfig,
    kind: Kind,
    /// `[1, C, 1, 1, 1]`.
    mean: Tensor,
    std: Tensor,
}

impl Vae {
    /// Loads what `vae` left in `dir`, to compute in `kind`. Latents are normalised once [`LatentData::build`] has
    /// measured them.
    ///
    /// # Errors
    /// When the stage has not run yet.
    pub fn open(dir: &Path, kind: Kind) -> Result<Self> {
        let config: VaeConfig = read_json(&dir.join("vae.json"))?;
        Self::load(config, &checkpoint::load(&dir.join("vae.safetensors"))?, kind)
    }

    /// A VAE with these weights; `latents_mean` and `latents_std` among them normalise its latents.
    ///
    /// # Errors
    /// When one is missing or of another shape.
    pub fn load(config: VaeConfig, weights: &BTreeMap<String, Tensor>, kind: Kind) -> Result<Self> {
        config.validate()?;
        let mut vs = VarStore::new(Device::Cpu);
        let model = AutoencoderKLLTXVideo::new(&vs.root(), &config);
        vs.freeze();
        checkpoint::fill(&vs, weights, kind)?;
        let floats = (Kind::Float, Device::Cpu);
        let channels = config.latent_channels;
        let shape = [1, channels, 1, 1, 1];
        let mut vae =
            Self { model, config, kind, mean: Tensor::zeros(shape, floats), std: Tensor::ones(shape, floats) };
        if let (Some(mean), Some(std)) = (weights.get("latents_mean"), weights.get("latents_std")) {
            vae.set_statistics(mean, std);
        }
        Ok(vae)
    }

    /// Clips `[B, 3, T, H, W]` in −1..1 → normalised latents `[B, C, f, h, w]`, f32.
    pub fn encode(&self, clips: &Tensor) -> Tensor {
        let parts: Vec<Tensor> =
            clips.split(8, 0).iter().map(|part| no_grad(|| self.model.encode(&part.to_kind(self.kind)).mean)).collect();
        (Tensor::cat(&parts, 0) - &self.mean) / &self.std
    }

    /// Normalised latents `[B, C, f, h, w]` → clips in −1..1, clamped, f32.
    pub fn decode(&self, latents: &Tensor) -> Tensor {
        let latents = (latents * &self.std + &self.mean).to_kind(self.kind);
        let parts: Vec<Tensor> = latents.split(8, 0).iter().map(|part| no_grad(|| self.model.decode(part))).collect();
        Tensor::cat(&parts, 0).clamp(-1.0, 1.0)
    }

    /// Mean and deviation of the latents, `[C]` each.
    pub fn statistics(&self) -> (Tensor, Tensor) {
        (self.mean.flatten(0, -1), self.std.flatten(0, -1))
    }

    /// Sets mean and deviation.
    pub fn set_statistics(&mut self, mean: &Tensor, std: &Tensor) {
        let shape = [1, self.config.latent_channels, 1, 1, 1];
        (self.mean, self.std) = (mean.to_kind(Kind::Float).view(shape), std.to_kind(Kind::Float).view(shape));
    }

    /// Frames, rows and columns of a clip's latents.
    pub fn grid(&self) -> [i64; 3] {
        let (t, s) = (self.config.temporal_compression_ratio(), self.config.spatial_compression_ratio());
        let side = super::clips::SIZE as i64 / s;
        [(FRAMES as i64 - 1) / t + 1, side, side]
    }
}

/// Clips, encoded.
#[derive(Debug)]
pub struct LatentData {
    /// The clips in order.
    pub clips: Vec<Clip>,
    /// The first so many have their objects in the middle of the axes on which they do not travel.
    pub centred: usize,
    /// Normalised latents as the transformer takes them, `[N, f·h·w, C]`, bf16.
    pub latents: Tensor,
}

impl LatentData {
    /// Draws and encodes `n` training clips, `scattered` (0–1) of them not centred. With `measure`, the latents of `vae`
    /// are normalised by them from now on.
    pub fn build(
        vae: &mut Vae,
        measure: bool,
        seed: u64,
        (n, jitter, scattered): (usize, f32, f64),
        progress: &dyn Fn(usize),
    ) -> Self {
        let mut rng = rng(mix(seed, 101));
        let centred = n - (n as f64 * scattered.clamp(0.0, 1.0)) as usize;
        let mut draw = |i| settle(Clip::sample_training(&mut rng), jitter, i < centred, &mut rng);
        let clips: Vec<Clip> = (0..n).map(&mut draw).collect();
        let mut parts = Vec::new();
        let channels = vae.config.latent_channels;
        let floats = (Kind::Float, Device::Cpu);
        if measure {
            vae.set_statistics(&Tensor::zeros([channels], floats), &Tensor::ones([channels], floats));
        }
        for (i, chunk) in clips.chunks(64).enumerate() {
            let batch = ClipBatch::render(chunk.iter().map(|&clip| (clip, 0)).collect(), FRAMES);
            parts.push(vae.encode(&batch.pixels));
            progress((i + 1) * 64);
        }
        let mut latents = Tensor::cat(&parts, 0);
        if measure {
            let axes = [0i64, 2, 3, 4].as_slice();
            let mean = latents.mean_dim(axes, false, Kind::Float);
            let std = latents.std_dim(axes, true, false);
            // A channel that says nothing must not be blown up.
            let std = std.maximum(&(std.max() * 0.05));
            // They are exported as bf16.
            let [mean, std] = [mean, std].map(|tensor| tensor.to_kind(Kind::BFloat16).to_kind(Kind::Float));
            vae.set_statistics(&mean, &std);
            let shape = [1, channels, 1, 1, 1];
            latents = (latents - mean.view(shape)) / std.view(shape);
        }
        Self { clips, centred, latents: pack(&latents).to_kind(Kind::BFloat16) }
    }
}

/// `[B, C, f, h, w]` → `[B, f·h·w, C]`.
pub fn pack(latents: &Tensor) -> Tensor {
    latents.flatten(2, 4).transpose(1, 2).contiguous()
}

/// `[B, f·h·w, C]` → `[B, C, f, h, w]`.
pub fn unpack(tokens: &Tensor, grid: [i64; 3]) -> Tensor {
    tokens.transpose(1, 2).unflatten(2, grid).contiguous()
}
