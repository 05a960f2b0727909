//! The parts of the VQ model's loss that know about scenes.

use tch::{Kind, Tensor};

use crate::data::Batch;

/// L1 + 2·L2 with pixels in and around the object weighted up, the more the less it stands out.
pub(super) fn reconstruction_loss(decoded: &Tensor, batch: &Batch) -> Tensor {
    let near = batch.coverage.max_pool2d([5, 5], [1, 1], [2, 2], [1, 1], false);
    let gain: Vec<f32> = batch
        .scenes
        .iter()
        .map(|scene| {
            let (a, b) = (scene.object.colour.rgb(), scene.attributes.background.rgb());
            let distance = (0..3).map(|i| (f32::from(a[i]) - f32::from(b[i])).powi(2)).sum::<f32>().sqrt();
            8.0 * (300.0 / distance).clamp(1.0, 2.0)
        })
        .collect();
    let gain = Tensor::from_slice(&gain).view([-1, 1, 1, 1]);
    let weight = near * gain + 1.0;
    let error = (decoded - &batch.pixels).abs();
    let per_pixel = &error + error.square() * 2.0;
    (per_pixel * &weight).mean(Kind::Float) / weight.mean(Kind::Float)
}

/// Cells of the token grid with nothing but background in them and their neighbours: `[N, h, w]`, boolean.
pub(super) fn flat_cells(batch: &Batch, grid: i64) -> Tensor {
    let cell = batch.coverage.size()[3] / grid;
    batch
        .coverage
        .max_pool2d([cell, cell], [cell, cell], [0, 0], [1, 1], false)
        .max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false)
        .squeeze_dim(1)
        .le(0.0)
}

/// How far the latents of flat cells are from the mean of their background: pulled together, plain background takes
/// few codes, whatever its position, and there is less noise to model later.
pub(super) fn flat_spread(latents: &Tensor, batch: &Batch) -> Tensor {
    let (_, _, grid, _) = latents.size4().unwrap_or((0, 0, 1, 1));
    let flat = flat_cells(batch, grid);
    let backgrounds: Vec<i64> = batch.scenes.iter().map(|s| s.attributes.background.index() as i64).collect();
    let backgrounds = Tensor::from_slice(&backgrounds).view([-1, 1, 1]).expand_as(&flat);
    let rows = latents.permute([0, 2, 3, 1]);
    let mut total = Tensor::zeros([], (Kind::Float, latents.device()));
    for background in 0..sango_shapes::Background::COUNT as i64 {
        let here = flat.logical_and(&backgrounds.eq(background)).unsqueeze(-1);
        let found = rows.masked_select(&here).view([-1, latents.size()[1]]);
        if found.size()[0] > 0 {
            let mean = found.mean_dim([0i64].as_slice(), true, Kind::Float).detach();
            let spread = (found - mean).square();
            total += spread.sum(Kind::Float);
        }
    }
    total / (latents.numel() as f64)
}

/// Number of distinct ids.
pub(super) fn unique(ids: &Tensor) -> i64 {
    let (values, _, _) = ids.reshape([-1]).unique_consecutive(false, false, None);
    let (values, _) = values.sort(0, false);
    values.unique_consecutive(false, false, None).0.numel() as i64
}
