//! Element by element: one or two inputs, the second broadcast.

use crate::buffer::Buffer;
use crate::cpu::parallel::for_each_chunk;
use crate::shape::{broadcast_strides, coalesce};

/// `f(x)` for every element.
pub(crate) fn map(x: &[f32], f: impl Fn(f32) -> f32 + Sync) -> Buffer {
    let mut out = Buffer::uninit(x.len());
    for_each_chunk(&mut out, 1, x.len(), |first, part| {
        for (y, &x) in part.iter_mut().zip(&x[first..]) {
            *y = f(x);
        }
    });
    out
}

/// `f(a, b)` over the `shape` that both inputs broadcast to.
pub(crate) fn zip(
    (a, a_shape): (&[f32], &[usize]),
    (b, b_shape): (&[f32], &[usize]),
    shape: &[usize],
    f: impl Fn(f32, f32) -> f32 + Sync,
) -> Buffer {
    let mut out = Buffer::uninit(shape.iter().product());
    let (a_strides, b_strides) = (broadcast_strides(a_shape, shape), broadcast_strides(b_shape, shape));
    let (dims, [a_strides, b_strides]) = coalesce(shape, [&a_strides, &b_strides]);
    let inner = dims.len() - 1;
    let (row, a_step, b_step) = (dims[inner], a_strides[inner], b_strides[inner]);
    if inner == 0 && a_step == 1 && b_step == 1 {
        // Same shape: no rows to respect, so the parts can be of any length.
        for_each_chunk(&mut out, 1, a.len(), |first, part| zip_row(part, &a[first..], 1, &b[first..], 1, &f));
        return out;
    }
    let cost = out.len();
    for_each_chunk(&mut out, row, cost, |first, part| {
        for (i, out) in part.chunks_exact_mut(row).enumerate() {
            let (mut at, mut a_at, mut b_at) = (first + i, 0, 0);
            for d in (0..inner).rev() {
                a_at += at % dims[d] * a_strides[d];
                b_at += at % dims[d] * b_strides[d];
                at /= dims[d];
            }
            zip_row(out, &a[a_at..], a_step, &b[b_at..], b_step, &f);
        }
    });
    out
}

/// One row; steps are 0 (the same element throughout) or 1.
fn zip_row(out: &mut [f32], a: &[f32], a_step: usize, b: &[f32], b_step: usize, f: &impl Fn(f32, f32) -> f32) {
    match (a_step, b_step) {
        (0, 0) => out.fill(f(a[0], b[0])),
        (0, _) => out.iter_mut().zip(b).for_each(|(y, &b)| *y = f(a[0], b)),
        (_, 0) => out.iter_mut().zip(a).for_each(|(y, &a)| *y = f(a, b[0])),
        _ => out.iter_mut().zip(a).zip(b).for_each(|((y, &a), &b)| *y = f(a, b)),
    }
}

/// `x · factor + shift` for `x` of (batches, rows, width); `factor` has a row for each batch, `shift` that or one row.
pub(crate) fn scale_shift(x: &[f32], (_, rows, width): (usize, usize, usize), factor: &[f32], shift: &[f32]) -> Buffer {
    let mut out = Buffer::uninit(x.len());
    for_each_chunk(&mut out, width, x.len(), |first, part| {
        for (i, out) in part.chunks_exact_mut(width).enumerate() {
            let batch = (first + i) / rows * width;
            let x = &x[(first + i) * width..][..width];
            let (factor, shift) = (&factor[batch..][..width], &shift[batch % shift.len()..][..width]);
            for (((y, &x), &f), &s) in out.iter_mut().zip(x).zip(factor).zip(shift) {
                *y = x * f + s;
            }
        }
    });
    out
}
