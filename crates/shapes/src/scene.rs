//! A scene: one object on a plain background, and how its free numbers are drawn.

use crate::grammar::Prompt;
use crate::split;
use crate::world::{Attributes, Background, Colour, Place, Shape, Size};
use rand::seq::IndexedRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Largest change of an object's size, as a part of it.
const SIZE_JITTER: f32 = 0.04;
/// Largest distance from the exact place on each axis, as a fraction of the picture's side.
const PLACE_JITTER: f32 = 1.0 / 64.0;
/// How often a sampled scene gets a named place.
const NAMED_PLACE_PROBABILITY: f64 = 0.7;

/// One coloured shape, exactly as drawn. Lengths are fractions of the picture's side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Object {
    /// What it is.
    pub shape: Shape,
    /// Its colour.
    pub colour: Colour,
    /// Its centroid: x to the right, y down, 0–1.
    pub center: [f32; 2],
    /// Its radius (the unit of the shape's outline).
    pub radius: f32,
    /// Turned clockwise by this angle, in radians.
    pub angle: f32,
}

/// A picture before it is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scene {
    /// What the picture shows.
    pub attributes: Attributes,
    /// The named place, or `None` where the object may be anywhere.
    pub place: Option<Place>,
    /// The object, with its jitter.
    pub object: Object,
}

/// The generator that everything in this crate is drawn from.
pub fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

impl Scene {
    /// A scene with these attributes: at `place` with a little jitter, or anywhere when there is none.
    pub fn sample(attributes: Attributes, place: Option<Place>, rng: &mut impl Rng) -> Self {
        let offset = attributes.size.corner_offset();
        let mut axis = |direction: Option<f32>| match direction {
            Some(direction) => 0.5 + direction * offset + rng.random_range(-PLACE_JITTER..=PLACE_JITTER),
            None => 0.5 + rng.random_range(-1.0..=1.0) * (offset + PLACE_JITTER),
        };
        let direction = place.map(Place::direction);
        let center = [axis(direction.map(|d| d[0])), axis(direction.map(|d| d[1]))];
        let radius = attributes.size.radius() * rng.random_range(1.0 - SIZE_JITTER..=1.0 + SIZE_JITTER);
        let object = Object { shape: attributes.shape, colour: attributes.colour, center, radius, angle: 0.0 };
        Self { attributes, place, object }
    }

    /// A random scene of a combination from the training split; seven in ten have a named place.
    pub fn sample_training(rng: &mut impl Rng) -> Self {
        Self::sample_from(split::train_combinations(), rng)
    }

    /// A random scene of a combination that training never shows.
    pub fn sample_held_out(rng: &mut impl Rng) -> Self {
        Self::sample_from(split::held_out_combinations(), rng)
    }

    fn sample_from(combinations: &[Attributes], rng: &mut impl Rng) -> Self {
        let attributes = combinations[rng.random_range(0..combinations.len())];
        let place = rng.random_bool(NAMED_PLACE_PROBABILITY).then(|| Place::ALL[rng.random_range(0..Place::COUNT)]);
        Self::sample(attributes, place, rng)
    }

    /// A scene that shows what a prompt says; what the prompt leaves open is drawn at random.
    pub fn for_prompt(prompt: &Prompt, rng: &mut impl Rng) -> Self {
        let background = prompt.background.unwrap_or_else(|| {
            let visible: Vec<_> =
                Background::ALL.iter().filter(|b| prompt.colour.is_none_or(|c| c.rgb() != b.rgb())).collect();
            **visible.choose(rng).expect("every colour has a background it can be seen on")
        });
        let colour = prompt.colour.unwrap_or_else(|| {
            let visible: Vec<_> = Colour::ALL.iter().filter(|c| c.rgb() != background.rgb()).collect();
            **visible.choose(rng).expect("every background has a colour that can be seen on it")
        });
        let shape = prompt.shape.unwrap_or_else(|| Shape::ALL[rng.random_range(0..Shape::COUNT)]);
        let size = prompt.size.unwrap_or_else(|| Size::ALL[rng.random_range(0..Size::COUNT)]);
        Self::sample(Attributes { shape, colour, size, background }, prompt.place, rng)
    }

    /// The prompt that names everything this scene was made from.
    pub fn prompt(&self) -> Prompt {
        Prompt { place: self.place, ..Prompt::from(self.attributes) }
    }

    /// The caption in the canonical form.
    pub fn caption(&self) -> String {
        self.prompt().caption()
    }
}
