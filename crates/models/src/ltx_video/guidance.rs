//! Several predictions made into one: classifier-free guidance, spatio-temporal guidance and rescaling.

use sango_tensor::Tensor;

use crate::error::Result;

/// How predictions are combined.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Guidance {
    /// `None` is without a negative prompt.
    pub(super) scale: Option<f32>,
    /// `None` is without a disturbed copy.
    pub(super) stg_scale: Option<f32>,
    pub(super) rescale: f32,
}

impl Guidance {
    /// `velocities` `[B, L, C]`, of the negative prompt, the prompt and the prompt with layers disturbed, as far as there
    /// are these → `[1, L, C]`.
    pub(super) fn apply(&self, velocities: &Tensor) -> Result<Tensor> {
        let row = |n: usize| velocities.narrow(0, n, 1);
        let text_row = usize::from(self.scale.is_some());
        let text = row(text_row)?;
        let mut combined = text.clone();
        if let Some(scale) = self.scale {
            let negative = row(0)?;
            combined = negative.add(&text.sub(&negative)?.mul_scalar(scale)?)?;
        }
        if let Some(scale) = self.stg_scale {
            let disturbed = row(text_row + 1)?;
            combined = combined.add(&text.sub(&disturbed)?.mul_scalar(scale)?)?;
        }
        let guided = self.scale.is_some() || self.stg_scale.is_some();
        if !guided || self.rescale <= 0.0 {
            return Ok(combined);
        }
        // `rescale_noise_cfg`: part of the way back to the deviation of the unguided prediction.
        let factor = (deviation(text.as_f32()?) / deviation(combined.as_f32()?)) as f32;
        let rescaled = combined.mul_scalar(factor)?;
        Ok(rescaled.mul_scalar(self.rescale)?.add(&combined.mul_scalar(1.0 - self.rescale)?)?)
    }

    /// Rows of a batch.
    pub(super) fn rows(&self) -> usize {
        1 + usize::from(self.scale.is_some()) + usize::from(self.stg_scale.is_some())
    }
}

/// The standard deviation of a sample.
fn deviation(values: &[f32]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let squares: f64 = values.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
    (squares / (n - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_are_combined_row_by_row() {
        let velocities = Tensor::from_vec(vec![0.0, 0.0, 1.0, 3.0, 0.5, 3.0], &[3, 1, 2]).expect("three rows");
        let guided = |scale, stg_scale, rescale| {
            let guidance = Guidance { scale, stg_scale, rescale };
            let rows = velocities.narrow(0, 0, guidance.rows()).expect("as many rows");
            guidance.apply(&rows).expect("combined").as_f32().expect("f32").to_vec()
        };
        assert_eq!(guided(None, None, 0.7), [0.0, 0.0], "the only row");
        assert_eq!(guided(Some(3.0), None, 0.0), [3.0, 9.0]);
        assert_eq!(guided(Some(3.0), Some(2.0), 0.0), [4.0, 9.0]);
        assert_eq!(guided(Some(3.0), None, 1.0), [1.0, 3.0], "the deviation of the prompt's own");
    }
}
