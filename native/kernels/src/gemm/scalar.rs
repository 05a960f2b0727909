//! The scalar micro-kernels: the reference for every other path, and the code that runs where there is no other.

use half::bf16;

use super::PANEL;
use super::driver::Tile;

/// f32 rows by an f32 panel.
///
/// # Safety
/// Everything the tile names exists.
pub(crate) unsafe fn multiply_f32(tile: &Tile<'_>) {
    // SAFETY: passed on from the caller.
    unsafe {
        multiply(tile, |panel, channel, column| *panel.cast::<f32>().add(channel * PANEL + column));
    }
}

/// f32 rows (rounded to bf16) by a bf16 panel.
///
/// # Safety
/// Everything the tile names exists.
pub(crate) unsafe fn multiply_bf16(tile: &Tile<'_>) {
    // SAFETY: passed on from the caller.
    unsafe {
        multiply(tile, |panel, channel, column| {
            (*panel.cast::<bf16>().add((channel / 2) * 2 * PANEL + column * 2 + channel % 2)).to_f32()
        });
    }
}

/// f32 rows (rounded to bf16) by an int8 panel.
///
/// # Safety
/// Everything the tile names exists.
pub(crate) unsafe fn multiply_int8(tile: &Tile<'_>) {
    // SAFETY: passed on from the caller.
    unsafe {
        multiply(tile, |panel, channel, column| f32::from(*panel.cast::<i8>().add(channel * PANEL + column)));
    }
}

/// # Safety
/// Everything the tile names exists and `weight` reads within a tap.
#[inline(always)]
unsafe fn multiply(tile: &Tile<'_>, weight: impl Fn(*const u8, usize, usize) -> f32) {
    for row in 0..tile.live {
        let mut sums = [0.0f32; PANEL];
        for tap in tile.block.taps.clone() {
            // SAFETY: the tap and row exist.
            let (a, panel) = unsafe {
                let a = *tile.rows.add(tap * tile.row_stride + row);
                (a.cast::<f32>(), tile.panel.add(tap * tile.tap_bytes))
            };
            for channel in tile.block.channels.clone() {
                // SAFETY: the channel exists in the row.
                let value = unsafe { *a.add(channel) };
                for (column, sum) in sums.iter_mut().enumerate() {
                    *sum += value * weight(panel, channel, column);
                }
            }
        }
        for (column, sum) in sums.into_iter().enumerate() {
            // SAFETY: the tile has `live` rows of 32 sums.
            unsafe {
                let slot = tile.sums.add(row * PANEL + column);
                *slot = if tile.accumulate { *slot + sum } else { sum };
            }
        }
    }
}
