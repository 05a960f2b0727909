//! 3×3 convolution with a quarter of the multiplications: Winograd's F(4×4, 3×3) for large f32 images.
//!
//! A tile of 6×6 input pixels yields 4×4 outputs as `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`: 36 independent matrix products over
//! the channels, which run on the gemm micro-kernels, between three cheap linear transforms. The interpolation points are
//! 0, 1, −1, ½ and −2 (and infinity), which keep the error near 4e-6 of the largest output; the customary 0, ±1, ±2 have
//! three times as much. A NaN or infinity in the input reaches every output of the tiles it lies in.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015); Barabasz et al., "Error Analysis and
//! Improving the Accuracy of Winograd Convolution for Deep Neural Networks" (2018).

use crate::gemm::driver::{self, Output, Tile};
use crate::gemm::{Finish, PANEL, PackedWeights, Precision, Store};
use crate::pool::{num_threads, parallel_for};
use crate::scratch::{self, Shared};
use crate::simd::{self, Kernel, Scalar, Simd};
use crate::{Conv2dShape, Isa, KernelError};

/// Products per tile.
const POINTS: usize = 36;
/// Output rows and columns of a tile.
const SIDE: usize = 4;
/// Tiles of a task at most: their transforms (128 channels: 860 KiB) stay in L2.
const TASK_TILES: usize = 48;
/// Fewer tiles than this do not repay transforming the weights.
const MIN_TILES: usize = 192;
/// Transformed weights may take this much scratch memory.
const MAX_WEIGHTS: usize = 48 << 20;
/// Distance in floats added between the 36 matrices, so that they do not all fall into the same cache sets.
const SKEW: usize = 16;

/// An image in memory, as [`crate::conv2d`] has it: f32 pixels at a fixed distance.
#[derive(Clone, Copy)]
pub(crate) struct Image<'a> {
    pub base: *const u8,
    pub pixel_bytes: usize,
    /// One pixel of zeros, for what lies outside.
    pub zeros: *const u8,
    pub shape: &'a Conv2dShape,
    pub out_h: usize,
    pub out_w: usize,
}

// SAFETY: only read.
unsafe impl Sync for Image<'_> {}

impl Image<'_> {
    fn tiles(&self) -> [usize; 3] {
        [self.shape.n, self.out_h.div_ceil(SIDE), self.out_w.div_ceil(SIDE)]
    }

    /// Image, top and left output pixel of a tile.
    fn corner(&self, tile: usize) -> (usize, usize, usize) {
        let [_, rows, columns] = self.tiles();
        (tile / (rows * columns), tile / columns % rows * SIDE, tile % columns * SIDE)
    }

    /// Where the 36 input pixels of a tile are.
    fn pixels(&self, tile: usize) -> [*const u8; POINTS] {
        let Conv2dShape { h, w, pad: [top, left, ..], upsample, .. } = *self.shape;
        let (image, oy, ox) = self.corner(tile);
        std::array::from_fn(|i| {
            // Above and left of the image these wrap around to huge numbers, which are outside too.
            let y = (oy + i / 6).wrapping_sub(top);
            let x = (ox + i % 6).wrapping_sub(left);
            if y < h * upsample && x < w * upsample {
                self.base.wrapping_add(((image * h + y / upsample) * w + x / upsample) * self.pixel_bytes)
            } else {
                self.zeros
            }
        })
    }
}

/// Whether the convolution is one that this is faster for.
pub(crate) fn applies(w: &PackedWeights, (kh, kw): (usize, usize), image: &Image<'_>) -> bool {
    let tiles: usize = image.tiles().iter().product();
    Isa::active() != Isa::Scalar
        && w.precision == Precision::F32
        && (kh, kw, image.shape.stride) == (3, 3, 1)
        && w.channels >= 32
        && w.n >= PANEL
        && tiles >= MIN_TILES
        && w.panels() * POINTS * w.channels * PANEL * size_of::<f32>() <= MAX_WEIGHTS
}

/// The convolution; [`applies`] has said yes.
///
/// # Safety
/// The image is readable, `finish` and `out` are valid for every output pixel.
pub(crate) unsafe fn run(
    image: &Image<'_>,
    w: &PackedWeights,
    finish: &Finish,
    out: Output,
) -> Result<(), KernelError> {
    let isa = Isa::active();
    let kernel = driver::kernel(Precision::F32, TASK_TILES);
    let channels = w.channels;
    let tiles: usize = image.tiles().iter().product();
    let even = tiles.div_ceil(2 * num_threads()).next_multiple_of(kernel.tile_rows);
    let task_tiles = even.min(TASK_TILES / kernel.tile_rows * kernel.tile_rows);
    let matrix = task_tiles * channels + SKEW;
    let panel_floats = POINTS * channels * PANEL;
    scratch::with(w.panels() * panel_floats * size_of::<f32>(), |memory| {
        let weights = Shared::new(memory.cast::<f32>());
        parallel_for(w.panels(), &|panel| {
            // SAFETY: the scratch has a panel's floats per panel.
            let to = unsafe { weights.add(panel * panel_floats) };
            simd::dispatch(isa, TransformWeights { w, panel, to });
        });
        let failed = std::sync::Mutex::new(None);
        parallel_for(tiles.div_ceil(task_tiles), &|task| {
            let first = task * task_tiles;
            let live = task_tiles.min(tiles - first);
            let sums = POINTS * task_tiles * PANEL;
            let result = scratch::with((sums + POINTS * matrix) * size_of::<f32>(), |memory| {
                let sums_at = memory.cast::<f32>();
                // SAFETY: the scratch holds both; the caller vouches for image, epilogue and output.
                unsafe {
                    let inputs = sums_at.add(sums);
                    simd::dispatch(isa, TransformInput { image, channels, first, live, matrix, to: inputs });
                    let rows: Vec<*const u8> = (0..POINTS * task_tiles)
                        .map(|i| inputs.add(i / task_tiles * matrix + i % task_tiles * channels).cast_const().cast())
                        .collect();
                    for panel in 0..w.panels() {
                        let weights = weights.add(panel * panel_floats).cast_const();
                        products(&kernel, channels, weights.cast(), &rows, task_tiles, live, sums_at);
                        let from = sums_at.cast_const();
                        let finish = TransformOutput { image, w, panel, first, live, task_tiles, from, finish, out };
                        simd::dispatch(isa, finish);
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

/// The 36 products of one panel: `sums [36][task_tiles][32]`.
///
/// # Safety
/// `rows` has `task_tiles` pointers to `channels` floats per point, `weights` is a transformed panel.
unsafe fn products(
    kernel: &driver::Kernel,
    channels: usize,
    weights: *const u8,
    rows: &[*const u8],
    task_tiles: usize,
    live: usize,
    sums: *mut f32,
) {
    for block in driver::blocks(POINTS, channels, kernel.block.min(channels)) {
        let point = block.taps.start;
        for row in (0..live).step_by(kernel.tile_rows) {
            // SAFETY: the pointers stay inside their buffers.
            unsafe {
                (kernel.multiply)(&Tile {
                    rows: rows.as_ptr().add(row),
                    row_stride: task_tiles,
                    row_strides: std::ptr::null(),
                    live: kernel.tile_rows.min(live - row),
                    panel: weights,
                    ahead: weights,
                    tap_bytes: channels * PANEL * size_of::<f32>(),
                    sums: sums.add((point * task_tiles + row) * PANEL),
                    accumulate: block.channels.start > 0,
                    narrow: false,
                    block: &block,
                });
            }
        }
    }
}

/// `G g Gᵀ` for one panel of weights: `[9][channels][32]` to `[36][channels][32]`.
struct TransformWeights<'a> {
    w: &'a PackedWeights,
    panel: usize,
    to: *mut f32,
}

impl Kernel for TransformWeights<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let from = self.w.panel(self.panel).cast::<f32>();
        let tap = self.w.channels * PANEL;
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
                        S::store(self.to.add((y * 6 + x) * tap + i), value);
                    }
                }
            }
        }
    }
}

/// `Bᵀ d B` for some tiles: `[36][tiles][channels]`.
struct TransformInput<'a> {
    image: &'a Image<'a>,
    channels: usize,
    first: usize,
    live: usize,
    /// Floats from one of the 36 matrices to the next.
    matrix: usize,
    to: *mut f32,
}

impl Kernel for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let whole = self.channels / S::LANES * S::LANES;
        for tile in 0..self.live {
            let pixels = self.image.pixels(self.first + tile);
            // SAFETY: every pixel has the channels, the destination room for the tile.
            unsafe {
                let to = self.to.add(tile * self.channels);
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
    image: &'a Image<'a>,
    w: &'a PackedWeights,
    panel: usize,
    first: usize,
    live: usize,
    task_tiles: usize,
    /// `[36][task_tiles][32]`
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
        let &Image { out_h, out_w, .. } = self.image;
        for tile in 0..self.live {
            // SAFETY: the sums have that many tiles; only rows and columns inside the output are stored.
            unsafe {
                for column in (0..PANEL).step_by(S::LANES) {
                    let from = self.from.add(tile * PANEL + column);
                    let mut half = [[S::splat(0.0); 6]; SIDE];
                    for x in 0..6 {
                        let points: [S::V; 6] =
                            std::array::from_fn(|y| S::load(from.add((y * 6 + x) * self.task_tiles * PANEL)));
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
                let (image, oy, ox) = self.image.corner(self.first + tile);
                for y in 0..SIDE.min(out_h - oy) {
                    let store = Store {
                        w: self.w,
                        panel: self.panel,
                        first_row: (image * out_h + oy + y) * out_w + ox,
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
