//! Layer, RMS and group normalisation over the last (channel) dimension.

mod group;
mod rows;

pub(crate) use rows::Part;
pub use rows::{Modulation, Rotary, RowNorm};

use crate::error::{elements, expect_len, reaches};
use crate::gemm::{Matrix, Output};
use crate::{Activation, KernelError, Number};

/// `out = (x - mean) / sqrt(variance + eps) · weight + bias` over rows of `width` values (PyTorch `LayerNorm`), in f32
/// or rounded to bf16.
///
/// # Errors
/// When `x` is not whole rows, `out` differs in length, or `weight` or `bias` is not one row.
pub fn layer_norm<O: Number>(
    x: &[f32],
    width: usize,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [O],
) -> Result<(), KernelError> {
    let norm = RowNorm { centred: true, eps, weight, bias, ..RowNorm::default() };
    norm.run(x, (rows_of(x, width)?, width, width), out)
}

/// `out = x / sqrt(mean(x²) + eps) · weight + bias` over rows of `width` values (`T5LayerNorm`, `RMSNorm`; the bias is
/// for norms whose shift depends on a condition).
///
/// # Errors
/// As [`layer_norm`].
pub fn rms_norm<O: Number>(
    x: &[f32],
    width: usize,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [O],
) -> Result<(), KernelError> {
    let norm = RowNorm { eps, weight, bias, ..RowNorm::default() };
    norm.run(x, (rows_of(x, width)?, width, width), out)
}

fn rows_of(x: &[f32], width: usize) -> Result<usize, KernelError> {
    if width == 0 || !x.len().is_multiple_of(width) {
        return Err(KernelError::shape("x", format!("{} values are not whole rows of {width}", x.len())));
    }
    Ok(x.len() / width)
}

impl RowNorm<'_> {
    /// Normalises `rows` rows of `width` values, `stride` elements apart in `x`, into `out`, where they lie side by side.
    ///
    /// # Errors
    /// When a slice is shorter than rows, width and strides reach, a stride is below the width, or the width of rows that are
    /// to be turned is odd.
    pub fn run<I: Number, O: Number>(
        &self,
        x: &[I],
        (rows, width, stride): (usize, usize, usize),
        out: &mut [O],
    ) -> Result<(), KernelError> {
        reaches("x", x.len(), rows, width, stride)?;
        expect_len("out", out.len(), &[rows, width])?;
        self.check(rows, width)?;
        if rows == 0 || width == 0 {
            return Ok(());
        }
        let x = Matrix::new(x.as_ptr(), rows, width, stride);
        // SAFETY: every slice was checked just now.
        unsafe { rows::run(self, &x, Output::new(out.as_mut_ptr(), width)) };
        Ok(())
    }

    /// Checks that the norm's slices reach as far as `rows` rows of `width`.
    pub(crate) fn check(&self, rows: usize, width: usize) -> Result<(), KernelError> {
        affine(self.weight, self.bias, width)?;
        if let Some(Rotary { cos, sin, rows }) = self.rotary {
            if rows == 0 || !width.is_multiple_of(2) {
                return Err(KernelError::shape("rotary", format!("{rows} rows of angles for a width of {width}")));
            }
            expect_len("cos", cos.len(), &[rows, width / 2])?;
            expect_len("sin", sin.len(), &[rows, width / 2])?;
        }
        if let Some(Modulation { scale, shift, stride, rows: shared }) = self.modulation {
            if shared == 0 {
                return Err(KernelError::shape("modulation", "must be shared by at least 1 row"));
            }
            let conditions = rows.div_ceil(shared);
            reaches("scale", scale.len(), conditions, width, stride)?;
            reaches("shift", shift.len(), conditions, width, stride)?;
        }
        Ok(())
    }
}

/// Group normalisation of channels-last images: `x` is `[n, pixels, channels]`; each image's channels are normalised in
/// `groups` groups over all its pixels, scaled, shifted and passed through `activation` (PyTorch `GroupNorm`, then SiLU).
///
/// # Errors
/// When `channels` is not a multiple of `groups`, a slice does not have the size its shape asks for, or scratch memory
/// is short.
#[allow(clippy::too_many_arguments)]
pub fn group_norm(
    x: &[f32],
    (n, pixels, channels): (usize, usize, usize),
    groups: usize,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    activation: Activation,
    out: &mut [f32],
) -> Result<(), KernelError> {
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(KernelError::shape("groups", format!("{channels} channels do not divide into {groups} groups")));
    }
    expect_len("x", x.len(), &[n, pixels, channels])?;
    expect_len("out", out.len(), &[n, pixels, channels])?;
    affine(weight, bias, channels)?;
    let size = elements("an image", &[pixels, channels])?;
    if size == 0 {
        return Ok(());
    }
    for (x, out) in x.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
        group::Image { x, channels, groups, weight, bias, eps, activation }.run(out)?;
    }
    Ok(())
}

fn affine(weight: Option<&[f32]>, bias: Option<&[f32]>, width: usize) -> Result<(), KernelError> {
    weight.map_or(Ok(()), |w| expect_len("weight", w.len(), &[width]))?;
    bias.map_or(Ok(()), |b| expect_len("bias", b.len(), &[width]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let mut out = [0.0; 4];
        layer_norm(&[1.0, 3.0], 2, Some(&[2.0, 1.0]), Some(&[0.0, 0.5]), 0.0, &mut out[..2]).unwrap();
        assert_eq!(out[..2], [-2.0, 1.5]);
        rms_norm(&[3.0, 4.0], 2, None, None, 0.0, &mut out[..2]).unwrap();
        assert!((out[0] - 3.0 / 12.5f32.sqrt()).abs() < 1e-6);
        // Two groups of one channel over two pixels.
        group_norm(&[0.0, 5.0, 2.0, 9.0], (1, 2, 2), 2, None, Some(&[0.0, 1.0]), 0.0, Activation::None, &mut out)
            .unwrap();
        assert_eq!(out, [-1.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn bad_sizes_are_errors() {
        assert!(layer_norm(&[0.0; 3], 2, None, None, 0.0, &mut [0.0; 3]).is_err());
        assert!(rms_norm(&[0.0; 4], 0, None, None, 0.0, &mut [0.0; 4]).is_err());
        assert!(rms_norm(&[0.0; 4], 2, Some(&[0.0; 3]), None, 0.0, &mut [0.0; 4]).is_err());
        let call = |groups, len: usize| {
            group_norm(&[0.0; 4], (1, 2, 2), groups, None, None, 0.0, Activation::None, &mut vec![0.0; len])
        };
        assert!(call(0, 4).is_err() && call(3, 4).is_err() && call(1, 3).is_err() && call(1, 4).is_ok());
    }
}
