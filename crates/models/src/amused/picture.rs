//! Pictures and masks as the pipelines take them: checked, resized, channels last.

use sango_tensor::Tensor;

use crate::error::{ModelError, Result};

/// A picture `[1, 3, H, W]`, resized to `(height, width)` and laid out channels last.
///
/// Like the reference on tensors, this takes the nearest pixel; callers with photographs resize them well beforehand.
pub(super) fn prepare_image(image: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
    let planes = planes("image", image, 3)?;
    if let Some(bad) = planes.data.iter().find(|x| !(-0.001..=1.001).contains(*x)) {
        return Err(ModelError::request("image", format!("has a value of {bad}; pixels are in 0..1")));
    }
    let resized = planes.resize(height, width);
    Ok(Tensor::from_vec(resized, &[3, height, width])?.permute(&[1, 2, 0])?.unsqueeze(0)?)
}

/// Which tokens of a grid a mask `[1, 1, H, W]` covers.
pub(super) fn prepare_mask(mask: &Tensor, (rows, columns): (usize, usize)) -> Result<Vec<bool>> {
    let resized = planes("mask", mask, 1)?.resize(rows, columns);
    Ok(resized.into_iter().map(|value| value >= 0.5).collect())
}

/// Height and width of a picture, each rounded down to a multiple of `multiple`.
pub(super) fn size_of(image: &Tensor, multiple: usize) -> Result<(usize, usize)> {
    let planes = planes("image", image, 3)?;
    let (height, width) = (planes.height - planes.height % multiple, planes.width - planes.width % multiple);
    if height == 0 || width == 0 {
        let detail =
            format!("is {}×{} pixels; the model needs at least {multiple}×{multiple}", planes.width, planes.height);
        return Err(ModelError::request("image", detail));
    }
    Ok((height, width))
}

/// `[1, H, W, 3]` or several of them → `[B, 3, H, W]`, clamped to 0..1.
pub(super) fn to_output(decoded: &Tensor) -> Result<Tensor> {
    Ok(decoded.clamp(0.0, 1.0)?.permute(&[0, 3, 1, 2])?)
}

struct Planes<'a> {
    data: &'a [f32],
    height: usize,
    width: usize,
}

fn planes<'a>(field: &'static str, tensor: &'a Tensor, channels: usize) -> Result<Planes<'a>> {
    match *tensor.shape() {
        [1, c, height, width] if c == channels && height > 0 && width > 0 => {
            Ok(Planes { data: tensor.as_f32()?, height, width })
        }
        _ => {
            let detail = format!("has shape {:?}; it must be [1, {channels}, height, width]", tensor.shape());
            Err(ModelError::request(field, detail))
        }
    }
}

impl Planes<'_> {
    /// Nearest neighbour, with the rounding of `torch.nn.functional.interpolate`.
    fn resize(&self, height: usize, width: usize) -> Vec<f32> {
        if (height, width) == (self.height, self.width) {
            return self.data.to_vec();
        }
        let source = |from: usize, to: usize| {
            let scale = from as f32 / to as f32;
            (0..to).map(move |i| ((i as f32 * scale) as usize).min(from - 1)).collect::<Vec<_>>()
        };
        let (rows, columns) = (source(self.height, height), source(self.width, width));
        let mut out = Vec::with_capacity(self.data.len() / (self.height * self.width) * height * width);
        for plane in self.data.chunks_exact(self.height * self.width) {
            for row in &rows {
                let row = &plane[row * self.width..][..self.width];
                out.extend(columns.iter().map(|&column| row[column]));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resizing_takes_the_nearest_pixel() {
        let data: Vec<f32> = (0..16).map(|x| x as f32).collect();
        let planes = Planes { data: &data, height: 4, width: 4 };
        assert_eq!(planes.resize(2, 2), [0.0, 2.0, 8.0, 10.0]);
        assert_eq!(planes.resize(1, 3), [0.0, 1.0, 2.0]);
    }

    #[test]
    fn a_mask_covers_tokens_from_one_half_on() {
        let mask = Tensor::from_vec(vec![0.0, 0.5, 0.49, 1.0], &[1, 1, 2, 2]).expect("four values");
        assert_eq!(prepare_mask(&mask, (2, 2)).expect("a mask"), [false, true, false, true]);
        assert!(prepare_image(&mask, (2, 2)).is_err());
    }
}
