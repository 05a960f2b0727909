//! Scenes of the shapes world as tensors. Everything a step draws follows from the seed and the step's number, so a
//! resumed run sees the very data it would have seen.

use rand::{Rng, RngExt};
use sango_shapes::{Scene, object_coverage, render, rng};
use tch::{Kind, Tensor};

/// The light gray that stands for any background.
const NEUTRAL: f64 = 0.75;
/// A cell of which the object covers less than this counts as background.
const MIN_COVERAGE: f64 = 0.02;

/// Pictures with what they show.
#[derive(Debug)]
pub struct Batch {
    /// The scenes in order.
    pub scenes: Vec<Scene>,
    /// RGB in 0..1, `[N, 3, size, size]`.
    pub pixels: Tensor,
    /// How much of each pixel the object covers, `[N, 1, size, size]`.
    pub coverage: Tensor,
}

impl Batch {
    /// Draws `scenes`.
    pub fn render(scenes: Vec<Scene>, size: usize) -> Self {
        let n = scenes.len() as i64;
        let side = size as i64;
        let mut rgb = Vec::with_capacity(scenes.len() * size * size * 3);
        let mut coverage = Vec::with_capacity(scenes.len() * size * size);
        for scene in &scenes {
            rgb.extend_from_slice(&render(scene, size));
            coverage.extend_from_slice(&object_coverage(&scene.object, size));
        }
        let pixels =
            Tensor::from_slice(&rgb).view([n, side, side, 3]).permute([0, 3, 1, 2]).to_kind(Kind::Float) / 255.0;
        let coverage = Tensor::from_slice(&coverage).view([n, 1, side, side]);
        Self { scenes, pixels, coverage }
    }

    /// The pictures as the codebook sees them: cells of `cell` pixels that the object reaches into are drawn on a
    /// light gray that is no background of this world, all others hold nothing but the background.
    ///
    /// An outline then has the same code on every background, which a combination of object and background that was
    /// never trained on needs; the decoder fills in what is behind from the cells around it.
    pub fn on_neutral(&self, cell: i64) -> Tensor {
        let constant = |rgb: &dyn Fn(&Scene) -> [u8; 3]| {
            let values: Vec<f32> = self.scenes.iter().flat_map(|s| rgb(s).map(|c| f32::from(c) / 255.0)).collect();
            Tensor::from_slice(&values).view([-1, 3, 1, 1])
        };
        let colours = constant(&|s| s.object.colour.rgb());
        let backgrounds = constant(&|s| s.attributes.background.rgb());
        let drawn = (colours - NEUTRAL) * &self.coverage + NEUTRAL;
        let touched = self
            .coverage
            .avg_pool2d([cell, cell], [cell, cell], [0, 0], false, true, None)
            .gt(MIN_COVERAGE)
            .repeat_interleave_self_int(cell, 2, None)
            .repeat_interleave_self_int(cell, 3, None);
        drawn.where_self(&touched, &backgrounds)
    }

    /// Training scenes of one step; every other one is settled (see [`settle`]), the rest are anywhere.
    pub fn training(seed: u64, step: u64, n: usize, size: usize) -> Self {
        let mut rng = rng(mix(seed, step));
        let mut draw = |i| {
            let scene = Scene::sample_training(&mut rng);
            if i % 2 == 0 { settle(scene, 0.25, &mut rng) } else { scene }
        };
        Self::render((0..n).map(&mut draw).collect(), size)
    }

    /// Scenes of combinations that training never shows.
    pub fn held_out(seed: u64, n: usize, size: usize) -> Self {
        let mut rng = rng(mix(seed, u64::MAX));
        Self::render((0..n).map(|_| Scene::sample_held_out(&mut rng)).collect(), size)
    }
}

/// Moves a scene onto the grid that tokens lie on, keeping `jitter` (0–1) of its deviation from there.
///
/// Sizes become exact, named places whole multiples of four pixels in a picture of 64, and objects without a named
/// place go to one of nine such positions: a prompt then has few right answers, which is what a small model can learn
/// in an hour. The attributes stay what they were.
pub fn settle(mut scene: Scene, jitter: f32, rng: &mut impl Rng) -> Scene {
    let size = scene.attributes.size;
    let offset = (size.corner_offset() * 16.0).round() / 16.0;
    let object = &mut scene.object;
    let directions = match scene.place {
        Some(place) => place.direction(),
        None => [0, 1].map(|_| rng.random_range(-1i32..=1) as f32),
    };
    for (center, direction) in object.center.iter_mut().zip(directions) {
        let deviation = match scene.place {
            Some(_) => *center - 0.5 - direction * size.corner_offset(),
            None => rng.random_range(-1.0..=1.0) / 64.0,
        };
        *center = 0.5 + direction * offset + jitter * deviation;
    }
    object.radius = size.radius() + jitter * (object.radius - size.radius());
    scene
}

/// A seed for step `step` of a run with seed `seed` (SplitMix64).
pub fn mix(seed: u64, step: u64) -> u64 {
    let mut z = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(step.wrapping_mul(0xd1b5_4a32_d192_ed03))
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Pixels `[N, 3, H, W]` in 0..1 as RGB bytes, one vector per picture.
pub fn to_rgb(pixels: &Tensor) -> Vec<Vec<u8>> {
    let bytes = (pixels.clamp(0.0, 1.0) * 255.0).round().to_kind(Kind::Uint8).permute([0, 2, 3, 1]).contiguous();
    let n = bytes.size()[0];
    (0..n)
        .map(|i| {
            let picture = bytes.get(i).reshape([-1]);
            let mut out = vec![0u8; picture.numel()];
            let len = out.len();
            picture.copy_data(&mut out, len);
            out
        })
        .collect()
}

/// Writes pictures side by side, `columns` to a row, as one PNG.
///
/// # Errors
/// When the file cannot be written.
pub fn save_sheet(pictures: &[Vec<u8>], size: u32, columns: u32, path: &std::path::Path) -> anyhow::Result<()> {
    let columns = columns.min(pictures.len().max(1) as u32);
    let rows = (pictures.len() as u32).div_ceil(columns);
    let mut sheet = image::RgbImage::new(columns * (size + 2), rows * (size + 2));
    for (i, rgb) in pictures.iter().enumerate() {
        let (column, row) = (i as u32 % columns, i as u32 / columns);
        let picture = image::RgbImage::from_raw(size, size, rgb.clone())
            .ok_or_else(|| anyhow::anyhow!("a picture has {} bytes, not {size}×{size} RGB", rgb.len()))?;
        image::imageops::replace(&mut sheet, &picture, i64::from(column * (size + 2)), i64::from(row * (size + 2)));
    }
    sheet.save(path)?;
    Ok(())
}
