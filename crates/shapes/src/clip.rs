//! Clips: a scene whose object does one thing from the first frame to the last.

use crate::grammar::Prompt;
use crate::render::render;
use crate::scene::{Object, Scene};
use crate::split;
use crate::world::{Attributes, Motion, Shape, Size};
use rand::{Rng, RngExt};

/// How far an object that spins turns over the whole clip, in radians (150°).
pub(crate) const SPIN: f32 = 2.618;
/// Growing objects go from this part of their size to [`GROWN`]; shrinking ones the other way round.
pub(crate) const UNGROWN: f32 = 0.8;
pub(crate) const GROWN: f32 = 1.2;
/// Grown and turned objects need this much more room, as a part of their radius.
pub(crate) const ROOM: f32 = 0.25;

/// A clip before it is drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clip {
    /// The scene in the middle of the clip; it has no named place.
    pub scene: Scene,
    /// What the object does.
    pub motion: Motion,
}

impl Clip {
    /// A clip with these attributes, anywhere in the picture that leaves room for the motion.
    ///
    /// A circle or a ring that spins would look still, so [`Motion::suits`] should hold.
    pub fn sample(attributes: Attributes, motion: Motion, rng: &mut impl Rng) -> Self {
        let mut scene = Scene::sample(attributes, None, rng);
        let travels = path(motion, attributes.size);
        for (axis, center) in scene.object.center.iter_mut().enumerate() {
            if travels == [0.0; 2] {
                let room = attributes.size.corner_offset() - ROOM * scene.object.radius;
                *center = 0.5 + rng.random_range(-room..=room);
            } else if travels[axis] != 0.0 {
                *center = 0.5;
            }
        }
        Self { scene, motion }
    }

    /// A random clip of a combination from the training split.
    pub fn sample_training(rng: &mut impl Rng) -> Self {
        Self::sample_from(split::train_combinations(), rng)
    }

    /// A random clip of a combination that training never shows.
    pub fn sample_held_out(rng: &mut impl Rng) -> Self {
        Self::sample_from(split::held_out_combinations(), rng)
    }

    fn sample_from(combinations: &[Attributes], rng: &mut impl Rng) -> Self {
        let attributes = combinations[rng.random_range(0..combinations.len())];
        let motion = random_motion(attributes.shape, rng);
        Self::sample(attributes, motion, rng)
    }

    /// A clip that shows what a prompt says; what the prompt leaves open is drawn at random.
    ///
    /// A place that the prompt names has no effect: what moves is in no one place.
    pub fn for_prompt(prompt: &Prompt, rng: &mut impl Rng) -> Self {
        let wanted = Prompt { place: None, ..*prompt };
        let mut attributes = Scene::for_prompt(&wanted, rng).attributes;
        if prompt.shape.is_none() && prompt.motion.is_some_and(|motion| !motion.suits(attributes.shape)) {
            attributes.shape = Shape::Star;
        }
        let motion = prompt.motion.unwrap_or_else(|| random_motion(attributes.shape, rng));
        Self::sample(attributes, motion, rng)
    }

    /// The object at a time from 0 (first frame) to 1 (last frame).
    pub fn object_at(&self, time: f32) -> Object {
        let mut object = self.scene.object;
        let travels = path(self.motion, self.scene.attributes.size);
        for (center, travels) in object.center.iter_mut().zip(travels) {
            *center += travels * (time - 0.5);
        }
        match self.motion {
            Motion::Spins => object.angle += SPIN * time,
            Motion::Grows => object.radius *= UNGROWN + (GROWN - UNGROWN) * time,
            Motion::Shrinks => object.radius *= GROWN - (GROWN - UNGROWN) * time,
            Motion::Left | Motion::Right | Motion::Up | Motion::Down => {}
        }
        object
    }

    /// Draws `frames` frames of `size × size` RGB bytes each.
    ///
    /// The video models of this project take 8k + 1 frames; any number can be drawn.
    pub fn render(&self, frames: usize, size: usize) -> Vec<Vec<u8>> {
        (0..frames)
            .map(|i| {
                let time = i as f32 / (frames.max(2) - 1) as f32;
                render(&Scene { object: self.object_at(time), ..self.scene }, size)
            })
            .collect()
    }

    /// The prompt that names everything this clip was made from.
    pub fn prompt(&self) -> Prompt {
        Prompt { motion: Some(self.motion), ..self.scene.prompt() }
    }

    /// The caption in the canonical form: "a small green star moves left over a white background".
    pub fn caption(&self) -> String {
        self.prompt().caption()
    }
}

/// How far the object travels over the clip on x and y, as a fraction of the picture's side.
fn path(motion: Motion, size: Size) -> [f32; 2] {
    let far = 2.0 * size.corner_offset();
    match motion {
        Motion::Left => [-far, 0.0],
        Motion::Right => [far, 0.0],
        Motion::Up => [0.0, -far],
        Motion::Down => [0.0, far],
        Motion::Spins | Motion::Grows | Motion::Shrinks => [0.0, 0.0],
    }
}

pub(crate) fn random_motion(shape: Shape, rng: &mut impl Rng) -> Motion {
    let suitable: Vec<Motion> = Motion::ALL.iter().copied().filter(|motion| motion.suits(shape)).collect();
    suitable[rng.random_range(0..suitable.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{object_coverage, rng};

    #[test]
    fn objects_stay_inside_in_every_frame() {
        let mut rng = rng(8);
        for attributes in Attributes::all() {
            for &motion in Motion::ALL.iter().filter(|motion| motion.suits(attributes.shape)) {
                let clip = Clip::sample(attributes, motion, &mut rng);
                for frame in 0..9 {
                    let mask = object_coverage(&clip.object_at(frame as f32 / 8.0), 64);
                    let border: f32 =
                        (0..64).map(|i| mask[i] + mask[63 * 64 + i] + mask[i * 64] + mask[i * 64 + 63]).sum();
                    assert!(border < 3.0, "{}, frame {frame}: {border}", clip.caption());
                }
            }
        }
    }

    #[test]
    fn clips_come_from_their_seed_and_start_where_they_should() {
        let prompt = Prompt::parse("a small green star moves left over a white background").expect("in the grammar");
        let draw = |seed| Clip::for_prompt(&prompt, &mut rng(seed)).render(9, 64);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_eq!(draw(1).len(), 9);
        let clip = Clip::for_prompt(&prompt, &mut rng(1));
        assert!(clip.object_at(0.0).center[0] > 0.6 && clip.object_at(1.0).center[0] < 0.4);
        assert_eq!(clip.caption(), prompt.caption());
    }

    #[test]
    fn an_open_shape_suits_the_motion() {
        let prompt = Prompt { motion: Some(Motion::Spins), ..Prompt::default() };
        let mut rng = rng(4);
        assert!((0..200).all(|_| { Clip::for_prompt(&prompt, &mut rng).scene.attributes.shape.can_spin() }));
    }
}
