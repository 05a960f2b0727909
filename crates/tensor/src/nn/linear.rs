//! Linear layers, with what follows them fused into the product.

use half::bf16;
use sango_kernels::{Activation, Epilogue, Gate, Number, PackedWeights, Precision, attends_in_bf16, gemm};

use super::{f32_of, linear_precision, optional_vector};
use crate::buffer::{Buffer, Kept};
use crate::error::{Result, TensorError};
use crate::ops::Columns;
use crate::ops::modulated::shared_rows;
use crate::storage::Storage;
use crate::weights::Floats;
use crate::{DType, Device, Tensor, Weights};

/// `y = x · weightᵀ + bias` on the last dimension.
pub struct Linear {
    weight: PackedWeights,
    bias: Option<Tensor>,
    in_features: usize,
    out_features: usize,
}

impl Linear {
    /// Reads `weight` `[out_features, in_features]` and, when `bias`, `bias` `[out_features]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type.
    pub fn load(weights: &Weights, in_features: usize, out_features: usize, bias: bool) -> Result<Self> {
        Ok(Self {
            weight: pack(weights, &[out_features, in_features], false)?,
            bias: optional_vector(weights, "bias", out_features, bias)?,
            in_features,
            out_features,
        })
    }

    /// Reads `weight` `[out_features, in_features, 1, 1]`: a convolution of one pixel, which on channels-last images
    /// is a linear layer.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type.
    pub fn load_conv1x1(weights: &Weights, in_features: usize, out_features: usize, bias: bool) -> Result<Self> {
        Ok(Self {
            weight: pack(weights, &[out_features, in_features, 1, 1], false)?,
            bias: optional_vector(weights, "bias", out_features, bias)?,
            in_features,
            out_features,
        })
    }

    /// Reads `weight` `[out_features, channels, patch, patch]`: a convolution whose stride is its size, which is a linear
    /// layer on patches `[…, channels · patch · patch]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type.
    pub fn load_patches(weights: &Weights, channels: usize, patch: usize, out_features: usize) -> Result<Self> {
        Ok(Self {
            weight: pack(weights, &[out_features, channels, patch, patch], false)?,
            bias: optional_vector(weights, "bias", out_features, true)?,
            in_features: channels * patch * patch,
            out_features,
        })
    }

    /// Several layers with the same input as one: their matrices one below the other, so that the outputs of
    /// `to_q`, `to_k` and `to_v`, for example, come side by side from one product. `out_features` has one entry for
    /// each place in `weights`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type, or there are not as many places as sizes.
    pub fn load_stacked(weights: &[&Weights], in_features: usize, out_features: &[usize], bias: bool) -> Result<Self> {
        if weights.is_empty() || weights.len() != out_features.len() {
            return Err(TensorError::shape(
                "linear",
                format!("{} layers with {} sizes", weights.len(), out_features.len()),
            ));
        }
        let rows = out_features.iter().sum();
        Ok(Self {
            weight: pack_stacked(weights, in_features, out_features, false)?,
            bias: stacked_bias(weights, out_features, bias)?,
            in_features,
            out_features: rows,
        })
    }

    /// A layer from tensors: `weight` `[out, in]` and `bias` `[out]`, both `F32`; computes in f32.
    ///
    /// # Errors
    /// [`TensorError::Shape`] or [`TensorError::DType`] when they are something else.
    pub fn new(weight: &Tensor, bias: Option<Tensor>) -> Result<Self> {
        let [out_features, in_features] = weight.dims()?;
        if bias.as_ref().is_some_and(|b| b.shape() != [out_features]) {
            return Err(TensorError::shape("linear", format!("a bias of {bias:?} for {out_features} features")));
        }
        let weight = PackedWeights::from_f32(weight.f32_for("linear")?, out_features, in_features, Precision::F32)?;
        Ok(Self { weight, bias, in_features, out_features })
    }

    /// The type it multiplies in: `BF16` for int8 weights as well.
    pub fn dtype(&self) -> DType {
        dtype(&self.weight)
    }

    /// `[…, in_features]`, `F32` or `BF16` → `[…, out_features]` in `F32`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the last dimension differs, [`TensorError::DType`] for other types.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, Activation::None, None, DType::F32)
    }

    /// [`Linear::forward`] for queries, keys or values: with the result in `BF16` where the layer multiplies in it and
    /// attention does so quickest, else in `F32`.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_to_attention(&self, x: &Tensor) -> Result<Tensor> {
        let to = if attends_in_bf16() { self.dtype() } else { DType::F32 };
        self.run(x, Activation::None, None, to)
    }

    /// `activation(forward(x))`.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_act(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.run(x, activation, None, DType::F32)
    }

    /// [`Linear::forward_act`] with the result in the type the layer multiplies in: half the memory traffic, for what is
    /// next read by a product that would round it anyway.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_act_narrow(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.run(x, activation, None, self.dtype())
    }

    /// `forward(x) + residual`; `residual` has the shape of the result.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_residual(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.run(x, Activation::None, Some(residual), DType::F32)
    }

    /// `forward(x) · gate + residual` for `x` `[B, L, in_features]`; `gate` is `[B, 1, out_features]`, or `[B, L, out_features]`,
    /// or such columns of a wider tensor, and `residual` has the shape of the result.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_gated_residual<'a>(
        &self,
        x: &Tensor,
        gate: impl Into<Columns<'a>>,
        residual: &Tensor,
    ) -> Result<Tensor> {
        let [batch, rows, _] = x.dims()?;
        let gate = shared_rows("linear", &gate.into(), batch, rows, self.out_features)?;
        let gate = Gate { values: gate.values, stride: gate.stride, rows: gate.rows };
        let after = After { gate: Some(gate), residual: Some(residual), ..After::default() };
        run(x, &self.weight, (self.in_features, self.out_features), &self.bias, after, DType::F32)
    }

    fn run(&self, x: &Tensor, activation: Activation, residual: Option<&Tensor>, to: DType) -> Result<Tensor> {
        let sizes = (self.in_features, self.out_features);
        run(x, &self.weight, sizes, &self.bias, After { activation, residual, gate: None }, to)
    }
}

/// A linear layer whose rows are values and gates, `[values | gates]`: `y = value · activation(gate)`.
///
/// This is `GEGLU` (with [`Activation::Gelu`]) and `SwiGLU` as diffusers has them.
pub struct GatedLinear {
    weight: PackedWeights,
    bias: Option<Tensor>,
    in_features: usize,
    out_features: usize,
}

impl GatedLinear {
    /// Reads `weight` `[2 · out_features, in_features]` and, when `bias`, `bias` `[2 · out_features]`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type.
    pub fn load(weights: &Weights, in_features: usize, out_features: usize, bias: bool) -> Result<Self> {
        Ok(Self {
            weight: pack(weights, &[2 * out_features, in_features], true)?,
            bias: optional_vector(weights, "bias", 2 * out_features, bias)?,
            in_features,
            out_features,
        })
    }

    /// A gated layer whose values and gates are two layers of the file, each with `weight` `[out_features, in_features]`
    /// and, when `bias`, `bias` `[out_features]`: the `up_proj` and `gate_proj` of Llama.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape or type.
    pub fn load_split(
        value: &Weights,
        gate: &Weights,
        in_features: usize,
        out_features: usize,
        bias: bool,
    ) -> Result<Self> {
        let (weights, sizes) = ([value, gate], [out_features; 2]);
        Ok(Self {
            weight: pack_stacked(&weights, in_features, &sizes, true)?,
            bias: stacked_bias(&weights, &sizes, bias)?,
            in_features,
            out_features,
        })
    }

    /// `[…, in_features]` → `[…, out_features]`, in the type the layer multiplies in: half the memory
    /// traffic, for what is next read by a product that would round it anyway.
    ///
    /// # Errors
    /// As [`Linear::forward`].
    pub fn forward_gated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let sizes = (self.in_features, self.out_features);
        run(x, &self.weight, sizes, &self.bias, After { activation, ..After::default() }, dtype(&self.weight))
    }
}

/// Packs `weight` straight from the file. `shape` starts with the output features.
fn pack(weights: &Weights, shape: &[usize], gated: bool) -> Result<PackedWeights> {
    let view = weights.checked_view("weight", shape)?;
    let (n, k) = (shape[0], shape[1..].iter().product());
    let precision = linear_precision(weights);
    Ok(match (view.floats()?, gated) {
        (Floats::F32(w), false) => PackedWeights::from_f32(&w, n, k, precision)?,
        (Floats::F32(w), true) => PackedWeights::from_f32_gated(&w, n, k, precision)?,
        (Floats::BF16(w), false) => PackedWeights::from_bf16(&w, n, k, precision)?,
        (Floats::BF16(w), true) => PackedWeights::from_bf16_gated(&w, n, k, precision)?,
    })
}

/// Packs the matrices of several layers one below the other.
fn pack_stacked(
    weights: &[&Weights],
    in_features: usize,
    out_features: &[usize],
    gated: bool,
) -> Result<PackedWeights> {
    let rows: usize = out_features.iter().sum();
    let mut elements = Vec::new();
    for (weights, &n) in weights.iter().zip(out_features) {
        let part = weights.get_f32("weight", &[n, in_features])?;
        // Only now: before a tensor has the sizes asked for, they may be anything.
        elements.reserve_exact(rows * in_features - elements.len());
        elements.extend_from_slice(part.as_f32()?);
    }
    let pack = if gated { PackedWeights::from_f32_gated } else { PackedWeights::from_f32 };
    Ok(pack(&elements, rows, in_features, linear_precision(weights[0]))?)
}

fn stacked_bias(weights: &[&Weights], out_features: &[usize], bias: bool) -> Result<Option<Tensor>> {
    if !bias {
        return Ok(None);
    }
    let mut biases = Vec::new();
    for (weights, &n) in weights.iter().zip(out_features) {
        biases.extend_from_slice(weights.get_f32("bias", &[n])?.as_f32()?);
    }
    let len = biases.len();
    Ok(Some(Tensor::from_vec(biases, &[len])?))
}

fn dtype(weight: &PackedWeights) -> DType {
    match weight.precision() {
        Precision::F32 => DType::F32,
        Precision::Bf16 | Precision::Int8 => DType::BF16,
    }
}

/// What follows a product, besides the bias.
#[derive(Default)]
struct After<'a> {
    activation: Activation,
    gate: Option<Gate<'a>>,
    residual: Option<&'a Tensor>,
}

fn run(
    x: &Tensor,
    weight: &PackedWeights,
    (in_features, out_features): (usize, usize),
    bias: &Option<Tensor>,
    After { activation, gate, residual }: After<'_>,
    to: DType,
) -> Result<Tensor> {
    let (Some(&last), lead) = (x.shape().last(), &x.shape()[..x.rank().saturating_sub(1)]) else {
        return Err(TensorError::shape("linear", "the input has no dimensions"));
    };
    if last != in_features {
        return Err(TensorError::shape(
            "linear",
            format!("{in_features} features expected in the last dimension of {:?}", x.shape()),
        ));
    }
    let mut shape = lead.to_vec();
    shape.push(out_features);
    if residual.is_some_and(|r| r.shape() != shape) {
        return Err(TensorError::shape("linear", format!("the residual {residual:?} does not have shape {shape:?}")));
    }
    let rows = lead.iter().product();
    let out: Storage = match x.device {
        Device::Cpu => {
            let residual = residual.map(|r| r.f32_for("linear")).transpose()?;
            let epilogue = Epilogue { bias: f32_of("linear", bias)?, activation, gate, residual };
            match to {
                DType::BF16 => multiply::<bf16>(x, rows, weight, &epilogue)?.into(),
                _ => multiply::<f32>(x, rows, weight, &epilogue)?.into(),
            }
        }
    };
    Ok(x.like(out, shape))
}

fn multiply<O: Kept + Number>(
    x: &Tensor,
    rows: usize,
    weight: &PackedWeights,
    epilogue: &Epilogue<'_>,
) -> Result<Buffer<O>> {
    let mut out = Buffer::uninit(rows * weight.out_columns());
    match &*x.storage {
        Storage::F32(a) => gemm(&a[x.range()], rows, weight, epilogue, &mut out[..])?,
        Storage::BF16(a) => gemm(&a[x.range()], rows, weight, epilogue, &mut out[..])?,
        _ => return Err(x.dtype_error("linear", DType::F32)),
    }
    Ok(out)
}
