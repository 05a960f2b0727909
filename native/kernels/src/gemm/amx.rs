//! The AMX micro-kernel: 32 rows by a panel of 32 columns in four tiles of f32 sums, with `tdpbf16ps`.
//!
//! The intrinsics are unstable, so the instructions are written out. All use of tile registers between configuration and
//! release is inside one `asm!` block per call, which walks a table of segments: the steps over the channels of one tap. Rows
//! at equal distances are loaded where they lie; others (a convolution at the edge of an image row, a tile that is not
//! full) are first copied side by side.

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
/// Steps per `asm!` block at most: 512 channels.
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

/// Successive steps that lie equally far apart: the channels of one tap. The `asm!` below knows the offsets.
#[repr(C)]
#[derive(Clone, Copy)]
struct Segment {
    rows: [*const u8; 2],
    row_stride: [usize; 2],
    /// Bytes from one step's rows to the next one's.
    step: usize,
    panel: *const u8,
    steps: usize,
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
    // SAFETY: passed on from the caller.
    unsafe {
        if tile.block.taps.clone().all(|tap| strides(tile, tap).is_some()) {
            walk(tile, |tap, channel, panel, steps, _| {
                let [above, below] = strides(tile, tap).unwrap_or_default();
                let rows = tile.rows.add(tap * tile.row_stride);
                // Half a tile more may be named than is read, but not looked up.
                let next = if tile.live > TILE { *rows.add(TILE) } else { *rows };
                Segment {
                    rows: [(*rows).add(channel * 2), next.add(channel * 2)],
                    row_stride: [above, below],
                    step: STEP_BYTES,
                    panel,
                    steps,
                }
            });
        } else {
            multiply_copies(tile);
        }
    }
}

/// [`multiply`] for rows that do not lie at equal distances.
///
/// # Safety
/// As [`multiply`].
// Apart, because its copies would make every call touch a stack frame of many pages.
#[inline(never)]
unsafe fn multiply_copies(tile: &Tile<'_>) {
    let mut copies = [std::mem::MaybeUninit::<Copied>::uninit(); STEPS];
    // SAFETY: the channels exist (with padding) in every live row, and there is a copy for every step of an `asm!` block.
    unsafe {
        walk(tile, |tap, channel, panel, steps, first| {
            let copy = copies[first..first + steps].as_mut_ptr().cast::<u8>();
            copy_rows(tile.rows.add(tap * tile.row_stride), tile.live, channel * 2, steps, copy);
            Segment {
                rows: [copy, copy.wrapping_add(TILE * STEP_BYTES)],
                row_stride: [STEP_BYTES; 2],
                step: size_of::<Copied>(),
                panel,
                steps,
            }
        });
    }
}

/// How far apart the rows of one tap lie in each half of the tile; `None` unless that is so for all of them.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn strides(tile: &Tile<'_>, tap: usize) -> Option<[usize; 2]> {
    // SAFETY: there is an entry per tap and half that has live rows.
    let [above, below] = unsafe {
        let strides = tile.row_strides.add(tap * (tile.row_stride / TILE));
        [*strides, if tile.live > TILE { *strides.add(1) } else { usize::MAX }]
    };
    (tile.live.is_multiple_of(TILE) && above != 0 && below != 0).then_some([above, below])
}

/// Cuts a block into segments and multiplies them, as many at a time as an `asm!` block takes. `segment` is given the tap,
/// the first channel, the panel's part, the number of steps, and how many steps come before them in the `asm!` block.
///
/// # Safety
/// As [`multiply`], and the segments hold what [`run`] needs.
#[inline(always)]
unsafe fn walk(tile: &Tile<'_>, mut segment: impl FnMut(usize, usize, *const u8, usize, usize) -> Segment) {
    let mut segments = [const { std::mem::MaybeUninit::<Segment>::uninit() }; STEPS];
    // Segments filled in, and the steps in them.
    let (mut filled, mut steps) = (0, 0);
    let mut accumulate = tile.accumulate;
    for tap in tile.block.taps.clone() {
        let mut channel = tile.block.channels.start;
        while channel < tile.block.channels.end {
            if steps == STEPS {
                // SAFETY: these segments are filled in.
                unsafe { run(segments[..filled].assume_init_ref(), tile.live, tile.sums, accumulate, tile.ahead) };
                (filled, steps, accumulate) = (0, 0, true);
            }
            let count = (tile.block.channels.end - channel).div_ceil(CHANNELS).min(STEPS - steps);
            // SAFETY: the channels exist in the panel.
            let panel = unsafe { tile.panel.add(tap * tile.tap_bytes + channel * PANEL * 2) };
            segments[filled].write(segment(tap, channel, panel, count, steps));
            (filled, steps) = (filled + 1, steps + count);
            channel += count * CHANNELS;
        }
    }
    if steps > 0 || !accumulate {
        // SAFETY: as above.
        unsafe { run(segments[..filled].assume_init_ref(), tile.live, tile.sums, accumulate, tile.ahead) };
    }
}

/// bf16 rows at equal distances by successive steps of a panel, for up to 512 channels: `sums` (`[32][32]`, or `[16][32]`
/// when at most 16 rows are live) is overwritten, or added to.
///
/// # Safety
/// The rows, whole tiles of them, have 64 bytes per step; the panel has as many steps; this thread's tiles are configured.
pub(crate) unsafe fn multiply_rows(
    (rows, row_stride): (*const u8, usize),
    live: usize,
    (panel, steps): (*const u8, usize),
    sums: *mut f32,
    accumulate: bool,
) {
    let below = rows.wrapping_add(TILE * row_stride);
    let segment = Segment { rows: [rows, below], row_stride: [row_stride; 2], step: STEP_BYTES, panel, steps };
    // SAFETY: passed on from the caller. What is multiplied here is in the cache already, so there is nothing to bring.
    unsafe { run(&[segment], live, sums, accumulate, panel) };
}

/// Lays the rows of each step side by side, padded with zeros to whole tiles.
///
/// # Safety
/// As [`multiply`]; `copy` has room for 32 rows of 64 bytes for each of `steps`.
unsafe fn copy_rows(rows: *const *const u8, live: usize, offset: usize, steps: usize, copy: *mut u8) {
    for step in 0..steps {
        // SAFETY: each live row has 64 bytes per step from the offset on.
        unsafe {
            let copy = copy.add(step * size_of::<Copied>());
            for row in 0..live {
                let from = (*rows.add(row)).add(offset + step * STEP_BYTES);
                std::ptr::copy_nonoverlapping(from, copy.add(row * STEP_BYTES), STEP_BYTES);
            }
            copy.add(live * STEP_BYTES).write_bytes(0, (live.next_multiple_of(TILE) - live) * STEP_BYTES);
        }
    }
}

/// Multiplies segments into `sums`. From `ahead` on, 128 bytes per step are brought into the L2 cache meanwhile.
///
/// # Safety
/// Every segment's tiles are readable, `sums` has 32 rows (16 when no more are live); tiles are configured.
unsafe fn run(segments: &[Segment], live: usize, sums: *mut f32, accumulate: bool, ahead: *const u8) {
    let (table, count) = (segments.as_ptr(), segments.len());
    // SAFETY: the caller's promise; the tile registers are used by nothing else.
    unsafe {
        if live > TILE {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "lea {above}, [{sums} + 2048]",
                "test {steps:e}, {steps:e}",
                "jz 2f",
                "tileloadd tmm0, [{sums} + {stride}]",
                "tileloadd tmm1, [{sums} + {stride} + 64]",
                "tileloadd tmm2, [{above} + {stride}]",
                "tileloadd tmm3, [{above} + {stride} + 64]",
                "2:",
                "test {count}, {count}",
                "jz 5f",
                "3:",
                "mov {above}, [{table}]",
                "mov {below}, [{table} + 8]",
                "mov {above_stride}, [{table} + 16]",
                "mov {below_stride}, [{table} + 24]",
                "mov {step}, [{table} + 32]",
                "mov {panel}, [{table} + 40]",
                "mov {steps}, [{table} + 48]",
                "4:",
                "tileloadd tmm4, [{above} + {above_stride}]",
                "tileloadd tmm6, [{panel} + {stride}]",
                "tileloadd tmm7, [{panel} + {stride} + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "prefetcht1 [{ahead}]",
                "tileloadd tmm5, [{below} + {below_stride}]",
                "prefetcht1 [{ahead} + 64]",
                "add {ahead}, 128",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {above}, {step}",
                "add {below}, {step}",
                "add {panel}, 2048",
                "dec {steps}",
                "jnz 4b",
                "add {table}, 56",
                "dec {count}",
                "jnz 3b",
                "5:",
                "lea {above}, [{sums} + 2048]",
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 64], tmm1",
                "tilestored [{above} + {stride}], tmm2",
                "tilestored [{above} + {stride} + 64], tmm3",
                // First whether to accumulate, then what is left of the segment.
                steps = inout(reg) usize::from(accumulate) => _,
                sums = in(reg) sums,
                stride = in(reg) PANEL * size_of::<f32>(),
                table = inout(reg) table => _,
                count = inout(reg) count => _,
                above = out(reg) _,
                below = out(reg) _,
                above_stride = out(reg) _,
                below_stride = out(reg) _,
                step = out(reg) _,
                panel = out(reg) _,
                ahead = inout(reg) ahead => _,
                options(nostack),
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "test {steps:e}, {steps:e}",
                "jz 2f",
                "tileloadd tmm0, [{sums} + {stride}]",
                "tileloadd tmm1, [{sums} + {stride} + 64]",
                "2:",
                "test {count}, {count}",
                "jz 5f",
                "3:",
                "mov {rows}, [{table}]",
                "mov {row_stride}, [{table} + 16]",
                "mov {step}, [{table} + 32]",
                "mov {panel}, [{table} + 40]",
                "mov {steps}, [{table} + 48]",
                "4:",
                "tileloadd tmm4, [{rows} + {row_stride}]",
                "tileloadd tmm6, [{panel} + {stride}]",
                "tileloadd tmm7, [{panel} + {stride} + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {rows}, {step}",
                "add {panel}, 2048",
                "dec {steps}",
                "jnz 4b",
                "add {table}, 56",
                "dec {count}",
                "jnz 3b",
                "5:",
                "tilestored [{sums} + {stride}], tmm0",
                "tilestored [{sums} + {stride} + 64], tmm1",
                steps = inout(reg) usize::from(accumulate) => _,
                sums = in(reg) sums,
                stride = in(reg) PANEL * size_of::<f32>(),
                table = inout(reg) table => _,
                count = inout(reg) count => _,
                rows = out(reg) _,
                row_stride = out(reg) _,
                step = out(reg) _,
                panel = out(reg) _,
                options(nostack),
            );
        }
    }
}
