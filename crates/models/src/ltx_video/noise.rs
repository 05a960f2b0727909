//! Where random numbers come from: tensors that a caller gives, or a generator for each purpose.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sango_tensor::Tensor;

use super::vae::noise::standard_normal;
use crate::error::{ModelError, Result};

/// What a draw is for. Each has a stream of its own, so that none depends on whether another is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Draw {
    /// The latents to begin with.
    Latents,
    /// The latents of the first frame, from the encoder's distribution.
    Image,
    /// Those of a condition.
    Condition(usize),
    /// What the latents of a condition that is appended are mixed with.
    ConditionNoise(usize),
    /// What is added to conditioning latents in a step.
    ConditionStep(usize),
    /// The noise of a stochastic step.
    Step(usize),
    /// What is mixed into the latents before they are decoded.
    Decode,
}

impl Draw {
    fn stream(self) -> u64 {
        let (kind, n) = match self {
            Self::Latents => (0, 0),
            Self::Image => (1, 0),
            Self::Condition(n) => (2, n),
            Self::ConditionNoise(n) => (3, n),
            Self::ConditionStep(n) => (4, n),
            Self::Step(n) => (5, n),
            Self::Decode => (6, 0),
        };
        kind << 32 | n as u64
    }
}

/// Standard normal numbers.
pub(super) enum NoiseSource<'a> {
    /// From a seed.
    Seeded(u64),
    /// As given; `None` where nothing is.
    Given(&'a dyn Fn(Draw) -> Result<Option<Tensor>>),
}

impl NoiseSource<'_> {
    /// Numbers in `shape`.
    pub(super) fn draw(&self, draw: Draw, shape: &[usize]) -> Result<Tensor> {
        let missing = || ModelError::request("noise", format!("for {draw:?} is missing; it has shape {shape:?}"));
        self.optional(draw, shape)?.ok_or_else(missing)
    }

    /// Numbers in `shape`; none where they could be given and are not.
    pub(super) fn optional(&self, draw: Draw, shape: &[usize]) -> Result<Option<Tensor>> {
        match self {
            Self::Seeded(seed) => {
                let mut rng = ChaCha8Rng::seed_from_u64(*seed);
                rng.set_stream(draw.stream());
                let mut values = vec![0.0; shape.iter().product()];
                standard_normal(&mut rng, &mut values);
                Ok(Some(Tensor::from_vec(values, shape)?))
            }
            Self::Given(given) => Ok(given(draw)?.map(|tensor| tensor.reshape(shape)).transpose()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_normal_and_apart() {
        let source = NoiseSource::Seeded(7);
        let draw = |draw| source.draw(draw, &[100, 101]).expect("numbers").as_f32().expect("f32").to_vec();
        let first = draw(Draw::Latents);
        let mean = first.iter().sum::<f32>() / first.len() as f32;
        let variance = first.iter().map(|x| x * x).sum::<f32>() / first.len() as f32;
        assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
        assert_eq!(first, draw(Draw::Latents));
        assert_ne!(first, draw(Draw::Decode));
        assert_ne!(draw(Draw::Step(0)), draw(Draw::Step(1)));
    }

    #[test]
    fn what_is_not_given_is_named() {
        let given = |_| Ok(None);
        let source = NoiseSource::Given(&given);
        assert!(source.draw(Draw::Decode, &[2]).expect_err("missing").to_string().contains("Decode"));
        assert!(source.optional(Draw::Image, &[2]).expect("optional").is_none());
    }
}
