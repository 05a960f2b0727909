//! A JPEG's pixels exactly as libjpeg makes them, which is what pictures look like everywhere else.
//!
//! The standard leaves the inverse transform and the widening of colours to decoders; those in Rust are up to 30 of 255
//! away from libjpeg's on noise, and a model that was trained on libjpeg's pixels is compared with them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::RgbImage;
use mozjpeg::{ColorSpace, Decompress};

/// Scans in a file of several passes; encoders write about ten, and each costs as much as decoding all of it once.
const MAX_SCANS: usize = 100;

/// The pixels of a JPEG that another decoder has found sound, `width` × `height` as stored; `None` for what libjpeg does
/// not turn into RGB (four inks) or does not accept.
pub(crate) fn decode_rgb(bytes: &[u8], width: u32, height: u32) -> Option<RgbImage> {
    if bytes.windows(2).filter(|marker| *marker == [0xff, 0xda]).count() > MAX_SCANS {
        return None;
    }
    // libjpeg's errors unwind through it, past the panic hook.
    let pixels = catch_unwind(AssertUnwindSafe(|| {
        let picture = Decompress::new_mem(bytes).ok()?;
        let known = [ColorSpace::JCS_GRAYSCALE, ColorSpace::JCS_YCbCr, ColorSpace::JCS_RGB];
        if picture.size() != (width as usize, height as usize) || !known.contains(&picture.color_space()) {
            return None;
        }
        let mut rows = picture.rgb().ok()?;
        let pixels: Vec<[u8; 3]> = rows.read_scanlines().ok()?;
        rows.finish().ok()?;
        Some(pixels.into_flattened())
    }));
    RgbImage::from_raw(width, height, pixels.ok().flatten()?)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{ImageFormat, Rgb};

    use super::*;

    #[test]
    fn damage_is_no_picture_and_no_panic() {
        let picture = RgbImage::from_fn(40, 30, |x, y| Rgb([(x * 6) as u8, (y * 8) as u8, 90]));
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        let bytes = bytes.into_inner();
        let decoded = decode_rgb(&bytes, 40, 30).expect("pixels");
        assert!(decoded.iter().zip(picture.iter()).all(|(a, b)| a.abs_diff(*b) < 60));
        assert!(decode_rgb(&bytes, 30, 40).is_none());
        for at in 0..bytes.len() {
            let _ = decode_rgb(&bytes[..at], 40, 30);
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x5a;
            let _ = decode_rgb(&damaged, 40, 30);
        }
        let many = [&bytes[..bytes.len() - 2], &[0xff, 0xda].repeat(MAX_SCANS)].concat();
        assert!(decode_rgb(&many, 40, 30).is_none());
    }
}
