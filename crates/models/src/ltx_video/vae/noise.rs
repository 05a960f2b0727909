//! The noise that decoders of 0.9.1 add between their convolutions.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sango_tensor::Tensor;

use crate::error::{ModelError, Result};

/// Where injected noise comes from. Decoders without injected noise ask for none.
#[derive(Debug, Clone, Default)]
pub enum InjectedNoise {
    /// No noise: zeros.
    #[default]
    None,
    /// A generator with this seed.
    Seed(u64),
    /// Tensors `[h, w]`, one for each time noise is added, in the order in which the reference draws them: block by
    /// block, two for each residual block, tile by tile.
    Given(Vec<Tensor>),
}

/// Draws from [`InjectedNoise`].
pub(super) enum NoiseSource<'a> {
    Zeros,
    Seeded(Box<ChaCha8Rng>),
    Given(std::slice::Iter<'a, Tensor>),
}

impl<'a> NoiseSource<'a> {
    pub(super) fn new(noise: &'a InjectedNoise) -> Self {
        match noise {
            InjectedNoise::None => Self::Zeros,
            InjectedNoise::Seed(seed) => Self::Seeded(Box::new(ChaCha8Rng::seed_from_u64(*seed))),
            InjectedNoise::Given(tensors) => Self::Given(tensors.iter()),
        }
    }

    /// `[height, width]` standard normal numbers, which all frames and channels share; nothing where they are zeros.
    pub(super) fn draw(&mut self, height: usize, width: usize) -> Result<Option<Tensor>> {
        match self {
            Self::Zeros => Ok(None),
            Self::Seeded(rng) => {
                let mut values = vec![0.0; height * width];
                standard_normal(rng, &mut values);
                Ok(Some(Tensor::from_vec(values, &[height, width])?))
            }
            Self::Given(tensors) => {
                let given = tensors.next();
                let given =
                    given.ok_or_else(|| ModelError::request("noise", "holds fewer tensors than noise is added"))?;
                if given.shape() != [height, width] {
                    let detail = format!("holds {:?} where noise of [{height}, {width}] is added", given.shape());
                    return Err(ModelError::request("noise", detail));
                }
                Ok(Some(given.clone()))
            }
        }
    }
}

/// Fills `out` with standard normal numbers, two from two uniform ones (Box and Muller).
pub(in crate::ltx_video) fn standard_normal(rng: &mut ChaCha8Rng, out: &mut [f32]) {
    for pair in out.chunks_mut(2) {
        // 1 − u is never 0, whose logarithm is none.
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
        pair[0] = (radius * cos) as f32;
        if let Some(second) = pair.get_mut(1) {
            *second = (radius * sin) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeded_noise_is_standard_normal_and_the_same_again() {
        let noise = InjectedNoise::Seed(7);
        let draw = || NoiseSource::new(&noise).draw(101, 99).expect("noise").expect("not zeros");
        let first = draw();
        assert_eq!(first.as_f32().expect("f32"), draw().as_f32().expect("f32"));
        let values = first.as_f32().expect("f32");
        let moment = |power: i32| values.iter().map(|x| f64::from(*x).powi(power)).sum::<f64>() / values.len() as f64;
        assert!(moment(1).abs() < 0.05 && (moment(2) - 1.0).abs() < 0.05 && (moment(4) - 3.0).abs() < 0.3);
    }

    #[test]
    fn given_noise_must_fit() {
        let noise = InjectedNoise::Given(vec![Tensor::zeros(&[2, 3]).expect("zeros")]);
        assert!(NoiseSource::new(&noise).draw(3, 2).is_err());
        let mut source = NoiseSource::new(&noise);
        assert!(source.draw(2, 3).is_ok());
        assert!(source.draw(2, 3).expect_err("one too many").to_string().contains("fewer"));
    }
}
