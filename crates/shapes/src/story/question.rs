//! What can be asked about a story, in several phrasings, and the exact short answers.

use super::{Actor, Story, StoryKind};
use crate::grammar::Prompt;
use crate::world::{Colour, Motion, Place, Shape};
use rand::{Rng, RngExt};

/// Which object a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Which {
    /// The only one.
    It,
    /// The one of this colour.
    Coloured(Colour),
    /// The one of this shape.
    Shaped(Shape),
    /// What comes first: the object that is seen, or the thing that is done, in the first half.
    First,
    /// What comes last.
    Last,
}

/// A question about a story, before it is put into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ask {
    /// What happens in the whole clip.
    Caption,
    /// What colour an object has.
    Colour(Which),
    /// What shape it is.
    Shape(Which),
    /// How large it is.
    Size(Which),
    /// What it does.
    Motion(Which),
    /// Which way it moves.
    Direction(Which),
    /// Where it stands.
    Place(Which),
    /// What it is: size, colour and shape.
    Object(Which),
    /// What is behind the objects.
    Background,
    /// How many objects there are.
    Count,
}

/// Numbers in words, from none.
pub(super) const NUMBERS: &[&str] = &["zero", "one", "two", "three"];

impl Ask {
    /// The name of the kind of question, for tables: "colour", "first", …
    ///
    /// Everything about what comes first or last is one kind, whatever it asks of it.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Colour(Which::First | Which::Last)
            | Self::Shape(Which::First | Which::Last)
            | Self::Size(Which::First | Which::Last)
            | Self::Motion(Which::First | Which::Last)
            | Self::Object(Which::First | Which::Last) => "first",
            Self::Caption => "caption",
            Self::Colour(_) => "colour",
            Self::Shape(_) | Self::Object(_) => "shape",
            Self::Size(_) => "size",
            Self::Motion(_) => "motion",
            Self::Direction(_) => "direction",
            Self::Place(_) => "place",
            Self::Background => "background",
            Self::Count => "count",
        }
    }

    /// Every way to put the question, the plainest first.
    pub fn phrasings(self) -> Vec<String> {
        let fixed = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
        match self {
            Self::Caption => fixed(&[
                "What happens in this clip?",
                "What happens?",
                "Describe the video.",
                "What happens in the video?",
                "Describe this clip.",
                "What do you see?",
            ]),
            Self::Background => fixed(&[
                "What colour is the background?",
                "What color is the background?",
                "Which colour is behind it?",
                "What is in the background?",
            ]),
            Self::Count => fixed(&[
                "How many shapes are there?",
                "How many shapes do you see?",
                "How many objects are in the clip?",
                "Count the shapes.",
            ]),
            Self::Colour(which) => which.fill(
                &["What colour is {}?", "What color is {}?", "Which colour does {} have?"],
                &["What colour comes {}?", "What colour is the {} shape?", "Which color does the {} shape have?"],
            ),
            Self::Shape(which) => which.fill(
                &["What shape is {}?", "Which shape is {}?", "What kind of shape is {}?"],
                &["Which shape comes {}?", "What shape comes {}?", "What shape is the {} one?"],
            ),
            Self::Size(which) => which.fill(
                &["How large is {}?", "What size is {}?", "Is {} small or large?"],
                &["How large is the {} shape?", "What size is the {} shape?", "Is the {} shape small or large?"],
            ),
            Self::Motion(which) => which.fill(
                &["What does {} do?", "What is {} doing?", "How does {} move?"],
                &["What does it do {}?", "What happens {}?", "What does the shape do {}?"],
            ),
            Self::Direction(which) => which.fill(
                &["Which direction does {} move?", "Which way does {} go?", "In what direction does {} move?"],
                &["Which direction does it move {}?", "Which way does it go {}?"],
            ),
            Self::Place(which) => {
                which.fill(&["Where is {}?", "In which part of the picture is {}?"], &["Where is the {} shape?"])
            }
            Self::Object(which) => which.fill(
                &["What is {}?", "Describe {}."],
                &["What comes {}?", "What do you see {}?", "Which object is {}?"],
            ),
        }
    }

    /// The question in one of its phrasings.
    pub fn phrase(self, rng: &mut impl Rng) -> String {
        let mut all = self.phrasings();
        all.swap_remove(rng.random_range(0..all.len()))
    }
}

impl Which {
    /// Puts the words for this object into templates: `plain` ones, or those that go with an order.
    fn fill(self, plain: &[&str], ordered: &[&str]) -> Vec<String> {
        let put = |templates: &[&str], words: &[&str]| {
            templates.iter().flat_map(|t| words.iter().map(|w| t.replace("{}", w))).collect()
        };
        match self {
            Self::It => put(plain, &["it", "the shape"]),
            Self::Coloured(colour) => put(plain, &[&format!("the {colour} shape"), &format!("the {colour} one")]),
            Self::Shaped(shape) => put(plain, &[&format!("the {shape}")]),
            Self::First => put(ordered, &["first"]),
            Self::Last => put(ordered, &["last"]),
        }
    }
}

impl Actor {
    /// Everything that can be said about it.
    pub(super) fn prompt(&self) -> Prompt {
        Prompt { place: self.place, motion: self.motions.first().copied(), ..Prompt::from(self.attributes) }
    }

    /// "a small red circle".
    fn noun_phrase(&self) -> String {
        Prompt { background: None, ..Prompt::from(self.attributes) }.caption()
    }
}

impl Story {
    /// The object that a question means, where it means exactly one.
    pub(super) fn actor(&self, which: Which) -> Option<&Actor> {
        match which {
            Which::It => (self.actors.len() == 1).then(|| &self.actors[0]),
            Which::Coloured(colour) => self.actors.iter().find(|a| a.attributes.colour == colour),
            Which::Shaped(shape) => self.actors.iter().find(|a| a.attributes.shape == shape),
            Which::First | Which::Last => match self.kind {
                StoryKind::Swap if which == Which::First => self.actors.first(),
                StoryKind::Swap => self.actors.last(),
                StoryKind::Sequence => self.actors.first(),
                _ => None,
            },
        }
    }

    /// The motion that a question means, where it means exactly one.
    pub(super) fn motion(&self, which: Which) -> Option<Motion> {
        let motions = &self.actor(which)?.motions;
        match (which, &motions[..]) {
            (Which::First, [first, _]) => Some(*first),
            (Which::Last, [_, last]) => Some(*last),
            (Which::It | Which::Coloured(_) | Which::Shaped(_), [only]) => Some(*only),
            _ => None,
        }
    }

    /// Every question that has exactly one answer here.
    pub fn asks(&self) -> Vec<Ask> {
        let mut asks = vec![Ask::Caption, Ask::Background];
        let whiches: Vec<Which> = match self.kind {
            StoryKind::Single | StoryKind::Sequence | StoryKind::Still => vec![Which::It],
            StoryKind::Swap => vec![Which::First, Which::Last],
            StoryKind::Pair | StoryKind::Group => self
                .actors
                .iter()
                .flat_map(|a| [Which::Coloured(a.attributes.colour), Which::Shaped(a.attributes.shape)])
                .collect(),
        };
        for which in whiches {
            if !matches!(which, Which::Coloured(_)) {
                asks.push(Ask::Colour(which));
            }
            if !matches!(which, Which::Shaped(_)) {
                asks.push(Ask::Shape(which));
            }
            match self.kind {
                StoryKind::Single => asks.extend([Ask::Size(which), Ask::Motion(which), Ask::Direction(which)]),
                StoryKind::Sequence => {
                    asks.push(Ask::Size(which));
                    let ordered = [Which::First, Which::Last];
                    asks.extend(ordered.iter().flat_map(|&w| [Ask::Motion(w), Ask::Direction(w)]));
                }
                StoryKind::Pair => asks.push(Ask::Motion(which)),
                StoryKind::Swap => asks.extend([Ask::Size(which), Ask::Object(which)]),
                StoryKind::Group => asks.push(Ask::Place(which)),
                StoryKind::Still => asks.extend([Ask::Size(which), Ask::Object(which), Ask::Place(which)]),
            }
        }
        if self.kind != StoryKind::Swap {
            asks.push(Ask::Count);
        }
        asks.retain(|&ask| self.answer(ask).is_some());
        asks
    }

    /// The short answer, or nothing where the question does not fit the story.
    pub fn answer(&self, ask: Ask) -> Option<String> {
        let of = |which| self.actor(which).map(|a| a.attributes);
        Some(match ask {
            Ask::Caption => self.caption(),
            Ask::Colour(which) => of(which)?.colour.to_string(),
            Ask::Shape(which) => of(which)?.shape.to_string(),
            Ask::Size(which) => of(which)?.size.to_string(),
            Ask::Motion(which) => self.motion(which)?.to_string(),
            Ask::Direction(which) => direction_name(self.motion(which)?)?.to_owned(),
            Ask::Place(which) => self.actor(which)?.place.map(Place::name)?.to_owned(),
            Ask::Object(which) => self.actor(which)?.noun_phrase(),
            Ask::Background => self.background.to_string(),
            Ask::Count if self.kind == StoryKind::Swap => return None,
            Ask::Count => (*NUMBERS.get(self.actors.len())?).to_owned(),
        })
    }

    /// The whole story in one sentence.
    ///
    /// "a small green star moves left, then spins over a white background"; "a small red circle grows and a small blue
    /// star moves up over a gray background"; "a small red circle, then a large blue star on a white background"; "a
    /// small red circle, a small blue star and a small green cross on a black background".
    pub fn caption(&self) -> String {
        let parts: Vec<String> = self
            .actors
            .iter()
            .map(|actor| {
                let motions: Vec<&str> = actor.motions.iter().map(|m| m.name()).collect();
                [actor.noun_phrase(), motions.join(", then ")].join(" ").trim_end().to_owned()
            })
            .collect();
        let told = match (self.kind, &parts[..]) {
            (StoryKind::Swap, _) => parts.join(", then "),
            (_, [all @ .., last]) if !all.is_empty() => format!("{} and {last}", all.join(", ")),
            _ => parts.concat(),
        };
        let moves = self.actors.iter().any(|a| !a.motions.is_empty());
        format!("{told} {} a {} background", if moves { "over" } else { "on" }, self.background)
    }
}

/// "left" for [`Motion::Left`]; nothing for what happens in one place.
pub(super) const fn direction_name(motion: Motion) -> Option<&'static str> {
    match motion {
        Motion::Left => Some("left"),
        Motion::Right => Some("right"),
        Motion::Up => Some("up"),
        Motion::Down => Some("down"),
        Motion::Spins | Motion::Grows | Motion::Shrinks => None,
    }
}
