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
/// How many keys ahead they are brought into the cache.
const AHEAD: usize = 8;
/// Multiplications below which another thread is not worth waking.
const MIN_TASK: usize = 16 * 1024;
/// What a part keeps of each query beside the sums: its largest score, and the sum of its weights.
const STATE: usize = 2;

/// A type that queries, keys and values can have.
pub(super) trait Element: Copy + Sync {
    /// # Safety
    /// The elements exist; the CPU has the instructions of `S`.
    unsafe fn load<S: Simd>(from: *const Self) -> S::V;
    /// # Safety
    /// As [`Self::load`].
    unsafe fn store<S: Simd>(to: *mut Self, value: S::V);
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const f32) -> S::V {
        // SAFETY: passed on from the caller.
        unsafe { S::load(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut f32, value: S::V) {
        // SAFETY: passed on from the caller.
        unsafe { S::store(to, value) }
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const bf16) -> S::V {
        // SAFETY: passed on from the caller.
        unsafe { S::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut bf16, value: S::V) {
        // SAFETY: passed on from the caller.
        unsafe { S::store_bf16(to, value) }
    }
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
            let whole = shape.head_dim / S::LANES * S::LANES;
            for d in (0..whole).step_by(S::LANES) {
                S::store(to.add(d), S::mul(T::load::<S>(from.add(d)), S::splat(self.call.scale)));
            }
            for d in whole..shape.head_dim {
                *to.add(d) = T::load::<Scalar>(from.add(d)) * self.call.scale;
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
            let (wide, whole) = (head_dim / (4 * S::LANES) * 4 * S::LANES, head_dim / S::LANES * S::LANES);
            for column in (0..wide).step_by(4 * S::LANES) {
                self.accumulate::<S, Q, 4>(row, block, column);
            }
            for column in (wide..whole).step_by(S::LANES) {
                self.accumulate::<S, Q, 1>(row, block, column);
            }
            for column in whole..head_dim {
                self.accumulate::<Scalar, Q, 1>(row, block, column);
            }
        }
    }

    /// `scores[q][j] = query q · key j`.
    #[inline(always)]
    unsafe fn score<S: Simd, const Q: usize>(&self, row: usize, block: &Range<usize>) {
        let shape = &self.call.shape;
        let whole = shape.head_dim / S::LANES * S::LANES;
        // SAFETY: queries and keys exist.
        unsafe {
            let queries = self.queries.add(row * shape.head_dim).cast_const();
            for (j, key) in block.clone().enumerate() {
                let value = self.call.v.as_ptr().wrapping_add(shape.v.at(self.b, self.kv_head, key));
                let key = self.call.k.as_ptr().add(shape.k.at(self.b, self.kv_head, key));
                // The heads between one key's and the next one's keep the hardware from seeing where this leads.
                for d in (0..shape.head_dim).step_by(64 / size_of::<T>()) {
                    simd::prefetch(key.wrapping_add(AHEAD * shape.k.position + d));
                    simd::prefetch(value.wrapping_add(d));
                }
                let mut sums = [S::splat(0.0); Q];
                for d in (0..whole).step_by(S::LANES) {
                    let key = T::load::<S>(key.add(d));
                    for (q, sum) in sums.iter_mut().enumerate() {
                        *sum = S::fma(S::load(queries.add(q * shape.head_dim + d)), key, *sum);
                    }
                }
                for (q, &sum) in sums.iter().enumerate() {
                    let mut sum = S::sum(sum);
                    for d in whole..shape.head_dim {
                        sum += *queries.add(q * shape.head_dim + d) * T::load::<Scalar>(key.add(d));
                    }
                    *self.scores.add(q * BLOCK + j) = sum;
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

    /// `sums[q] += Σ_j weights[q][j] · value j`, for `W` vectors of columns.
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
            let at = |q: usize, w: usize| self.state(row + q).add(STATE + column + w * S::LANES);
            let mut sums: [[S::V; W]; Q] = std::array::from_fn(|q| std::array::from_fn(|w| S::load(at(q, w))));
            for (j, key) in block.clone().enumerate() {
                let value = self.call.v.as_ptr().add(shape.v.at(self.b, self.kv_head, key) + column);
                let value: [S::V; W] = std::array::from_fn(|w| T::load::<S>(value.add(w * S::LANES)));
                for (q, sums) in sums.iter_mut().enumerate() {
                    let weight = S::splat(*self.scores.add(q * BLOCK + j));
                    for (sum, &value) in sums.iter_mut().zip(&value) {
                        *sum = S::fma(weight, value, *sum);
                    }
                }
            }
            for (q, sums) in sums.iter().enumerate() {
                for (w, &sum) in sums.iter().enumerate() {
                    S::store(at(q, w), sum);
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
    from: *const f32,
}

impl<T: Element> Kernel for Together<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let shape = &self.call.shape;
        let (b, kv_head) = (self.pair / shape.kv_heads, self.pair % shape.kv_heads);
        let whole = shape.head_dim / S::LANES * S::LANES;
        for row in 0..self.rows {
            let (h, i) = place(self.call, kv_head, row);
            // SAFETY: the partial results were filled in, and the output's row exists.
            unsafe {
                let part = |part: usize| self.from.add((part * self.rows + row) * (STATE + shape.head_dim));
                let largest = (0..self.parts).map(|p| *part(p)).fold(f32::MIN, f32::max);
                let factor = |p: usize| math::exp::<Scalar>(*part(p) - largest);
                let total: f32 = (0..self.parts).map(|p| *part(p).add(1) * factor(p)).sum();
                // A query that sees nothing has weight 0 and sums 0.
                let inverse = if total == 0.0 { 0.0 } else { 1.0 / total };
                let to = self.call.out.add(shape.out.at(b, h, i));
                for d in (0..whole).step_by(S::LANES) {
                    self.column::<S>(&part, &factor, inverse, d, to);
                }
                for d in whole..shape.head_dim {
                    self.column::<Scalar>(&part, &factor, inverse, d, to);
                }
            }
        }
    }
}

impl<T: Element> Together<'_, T> {
    /// One vector of a query's output.
    #[inline(always)]
    unsafe fn column<S: Simd>(
        &self,
        part: &impl Fn(usize) -> *const f32,
        factor: &impl Fn(usize) -> f32,
        inverse: f32,
        d: usize,
        to: *mut T,
    ) {
        // SAFETY: passed on from `run`.
        unsafe {
            let mut sum = S::splat(0.0);
            for p in 0..self.parts {
                sum = S::fma(S::load(part(p).add(STATE + d)), S::splat(factor(p)), sum);
            }
            T::store::<S>(to.add(d), S::mul(sum, S::splat(inverse)));
        }
    }
}
