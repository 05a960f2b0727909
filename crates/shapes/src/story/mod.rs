//! Stories: clips that have more to tell than one object and one motion, for questions and answers about video.
//!
//! A [`Story`] is drawn like a [`Clip`], knows which questions make sense about it ([`Story::asks`]) and
//! their exact short answers ([`Story::answer`]); [`judge`] decides whether another answer says the same.
//!
//! ```
//! use sango_shapes::{rng, story::{Story, StoryKind, judge}};
//!
//! let mut rng = rng(3);
//! let story = Story::sample_training(StoryKind::Sequence, &mut rng);
//! for ask in story.asks() {
//!     println!("{} {}", ask.phrase(&mut rng), story.answer(ask).unwrap_or_default());
//!     assert!(judge(&story, ask, &story.answer(ask).unwrap_or_default()));
//! }
//! ```

mod judge;
mod question;

pub use judge::judge;
pub use question::{Ask, Which};

use crate::clip::{GROWN, ROOM, SPIN, UNGROWN, random_motion};
use crate::render::render_objects;
use crate::scene::{Object, Scene};
use crate::world::{Attributes, Background, Motion, Place, Size};
use crate::{Clip, split};
use rand::{Rng, RngExt};

/// What kind of story a clip tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StoryKind {
    /// One object does one thing: a [`Clip`].
    Single,
    /// One object does one thing, then another.
    Sequence,
    /// Two small objects side by side, or one above the other, and each does something of its own.
    Pair,
    /// One object stands still; halfway, another one takes its place.
    Swap,
    /// Two or three small objects stand still, each in a corner.
    Group,
    /// One object stands still: a picture tells as much.
    Still,
}

impl StoryKind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[Self::Single, Self::Sequence, Self::Pair, Self::Swap, Self::Group, Self::Still];

    /// Its name, for tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Single => "single",
            Self::Sequence => "sequence",
            Self::Pair => "pair",
            Self::Swap => "swap",
            Self::Group => "group",
            Self::Still => "still",
        }
    }

    /// A kind at random; those with more to tell come more often.
    pub fn sample(rng: &mut impl Rng) -> Self {
        match rng.random_range(0..20) {
            0..6 => Self::Single,
            6..12 => Self::Sequence,
            12..16 => Self::Pair,
            16..18 => Self::Swap,
            18 => Self::Group,
            _ => Self::Still,
        }
    }
}

/// One object of a story with what it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Actor {
    /// What it looks like.
    pub attributes: Attributes,
    /// The corner it stands in, where it does.
    pub place: Option<Place>,
    /// What it does, one after the other; empty when it stands still.
    pub motions: Vec<Motion>,
    /// The times from (inclusive) and to (exclusive, or 1) which it can be seen.
    pub seen: [f32; 2],
    /// The object at its nominal size in the place where it starts.
    start: Object,
    /// How far it travels in one motion, as a fraction of the picture's side.
    reach: f32,
}

/// A clip with questions to ask about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    /// The kind of story.
    pub kind: StoryKind,
    /// What is behind the objects.
    pub background: Background,
    /// Its objects: the earlier, left or upper ones first.
    pub actors: Vec<Actor>,
}

const ALWAYS: [f32; 2] = [0.0, 1.0];

impl Actor {
    /// An actor anywhere in the picture that leaves room for what it does.
    fn roaming(attributes: Attributes, motions: Vec<Motion>, seen: [f32; 2], rng: &mut impl Rng) -> Self {
        let start = Scene::sample(attributes, None, rng).object;
        let swells = motions.iter().any(|m| m.direction() == [0.0; 2]);
        let room = attributes.size.corner_offset() - if swells { ROOM * start.radius } else { 0.0 };
        let mut actor = Self { attributes, place: None, motions, seen, start, reach: 2.0 * room };
        for axis in 0..2 {
            let offsets = actor.path().map(|p| p[axis]);
            let low = offsets.clone().fold(0.0, f32::min);
            let high = offsets.fold(0.0, f32::max);
            // As far to each side as the path allows; 1e-6 against a range that rounding left empty.
            let (from, to) = (-room - low, room - high);
            actor.start.center[axis] = 0.5 + rng.random_range(from.min(to)..=to.max(from) + 1e-6);
        }
        actor
    }

    /// Where each motion has brought the object, from its start.
    fn path(&self) -> impl Iterator<Item = [f32; 2]> + Clone + '_ {
        self.motions.iter().scan([0.0f32; 2], |at, motion| {
            let direction = motion.direction();
            *at = [at[0] + direction[0] * self.reach, at[1] + direction[1] * self.reach];
            Some(*at)
        })
    }

    /// The object at a time from 0 (first frame) to 1 (last frame), or nothing while it is not there.
    pub fn object_at(&self, time: f32) -> Option<Object> {
        let [from, to] = self.seen;
        if time < from || (time >= to && to < 1.0) {
            return None;
        }
        let mut object = self.start;
        let mut scale = match self.motions.iter().find(|m| matches!(m, Motion::Grows | Motion::Shrinks)) {
            Some(Motion::Grows) => UNGROWN,
            Some(_) => GROWN,
            None => 1.0,
        };
        let local = (time - from) / (to - from) * self.motions.len() as f32;
        for (i, motion) in self.motions.iter().enumerate() {
            let done = (local - i as f32).clamp(0.0, 1.0);
            let direction = motion.direction();
            object.center[0] += direction[0] * self.reach * done;
            object.center[1] += direction[1] * self.reach * done;
            match motion {
                Motion::Spins => object.angle += SPIN * done,
                Motion::Grows if done > 0.0 => scale = UNGROWN + (GROWN - UNGROWN) * done,
                Motion::Shrinks if done > 0.0 => scale = GROWN - (GROWN - UNGROWN) * done,
                _ => {}
            }
        }
        object.radius *= scale;
        Some(object)
    }
}

impl Motion {
    /// Where this motion leads, −1, 0 or 1 on x (right) and y (down); nowhere for what happens in one place.
    pub const fn direction(self) -> [f32; 2] {
        match self {
            Self::Left => [-1.0, 0.0],
            Self::Right => [1.0, 0.0],
            Self::Up => [0.0, -1.0],
            Self::Down => [0.0, 1.0],
            Self::Spins | Self::Grows | Self::Shrinks => [0.0, 0.0],
        }
    }
}

impl From<Clip> for Story {
    fn from(clip: Clip) -> Self {
        let attributes = clip.scene.attributes;
        let mut start = clip.scene.object;
        let reach = 2.0 * attributes.size.corner_offset();
        for (center, direction) in start.center.iter_mut().zip(clip.motion.direction()) {
            *center -= direction * reach / 2.0;
        }
        let actor = Actor { attributes, place: None, motions: vec![clip.motion], seen: ALWAYS, start, reach };
        Self { kind: StoryKind::Single, background: attributes.background, actors: vec![actor] }
    }
}

impl Story {
    /// A story of objects from the training split.
    pub fn sample_training(kind: StoryKind, rng: &mut impl Rng) -> Self {
        Self::sample_from(kind, split::train_combinations(), rng)
    }

    /// A story of objects each of which is a combination that training never shows.
    pub fn sample_held_out(kind: StoryKind, rng: &mut impl Rng) -> Self {
        Self::sample_from(kind, split::held_out_combinations(), rng)
    }

    fn sample_from(kind: StoryKind, combinations: &[Attributes], rng: &mut impl Rng) -> Self {
        let first = combinations[rng.random_range(0..combinations.len())];
        if kind == StoryKind::Single {
            return Clip::sample(first, random_motion(first.shape, rng), rng).into();
        }
        let actors = match kind {
            StoryKind::Single | StoryKind::Sequence => {
                let one = random_motion(first.shape, rng);
                let mut two = one;
                while two == one {
                    two = random_motion(first.shape, rng);
                }
                vec![Actor::roaming(first, vec![one, two], ALWAYS, rng)]
            }
            StoryKind::Still => {
                let place = rng.random_bool(0.5).then(|| Place::ALL[rng.random_range(0..Place::COUNT)]);
                let start = Scene::sample(first, place, rng).object;
                vec![Actor { attributes: first, place, motions: Vec::new(), seen: ALWAYS, start, reach: 0.0 }]
            }
            StoryKind::Swap => {
                let both = cast(combinations, 2, None, rng);
                let halves = [[0.0, 0.5], [0.5, 1.0]];
                both.into_iter().zip(halves).map(|(a, seen)| Actor::roaming(a, Vec::new(), seen, rng)).collect()
            }
            StoryKind::Pair => pair(cast(combinations, 2, Some(Size::Small), rng), rng),
            StoryKind::Group => {
                let count = rng.random_range(2..=3);
                group(cast(combinations, count, Some(Size::Small), rng), rng)
            }
        };
        Self { kind, background: actors[0].attributes.background, actors }
    }

    /// The objects that can be seen at a time from 0 (first frame) to 1 (last frame).
    pub fn objects_at(&self, time: f32) -> Vec<Object> {
        self.actors.iter().filter_map(|actor| actor.object_at(time)).collect()
    }

    /// Draws frame `index` of `frames` as `size × size` RGB bytes.
    pub fn render_frame(&self, index: usize, frames: usize, size: usize) -> Vec<u8> {
        let time = index as f32 / (frames.max(2) - 1) as f32;
        render_objects(self.background, &self.objects_at(time), size)
    }

    /// Draws `frames` frames of `size × size` RGB bytes each.
    pub fn render(&self, frames: usize, size: usize) -> Vec<Vec<u8>> {
        (0..frames).map(|i| self.render_frame(i, frames, size)).collect()
    }
}

/// `count` combinations on one background (or as many as there are) that differ in shape and in colour.
fn cast(combinations: &[Attributes], count: usize, size: Option<Size>, rng: &mut impl Rng) -> Vec<Attributes> {
    loop {
        let mut chosen: Vec<Attributes> = Vec::new();
        for _ in 0..64 {
            let next = combinations[rng.random_range(0..combinations.len())];
            let fits = chosen
                .iter()
                .all(|c| c.background == next.background && c.shape != next.shape && c.colour != next.colour)
                && size.is_none_or(|size| next.size == size);
            if fits {
                chosen.push(next);
            }
            if chosen.len() == count {
                return chosen;
            }
        }
    }
}

/// Two actors in two halves of the picture, each with a motion that keeps it in its own.
fn pair(both: Vec<Attributes>, rng: &mut impl Rng) -> Vec<Actor> {
    let beside = rng.random_bool(0.5);
    let along = if beside { [Motion::Up, Motion::Down] } else { [Motion::Left, Motion::Right] };
    let motions = [along[0], along[1], Motion::Spins, Motion::Grows, Motion::Shrinks];
    let actors = both.into_iter().zip([0.25, 0.75]).map(|(attributes, half)| {
        let motion = loop {
            let motion = motions[rng.random_range(0..motions.len())];
            if motion.suits(attributes.shape) {
                break motion;
            }
        };
        let mut actor = Actor::roaming(attributes, vec![motion], ALWAYS, rng);
        actor.start.center[usize::from(!beside)] = half;
        actor
    });
    actors.collect()
}

/// Actors that stand still in different corners, in reading order.
fn group(all: Vec<Attributes>, rng: &mut impl Rng) -> Vec<Actor> {
    let mut corners = vec![Place::TopLeft, Place::TopRight, Place::BottomLeft, Place::BottomRight];
    while corners.len() > all.len() {
        corners.remove(rng.random_range(0..corners.len()));
    }
    let actors = all.into_iter().zip(corners).map(|(attributes, place)| {
        let start = Scene::sample(attributes, Some(place), rng).object;
        Actor { attributes, place: Some(place), motions: Vec::new(), seen: ALWAYS, start, reach: 0.0 }
    });
    actors.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{object_coverage, rng};

    fn many(per_kind: usize) -> impl Iterator<Item = Story> {
        let mut rng = rng(5);
        StoryKind::ALL.iter().flat_map(move |&kind| {
            let stories: Vec<Story> = (0..per_kind)
                .map(|i| match i % 2 {
                    0 => Story::sample_training(kind, &mut rng),
                    _ => Story::sample_held_out(kind, &mut rng),
                })
                .collect();
            stories
        })
    }

    #[test]
    fn objects_stay_inside_and_apart_in_every_frame() {
        for story in many(150) {
            for frame in 0..17 {
                let objects = story.objects_at(frame as f32 / 16.0);
                let masks: Vec<_> = objects.iter().map(|object| object_coverage(object, 64)).collect();
                for mask in &masks {
                    let border: f32 =
                        (0..64).map(|i| mask[i] + mask[63 * 64 + i] + mask[i * 64] + mask[i * 64 + 63]).sum();
                    assert!(border < 3.0, "{story:?}, frame {frame}: {border}");
                }
                if let [one, two, ..] = &masks[..] {
                    let shared: f32 = one.iter().zip(two).map(|(a, b)| a * b).sum();
                    assert!(shared < 3.0, "{story:?}, frame {frame}: {shared}");
                }
            }
        }
    }

    #[test]
    fn a_clip_is_the_same_as_a_story() {
        let mut rng = rng(2);
        for _ in 0..50 {
            let clip = Clip::sample_training(&mut rng);
            let (as_clip, as_story) = (clip.render(9, 64), Story::from(clip).render(9, 64));
            let apart = as_clip.iter().flatten().zip(as_story.iter().flatten()).filter(|(a, b)| a.abs_diff(**b) > 1);
            assert_eq!(apart.count(), 0, "{}", clip.caption());
        }
    }

    #[test]
    fn nothing_jumps_except_where_one_object_takes_the_place_of_another() {
        for story in many(100).filter(|s| s.kind != StoryKind::Swap) {
            for frame in 0..200 {
                let (now, next) =
                    (story.objects_at(frame as f32 / 200.0), story.objects_at((frame + 1) as f32 / 200.0));
                assert_eq!(now.len(), next.len());
                for (a, b) in now.iter().zip(&next) {
                    let moved = (a.center[0] - b.center[0]).abs() + (a.center[1] - b.center[1]).abs();
                    assert!(moved < 0.01 && (a.radius / b.radius - 1.0).abs() < 0.01, "{story:?} at {frame}");
                }
            }
        }
    }

    #[test]
    fn the_split_holds_for_every_object() {
        for (i, story) in many(60).enumerate() {
            for actor in &story.actors {
                assert_eq!(split::is_held_out(&actor.attributes), i % 2 == 1);
                assert_eq!(actor.attributes.background, story.background);
            }
        }
    }
}
