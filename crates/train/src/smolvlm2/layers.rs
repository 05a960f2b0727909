//! A linear layer that can carry a low-rank adapter, the RMS norm of Llama, and activations.

use tch::nn::{Init, Path};
use tch::{Kind, Tensor};

use super::config::Activation;
use crate::nn::fan_in_uniform;

/// A low-rank addition to a linear layer: scale·B(A(dropout(x))).
#[derive(Debug)]
pub struct Adapter {
    /// `[rank, in]`.
    pub a: Tensor,
    /// `[out, rank]`.
    pub b: Tensor,
    /// alpha / rank.
    pub scale: f64,
    /// Share of the inputs that are dropped in training.
    pub dropout: f64,
}

/// `torch.nn.Linear`, with a [`Adapter`] beside it when it is tuned.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor,
    bias: Option<Tensor>,
    /// Absent until one is added.
    pub adapter: Option<Adapter>,
}

impl Linear {
    /// Adds `weight` (and `bias`) below `path` with PyTorch's initialisation.
    pub fn new(path: &Path, inputs: i64, outputs: i64, bias: bool) -> Self {
        Self::with_init(path, inputs, outputs, bias, fan_in_uniform(inputs))
    }

    /// As [`Linear::new`], the weight scaled down by √(2·layers): for what is added to a residual stream.
    pub fn residual(path: &Path, inputs: i64, outputs: i64, bias: bool, layers: i64) -> Self {
        let bound = 1.0 / (inputs as f64).sqrt() / (2.0 * layers as f64).sqrt();
        Self::with_init(path, inputs, outputs, bias, Init::Uniform { lo: -bound, up: bound })
    }

    fn with_init(path: &Path, inputs: i64, outputs: i64, bias: bool, init: Init) -> Self {
        Self {
            weight: path.var("weight", &[outputs, inputs], init),
            bias: bias.then(|| path.var("bias", &[outputs], Init::Const(0.0))),
            adapter: None,
        }
    }

    /// `[…, in]` → `[…, out]`; `train` switches the adapter's dropout on.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let y = x.linear(&self.weight, self.bias.as_ref());
        match &self.adapter {
            None => y,
            Some(adapter) => {
                let none: Option<&Tensor> = None;
                let x =
                    if adapter.dropout > 0.0 && train { x.dropout(adapter.dropout, true) } else { x.shallow_clone() };
                y + x.linear(&adapter.a, none).linear(&adapter.b, none) * adapter.scale
            }
        }
    }
}

/// `LlamaRMSNorm`.
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

    /// `[…, dim]` → `[…, dim]`. The norm is one pass over `x`, where squaring and averaging would be two.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let dim = self.weight.numel() as f64;
        let norm = x.norm_scalaropt_dim_dtype(2.0, [-1i64].as_slice(), true, Kind::Float);
        let inverse = ((norm.square() / dim) + self.eps).rsqrt().to_kind(x.kind());
        x * inverse * &self.weight
    }
}

impl Activation {
    /// Elementwise.
    pub fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu("none"),
            Self::GeluTanh => x.gelu("tanh"),
        }
    }
}
