//! `AutoencoderKLLTXVideo` itself.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use sango_tensor::{DType, Tensor, Weights, release_buffers};

use super::AutoencoderKLLTXVideoConfig;
use super::blend::{Part, Shared, run_tiles};
use super::decoder::LTXVideoDecoder3d;
use super::distribution::DiagonalGaussian;
use super::encoder::LTXVideoEncoder3d;
use super::layout::Layout;
use super::noise::{InjectedNoise, NoiseSource};
use super::tiling::{Tiles, Tiling};
use crate::config::Config;
use crate::error::{ModelError, Result};

/// The autoencoder between videos and latents.
///
/// The encoder is only needed to start from pictures, and is loaded when that first happens.
pub struct AutoencoderKLLTXVideo {
    weights: Weights,
    config: AutoencoderKLLTXVideoConfig,
    layout: Layout,
    encoder: Mutex<Option<Arc<LTXVideoEncoder3d>>>,
    decoder: LTXVideoDecoder3d,
    latents_mean: Vec<f32>,
    latents_std: Vec<f32>,
}

/// How latents are decoded.
#[derive(Debug, Clone, Default)]
pub struct DecodeOptions {
    /// In which tiles.
    pub tiling: Tiling,
    /// The noise that decoders of 0.9.1 add.
    pub noise: InjectedNoise,
}

/// Told how many tiles of how many are done; called between the blocks of a tile as well, and breaking ends the work.
pub type Progress<'a> = dyn FnMut(usize, usize) -> ControlFlow<()> + 'a;

impl AutoencoderKLLTXVideo {
    /// Loads the decoder; `weights` has the names of diffusers, from the root of the autoencoder.
    ///
    /// # Errors
    /// When the configuration cannot be run, or a tensor is missing, has another shape, or belongs to no layer.
    pub fn load(weights: &Weights, config: AutoencoderKLLTXVideoConfig) -> Result<Self> {
        let config = Config { path: PathBuf::from("vae/config.json"), value: config };
        let layout = Layout::new(&config)?;
        let config = config.value;
        let statistics = |name: &str, default: f32| -> Result<Vec<f32>> {
            if !weights.contains(name) {
                return Ok(vec![default; config.latent_channels]);
            }
            let values = weights.get_f32(name, &[config.latent_channels])?;
            Ok(values.as_f32()?.to_vec())
        };
        let model = Self {
            encoder: Mutex::new(None),
            decoder: LTXVideoDecoder3d::load(&weights.pp("decoder"), &config, &layout.decoder)?,
            latents_mean: statistics("latents_mean", 0.0)?,
            latents_std: statistics("latents_std", 1.0)?,
            layout,
            config,
            weights: weights.clone(),
        };
        model.weights.check_all_used(|name| name.contains("encoder."))?;
        Ok(model)
    }

    /// The configuration.
    pub fn config(&self) -> &AutoencoderKLLTXVideoConfig {
        &self.config
    }

    /// Number of parameters, the encoder's included.
    pub fn parameters(&self) -> usize {
        self.weights.parameter_count()
    }

    /// The mean of every channel of the latents, `[C]`.
    pub fn latents_mean(&self) -> &[f32] {
        &self.latents_mean
    }

    /// The standard deviation of every channel of the latents, `[C]`.
    pub fn latents_std(&self) -> &[f32] {
        &self.latents_std
    }

    /// What normalised latents are multiplied with.
    pub fn scaling_factor(&self) -> f32 {
        self.config.scaling_factor
    }

    /// Pixels per latent along a side.
    pub fn spatial_compression_ratio(&self) -> usize {
        self.config.spatial_compression_ratio()
    }

    /// Frames per latent, but for the first.
    pub fn temporal_compression_ratio(&self) -> usize {
        self.config.temporal_compression_ratio()
    }

    /// Whether the decoder must be told how noisy the latents still are.
    pub fn timestep_conditioning(&self) -> bool {
        self.config.timestep_conditioning
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether activations between convolutions are in half precision.
    pub(super) fn narrow(&self) -> bool {
        self.weights.compute_dtype() == DType::BF16
    }

    /// Loads the encoder now rather than with the first video.
    ///
    /// # Errors
    /// When a tensor of it is missing or has another shape.
    pub fn load_encoder(&self) -> Result<()> {
        self.encoder().map(drop)
    }

    fn encoder(&self) -> Result<Arc<LTXVideoEncoder3d>> {
        let mut slot = self.encoder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(encoder) = &*slot {
            return Ok(encoder.clone());
        }
        let weights = self.weights.pp("encoder");
        let encoder = Arc::new(LTXVideoEncoder3d::load(&weights, &self.config, &self.layout.encoder)?);
        weights.check_all_used(|_| false)?;
        Ok(slot.insert(encoder).clone())
    }

    /// A video `[B, C, T, H, W]` in -1..1 → what latents it may have, not normalised.
    ///
    /// # Errors
    /// [`ModelError::Request`] for a video that is empty, does not divide or holds values that are not finite,
    /// [`ModelError::Memory`] when no tiles fit the budget, [`ModelError::Cancelled`] when `progress` breaks.
    pub fn encode(&self, video: &Tensor, tiling: &Tiling, progress: &mut Progress<'_>) -> Result<DiagonalGaussian> {
        let [batch, frames, height, width] = self.check("video", video, self.config.in_channels)?;
        let encoder = self.encoder()?;
        let size = [frames, height, width];
        let tiles = match tiling {
            Tiling::Never => Tiles::NONE,
            Tiling::Diffusers(parameters) => parameters.encoding(&self.config, size)?,
            Tiling::Budget(bytes) => match self.plan_encoding(batch, size, *bytes)?.tiling {
                Tiling::Diffusers(parameters) => parameters.encoding(&self.config, size)?,
                _ => Tiles::NONE,
            },
        };
        let (space, time) = (self.spatial_compression_ratio(), self.temporal_compression_ratio());
        let out = [(frames - 1) / time + 1, height / space, width / space];
        let mut run = |part: &Tensor, pause: &mut dyn FnMut() -> Result<()>| encoder.forward(part, pause);
        let moments = in_parts(&tiles, video, size, out, Shared::First, progress, &mut run)?;
        let channels = self.config.latent_channels;
        let mean = moments.narrow(1, 0, channels)?;
        finite(&mean, "video encoder")?;
        let logvar = moments.narrow(1, channels, 1)?.clamp(-30.0, 20.0)?.broadcast_to(mean.shape())?;
        Ok(DiagonalGaussian { mean, logvar })
    }

    /// Latents `[B, C, f, h, w]`, no longer normalised, → a video `[B, C, T, H, W]`, about -1..1. `timestep` is how noisy
    /// the latents still are, which some decoders must be told and others ignore.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn decode(
        &self,
        latents: &Tensor,
        timestep: Option<f32>,
        options: &DecodeOptions,
        progress: &mut Progress<'_>,
    ) -> Result<Tensor> {
        let [batch, frames, height, width] = self.check("latents", latents, self.config.latent_channels)?;
        let timestep = match timestep {
            Some(timestep) if self.timestep_conditioning() && !timestep.is_finite() => {
                return Err(ModelError::request("decode_timestep", format!("is {timestep}; it must be a number")));
            }
            None if self.timestep_conditioning() => {
                return Err(ModelError::request("decode_timestep", "is missing; this decoder must be told it"));
            }
            timestep => timestep.unwrap_or(0.0),
        };
        let size = [frames, height, width];
        let tiles = match &options.tiling {
            Tiling::Never => Tiles::NONE,
            Tiling::Diffusers(parameters) => parameters.decoding(&self.config, size)?,
            Tiling::Budget(bytes) => match self.plan_decoding(batch, size, *bytes)?.tiling {
                Tiling::Diffusers(parameters) => parameters.decoding(&self.config, size)?,
                _ => Tiles::NONE,
            },
        };
        let (space, time) = (self.spatial_compression_ratio(), self.temporal_compression_ratio());
        let out = [(frames - 1) * time + 1, height * space, width * space];
        let mut noise = NoiseSource::new(&options.noise);
        let mut run = |part: &Tensor, pause: &mut dyn FnMut() -> Result<()>| {
            self.decoder.forward(part, timestep, &mut noise, pause)
        };
        let video = in_parts(&tiles, latents, size, out, Shared::Last, progress, &mut run)?;
        finite(&video, "video decoder")?;
        Ok(video)
    }

    /// The batch, frames, height and width of a tensor with `channels`, none of them 0 and all values finite.
    fn check(&self, field: &'static str, tensor: &Tensor, channels: usize) -> Result<[usize; 4]> {
        match tensor.shape() {
            &[batch, found, frames, height, width] if found == channels && tensor.numel() > 0 => {
                if tensor.as_f32()?.iter().any(|x| !x.is_finite()) {
                    return Err(ModelError::request(field, "holds values that are not finite numbers"));
                }
                Ok([batch, frames, height, width])
            }
            shape => {
                let detail = format!("has shape {shape:?}; it must be [batch, {channels}, frames, height, width]");
                Err(ModelError::request(field, detail))
            }
        }
    }
}

/// A model of one tile. It calls its second argument between its blocks.
type TileModel<'a> = dyn FnMut(&Tensor, &mut dyn FnMut() -> Result<()>) -> Result<Tensor> + 'a;

/// Runs a model on the tiles of an input and joins the results, telling `progress`.
fn in_parts(
    tiles: &Tiles,
    input: &Tensor,
    size: [usize; 3],
    out: [usize; 3],
    shared: Shared,
    progress: &mut Progress<'_>,
    model: &mut TileModel<'_>,
) -> Result<Tensor> {
    let (mut done, total) = (0, tiles.count(size));
    let mut tell = |done: usize| match progress(done, total) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(ModelError::Cancelled),
    };
    let mut run = |part: Part| -> Result<Tensor> {
        let cut = crop(input, part)?;
        let mut pause = || {
            // Blocks work in different sizes, so that what one kept for itself is of no use to the next.
            release_buffers();
            tell(done)
        };
        let output = model(&cut, &mut pause)?;
        done += 1;
        tell(done)?;
        Ok(output)
    };
    let result = run_tiles(tiles, size, out, shared, &mut run);
    release_buffers();
    result
}

/// A part of `[B, C, T, H, W]`: the input itself where it is all of it, else a copy of no more than the part.
fn crop(input: &Tensor, part: Part) -> Result<Tensor> {
    let [batch, channels, frames, height, width] = input.dims()?;
    let [time, rows, columns] = part;
    if part == [(0, frames), (0, height), (0, width)] {
        return Ok(input.clone());
    }
    let (values, size) = (input.as_f32()?, part.map(|(start, end)| end - start));
    let mut cut = Vec::with_capacity(batch * channels * size.iter().product::<usize>());
    for plane in 0..batch * channels {
        for frame in time.0..time.1 {
            for row in rows.0..rows.1 {
                let at = ((plane * frames + frame) * height + row) * width;
                cut.extend_from_slice(&values[at + columns.0..at + columns.1]);
            }
        }
    }
    Ok(Tensor::from_vec(cut, &[batch, channels, size[0], size[1], size[2]])?)
}

fn finite(tensor: &Tensor, part: &'static str) -> Result<()> {
    match tensor.as_f32()?.iter().all(|x| x.is_finite()) {
        true => Ok(()),
        false => Err(ModelError::PartNotFinite { part }),
    }
}
