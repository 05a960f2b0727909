//! AVX-512 micro-kernels: 8 rows by a panel of 32 columns, 16 sums in registers.
//!
//! A step of the reduction loads two vectors of weights and one broadcast value per row for 16 multiply-adds, so that the
//! multipliers, not the loads, are the limit. Rows are read where they lie.

use std::arch::x86_64::*;

use super::PANEL;
use super::driver::Tile;

/// Rows of a full tile.
pub(crate) const ROWS: usize = 8;

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

/// `LIVE` rows by one block of a panel.
///
/// # Safety
/// Everything the tile names exists; the CPU has the instructions of `S`.
#[inline(always)]
unsafe fn multiply<S: Step, const LIVE: usize>(tile: &Tile<'_>) {
    // SAFETY: passed on from the caller.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; LIVE];
        if tile.accumulate {
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = [0, 16].map(|column| _mm512_load_ps(tile.sums.add(row * PANEL + column)));
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
                let b = [S::weights(panel.add(step * 128), 0), S::weights(panel.add(step * 128), 1)];
                for row in 0..LIVE {
                    let a = S::rows(rows[row].add(step * S::ROW_BYTES));
                    sums[row][0] = S::multiply_add(a, b[0], sums[row][0]);
                    sums[row][1] = S::multiply_add(a, b[1], sums[row][1]);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm512_store_ps(tile.sums.add(row * PANEL), sums[0]);
            _mm512_store_ps(tile.sums.add(row * PANEL + 16), sums[1]);
        }
    }
}

/// Defines a micro-kernel for up to eight live rows.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $step:ty, $features:literal) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Everything the tile names exists; the CPU has the instructions.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn $name(tile: &Tile<'_>) {
            // SAFETY: passed on from the caller.
            unsafe {
                match tile.live {
                    1 => multiply::<$step, 1>(tile),
                    2 => multiply::<$step, 2>(tile),
                    3 => multiply::<$step, 3>(tile),
                    4 => multiply::<$step, 4>(tile),
                    5 => multiply::<$step, 5>(tile),
                    6 => multiply::<$step, 6>(tile),
                    7 => multiply::<$step, 7>(tile),
                    _ => multiply::<$step, ROWS>(tile),
                }
            }
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
