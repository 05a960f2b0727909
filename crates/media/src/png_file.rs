//! RGB pixels to PNG, in memory or on disk.

use std::path::Path;

use image::RgbImage;

use crate::{MediaError, write_atomic};

/// Encodes RGB pixels as PNG. Each `(keyword, text)` becomes an `iTXt` chunk (a keyword has 1 to 79 Latin-1 characters).
/// The same input gives the same bytes.
///
/// # Errors
/// [`MediaError::Encode`] for an empty image or a keyword PNG does not allow.
pub fn encode_png(picture: &RgbImage, metadata: &[(&str, &str)]) -> Result<Vec<u8>, MediaError> {
    let (width, height) = picture.dimensions();
    let failed = |error: png::EncodingError| MediaError::Encode { width, height, reason: error.to_string() };
    let mut bytes = Vec::with_capacity(picture.len() / 2 + 1024);
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (keyword, text) in metadata {
        encoder.add_itxt_chunk((*keyword).to_owned(), (*text).to_owned()).map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(picture).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// Encodes and saves a PNG, atomically: the file is there whole or not at all.
///
/// # Errors
/// As [`encode_png`] and [`write_atomic`]; a full disk is [`MediaError::DiskFull`].
pub fn save_png(path: &Path, picture: &RgbImage, metadata: &[(&str, &str)]) -> Result<(), MediaError> {
    write_atomic(path, &encode_png(picture, metadata)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, load_image};
    use image::Rgb;

    #[test]
    fn pixels_and_text_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.png");
        let picture = RgbImage::from_fn(5, 3, |x, y| Rgb([x as u8, y as u8, 250]));
        save_png(&path, &picture, &[("prompt", "赤い円"), ("seed", "7")]).unwrap();
        assert_eq!(load_image(&path, &Limits::default()).unwrap(), picture);

        let bytes = std::fs::read(&path).unwrap();
        let reader = png::Decoder::new(std::io::Cursor::new(&bytes)).read_info().unwrap();
        let texts: Vec<(String, String)> =
            reader.info().utf8_text.iter().map(|chunk| (chunk.keyword.clone(), chunk.get_text().unwrap())).collect();
        assert_eq!(texts, [("prompt".into(), "赤い円".into()), ("seed".into(), "7".into())]);
        assert_eq!(bytes, encode_png(&picture, &[("prompt", "赤い円"), ("seed", "7")]).unwrap());
    }

    #[test]
    fn nothing_and_bad_keywords_are_errors() {
        assert!(matches!(encode_png(&RgbImage::new(0, 4), &[]), Err(MediaError::Encode { width: 0, .. })));
        let picture = RgbImage::new(1, 1);
        assert!(encode_png(&picture, &[(&"k".repeat(80), "")]).is_err());
    }
}
