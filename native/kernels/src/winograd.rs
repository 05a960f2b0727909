//! 3×3 convolution of f32 images and videos with a quarter of the multiplications: Winograd's F(4×4, 3×3) in space.
//!
//! A tile of 6×6 input pixels yields 4×4 outputs as `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`: 36 independent matrix products over
//! the channels, which run on the gemm micro-kernels, between three cheap linear transforms. Taps in time are added up
//! between the transforms, and what was transformed of a frame serves all output frames of a task that it is part of. The
//! interpolation points are 0, 1, −1, ½ and −2 (and infinity), which keep the error near 4e-6 of the largest output; the
//! customary 0, ±1, ±2 have three times as much. A NaN or infinity in the input reaches every output of the tiles it lies in.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015); Barabasz et al., "Error Analysis and
//! Improving the Accuracy of Winograd Convolution for Deep Neural Networks" (2018).

use std::ops::Range;

use crate::gemm::driver::{self, Output, Tile};
use crate::gemm::{Finish, PANEL, PackedWeights, Precision, Store};
use crate::pool::{num_threads, parallel_for};
use crate::scratch::{self, Shared};
use crate::simd::{self, Kernel, Scalar, Simd};
use crate::{Isa, KernelError};

/// Products per tile.
const POINTS: usize = 36;
/// Output rows and columns of a tile.
const SIDE: usize = 4;
/// Tiles of a task at most, over all its frames: their transforms (128 channels: 860 KiB) stay in L2.
const TASK_TILES: usize = 56;
/// Output frames of a task at most where a kernel reaches over several: frames at its borders are transformed twice.
const TASK_FRAMES: usize = 8;
/// Fewer tiles than this do not repay transforming the weights.
const MIN_TILES: usize = 100;
/// Scratch memory that transformed weights take at once, unless one panel needs more: as much as caches hold.
const MAX_WEIGHTS: usize = 16 << 20;
/// Distance in floats added between the 36 matrices, so that they do not all fall into the same cache sets.
const SKEW: usize = 16;

/// Frames in memory, as [`crate::conv2d`] and [`crate::conv3d`] have them: f32 pixels at a fixed distance. An image is an
/// output frame made of one input frame.
#[derive(Clone, Copy)]
pub(crate) struct Frames {
    pub base: *const u8,
    pub pixel_bytes: usize,
    /// One pixel of zeros, for what lies outside.
    pub zeros: *const u8,
    /// Height and width of a frame in memory.
    pub h: usize,
    pub w: usize,
    /// Zeros above and left of a frame.
    pub pad: [usize; 2],
    /// 1, or 2 to read the frame enlarged twofold.
    pub upsample: usize,
    pub out_t: usize,
    pub out_h: usize,
    pub out_w: usize,
    /// Input frames that an output frame is made of.
    pub kt: usize,
    /// Output frame `t` and tap `dt` read the frame `t + dt − before`, or the nearest that there is of `count`.
    pub before: usize,
    pub count: usize,
}

// SAFETY: only read.
unsafe impl Sync for Frames {}

impl Frames {
    /// Rows and columns of tiles in a frame.
    fn tiles(&self) -> [usize; 2] {
        [self.out_h.div_ceil(SIDE), self.out_w.div_ceil(SIDE)]
    }

    /// Top and left output pixel of a tile.
    fn corner(&self, tile: usize) -> (usize, usize) {
        let [_, columns] = self.tiles();
        (tile / columns * SIDE, tile % columns * SIDE)
    }

    /// Where the 36 input pixels of a tile are at time `t` of the padded frames.
    fn pixels(&self, t: usize, tile: usize) -> [*const u8; POINTS] {
        let Self { h, w, pad: [top, left], upsample, .. } = *self;
        let frame = t.saturating_sub(self.before).min(self.count - 1);
        let (oy, ox) = self.corner(tile);
        std::array::from_fn(|i| {
            // Above and left of the frame these wrap around to huge numbers, which are outside too.
            let y = (oy + i / 6).wrapping_sub(top);
            let x = (ox + i % 6).wrapping_sub(left);
            if y < h * upsample && x < w * upsample {
                self.base.wrapping_add(((frame * h + y / upsample) * w + x / upsample) * self.pixel_bytes)
            } else {
                self.zeros
            }
        })
    }
}

/// How the output is cut into tasks, each some tiles of some frames.
#[derive(Clone, Copy)]
struct Plan {
    tiles: usize,
    task_tiles: usize,
    task_frames: usize,
}

impl Plan {
    fn new(frames: &Frames, tile_rows: usize) -> Self {
        let tiles = frames.tiles().iter().product::<usize>();
        let most = if frames.kt == 1 { 1.max(tile_rows / tiles.max(1)) } else { TASK_FRAMES }.min(frames.out_t);
        let task_frames = frames.out_t.div_ceil(frames.out_t.div_ceil(most));
        let even = (tiles * frames.out_t).div_ceil(2 * num_threads() * task_frames).next_multiple_of(tile_rows);
        let room = (TASK_TILES / task_frames / tile_rows).max(1) * tile_rows;
        Self { tiles, task_tiles: even.min(room).min(tiles), task_frames }
    }
}

/// Whether the convolution is one that this is faster for.
pub(crate) fn applies(w: &PackedWeights, (kh, kw): (usize, usize), stride: usize, frames: &Frames) -> bool {
    let tiles: usize = frames.out_t * frames.tiles().iter().product::<usize>();
    Isa::active() != Isa::Scalar
        && w.precision == Precision::F32
        && (kh, kw, stride) == (3, 3, 1)
        && w.channels >= 32
        && w.n >= PANEL
        && tiles >= MIN_TILES
}

/// Floats of a transformed panel: `[36][kt][channels][32]`.
fn panel_floats(w: &PackedWeights, kt: usize) -> usize {
    POINTS * kt * w.channels * PANEL
}

/// The convolution; [`applies`] has said yes.
///
/// # Safety
/// The frames are readable, `finish` and `out` are valid for every output pixel.
pub(crate) unsafe fn run(frames: &Frames, w: &PackedWeights, finish: &Finish, out: Output) -> Result<(), KernelError> {
    let most = (MAX_WEIGHTS / (panel_floats(w, frames.kt) * size_of::<f32>())).max(1);
    let group = w.panels().div_ceil(w.panels().div_ceil(most));
    (0..w.panels()).step_by(group).try_for_each(|first| {
        // SAFETY: passed on from the caller.
        unsafe { run_panels(frames, w, first..(first + group).min(w.panels()), finish, out) }
    })
}

/// The output columns of some panels.
///
/// # Safety
/// As [`run`].
unsafe fn run_panels(
    frames: &Frames,
    w: &PackedWeights,
    panels: Range<usize>,
    finish: &Finish,
    out: Output,
) -> Result<(), KernelError> {
    let isa = Isa::active();
    let kernel = driver::kernel(Precision::F32, TASK_TILES);
    let (channels, kt) = (w.channels, frames.kt);
    let plan = Plan::new(frames, kernel.tile_rows);
    // Tiles of all frames that a task reads, and of those that it makes.
    let (read, made) = ((plan.task_frames + kt - 1) * plan.task_tiles, plan.task_frames * plan.task_tiles);
    let matrix = read * channels + SKEW;
    let panel_floats = panel_floats(w, kt);
    scratch::with(panels.len() * panel_floats * size_of::<f32>(), |memory| {
        let weights = Shared::new(memory.cast::<f32>());
        parallel_for(panels.len() * kt, &|task| {
            // SAFETY: the scratch has a panel's floats per panel.
            let to = unsafe { weights.add(task / kt * panel_floats) };
            simd::dispatch(isa, TransformWeights { w, panel: panels.start + task / kt, dt: task % kt, kt, to });
        });
        let failed = std::sync::Mutex::new(None);
        let strips = plan.tiles.div_ceil(plan.task_tiles);
        parallel_for(strips * frames.out_t.div_ceil(plan.task_frames), &|task| {
            let part = Part::new(&plan, frames, task % strips, task / strips);
            let sums = POINTS * made * PANEL;
            let result = scratch::with((sums + POINTS * matrix) * size_of::<f32>(), |memory| {
                let sums_at = memory.cast::<f32>();
                // SAFETY: the scratch holds both; the caller vouches for frames, epilogue and output.
                unsafe {
                    let inputs = sums_at.add(sums);
                    simd::dispatch(isa, TransformInput { frames, part, channels, matrix, to: inputs });
                    let rows: Vec<*const u8> = (0..POINTS * read)
                        .map(|i| inputs.add(i / read * matrix + i % read * channels).cast_const().cast())
                        .collect();
                    for panel in panels.clone() {
                        let weights = weights.add((panel - panels.start) * panel_floats).cast_const();
                        let products = Products { kernel: &kernel, channels, kt, read, made, part };
                        products.run(weights.cast(), &rows, sums_at);
                        let from = sums_at.cast_const();
                        simd::dispatch(isa, TransformOutput { frames, w, panel, part, made, from, finish, out });
                    }
                }
            });
            if let Err(error) = result {
                *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
            }
        });
        failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
    })?
}

/// What one task makes: `tiles` tiles from `first_tile` on in each of `live` frames from `first` on. In memory its tiles lie
/// frame by frame.
#[derive(Clone, Copy)]
struct Part {
    first_tile: usize,
    tiles: usize,
    first: usize,
    live: usize,
}

impl Part {
    fn new(plan: &Plan, frames: &Frames, strip: usize, chunk: usize) -> Self {
        let (first_tile, first) = (strip * plan.task_tiles, chunk * plan.task_frames);
        let tiles = plan.task_tiles.min(plan.tiles - first_tile);
        Self { first_tile, tiles, first, live: plan.task_frames.min(frames.out_t - first) }
    }
}

/// The 36 products of one panel: `sums [36][made][32]`.
struct Products<'a> {
    kernel: &'a driver::Kernel,
    channels: usize,
    kt: usize,
    /// Row pointers per point.
    read: usize,
    made: usize,
    part: Part,
}

impl Products<'_> {
    /// # Safety
    /// `rows` has `read` pointers to `channels` floats per point, `weights` is a transformed panel.
    unsafe fn run(&self, weights: *const u8, rows: &[*const u8], sums: *mut f32) {
        let &Self { kernel, channels, kt, read, made, part } = self;
        let live = part.live * part.tiles;
        for block in driver::blocks(POINTS * kt, channels, kernel.block.min(channels)) {
            let (point, dt) = (block.taps.start / kt, block.taps.start % kt);
            // What an output frame reads at this tap lies so many tiles further on; the kernel counts rows by taps.
            let rows = rows.as_ptr().wrapping_add(point * read + dt * part.tiles);
            let rows = rows.wrapping_sub(block.taps.start * read);
            for row in (0..live).step_by(kernel.tile_rows) {
                // SAFETY: the pointers stay inside their buffers.
                unsafe {
                    (kernel.multiply)(&Tile {
                        rows: rows.wrapping_add(row),
                        row_stride: read,
                        row_strides: std::ptr::null(),
                        live: kernel.tile_rows.min(live - row),
                        panel: weights,
                        ahead: weights,
                        tap_bytes: channels * PANEL * size_of::<f32>(),
                        sums: sums.add((point * made + row) * PANEL),
                        accumulate: dt > 0 || block.channels.start > 0,
                        narrow: false,
                        block: &block,
                    });
                }
            }
        }
    }
}

/// `G g Gᵀ` for one tap in time of one panel of weights: `[9][channels][32]` to its part of `[36][kt][channels][32]`.
struct TransformWeights<'a> {
    w: &'a PackedWeights,
    panel: usize,
    dt: usize,
    kt: usize,
    to: *mut f32,
}

impl Kernel for TransformWeights<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let tap = self.w.channels * PANEL;
        let from = self.w.panel(self.panel).cast::<f32>().wrapping_add(self.dt * 9 * tap);
        let to = self.to.wrapping_add(self.dt * tap);
        for i in (0..tap).step_by(S::LANES) {
            // SAFETY: a tap has that many floats, source and destination 9 and 36 of them; 32 is a multiple of the lanes.
            unsafe {
                let mut half = [[S::splat(0.0); 3]; 6];
                for x in 0..3 {
                    let column = weight_points::<S>(std::array::from_fn(|y| S::load(from.add((y * 3 + x) * tap + i))));
                    for (half, value) in half.iter_mut().zip(column) {
                        half[x] = value;
                    }
                }
                for (y, row) in half.into_iter().enumerate() {
                    for (x, value) in weight_points::<S>(row).into_iter().enumerate() {
                        S::store(to.add((y * 6 + x) * self.kt * tap + i), value);
                    }
                }
            }
        }
    }
}

/// `Bᵀ d B` for the tiles of all frames that a task reads: `[36][frames][tiles][channels]`.
struct TransformInput<'a> {
    frames: &'a Frames,
    part: Part,
    channels: usize,
    /// Floats from one of the 36 matrices to the next.
    matrix: usize,
    to: *mut f32,
}

impl Kernel for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let whole = self.channels / S::LANES * S::LANES;
        let part = self.part;
        for i in 0..(part.live + self.frames.kt - 1) * part.tiles {
            let pixels = self.frames.pixels(part.first + i / part.tiles, part.first_tile + i % part.tiles);
            // SAFETY: every pixel has the channels, the destination room for the tile.
            unsafe {
                let to = self.to.add(i * self.channels);
                for channel in (0..whole).step_by(S::LANES) {
                    self.lanes::<S>(&pixels, channel, to);
                }
                for channel in whole..self.channels {
                    self.lanes::<Scalar>(&pixels, channel, to);
                }
            }
        }
    }
}

impl TransformInput<'_> {
    /// # Safety
    /// The pixels have the channels, `to` has room; the CPU has the instructions of `S`.
    #[inline(always)]
    unsafe fn lanes<S: Simd>(&self, pixels: &[*const u8; POINTS], channel: usize, to: *mut f32) {
        // SAFETY: passed on from the caller.
        unsafe {
            let mut half = [[S::splat(0.0); 6]; 6];
            for x in 0..6 {
                let column: [S::V; 6] = std::array::from_fn(|y| S::load(pixels[y * 6 + x].cast::<f32>().add(channel)));
                for (half, value) in half.iter_mut().zip(input_points::<S>(column)) {
                    half[x] = value;
                }
            }
            for (y, row) in half.into_iter().enumerate() {
                for (x, value) in input_points::<S>(row).into_iter().enumerate() {
                    S::store(to.add((y * 6 + x) * self.matrix + channel), value);
                }
            }
        }
    }
}

/// `Aᵀ m A` for some tiles of one panel, and the epilogue.
struct TransformOutput<'a> {
    frames: &'a Frames,
    w: &'a PackedWeights,
    panel: usize,
    part: Part,
    made: usize,
    /// `[36][made][32]`
    from: *const f32,
    finish: &'a Finish,
    out: Output,
}

impl Kernel for TransformOutput<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        #[repr(align(64))]
        struct Pixels([[f32; PANEL]; SIDE * SIDE]);
        let mut pixels = Pixels([[0.0; PANEL]; SIDE * SIDE]);
        let (&Frames { out_h, out_w, .. }, part) = (self.frames, self.part);
        for i in 0..part.live * part.tiles {
            // SAFETY: the sums have that many tiles; only rows and columns inside the output are stored.
            unsafe {
                for column in (0..PANEL).step_by(S::LANES) {
                    let from = self.from.add(i * PANEL + column);
                    let mut half = [[S::splat(0.0); 6]; SIDE];
                    for x in 0..6 {
                        let points: [S::V; 6] =
                            std::array::from_fn(|y| S::load(from.add((y * 6 + x) * self.made * PANEL)));
                        for (half, value) in half.iter_mut().zip(outputs::<S>(points)) {
                            half[x] = value;
                        }
                    }
                    for (y, row) in half.into_iter().enumerate() {
                        for (x, value) in outputs::<S>(row).into_iter().enumerate() {
                            S::store(pixels.0[y * SIDE + x].as_mut_ptr().add(column), value);
                        }
                    }
                }
                let frame = part.first + i / part.tiles;
                let (oy, ox) = self.frames.corner(part.first_tile + i % part.tiles);
                for y in 0..SIDE.min(out_h - oy) {
                    let store = Store {
                        w: self.w,
                        panel: self.panel,
                        first_row: (frame * out_h + oy + y) * out_w + ox,
                        rows: SIDE.min(out_w - ox),
                        sums: pixels.0[y * SIDE].as_ptr(),
                        scales: None,
                        finish: self.finish,
                        out: self.out,
                    };
                    store.run::<S>();
                }
            }
        }
    }
}

/// One dimension of `G`.
///
/// # Safety
/// The CPU has the instructions of `S`.
#[inline(always)]
unsafe fn weight_points<S: Simd>([a, b, c]: [S::V; 3]) -> [S::V; 6] {
    // SAFETY: passed on from the caller.
    unsafe {
        let times = |v, by| S::mul(v, S::splat(by));
        let ends = times(S::add(a, c), 1.0 / 3.0);
        let middle = times(b, 1.0 / 3.0);
        let near = S::fma(b, S::splat(-8.0 / 15.0), S::fma(c, S::splat(-4.0 / 15.0), times(a, -16.0 / 15.0)));
        let far = S::fma(b, S::splat(-2.0 / 15.0), S::fma(c, S::splat(4.0 / 15.0), times(a, 1.0 / 15.0)));
        [a, S::add(ends, middle), S::sub(middle, ends), near, far, c]
    }
}

/// One dimension of `Bᵀ`.
///
/// # Safety
/// The CPU has the instructions of `S`.
#[inline(always)]
unsafe fn input_points<S: Simd>([a, b, c, d, e, f]: [S::V; 6]) -> [S::V; 6] {
    // SAFETY: passed on from the caller.
    unsafe {
        let fma = |v, by, to| S::fma(v, S::splat(by), to);
        let outer = S::sub(d, b);
        let inner = S::sub(e, c);
        [
            fma(outer, 1.5, fma(c, -2.0, S::add(a, e))),
            fma(c, 0.5, fma(d, 2.5, S::sub(e, b))),
            fma(c, -2.5, fma(d, 0.5, S::add(e, b))),
            fma(outer, 2.0, inner),
            fma(outer, -0.5, inner),
            fma(inner, 1.5, fma(d, -2.0, S::add(b, f))),
        ]
    }
}

/// One dimension of `Aᵀ`.
///
/// # Safety
/// The CPU has the instructions of `S`.
#[inline(always)]
unsafe fn outputs<S: Simd>([a, b, c, d, e, f]: [S::V; 6]) -> [S::V; 4] {
    // SAFETY: passed on from the caller.
    unsafe {
        let fma = |v, by, to| S::fma(v, S::splat(by), to);
        let (sum, difference) = (S::add(b, c), S::sub(b, c));
        [
            S::add(S::add(a, sum), S::add(d, e)),
            fma(d, 0.5, fma(e, -2.0, difference)),
            fma(d, 0.25, fma(e, 4.0, sum)),
            fma(d, 0.125, fma(e, -8.0, S::add(difference, f))),
        ]
    }
}
