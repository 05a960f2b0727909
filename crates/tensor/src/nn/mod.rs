//! Layers: they own weights, are loaded by name from [`crate::Weights`], and run on tensors.
//!
//! Constructor arguments are those of the PyTorch layer of the same name; tensor names in the file are PyTorch's too
//! (`weight`, `bias`). Images are channels-last, `[N, H, W, C]`.

mod conv;
mod conv3d;
mod embedding;
mod linear;
mod norm;

pub use conv::{Conv2d, Conv2dConfig, ConvTranspose2d};
pub use conv3d::{Conv3d, Conv3dOptions, Normed, TimePadding};
pub use embedding::Embedding;
pub use linear::{GatedLinear, Linear};
pub use norm::{GlobalResponseNorm, GroupNorm, LayerNorm, RmsNorm};

use sango_kernels::Precision;

use crate::error::Result;
use crate::{DType, Tensor, Weights};

/// How matrices loaded from here are packed.
fn precision(weights: &Weights) -> Precision {
    if weights.compute_dtype() == DType::BF16 { Precision::Bf16 } else { Precision::F32 }
}

/// How matrices of linear layers loaded from here are packed.
fn linear_precision(weights: &Weights) -> Precision {
    if weights.int8_linears() { Precision::Int8 } else { precision(weights) }
}

/// The one-dimensional tensor `name`, when the layer has it.
fn optional_vector(weights: &Weights, name: &str, len: usize, present: bool) -> Result<Option<Tensor>> {
    present.then(|| weights.get_f32(name, &[len])).transpose()
}

fn f32_of<'a>(op: &'static str, tensor: &'a Option<Tensor>) -> Result<Option<&'a [f32]>> {
    tensor.as_ref().map(|t| t.f32_for(op)).transpose()
}
