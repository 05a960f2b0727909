//! RGB pixels to JPEG: for pictures that are looked at, not kept.

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;

use crate::{Filter, MediaError, fit_within, resize};

/// Encodes RGB pixels as JPEG with a quality of 1 to 100.
///
/// # Errors
/// [`MediaError::Encode`] for an empty picture, or one with a side over 65,535 pixels.
pub fn encode_jpeg(picture: &RgbImage, quality: u8) -> Result<Vec<u8>, MediaError> {
    let (width, height) = picture.dimensions();
    let failed = |reason: String| MediaError::Encode { width, height, reason };
    if width == 0 || height == 0 {
        return Err(failed("there is nothing to show".into()));
    }
    let mut bytes = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut bytes, quality.clamp(1, 100));
    encoder.encode_image(picture).map_err(|error| failed(error.to_string()))?;
    Ok(bytes)
}

/// A JPEG of the picture with no side over `side` pixels: a tenth of what [`preview_png`](crate::preview_png) makes of a
/// photograph.
///
/// # Errors
/// As [`encode_jpeg`].
pub fn preview_jpeg(picture: &RgbImage, side: u32) -> Result<Vec<u8>, MediaError> {
    let (width, height) = fit_within(picture.width(), picture.height(), side);
    encode_jpeg(&resize(picture, width, height, Filter::Bilinear), 80)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, load_image_bytes};
    use image::Rgb;

    #[test]
    fn previews_look_like_the_picture() {
        let picture = RgbImage::from_fn(300, 200, |x, y| Rgb([(x / 2) as u8, y as u8, 90]));
        let preview = load_image_bytes(&preview_jpeg(&picture, 150).unwrap(), &Limits::default()).unwrap();
        assert_eq!(preview.dimensions(), (150, 100));
        let (seen, meant) = (preview.get_pixel(75, 50).0, picture.get_pixel(150, 100).0);
        assert!(seen.iter().zip(meant).all(|(a, b)| a.abs_diff(b) < 8), "{seen:?} {meant:?}");
    }

    #[test]
    fn nothing_is_an_error() {
        assert!(matches!(encode_jpeg(&RgbImage::new(0, 3), 80), Err(MediaError::Encode { width: 0, .. })));
        assert!(encode_jpeg(&RgbImage::new(1, 1), 0).is_ok());
    }
}
