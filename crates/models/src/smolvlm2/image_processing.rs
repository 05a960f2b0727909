//! `SmolVLMImageProcessor`: from a picture to tiles.

use std::path::Path;
use std::sync::Arc;

use sango_media::RgbImage;

use super::processor_config::{Settings, Size};
use super::resize::{MAX_IMAGE_SIZE, Resample, longest_edge_size, resize, size_below};
use super::tile::{Normalize, Tile};
use crate::error::{ModelError, Result};

/// More tiles than this of one picture fill any context many times over.
const MAX_TILES: usize = 4096;

/// Makes tiles of pictures, as `preprocessor_config.json` says.
///
/// Follows `SmolVLMImageProcessor` on torchvision, which is what `AutoProcessor` loads where torchvision is installed
/// (transformers' video processor needs it). Pixels are equal to its pixels bit for bit.
#[derive(Debug, Clone)]
pub struct SmolVLMImageProcessor {
    size: Option<Size>,
    resample: Resample,
    do_image_splitting: bool,
    max_image_size: usize,
    normalize: Arc<Normalize>,
}

/// A picture in tiles. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ProcessedImage {
    /// Rows of parts that the picture was split into, 0 where it was not.
    pub rows: usize,
    /// Columns of parts, 0 where it was not split.
    pub cols: usize,
    /// `rows × cols` parts row by row, then the whole picture.
    pub tiles: Arc<[Tile]>,
}

impl SmolVLMImageProcessor {
    /// Reads `image_processor` of `processor_config.json`, else `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`ModelError::UnknownModel`] when the folder has neither, [`ModelError::Config`] for a setting that cannot be
    /// followed.
    pub fn load(dir: &Path) -> Result<Self> {
        let settings = Settings::of_images(dir)?;
        Ok(Self {
            size: if settings.switch("do_resize", true)? { Some(settings.size()?) } else { None },
            resample: settings.resample()?,
            do_image_splitting: settings.switch("do_image_splitting", true)?,
            max_image_size: settings.max_image_size()?,
            normalize: settings.normalize()?,
        })
    }

    /// The side of every tile.
    pub fn max_image_size(&self) -> usize {
        self.max_image_size
    }

    /// Into how many rows and columns of parts a picture of `height` × `width` pixels is split; 0 and 0 when it is one
    /// tile. A picture takes `rows · cols + 1` tiles.
    pub fn tile_grid(&self, height: usize, width: usize) -> (usize, usize) {
        if height == 0 || width == 0 || !self.do_image_splitting {
            return (0, 0);
        }
        self.grid(vision_encoder_size(self.first_size((height, width)), self.max_image_size))
    }

    /// The grid of a picture that is a whole number of tiles high and wide.
    fn grid(&self, (height, width): (usize, usize)) -> (usize, usize) {
        let side = self.max_image_size;
        if height <= side && width <= side { (0, 0) } else { (height / side, width / side) }
    }

    /// The (height, width) that a picture is resized to before it is split.
    fn first_size(&self, size: (usize, usize)) -> (usize, usize) {
        match self.size {
            None => size,
            Some(Size::Exact(height, width)) => (height, width),
            Some(Size::LongestEdge(edge)) => size_below(longest_edge_size(size, edge), MAX_IMAGE_SIZE),
        }
    }

    /// The tiles of `image`.
    ///
    /// # Errors
    /// [`ModelError::Request`] for an empty picture, or one that would be split into too many tiles.
    pub fn preprocess(&self, image: &RgbImage) -> Result<ProcessedImage> {
        if image.width() == 0 || image.height() == 0 {
            return Err(ModelError::request("messages", "has a picture without pixels"));
        }
        let side = self.max_image_size;
        let resized = resize(image, self.first_size(of(image)), self.resample);
        if !self.do_image_splitting {
            let tile = Tile::new(resize(&resized, (side, side), self.resample), &self.normalize);
            return Ok(ProcessedImage { rows: 0, cols: 0, tiles: Arc::new([tile]) });
        }
        let (height, width) = vision_encoder_size(of(&resized), side);
        if (height / side) * (width / side) > MAX_TILES {
            let detail = format!("has a picture that would take more than {MAX_TILES} tiles of {side} pixels");
            return Err(ModelError::request("messages", detail));
        }
        let resized = resize(&resized, (height, width), self.resample);
        let (rows, cols) = self.grid((height, width));
        if (rows, cols) == (0, 0) {
            return Ok(ProcessedImage { rows: 0, cols: 0, tiles: Arc::new([Tile::new(resized, &self.normalize)]) });
        }
        let part = |row: usize, col: usize| {
            let corner = ((col * side) as u32, (row * side) as u32);
            RgbImage::from_fn(side as u32, side as u32, |x, y| *resized.get_pixel(corner.0 + x, corner.1 + y))
        };
        let parts = (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col)));
        let mut tiles: Vec<Tile> = parts.map(|(row, col)| Tile::new(part(row, col), &self.normalize)).collect();
        tiles.push(Tile::new(resize(&resized, (side, side), self.resample), &self.normalize));
        Ok(ProcessedImage { rows, cols, tiles: tiles.into() })
    }
}

/// Height and width.
fn of(image: &RgbImage) -> (usize, usize) {
    (image.height() as usize, image.width() as usize)
}

/// The (height, width) in whole tiles of `side`: first the longer side, then the other in about the same proportion.
fn vision_encoder_size((height, width): (usize, usize), side: usize) -> (usize, usize) {
    let aspect_ratio = width as f64 / height as f64;
    if width >= height {
        let width = width.next_multiple_of(side);
        (((width as f64 / aspect_ratio) as usize).next_multiple_of(side), width)
    } else {
        let height = height.next_multiple_of(side);
        (height, ((height as f64 * aspect_ratio) as usize).next_multiple_of(side))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_become_whole_tiles() {
        assert_eq!(vision_encoder_size((1152, 2048), 512), (1536, 2048));
        assert_eq!(vision_encoder_size((512, 512), 512), (512, 512));
        assert_eq!(vision_encoder_size((1456, 820), 364), (1456, 1092));
    }

    #[test]
    fn parts_come_before_the_whole() {
        let processor = SmolVLMImageProcessor {
            size: None,
            resample: Resample::Nearest,
            do_image_splitting: true,
            max_image_size: 2,
            normalize: Arc::new(Normalize::new(None, None)),
        };
        let image = RgbImage::from_fn(4, 2, |x, y| sango_media::Rgb([x as u8, y as u8, 7]));
        let processed = processor.preprocess(&image).expect("tiles");
        assert_eq!((processed.rows, processed.cols, processed.tiles.len()), (1, 2, 3));
        assert_eq!(processed.tiles[1].picture().as_raw(), &[2, 0, 7, 3, 0, 7, 2, 1, 7, 3, 1, 7]);
        assert_eq!(processed.tiles[2].picture().as_raw(), &[1, 0, 7, 3, 0, 7, 1, 1, 7, 3, 1, 7]);
        assert!(processor.preprocess(&RgbImage::new(0, 3)).is_err());
        let wide = RgbImage::new(20_000, 1);
        assert!(processor.preprocess(&wide).expect_err("too many tiles").to_string().contains("tiles"));
    }
}
