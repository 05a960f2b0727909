//! The caption grammar: what can be said about a scene, and the few words it takes.

use crate::world::{Attributes, Background, Colour, Motion, Place, Shape, Size};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// Every word that captions are made of, with the comma. A tokenizer for this world needs no more.
pub const VOCABULARY: &[&str] = &[
    "a",
    "the",
    "on",
    "over",
    "in",
    "at",
    "background",
    ",",
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "ring",
    "red",
    "green",
    "blue",
    "yellow",
    "purple",
    "cyan",
    "small",
    "large",
    "white",
    "black",
    "gray",
    "center",
    "top",
    "bottom",
    "left",
    "right",
    "moves",
    "up",
    "down",
    "spins",
    "grows",
    "shrinks",
];

/// What a prompt names. `None` is left open, and any value will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Prompt {
    /// What the object is.
    pub shape: Option<Shape>,
    /// The object's colour.
    pub colour: Option<Colour>,
    /// How large the object is.
    pub size: Option<Size>,
    /// Where the object is.
    pub place: Option<Place>,
    /// What is behind it.
    pub background: Option<Background>,
    /// What the object does; only clips have one.
    pub motion: Option<Motion>,
}

impl From<Attributes> for Prompt {
    fn from(attributes: Attributes) -> Self {
        let Attributes { shape, colour, size, background } = attributes;
        Self {
            shape: Some(shape),
            colour: Some(colour),
            size: Some(size),
            background: Some(background),
            ..Self::default()
        }
    }
}

impl Prompt {
    /// The combination, when all four of its values are named.
    pub fn attributes(&self) -> Option<Attributes> {
        Some(Attributes { shape: self.shape?, colour: self.colour?, size: self.size?, background: self.background? })
    }

    /// The canonical sentence: "a large red circle at the top left on a blue background",
    /// "a small green star moves left over a white background".
    ///
    /// An unnamed shape is written without a noun ("a large red"), which [`Prompt::parse`] reads back.
    pub fn caption(&self) -> String {
        let mut words = vec!["a"];
        words.extend(self.noun_phrase());
        words.extend(self.place.map(Place::phrase));
        words.extend(self.motion.map(Motion::name));
        if let Some(background) = self.background {
            let preposition = if self.motion.is_some() { "over" } else { "on" };
            words.extend([preposition, "a", background.name(), "background"]);
        }
        words.join(" ")
    }

    /// A caption as a person might type it: the canonical sentence most of the time, else a list without articles
    /// ("large red circle, top left, blue background") or the place at the end.
    pub fn paraphrase(&self, rng: &mut impl Rng) -> String {
        match rng.random_range(0..10) {
            0 | 1 => self.list(),
            2 | 3 => self.place_last(),
            _ => self.caption(),
        }
    }

    fn noun_phrase(&self) -> impl Iterator<Item = &'static str> {
        self.size.map(Size::name).into_iter().chain(self.colour.map(Colour::name)).chain(self.shape.map(Shape::name))
    }

    fn list(&self) -> String {
        let mut parts = vec![self.noun_phrase().chain(self.motion.map(Motion::name)).collect::<Vec<_>>().join(" ")];
        parts.extend(self.place.map(|place| place.name().to_string()));
        parts.extend(self.background.map(|background| format!("{background} background")));
        parts.retain(|part| !part.is_empty());
        parts.join(", ")
    }

    fn place_last(&self) -> String {
        let unplaced = Self { place: None, ..*self }.caption();
        match self.place {
            Some(place) => format!("{unplaced}, {}", place.phrase()),
            None => unplaced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Scene, rng};
    use std::collections::HashSet;

    #[test]
    fn captions_read_like_the_examples() {
        let still = Prompt {
            place: Some(Place::TopLeft),
            ..Attributes { shape: Shape::Circle, colour: Colour::Red, size: Size::Large, background: Background::Blue }
                .into()
        };
        assert_eq!(still.caption(), "a large red circle at the top left on a blue background");
        let clip = Prompt {
            motion: Some(Motion::Left),
            ..Attributes { shape: Shape::Star, colour: Colour::Green, size: Size::Small, background: Background::White }
                .into()
        };
        assert_eq!(clip.caption(), "a small green star moves left over a white background");
        assert_eq!(still.list(), "large red circle, top left, blue background");
        assert_eq!(still.place_last(), "a large red circle on a blue background, at the top left");
    }

    #[test]
    fn captions_use_the_vocabulary_and_nothing_else() {
        assert!(VOCABULARY.len() < 60);
        let mut used = HashSet::new();
        let mut rng = rng(1);
        for i in 0..4000 {
            let mut prompt = Scene::sample_training(&mut rng).prompt();
            prompt.motion = Motion::ALL.get(i % 14).copied();
            for word in prompt.paraphrase(&mut rng).replace(',', " ,").split(' ') {
                assert!(VOCABULARY.contains(&word), "{word:?} is not in the vocabulary");
                used.insert(word.to_string());
            }
        }
        assert_eq!(used.len(), VOCABULARY.len());
    }
}
