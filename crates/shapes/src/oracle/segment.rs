//! From pixels to background, object colour and a soft mask of the object.

use super::{OracleError, SIDE};
use crate::world::{Background, Colour};

/// The border's median may be this far (RGB distance) from a background of the palette.
const BACKGROUND_TOLERANCE: f32 = 70.0;
/// This part of the border must have the background's colour.
const MIN_PLAIN_BORDER: f32 = 0.8;
/// The object's median may be this far from its colour's palette entry.
const COLOUR_TOLERANCE: f32 = 110.0;
/// This part of the object's inside must have its colour.
const MIN_PLAIN_OBJECT: f32 = 0.65;
/// Pixels this near to the background belong to it, at least; noise raises it.
const MIN_CONTRAST: f32 = 60.0;
/// Objects of fewer pixels are dirt; the smallest of the world has about 250.
const MIN_AREA: usize = 90;
/// Nothing in the world covers more of the picture.
const MAX_AREA: usize = SIDE * SIDE / 2;
/// A second thing of this size, relative to the object, makes a picture that the world does not have.
const MAX_SECOND: f32 = 0.3;
/// Noise (median distance from the background along the border) from which pixels are averaged with their neighbours.
const NOISY: f32 = 18.0;

type Rgb = [f32; 3];

/// A picture at the oracle's own size.
pub(super) struct Canvas {
    pixels: Vec<Rgb>,
}

/// What the picture is made of.
pub(super) struct Segment {
    pub(super) background: Option<Background>,
    pub(super) object: Option<Blob>,
}

/// The one thing that differs from the background.
pub(super) struct Blob {
    pub(super) colour: Option<Colour>,
    /// Coverage of each pixel, 0–1, `SIDE × SIDE`.
    pub(super) alpha: Vec<f32>,
}

impl Canvas {
    /// Checks the picture and brings it to `SIDE × SIDE` by averaging areas.
    pub(super) fn new(rgb: &[u8], width: usize, height: usize) -> Result<Self, OracleError> {
        if width.checked_mul(height).and_then(|n| n.checked_mul(3)) != Some(rgb.len()) {
            return Err(OracleError::Length { bytes: rgb.len(), width, height });
        }
        if width != height || width < 32 {
            return Err(OracleError::Size { width, height });
        }
        let weights = area_weights(width);
        // Rows first, then columns.
        let mut rows = vec![[0.0; 3]; SIDE * width];
        for (i, spans) in weights.iter().enumerate() {
            for &(y, weight) in spans {
                for x in 0..width {
                    for c in 0..3 {
                        rows[i * width + x][c] += weight * f32::from(rgb[(y * width + x) * 3 + c]);
                    }
                }
            }
        }
        let mut pixels = vec![[0.0; 3]; SIDE * SIDE];
        for i in 0..SIDE {
            for (j, spans) in weights.iter().enumerate() {
                for &(x, weight) in spans {
                    for c in 0..3 {
                        pixels[i * SIDE + j][c] += weight * rows[i * width + x][c];
                    }
                }
            }
        }
        Ok(Self { pixels })
    }

    pub(super) fn segment(mut self) -> Segment {
        let (mut ground, noise) = self.border();
        if noise > NOISY {
            self.smooth();
            ground = self.border().0;
        }
        let distance: Vec<f32> = self.pixels.iter().map(|&pixel| rgb_distance(pixel, ground)).collect();
        let plain = border_indices().filter(|&i| distance[i] < BACKGROUND_TOLERANCE).count();
        let is_plain = plain as f32 >= MIN_PLAIN_BORDER * border_indices().count() as f32;
        let background = nearest(ground, Background::ALL, Background::rgb)
            .filter(|&(_, off)| is_plain && off < BACKGROUND_TOLERANCE)
            .map(|(background, _)| background);
        let object = background.and_then(|_| self.blob(ground, &distance));
        Segment { background, object }
    }

    /// Median colour of the border, and the median distance from it.
    fn border(&self) -> (Rgb, f32) {
        let ground = median_colour(border_indices().map(|i| self.pixels[i]));
        let mut off: Vec<f32> = border_indices().map(|i| rgb_distance(self.pixels[i], ground)).collect();
        (ground, median(&mut off))
    }

    /// A 3×3 binomial blur.
    fn smooth(&mut self) {
        let at = |i: usize, d: isize| i.saturating_add_signed(d).min(SIDE - 1);
        for horizontal in [true, false] {
            let old = self.pixels.clone();
            for y in 0..SIDE {
                for x in 0..SIDE {
                    let side = |d| {
                        if horizontal { old[y * SIDE + at(x, d)] } else { old[at(y, d) * SIDE + x] }
                    };
                    let (before, here, after) = (side(-1), side(0), side(1));
                    self.pixels[y * SIDE + x] = std::array::from_fn(|c| (before[c] + 2.0 * here[c] + after[c]) / 4.0);
                }
            }
        }
    }

    fn blob(&self, ground: Rgb, distance: &[f32]) -> Option<Blob> {
        // The strongest contrast that a fair part of the picture has is the object's; half of it is its edge.
        let mut sorted: Vec<f32> = distance.to_vec();
        sorted.sort_by(f32::total_cmp);
        let strongest = sorted[SIDE * SIDE - MIN_AREA];
        let threshold = (strongest * 0.4).max(MIN_CONTRAST);
        let far: Vec<bool> = distance.iter().map(|&d| d > threshold).collect();
        let parts = components(&far);
        let (first, second) = (parts.first()?, parts.get(1).map_or(0, Vec::len));
        if !(MIN_AREA..=MAX_AREA).contains(&first.len()) || second as f32 > MAX_SECOND * first.len() as f32 {
            return None;
        }
        let mut inside = vec![false; SIDE * SIDE];
        first.iter().for_each(|&i| inside[i] = true);
        let core: Vec<usize> = first.iter().copied().filter(|&i| neighbours(i).all(|j| inside[j])).collect();
        let core = if core.len() * 5 < first.len() { first } else { &core };
        let typical = median_colour(core.iter().map(|&i| self.pixels[i]));
        let colour = object_colour(typical, core.iter().map(|&i| self.pixels[i]));

        // Coverage: how far each pixel lies on the way from the background's colour to the object's.
        let way: Rgb = std::array::from_fn(|c| typical[c] - ground[c]);
        let length = way.iter().map(|w| w * w).sum::<f32>();
        let grown = grow(&grow(&inside));
        let alpha = (0..SIDE * SIDE)
            .map(|i| {
                let along: f32 = (0..3).map(|c| (self.pixels[i][c] - ground[c]) * way[c]).sum();
                if grown[i] { (along / length).clamp(0.0, 1.0) } else { 0.0 }
            })
            .collect();
        Some(Blob { colour, alpha })
    }
}

/// The palette colour of an object, when its typical colour is clearly that one and most of it agrees.
fn object_colour(typical: Rgb, core: impl ExactSizeIterator<Item = Rgb>) -> Option<Colour> {
    let (colour, off) = nearest(typical, Colour::ALL, Colour::rgb)?;
    let (_, off_neutral) = nearest(typical, Background::ALL, Background::rgb)?;
    // The blue background is the colour blue too.
    let neutral = colour != Colour::Blue && off_neutral < off;
    let total = core.len() as f32;
    let agreeing = core.filter(|&p| nearest(p, Colour::ALL, Colour::rgb).is_some_and(|(c, _)| c == colour)).count();
    (off < COLOUR_TOLERANCE && !neutral && agreeing as f32 >= MIN_PLAIN_OBJECT * total).then_some(colour)
}

fn nearest<T: Copy>(rgb: Rgb, palette: &[T], colour: impl Fn(T) -> [u8; 3]) -> Option<(T, f32)> {
    palette
        .iter()
        .map(|&entry| (entry, rgb_distance(rgb, colour(entry).map(f32::from))))
        .min_by(|a, b| a.1.total_cmp(&b.1))
}

fn rgb_distance(a: Rgb, b: Rgb) -> f32 {
    (0..3).map(|c| (a[c] - b[c]).powi(2)).sum::<f32>().sqrt()
}

fn median(values: &mut [f32]) -> f32 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

fn median_colour(pixels: impl Iterator<Item = Rgb> + Clone) -> Rgb {
    std::array::from_fn(|c| median(&mut pixels.clone().map(|p| p[c]).collect::<Vec<_>>()))
}

/// The outermost two rows and columns, without the corners counted twice.
fn border_indices() -> impl Iterator<Item = usize> + Clone {
    (0..SIDE * SIDE).filter(|i| {
        let (x, y) = (i % SIDE, i / SIDE);
        x.min(y) < 2 || x.max(y) >= SIDE - 2
    })
}

/// The up to eight pixels around one.
fn neighbours(i: usize) -> impl Iterator<Item = usize> {
    let (x, y) = (i % SIDE, i / SIDE);
    (y.saturating_sub(1)..=(y + 1).min(SIDE - 1))
        .flat_map(move |ny| (x.saturating_sub(1)..=(x + 1).min(SIDE - 1)).map(move |nx| ny * SIDE + nx))
        .filter(move |&j| j != i)
}

fn grow(mask: &[bool]) -> Vec<bool> {
    (0..mask.len()).map(|i| mask[i] || neighbours(i).any(|j| mask[j])).collect()
}

/// Connected parts (also over corners), largest first.
fn components(mask: &[bool]) -> Vec<Vec<usize>> {
    let mut left = mask.to_vec();
    let mut parts = Vec::new();
    for start in 0..mask.len() {
        if !std::mem::take(&mut left[start]) {
            continue;
        }
        let mut part = vec![start];
        let mut next = 0;
        while let Some(&i) = part.get(next) {
            part.extend(neighbours(i).filter(|&j| std::mem::take(&mut left[j])));
            next += 1;
        }
        parts.push(part);
    }
    parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
    parts
}

/// For each of `SIDE` target pixels, the source pixels under it with weights that sum to 1.
fn area_weights(source: usize) -> Vec<Vec<(usize, f32)>> {
    let scale = source as f32 / SIDE as f32;
    (0..SIDE)
        .map(|i| {
            let (from, to) = (i as f32 * scale, (i + 1) as f32 * scale);
            (from as usize..(to.ceil() as usize).min(source))
                .map(|s| (s, (to.min(s as f32 + 1.0) - from.max(s as f32)) / scale))
                .collect()
        })
        .collect()
}
