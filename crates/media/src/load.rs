//! Bytes from anywhere to RGB pixels, with limits checked before anything is allocated.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage};

use crate::{MediaError, jpeg_pixels};

/// What an image may cost at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Size of the encoded file in bytes.
    pub max_bytes: u64,
    /// Width times height.
    pub max_pixels: u64,
}

impl Default for Limits {
    /// 20 MiB and 40 megapixels: what a phone takes, and about 160 MB while it is being decoded.
    fn default() -> Self {
        Self { max_bytes: 20 << 20, max_pixels: 40_000_000 }
    }
}

/// The formats Sango reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaFormat {
    /// Portable Network Graphics.
    Png,
    /// JPEG, turned as its EXIF orientation says.
    Jpeg,
    /// WebP, the first frame of an animation.
    WebP,
    /// GIF, the first frame.
    Gif,
}

impl MediaFormat {
    /// Reads the first bytes, whatever the file is called.
    pub fn guess(bytes: &[u8]) -> Option<Self> {
        match image::guess_format(bytes).ok()? {
            ImageFormat::Png => Some(Self::Png),
            ImageFormat::Jpeg => Some(Self::Jpeg),
            ImageFormat::WebP => Some(Self::WebP),
            ImageFormat::Gif => Some(Self::Gif),
            _ => None,
        }
    }

    /// The media type, `image/png` for example.
    pub fn content_type(self) -> &'static str {
        self.as_image().to_mime_type()
    }

    fn as_image(self) -> ImageFormat {
        match self {
            Self::Png => ImageFormat::Png,
            Self::Jpeg => ImageFormat::Jpeg,
            Self::WebP => ImageFormat::WebP,
            Self::Gif => ImageFormat::Gif,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Png => "PNG",
            Self::Jpeg => "JPEG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
        }
    }
}

/// What an image's header says, before any pixel is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Which format the bytes are in.
    pub format: MediaFormat,
    /// Width in pixels as stored (before the EXIF orientation).
    pub width: u32,
    /// Height in pixels as stored.
    pub height: u32,
}

/// Reads only the header: format and size.
///
/// # Errors
/// As [`load_image_bytes`], except that damage beyond the header goes unnoticed.
pub fn probe(bytes: &[u8], limits: &Limits) -> Result<Probe, MediaError> {
    let (format, decoder) = open(bytes, limits)?;
    let (width, height) = decoder.dimensions();
    Ok(Probe { format, width, height })
}

/// Decodes a PNG, JPEG, WebP or GIF (its first frame) to RGB. Transparency is dropped, as `PIL.Image.convert("RGB")`
/// does, and a JPEG is turned upright.
///
/// # Errors
/// [`MediaError::TooManyBytes`] and [`MediaError::TooManyPixels`] before anything is decoded,
/// [`MediaError::UnknownFormat`], [`MediaError::Damaged`].
pub fn load_image_bytes(bytes: &[u8], limits: &Limits) -> Result<RgbImage, MediaError> {
    decode(bytes, limits).map(DynamicImage::into_rgb8)
}

/// The same as grey levels, for an inpainting mask: 255 is drawn anew, 0 is kept.
///
/// # Errors
/// As [`load_image_bytes`].
pub fn load_mask_bytes(bytes: &[u8], limits: &Limits) -> Result<GrayImage, MediaError> {
    decode(bytes, limits).map(DynamicImage::into_luma8)
}

/// [`load_image_bytes`] for a file, of which no more than `limits.max_bytes` are read.
///
/// # Errors
/// As [`load_image_bytes`], and [`MediaError::Io`] with the path.
pub fn load_image(path: &Path, limits: &Limits) -> Result<RgbImage, MediaError> {
    load_image_bytes(&read(path, limits)?, limits)
}

/// [`load_mask_bytes`] for a file, of which no more than `limits.max_bytes` are read.
///
/// # Errors
/// As [`load_image`].
pub fn load_mask(path: &Path, limits: &Limits) -> Result<GrayImage, MediaError> {
    load_mask_bytes(&read(path, limits)?, limits)
}

fn read(path: &Path, limits: &Limits) -> Result<Vec<u8>, MediaError> {
    let io = |source| MediaError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let announced = file.metadata().map_err(io)?.len();
    if announced > limits.max_bytes {
        return Err(MediaError::TooManyBytes { bytes: announced, limit: limits.max_bytes });
    }
    // A pipe or a growing file announces nothing true, so the read is bounded as well.
    let mut bytes = Vec::new();
    file.take(limits.max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

fn open<'a>(bytes: &'a [u8], limits: &Limits) -> Result<(MediaFormat, impl ImageDecoder + 'a), MediaError> {
    if bytes.len() as u64 > limits.max_bytes {
        return Err(MediaError::TooManyBytes { bytes: bytes.len() as u64, limit: limits.max_bytes });
    }
    let format = MediaFormat::guess(bytes).ok_or(MediaError::UnknownFormat)?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format.as_image());
    // Some decoders allocate while they read the header, so the bound must stand before that. 16 bytes per pixel holds
    // the deepest format (four 32-bit channels); the 4 MiB are the decoders' own tables.
    let mut allocation = image::Limits::no_limits();
    allocation.max_alloc = Some(limits.max_pixels.saturating_mul(16).saturating_add(4 << 20));
    reader.limits(allocation);
    let decoder = reader.into_decoder().map_err(|error| damaged(format, error))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(MediaError::TooManyPixels { width, height, limit: limits.max_pixels });
    }
    if width == 0 || height == 0 {
        return Err(MediaError::Damaged { format: format.name(), reason: format!("its size is {width}x{height}") });
    }
    Ok((format, decoder))
}

fn decode(bytes: &[u8], limits: &Limits) -> Result<DynamicImage, MediaError> {
    let (format, mut decoder) = open(bytes, limits)?;
    // A damaged EXIF block should not cost the user the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| damaged(format, error))?;
    if format == MediaFormat::Jpeg
        && let Some(pixels) = jpeg_pixels::decode_rgb(bytes, picture.width(), picture.height())
    {
        picture = DynamicImage::ImageRgb8(pixels);
    }
    picture.apply_orientation(orientation);
    Ok(picture)
}

fn damaged(format: MediaFormat, error: ImageError) -> MediaError {
    MediaError::Damaged { format: format.name(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;
    use proptest::prelude::*;

    fn gradient(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, 90]))
    }

    fn encoded(picture: &RgbImage, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn every_format_comes_back() {
        let picture = gradient(33, 17);
        for format in [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif] {
            let loaded = load_image_bytes(&encoded(&picture, format), &Limits::default()).unwrap();
            assert_eq!(loaded.dimensions(), (33, 17), "{format:?}");
            let error = loaded.iter().zip(picture.iter()).map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>();
            let tolerance = match format {
                ImageFormat::Png | ImageFormat::WebP => 0,
                _ => 12 * 33 * 17 * 3, // lossy or a palette
            };
            assert!(error <= tolerance, "{format:?}: {error}");
        }
    }

    #[test]
    fn grey_and_transparent_pictures_become_rgb() {
        let grey = image::GrayAlphaImage::from_pixel(2, 2, image::LumaA([77, 0]));
        let mut bytes = Cursor::new(Vec::new());
        grey.write_to(&mut bytes, ImageFormat::Png).unwrap();
        let bytes = bytes.into_inner();
        assert_eq!(load_image_bytes(&bytes, &Limits::default()).unwrap().get_pixel(1, 1), &Rgb([77, 77, 77]));
        assert_eq!(load_mask_bytes(&bytes, &Limits::default()).unwrap().get_pixel(0, 1).0, [77]);
    }

    #[test]
    fn a_phone_picture_is_turned_upright() {
        let mut jpeg = encoded(&gradient(16, 8), ImageFormat::Jpeg);
        // APP1: "Exif", a little-endian TIFF with one entry, orientation (0x0112) = 6, "rotate 90 degrees clockwise".
        let exif = b"\xff\xe1\x00\x22Exif\0\0II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        jpeg.splice(2..2, exif.iter().copied());
        assert_eq!(load_image_bytes(&jpeg, &Limits::default()).unwrap().dimensions(), (8, 16));
        let Probe { format, width, height } = probe(&jpeg, &Limits::default()).unwrap();
        assert_eq!((format.content_type(), width, height), ("image/jpeg", 16, 8));
    }

    #[test]
    fn limits_hold_before_decoding() {
        let png = encoded(&gradient(100, 100), ImageFormat::Png);
        let few_pixels = Limits { max_pixels: 9_999, ..Limits::default() };
        assert!(matches!(load_image_bytes(&png, &few_pixels), Err(MediaError::TooManyPixels { width: 100, .. })));
        let few_bytes = Limits { max_bytes: 10, ..Limits::default() };
        assert!(matches!(load_image_bytes(&png, &few_bytes), Err(MediaError::TooManyBytes { limit: 10, .. })));
        assert!(load_image_bytes(&png, &Limits { max_pixels: 10_000, max_bytes: png.len() as u64 }).is_ok());
    }

    #[test]
    fn a_header_that_announces_a_giant_is_refused() {
        let mut png = encoded(&gradient(8, 8), ImageFormat::Png);
        png[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]); // width and height in IHDR
        // The header's checksum no longer fits; either refusal comes before 12 GB are allocated.
        assert!(load_image_bytes(&png, &Limits::default()).is_err());
        let mut gif = encoded(&gradient(8, 8), ImageFormat::Gif);
        gif[6..10].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(
            load_image_bytes(&gif, &Limits::default()),
            Err(MediaError::TooManyPixels { width: 0xffff, .. } | MediaError::Damaged { .. })
        ));
    }

    #[test]
    fn damage_and_foreign_formats_are_told_apart() {
        let png = encoded(&gradient(40, 40), ImageFormat::Png);
        let error = load_image_bytes(&png[..png.len() / 2], &Limits::default()).unwrap_err();
        assert!(matches!(error, MediaError::Damaged { format: "PNG", .. }), "{error}");
        for foreign in [&b""[..], b"hello", b"%PDF-1.7", b"BM\x00\x00\x00\x00\x00\x00"] {
            assert!(matches!(load_image_bytes(foreign, &Limits::default()), Err(MediaError::UnknownFormat)));
        }
    }

    #[test]
    fn files_are_read_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("in.jpg"); // a wrong extension does not matter
        std::fs::write(&path, encoded(&gradient(8, 8), ImageFormat::Png)).unwrap();
        assert_eq!(load_image(&path, &Limits::default()).unwrap(), gradient(8, 8));
        let small = Limits { max_bytes: 20, ..Limits::default() };
        assert!(matches!(load_image(&path, &small), Err(MediaError::TooManyBytes { .. })));
        let missing = load_image(&folder.path().join("none.png"), &small).unwrap_err();
        assert!(missing.to_string().contains("none.png"));
        assert_eq!(load_mask(&path, &Limits::default()).unwrap().dimensions(), (8, 8));
        assert!(matches!(load_mask(&path, &small), Err(MediaError::TooManyBytes { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]
        #[test]
        fn flipped_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20), which in 0usize..4) {
            let format = [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Gif][which];
            let mut bytes = encoded(&gradient(24, 24), format);
            for (index, value) in flips {
                let at = index.index(bytes.len());
                bytes[at] ^= value;
            }
            let limits = Limits { max_pixels: 1_000_000, ..Limits::default() };
            if let Ok(picture) = load_image_bytes(&bytes, &limits) {
                prop_assert!(u64::from(picture.width()) * u64::from(picture.height()) <= 1_000_000);
            }
        }
    }
}
