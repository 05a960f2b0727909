//! The oracle: plain computer vision that reads a picture's attributes back from its pixels, with no learned part.
//!
//! The border's median colour is the background; what differs from it is the object; its median colour, its best-fitting
//! outline, and that outline's radius and centre are its colour, shape, size and place. Whatever cannot be told
//! is `None`: a blank picture has no shape, and noise has not even a background.

mod clip;
mod fit;
mod segment;

use crate::grammar::Prompt;
use crate::world::{Attributes, Background, Colour, Motion, Place, Shape, Size};
pub use clip::read_clip;
use fit::Fit;
use segment::{Canvas, Segment};
use serde::Serialize;

/// The side, in pixels, to which pictures are reduced or enlarged before they are read.
const SIDE: usize = 64;
/// Below this overlap with every outline an object is none of the world's shapes.
const MIN_OVERLAP: f32 = 0.78;
/// The best outline must beat the second by this much.
const MIN_LEAD: f32 = 0.015;
/// Radii that count as small or large, as a factor of [`Size::radius`].
const SIZE_TOLERANCE: f32 = 1.27;

/// What the oracle saw. `None` means that it cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Reading {
    /// What the object is.
    pub shape: Option<Shape>,
    /// The object's colour.
    pub colour: Option<Colour>,
    /// How large the object is.
    pub size: Option<Size>,
    /// The named place nearest to the object, or `None` between places.
    pub place: Option<Place>,
    /// What is behind the object.
    pub background: Option<Background>,
    /// What the object does (clips only).
    pub motion: Option<Motion>,
    /// The object's centroid as a fraction of the picture's side.
    pub center: Option<[f32; 2]>,
    /// The object's radius as a fraction of the picture's side.
    pub radius: Option<f32>,
    /// Overlap (0–1, intersection over union) of the object with the outline that fits it best; 0 without an object.
    pub confidence: f32,
}

/// Why a picture cannot be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OracleError {
    /// The buffer does not hold `width × height` RGB pixels.
    #[error("{bytes} bytes are not a {width}x{height} RGB picture")]
    Length {
        /// Bytes given.
        bytes: usize,
        /// Width said.
        width: usize,
        /// Height said.
        height: usize,
    },
    /// The world's pictures are square, 32 pixels or more.
    #[error("the oracle reads square pictures of 32 pixels or more, not {width}x{height}")]
    Size {
        /// Width given.
        width: usize,
        /// Height given.
        height: usize,
    },
}

/// Reads a picture: RGB bytes, rows from the top.
pub fn read(rgb: &[u8], width: usize, height: usize) -> Result<Reading, OracleError> {
    let canvas = Canvas::new(rgb, width, height)?;
    Ok(read_segment(&canvas.segment(), false).0)
}

/// Reads what a segmented picture shows, with the best fit when there is an object.
fn read_segment(segment: &Segment, any_angle: bool) -> (Reading, Option<Fit>) {
    let mut reading = Reading { background: segment.background, ..Reading::default() };
    let Some(object) = &segment.object else {
        return (reading, None);
    };
    reading.colour = object.colour;
    let fits = fit::fit_shapes(&object.alpha, any_angle);
    let Some((best, lead)) = fit::best_and_lead(&fits) else {
        return (reading, None);
    };
    reading.confidence = best.overlap;
    if best.overlap < MIN_OVERLAP {
        return (reading, None);
    }
    let side = SIDE as f32;
    let center = best.center.map(|c| c / side);
    reading.shape = (lead >= MIN_LEAD).then_some(best.shape);
    reading.center = Some(center);
    reading.radius = Some(best.radius / side);
    reading.size = size_of(best.radius / side);
    reading.place = reading.size.and_then(|size| place_of(center, size));
    (reading, Some(best))
}

/// The size whose radius is nearest, if any is near.
fn size_of(radius: f32) -> Option<Size> {
    Size::ALL.iter().copied().find(|size| {
        let factor = radius / size.radius();
        (1.0 / SIZE_TOLERANCE..SIZE_TOLERANCE).contains(&factor)
    })
}

/// The place that both axes agree on: near the middle, or clearly to one side.
fn place_of(center: [f32; 2], size: Size) -> Option<Place> {
    let half_way = size.corner_offset() / 2.0;
    let direction = center.map(|c| match c - 0.5 {
        d if d < -half_way => -1.0,
        d if d > half_way => 1.0,
        _ => 0.0,
    });
    Place::ALL.iter().copied().find(|place| place.direction() == direction)
}

/// Whether a reading shows what was asked for, value by value. `None` where the prompt leaves the value open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The shape is as asked.
    pub shape: Option<bool>,
    /// The colour is as asked.
    pub colour: Option<bool>,
    /// The size is as asked.
    pub size: Option<bool>,
    /// The place is as asked.
    pub place: Option<bool>,
    /// The background is as asked.
    pub background: Option<bool>,
    /// The motion is as asked.
    pub motion: Option<bool>,
}

impl Verdict {
    /// Every value that the prompt names, with its name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let Self { shape, colour, size, place, background, motion } = *self;
        [
            ("shape", shape),
            ("colour", colour),
            ("size", size),
            ("place", place),
            ("background", background),
            ("motion", motion),
        ]
        .into_iter()
        .filter_map(|(name, right)| Some((name, right?)))
    }

    /// Whether everything that the prompt names is right.
    pub fn all_right(&self) -> bool {
        self.named().all(|(_, right)| right)
    }
}

/// Compares a reading with what was asked for; [`Attributes`] or a [`Prompt`] will do.
///
/// ```
/// use sango_shapes::{Prompt, Scene, oracle, render, rng};
///
/// let prompt = Prompt::parse("a small cyan star at the top left on a black background")?;
/// let picture = render(&Scene::for_prompt(&prompt, &mut rng(1)), 64);
/// let verdict = oracle::judge(prompt, &oracle::read(&picture, 64, 64)?);
/// assert!(verdict.all_right());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn judge(asked: impl Into<Prompt>, reading: &Reading) -> Verdict {
    fn same<T: PartialEq>(asked: Option<T>, seen: Option<T>) -> Option<bool> {
        asked.map(|asked| seen == Some(asked))
    }
    let asked = asked.into();
    Verdict {
        shape: same(asked.shape, reading.shape),
        colour: same(asked.colour, reading.colour),
        size: same(asked.size, reading.size),
        place: same(asked.place, reading.place),
        background: same(asked.background, reading.background),
        motion: same(asked.motion, reading.motion),
    }
}

impl Reading {
    /// The combination, when all four of its values were read.
    pub fn attributes(&self) -> Option<Attributes> {
        Some(Attributes { shape: self.shape?, colour: self.colour?, size: self.size?, background: self.background? })
    }
}
