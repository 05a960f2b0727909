//! Reductions over the middle of (outer, n, inner).

use crate::buffer::Buffer;
use crate::cpu::parallel::for_each_chunk;

/// Sums over `n`. Partial sums in eight lanes (or per column) keep the rounding error small.
pub(crate) fn sum(x: &[f32], (outer, n, inner): (usize, usize, usize)) -> Buffer {
    let mut out = Buffer::zeros(outer * inner);
    if n == 0 {
        return out;
    }
    for_each_chunk(&mut out, inner, x.len(), |first, part| {
        for (i, out) in part.chunks_exact_mut(inner).enumerate() {
            let x = &x[(first + i) * n * inner..(first + i + 1) * n * inner];
            if inner == 1 {
                out[0] = sum_row(x);
            } else {
                for row in x.chunks_exact(inner) {
                    out.iter_mut().zip(row).for_each(|(y, &x)| *y += x);
                }
            }
        }
    });
    out
}

fn sum_row(x: &[f32]) -> f32 {
    let chunks = x.chunks_exact(8);
    let tail: f32 = chunks.remainder().iter().sum();
    let mut lanes = [0.0f32; 8];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(y, &x)| *y += x);
    }
    lanes.iter().sum::<f32>() + tail
}

/// Index of the largest element along `n`; the first of equals, and the first NaN before any number, as in PyTorch.
pub(crate) fn argmax(x: &[f32], (outer, n, inner): (usize, usize, usize)) -> Vec<i64> {
    let mut out = vec![0i64; outer * inner];
    for_each_chunk(&mut out, inner, x.len(), |first, part| {
        for (i, out) in part.chunks_exact_mut(inner).enumerate() {
            let x = &x[(first + i) * n * inner..];
            for (j, out) in out.iter_mut().enumerate() {
                let mut best = 0;
                for k in 1..n {
                    let (a, b) = (x[best * inner + j], x[k * inner + j]);
                    if b > a || (b.is_nan() && !a.is_nan()) {
                        best = k;
                    }
                }
                *out = best as i64;
            }
        }
    });
    out
}
