//! A few pictures to one animated GIF.

use std::time::Duration;

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, Frame, RgbImage, buffer::ConvertBuffer};

use crate::MediaError;

/// Encodes frames of one size as a GIF that repeats; each is shown for `delay` (GIF counts hundredths of a second), the
/// last one for a second and a half more, so that the eye can rest on the result.
///
/// # Errors
/// [`MediaError::Encode`] for no frames, an empty frame, or a side over 65,535 pixels.
pub fn encode_gif(frames: &[RgbImage], delay: Duration) -> Result<Vec<u8>, MediaError> {
    let (width, height) = frames.first().map_or((0, 0), RgbImage::dimensions);
    let failed = |reason: String| MediaError::Encode { width, height, reason };
    if width == 0 || height == 0 {
        return Err(failed("there is nothing to show".into()));
    }
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, 10);
    encoder.set_repeat(Repeat::Infinite).map_err(|error| failed(error.to_string()))?;
    for (number, picture) in frames.iter().enumerate() {
        let rest = Duration::from_millis(if number + 1 == frames.len() { 1500 } else { 0 });
        let delay = Delay::from_saturating_duration(delay + rest);
        encoder
            .encode_frame(Frame::from_parts(picture.convert(), 0, 0, delay))
            .map_err(|error| failed(error.to_string()))?;
    }
    drop(encoder);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{AnimationDecoder, Rgb, codecs::gif::GifDecoder};

    #[test]
    fn every_frame_comes_back_in_order() {
        let shades = [0u8, 120, 240];
        let frames = shades.map(|shade| RgbImage::from_pixel(8, 6, Rgb([shade, 0, shade])));
        let bytes = encode_gif(&frames, Duration::from_millis(200)).unwrap();
        let decoder = GifDecoder::new(std::io::Cursor::new(&bytes)).unwrap();
        let decoded = decoder.into_frames().collect_frames().unwrap();
        let seen: Vec<u8> = decoded.iter().map(|frame| frame.buffer().get_pixel(4, 3).0[0]).collect();
        assert_eq!(seen, shades);
        assert!(decoded[2].delay() > decoded[1].delay());
    }

    #[test]
    fn nothing_to_show_is_an_error() {
        assert!(encode_gif(&[], Duration::ZERO).is_err());
        assert!(encode_gif(&[RgbImage::new(0, 3)], Duration::ZERO).is_err());
    }
}
