//! A row of small pictures: which frames a model was given.

use image::{RgbImage, imageops};

use crate::{Filter, resize};

/// The pictures side by side, each `height` pixels high in its own shape, two pixels of white between them. A picture
/// without pixels is left out.
pub fn strip<'a>(pictures: impl IntoIterator<Item = &'a RgbImage>, height: u32) -> RgbImage {
    const GAP: u32 = 2;
    let height = height.max(1);
    let small: Vec<RgbImage> = pictures
        .into_iter()
        .filter(|picture| picture.width() > 0 && picture.height() > 0)
        .map(|picture| {
            let width = u64::from(picture.width()) * u64::from(height) / u64::from(picture.height());
            // Nothing can be seen of a shape more drawn out than that.
            let width = width.clamp(1, u64::from(height) * 16) as u32;
            resize(picture, width, height, Filter::Bilinear)
        })
        .collect();
    let gaps = GAP * (small.len() as u32).saturating_sub(1);
    let width = small.iter().map(RgbImage::width).sum::<u32>() + gaps;
    let mut row = RgbImage::from_pixel(width, height, image::Rgb([255; 3]));
    let mut left = 0;
    for picture in &small {
        imageops::replace(&mut row, picture, i64::from(left), 0);
        left += picture.width() + GAP;
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;

    #[test]
    fn pictures_stand_in_order() {
        let pictures = [(40, 20, 10), (20, 20, 200)].map(|(w, h, grey)| RgbImage::from_pixel(w, h, Rgb([grey; 3])));
        let row = strip(&pictures, 10);
        assert_eq!(row.dimensions(), (20 + 2 + 10, 10));
        assert_eq!([5, 20, 21, 25].map(|x| row.get_pixel(x, 5).0[0]), [10, 255, 255, 200]);
        assert_eq!(strip([&RgbImage::new(0, 0)], 10).dimensions(), (0, 10));
        assert_eq!(strip([&RgbImage::new(10_000, 1)], 4).dimensions(), (64, 4));
    }
}
