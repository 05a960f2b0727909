//! Attention over blocks of keys with a running softmax, so that the scores of long sequences are never all in memory.
//!
//! Everything is transposed: a vector holds the same number of up to 16 queries, so keys and values are broadcast from
//! where they lie, and the largest score and the sum of a query are taken lane by lane.

#![expect(clippy::needless_range_loop, reason = "register tiles are arrays whose indices mean lanes")]

use std::ops::Range;

use super::{Call, transpose::transpose};
use crate::pool::{num_threads, parallel_for};
use crate::simd::{self, Kernel, Simd, math};
use crate::{AttentionMask, Isa, KernelError, scratch};

/// Keys whose scores are in memory at once.
const BLOCK: usize = 128;
/// Keys (or columns of values) in one register tile; keys and columns are padded to it.
const STRIP: usize = 4;
/// Queries that one task works on at most, so that the copies of keys and values pay.
const CHUNK: usize = 256;

/// # Safety
/// The slices reach as far as the call's shape and strides.
pub(super) unsafe fn run(call: &Call<'_>, isa: Isa) -> Result<(), KernelError> {
    let shape = call.shape;
    let pairs = shape.batch * shape.heads;
    // Long sequences of few heads still have to keep every thread busy.
    let fair = (pairs * shape.q_len).div_ceil(2 * num_threads()).next_multiple_of(64);
    let chunk = CHUNK.min(fair).min(shape.q_len);
    let chunks = shape.q_len.div_ceil(chunk);
    let failed = std::sync::atomic::AtomicBool::new(false);
    let (lanes, vectors) = simd::dispatch(isa, TileSize);
    let size = Sizes::new(chunk, shape.head_dim, lanes * vectors);
    parallel_for(pairs * chunks, &|task| {
        let (pair, first) = (task / chunks, task % chunks * chunk);
        let rows = first..(first + chunk).min(shape.q_len);
        let done = scratch::with(size.total() * size_of::<f32>(), |memory| {
            let memory = Memory::new(memory.cast(), &size);
            simd::dispatch(isa, Task { call, b: pair / shape.heads, h: pair % shape.heads, rows, memory, size });
        });
        if done.is_err() {
            failed.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    if failed.into_inner() { Err(KernelError::OutOfMemory(size.total() * size_of::<f32>())) } else { Ok(()) }
}

/// Lanes of a vector, and vectors of queries in a tile: as many as leave registers for [`STRIP`] of them and operands.
struct TileSize;

impl Kernel for TileSize {
    type Output = (usize, usize);
    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> (usize, usize) {
        (S::LANES, vectors::<S>())
    }
}

const fn vectors<S: Simd>() -> usize {
    if S::LANES >= 16 { 4 } else { 2 }
}

/// Elements of the scratch space of a task.
#[derive(Clone, Copy)]
struct Sizes {
    /// Queries in a tile.
    tile: usize,
    tiles: usize,
    head_dim: usize,
    /// `head_dim` in whole strips.
    columns: usize,
}

impl Sizes {
    fn new(rows: usize, head_dim: usize, tile: usize) -> Self {
        Self { tile, tiles: rows.div_ceil(tile), head_dim, columns: head_dim.next_multiple_of(STRIP) }
    }

    fn parts(&self) -> [usize; 6] {
        let rows = self.tiles * self.tile;
        [
            rows * self.head_dim,
            rows * self.columns,
            2 * rows,
            BLOCK * self.head_dim,
            BLOCK * self.columns,
            BLOCK * self.tile,
        ]
    }

    fn total(&self) -> usize {
        self.parts().iter().sum()
    }
}

/// The scratch space, all of it f32.
struct Memory {
    /// Queries times the scale, by tile, `[head_dim][tile]`.
    queries: *mut f32,
    /// Sums of weighted values, by tile, `[columns][tile]`.
    sums: *mut f32,
    /// Largest score and sum of weights, by tile, `[2][tile]`.
    state: *mut f32,
    /// A block of keys, `[BLOCK][head_dim]`.
    keys: *mut f32,
    /// A block of values, `[columns / STRIP][BLOCK][STRIP]`.
    values: *mut f32,
    /// Scores, then weights, of one tile and block: `[BLOCK][tile]`.
    scores: *mut f32,
}

impl Memory {
    fn new(start: *mut f32, size: &Sizes) -> Self {
        let mut next = start;
        let mut take = |len: usize| {
            let part = next;
            next = next.wrapping_add(len);
            part
        };
        let [queries, sums, state, keys, values, scores] = size.parts().map(&mut take);
        Self { queries, sums, state, keys, values, scores }
    }
}

/// Some queries of one head.
struct Task<'a> {
    call: &'a Call<'a>,
    b: usize,
    h: usize,
    rows: Range<usize>,
    memory: Memory,
    size: Sizes,
}

impl Kernel for Task<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let shape = &self.call.shape;
        let last = match self.call.mask {
            AttentionMask::Causal => self.rows.end + shape.kv_len - shape.q_len,
            _ => shape.kv_len,
        };
        // SAFETY: every pointer stays within what `run` and the call promise; `S` is there.
        unsafe {
            for tile in 0..self.tiles() {
                self.load_queries::<S>(tile);
            }
            for first in (0..last).step_by(BLOCK) {
                let block = first..(first + BLOCK).min(last);
                self.copy_block(&block);
                for tile in 0..self.tiles() {
                    match (vectors::<S>(), self.tile_rows(tile).len().div_ceil(S::LANES)) {
                        (_, 1) => self.tile_block::<S, 1>(tile, &block),
                        (2, _) | (_, 2) => self.tile_block::<S, 2>(tile, &block),
                        _ => self.tile_block::<S, 4>(tile, &block),
                    }
                }
            }
            for tile in 0..self.tiles() {
                self.store::<S>(tile);
            }
        }
    }
}

impl Task<'_> {
    #[inline(always)]
    fn tiles(&self) -> usize {
        self.rows.len().div_ceil(self.size.tile)
    }

    #[inline(always)]
    fn tile_rows(&self, tile: usize) -> Range<usize> {
        let first = self.rows.start + tile * self.size.tile;
        first..(first + self.size.tile).min(self.rows.end)
    }

    /// Transposes the queries of a tile, scales them and clears its sums.
    #[inline(always)]
    unsafe fn load_queries<S: Simd>(&self, tile: usize) {
        let (rows, width, head_dim) = (self.tile_rows(tile), self.size.tile, self.size.head_dim);
        let shape = &self.call.shape;
        // SAFETY: the tile's part of the memory, and queries that exist.
        unsafe {
            let to = self.memory.queries.add(tile * width * head_dim);
            if rows.len() < width {
                to.write_bytes(0, width * head_dim);
            }
            let from = self.call.q.as_ptr().add(shape.q.at(self.b, self.h, rows.start));
            transpose::<S>(from, shape.q.position, (rows.len(), head_dim), to, width);
            let scale = S::splat(self.call.scale);
            for i in (0..width * head_dim).step_by(S::LANES) {
                S::store(to.add(i), S::mul(S::load(to.add(i)), scale));
            }
            self.memory.sums.add(tile * width * self.size.columns).write_bytes(0, width * self.size.columns);
            let state = self.memory.state.add(tile * width * 2);
            for i in (0..width).step_by(S::LANES) {
                // Lower than any score but a hidden one, so that subtracting it is always defined.
                S::store(state.add(i), S::splat(f32::MIN));
                S::store(state.add(width + i), S::splat(0.0));
            }
        }
    }

    /// Copies a block of keys and values to where they lie close together, padded with zeros.
    #[inline(always)]
    unsafe fn copy_block(&self, block: &Range<usize>) {
        let (head_dim, columns) = (self.size.head_dim, self.size.columns);
        let shape = &self.call.shape;
        let kv_head = self.h / (shape.heads / shape.kv_heads);
        // SAFETY: keys and values of the block exist; the copies hold BLOCK of them.
        unsafe {
            for (i, j) in block.clone().enumerate() {
                let key = self.call.k.as_ptr().add(shape.k.at(self.b, kv_head, j));
                key.copy_to_nonoverlapping(self.memory.keys.add(i * head_dim), head_dim);
                let value = self.call.v.as_ptr().add(shape.v.at(self.b, kv_head, j));
                for c in (0..columns).step_by(STRIP) {
                    let to = self.memory.values.add(c * BLOCK + i * STRIP);
                    if c + STRIP <= head_dim {
                        value.add(c).cast::<[f32; STRIP]>().copy_to_nonoverlapping(to.cast(), 1);
                    } else {
                        to.write_bytes(0, STRIP);
                        value.add(c).copy_to_nonoverlapping(to, head_dim - c);
                    }
                }
            }
            let keys = block.len();
            let padding = keys.next_multiple_of(STRIP) - keys;
            self.memory.keys.add(keys * head_dim).write_bytes(0, padding * head_dim);
        }
    }

    /// What one block of keys adds to one tile of queries, `W` vectors wide.
    #[inline(always)]
    unsafe fn tile_block<S: Simd, const W: usize>(&self, tile: usize, block: &Range<usize>) {
        let rows = self.tile_rows(tile);
        let shape = &self.call.shape;
        let keys = match self.call.mask {
            // The last query of the tile sees the most keys.
            AttentionMask::Causal => {
                block.len().min((rows.end + shape.kv_len - shape.q_len).saturating_sub(block.start))
            }
            _ => block.len(),
        };
        if keys == 0 {
            return;
        }
        // SAFETY: passed on from the caller.
        unsafe {
            self.score::<S, W>(tile, keys);
            match self.call.mask {
                AttentionMask::None => {}
                AttentionMask::Causal => self.hide_later_keys::<S, W>(&rows, block.start, keys),
                AttentionMask::Additive { mask, strides } => {
                    for (r, i) in rows.enumerate() {
                        let mask = mask.as_ptr().add(strides.at(self.b, self.h, i) + block.start);
                        for j in 0..keys {
                            *self.memory.scores.add(j * self.size.tile + r) += *mask.add(j);
                        }
                    }
                }
            }
            let corrections = self.weigh::<S, W>(tile, keys);
            self.accumulate::<S, W>(tile, keys, corrections);
        }
    }

    /// `scores[j][query] = key j · query`.
    #[inline(always)]
    unsafe fn score<S: Simd, const W: usize>(&self, tile: usize, keys: usize) {
        let (width, head_dim) = (self.size.tile, self.size.head_dim);
        // SAFETY: keys are padded to whole strips, queries to whole vectors.
        unsafe {
            let queries = self.memory.queries.add(tile * width * head_dim);
            for j in (0..keys).step_by(STRIP) {
                let keys = self.memory.keys.add(j * head_dim);
                let mut sums = [[S::splat(0.0); W]; STRIP];
                for d in 0..head_dim {
                    let mut query = [S::splat(0.0); W];
                    for w in 0..W {
                        query[w] = S::load(queries.add(d * width + w * S::LANES));
                    }
                    for i in 0..STRIP {
                        let key = S::splat(*keys.add(i * head_dim + d));
                        for w in 0..W {
                            sums[i][w] = S::fma(key, query[w], sums[i][w]);
                        }
                    }
                }
                for i in 0..STRIP {
                    for w in 0..W {
                        S::store(self.memory.scores.add((j + i) * width + w * S::LANES), sums[i][w]);
                    }
                }
            }
        }
    }

    /// Sets the scores of keys that come after a query to −∞.
    #[inline(always)]
    unsafe fn hide_later_keys<S: Simd, const W: usize>(&self, rows: &Range<usize>, first_key: usize, keys: usize) {
        const LANE: [f32; 16] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];
        let shape = &self.call.shape;
        // Keys of this block that the tile's first query sees: only those after them can be hidden from anyone.
        let seen = (rows.start + shape.kv_len - shape.q_len + 1) as isize - first_key as isize;
        // SAFETY: within the scores.
        unsafe {
            for j in seen.max(0) as usize..keys {
                let behind = (j as isize - seen) as f32;
                for w in 0..W {
                    let at = self.memory.scores.add(j * self.size.tile + w * S::LANES);
                    let lane = S::add(S::load(LANE.as_ptr()), S::splat((w * S::LANES) as f32));
                    let hidden = S::splat(f32::NEG_INFINITY);
                    S::store(at, S::select_lt(S::splat(behind), lane, S::load(at), hidden));
                }
            }
        }
    }

    /// Turns scores into weights relative to the largest score so far, and returns what to multiply older sums by.
    #[inline(always)]
    unsafe fn weigh<S: Simd, const W: usize>(&self, tile: usize, keys: usize) -> [S::V; W] {
        let width = self.size.tile;
        // SAFETY: within the scores and the tile's state.
        unsafe {
            let mut corrections = [S::splat(0.0); W];
            for w in 0..W {
                let scores = self.memory.scores.add(w * S::LANES);
                let state = self.memory.state.add(tile * width * 2 + w * S::LANES);
                let before = S::load(state);
                let mut largest = before;
                for j in 0..keys {
                    largest = S::max(S::load(scores.add(j * width)), largest);
                }
                corrections[w] = math::exp::<S>(S::sub(before, largest));
                let mut sum = S::mul(S::load(state.add(width)), corrections[w]);
                for j in 0..keys {
                    let weight = math::exp::<S>(S::sub(S::load(scores.add(j * width)), largest));
                    S::store(scores.add(j * width), weight);
                    sum = S::add(sum, weight);
                }
                S::store(state, largest);
                S::store(state.add(width), sum);
            }
            corrections
        }
    }

    /// `sums[c][query] = correction · sums[c][query] + Σ_j weights[j][query] · value j [c]`.
    #[inline(always)]
    unsafe fn accumulate<S: Simd, const W: usize>(&self, tile: usize, keys: usize, corrections: [S::V; W]) {
        let width = self.size.tile;
        // SAFETY: values and sums are padded to whole strips.
        unsafe {
            let tile_sums = self.memory.sums.add(tile * width * self.size.columns);
            for c in (0..self.size.columns).step_by(STRIP) {
                let values = self.memory.values.add(c * BLOCK);
                let mut sums = [[S::splat(0.0); W]; STRIP];
                for i in 0..STRIP {
                    for w in 0..W {
                        sums[i][w] = S::mul(S::load(tile_sums.add((c + i) * width + w * S::LANES)), corrections[w]);
                    }
                }
                for j in 0..keys {
                    let mut weight = [S::splat(0.0); W];
                    for w in 0..W {
                        weight[w] = S::load(self.memory.scores.add(j * width + w * S::LANES));
                    }
                    for i in 0..STRIP {
                        let value = S::splat(*values.add(j * STRIP + i));
                        for w in 0..W {
                            sums[i][w] = S::fma(value, weight[w], sums[i][w]);
                        }
                    }
                }
                for i in 0..STRIP {
                    for w in 0..W {
                        S::store(tile_sums.add((c + i) * width + w * S::LANES), sums[i][w]);
                    }
                }
            }
        }
    }

    /// Divides by the sums of weights and writes the rows of a tile.
    #[inline(always)]
    unsafe fn store<S: Simd>(&self, tile: usize) {
        let (rows, width, columns) = (self.tile_rows(tile), self.size.tile, self.size.columns);
        let shape = &self.call.shape;
        // SAFETY: the tile's part of the memory, and output rows that exist.
        unsafe {
            let sums = self.memory.sums.add(tile * width * columns);
            let weights = self.memory.state.add(tile * width * 2 + width);
            for w in (0..width).step_by(S::LANES) {
                // A query that sees nothing has weight 0 and sums 0; NaN stays NaN.
                let weight = S::load(weights.add(w));
                let inverse = S::select_lt(S::splat(0.0), weight, S::div(S::splat(1.0), weight), weight);
                for c in 0..self.size.head_dim {
                    let at = sums.add(c * width + w);
                    S::store(at, S::mul(S::load(at), inverse));
                }
            }
            let to = self.call.out.add(shape.out.at(self.b, self.h, rows.start));
            transpose::<S>(sums, width, (self.size.head_dim, rows.len()), to, shape.out.position);
        }
    }
}
