//! Attention of a few queries over many keys, as when a decoder adds a token to its cache: keys and values are read once,
//! where they lie, for all queries that share them.
//!
//! The keys are cut into parts, so that every thread has work even where there are few heads. Each part yields the sums of
//! a softmax of its own, which are put together in the end.

use std::ops::Range;

use half::bf16;

use super::Call;
use crate::pool::{num_threads, parallel_for};
use crate::scratch::{self, Shared};
use crate::simd::{self, Kernel, Scalar, Simd, math};
use crate::{AttentionMask, Isa, KernelError};

/// Keys whose scores are in memory at once; with their values they fit the L1 cache.
const BLOCK: usize = 128;
/// Queries that are worked on together at most: their sums stay in registers.
const TOGETHER: usize = 4;
/// Keys whose scores are computed together.
const KEYS: usize = 4;
/// How many keys ahead they are brought into the cache.
const AHEAD: usize = 24;
/// Multiplications below which another thread is not worth waking.
const MIN_TASK: usize = 16 * 1024;
/// What a part keeps of each query beside the sums: its largest score, and the sum of its weights.
const STATE: usize = 2;

/// A type that queries, keys and values can have.
///
/// Two vectors of them at a time are loaded in whatever order is quickest: queries, keys, values and sums all have it, and
/// storing undoes it.
pub(super) trait Element: Copy + Sync {
    /// # Safety
    /// Two vectors of elements exist; the CPU has the instructions of `S`.
    unsafe fn load<S: Simd>(from: *const Self) -> [S::V; 2];
    /// # Safety
    /// As [`Self::load`].
    unsafe fn store<S: Simd>(to: *mut Self, values: [S::V; 2]);
    /// # Safety
    /// The element exists.
    unsafe fn load_one(from: *const Self) -> f32;
    /// # Safety
    /// The element exists.
    unsafe fn store_one(to: *mut Self, value: f32);
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> [S::V; 2] {
        // SAFETY: passed on from the caller.
        unsafe { [S::load(from), S::load(from.add(S::LANES))] }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut f32, values: [S::V; 2]) {
        // SAFETY: passed on from the caller.
        unsafe {
            S::store(to, values[0]);
            S::store(to.add(S::LANES), values[1]);
        }
    }
    #[inline(always)]
    unsafe fn load_one(from: *const f32) -> f32 {
        // SAFETY: passed on from the caller.
        unsafe { *from }
    }
    #[inline(always)]
    unsafe fn store_one(to: *mut f32, value: f32) {
        // SAFETY: passed on from the caller.
        unsafe { *to = value }
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const bf16) -> [S::V; 2] {
        // SAFETY: passed on from the caller.
        unsafe { S::load_bf16_pairs(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut bf16, values: [S::V; 2]) {
        let mut rounded = [[bf16::ZERO; 16]; 2];
        // SAFETY: passed on from the caller; no vector has more than 16 lanes.
        unsafe {
            for (values, rounded) in values.into_iter().zip(&mut rounded) {
                S::store_bf16(rounded.as_mut_ptr(), values);
            }
            let [even, odd] = rounded;
            for (lane, (even, odd)) in even.into_iter().zip(odd).take(S::LANES).enumerate() {
                *to.add(2 * lane) = even;
                *to.add(2 * lane + 1) = odd;
            }
        }
    }
    #[inline(always)]
    unsafe fn load_one(from: *const bf16) -> f32 {
        // SAFETY: passed on from the caller.
        unsafe { *from }.to_f32()
    }
    #[inline(always)]
    unsafe fn store_one(to: *mut bf16, value: f32) {
        // SAFETY: passed on from the caller.
        unsafe { *to = bf16::from_f32(value) }
    }
}

/// How many of `head_dim` elements are loaded as vectors; the others are one by one.
fn whole<S: Simd>(head_dim: usize) -> usize {
    head_dim / (2 * S::LANES) * 2 * S::LANES
}

/// # Safety
/// The slices reach as far as the call's shape and strides; `isa` is available.
pub(super) unsafe fn run<T: Element>(call: &Call<'_, T>, isa: Isa) -> Result<(), KernelError> {
    let shape = &call.shape;
    let pairs = shape.batch * shape.kv_heads;
    let rows = shape.heads / shape.kv_heads * shape.q_len;
    let work = pairs * rows * shape.kv_len * shape.head_dim;
    let tasks = (4 * num_threads()).min(work / MIN_TASK).max(1);
    let part = shape.kv_len.div_ceil(tasks.div_ceil(pairs)).next_multiple_of(16).max(16);
    let parts = shape.kv_len.div_ceil(part).max(1);
    let partial = rows * (shape.head_dim + STATE);
    let bytes = (pairs * parts)
        .checked_mul(partial * size_of::<f32>())
        .filter(|&bytes| bytes <= isize::MAX as usize)
        .ok_or(KernelError::Overflow("scores"))?;
    let failed = std::sync::atomic::AtomicBool::new(false);
    let task_bytes = (rows * shape.head_dim + TOGETHER * BLOCK) * size_of::<f32>();
    scratch::with(bytes, |partials| {
        let partials = Shared::new(partials.cast::<f32>());
        let run_part = |task: usize| {
            let (pair, at) = (task / parts, task % parts * part);
            let keys = at..(at + part).min(shape.kv_len);
            let done = scratch::with(task_bytes, |memory| {
                // SAFETY: there is a partial result for each task.
                let to = unsafe { partials.add(task * partial) };
                let queries = memory.cast::<f32>();
                let scores = queries.wrapping_add(rows * shape.head_dim);
                let (b, kv_head) = (pair / shape.kv_heads, pair % shape.kv_heads);
                simd::dispatch(isa, Part { call, b, kv_head, rows, keys, queries, scores, to });
            });
            if done.is_err() {
                failed.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        };
        let put_together = |pair: usize| {
            // SAFETY: the pair's partial results, filled in above.
            let from = unsafe { partials.add(pair * parts * partial) };
            simd::dispatch(isa, Together { call, pair, rows, parts, from });
        };
        if tasks == 1 {
            // On this thread, denormals flushed as everywhere.
            return parallel_for(1, &|_| {
                (0..pairs * parts).for_each(run_part);
                (0..pairs).for_each(put_together);
            });
        }
        parallel_for(pairs * parts, &run_part);
        if pairs * parts * partial < MIN_TASK {
            parallel_for(1, &|_| (0..pairs).for_each(put_together));
        } else {
            parallel_for(pairs, &put_together);
        }
    })?;
    if failed.into_inner() { Err(KernelError::OutOfMemory(task_bytes)) } else { Ok(()) }
}

/// Some keys of one head, and every query that sees them: those of all heads that share it, one head after the other.
struct Part<'a, T> {
    call: &'a Call<'a, T>,
    b: usize,
    kv_head: usize,
    rows: usize,
    keys: Range<usize>,
    /// Scaled queries, `[rows][head_dim]`.
    queries: *mut f32,
    /// Scores, then weights, `[TOGETHER][BLOCK]`.
    scores: *mut f32,
    /// `[rows][STATE + head_dim]`
    to: *mut f32,
}

/// The head and position of one of the queries that share a head of keys.
fn place<T>(call: &Call<'_, T>, kv_head: usize, row: usize) -> (usize, usize) {
    let group = call.shape.heads / call.shape.kv_heads;
    (kv_head * group + row / call.shape.q_len, row % call.shape.q_len)
}

impl<T: Element> Kernel for Part<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: every pointer stays within what `run` and the call promise; `S` is there.
        unsafe {
            for row in 0..self.rows {
                self.load_query::<S>(row);
            }
            for first in self.keys.clone().step_by(BLOCK) {
                let block = first..(first + BLOCK).min(self.keys.end);
                for row in (0..self.rows).step_by(TOGETHER) {
                    match self.rows - row {
                        1 => self.block::<S, 1>(row, &block),
                        2 => self.block::<S, 2>(row, &block),
                        3 => self.block::<S, 3>(row, &block),
                        _ => self.block::<S, TOGETHER>(row, &block),
                    }
                }
            }
        }
    }
}

impl<T: Element> Part<'_, T> {
    /// Copies a query times the scale, and clears its sums.
    #[inline(always)]
    unsafe fn load_query<S: Simd>(&self, row: usize) {
        let shape = &self.call.shape;
        let (h, i) = place(self.call, self.kv_head, row);
        // SAFETY: the query exists, and so do its copy and its sums.
        unsafe {
            let from = self.call.q.as_ptr().add(shape.q.at(self.b, h, i));
            let to = self.queries.add(row * shape.head_dim);
            for d in (0..whole::<S>(shape.head_dim)).step_by(2 * S::LANES) {
                for (half, query) in T::load::<S>(from.add(d)).into_iter().enumerate() {
                    S::store(to.add(d + half * S::LANES), S::mul(query, S::splat(self.call.scale)));
                }
            }
            for d in whole::<S>(shape.head_dim)..shape.head_dim {
                *to.add(d) = T::load_one(from.add(d)) * self.call.scale;
            }
            let state = self.state(row);
            state.write_bytes(0, STATE + shape.head_dim);
            // Lower than any score but a hidden one, so that subtracting it is always defined.
            *state = f32::MIN;
        }
    }

    #[inline(always)]
    unsafe fn state(&self, row: usize) -> *mut f32 {
        // SAFETY: within the partial result.
        unsafe { self.to.add(row * (STATE + self.call.shape.head_dim)) }
    }

    /// What one block of keys adds to `Q` queries from `row` on.
    #[inline(always)]
    unsafe fn block<S: Simd, const Q: usize>(&self, row: usize, block: &Range<usize>) {
        // SAFETY: passed on from `run`.
        unsafe {
            self.score::<S, Q>(row, block);
            for q in 0..Q {
                self.hide(row + q, block, self.scores.add(q * BLOCK));
                self.weigh::<S>(row + q, block.len(), self.scores.add(q * BLOCK));
            }
            let head_dim = self.call.shape.head_dim;
            let (wide, whole) = (head_dim / (4 * S::LANES) * 4 * S::LANES, whole::<S>(head_dim));
            for column in (0..wide).step_by(4 * S::LANES) {
                self.accumulate::<S, Q, 2>(row, block, column);
            }
            if wide < whole {
                self.accumulate::<S, Q, 1>(row, block, wide);
            }
            for column in whole..head_dim {
                self.accumulate_one::<Q>(row, block, column);
            }
        }
    }

    /// `scores[q][j] = query q · key j`, for four keys at a time.
    #[inline(always)]
    unsafe fn score<S: Simd, const Q: usize>(&self, row: usize, block: &Range<usize>) {
        let shape = &self.call.shape;
        let whole = whole::<S>(shape.head_dim);
        // SAFETY: queries and keys exist; scores have room for whole groups.
        unsafe {
            let queries = self.queries.add(row * shape.head_dim).cast_const();
            for j in (0..block.len()).step_by(KEYS) {
                // The last group may name a key again.
                let at = |i: usize| (block.start + j + i).min(block.end - 1);
                let keys: [_; KEYS] = std::array::from_fn(|i| {
                    let key = self.call.k.as_ptr().add(shape.k.at(self.b, self.kv_head, at(i)));
                    let value = self.call.v.as_ptr().add(shape.v.at(self.b, self.kv_head, at(i)));
                    // The heads between one key's and the next one's keep the hardware from seeing where this leads.
                    for d in (0..shape.head_dim).step_by(64 / size_of::<T>()) {
                        simd::prefetch(key.wrapping_add(AHEAD * shape.k.position + d));
                        simd::prefetch(value.wrapping_add(d));
                    }
                    key
                });
                let mut sums = [[S::splat(0.0); KEYS]; Q];
                for d in (0..whole).step_by(2 * S::LANES) {
                    let mut parts = [[S::splat(0.0); 2]; KEYS];
                    for (part, key) in parts.iter_mut().zip(keys) {
                        *part = T::load::<S>(key.add(d));
                    }
                    for (q, sums) in sums.iter_mut().enumerate() {
                        let query = queries.add(q * shape.head_dim + d);
                        let query = [S::load(query), S::load(query.add(S::LANES))];
                        for (part, sum) in parts.iter().zip(sums) {
                            *sum = S::fma(query[1], part[1], S::fma(query[0], part[0], *sum));
                        }
                    }
                }
                for (q, sums) in sums.into_iter().enumerate() {
                    let mut sums = S::sums(sums);
                    for d in whole..shape.head_dim {
                        let query = *queries.add(q * shape.head_dim + d);
                        sums.iter_mut().zip(keys).for_each(|(sum, key)| *sum += query * T::load_one(key.add(d)));
                    }
                    self.scores.add(q * BLOCK + j).cast::<[f32; KEYS]>().write_unaligned(sums);
                }
            }
        }
    }

    /// Applies the mask to one query's scores.
    #[inline(always)]
    unsafe fn hide(&self, row: usize, block: &Range<usize>, scores: *mut f32) {
        let shape = &self.call.shape;
        let (h, i) = place(self.call, self.kv_head, row);
        // SAFETY: within the scores and the mask.
        unsafe {
            match self.call.mask {
                AttentionMask::None => {}
                AttentionMask::Causal => {
                    let seen = (i + shape.kv_len - shape.q_len + 1).saturating_sub(block.start);
                    (seen..block.len()).for_each(|j| *scores.add(j) = f32::NEG_INFINITY);
                }
                AttentionMask::Additive { mask, strides } => {
                    let mask = mask.as_ptr().add(strides.at(self.b, h, i) + block.start);
                    (0..block.len()).for_each(|j| *scores.add(j) += *mask.add(j));
                }
            }
        }
    }

    /// Turns one query's scores into weights relative to its largest score so far, and what was summed before to that too.
    #[inline(always)]
    unsafe fn weigh<S: Simd>(&self, row: usize, keys: usize, scores: *mut f32) {
        let head_dim = self.call.shape.head_dim;
        // SAFETY: within the scores, which have room for whole vectors, and the row's state.
        unsafe {
            let state = self.state(row);
            let padded = keys.next_multiple_of(S::LANES);
            (keys..padded).for_each(|j| *scores.add(j) = f32::NEG_INFINITY);
            let before = *state;
            let mut most = S::splat(before);
            for j in (0..padded).step_by(S::LANES) {
                most = S::max(S::load(scores.add(j)), most);
            }
            let largest = S::largest(most);
            let mut sum = S::splat(0.0);
            for j in (0..padded).step_by(S::LANES) {
                let weight = math::exp::<S>(S::sub(S::load(scores.add(j)), S::splat(largest)));
                S::store(scores.add(j), weight);
                sum = S::add(sum, weight);
            }
            let sum = S::sum(sum);
            if largest == before {
                *state.add(1) += sum;
                return;
            }
            *state = largest;
            let correction = math::exp::<Scalar>(before - largest);
            *state.add(1) = *state.add(1) * correction + sum;
            (0..head_dim).for_each(|c| *state.add(STATE + c) *= correction);
        }
    }

    /// `sums[q] += Σ_j weights[q][j] · value j`, for `W` pairs of vectors of columns.
    #[inline(always)]
    unsafe fn accumulate<S: Simd, const Q: usize, const W: usize>(
        &self,
        row: usize,
        block: &Range<usize>,
        column: usize,
    ) {
        let shape = &self.call.shape;
        // SAFETY: values, weights and sums exist.
        unsafe {
            let at =
                |q: usize, w: usize, half: usize| self.state(row + q).add(STATE + column + (2 * w + half) * S::LANES);
            let mut sums = [[[S::splat(0.0); 2]; W]; Q];
            for (q, sums) in sums.iter_mut().enumerate() {
                for (w, sums) in sums.iter_mut().enumerate() {
                    *sums = [S::load(at(q, w, 0)), S::load(at(q, w, 1))];
                }
            }
            for (j, key) in block.clone().enumerate() {
                let value = self.call.v.as_ptr().add(shape.v.at(self.b, self.kv_head, key) + column);
                let mut values = [[S::splat(0.0); 2]; W];
                for (w, values) in values.iter_mut().enumerate() {
                    *values = T::load::<S>(value.add(2 * w * S::LANES));
                }
                for (q, sums) in sums.iter_mut().enumerate() {
                    let weight = S::splat(*self.scores.add(q * BLOCK + j));
                    for (sums, values) in sums.iter_mut().zip(&values) {
                        sums[0] = S::fma(weight, values[0], sums[0]);
                        sums[1] = S::fma(weight, values[1], sums[1]);
                    }
                }
            }
            for (q, sums) in sums.iter().enumerate() {
                for (w, sums) in sums.iter().enumerate() {
                    S::store(at(q, w, 0), sums[0]);
                    S::store(at(q, w, 1), sums[1]);
                }
            }
        }
    }

    /// [`Self::accumulate`] for one column.
    #[inline(always)]
    unsafe fn accumulate_one<const Q: usize>(&self, row: usize, block: &Range<usize>, column: usize) {
        let shape = &self.call.shape;
        for (j, key) in block.clone().enumerate() {
            // SAFETY: values, weights and sums exist.
            unsafe {
                let value = T::load_one(self.call.v.as_ptr().add(shape.v.at(self.b, self.kv_head, key) + column));
                for q in 0..Q {
                    *self.state(row + q).add(STATE + column) += *self.scores.add(q * BLOCK + j) * value;
                }
            }
        }
    }
}

/// Puts the parts of one head together.
struct Together<'a, T> {
    call: &'a Call<'a, T>,
    pair: usize,
    rows: usize,
    parts: usize,
    /// `[parts][rows][STATE + head_dim]`
    from: *mut f32,
}

impl<T: Element> Kernel for Together<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let shape = &self.call.shape;
        let (b, kv_head) = (self.pair / shape.kv_heads, self.pair % shape.kv_heads);
        let whole = whole::<S>(shape.head_dim);
        for row in 0..self.rows {
            let (h, i) = place(self.call, kv_head, row);
            // SAFETY: the partial results were filled in, and the output's row exists.
            unsafe {
                let part = |part: usize| self.from.add((part * self.rows + row) * (STATE + shape.head_dim));
                let largest = (0..self.parts).map(|p| *part(p)).fold(f32::MIN, f32::max);
                let mut total = 0.0;
                for p in 0..self.parts {
                    *part(p) = math::exp::<Scalar>(*part(p) - largest);
                    total += *part(p) * *part(p).add(1);
                }
                // A query that sees nothing has weight 0 and sums 0.
                let inverse = if total == 0.0 { 0.0 } else { 1.0 / total };
                (0..self.parts).for_each(|p| *part(p) *= inverse);
                let to = self.call.out.add(shape.out.at(b, h, i));
                for d in (0..whole).step_by(2 * S::LANES) {
                    let halves = [self.sum::<S>(row, d), self.sum::<S>(row, d + S::LANES)];
                    T::store::<S>(to.add(d), halves);
                }
                for d in whole..shape.head_dim {
                    T::store_one(to.add(d), self.sum::<Scalar>(row, d));
                }
            }
        }
    }
}

impl<T> Together<'_, T> {
    /// One vector of a query's weighted sums; each part's state begins with its weight by now.
    #[inline(always)]
    unsafe fn sum<S: Simd>(&self, row: usize, column: usize) -> S::V {
        let width = STATE + self.call.shape.head_dim;
        // SAFETY: passed on from `run`.
        unsafe {
            let mut sum = S::splat(0.0);
            for p in 0..self.parts {
                let part = self.from.add((p * self.rows + row) * width);
                sum = S::fma(S::load(part.add(STATE + column)), S::splat(*part), sum);
            }
            sum
        }
    }
}
