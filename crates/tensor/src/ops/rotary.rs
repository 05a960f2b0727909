//! Rotary position embeddings.

use half::bf16;

use super::Columns;
use crate::buffer::{Buffer, Kept};
use crate::cpu::parallel::for_each_chunk;
use crate::error::{Result, TensorError};
use crate::storage::Storage;
use crate::{DType, Tensor};

const OP: &str = "rotary_embedding";

/// Turns the two halves of every head against each other: `x₁ · cos − x₂ · sin` and `x₂ · cos + x₁ · sin`, the
/// `apply_rotary_pos_emb` of Llama. `x` is `[B, L, heads · D]` in `F32`, `cos` and `sin` are `[L, D / 2]` in `F32`; the
/// result is `F32`, or `BF16` where `to` asks for it.
///
/// # Errors
/// [`TensorError::Shape`] when the shapes do not fit, [`TensorError::DType`] unless all are `F32`.
pub fn rotary_embedding<'a>(
    x: impl Into<Columns<'a>>,
    heads: usize,
    cos: &Tensor,
    sin: &Tensor,
    to: DType,
) -> Result<Tensor> {
    let x = x.into();
    let ([batch, length, width], row) = x.dims()?;
    let half = width.checked_div(2 * heads).unwrap_or(0);
    if 2 * half * heads != width || cos.shape() != [length, half] || sin.shape() != [length, half] {
        let detail = format!("{heads} heads of {width} columns with cos {:?} and sin {:?}", cos.shape(), sin.shape());
        return Err(TensorError::shape(OP, detail));
    }
    let call = Call { x: x.of_type()?, row, width, half, length, cos: cos.f32_for(OP)?, sin: sin.f32_for(OP)? };
    let out: Storage = match to {
        DType::BF16 => call.run(batch, bf16::from_f32).into(),
        _ => call.run(batch, |x| x).into(),
    };
    Ok(cos.like(out, vec![batch, length, width]))
}

struct Call<'a> {
    x: &'a [f32],
    /// From one position of `x` to the next.
    row: usize,
    width: usize,
    half: usize,
    length: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Call<'_> {
    fn run<T: Kept + Send>(&self, batch: usize, narrow: impl Fn(f32) -> T + Sync) -> Buffer<T> {
        let (width, half) = (self.width, self.half);
        let mut out = Buffer::uninit(batch * self.length * width);
        let cost = out.len();
        for_each_chunk(&mut out, width.max(1), cost, |first, part| {
            for (i, out) in part.chunks_exact_mut(width).enumerate() {
                let position = (first + i) % self.length;
                let x = &self.x[(first + i) * self.row..][..width];
                let (cos, sin) = (&self.cos[position * half..][..half], &self.sin[position * half..][..half]);
                for (out, x) in out.chunks_exact_mut(2 * half).zip(x.chunks_exact(2 * half)) {
                    let ((x1, x2), (out1, out2)) = (x.split_at(half), out.split_at_mut(half));
                    for j in 0..half {
                        out1[j] = narrow(x1[j] * cos[j] - x2[j] * sin[j]);
                        out2[j] = narrow(x2[j] * cos[j] + x1[j] * sin[j]);
                    }
                }
            }
        });
        out
    }
}
