//! The AMX micro-kernel: 32 rows by a panel of 32 columns in four tiles of f32 sums, with `tdpbf16ps`.
//!
//! The intrinsics are unstable, so the instructions are written out. All use of tile registers between configuration and
//! release is inside one `asm!` block per call, which walks a table with the addresses of each step's tiles. Rows at equal
//! distances are loaded where they lie; others (a convolution at the edge of an image row, a tile that is not full) are
//! first copied side by side.

use std::arch::asm;

use super::PANEL;
use super::driver::Tile;

/// Rows of a full tile.
pub(crate) const ROWS: usize = 2 * TILE;
/// Rows of one tile register.
pub(crate) const TILE: usize = 16;
/// Channels of one step, and the bytes they take in a row.
const CHANNELS: usize = 32;
const STEP_BYTES: usize = 64;
/// Steps per `asm!` block: 512 channels.
const STEPS: usize = 16;

/// The tile configuration: palette 1, all eight tiles 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Configures this thread's tiles, before a task's first [`multiply`].
///
/// # Safety
/// The CPU has AMX and Linux has permitted it.
pub(crate) unsafe fn configure() {
    // SAFETY: ldtilecfg reads the 64 bytes of a valid configuration.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, preserves_flags, readonly)) };
}

/// Gives the tiles back after a task's last [`multiply`], so that context switches need not save them.
///
/// # Safety
/// As [`configure`].
pub(crate) unsafe fn release() {
    // SAFETY: tilerelease only resets tile state.
    unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
}

/// Where one step finds its tiles. The `asm!` below knows the offsets.
#[repr(C)]
#[derive(Clone, Copy)]
struct Step {
    rows: [*const u8; 2],
    row_stride: [usize; 2],
    panel: *const u8,
}

/// Room for one step's rows when they have to be copied together.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Copied([[u8; STEP_BYTES]; ROWS]);

/// bf16 rows by one block of a bf16 panel.
///
/// # Safety
/// Everything the tile names exists, rows are padded with zeros to a multiple of 32 channels, `row_strides` has an entry
/// per tap and 16 rows, `sums` has room for 32 rows; this thread's tiles are configured.
pub(crate) unsafe fn multiply(tile: &Tile<'_>) {
    let mut steps = [Step { rows: [std::ptr::null(); 2], row_stride: [0; 2], panel: std::ptr::null() }; STEPS];
    let mut copies = [std::mem::MaybeUninit::<Copied>::uninit(); STEPS];
    let mut filled = 0;
    let mut accumulate = tile.accumulate;
    for tap in tile.block.taps.clone() {
        for channel in tile.block.channels.clone().step_by(CHANNELS) {
            if filled == STEPS {
                // SAFETY: all steps are filled in.
                unsafe { run(&steps, tile, accumulate) };
                (filled, accumulate) = (0, true);
            }
            // SAFETY: the channel exists (with padding) in rows and panel.
            unsafe {
                let panel = tile.panel.add(tap * tile.tap_bytes + channel * PANEL * 2);
                steps[filled] = step(tile, tap, channel * 2, panel, copies[filled].as_mut_ptr().cast());
            }
            filled += 1;
        }
    }
    if filled > 0 || !accumulate {
        // SAFETY: as above.
        unsafe { run(&steps[..filled], tile, accumulate) };
    }
}

/// # Safety
/// As [`multiply`]; `copy` has room for 32 rows of 64 bytes.
#[inline(always)]
unsafe fn step(tile: &Tile<'_>, tap: usize, offset: usize, panel: *const u8, copy: *mut u8) -> Step {
    let mut step = Step { rows: [copy; 2], row_stride: [STEP_BYTES; 2], panel };
    for half in 0..tile.live.div_ceil(TILE) {
        let live = TILE.min(tile.live - half * TILE);
        // SAFETY: the tables cover every live row; each row has 64 bytes at the offset.
        unsafe {
            let rows = tile.rows.add(tap * tile.row_stride + half * TILE);
            let stride = *tile.row_strides.add(tap * (tile.row_stride / TILE) + half);
            if live == TILE && stride != 0 {
                step.rows[half] = (*rows).add(offset);
                step.row_stride[half] = stride;
                continue;
            }
            let copy = copy.add(half * TILE * STEP_BYTES);
            step.rows[half] = copy;
            for row in 0..live {
                std::ptr::copy_nonoverlapping((*rows.add(row)).add(offset), copy.add(row * STEP_BYTES), STEP_BYTES);
            }
            copy.add(live * STEP_BYTES).write_bytes(0, (TILE - live) * STEP_BYTES);
        }
    }
    step
}

/// # Safety
/// Every step's tiles are readable, `tile.sums` has 32 rows (16 when no more are live); tiles are configured.
unsafe fn run(steps: &[Step], tile: &Tile<'_>, accumulate: bool) {
    let (table, count) = (steps.as_ptr(), steps.len());
    // SAFETY: the caller's promise; the tile registers are used by nothing else.
    unsafe {
        if tile.live > TILE {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "test {accumulate:e}, {accumulate:e}",
                "jz 2f",
                "tileloadd tmm0, [{sums} + {stride}]",
                "tileloadd tmm1, [{sums} + {stride} + 64]",
                "tileloadd tmm2, [{below} + {stride}]",
                "tileloadd tmm3, [{below} + {stride} + 64]",
                "2:",
                "test {count}, {count}",
                "jz 4f",
                "3:",
                "mov {rows}, [{table}]",
                "mov {row_stride}, [{table} + 16]",
                "mov {panel}, [{table} + 32]",
                "tileloadd tmm4, [{rows} + {row_stride}]",
                "tileloadd tmm6, [{panel} + {stride}]",
                "tileloadd tmm7, [{panel} + {stride} + 64]",
                "mov {rows}, [{table} + 8]",
                "mov {row_stride}, [{table} + 24]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{rows} + {row_stride}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {table}, 40",
                "dec {count}",
                "jnz 3b",
                "4:",
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 64], tmm1",
                "tilestored [{below} + {stride}], tmm2",
                "tilestored [{below} + {stride} + 64], tmm3",
                accumulate = in(reg) u32::from(accumulate),
                sums = in(reg) tile.sums,
                below = in(reg) tile.sums.add(TILE * PANEL),
                stride = in(reg) PANEL * size_of::<f32>(),
                table = inout(reg) table => _,
                count = inout(reg) count => _,
                rows = out(reg) _,
                row_stride = out(reg) _,
                panel = out(reg) _,
                options(nostack),
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "test {accumulate:e}, {accumulate:e}",
                "jz 2f",
                "tileloadd tmm0, [{sums} + {stride}]",
                "tileloadd tmm1, [{sums} + {stride} + 64]",
                "2:",
                "test {count}, {count}",
                "jz 4f",
                "3:",
                "mov {rows}, [{table}]",
                "mov {row_stride}, [{table} + 16]",
                "mov {panel}, [{table} + 32]",
                "tileloadd tmm4, [{rows} + {row_stride}]",
                "tileloadd tmm6, [{panel} + {stride}]",
                "tileloadd tmm7, [{panel} + {stride} + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {table}, 40",
                "dec {count}",
                "jnz 3b",
                "4:",
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 64], tmm1",
                accumulate = in(reg) u32::from(accumulate),
                sums = in(reg) tile.sums,
                stride = in(reg) PANEL * size_of::<f32>(),
                table = inout(reg) table => _,
                count = inout(reg) count => _,
                rows = out(reg) _,
                row_stride = out(reg) _,
                panel = out(reg) _,
                options(nostack),
            );
        }
    }
}
