//! Between 8-bit pixels and the tensors that models take.

use sango_media::{GrayImage, Rgb, RgbImage};
use sango_tensor::Tensor;

/// Pixels to `[1, 3, H, W]` in 0..1.
pub fn image_to_tensor(image: &RgbImage) -> anyhow::Result<Tensor> {
    planes(image.as_raw(), 3, image.dimensions())
}

/// A mask to `[1, 1, H, W]` in 0..1.
pub fn mask_to_tensor(mask: &GrayImage) -> anyhow::Result<Tensor> {
    planes(mask.as_raw(), 1, mask.dimensions())
}

/// Interleaved bytes to planes.
fn planes(bytes: &[u8], channels: usize, (width, height): (u32, u32)) -> anyhow::Result<Tensor> {
    let plane = |channel| bytes.iter().skip(channel).step_by(channels).map(|&byte| f32::from(byte) / 255.0);
    let values = (0..channels).flat_map(plane).collect();
    Ok(Tensor::from_vec(values, &[1, channels, height as usize, width as usize])?)
}

/// The first picture of `[B, 3, H, W]` in 0..1, rounded to 8 bits.
pub fn tensor_to_image(images: &Tensor) -> anyhow::Result<RgbImage> {
    let &[_, 3, height, width] = images.shape() else {
        anyhow::bail!("expected pictures [B, 3, H, W], got {:?}", images.shape());
    };
    let values = images.as_f32()?;
    let plane = height * width;
    Ok(RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = y as usize * width + x as usize;
        Rgb([0, 1, 2].map(|channel| (values[channel * plane + at] * 255.0).round() as u8))
    }))
}
