//! One picture as the vision tower takes it, kept as bytes until the tower asks for it.

use std::fmt;
use std::sync::Arc;

use sango_media::RgbImage;
use sango_tensor::Tensor;
use sha2::{Digest, Sha256};

use crate::error::Result;

/// What becomes of each byte of each channel: `(byte · rescale_factor − mean) / std`, in the reference's arithmetic.
#[derive(Clone, PartialEq)]
pub(super) struct Normalize([[f32; 256]; 3]);

impl Normalize {
    /// `rescale` is the factor where the reference rescales, `normalize` the mean and deviation where it normalizes.
    pub(super) fn new(rescale: Option<f64>, normalize: Option<([f32; 3], [f32; 3])>) -> Self {
        let value = |byte: usize, channel: usize| {
            let byte = byte as f32;
            match (rescale, normalize) {
                // The factor goes into mean and deviation instead of the pixels.
                (Some(factor), Some((mean, std))) => {
                    let inverse = (1.0 / factor) as f32;
                    (byte - mean[channel] * inverse) / (std[channel] * inverse)
                }
                (None, Some((mean, std))) => (byte - mean[channel]) / std[channel],
                (Some(factor), None) => byte * factor as f32,
                (None, None) => byte,
            }
        };
        Self(std::array::from_fn(|channel| std::array::from_fn(|byte| value(byte, channel))))
    }
}

impl fmt::Debug for Normalize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = self.0.each_ref().map(|channel| (channel[0], channel[255]));
        f.debug_tuple("Normalize").field(&ends).finish()
    }
}

/// One picture as the vision tower takes it: a whole image, a part of one, or a frame of a video. Cheap to clone.
///
/// Pixels are kept as bytes (a 512×512 tile takes 768 KiB); [`Tile::pixel_values`] makes the numbers.
#[derive(Clone)]
pub struct Tile {
    picture: Arc<RgbImage>,
    /// Height and width with padding below and to the right; those of the picture where there is none.
    padded: (usize, usize),
    normalize: Arc<Normalize>,
    key: [u8; 32],
}

impl Tile {
    pub(super) fn new(picture: RgbImage, normalize: &Arc<Normalize>) -> Self {
        let padded = (picture.height() as usize, picture.width() as usize);
        let mut tile = Self { picture: Arc::new(picture), padded, normalize: normalize.clone(), key: [0; 32] };
        tile.key = tile.hash();
        tile
    }

    /// The same with nothing below and to the right of it, up to `height` × `width`.
    pub(super) fn pad(&self, (height, width): (usize, usize)) -> Self {
        let padded = (self.padded.0.max(height), self.padded.1.max(width));
        if padded == self.padded {
            return self.clone();
        }
        let mut tile = Self { padded, ..self.clone() };
        tile.key = tile.hash();
        tile
    }

    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let (width, height) = self.picture.dimensions();
        for length in [height as usize, width as usize, self.padded.0, self.padded.1] {
            hash.update((length as u64).to_le_bytes());
        }
        // The mapping is monotonous and affine, so both ends say all of it.
        for channel in &self.normalize.0 {
            hash.update(channel[0].to_le_bytes());
            hash.update(channel[255].to_le_bytes());
        }
        hash.update(self.picture.as_raw());
        hash.finalize().into()
    }

    /// Rows, with padding.
    pub fn height(&self) -> usize {
        self.padded.0
    }

    /// Columns, with padding.
    pub fn width(&self) -> usize {
        self.padded.1
    }

    /// The picture before rescaling and normalization, without padding.
    pub fn picture(&self) -> &RgbImage {
        &self.picture
    }

    /// `pixel_values` `[3, height, width]`, F32: rescaled and normalized, 0 in the padding.
    ///
    /// # Errors
    /// [`crate::ModelError::Tensor`] when there is no memory for it.
    pub fn pixel_values(&self) -> Result<Tensor> {
        let (height, width) = self.padded;
        let mut values = vec![0f32; 3 * height * width];
        let row_bytes = 3 * self.picture.width() as usize;
        for (channel, plane) in values.chunks_exact_mut(height * width).enumerate() {
            let map = &self.normalize.0[channel];
            for (target, source) in plane.chunks_exact_mut(width).zip(self.picture.as_raw().chunks_exact(row_bytes)) {
                for (value, pixel) in target.iter_mut().zip(source.chunks_exact(3)) {
                    *value = map[usize::from(pixel[channel])];
                }
            }
        }
        Ok(Tensor::from_vec(values, &[3, height, width])?)
    }

    /// `pixel_attention_mask` `[height, width]`, F32: 1 where there is a picture, 0 in the padding. `None` where all
    /// of it is picture, which is always so unless `do_resize` is off.
    ///
    /// # Errors
    /// [`crate::ModelError::Tensor`] when there is no memory for it.
    pub fn pixel_attention_mask(&self) -> Result<Option<Tensor>> {
        let (width, height) = (self.picture.width() as usize, self.picture.height() as usize);
        if (height, width) == self.padded {
            return Ok(None);
        }
        let mut mask = vec![0f32; self.padded.0 * self.padded.1];
        for row in mask.chunks_exact_mut(self.padded.1).take(height) {
            row[..width].fill(1.0);
        }
        Ok(Some(Tensor::from_vec(mask, &[self.padded.0, self.padded.1])?))
    }

    /// SHA-256 of everything that the vision tower sees: equal keys have equal features.
    pub fn key(&self) -> [u8; 32] {
        self.key
    }
}

impl fmt::Debug for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (height, width) = self.padded;
        write!(f, "Tile {{ {width}x{height}, ")?;
        self.key[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str(" }")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(width: u32, height: u32) -> Tile {
        let normalize = Normalize::new(Some(1.0 / 255.0), Some(([0.5; 3], [0.5; 3])));
        Tile::new(RgbImage::from_fn(width, height, |x, y| sango_media::Rgb([x as u8, y as u8, 255])), &normalize.into())
    }

    #[test]
    fn bytes_become_numbers_between_minus_one_and_one() {
        let tile = tile(3, 2);
        let values = tile.pixel_values().expect("values");
        assert_eq!(values.shape(), [3, 2, 3]);
        let values = values.as_f32().expect("f32");
        assert_eq!(values[0], -1.0);
        assert_eq!(values[17], 1.0);
        assert!((values[1] - (2.0 / 255.0 - 1.0)).abs() < 1e-6);
        assert!(tile.pixel_attention_mask().expect("a mask").is_none());
    }

    #[test]
    fn padding_is_nothing_and_masked() {
        let padded = tile(3, 2).pad((4, 4));
        assert_eq!((padded.height(), padded.width()), (4, 4));
        let values = padded.pixel_values().expect("values");
        assert_eq!(&values.as_f32().expect("f32")[12..16], [0.0; 4]);
        let mask = padded.pixel_attention_mask().expect("a mask").expect("partly padded");
        assert_eq!(mask.as_f32().expect("f32"), [1., 1., 1., 0., 1., 1., 1., 0., 0., 0., 0., 0., 0., 0., 0., 0.]);
        assert_ne!(padded.key(), tile(3, 2).key());
        assert_eq!(tile(3, 2).pad((1, 1)).key(), tile(3, 2).key());
    }

    #[test]
    fn keys_tell_shapes_apart() {
        assert_ne!(tile(4, 2).key(), tile(2, 4).key());
        assert_eq!(tile(4, 2).key(), tile(4, 2).key());
    }
}
