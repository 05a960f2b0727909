//! The normalisations of aMUSEd: RMS, layer, group, global response, and the conditioned one.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use super::Linear;

/// `diffusers.models.normalization.RMSNorm` over the last dimension.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Adds `weight` below `path`, all ones.
    pub fn new(path: &Path, dim: i64, eps: f64) -> Self {
        Self { weight: path.var("weight", &[dim], Init::Const(1.0)), eps }
    }

    /// `[…, dim]` → `[…, dim]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x * self.inverse_rms(x) * &self.weight
    }

    /// 1 / √(mean(x²) + eps), `[…, 1]`. The norm is one pass over `x`, where squaring and averaging would be two.
    fn inverse_rms(&self, x: &Tensor) -> Tensor {
        let dim = *self.weight.size().last().unwrap_or(&1) as f64;
        let norm = x.norm_scalaropt_dim_dtype(2.0, [-1i64].as_slice(), true, Kind::Float);
        ((norm.square() / dim) + self.eps).rsqrt().to_kind(x.kind())
    }
}

/// `torch.nn.LayerNorm` over the last dimension, with or without a bias.
#[derive(Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Option<Tensor>,
    eps: f64,
}

impl LayerNorm {
    /// Adds `weight` (ones) and, if asked for, `bias` (zeros) below `path`.
    pub fn new(path: &Path, dim: i64, eps: f64, bias: bool) -> Self {
        Self {
            weight: path.var("weight", &[dim], Init::Const(1.0)),
            bias: bias.then(|| path.var("bias", &[dim], Init::Const(0.0))),
            eps,
        }
    }

    /// `[…, dim]` → `[…, dim]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let dim = self.weight.size();
        x.layer_norm(&dim, Some(&self.weight), self.bias.as_ref(), self.eps, false)
    }
}

/// `torch.nn.GroupNorm` on `[N, C, H, W]`.
#[derive(Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: i64,
    eps: f64,
}

impl GroupNorm {
    /// Adds `weight` (ones) and `bias` (zeros) below `path`.
    pub fn new(path: &Path, groups: i64, channels: i64, eps: f64) -> Self {
        Self {
            weight: path.var("weight", &[channels], Init::Const(1.0)),
            bias: path.var("bias", &[channels], Init::Const(0.0)),
            groups,
            eps,
        }
    }

    /// `[N, C, H, W]` → `[N, C, H, W]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.group_norm(self.groups, Some(&self.weight), Some(&self.bias), self.eps, false)
    }
}

/// `GlobalResponseNorm` of ConvNeXt V2 on `[N, H·W, C]`; starts as the identity.
#[derive(Debug)]
pub struct GlobalResponseNorm {
    gamma: Tensor,
    beta: Tensor,
}

impl GlobalResponseNorm {
    /// Adds `gamma` and `beta`, `[1, 1, 1, dim]`, below `path`.
    pub fn new(path: &Path, dim: i64) -> Self {
        Self {
            gamma: path.var("gamma", &[1, 1, 1, dim], Init::Const(0.0)),
            beta: path.var("beta", &[1, 1, 1, dim], Init::Const(0.0)),
        }
    }

    /// `[N, H·W, C]` → `[N, H·W, C]`; the reference keeps height and width apart, the norm goes over both.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let gx = x.norm_scalaropt_dim_dtype(2.0, [1i64].as_slice(), true, Kind::Float);
        let nx = (&gx / (gx.mean_dim([-1i64].as_slice(), true, Kind::Float) + 1e-6)).to_kind(x.kind());
        // gamma·x·nx + beta + x, with the two factors of x joined on the small tensor first.
        let scale = nx * self.gamma.squeeze_dim(0) + 1.0;
        x * scale + self.beta.squeeze_dim(0)
    }
}

/// The norm inside an [`AdaLayerNormContinuous`].
#[derive(Debug)]
enum Inner {
    Rms(RmsNorm),
    Layer(LayerNorm),
}

/// `AdaLayerNormContinuous`: a norm whose output is scaled and shifted by a projected condition.
#[derive(Debug)]
pub struct AdaLayerNormContinuous {
    linear: Linear,
    norm: Inner,
}

impl AdaLayerNormContinuous {
    /// With RMS norm inside (`norm1` and `norm2` of a transformer layer).
    pub fn rms(path: &Path, dim: i64, cond_dim: i64, eps: f64, bias: bool) -> Self {
        Self {
            linear: Linear::zeros(&(path / "linear"), cond_dim, 2 * dim, bias),
            norm: Inner::Rms(RmsNorm::new(&(path / "norm"), dim, eps)),
        }
    }

    /// With layer norm inside (`norm3`).
    pub fn layer(path: &Path, dim: i64, cond_dim: i64, eps: f64, bias: bool) -> Self {
        Self {
            linear: Linear::zeros(&(path / "linear"), cond_dim, 2 * dim, bias),
            norm: Inner::Layer(LayerNorm::new(&(path / "norm"), dim, eps, bias)),
        }
    }

    /// `x` `[B, L, dim]`, `cond` `[B, cond_dim]` already through SiLU (all norms share it).
    pub fn forward(&self, x: &Tensor, cond: &Tensor) -> Tensor {
        let chunks = self.linear.forward(cond).unsqueeze(1).chunk(2, -1);
        let (scale, shift) = (&chunks[0] + 1.0, &chunks[1]);
        match &self.norm {
            Inner::Rms(norm) => {
                let factor = scale * &norm.weight;
                shift.addcmul(&(x * norm.inverse_rms(x)), &factor)
            }
            Inner::Layer(norm) => shift.addcmul(&norm.forward(x), &scale),
        }
    }
}
