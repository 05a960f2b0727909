//! The bias that T5's attention has for positions that lie a certain distance apart.

use sango_tensor::{Tensor, Weights};

use super::configuration::T5Config;
use crate::error::Result;

/// `relative_attention_bias` of the first layer, which all layers share.
pub(super) struct RelativePositionBias {
    /// `[buckets, heads]`.
    weight: Tensor,
    num_buckets: usize,
    max_distance: usize,
    heads: usize,
}

impl RelativePositionBias {
    pub(super) fn load(weights: &Weights, config: &T5Config) -> Result<Self> {
        let (num_buckets, heads) = (config.relative_attention_num_buckets, config.num_heads);
        let weight = weights.get_f32("weight", &[num_buckets, heads])?;
        Ok(Self { weight, num_buckets, max_distance: config.relative_attention_max_distance, heads })
    }

    /// What is added to the scores of `length` positions, `[1, heads, length, length]`.
    pub(super) fn forward(&self, length: usize) -> Result<Tensor> {
        let weight = self.weight.as_f32()?;
        // By distance, from −(length − 1) to length − 1: the rows of the table repeat along diagonals.
        let buckets: Vec<usize> = (1 - length as i64..length as i64)
            .map(|distance| relative_position_bucket(distance, self.num_buckets, self.max_distance))
            .collect();
        let mut bias = Vec::with_capacity(self.heads * length * length);
        for head in 0..self.heads {
            for query in 0..length {
                let first = length - 1 - query;
                bias.extend(buckets[first..first + length].iter().map(|bucket| weight[bucket * self.heads + head]));
            }
        }
        Ok(Tensor::from_vec(bias, &[1, self.heads, length, length])?)
    }
}

/// `T5Attention._relative_position_bucket` for an encoder, in the reference's single precision.
fn relative_position_bucket(distance: i64, num_buckets: usize, max_distance: usize) -> usize {
    let half = num_buckets / 2;
    let (side, distance) = (if distance > 0 { half } else { 0 }, distance.unsigned_abs() as usize);
    let max_exact = half / 2;
    if distance < max_exact {
        return side + distance;
    }
    let span = (max_distance as f64 / max_exact as f64).ln() as f32;
    let large = (distance as f32 / max_exact as f32).ln() / span * (half - max_exact) as f32;
    side + (max_exact + large as usize).min(half - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_positions_have_buckets_of_their_own() {
        let bucket = |distance| relative_position_bucket(distance, 32, 128);
        assert_eq!(
            [0, -1, -7, -8, -16, -32, -64, -127, -128, -100_000].map(bucket),
            [0, 1, 7, 8, 10, 12, 14, 15, 15, 15]
        );
        assert_eq!([1, 7, 8, 91, 1000].map(bucket), [17, 23, 24, 31, 31]);
    }
}
