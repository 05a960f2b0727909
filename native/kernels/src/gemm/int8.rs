//! Products with int8 weights, whose scales the epilogue applies.
//!
//! Every int8 is a bf16 too. So a panel is expanded in scratch memory, where it stays in the cache, and then multiplied as
//! bf16 by the kernel of the instruction set. For a few rows, where only the weights' bandwidth counts, they are instead
//! widened to f32 on their way into the registers.

use crate::Isa;
use crate::simd::{self, Simd};

use super::driver::{FEW_ROWS, Kernel, Tile};
use super::{PANEL, PackedWeights, RowFormat, scalar};

/// How far ahead weights are brought into the L1 and the L2 cache, in bytes: widening keeps the window in which the CPU
/// could look ahead itself busy.
const AHEAD: [usize; 2] = [1 << 10, 32 << 10];

/// The kernel that reads int8 panels, for a few rows.
pub(super) fn kernel(isa: Isa, m: usize) -> Option<Kernel> {
    if m > FEW_ROWS {
        return None;
    }
    let (isa, multiply): (Isa, unsafe fn(&Tile<'_>)) = match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => (Isa::Avx512, multiply_avx512),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => (Isa::Avx2, multiply_avx2),
        _ => (Isa::Scalar, scalar::multiply_int8),
    };
    Some(Kernel {
        tile_rows: FEW_ROWS,
        block: 2048,
        resident: 512 << 10,
        rows: RowFormat::RoundedF32,
        isa,
        multiply,
        strides: false,
        expand: false,
        around: None,
    })
}

/// Bytes of a panel as bf16.
pub(super) fn expanded_bytes(w: &PackedWeights) -> usize {
    w.panel_bytes() * 2
}

/// Writes a panel as the bf16 panel with the same numbers.
///
/// # Safety
/// The weights are int8, `to` has [`expanded_bytes`] and is aligned to a cache line.
pub(super) unsafe fn expand(isa: Isa, w: &PackedWeights, panel: usize, to: *mut u8) {
    simd::dispatch(isa, Expand { from: w.panel(panel).cast(), channels: w.panel_bytes() / PANEL, to: to.cast() });
}

/// Channels of a panel, an even number, those of every tap after those of the one before.
struct Expand {
    from: *const i8,
    channels: usize,
    to: *mut [half::bf16; 2],
}

impl simd::Kernel for Expand {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for pair in 0..self.channels / 2 {
            for column in (0..PANEL).step_by(S::LANES) {
                // SAFETY: both channels have a panel's columns, and so has the pair.
                unsafe {
                    let even = self.from.add(pair * 2 * PANEL + column);
                    let to = self.to.add(pair * PANEL + column);
                    S::store_bf16_pairs(to, S::load_i8(even), S::load_i8(even.add(PANEL)));
                }
            }
        }
    }
}

/// Sums in registers of one row and two vectors of columns: successive channels go to different ones, as one after the other
/// each would have to wait for the last.
const CHAINS: usize = 2;

/// `LIVE` rows by one block of a panel, two vectors of columns at a time.
///
/// # Safety
/// Everything the tile names exists; the CPU has the instructions of `S`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn multiply<S: Simd, const LIVE: usize>(tile: &Tile<'_>) {
    let (first, channels) = (tile.block.channels.start, tile.block.channels.len());
    for pass in (0..PANEL).step_by(2 * S::LANES) {
        // SAFETY: passed on from the caller; rows are padded, so that a whole number of pairs can be read.
        unsafe {
            let mut sums = [[[S::splat(0.0); 2]; CHAINS]; LIVE];
            if tile.accumulate {
                for (row, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums[0].iter_mut().enumerate() {
                        *sum = S::load(tile.sums.add(row * PANEL + pass + v * S::LANES));
                    }
                }
            }
            for tap in tile.block.taps.clone() {
                let mut rows = [std::ptr::null::<f32>(); LIVE];
                for (row, pointer) in rows.iter_mut().enumerate() {
                    *pointer = (*tile.rows.add(tap * tile.row_stride + row)).cast::<f32>().add(first);
                }
                let panel = tile.panel.add(tap * tile.tap_bytes + first * PANEL);
                for channel in (0..channels).step_by(CHAINS) {
                    let panel = panel.add(channel * PANEL);
                    simd::prefetch(panel.wrapping_add(AHEAD[0]));
                    simd::prefetch_l2(panel.wrapping_add(AHEAD[1]));
                    for chain in 0..CHAINS {
                        let weights = panel.add(chain * PANEL + pass).cast::<i8>();
                        let weights = [S::load_i8(weights), S::load_i8(weights.add(S::LANES))];
                        for (row, sums) in rows.iter().zip(&mut sums) {
                            let value = S::splat(*row.add(channel + chain));
                            for (weights, sum) in weights.into_iter().zip(&mut sums[chain]) {
                                *sum = S::fma(value, weights, *sum);
                            }
                        }
                    }
                }
            }
            for (row, sums) in sums.iter().enumerate() {
                for (v, (&even, &odd)) in sums[0].iter().zip(&sums[1]).enumerate() {
                    S::store(tile.sums.add(row * PANEL + pass + v * S::LANES), S::add(even, odd));
                }
            }
        }
    }
}

/// Defines a micro-kernel for up to [`FEW_ROWS`] rows (rounded to bf16 and padded) by an int8 panel.
#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    ($name:ident, $simd:ty, $features:literal) => {
        /// # Safety
        /// Everything the tile names exists; the CPU has the instructions.
        #[target_feature(enable = $features)]
        unsafe fn $name(tile: &Tile<'_>) {
            // SAFETY: passed on from the caller.
            unsafe {
                match tile.live {
                    1 => multiply::<$simd, 1>(tile),
                    2 => multiply::<$simd, 2>(tile),
                    3 => multiply::<$simd, 3>(tile),
                    _ => multiply::<$simd, FEW_ROWS>(tile),
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernel!(multiply_avx2, simd::Avx2, "avx2,fma");
#[cfg(target_arch = "x86_64")]
kernel!(multiply_avx512, simd::Avx512, "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl");
