//! Clips of the shapes world as tensors. What a step draws follows from the seed and the step's number alone.

use rand::{Rng, RngExt};
use sango_shapes::{Attributes, Clip, Motion, Prompt, Scene, Shape, Size, object_coverage, render, rng};
use tch::{Kind, Tensor};

use crate::data::mix;

/// Side of a frame in pixels.
pub const SIZE: usize = 64;
/// Frames of a clip.
pub const FRAMES: usize = 17;
/// Frames per second.
pub const FPS: f64 = 8.0;

/// Clips with what is to be seen in them.
#[derive(Debug)]
pub struct ClipBatch {
    /// The clips in order.
    pub clips: Vec<Clip>,
    /// RGB in −1..1, `[B, 3, T, SIZE, SIZE]`.
    pub pixels: Tensor,
    /// How much of each pixel the object covers, `[B, 1, T, SIZE, SIZE]`.
    pub coverage: Tensor,
}

impl ClipBatch {
    /// Draws `frames` frames of each clip, beginning with the frame that is given beside it.
    pub fn render(clips: Vec<(Clip, usize)>, frames: usize) -> Self {
        let (mut rgb, mut coverage) = (Vec::new(), Vec::new());
        for (clip, start) in &clips {
            for frame in *start..start + frames {
                let object = clip.object_at(frame as f32 / (FRAMES - 1) as f32);
                rgb.extend(render(&Scene { object, ..clip.scene }, SIZE));
                coverage.extend(object_coverage(&object, SIZE));
            }
        }
        let (n, t, side) = (clips.len() as i64, frames as i64, SIZE as i64);
        let pixels = Tensor::from_slice(&rgb).view([n, t, side, side, 3]).permute([0, 4, 1, 2, 3]);
        Self {
            clips: clips.into_iter().map(|(clip, _)| clip).collect(),
            pixels: (pixels.to_kind(Kind::Float) / 127.5 - 1.0).contiguous(),
            coverage: Tensor::from_slice(&coverage).view([n, 1, t, side, side]),
        }
    }

    /// What the clips show.
    pub fn prompts(&self) -> Vec<Prompt> {
        self.clips.iter().map(Clip::prompt).collect()
    }

    /// Where the clips begin, `[B, 3, 1, SIZE, SIZE]`.
    pub fn first_frames(&self) -> Tensor {
        self.pixels.narrow(2, 0, 1)
    }

    /// Parts of `frames` frames of training clips for one step; half of them are settled (see [`settle`]).
    pub fn training(seed: u64, step: u64, n: usize, frames: usize) -> Self {
        let mut rng = rng(mix(seed, step));
        let mut draw = |i| {
            let clip = Clip::sample_training(&mut rng);
            let clip = if i % 2 == 0 { settle(clip, 0.3, false, &mut rng) } else { clip };
            (clip, rng.random_range(0..=FRAMES - frames))
        };
        Self::render((0..n).map(&mut draw).collect(), frames)
    }

    /// Whole training clips for one step, as the transformer draws them: settled, half of them centred. Every other one
    /// shows what is hardest to draw, a small object, half of them with points or arms.
    pub fn settled(seed: u64, step: u64, n: usize) -> Self {
        let mut rng = rng(mix(seed, step));
        let mut draw = |i: usize| {
            let hard = |attributes: Attributes| match i % 4 {
                1 => attributes.size == Size::Small && matches!(attributes.shape, Shape::Star | Shape::Cross),
                3 => attributes.size == Size::Small,
                _ => true,
            };
            let mut clip = Clip::sample_training(&mut rng);
            while !hard(clip.scene.attributes) {
                clip = Clip::sample_training(&mut rng);
            }
            (settle(clip, 0.3, (i as u64 / 2 + i as u64 + step).is_multiple_of(2), &mut rng), 0)
        };
        Self::render((0..n).map(&mut draw).collect(), FRAMES)
    }

    /// Whole clips of combinations that training never shows, settled and to any side: what a given first frame begins.
    pub fn begun(seed: u64, n: usize, jitter: f32) -> Self {
        let mut rng = rng(seed);
        let mut draw = |_| (settle(Clip::sample_held_out(&mut rng), jitter, false, &mut rng), 0);
        Self::render((0..n).map(&mut draw).collect(), FRAMES)
    }

    /// Whole clips of combinations that training never shows.
    pub fn held_out(seed: u64, n: usize) -> Self {
        let mut rng = rng(mix(seed, u64::MAX));
        Self::render((0..n).map(|_| (Clip::sample_held_out(&mut rng), 0)).collect(), FRAMES)
    }
}

/// Moves a clip near a grid, keeping `jitter` (0–1) of what sizes and places vary: on the axes on which it does not
/// travel, the object is then in the middle or, unless it shall be `centred`, to one of the sides. A prompt has fewer
/// right answers that way.
pub fn settle(mut clip: Clip, jitter: f32, centred: bool, rng: &mut impl Rng) -> Clip {
    let object = &mut clip.scene.object;
    let size = clip.scene.attributes.size;
    object.radius = size.radius() + jitter * (object.radius - size.radius());
    // Objects that grow or turn need room; see `Clip::sample`.
    let reach = match clip.motion {
        Motion::Left | Motion::Right | Motion::Up | Motion::Down => size.corner_offset(),
        Motion::Spins | Motion::Grows | Motion::Shrinks => size.corner_offset() - 0.25 * size.radius(),
    };
    for (axis, center) in object.center.iter_mut().enumerate() {
        let travels = match clip.motion {
            Motion::Left | Motion::Right => axis == 0,
            Motion::Up | Motion::Down => axis == 1,
            Motion::Spins | Motion::Grows | Motion::Shrinks => false,
        };
        if !travels {
            let side = if centred { 0.0 } else { rng.random_range(-1i32..=1) as f32 };
            let stray = rng.random_range(-1.0..=1.0f32) / 64.0;
            *center = 0.5 + side * (reach - 1.0 / 64.0) + jitter * stray;
        }
    }
    clip
}

/// Clips `[B, 3, T, H, W]` in −1..1 as RGB bytes, one vector per frame.
pub fn to_frames(pixels: &Tensor) -> Vec<Vec<Vec<u8>>> {
    let n = pixels.size()[0];
    (0..n)
        .map(|i| {
            let frames = pixels.get(i).transpose(0, 1);
            crate::data::to_rgb(&(frames * 0.5 + 0.5))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sango_shapes::oracle;

    #[test]
    fn settled_clips_show_what_they_say() {
        let mut rng = rng(5);
        let mut draw = |i| (settle(Clip::sample_training(&mut rng), 0.3, i % 2 == 0, &mut rng), 0);
        let clips = (0..60).map(&mut draw).collect();
        let batch = ClipBatch::render(clips, FRAMES);
        let right = batch.clips.iter().zip(to_frames(&batch.pixels)).filter(|(clip, frames)| {
            let reading = oracle::read_clip(frames, SIZE, SIZE).expect("square frames");
            oracle::judge(clip.prompt(), &reading).all_right()
        });
        assert!(right.count() >= 59);
    }

    #[test]
    fn a_step_draws_the_same_again() {
        let draw = |step| ClipBatch::training(3, step, 4, 5).pixels;
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        assert_eq!(draw(1).size(), [4, 3, 5, 64, 64]);
    }
}
