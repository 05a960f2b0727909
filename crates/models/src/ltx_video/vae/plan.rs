//! Choosing tiles so that encoding or decoding keeps to a budget of memory.

use super::AutoencoderKLLTXVideo;
use super::memory::{self, Size};
use super::tiling::{TileParameters, Tiles, Tiling};
use crate::error::{ModelError, Result};

/// How a video is encoded or decoded within a budget.
#[derive(Debug, Clone, PartialEq)]
pub struct TilePlan {
    /// In which tiles; [`Tiling::Never`] where all of it fits.
    pub tiling: Tiling,
    /// How many tiles there are.
    pub tiles: usize,
    /// Bytes that it takes at its peak beyond the weights: activations, scratch memory, and the result.
    pub peak_bytes: u64,
}

/// Sides that are tried, in numbers of tiles.
const MOST_TILES: usize = 48;

/// One of the two halves at one size.
struct Work<'a> {
    vae: &'a AutoencoderKLLTXVideo,
    decode: bool,
    batch: usize,
    /// Of the input: latents to decode, frames and pixels to encode.
    input: Size,
    latents: Size,
}

impl AutoencoderKLLTXVideo {
    /// How latents for `frames` frames of `height` × `width` pixels are decoded in at most `budget` bytes beyond the weights:
    /// at once if that fits, else in the tiles that compute least twice. Tiles overlap by an eighth of a side (a quarter in
    /// time), at least one latent.
    ///
    /// # Errors
    /// [`ModelError::Memory`] with the smallest estimate when nothing fits.
    pub fn plan(&self, frames: usize, height: usize, width: usize, budget: u64) -> Result<TilePlan> {
        let (space, time) = (self.spatial_compression_ratio(), self.temporal_compression_ratio());
        let latents = [frames.saturating_sub(1) / time + 1, (height / space).max(1), (width / space).max(1)];
        self.plan_decoding(1, latents, budget)
    }

    /// As [`Self::plan`], for encoding: the video that is given does not count.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub fn plan_encode(&self, frames: usize, height: usize, width: usize, budget: u64) -> Result<TilePlan> {
        self.plan_encoding(1, [frames.max(1), height, width], budget)
    }

    pub(super) fn plan_decoding(&self, batch: usize, latents: Size, budget: u64) -> Result<TilePlan> {
        Work { vae: self, decode: true, batch, input: latents, latents }.plan(budget)
    }

    pub(super) fn plan_encoding(&self, batch: usize, video: Size, budget: u64) -> Result<TilePlan> {
        let (space, time) = (self.spatial_compression_ratio(), self.temporal_compression_ratio());
        let latents = [(video[0] - 1) / time + 1, video[1].div_ceil(space), video[2].div_ceil(space)];
        Work { vae: self, decode: false, batch, input: video, latents }.plan(budget)
    }
}

impl Work<'_> {
    fn plan(&self, budget: u64) -> Result<TilePlan> {
        let whole = self.bytes(&Tiles::NONE);
        if whole <= budget {
            return Ok(TilePlan { tiling: Tiling::Never, tiles: 1, peak_bytes: whole });
        }
        let [frames, height, width] = self.latents;
        let (mut best, mut smallest): (Option<(u64, TilePlan)>, u64) = (None, whole);
        for tile_frames in sides(frames) {
            for tile_height in sides(height) {
                for tile_width in sides(width) {
                    let parameters = self.parameters([tile_frames, tile_height, tile_width]);
                    let tiles = self.tiles(&parameters)?;
                    let peak_bytes = self.bytes(&tiles);
                    smallest = smallest.min(peak_bytes);
                    if peak_bytes > budget {
                        continue;
                    }
                    let count = tiles.count(self.input);
                    let cost = self.computed(&tiles);
                    if best.as_ref().is_none_or(|(least, plan)| (cost, count) < (*least, plan.tiles)) {
                        let tiling = Tiling::Diffusers(parameters);
                        best = Some((cost, TilePlan { tiling, tiles: count, peak_bytes }));
                    }
                }
            }
        }
        let refused = || ModelError::Memory {
            needed: smallest,
            budget,
            parts: format!("{} in the smallest tiles", if self.decode { "decoding" } else { "encoding" }),
            advice: "ask for fewer frames or smaller ones, or allow more memory".into(),
        };
        best.map(|(_, plan)| plan).ok_or_else(refused)
    }

    /// Tiles of so many latents, as `enable_tiling` has them. A side that is not cut has a tile that is larger than it.
    fn parameters(&self, tile: Size) -> TileParameters {
        let (space, time) = (self.vae.spatial_compression_ratio(), self.vae.temporal_compression_ratio());
        let side = |n: usize, ratio: usize| match tile[n] >= self.latents[n] {
            true => (self.latents[n] * ratio, self.latents[n] * ratio),
            false => (tile[n] * ratio, (tile[n] - (tile[n] / 8).max(1)) * ratio),
        };
        let (height, width) = (side(1, space), side(2, space));
        // A tile in time has one latent more than it says.
        let long = tile[0].saturating_sub(1).max(1);
        let frames = (long * time, (long - (long / 4).max(usize::from(long > 1))) * time);
        TileParameters {
            use_tiling: tile[1] < self.latents[1] || tile[2] < self.latents[2],
            use_framewise_decoding: tile[0] < self.latents[0],
            tile_sample_min_height: height.0,
            tile_sample_stride_height: height.1,
            tile_sample_min_width: width.0,
            tile_sample_stride_width: width.1,
            tile_sample_min_num_frames: frames.0,
            tile_sample_stride_num_frames: frames.1,
        }
    }

    fn tiles(&self, parameters: &TileParameters) -> Result<Tiles> {
        match self.decode {
            true => parameters.decoding(self.vae.config(), self.input),
            false => parameters.encoding(self.vae.config(), self.input),
        }
    }

    /// The largest tile.
    fn largest(&self, tiles: &Tiles) -> Size {
        let [frames, height, width] = self.input;
        let [rows, columns] = tiles.space.map_or([height, width], |axes| axes.map(|axis| axis.tile));
        [tiles.time.map_or(frames, |axis| (axis.tile + 1).min(frames)), rows.min(height), columns.min(width)]
    }

    /// Input that is computed, counting what tiles share as often as they do.
    fn computed(&self, tiles: &Tiles) -> u64 {
        let [frames, height, width] = self.input;
        let sum = |lengths: &mut dyn Iterator<Item = (usize, usize)>| lengths.map(|(a, b)| (b - a) as u64).sum::<u64>();
        let time = tiles.time.map_or(frames as u64, |axis| sum(&mut axis.tiles_in_time(frames)));
        let space = match tiles.space {
            Some([rows, columns]) => sum(&mut rows.tiles(height)) * sum(&mut columns.tiles(width)),
            None => (height * width) as u64,
        };
        time * space
    }

    /// Bytes at the peak.
    fn bytes(&self, tiles: &Tiles) -> u64 {
        let (vae, config) = (self.vae, self.vae.config());
        let tile = self.largest(tiles);
        let (layout, narrow) = (vae.layout(), vae.narrow());
        let (model, channels) = match self.decode {
            true => (memory::decoding(config, &layout.decoder, narrow, self.batch, tile), config.out_channels),
            false => (memory::encoding(config, &layout.encoder, narrow, self.batch, tile), config.latent_channels + 1),
        };
        if *tiles == Tiles::NONE {
            return model;
        }
        // What is out of the model already: the whole result, a stretch of time put together from its tiles (twice, where
        // a frame of it is left out), and the edges of tiles that the next are blended with.
        let (space, time) = (vae.spatial_compression_ratio(), vae.temporal_compression_ratio());
        let out = |[frames, height, width]: Size| match self.decode {
            true => memory::result([(frames - 1) * time + 1, height * space, width * space], channels, self.batch),
            false => memory::result(
                [(frames - 1) / time + 1, height.div_ceil(space), width.div_ceil(space)],
                channels,
                self.batch,
            ),
        };
        let [_, height, width] = self.input;
        // What is encoded is cut out of the video, and stays until its tile is done; latents are small.
        let cut = if self.decode { 0 } else { memory::result(tile, config.in_channels, self.batch) };
        let mut kept = cut + out(self.input) * if self.decode { 1 } else { 2 };
        if let Some(axis) = tiles.time {
            let stretch = out([tile[0], height, width]);
            kept += stretch * if tiles.space.is_some() { 2 } else { 1 };
            kept += stretch * axis.blend as u64 / (axis.keep as u64 + axis.blend as u64);
        }
        if let Some([rows, columns]) = tiles.space {
            let share = |whole: u64, axis: super::tiling::Axis| {
                whole * axis.blend as u64 / (axis.keep as u64 + axis.blend as u64)
            };
            kept += share(out([tile[0], tile[1], width]), rows) * 5 / 4 + share(out(tile), columns);
        }
        model + kept
    }
}

/// Lengths of tiles that make 1, 2, 3 … of them, the longest first.
fn sides(length: usize) -> Vec<usize> {
    let mut sides: Vec<usize> =
        (1..=length.min(MOST_TILES)).map(|tiles| (length.div_ceil(tiles) * 9).div_ceil(8)).collect();
    // The first is not cut; tiles of one latent would share nothing.
    sides[0] = length;
    sides.retain(|&side| side >= 2 || length < 2);
    sides.dedup();
    sides
}
