//! Reading what a person typed: "Large red circle, blue background" as well as the canonical sentence.

use crate::grammar::Prompt;
use crate::world::{Background, Colour, Motion, Place, Shape, Size};

/// What was understood, and the words that were not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedPrompt {
    /// What the prompt names.
    pub prompt: Prompt,
    /// Words this world does not know, in the order they were typed. They have no effect on the picture.
    pub unknown: Vec<String>,
}

/// Why a prompt cannot be drawn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// Nothing in the prompt names anything of this world.
    #[error("the prompt names nothing this world knows; try \"a large red circle on a blue background\"")]
    Nothing,
    /// Some words are unknown (see [`Prompt::parse_leniently`] to go on without them).
    #[error("unknown {}: {}; {HELP}", if .0.len() == 1 { "word" } else { "words" }, .0.join(", "))]
    Unknown(Vec<String>),
    /// The same thing is named twice, differently.
    #[error("the prompt names two different {what}: {first} and {second}")]
    Twice {
        /// What is named twice, in the plural.
        what: &'static str,
        /// The value that came first.
        first: &'static str,
        /// The value that contradicts it.
        second: &'static str,
    },
    /// The object has the colour of its background.
    #[error("a {0} object cannot be seen on a {0} background")]
    Invisible(&'static str),
    /// The shape looks the same however far it is turned.
    #[error("a {0} that spins looks still; choose another motion")]
    SpinsUnseen(Shape),
    /// This colour exists, but only on the other side: "white circle", "red background".
    #[error("{colour} is not one of the {of} colours: {}", .known.join(", "))]
    ColourNotHere {
        /// The colour that was named.
        colour: &'static str,
        /// "object" or "background".
        of: &'static str,
        /// What may be named instead.
        known: Vec<&'static str>,
    },
}

const HELP: &str = "shapes: circle, square, triangle, star, cross, ring; \
    colours: red, green, blue, yellow, purple, cyan; sizes: small, large; \
    places: center, top left, top right, bottom left, bottom right; backgrounds: white, black, gray, blue";

impl Prompt {
    /// Reads a prompt; every word must be known. Upper case, commas, articles and common synonyms are fine.
    pub fn parse(text: &str) -> Result<Self, PromptError> {
        let ParsedPrompt { prompt, unknown } = Self::parse_leniently(text)?;
        if unknown.is_empty() { Ok(prompt) } else { Err(PromptError::Unknown(unknown)) }
    }

    /// Reads a prompt and hands back the words that are not known instead of refusing them.
    pub fn parse_leniently(text: &str) -> Result<ParsedPrompt, PromptError> {
        let words: Vec<String> = text
            .replace(':', " is ")
            .split(|c: char| !c.is_alphanumeric() && c != '\'')
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        let mut reader = Reader::default();
        for (i, word) in words.iter().enumerate() {
            reader.read(word, &words[..i], &words[i + 1..])?;
        }
        reader.finish()
    }
}

/// What one word means.
enum Word {
    Shape(Shape),
    /// A colour word, which may belong to the object, to the background or to both.
    Hue(&'static str),
    Size(Size),
    Background,
    Center,
    Vertical(Side),
    Horizontal(Side),
    Verb(Verb),
    Filler,
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Less,
    More,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Moves,
    Does(Motion),
    Vertical(Motion),
}

fn meaning(word: &str) -> Word {
    let singular = word.strip_suffix('s').filter(|w| w.len() > 3 && *w != "cros").unwrap_or(word);
    match singular {
        "circle" | "disc" | "disk" | "ball" | "dot" => Word::Shape(Shape::Circle),
        "square" | "box" => Word::Shape(Shape::Square),
        "triangle" => Word::Shape(Shape::Triangle),
        "star" => Word::Shape(Shape::Star),
        "cross" | "plus" => Word::Shape(Shape::Cross),
        "ring" | "donut" | "doughnut" => Word::Shape(Shape::Ring),
        "red" => Word::Hue("red"),
        "green" => Word::Hue("green"),
        "blue" => Word::Hue("blue"),
        "yellow" => Word::Hue("yellow"),
        "purple" | "magenta" | "violet" => Word::Hue("purple"),
        "cyan" | "turquoise" | "aqua" => Word::Hue("cyan"),
        "white" => Word::Hue("white"),
        "black" => Word::Hue("black"),
        "gray" | "grey" => Word::Hue("gray"),
        "small" | "little" | "tiny" => Word::Size(Size::Small),
        "large" | "big" | "huge" => Word::Size(Size::Large),
        "background" | "backdrop" => Word::Background,
        "center" | "centre" | "middle" | "centered" | "centred" => Word::Center,
        "top" | "upper" => Word::Vertical(Side::Less),
        "bottom" | "lower" => Word::Vertical(Side::More),
        "left" => Word::Horizontal(Side::Less),
        "right" => Word::Horizontal(Side::More),
        "move" | "moving" => Word::Verb(Verb::Moves),
        "spin" | "spinning" | "turn" | "turning" | "rotate" | "rotating" => Word::Verb(Verb::Does(Motion::Spins)),
        "grow" | "growing" => Word::Verb(Verb::Does(Motion::Grows)),
        "shrink" | "shrinking" => Word::Verb(Verb::Does(Motion::Shrinks)),
        "up" | "upward" => Word::Verb(Verb::Vertical(Motion::Up)),
        "down" | "downward" => Word::Verb(Verb::Vertical(Motion::Down)),
        "a" | "an" | "the" | "on" | "in" | "or" | "at" | "over" | "of" | "with" | "and" | "is" | "to" | "it"
        | "corner" | "picture" | "image" | "clip" | "video" | "shape" => Word::Filler,
        _ => Word::Unknown,
    }
}

#[derive(Default)]
struct Reader {
    prompt: Prompt,
    centered: bool,
    vertical: Option<Side>,
    horizontal: Option<Side>,
    moves: bool,
    unknown: Vec<String>,
    named: bool,
}

impl Reader {
    fn read(&mut self, word: &str, before: &[String], after: &[String]) -> Result<(), PromptError> {
        let meaning = meaning(word);
        self.named |= !matches!(meaning, Word::Filler | Word::Unknown | Word::Background);
        match meaning {
            Word::Shape(shape) => set(&mut self.prompt.shape, shape, "shapes", Shape::name),
            Word::Size(size) => set(&mut self.prompt.size, size, "sizes", Size::name),
            Word::Hue(name) if is_background(before, after) => {
                let background = Background::from_name(name).ok_or_else(|| PromptError::ColourNotHere {
                    colour: name,
                    of: "background",
                    known: Background::ALL.iter().map(|b| b.name()).collect(),
                })?;
                set(&mut self.prompt.background, background, "backgrounds", Background::name)
            }
            Word::Hue(name) => {
                let colour = Colour::from_name(name).ok_or_else(|| PromptError::ColourNotHere {
                    colour: name,
                    of: "object",
                    known: Colour::ALL.iter().map(|c| c.name()).collect(),
                })?;
                set(&mut self.prompt.colour, colour, "colours", Colour::name)
            }
            Word::Center => {
                self.centered = true;
                Ok(())
            }
            Word::Vertical(side) => set(&mut self.vertical, side, "places", |s| side_name(s, "top", "bottom")),
            Word::Horizontal(side) if self.moves => {
                let motion = if side == Side::Less { Motion::Left } else { Motion::Right };
                self.moves = false;
                set(&mut self.prompt.motion, motion, "motions", Motion::name)
            }
            Word::Horizontal(side) => set(&mut self.horizontal, side, "places", |s| side_name(s, "left", "right")),
            Word::Verb(Verb::Moves) => {
                self.moves = true;
                Ok(())
            }
            Word::Verb(Verb::Does(motion)) => set(&mut self.prompt.motion, motion, "motions", Motion::name),
            Word::Verb(Verb::Vertical(motion)) => {
                self.moves = false;
                set(&mut self.prompt.motion, motion, "motions", Motion::name)
            }
            Word::Filler | Word::Background => Ok(()),
            Word::Unknown => {
                self.unknown.push(word.to_string());
                Ok(())
            }
        }
    }

    fn finish(mut self) -> Result<ParsedPrompt, PromptError> {
        use Side::{Less, More};
        self.prompt.place = match (self.vertical, self.horizontal) {
            (Some(Less), Some(Less)) => Some(Place::TopLeft),
            (Some(Less), Some(More)) => Some(Place::TopRight),
            (Some(More), Some(Less)) => Some(Place::BottomLeft),
            (Some(More), Some(More)) => Some(Place::BottomRight),
            (None, None) => self.centered.then_some(Place::Center),
            // "at the top" alone is no place of this world; say so rather than guess a corner.
            (Some(side), None) => {
                self.unknown.push(side_name(side, "top", "bottom").to_string());
                None
            }
            (None, Some(side)) => {
                self.unknown.push(side_name(side, "left", "right").to_string());
                None
            }
        };
        if self.moves {
            self.unknown.push("moves".to_string());
        }
        if !self.named {
            return Err(PromptError::Nothing);
        }
        let Prompt { shape, colour, background, motion, .. } = self.prompt;
        if let (Some(colour), Some(background)) = (colour, background)
            && colour.rgb() == background.rgb()
        {
            return Err(PromptError::Invisible(colour.name()));
        }
        if let (Some(shape), Some(motion)) = (shape, motion)
            && !motion.suits(shape)
        {
            return Err(PromptError::SpinsUnseen(shape));
        }
        Ok(ParsedPrompt { prompt: self.prompt, unknown: self.unknown })
    }
}

/// Whether a colour word names the background: "blue background", "background is blue" (a colon counts as "is"),
/// "a red circle on blue".
fn is_background(before: &[String], after: &[String]) -> bool {
    let is_word = |word: Option<&String>| word.is_some_and(|w| matches!(meaning(w), Word::Background));
    if is_word(after.first()) {
        return true;
    }
    if let [.., background, is] = before
        && is == "is"
    {
        return is_word(Some(background));
    }
    let previous = before.iter().rev().find(|word| !matches!(word.as_str(), "a" | "an" | "the"));
    previous.is_some_and(|word| word == "on" || word == "over")
}

fn side_name(side: Side, less: &'static str, more: &'static str) -> &'static str {
    if side == Side::Less { less } else { more }
}

fn set<T: Copy + PartialEq>(
    slot: &mut Option<T>,
    value: T,
    what: &'static str,
    name: impl Fn(T) -> &'static str,
) -> Result<(), PromptError> {
    match slot.replace(value) {
        Some(first) if first != value => Err(PromptError::Twice { what, first: name(first), second: name(value) }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Scene, rng};

    fn parsed(text: &str) -> String {
        Prompt::parse(text).map_or_else(|error| error.to_string(), |prompt| prompt.caption())
    }

    #[test]
    fn every_caption_and_paraphrase_reads_back() {
        let mut rng = rng(2);
        for i in 0..3000 {
            let mut prompt = Scene::sample_training(&mut rng).prompt();
            prompt.motion =
                Motion::ALL.get(i % 14).copied().filter(|m| m.suits(Shape::ALL[prompt.shape.map_or(0, Shape::index)]));
            for text in [prompt.caption(), prompt.paraphrase(&mut rng)] {
                assert_eq!(Prompt::parse(&text), Ok(prompt), "{text}");
            }
        }
    }

    #[test]
    fn people_type_freely() {
        for text in [
            "Large red circle, blue background",
            "a BIG red disc on blue.",
            "blue background, large red circle",
            "background: blue; large red ball",
            "A large circle, red, over a blue backdrop",
            "on a blue background a large red circle",
        ] {
            assert_eq!(parsed(text), "a large red circle on a blue background", "{text}");
        }
        assert_eq!(
            parsed("blue ring on grey, upper-right corner"),
            "a blue ring at the top right on a gray background"
        );
        assert_eq!(parsed("a yellow star spinning over black"), "a yellow star spins over a black background");
        assert_eq!(parsed("the square is moving to the right"), "a square moves right");
        assert_eq!(parsed("a star in the middle moves up"), "a star in the center moves up");
    }

    #[test]
    fn what_cannot_be_drawn_is_named() {
        for (text, complaint) in [
            ("", "names nothing"),
            ("   ,, !", "names nothing"),
            ("hello there", "names nothing"),
            ("a large red dragon on a blue background", "unknown word: dragon"),
            ("a red circle and a green square", "two different colours: red and green"),
            ("a red circle or square", "two different shapes: circle and square"),
            ("a white circle", "white is not one of the object colours"),
            ("a green circle on a red background", "red is not one of the background colours"),
            ("a blue star on a blue background", "cannot be seen"),
            ("a red ring spins", "looks still"),
            ("a red star at the top", "unknown word: top"),
        ] {
            assert!(parsed(text).contains(complaint), "{text:?} gives {:?}", parsed(text));
        }
        let lenient = Prompt::parse_leniently("a photorealistic red dragon star").expect("a red star");
        assert_eq!(lenient.unknown, ["photorealistic", "dragon"]);
        assert_eq!(lenient.prompt.shape, Some(Shape::Star));
    }

    #[test]
    fn long_and_strange_text_is_safe() {
        let long = "a large red circle on a blue background ".repeat(300);
        assert_eq!(parsed(&long), "a large red circle on a blue background");
        assert!(matches!(Prompt::parse("круг 🔴 ' '' \u{0}"), Err(PromptError::Nothing)));
    }
}
