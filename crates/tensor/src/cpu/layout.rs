//! Moving elements without changing them.

use crate::cpu::parallel::for_each_chunk;
use crate::shape::coalesce;

/// Side of the square blocks in which a transposition reads and writes whole cache lines.
const BLOCK: usize = 16;

/// Writes to `out`, row-major over `shape`, the elements of `x` read with `strides`.
pub(crate) fn gather_strided<T: Copy + Send + Sync>(x: &[T], shape: &[usize], strides: &[usize], out: &mut [T]) {
    if out.is_empty() {
        return;
    }
    let (dims, [strides]) = coalesce(shape, [strides]);
    let inner = dims.len() - 1;
    let (row, step) = (dims[inner], strides[inner]);
    let offset_of = |mut at: usize, dims: &[usize]| {
        dims.iter().zip(&strides).rev().map(|(&d, &s)| (at % d * s, at /= d).0).sum::<usize>()
    };
    let cost = out.len();
    if inner > 0 && step != 1 && strides[inner - 1] == 1 {
        // The last two dimensions change places: block by block.
        let (rows, plane) = (dims[inner - 1], dims[inner - 1] * row);
        if out.len() / plane == 1 {
            for_each_chunk(out, row, cost, |first, part| transpose(&x[first..], step, row, part));
        } else {
            for_each_chunk(out, plane, cost, |first, part| {
                for (i, out) in part.chunks_exact_mut(rows * row).enumerate() {
                    transpose(&x[offset_of(first + i, &dims[..inner - 1])..], step, row, out);
                }
            });
        }
        return;
    }
    for_each_chunk(out, row, cost, |first, part| {
        for (i, out) in part.chunks_exact_mut(row).enumerate() {
            let x = &x[offset_of(first + i, &dims[..inner])..];
            match step {
                1 => out.copy_from_slice(&x[..row]),
                0 => out.fill(x[0]),
                _ => out.iter_mut().zip(x.iter().step_by(step)).for_each(|(y, &x)| *y = x),
            }
        }
    });
}

/// `out[i][j] = x[j * step + i]` for rows of `row` elements.
fn transpose<T: Copy>(x: &[T], step: usize, row: usize, out: &mut [T]) {
    let rows = out.len() / row;
    for i0 in (0..rows).step_by(BLOCK) {
        for j0 in (0..row).step_by(BLOCK) {
            for i in i0..rows.min(i0 + BLOCK) {
                for j in j0..row.min(j0 + BLOCK) {
                    out[i * row + j] = x[j * step + i];
                }
            }
        }
    }
}

/// Joins parts that are each `outer` blocks of their own length.
pub(crate) fn cat<T: Copy + Send + Sync>(parts: &[(&[T], usize)], out: &mut [T]) {
    let block: usize = parts.iter().map(|(_, len)| len).sum();
    let cost = out.len();
    for_each_chunk(out, block, cost, |first, out| {
        for (i, mut out) in out.chunks_exact_mut(block).enumerate() {
            for (x, len) in parts {
                let (to, rest) = out.split_at_mut(*len);
                to.copy_from_slice(&x[(first + i) * len..(first + i + 1) * len]);
                out = rest;
            }
        }
    });
}
