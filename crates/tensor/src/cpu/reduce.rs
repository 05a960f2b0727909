//! Reductions over the middle of (outer, n, inner).

use crate::buffer::Buffer;
use crate::cpu::parallel::for_each_chunk;

/// Sums over `n`. Partial sums in eight lanes (or per column) keep the rounding error small.
pub(crate) fn sum(x: &[f32], sizes: (usize, usize, usize)) -> Buffer {
    sum_of(x, sizes, |x| x)
}

/// Sums of squares over `n`.
pub(crate) fn sum_squares(x: &[f32], sizes: (usize, usize, usize)) -> Buffer {
    sum_of(x, sizes, |x| x * x)
}

fn sum_of(x: &[f32], (outer, n, inner): (usize, usize, usize), f: impl Fn(f32) -> f32 + Sync) -> Buffer {
    let mut out = Buffer::zeros(outer * inner);
    if n == 0 {
        return out;
    }
    if inner == 1 {
        for_each_chunk(&mut out, 1, x.len(), |first, part| {
            for (out, x) in part.iter_mut().zip(x[first * n..].chunks_exact(n)) {
                *out = sum_row(x, &f);
            }
        });
        return out;
    }
    // Threads share the columns; a part may end in the middle of one outer index and go on in the next.
    for_each_chunk(&mut out, 1, x.len(), |mut first, mut part| {
        while !part.is_empty() {
            let (block, column) = (first / inner, first % inner);
            let (columns, rest) = part.split_at_mut((inner - column).min(part.len()));
            for row in x[block * n * inner..(block + 1) * n * inner].chunks_exact(inner) {
                columns.iter_mut().zip(&row[column..]).for_each(|(y, &x)| *y += f(x));
            }
            first += columns.len();
            part = rest;
        }
    });
    out
}

fn sum_row(x: &[f32], f: &impl Fn(f32) -> f32) -> f32 {
    let chunks = x.chunks_exact(8);
    let tail: f32 = chunks.remainder().iter().map(|&x| f(x)).sum();
    let mut lanes = [0.0f32; 8];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(y, &x)| *y += f(x));
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
