//! Resizing pixels exactly as `torchvision.transforms.v2.functional.resize` does on 8-bit images.
//!
//! torch resizes 8-bit pictures as Pillow-SIMD does: antialiased, weights rounded to 16 bits, first along rows, then
//! along columns, each pass rounded to 8 bits. `fast_image_resize` computes the very same passes but takes columns
//! first, so each pass is asked for alone here. The results are equal bit for bit.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use sango_media::RgbImage;

/// `MAX_IMAGE_SIZE` of the reference: no side is resized to more.
pub(super) const MAX_IMAGE_SIZE: usize = 4096;

/// The filters that the reference can apply to 8-bit pictures, by Pillow's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resample {
    /// 0, which torchvision reads as "nearest-exact".
    Nearest,
    /// 1.
    Lanczos,
    /// 2.
    Bilinear,
    /// 3.
    Bicubic,
}

impl Resample {
    /// From the number in a configuration; box (4) and Hamming (5) exist in Pillow but not in torch.
    pub(super) fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Nearest,
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            _ => return None,
        })
    }

    fn filter(self) -> Option<FilterType> {
        match self {
            Self::Nearest => None,
            Self::Lanczos => Some(FilterType::Lanczos3),
            Self::Bilinear => Some(FilterType::Bilinear),
            Self::Bicubic => Some(FilterType::CatmullRom),
        }
    }
}

/// `image` at `height` × `width`, both at least 1.
pub(super) fn resize(image: &RgbImage, (height, width): (usize, usize), resample: Resample) -> RgbImage {
    let (width, height) = (width as u32, height as u32);
    if image.dimensions() == (width, height) {
        return image.clone();
    }
    let Some(filter) = resample.filter() else {
        return nearest_exact(image, width, height);
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    let mut resizer = Resizer::new();
    let mut pass = |source: &RgbImage, width, height| {
        let view = ImageRef::new(source.width(), source.height(), source.as_raw(), PixelType::U8x3)
            .expect("an RgbImage has three bytes a pixel");
        let mut target = Image::new(width, height, PixelType::U8x3);
        resizer.resize(&view, &mut target, &options).expect("both are RGB");
        RgbImage::from_raw(width, height, target.into_vec()).expect("as many bytes as asked for")
    };
    if image.width() == width {
        return pass(image, width, height);
    }
    let rows = pass(image, width, image.height());
    if rows.height() == height { rows } else { pass(&rows, width, height) }
}

/// `torch.nn.functional.interpolate(mode="nearest-exact")`, whose source positions are computed in f32.
fn nearest_exact(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let source = |length: u32, new: u32| {
        let scale = length as f32 / new as f32;
        move |at: u32| (((at as f32 + 0.5) * scale) as u32).min(length - 1)
    };
    let (column, row) = (source(image.width(), width), source(image.height(), height));
    RgbImage::from_fn(width, height, |x, y| *image.get_pixel(column(x), row(y)))
}

/// The (height, width) that `size.longest_edge` asks for: the shorter side follows, rounded up to an even number.
pub(super) fn longest_edge_size((height, width): (usize, usize), longest_edge: usize) -> (usize, usize) {
    let aspect_ratio = width as f64 / height as f64;
    let even = |length: f64| (length as usize).next_multiple_of(2).max(1);
    if width >= height {
        (even(longest_edge as f64 / aspect_ratio), longest_edge.max(1))
    } else {
        (longest_edge.max(1), even(longest_edge as f64 * aspect_ratio))
    }
}

/// The (height, width) with no side above `max_len`, in the same proportion.
pub(super) fn size_below((height, width): (usize, usize), max_len: usize) -> (usize, usize) {
    let aspect_ratio = width as f64 / height as f64;
    if width >= height && width > max_len {
        (((max_len as f64 / aspect_ratio) as usize).max(1), max_len)
    } else if height > width && height > max_len {
        (max_len, ((max_len as f64 * aspect_ratio) as usize).max(1))
    } else {
        (height, width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_follow_the_longest() {
        assert_eq!(longest_edge_size((1080, 1920), 2048), (1152, 2048));
        assert_eq!(longest_edge_size((1920, 1080), 512), (512, 288));
        assert_eq!(longest_edge_size((335, 500), 512), (344, 512), "343 is odd");
        assert_eq!(longest_edge_size((1, 10_000), 2048), (1, 2048), "never nothing");
        assert_eq!(size_below((5000, 2500), 4096), (4096, 2048));
        assert_eq!(size_below((10, 4096), 4096), (10, 4096));
    }

    #[test]
    fn a_flat_colour_stays() {
        let grey = RgbImage::from_pixel(7, 5, sango_media::Rgb([10, 200, 255]));
        for resample in (0..4).filter_map(Resample::from_number) {
            for size in [(1, 1), (5, 9), (11, 7), (40, 3)] {
                let resized = resize(&grey, size, resample);
                assert_eq!(resized.dimensions(), (size.1 as u32, size.0 as u32));
                assert!(resized.pixels().all(|pixel| pixel.0 == [10, 200, 255]), "{resample:?} {size:?}");
            }
        }
        assert_eq!(Resample::from_number(4), None);
    }
}
