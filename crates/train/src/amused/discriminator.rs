//! The adversary of VQ-GAN training: a small PatchGAN that judges patches, not whole pictures.

use tch::nn::Path;
use tch::{Kind, Tensor};

use crate::nn::Conv2d;

/// Three 4×4 convolutions of stride 2 and a 3×3 to one logit per patch.
#[derive(Debug)]
pub struct PatchDiscriminator {
    layers: Vec<Conv2d>,
    head: Conv2d,
}

impl PatchDiscriminator {
    /// Adds the variables below `path`; `width` channels after the first convolution, doubled twice.
    pub fn new(path: &Path, width: i64) -> Self {
        let widths = [3, width, 2 * width, 4 * width];
        let layers = (0..3)
            .map(|i| {
                let layer = path / "layers" / i as i64;
                Conv2d::build(&layer, widths[i], widths[i + 1], 4, 2, 1, 1, true)
            })
            .collect();
        Self { layers, head: Conv2d::new(&(path / "head"), widths[3], 1, 3) }
    }

    /// Pixels `[N, 3, H, W]` → logits `[N, 1, H/8, W/8]`, high for real.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        let mut h = pixels.shallow_clone();
        for layer in &self.layers {
            h = layer.forward(&h).leaky_relu();
        }
        self.head.forward(&h)
    }

    /// Hinge loss of the discriminator.
    pub fn loss(&self, real: &Tensor, fake: &Tensor) -> Tensor {
        let real = (-self.forward(&real.detach()) + 1.0).relu();
        let fake = (self.forward(&fake.detach()) + 1.0).relu();
        (real.mean(Kind::Float) + fake.mean(Kind::Float)) * 0.5
    }

    /// What the generator adds to its loss: how far its pictures are from passing as real.
    pub fn generator_loss(&self, fake: &Tensor) -> Tensor {
        -self.forward(fake).mean(Kind::Float)
    }
}
