//! Softmax over rows.

use crate::buffer::Buffer;
use crate::cpu::parallel::for_each_chunk;

/// `exp(x − max) / Σ` for rows of `row` elements; a row of −∞ only becomes NaN, as in PyTorch.
pub(crate) fn softmax(x: &[f32], row: usize) -> Buffer {
    by_row(x, row, |x, out| {
        let max = max(x);
        let mut sum = 0.0f64;
        for (y, &x) in out.iter_mut().zip(x) {
            *y = (x - max).exp();
            sum += f64::from(*y);
        }
        let scale = (1.0 / sum) as f32;
        out.iter_mut().for_each(|y| *y *= scale);
    })
}

/// `x − max − log Σ exp(x − max)` for rows of `row` elements.
pub(crate) fn log_softmax(x: &[f32], row: usize) -> Buffer {
    by_row(x, row, |x, out| {
        let max = max(x);
        let sum: f64 = x.iter().map(|&x| f64::from((x - max).exp())).sum();
        let log_sum = sum.ln() as f32;
        out.iter_mut().zip(x).for_each(|(y, &x)| *y = x - max - log_sum);
    })
}

fn max(x: &[f32]) -> f32 {
    x.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

fn by_row(x: &[f32], row: usize, f: impl Fn(&[f32], &mut [f32]) + Sync) -> Buffer {
    let mut out = Buffer::uninit(x.len());
    for_each_chunk(&mut out, row, 4 * x.len(), |first, part| {
        for (i, out) in part.chunks_exact_mut(row).enumerate() {
            f(&x[(first + i) * row..][..row], out);
        }
    });
    out
}
