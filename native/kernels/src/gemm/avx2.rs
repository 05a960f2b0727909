//! AVX2 micro-kernels: 6 rows by 16 columns at a time, 12 sums in registers, two passes per panel.

use std::arch::x86_64::*;

use super::PANEL;
use super::driver::Tile;

/// Rows of a full tile.
pub(crate) const ROWS: usize = 6;
/// Columns of one pass.
const COLUMNS: usize = 16;

/// How the channels of a panel are read: `CHANNELS` lie interleaved, one every `128` bytes of a panel's row.
trait Weights {
    /// Channels interleaved in a panel row of 128 bytes.
    const CHANNELS: usize;

    /// Eight columns of one of the interleaved channels.
    ///
    /// # Safety
    /// The panel has those columns; the CPU has AVX2.
    unsafe fn load(row: *const u8, column: usize, channel: usize) -> __m256;
}

/// f32 weights.
struct F32;

impl Weights for F32 {
    const CHANNELS: usize = 1;

    #[inline(always)]
    unsafe fn load(row: *const u8, column: usize, _: usize) -> __m256 {
        // SAFETY: passed on from the caller.
        unsafe { _mm256_load_ps(row.cast::<f32>().add(column)) }
    }
}

/// Pairs of bf16 weights, each the upper half of an f32.
struct Bf16;

impl Weights for Bf16 {
    const CHANNELS: usize = 2;

    #[inline(always)]
    unsafe fn load(row: *const u8, column: usize, channel: usize) -> __m256 {
        // SAFETY: passed on from the caller.
        unsafe {
            let pairs = _mm256_load_si256(row.add(column * 4).cast());
            _mm256_castsi256_ps(match channel {
                0 => _mm256_slli_epi32::<16>(pairs),
                _ => _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32)),
            })
        }
    }
}

/// `LIVE` rows by one block of a panel.
///
/// # Safety
/// Everything the tile names exists, rows have whole steps of channels; the CPU has AVX2 and FMA.
#[inline(always)]
unsafe fn multiply<W: Weights, const LIVE: usize>(tile: &Tile<'_>) {
    let first = tile.block.channels.start;
    let steps = tile.block.channels.len().div_ceil(W::CHANNELS);
    for pass in [0, COLUMNS] {
        // SAFETY: passed on from the caller.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); 2]; LIVE];
            if tile.accumulate {
                for (row, sums) in sums.iter_mut().enumerate() {
                    *sums = [0, 8].map(|column| _mm256_load_ps(tile.sums.add(row * PANEL + pass + column)));
                }
            }
            for tap in tile.block.taps.clone() {
                let mut rows = [std::ptr::null::<f32>(); LIVE];
                for (row, pointer) in rows.iter_mut().enumerate() {
                    *pointer = (*tile.rows.add(tap * tile.row_stride + row)).cast::<f32>().add(first);
                }
                let panel = tile.panel.add(tap * tile.tap_bytes + first / W::CHANNELS * 128);
                for step in 0..steps {
                    for channel in 0..W::CHANNELS {
                        let b = [0, 8].map(|column| W::load(panel.add(step * 128), pass + column, channel));
                        for row in 0..LIVE {
                            let a = _mm256_broadcast_ss(&*rows[row].add(step * W::CHANNELS + channel));
                            sums[row][0] = _mm256_fmadd_ps(a, b[0], sums[row][0]);
                            sums[row][1] = _mm256_fmadd_ps(a, b[1], sums[row][1]);
                        }
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                _mm256_store_ps(tile.sums.add(row * PANEL + pass), sums[0]);
                _mm256_store_ps(tile.sums.add(row * PANEL + pass + 8), sums[1]);
            }
        }
    }
}

/// Defines a micro-kernel for up to six live rows.
macro_rules! kernel {
    ($(#[$doc:meta])* $name:ident, $weights:ty) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// Everything the tile names exists; the CPU has AVX2 and FMA.
        #[target_feature(enable = "avx2,fma")]
        pub(crate) unsafe fn $name(tile: &Tile<'_>) {
            // SAFETY: passed on from the caller.
            unsafe {
                match tile.live {
                    1 => multiply::<$weights, 1>(tile),
                    2 => multiply::<$weights, 2>(tile),
                    3 => multiply::<$weights, 3>(tile),
                    4 => multiply::<$weights, 4>(tile),
                    5 => multiply::<$weights, 5>(tile),
                    _ => multiply::<$weights, ROWS>(tile),
                }
            }
        }
    };
}

kernel!(
    /// f32 rows by an f32 panel.
    multiply_f32, F32
);
kernel!(
    /// f32 rows (rounded to bf16, padded) by a bf16 panel.
    multiply_bf16, Bf16
);
