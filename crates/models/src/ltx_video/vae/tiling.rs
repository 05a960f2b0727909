//! How a video is cut into tiles that overlap, so that a large one needs the memory of a small one.

use super::AutoencoderKLLTXVideoConfig;
use crate::error::{ModelError, Result};

/// Whether and how a video is encoded or decoded in tiles.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Tiling {
    /// All of it at once.
    #[default]
    Never,
    /// Tiles as `enable_tiling` of diffusers makes them, with its result.
    Diffusers(TileParameters),
    /// All of it at once where that fits in this many bytes, else the tiles that do with the least work to spare
    /// (see [`super::AutoencoderKLLTXVideo::plan`]).
    Budget(u64),
}

/// The attributes of `AutoencoderKLLTXVideo` that say how it tiles, in pixels and frames of the video; the default is what
/// `enable_tiling()` sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileParameters {
    /// Whether frames larger than a tile are cut.
    pub use_tiling: bool,
    /// Whether videos longer than a tile are cut (which in the reference is about encoding as well).
    pub use_framewise_decoding: bool,
    /// Height of a tile.
    pub tile_sample_min_height: usize,
    /// Width of a tile.
    pub tile_sample_min_width: usize,
    /// Frames of a tile (but for one more).
    pub tile_sample_min_num_frames: usize,
    /// From the top of a tile to the top of the one below.
    pub tile_sample_stride_height: usize,
    /// From the left of a tile to the left of the next.
    pub tile_sample_stride_width: usize,
    /// From the first frame of a tile to the first of the next.
    pub tile_sample_stride_num_frames: usize,
}

impl Default for TileParameters {
    fn default() -> Self {
        Self {
            use_tiling: true,
            use_framewise_decoding: false,
            tile_sample_min_height: 512,
            tile_sample_min_width: 512,
            tile_sample_min_num_frames: 16,
            tile_sample_stride_height: 448,
            tile_sample_stride_width: 448,
            tile_sample_stride_num_frames: 8,
        }
    }
}

/// Tiles along one direction: where they begin and end in the input, and what is kept of their results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axis {
    /// Input that a tile covers, and from one tile to the next.
    pub(super) tile: usize,
    pub(super) stride: usize,
    /// Output that a tile gives to the whole, and that it shares with the tile before.
    pub(super) keep: usize,
    pub(super) blend: usize,
}

impl Axis {
    /// The inputs of the tiles: begin and end.
    pub(super) fn tiles(self, length: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..length).step_by(self.stride).map(move |start| (start, (start + self.tile).min(length)))
    }

    /// The same in time, where every tile has one more frame.
    pub(super) fn tiles_in_time(self, length: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..length).step_by(self.stride).map(move |start| (start, (start + self.tile + 1).min(length)))
    }
}

/// Tiles in all directions; a direction that is not cut has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tiles {
    pub(super) time: Option<Axis>,
    pub(super) space: Option<[Axis; 2]>,
}

impl Tiles {
    pub(super) const NONE: Self = Self { time: None, space: None };

    /// How many times the model runs for a video or latents of this size.
    pub(super) fn count(&self, [frames, height, width]: [usize; 3]) -> usize {
        let space = self.space.map_or(1, |[rows, columns]| rows.tiles(height).count() * columns.tiles(width).count());
        // A last tile of one frame adds nothing after the first.
        let segments =
            |axis: Axis| axis.tiles_in_time(frames).enumerate().filter(|&(n, (a, b))| n == 0 || b - a > 1).count();
        space * self.time.map_or(1, segments)
    }
}

impl TileParameters {
    /// The tiles of latents `[frames, height, width]`.
    pub(super) fn decoding(&self, config: &AutoencoderKLLTXVideoConfig, latents: [usize; 3]) -> Result<Tiles> {
        let (space, time) = (config.spatial_compression_ratio(), config.temporal_compression_ratio());
        let axis = |tile: usize, stride: usize, ratio: usize| Axis {
            tile: tile / ratio,
            stride: stride / ratio,
            keep: stride,
            blend: tile.saturating_sub(stride),
        };
        self.tiles(latents, axis, [time, space])
    }

    /// The tiles of a video `[frames, height, width]`.
    pub(super) fn encoding(&self, config: &AutoencoderKLLTXVideoConfig, video: [usize; 3]) -> Result<Tiles> {
        let (space, time) = (config.spatial_compression_ratio(), config.temporal_compression_ratio());
        let axis = |tile: usize, stride: usize, ratio: usize| Axis {
            tile,
            stride,
            keep: stride / ratio,
            blend: (tile / ratio).saturating_sub(stride / ratio),
        };
        self.tiles(video, axis, [time, space])
    }

    fn tiles(
        &self,
        [frames, height, width]: [usize; 3],
        axis: impl Fn(usize, usize, usize) -> Axis,
        [time, space]: [usize; 2],
    ) -> Result<Tiles> {
        let checked = |field, tile: usize, stride: usize, ratio: usize| {
            if stride < ratio || stride > tile {
                let detail = format!("is {stride}; it must be between {ratio} and the size of a tile ({tile})");
                return Err(ModelError::request(field, detail));
            }
            Ok(axis(tile, stride, ratio))
        };
        let segments = match self.use_framewise_decoding {
            true => {
                let (tile, stride) = (self.tile_sample_min_num_frames, self.tile_sample_stride_num_frames);
                Some(checked("tile_sample_stride_num_frames", tile, stride, time)?).filter(|axis| frames > axis.tile)
            }
            false => None,
        };
        let grid = match self.use_tiling {
            true => {
                let (tile, stride) = (self.tile_sample_min_height, self.tile_sample_stride_height);
                let rows = checked("tile_sample_stride_height", tile, stride, space)?;
                let (tile, stride) = (self.tile_sample_min_width, self.tile_sample_stride_width);
                let columns = checked("tile_sample_stride_width", tile, stride, space)?;
                Some([rows, columns]).filter(|_| height > rows.tile || width > columns.tile)
            }
            false => None,
        };
        Ok(Tiles { time: segments, space: grid })
    }
}
