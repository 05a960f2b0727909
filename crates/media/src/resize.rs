//! Resampling, and the small pictures that show progress.

use image::imageops::{self, FilterType};
use image::{GrayImage, RgbImage};

use crate::{MediaError, encode_png};

/// How pixels are resampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The nearest pixel: for masks and pixel art.
    Nearest,
    /// Linear interpolation, widened when shrinking.
    Bilinear,
    /// Lanczos with a window of 3: what `VaeImageProcessor` uses for pictures.
    Lanczos,
}

impl Filter {
    fn as_image(self) -> FilterType {
        match self {
            Self::Nearest => FilterType::Nearest,
            Self::Bilinear => FilterType::Triangle,
            Self::Lanczos => FilterType::Lanczos3,
        }
    }
}

/// Resamples to exactly `width` x `height` pixels; a picture of that size already is copied as it is.
pub fn resize(picture: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    if picture.dimensions() == (width, height) {
        return picture.clone();
    }
    imageops::resize(picture, width, height, filter.as_image())
}

/// [`resize`] for a mask.
pub fn resize_mask(mask: &GrayImage, width: u32, height: u32, filter: Filter) -> GrayImage {
    if mask.dimensions() == (width, height) {
        return mask.clone();
    }
    imageops::resize(mask, width, height, filter.as_image())
}

/// Resamples to `width` x `height` pixels without distortion: what is left over on two sides is cut off.
pub fn cover(picture: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    let (from, to) = ((u64::from(picture.width()), u64::from(picture.height())), (u64::from(width), u64::from(height)));
    // The largest middle part of the wanted shape.
    let (across, down) = match from.0 * to.1 > from.1 * to.0 {
        true => ((from.1 * to.0 / to.1.max(1)).max(1), from.1),
        false => (from.0, (from.0 * to.1 / to.0.max(1)).max(1)),
    };
    let (x, y) = ((from.0 - across.min(from.0)) / 2, (from.1 - down.min(from.1)) / 2);
    let part = imageops::crop_imm(picture, x as u32, y as u32, across as u32, down as u32).to_image();
    resize(&part, width, height, filter)
}

/// The largest size of the same shape with no side over `side`; never larger than it was, never 0.
pub fn fit_within(width: u32, height: u32, side: u32) -> (u32, u32) {
    let longest = width.max(height).max(1);
    if longest <= side {
        return (width, height);
    }
    let scaled = |length: u32| ((u64::from(length) * u64::from(side) / u64::from(longest)) as u32).max(1);
    (scaled(width), scaled(height))
}

/// A PNG of the picture with no side over `side` pixels.
///
/// # Errors
/// [`MediaError::Encode`] for an empty picture.
pub fn preview_png(picture: &RgbImage, side: u32) -> Result<Vec<u8>, MediaError> {
    let (width, height) = fit_within(picture.width(), picture.height(), side);
    encode_png(&resize(picture, width, height, Filter::Bilinear), &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, load_image_bytes};
    use image::{Luma, Rgb};

    #[test]
    fn covering_cuts_the_middle_out() {
        let wide = RgbImage::from_fn(30, 10, |x, _| Rgb([x as u8, 0, 0]));
        let square = cover(&wide, 10, 10, Filter::Lanczos);
        assert_eq!((square.dimensions(), square.get_pixel(0, 0)[0], square.get_pixel(9, 0)[0]), ((10, 10), 10, 19));
        let tall = cover(&wide, 2, 8, Filter::Nearest);
        assert_eq!((tall.dimensions(), tall.get_pixel(0, 0)[0]), ((2, 8), 14));
        assert_eq!(cover(&wide, 30, 10, Filter::Lanczos), wide);
        for (width, height) in [(1, 1000), (1000, 1), (7, 3)] {
            let thin = cover(&RgbImage::new(3, 2), width, height, Filter::Bilinear);
            assert_eq!(thin.dimensions(), (width, height));
        }
    }

    #[test]
    fn sizes_keep_their_shape() {
        assert_eq!(fit_within(512, 256, 128), (128, 64));
        assert_eq!(fit_within(64, 64, 128), (64, 64));
        assert_eq!(fit_within(10_000, 1, 128), (128, 1));
        assert_eq!(fit_within(0, 0, 128), (0, 0));
        assert_eq!(fit_within(u32::MAX, u32::MAX, 7), (7, 7));
    }

    #[test]
    fn a_flat_picture_stays_flat() {
        let picture = RgbImage::from_pixel(31, 17, Rgb([10, 200, 90]));
        for filter in [Filter::Nearest, Filter::Bilinear, Filter::Lanczos] {
            let resized = resize(&picture, 64, 8, filter);
            assert_eq!(resized.dimensions(), (64, 8));
            assert!(resized.pixels().all(|pixel| *pixel == Rgb([10, 200, 90])), "{filter:?}");
        }
        assert_eq!(resize(&picture, 31, 17, Filter::Lanczos), picture);
    }

    #[test]
    fn a_mask_scaled_by_the_nearest_pixel_stays_black_and_white() {
        let mask = GrayImage::from_fn(16, 16, |x, _| Luma([if x < 8 { 0 } else { 255 }]));
        let resized = resize_mask(&mask, 5, 40, Filter::Nearest);
        assert!(resized.iter().all(|level| *level == 0 || *level == 255));
        assert_eq!((resized.get_pixel(0, 0).0, resized.get_pixel(4, 39).0), ([0], [255]));
    }

    #[test]
    fn previews_are_small_pngs() {
        let picture = RgbImage::from_fn(300, 200, |x, y| Rgb([x as u8, y as u8, 0]));
        let preview = load_image_bytes(&preview_png(&picture, 128).unwrap(), &Limits::default()).unwrap();
        assert_eq!(preview.dimensions(), (128, 85));
        assert!(preview_png(&RgbImage::new(0, 0), 128).is_err());
    }
}
