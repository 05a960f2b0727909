//! Layer, RMS and group normalisation over the last (channel) dimension.

use crate::error::{elements, expect_len};
use crate::pool::parallel_for;
use crate::scratch::Shared;
use crate::{Activation, KernelError};

/// `out = (x - mean) / sqrt(variance + eps) · weight + bias` over rows of `width` values (PyTorch `LayerNorm`).
///
/// # Errors
/// When `x` is not whole rows, `out` differs in length, or `weight` or `bias` is not one row.
pub fn layer_norm(
    x: &[f32],
    width: usize,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    rows(x, width, weight, bias, out, |row, out| {
        let mean = mean(row);
        let variance = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / row.len() as f32;
        let inverse = 1.0 / (variance + eps).sqrt();
        out.iter_mut().zip(row).for_each(|(o, v)| *o = (v - mean) * inverse);
    })
}

/// `out = x / sqrt(mean(x²) + eps) · weight` over rows of `width` values (`T5LayerNorm`, `RMSNorm`).
///
/// # Errors
/// As [`layer_norm`].
pub fn rms_norm(x: &[f32], width: usize, weight: Option<&[f32]>, eps: f32, out: &mut [f32]) -> Result<(), KernelError> {
    rows(x, width, weight, None, out, |row, out| {
        let square = row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32;
        let inverse = 1.0 / (square + eps).sqrt();
        out.iter_mut().zip(row).for_each(|(o, v)| *o = v * inverse);
    })
}

/// Group normalisation of channels-last images: `x` is `[n, pixels, channels]`; each image's channels are normalised in
/// `groups` groups over all its pixels, scaled, shifted and passed through `activation` (PyTorch `GroupNorm`, then SiLU).
///
/// # Errors
/// When `channels` is not a multiple of `groups`, or a slice does not have the size its shape asks for.
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
    let width = channels / groups;
    for image in 0..n {
        let x = &x[image * pixels * channels..][..pixels * channels];
        let out = &mut out[image * pixels * channels..][..pixels * channels];
        for group in 0..groups {
            let first = group * width;
            let values = || x.chunks_exact(channels).flat_map(|pixel| &pixel[first..first + width]);
            let count = (pixels * width) as f64;
            let mean = values().map(|&v| f64::from(v)).sum::<f64>() / count;
            let variance = values().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
            let (mean, inverse) = (mean as f32, (1.0 / (variance + f64::from(eps)).sqrt()) as f32);
            for (out, x) in out.chunks_exact_mut(channels).zip(x.chunks_exact(channels)) {
                for c in first..first + width {
                    let scaled = (x[c] - mean) * inverse * weight.map_or(1.0, |w| w[c]) + bias.map_or(0.0, |b| b[c]);
                    out[c] = activation.apply(scaled);
                }
            }
        }
    }
    Ok(())
}

fn mean(row: &[f32]) -> f32 {
    row.iter().sum::<f32>() / row.len() as f32
}

fn affine(weight: Option<&[f32]>, bias: Option<&[f32]>, width: usize) -> Result<(), KernelError> {
    weight.map_or(Ok(()), |w| expect_len("weight", w.len(), &[width]))?;
    bias.map_or(Ok(()), |b| expect_len("bias", b.len(), &[width]))
}

/// Normalises row by row, then scales and shifts.
fn rows(
    x: &[f32],
    width: usize,
    weight: Option<&[f32]>,
    bias: Option<&[f32]>,
    out: &mut [f32],
    normalise: impl Fn(&[f32], &mut [f32]) + Sync,
) -> Result<(), KernelError> {
    if width == 0 || !x.len().is_multiple_of(width) {
        return Err(KernelError::shape("x", format!("{} values are not whole rows of {width}", x.len())));
    }
    let count = x.len() / width;
    elements("x", &[count, width])?;
    expect_len("out", out.len(), &[count, width])?;
    affine(weight, bias, width)?;
    let out = Shared::new(out.as_mut_ptr());
    let chunk = (16 * 1024 / width).max(1);
    parallel_for(count.div_ceil(chunk), &|task| {
        for row in task * chunk..((task + 1) * chunk).min(count) {
            // SAFETY: the output has as many rows as the input.
            let out = unsafe { std::slice::from_raw_parts_mut(out.add(row * width), width) };
            normalise(&x[row * width..][..width], out);
            if let Some(weight) = weight {
                out.iter_mut().zip(weight).for_each(|(o, w)| *o *= w);
            }
            if let Some(bias) = bias {
                out.iter_mut().zip(bias).for_each(|(o, b)| *o += b);
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let mut out = [0.0; 4];
        layer_norm(&[1.0, 3.0], 2, Some(&[2.0, 1.0]), Some(&[0.0, 0.5]), 0.0, &mut out[..2]).unwrap();
        assert_eq!(out[..2], [-2.0, 1.5]);
        rms_norm(&[3.0, 4.0], 2, None, 0.0, &mut out[..2]).unwrap();
        assert!((out[0] - 3.0 / 12.5f32.sqrt()).abs() < 1e-6);
        // Two groups of one channel over two pixels.
        group_norm(&[0.0, 5.0, 2.0, 9.0], (1, 2, 2), 2, None, Some(&[0.0, 1.0]), 0.0, Activation::None, &mut out)
            .unwrap();
        assert_eq!(out, [-1.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn bad_sizes_are_errors() {
        assert!(layer_norm(&[0.0; 3], 2, None, None, 0.0, &mut [0.0; 3]).is_err());
        assert!(rms_norm(&[0.0; 4], 0, None, 0.0, &mut [0.0; 4]).is_err());
        assert!(rms_norm(&[0.0; 4], 2, Some(&[0.0; 3]), 0.0, &mut [0.0; 4]).is_err());
        let call = |groups, len: usize| {
            group_norm(&[0.0; 4], (1, 2, 2), groups, None, None, 0.0, Activation::None, &mut vec![0.0; len])
        };
        assert!(call(0, 4).is_err() && call(3, 4).is_err() && call(1, 3).is_err() && call(1, 4).is_ok());
    }
}
