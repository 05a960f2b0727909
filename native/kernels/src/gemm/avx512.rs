//! AVX-512 micro-kernels: 8 rows by a panel of 32 columns, 16 sums in registers.
//!
//! A step of the reduction loads two vectors of weights and one broadcast value per row for 16 multiply-adds, so that the
//! multipliers, not the loads, are the limit. Rows are read where they lie.

use std::arch::x86_64::*;

use super::PANEL;
use super::driver::Tile;
use crate::simd::prefetch;

/// Rows of a full tile.
pub(crate) const ROWS: usize = 8;
/// Up to this many rows the weights' bandwidth is the limit.
const FEW: usize = 4;
/// How far ahead weights are brought in then, in bytes.
const AHEAD: usize = 2048;

/// One step of the reduction: what is loaded, and how it is multiplied and added.
trait Step {
    /// Channels consumed by a step.
    const CHANNELS: usize;
    /// Bytes of a row that a step consumes.
    const ROW_BYTES: usize;
    /// A row's values, the same in every lane.
    type A: Copy;
    /// A vector of weights for 16 columns.
    type B: Copy;

    /// # Safety
    /// The row has a step's channels at `row`; the CPU has the instructions.
    unsafe fn rows(row: *const u8) -> Self::A;
    /// # Safety
    /// The panel has a step's channels at `panel`; the CPU has the instructions.
    unsafe fn weights(panel: *const u8, half: usize) -> Self::B;
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn multiply_add(a: Self::A, b: Self::B, sum: __m512) -> __m512;
}

/// f32 by f32.
struct F32;

impl Step for F32 {
    const CHANNELS: usize = 1;
    const ROW_BYTES: usize = 4;
    type A = __m512;
    type B = __m512;

    #[inline(always)]
    unsafe fn rows(row: *const u8) -> __m512 {
        // SAFETY: passed on from the caller.
        unsafe { _mm512_set1_ps(*row.cast::<f32>()) }
    }
    #[inline(always)]
    unsafe fn weights(panel: *const u8, half: usize) -> __m512 {
        // SAFETY: passed on from the caller.
        unsafe { _mm512_load_ps(panel.cast::<f32>().add(half * 16)) }
    }
    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: passed on from the caller.
        unsafe { _mm512_fmadd_ps(a, b, sum) }
    }
}

/// Pairs of bf16 with `vdpbf16ps`.
struct Bf16;

impl Step for Bf16 {
    const CHANNELS: usize = 2;
    const ROW_BYTES: usize = 4;
    type A = __m512i;
    type B = __m512i;

    #[inline(always)]
    unsafe fn rows(row: *const u8) -> __m512i {
        // SAFETY: passed on from the caller.
        unsafe { _mm512_set1_epi32(*row.cast::<i32>()) }
    }
    #[inline(always)]
    unsafe fn weights(panel: *const u8, half: usize) -> __m512i {
        // SAFETY: passed on from the caller.
        unsafe { _mm512_load_si512(panel.add(half * 64).cast()) }
    }
    #[inline(always)]
    unsafe fn multiply_add(a: __m512i, b: __m512i, sum: __m512) -> __m512 {
        // SAFETY: both types are 512 plain bits; passed on from the caller.
        unsafe {
            _mm512_dpbf16_ps(
                sum,
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            )
        }
    }
}

/// Pairs of bf16 weights by f32 rows, for CPUs without `vdpbf16ps`: a bf16 is the upper half of an f32.
struct Widened;

impl Step for Widened {
    const CHANNELS: usize = 2;
    const ROW_BYTES: usize = 8;
    type A = (__m512, __m512);
    type B = (__m512, __m512);

    #[inline(always)]
    unsafe fn rows(row: *const u8) -> (__m512, __m512) {
        let row = row.cast::<f32>();
        // SAFETY: passed on from the caller.
        unsafe { (_mm512_set1_ps(*row), _mm512_set1_ps(*row.add(1))) }
    }
    #[inline(always)]
    unsafe fn weights(panel: *const u8, half: usize) -> (__m512, __m512) {
        // SAFETY: passed on from the caller.
        unsafe {
            let pairs = _mm512_load_si512(panel.add(half * 64).cast());
            let even = _mm512_slli_epi32::<16>(pairs);
            let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            (_mm512_castsi512_ps(even), _mm512_castsi512_ps(odd))
        }
    }
    #[inline(always)]
    unsafe fn multiply_add(a: (__m512, __m512), b: (__m512, __m512), sum: __m512) -> __m512 {
        // SAFETY: passed on from the caller.
        unsafe { _mm512_fmadd_ps(a.1, b.1, _mm512_fmadd_ps(a.0, b.0, sum)) }
    }
}

/// `LIVE` rows by one block of the first `VECTORS · 16` columns of a panel.
///
/// # Safety
/// Everything the tile names exists; the CPU has the instructions of `S`.
#[inline(always)]
unsafe fn multiply<S: Step, const LIVE: usize, const VECTORS: usize>(tile: &Tile<'_>) {
    // SAFETY: passed on from the caller.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; LIVE];
        if tile.accumulate {
            for (row, sums) in sums.iter_mut().enumerate() {
                for (vector, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_load_ps(tile.sums.add(row * PANEL + vector * 16));
                }
            }
        }
        let first = tile.block.channels.start / S::CHANNELS;
        let steps = tile.block.channels.len().div_ceil(S::CHANNELS);
        for tap in tile.block.taps.clone() {
            let mut rows = [std::ptr::null::<u8>(); LIVE];
            for (row, pointer) in rows.iter_mut().enumerate() {
                *pointer = (*tile.rows.add(tap * tile.row_stride + row)).add(first * S::ROW_BYTES);
            }
            let panel = tile.panel.add(tap * tile.tap_bytes + first * 128);
            for step in 0..steps {
                if LIVE <= FEW {
                    prefetch(panel.wrapping_add(step * 128 + AHEAD));
                    prefetch(panel.wrapping_add(step * 128 + AHEAD + 64));
                }
                let b: [S::B; VECTORS] = std::array::from_fn(|vector| S::weights(panel.add(step * 128), vector));
                for row in 0..LIVE {
                    let a = S::rows(rows[row].add(step * S::ROW_BYTES));
                    for vector in 0..VECTORS {
                        sums[row][vector] = S::multiply_add(a, b[vector], sums[row][vector]);
                    }
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            for (vector, &sum) in sums.iter().enumerate() {
                _mm512_store_ps(tile.sums.add(row * PANEL + vector * 16), sum);
            }
        }
    }
}

/// Picks the code for the tile's live rows and columns.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn pick<S: Step>(tile: &Tile<'_>) {
    // SAFETY: passed on from the caller.
    unsafe {
        match (tile.live, tile.narrow) {
            (1, _) => multiply::<S, 1, 2>(tile),
            (2, _) => multiply::<S, 2, 2>(tile),
            (3, _) => multiply::<S, 3, 2>(tile),
            (4, _) => multiply::<S, 4, 2>(tile),
            (5, _) => multiply::<S, 5, 2>(tile),
            (6, _) => multiply::<S, 6, 2>(tile),
            (7, _) => multiply::<S, 7, 2>(tile),
            (_, false) => multiply::<S, ROWS, 2>(tile),
            (_, true) => multiply::<S, ROWS, 1>(tile),
        }
    }
}

/// Defines a micro-kernel.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $step:ty, $features:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Everything the tile names exists; the CPU has the instructions.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn $name(tile: &Tile<'_>) {
            // SAFETY: passed on from the caller.
            unsafe { pick::<$step>(tile) }
        }
    };
}

kernel!(
    /// f32 rows by an f32 panel.
    multiply_f32, F32, "avx512f"
);
kernel!(
    /// bf16 rows by a bf16 panel.
    multiply_bf16, Bf16, "avx512f,avx512bf16"
);
kernel!(
    /// f32 rows (rounded to bf16, an even number of channels) by a bf16 panel.
    multiply_widened, Widened, "avx512f"
);
