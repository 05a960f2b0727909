//! Layers with the names, shapes and initialisation of PyTorch and `diffusers`, so that the variables of a model are
//! exactly the keys of its checkpoint.

pub(crate) mod attention;
mod conv;
mod norm;

pub use attention::Attention;
pub use conv::{Conv2d, Downsample2D, ResnetBlock2D, Upsample2D};
pub use norm::{AdaLayerNormContinuous, GlobalResponseNorm, GroupNorm, LayerNorm, RmsNorm};

use tch::Tensor;
use tch::nn::{Init, Path};

/// PyTorch's default for linear and convolution weights: uniform in ±1/√fan_in.
pub(crate) fn fan_in_uniform(fan_in: i64) -> Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// `torch.nn.Linear`: `weight` is `[out, in]`.
#[derive(Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// Adds `weight` (and `bias`) below `path` with PyTorch's initialisation.
    pub fn new(path: &Path, inputs: i64, outputs: i64, bias: bool) -> Self {
        Self::with_init(path, inputs, outputs, bias, fan_in_uniform(inputs))
    }

    /// As [`Linear::new`], all weights zero: the layer starts as if it were not there.
    pub fn zeros(path: &Path, inputs: i64, outputs: i64, bias: bool) -> Self {
        Self::with_init(path, inputs, outputs, bias, Init::Const(0.0))
    }

    /// As [`Linear::new`] with another initialisation of the weight.
    pub fn with_init(path: &Path, inputs: i64, outputs: i64, bias: bool, init: Init) -> Self {
        Self {
            weight: path.var("weight", &[outputs, inputs], init),
            bias: bias.then(|| path.var("bias", &[outputs], Init::Const(0.0))),
        }
    }

    /// `[…, in]` → `[…, out]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}

/// `torch.nn.Embedding`: `weight` is `[rows, dim]`.
#[derive(Debug)]
pub struct Embedding {
    /// The table.
    pub weight: Tensor,
}

impl Embedding {
    /// Adds `weight` below `path`, normal with the given deviation.
    pub fn new(path: &Path, rows: i64, dim: i64, stdev: f64) -> Self {
        let init = Init::Randn { mean: 0.0, stdev };
        Self { weight: path.var("weight", &[rows, dim], init) }
    }

    /// Integer ids of any shape → `[…, dim]`.
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.weight, ids, -1, false, false)
    }
}
