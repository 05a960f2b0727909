//! Where random choices come from: tensors that a caller gives, or a seeded generator.

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The randomness of one step for one picture.
pub enum StepNoise<'a> {
    /// Gumbel noise that was given.
    Given {
        /// `[tokens, codebook]`, added to log probabilities before the largest is taken.
        sample: &'a [f32],
        /// `[tokens]`, added (times the temperature) to log confidences; may be empty for the last step.
        mask: &'a [f32],
        /// Width of a row of `sample`.
        codebook_size: usize,
    },
    /// A generator.
    Seeded(&'a mut ChaCha8Rng),
}

impl<'a> StepNoise<'a> {
    /// Noise from tensors.
    pub fn given(sample: &'a [f32], mask: &'a [f32], codebook_size: usize) -> Self {
        Self::Given { sample, mask, codebook_size }
    }

    /// Draws an index from a row of log probabilities.
    pub fn draw(&mut self, position: usize, log_probs: &[f32]) -> usize {
        match self {
            Self::Given { sample, codebook_size, .. } => {
                let gumbels = &sample[position * *codebook_size..][..*codebook_size];
                let scores = log_probs.iter().zip(gumbels).map(|(p, g)| p + g);
                let best =
                    scores.enumerate().fold(
                        (0, f32::NEG_INFINITY),
                        |best, (index, score)| {
                            if score > best.1 { (index, score) } else { best }
                        },
                    );
                best.0
            }
            Self::Seeded(rng) => draw_by_inversion(log_probs, rng),
        }
    }

    /// Gumbel noise for the confidence of a token.
    pub fn gumbel(&mut self, position: usize) -> f32 {
        match self {
            Self::Given { mask, .. } => mask.get(position).copied().unwrap_or(0.0),
            Self::Seeded(rng) => gumbel(rng.random()),
        }
    }
}

/// `−log(−log u)`, with the reference's guards for u = 0 and 1.
fn gumbel(uniform: f32) -> f32 {
    -(-uniform.max(1e-20).ln()).max(1e-20).ln()
}

/// Draws from a categorical distribution with one uniform number. (A Gumbel for every entry of the codebook would give
/// the same distribution for thousands of times the work.)
fn draw_by_inversion(log_probs: &[f32], rng: &mut impl Rng) -> usize {
    let mut left: f64 = rng.random();
    let mut last_possible = 0;
    for (index, &log_prob) in log_probs.iter().enumerate() {
        // Below e⁻²⁵ an entry is too unlikely to be worth its exponential.
        if log_prob < -25.0 {
            continue;
        }
        last_possible = index;
        left -= f64::from(log_prob.exp());
        if left < 0.0 {
            return index;
        }
    }
    last_possible
}

/// The generator of picture number `index` of a request: its own stream, so that a picture does not depend on how many
/// are made with it.
pub(crate) fn generator(seed: u64, index: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index as u64);
    rng
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_distribution() {
        let probs = [0.5f32, 0.0, 0.2, 0.3];
        let log_probs = probs.map(f32::ln);
        let mut rng = generator(7, 0);
        let mut counts = [0usize; 4];
        for _ in 0..20_000 {
            counts[StepNoise::Seeded(&mut rng).draw(0, &log_probs)] += 1;
        }
        for (count, p) in counts.iter().zip(probs) {
            assert!((*count as f32 / 20_000.0 - p).abs() < 0.015, "{counts:?}");
        }
        assert_eq!(counts[1], 0);
    }

    #[test]
    fn seeds_and_pictures_have_streams_of_their_own() {
        let mut first: Vec<u32> =
            [(1, 0), (1, 1), (2, 0)].map(|(seed, index)| generator(seed, index).next_u32()).to_vec();
        assert_eq!(first[0], generator(1, 0).next_u32());
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 3);
    }

    #[test]
    fn gumbel_noise_is_finite_at_the_ends() {
        assert!(gumbel(0.0).is_finite() && gumbel(1.0).is_finite());
    }
}
