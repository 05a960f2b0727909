//! `DiagonalGaussianDistribution`: what the encoder says about latents.

use sango_tensor::Tensor;

use crate::error::Result;

/// A normal distribution for every latent.
#[derive(Debug, Clone)]
pub struct DiagonalGaussian {
    /// `[B, C, f, h, w]`.
    pub mean: Tensor,
    /// The logarithm of the variance, in the shape of `mean`, between -30 and 20.
    pub logvar: Tensor,
}

impl DiagonalGaussian {
    /// The likeliest latents, which are the mean.
    pub fn mode(&self) -> Tensor {
        self.mean.clone()
    }

    /// Latents drawn with `noise`, standard normal numbers in the shape of the mean.
    ///
    /// # Errors
    /// When the shape is another.
    pub fn sample(&self, noise: &Tensor) -> Result<Tensor> {
        let deviation: Vec<f32> = self.logvar.as_f32()?.iter().map(|logvar| (0.5 * logvar).exp()).collect();
        let deviation = Tensor::from_vec(deviation, self.logvar.shape())?;
        let noise = noise.reshape(self.mean.shape())?;
        Ok(self.mean.add(&deviation.mul(&noise)?)?)
    }
}
