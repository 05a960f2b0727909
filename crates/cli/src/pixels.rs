//! From the tensors that models make to pictures.

use anyhow::Context;
use sango_media::RgbImage;
use sango_models::pixels::{Rgb8, to_rgb8};
use sango_tensor::Tensor;

/// The first picture of `[B, 3, H, W]` in 0..1.
pub fn picture(images: &Tensor) -> anyhow::Result<RgbImage> {
    let Rgb8 { width, height, bytes } = to_rgb8(images)?;
    RgbImage::from_raw(width, height, bytes).context("a picture has fewer pixels than its size says")
}
