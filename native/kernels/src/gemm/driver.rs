//! The blocked loop that every product and convolution runs through.
//!
//! A task owns some rows of the output and some panels of the weights. It walks the panels; for each panel it walks blocks
//! of the reduction that fit in the L1 cache, and for each block the row tiles, adding into a scratch tile of f32 sums that
//! the epilogue finally turns into output.

use std::ops::Range;

use half::bf16;

use crate::pool::{num_threads, parallel_for};
use crate::simd::Simd;
use crate::{Isa, KernelError, scratch};

use super::epilogue::{Finish, Store};
use super::rows::{Dtype, Number, RowFormat, Rows, row_bytes};
use super::{PANEL, PackedWeights, Precision, int8, row_format, scalar};
#[cfg(target_arch = "x86_64")]
use super::{amx, avx2, avx512};

/// What a micro-kernel multiplies: some rows of A by one block of a panel.
// Only the x86-64 kernels need all of it.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(crate) struct Tile<'a> {
    /// Row pointers, `[tap][row]` with `row_stride` entries per tap.
    pub rows: *const *const u8,
    pub row_stride: usize,
    /// Bytes from one row to the next for each `[tap][16 rows]`, 0 where they are not equally far apart. Only filled in
    /// for kernels with [`Kernel::strides`].
    pub row_strides: *const usize,
    /// Live rows, at most the kernel's `tile_rows`.
    pub live: usize,
    /// The panel, and the bytes of one tap of it.
    pub panel: *const u8,
    pub tap_bytes: usize,
    /// Weights to bring into the L2 cache meanwhile, which need not exist: a share of those that the next block needs. Worth
    /// it where the arithmetic is so quick that the hardware's own prefetching lags behind, on AMX.
    pub ahead: *const u8,
    /// The block: all taps of `taps`, channels `channels` of each.
    pub block: &'a Block,
    /// `[live][32]` sums.
    pub sums: *mut f32,
    /// Whether to add to `sums` or to overwrite them.
    pub accumulate: bool,
    /// Whether only the first 16 columns matter.
    pub narrow: bool,
}

/// A part of the reduction: either several whole taps or some channels of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub taps: Range<usize>,
    pub channels: Range<usize>,
}

/// A micro-kernel and what it expects.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    pub tile_rows: usize,
    /// Channels (times taps) that one block should have at most; a multiple of 32.
    pub block: usize,
    /// Bytes that the rows of one task should have at most, about half of the L2 cache: they are read for every panel.
    pub resident: usize,
    pub rows: RowFormat,
    pub isa: Isa,
    /// # Safety
    /// The CPU has the kernel's instructions and everything the tile names exists.
    pub multiply: unsafe fn(&Tile<'_>),
    /// Whether `multiply` reads [`Tile::row_strides`].
    pub strides: bool,
    /// Whether `multiply` reads bf16 panels where the weights are int8: each is expanded first.
    pub expand: bool,
    /// What the task's thread has to do before the first and after the last tile.
    pub around: Option<Around>,
}

/// Sets up and clears state that a micro-kernel needs on its thread.
#[derive(Clone, Copy)]
pub(crate) struct Around {
    /// # Safety
    /// The CPU has the kernel's instructions.
    pub before: unsafe fn(),
    /// # Safety
    /// As `before`.
    pub after: unsafe fn(),
}

/// Where the output goes.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub ptr: *mut u8,
    pub dtype: Dtype,
    /// Elements from one row to the next.
    pub stride: usize,
}

// SAFETY: tasks write disjoint parts.
unsafe impl Sync for Output {}

impl Output {
    pub(crate) fn new<T: Number>(ptr: *mut T, stride: usize) -> Self {
        Self { ptr: ptr.cast(), dtype: T::DTYPE, stride }
    }

    /// The output without its first `rows` rows.
    ///
    /// # Safety
    /// They exist.
    pub(crate) unsafe fn skip(&self, rows: usize) -> Self {
        // SAFETY: passed on from the caller.
        Self { ptr: unsafe { self.ptr.add(rows * self.stride * self.dtype.bytes()) }, ..*self }
    }

    /// Stores one vector.
    ///
    /// # Safety
    /// The elements exist; the CPU has the instructions of `S`.
    #[inline(always)]
    pub(crate) unsafe fn lanes<S: Simd>(&self, row: usize, column: usize, value: S::V) {
        let index = row * self.stride + column;
        // SAFETY: passed on from the caller.
        unsafe {
            match self.dtype {
                Dtype::F32 => S::store(self.ptr.cast::<f32>().add(index), value),
                Dtype::Bf16 => S::store_bf16(self.ptr.cast::<bf16>().add(index), value),
            }
        }
    }
}

/// The micro-kernel for weights of this precision and `m` rows, on the active instruction set.
pub(crate) fn kernel(precision: Precision, m: usize) -> Kernel {
    let mut isa = Isa::active();
    if isa == Isa::Amx && (precision == Precision::F32 || m <= FEW_ROWS) {
        isa = Isa::Avx512Bf16;
    }
    if precision == Precision::Int8 {
        // Every int8 is a bf16 too.
        return int8::kernel(isa, m).unwrap_or_else(|| Kernel { expand: true, ..kernel(Precision::Bf16, m) });
    }
    let plain = |tile_rows, block, multiply| Kernel {
        tile_rows,
        block,
        resident: 512 << 10,
        rows: row_format(isa, precision),
        isa,
        multiply,
        strides: false,
        expand: false,
        around: None,
    };
    match (isa, precision) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Amx, _) => Kernel {
            strides: true,
            // Every CPU with AMX has 2 MiB of L2 per core.
            resident: 5 << 18,
            around: Some(Around { before: amx::configure, after: amx::release }),
            ..plain(amx::ROWS, 256, amx::multiply)
        },
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512Bf16, Precision::Bf16) => plain(avx512::ROWS, 1024, avx512::multiply_bf16),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, Precision::Bf16) => plain(avx512::ROWS, 512, avx512::multiply_widened),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512 | Isa::Avx512Bf16, Precision::F32) => plain(avx512::ROWS, 512, avx512::multiply_f32),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Precision::F32) => plain(avx2::ROWS, 256, avx2::multiply_f32),
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, Precision::Bf16) => plain(avx2::ROWS, 512, avx2::multiply_bf16),
        (_, Precision::F32) => plain(8, 256, scalar::multiply_f32),
        (_, _) => plain(8, 256, scalar::multiply_bf16),
    }
}

/// Up to here the weights' bandwidth is the limit, and a 32-row tile would mostly multiply zeros.
pub(super) const FEW_ROWS: usize = 4;

/// Entries of the row-pointer table of one task: 32 KiB, which stays in L2 beside a panel.
const TABLE: usize = 4096;

/// Rows of one task at most, so that its sums (64 KiB) stay in L2 too.
const TASK_ROWS: usize = 512;

/// Rows that share an entry of [`Tile::row_strides`].
const GROUP: usize = 16;

/// Computes `m` rows of output.
///
/// # Safety
/// `rows` yields readable rows in the kernel's format, `out` and `finish` are valid for `m` rows.
pub(crate) unsafe fn run(
    kernel: &Kernel,
    w: &PackedWeights,
    m: usize,
    rows: &dyn Rows,
    finish: &Finish,
    out: Output,
) -> Result<(), KernelError> {
    let plan = Plan::new(kernel, w, m);
    let blocks = blocks(w.taps, w.channels, kernel.block);
    let failed = std::sync::Mutex::new(None);
    parallel_for(plan.tasks(), &|task| {
        let sums_bytes = plan.sums_panels() * plan.task_rows * PANEL * size_of::<f32>();
        let entries = w.taps * plan.task_rows;
        let table_bytes = (entries + entries.div_ceil(GROUP)) * size_of::<usize>();
        let table_bytes = table_bytes.next_multiple_of(64);
        let expanded_bytes = if kernel.expand { int8::expanded_bytes(w) } else { 0 };
        let group_bytes = if kernel.strides && w.taps == 1 { GROUP * row_bytes(kernel.rows, w.channels) } else { 0 };
        let result = scratch::with(sums_bytes + table_bytes + expanded_bytes + group_bytes, |memory| {
            let table = memory.wrapping_add(sums_bytes).cast::<*const u8>();
            let memory = Memory {
                sums: memory.cast(),
                table,
                strides: table.wrapping_add(entries).cast(),
                expanded: memory.wrapping_add(sums_bytes + table_bytes),
                group: memory.wrapping_add(sums_bytes + table_bytes + expanded_bytes),
            };
            // SAFETY: the scratch is that large; the caller vouches for the rest.
            unsafe {
                kernel.around.inspect(|around| (around.before)());
                run_task(kernel, w, &plan, &blocks, task, rows, finish, out, &memory);
                kernel.around.inspect(|around| (around.after)());
            }
        });
        if let Err(error) = result {
            *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
        }
    });
    match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// How the output is cut into tasks.
struct Plan {
    m: usize,
    panels: usize,
    task_rows: usize,
    task_panels: usize,
    /// Blocks of the reduction that all panels of a task go through before the next ones: all of them, unless rows are so
    /// long that only a part of each stays in the L2 cache.
    span: usize,
}

/// Rows of a task that goes through long rows in parts, and the panels whose sums it keeps meanwhile.
const LONG_ROWS: usize = 256;
const LONG_PANELS: usize = 8;

impl Plan {
    fn new(kernel: &Kernel, w: &PackedWeights, m: usize) -> Self {
        let panels = w.panels();
        let mut resident = (kernel.resident / row_bytes(kernel.rows, w.channels).max(1)).max(32);
        // Fewer rows would read the weights more often than their bandwidth allows, where the arithmetic is this quick.
        let long = kernel.strides && !kernel.expand && w.taps == 1 && resident < m.min(LONG_ROWS);
        let mut span = usize::MAX;
        if long {
            let parts = row_bytes(kernel.rows, w.channels).div_ceil(kernel.resident / LONG_ROWS);
            span = w.channels.div_ceil(kernel.block).div_ceil(parts);
            resident = LONG_ROWS;
        }
        let most = ((TABLE / w.taps).min(TASK_ROWS).min(resident) / kernel.tile_rows).max(1) * kernel.tile_rows;
        let task_rows = m.div_ceil(m.div_ceil(most)).next_multiple_of(kernel.tile_rows);
        // Several tasks per thread even out the load; weights are read once per row chunk, so cut along panels first.
        let wanted = 4 * num_threads();
        let row_chunks = m.div_ceil(task_rows);
        let mut task_panels = panels.div_ceil(wanted.div_ceil(row_chunks)).max(1);
        if long {
            task_panels = task_panels.min(LONG_PANELS);
        }
        Self { m, panels, task_rows, task_panels, span }
    }

    /// Panels whose sums a task has in memory at once.
    fn sums_panels(&self) -> usize {
        if self.span == usize::MAX { 1 } else { self.task_panels }
    }

    fn tasks(&self) -> usize {
        self.m.div_ceil(self.task_rows) * self.panels.div_ceil(self.task_panels)
    }
}

/// The scratch memory of one task.
struct Memory {
    /// `[panels][task_rows][32]`, with [`Plan::sums_panels`].
    sums: *mut f32,
    /// `[taps][task_rows]`
    table: *mut *const u8,
    /// `[taps][task_rows / 16]`
    strides: *mut usize,
    /// A panel of int8 weights as bf16, for kernels with [`Kernel::expand`].
    expanded: *mut u8,
    /// A group of rows, for kernels with [`Kernel::strides`].
    group: *mut u8,
}

/// # Safety
/// As [`run`]; this thread may use the memory.
#[allow(clippy::too_many_arguments)]
unsafe fn run_task(
    kernel: &Kernel,
    w: &PackedWeights,
    plan: &Plan,
    blocks: &[Block],
    task: usize,
    rows: &dyn Rows,
    finish: &Finish,
    out: Output,
    memory: &Memory,
) {
    let chunks = plan.m.div_ceil(plan.task_rows);
    let first_row = (task % chunks) * plan.task_rows;
    let live_rows = plan.task_rows.min(plan.m - first_row);
    let first_panel = (task / chunks) * plan.task_panels;
    let Memory { sums, table, strides, expanded, .. } = *memory;
    for tap in 0..w.taps {
        // SAFETY: the table has a row of entries per tap, initialised memory like all scratch.
        let pointers = unsafe { std::slice::from_raw_parts_mut(table.add(tap * plan.task_rows), live_rows) };
        rows.fill(first_row, tap, pointers);
        if kernel.strides {
            for (group, pointers) in pointers.chunks(GROUP).enumerate() {
                // SAFETY: there is an entry per tap and group.
                unsafe { *strides.add(tap * (plan.task_rows / GROUP) + group) = common_stride(pointers) };
            }
        }
    }
    // Rows that do not fill a group are copied to where there is room for a whole one, and then read like the others.
    let rest = live_rows % GROUP;
    let padded = kernel.strides && w.taps == 1 && rest != 0;
    if padded {
        let bytes = row_bytes(kernel.rows, w.channels);
        // SAFETY: the scratch has room for a group of rows; those that are live are readable, and have as many bytes up to
        // the padding to whole steps.
        unsafe {
            for (i, row) in (live_rows - rest..live_rows).enumerate() {
                let copy = memory.group.add(i * bytes);
                (*table.add(row)).copy_to_nonoverlapping(copy, w.channels.next_multiple_of(PANEL) * 2);
                *table.add(row) = copy;
            }
            (live_rows..live_rows.next_multiple_of(GROUP)).for_each(|row| *table.add(row) = memory.group);
            *strides.add(live_rows / GROUP) = bytes;
        }
    }
    let panels = first_panel..(first_panel + plan.task_panels).min(plan.panels);
    let length = plan.span.min(blocks.len());
    let spans = blocks.chunks(length).enumerate().map(|(i, span)| (i * length, span));
    for ((done, span), panel) in spans.flat_map(|span| panels.clone().map(move |panel| (span, panel))) {
        let sums = sums.wrapping_add((panel - first_panel) % plan.sums_panels() * plan.task_rows * PANEL);
        let (weights, tap_bytes) = if kernel.expand {
            // SAFETY: the scratch has room for a panel.
            unsafe { int8::expand(kernel.isa, w, panel, expanded) };
            (expanded.cast_const(), 2 * w.tap_bytes())
        } else {
            (w.panel(panel), w.tap_bytes())
        };
        for (i, block) in span.iter().enumerate().map(|(i, block)| (done + i, block)) {
            for row in (0..live_rows).step_by(kernel.tile_rows) {
                let live = kernel.tile_rows.min(live_rows - row);
                let tile = Tile {
                    // SAFETY: row < live_rows <= task_rows.
                    rows: unsafe { table.add(row) },
                    row_stride: plan.task_rows,
                    // SAFETY: as above; tiles of kernels that read strides are a multiple of 16 rows.
                    row_strides: unsafe { strides.add(row / GROUP) },
                    live: if padded { live.next_multiple_of(GROUP) } else { live },
                    panel: weights,
                    ahead: ahead(w, panel, block, row / kernel.tile_rows, live_rows.div_ceil(kernel.tile_rows)),
                    tap_bytes,
                    block,
                    // SAFETY: the sums have task_rows rows.
                    sums: unsafe { sums.add(row * PANEL) },
                    accumulate: i > 0,
                    narrow: w.n <= PANEL / 2 && !w.gated,
                };
                // SAFETY: every row pointer of the tile is filled in; the kernel matches the CPU.
                unsafe { (kernel.multiply)(&tile) };
                if i + 1 < blocks.len() {
                    continue;
                }
                let (first_row, rows, sums, scales) = (first_row + row, live, tile.sums, w.scales(panel));
                // SAFETY: the panel's columns and these rows exist in the output.
                unsafe { Store { w, panel, first_row, rows, sums, scales, finish, out }.store(kernel.isa) };
            }
        }
    }
}

/// Where one of `parts` shares of the weights that follow a block begins: the same tap's next channels, the next tap or the
/// next panel, all of which lie side by side. (Of int8 weights a share of the next panel, which is what is expanded next.)
fn ahead(w: &PackedWeights, panel: usize, block: &Block, part: usize, parts: usize) -> *const u8 {
    let bytes = block.taps.len() * block.channels.len().next_multiple_of(PANEL) * w.row_bytes();
    let start = block.taps.start * w.tap_bytes() + block.channels.start * w.row_bytes();
    let next = if w.precision == Precision::Int8 { w.panel_bytes() } else { bytes };
    w.panel(panel).wrapping_add(start + next + bytes.div_ceil(parts) * part)
}

/// The distance between successive rows of a full group if it is always the same, else 0.
fn common_stride(rows: &[*const u8]) -> usize {
    let stride = (rows[1 % rows.len()] as usize).wrapping_sub(rows[0] as usize);
    let equal = rows.windows(2).all(|pair| (pair[1] as usize).wrapping_sub(pair[0] as usize) == stride);
    if rows.len() == GROUP && equal { stride } else { 0 }
}

/// Cuts the reduction into blocks of at most `limit` channels.
pub(crate) fn blocks(taps: usize, channels: usize, limit: usize) -> Vec<Block> {
    if taps * channels == 0 {
        return vec![Block { taps: 0..0, channels: 0..0 }];
    }
    if channels > limit {
        let parts = channels.div_ceil(limit);
        let size = channels.div_ceil(parts).next_multiple_of(PANEL);
        return (0..taps)
            .flat_map(|tap| {
                (0..channels)
                    .step_by(size)
                    .map(move |c| Block { taps: tap..tap + 1, channels: c..(c + size).min(channels) })
            })
            .collect();
    }
    let group = (limit / channels).clamp(1, taps);
    (0..taps).step_by(group).map(|tap| Block { taps: tap..(tap + group).min(taps), channels: 0..channels }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_the_reduction_once() {
        for (taps, channels) in [(1, 1), (1, 1000), (9, 3), (9, 128), (9, 768), (1, 256), (4, 257), (0, 5), (3, 0)] {
            let mut seen = vec![0; taps * channels];
            let blocks = blocks(taps, channels, 256);
            for block in &blocks {
                assert!(block.taps.len() * block.channels.len() <= 256);
                assert!(block.channels.start % 32 == 0);
                for tap in block.taps.clone() {
                    block.channels.clone().for_each(|c| seen[tap * channels + c] += 1);
                }
            }
            assert!(seen.iter().all(|&n| n == 1), "{taps} {channels} {blocks:?}");
            assert!(!blocks.is_empty());
        }
    }
}
