//! Transposition of small matrices, in registers where there are vectors.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use crate::simd::Simd;

/// `to[c · to_stride + r] = from[r · from_stride + c]` for every row and column of `from`.
///
/// # Safety
/// The memory is valid; the CPU has the instructions of `S`.
#[inline(always)]
pub(super) unsafe fn transpose<S: Simd>(
    from: *const f32,
    from_stride: usize,
    (rows, columns): (usize, usize),
    to: *mut f32,
    to_stride: usize,
) {
    let (whole_rows, whole_columns) = (rows / S::LANES * S::LANES, columns / S::LANES * S::LANES);
    // SAFETY: passed on from the caller.
    unsafe {
        for r in (0..whole_rows).step_by(S::LANES) {
            for c in (0..whole_columns).step_by(S::LANES) {
                square::<S>(from.add(r * from_stride + c), from_stride, to.add(c * to_stride + r), to_stride);
            }
        }
        for r in 0..rows {
            let first = if r < whole_rows { whole_columns } else { 0 };
            for c in first..columns {
                *to.add(c * to_stride + r) = *from.add(r * from_stride + c);
            }
        }
    }
}

/// `LANES` by `LANES` elements.
#[inline(always)]
unsafe fn square<S: Simd>(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        match S::LANES {
            #[cfg(target_arch = "x86_64")]
            16 => square16(from, from_stride, to, to_stride),
            #[cfg(target_arch = "x86_64")]
            8 => square8(from, from_stride, to, to_stride),
            lanes => {
                for r in 0..lanes {
                    for c in 0..lanes {
                        *to.add(c * to_stride + r) = *from.add(r * from_stride + c);
                    }
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn square8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: 8 rows of 8 on both sides (caller).
    unsafe {
        let mut halves = [[_mm256_setzero_ps(); 4]; 2];
        for (half, rows) in halves.iter_mut().enumerate() {
            // Row r beside row r + 4, so that what is left to do stays within 128 bits.
            for (r, row) in rows.iter_mut().enumerate() {
                let low = _mm_loadu_ps(from.add(r * from_stride + 4 * half));
                let high = _mm_loadu_ps(from.add((r + 4) * from_stride + 4 * half));
                *row = _mm256_set_m128(high, low);
            }
        }
        for (half, [a, b, c, d]) in halves.into_iter().enumerate() {
            let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            let columns = [
                _mm256_shuffle_ps::<0x44>(ab, cd),
                _mm256_shuffle_ps::<0xEE>(ab, cd),
                _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
                _mm256_shuffle_ps::<0xEE>(ab_high, cd_high),
            ];
            for (c, column) in columns.into_iter().enumerate() {
                _mm256_storeu_ps(to.add((4 * half + c) * to_stride), column);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn square16(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: 16 rows of 16 on both sides (caller).
    unsafe {
        for quarter in 0..4 {
            // Rows r, r + 4, r + 8 and r + 12 beside each other, so that what is left to do stays within 128 bits.
            let mut rows = [_mm512_setzero_ps(); 4];
            for (r, row) in rows.iter_mut().enumerate() {
                let part = |i: usize| _mm_loadu_ps(from.add((r + 4 * i) * from_stride + 4 * quarter));
                let mut all = _mm512_castps128_ps512(part(0));
                all = _mm512_insertf32x4::<1>(all, part(1));
                all = _mm512_insertf32x4::<2>(all, part(2));
                *row = _mm512_insertf32x4::<3>(all, part(3));
            }
            let [a, b, c, d] = rows;
            let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
            let (ab_high, cd_high) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
            let columns = [
                _mm512_shuffle_ps::<0x44>(ab, cd),
                _mm512_shuffle_ps::<0xEE>(ab, cd),
                _mm512_shuffle_ps::<0x44>(ab_high, cd_high),
                _mm512_shuffle_ps::<0xEE>(ab_high, cd_high),
            ];
            for (c, column) in columns.into_iter().enumerate() {
                _mm512_storeu_ps(to.add((4 * quarter + c) * to_stride), column);
            }
        }
    }
}
