//! bf16 attention on AMX tiles, over blocks of keys with a running softmax.
//!
//! The weights are rounded to bf16 too and every sum is f32, as in PyTorch's fused attention. Keys and values are packed
//! once per call as the gemm's panels (of 32 keys, and of 32 columns of values), which every query tile of every head that
//! shares them then reads.

use std::arch::x86_64::*;
use std::sync::atomic::{AtomicBool, Ordering};

use half::bf16;

use super::transpose::square16;
use super::{AttentionMask, Call};
use crate::gemm::{PANEL, amx};
use crate::pool::{num_threads, parallel_for};
use crate::scratch::{self, Shared};
use crate::{AttentionShape, KernelError};

/// Queries of one tile.
const QUERIES: usize = 32;
/// Keys whose scores are in memory at once, and the vectors they fill.
const BLOCK: usize = 128;
const VECTORS: usize = BLOCK / LANES;
const LANES: usize = 16;
/// Queries that one task works on at most.
const CHUNK: usize = 256;
/// Bytes from one query's weights to the next one's. Not 256: that would put the rows of a tile into a quarter of the L1
/// cache's sets.
const WEIGHTS_STRIDE: usize = BLOCK * 2 + 64;

/// # Safety
/// The slices reach as far as the call's shape and strides; the CPU has AMX and Linux has permitted it.
pub(super) unsafe fn run(call: &Call<'_, bf16>) -> Result<(), KernelError> {
    let shape = &call.shape;
    let layout = Layout::new(shape);
    let pairs = shape.batch * shape.heads;
    let fair = (pairs * shape.q_len).div_ceil(2 * num_threads()).next_multiple_of(QUERIES);
    let chunk = CHUNK.min(fair);
    let chunks = shape.q_len.div_ceil(chunk);
    let failed = AtomicBool::new(false);
    let packed_bytes =
        layout.head_bytes().checked_mul(shape.batch * shape.kv_heads).ok_or(KernelError::Overflow("k"))?;
    scratch::with(packed_bytes, |packed| {
        let packed = Shared::new(packed);
        let panels = layout.key_panels;
        parallel_for(shape.batch * shape.kv_heads * panels, &|task| {
            let (head, panel) = (task / panels, task % panels);
            // SAFETY: the head's part of the memory; AMX comes with these instructions.
            unsafe { pack(call, &layout, head, panel, packed.add(head * layout.head_bytes())) };
        });
        parallel_for(pairs * chunks, &|task| {
            let (pair, first) = (task / chunks, task % chunks * chunk);
            let (b, h) = (pair / shape.heads, pair % shape.heads);
            let kv = b * shape.kv_heads + h / (shape.heads / shape.kv_heads);
            let done = scratch::with(layout.task_bytes(), |memory| {
                // SAFETY: the head's part of the memory, packed above; AMX is there (caller).
                unsafe {
                    let task = Task { call, layout: &layout, b, h, packed: packed.add(kv * layout.head_bytes()) };
                    amx::configure();
                    for first in (first..(first + chunk).min(shape.q_len)).step_by(QUERIES) {
                        task.attend(first, QUERIES.min(shape.q_len - first), &Memory::new(memory, &layout));
                    }
                    amx::release();
                }
            });
            if done.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
        });
    })?;
    if failed.into_inner() { Err(KernelError::OutOfMemory(layout.task_bytes())) } else { Ok(()) }
}

/// Sizes of the packed keys and values of one head.
struct Layout {
    /// Elements per head, padded to whole steps.
    depth: usize,
    /// Panels of 32 keys.
    key_panels: usize,
}

impl Layout {
    fn new(shape: &AttentionShape) -> Self {
        Self { depth: shape.head_dim.next_multiple_of(PANEL), key_panels: shape.kv_len.div_ceil(PANEL) }
    }

    /// A panel of keys: `[depth / 2][32 keys][2]`.
    fn key_panel_bytes(&self) -> usize {
        self.depth * PANEL * 2
    }

    /// A panel of values: `[keys / 2][32 columns][2]`.
    fn value_panel_bytes(&self) -> usize {
        self.key_panels * PANEL * PANEL * 2
    }

    /// All panels of keys, then all panels of values.
    fn head_bytes(&self) -> usize {
        2 * self.key_panels * self.key_panel_bytes()
    }

    fn values_at(&self) -> usize {
        self.key_panels * self.key_panel_bytes()
    }

    fn value_panels(&self) -> usize {
        self.depth / PANEL
    }

    fn task_bytes(&self) -> usize {
        let floats = QUERIES * (BLOCK + self.depth) + 4 * QUERIES;
        floats * size_of::<f32>() + QUERIES * (self.query_stride() + WEIGHTS_STRIDE)
    }

    fn query_stride(&self) -> usize {
        self.depth * 2
    }
}

/// Packs 32 keys and their values.
///
/// # Safety
/// The keys and values exist as far as the call's shape says, `to` has a head's bytes; AVX-512 with bf16 is there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn pack(call: &Call<'_, bf16>, layout: &Layout, head: usize, panel: usize, to: *mut u8) {
    let shape = &call.shape;
    let (b, h) = (head / shape.kv_heads, head % shape.kv_heads);
    let first = panel * PANEL;
    let live = PANEL.min(shape.kv_len - first);
    // Two rows of 32 woven into pairs: words 0, 32, 1, 33, … and then 16, 48, 17, 49, ….
    let weaves: [[u16; PANEL]; 2] =
        std::array::from_fn(|half| std::array::from_fn(|i| (half * LANES + i / 2 + i % 2 * PANEL) as u16));
    // SAFETY: rows below `live` exist, masks keep within `head_dim`, and the panels have room for the padding.
    unsafe {
        let weaves = weaves.map(|words| _mm512_loadu_si512(words.as_ptr().cast()));
        let mut rows = [_mm512_setzero_si512(); LANES];
        let keys = to.add(panel * layout.key_panel_bytes()).cast::<f32>();
        for half in 0..2 {
            for d in (0..layout.depth).step_by(PANEL) {
                for (i, row) in rows.iter_mut().enumerate() {
                    let j = half * LANES + i;
                    *row = _mm512_setzero_si512();
                    if j < live {
                        *row = load(call.k.as_ptr().add(shape.k.at(b, h, first + j)), d, shape.head_dim);
                    }
                }
                // A pair of channels is one f32 wide.
                square16(rows.as_ptr().cast(), LANES, keys.add(d / 2 * PANEL + half * LANES), PANEL);
            }
        }
        for c in (0..layout.depth).step_by(PANEL) {
            let values = to.add(layout.values_at() + c / PANEL * layout.value_panel_bytes() + first * PANEL * 2);
            for j in (0..PANEL).step_by(2) {
                let row = |j: usize| {
                    if j >= live {
                        return _mm512_setzero_si512();
                    }
                    load(call.v.as_ptr().add(shape.v.at(b, h, first + j)), c, shape.head_dim)
                };
                let (even, odd) = (row(j), row(j + 1));
                for (half, weave) in weaves.iter().enumerate() {
                    let pairs = _mm512_permutex2var_epi16(even, *weave, odd);
                    _mm512_storeu_si512(values.add(j * PANEL * 2 + half * 64).cast(), pairs);
                }
            }
        }
    }
}

/// Elements `at .. at + 32` of a row of `len`, zero past its end.
///
/// # Safety
/// The row exists.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load(row: *const bf16, at: usize, len: usize) -> __m512i {
    let left = len.saturating_sub(at).min(PANEL);
    // SAFETY: the mask keeps within the row.
    unsafe { _mm512_maskz_loadu_epi16(((1u64 << left) - 1) as u32, row.wrapping_add(at).cast()) }
}

/// 32 numbers rounded to bf16, `low` first.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bf16_pair(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 512 bits of plain data.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// 2^x for x ≤ 0 to 3e-6, well below what bf16 keeps: a polynomial on the fraction, then the exponent.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn exp2(x: __m512) -> __m512 {
    // The fraction above the next lower integer, which is what scalef takes of x.
    let f = _mm512_reduce_ps::<0b1001>(x);
    let mut p = _mm512_set1_ps(EXP2[4]);
    for c in [EXP2[3], EXP2[2], EXP2[1], EXP2[0]] {
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, x)
}

/// Fitted to 2^f over 0 ≤ f < 1, exact at 0: the weight of the best key is 1.
const EXP2: [f32; 5] = [1.0, 0.693_044_84, 0.241_280_2, 0.052_242_473, 0.013_426_685];

/// The scratch memory of a task.
struct Memory {
    /// Queries, `[32][depth]`, padded with zeros.
    queries: *mut u8,
    /// f32 scores, `[4 panels][32][32]`.
    scores: *mut f32,
    /// bf16 weights, `[32]` rows [`WEIGHTS_STRIDE`] apart.
    weights: *mut u8,
    /// f32 sums of weighted values, `[value panels][32][32]`.
    sums: *mut f32,
    /// Of each query: the largest score so far, before and with the block at hand, the sum of weights so far and of the
    /// block.
    state: *mut [[f32; QUERIES]; 4],
}

impl Memory {
    fn new(start: *mut u8, layout: &Layout) -> Self {
        let scores = start.cast::<f32>();
        let sums = scores.wrapping_add(QUERIES * BLOCK);
        let state = sums.wrapping_add(QUERIES * layout.depth);
        let queries = state.wrapping_add(4 * QUERIES).cast::<u8>();
        let weights = queries.wrapping_add(QUERIES * layout.query_stride());
        Self { queries, scores, weights, sums, state: state.cast() }
    }
}

/// One head's queries.
struct Task<'a> {
    call: &'a Call<'a, bf16>,
    layout: &'a Layout,
    b: usize,
    h: usize,
    packed: *const u8,
}

impl Task<'_> {
    /// A tile of `live` queries from `first` on.
    ///
    /// # Safety
    /// The queries, their output and the packed keys exist; the memory is the task's; tiles are configured.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn attend(&self, first: usize, live: usize, memory: &Memory) {
        let (shape, layout) = (&self.call.shape, self.layout);
        let last = match self.call.mask {
            AttentionMask::Causal => first + live + shape.kv_len - shape.q_len,
            _ => shape.kv_len,
        };
        // SAFETY: passed on from the caller; blocks and panels stay within the packed keys.
        unsafe {
            self.load_queries(first, live, memory);
            let [largest, _, total, _] = &mut *memory.state;
            // Lower than any score but a hidden one, so that subtracting it is always defined.
            largest.fill(f32::MIN);
            total.fill(0.0);
            for block in (0..last).step_by(BLOCK) {
                let keys = BLOCK.min(last - block);
                let panels = keys.div_ceil(PANEL);
                for panel in 0..panels {
                    let keys = self.packed.add((block / PANEL + panel) * layout.key_panel_bytes());
                    let queries = (memory.queries.cast_const(), layout.query_stride());
                    let scores = memory.scores.add(panel * QUERIES * PANEL);
                    amx::multiply_rows(queries, live, (keys, layout.depth / PANEL), scores, false);
                }
                for row in 0..live {
                    self.weigh(first, row, block, keys, memory);
                }
                self.correct(live, block > 0, memory);
                for panel in 0..layout.value_panels() {
                    let at = layout.values_at() + panel * layout.value_panel_bytes() + block * PANEL * 2;
                    let sums = memory.sums.add(panel * QUERIES * PANEL);
                    let weights = (memory.weights.cast_const(), WEIGHTS_STRIDE);
                    amx::multiply_rows(weights, live, (self.packed.add(at), panels), sums, block > 0);
                }
            }
            for row in 0..live {
                self.store(first, row, last > 0, memory);
            }
        }
    }

    /// Copies the tile's queries to where they lie close together, padded with zeros.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load_queries(&self, first: usize, live: usize, memory: &Memory) {
        let (shape, layout) = (&self.call.shape, self.layout);
        // SAFETY: passed on from `attend`.
        unsafe {
            for row in 0..live {
                let from = self.call.q.as_ptr().add(shape.q.at(self.b, self.h, first + row));
                let to = memory.queries.add(row * layout.query_stride());
                for d in (0..layout.depth).step_by(PANEL) {
                    _mm512_storeu_si512(to.add(d * 2).cast(), load(from, d, shape.head_dim));
                }
            }
            let padding = live.next_multiple_of(LANES) - live;
            memory.queries.add(live * layout.query_stride()).write_bytes(0, padding * layout.query_stride());
        }
    }

    /// Turns one query's products of a block into scores, in units of log2, and those into weights relative to its largest
    /// score so far.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn weigh(&self, first: usize, row: usize, block: usize, keys: usize, memory: &Memory) {
        let shape = &self.call.shape;
        let visible = match self.call.mask {
            AttentionMask::Causal => (first + row + 1 + shape.kv_len - shape.q_len).saturating_sub(block).min(keys),
            _ => keys,
        };
        // One bit per key; a block has as many keys as the number has bits.
        let mask = if visible == 0 { 0 } else { u128::MAX >> (BLOCK - visible) };
        let lanes = |v: usize| (mask >> (v * LANES)) as u16;
        // SAFETY: passed on from `attend`; masks keep from reading past the keys.
        unsafe {
            let [largest, new_largest, _, sum] = &mut *memory.state;
            let mut scores = [_mm512_set1_ps(f32::NEG_INFINITY); VECTORS];
            let scale = _mm512_set1_ps(self.call.scale * std::f32::consts::LOG2_E);
            for (v, score) in scores.iter_mut().enumerate() {
                let product = memory.scores.add(v / 2 * QUERIES * PANEL + row * PANEL + v % 2 * LANES);
                *score = _mm512_mask_mul_ps(*score, lanes(v), _mm512_loadu_ps(product), scale);
            }
            if let AttentionMask::Additive { mask, strides } = self.call.mask {
                let added = mask.as_ptr().add(strides.at(self.b, self.h, first + row) + block);
                for (v, score) in scores.iter_mut().enumerate() {
                    let added = _mm512_maskz_loadu_ps(lanes(v), added.wrapping_add(v * LANES));
                    *score = _mm512_fmadd_ps(added, _mm512_set1_ps(std::f32::consts::LOG2_E), *score);
                }
            }
            let mut most = _mm512_set1_ps(largest[row]);
            for score in scores {
                most = _mm512_max_ps(score, most);
            }
            let most = _mm512_reduce_max_ps(most);
            new_largest[row] = most;
            let most = _mm512_set1_ps(most);
            let mut total = _mm512_setzero_ps();
            for score in &mut scores {
                *score = exp2(_mm512_sub_ps(*score, most));
                total = _mm512_add_ps(total, *score);
            }
            sum[row] = _mm512_reduce_add_ps(total);
            let to = memory.weights.add(row * WEIGHTS_STRIDE);
            for v in (0..VECTORS).step_by(2) {
                _mm512_storeu_si512(to.add(v * LANES * 2).cast(), bf16_pair(scores[v], scores[v + 1]));
            }
        }
    }

    /// Relates what was summed before to the new largest scores.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn correct(&self, live: usize, begun: bool, memory: &Memory) {
        // SAFETY: passed on from `attend`.
        unsafe {
            let [largest, new_largest, total, sum] = &mut *memory.state;
            let mut factors = [1.0f32; QUERIES];
            for i in (0..live).step_by(LANES) {
                let part = |values: &[f32; QUERIES]| _mm512_loadu_ps(values.as_ptr().add(i));
                let factor = exp2(_mm512_sub_ps(part(largest), part(new_largest)));
                _mm512_storeu_ps(factors.as_mut_ptr().add(i), factor);
                _mm512_storeu_ps(total.as_mut_ptr().add(i), _mm512_fmadd_ps(part(total), factor, part(sum)));
            }
            *largest = *new_largest;
            // After the first few blocks the largest score seldom changes.
            for row in (0..live).filter(|&row| begun && factors[row] != 1.0) {
                let factor = _mm512_set1_ps(factors[row]);
                for panel in 0..self.layout.value_panels() {
                    for half in 0..2 {
                        let at = memory.sums.add((panel * QUERIES + row) * PANEL + half * LANES);
                        _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), factor));
                    }
                }
            }
        }
    }

    /// Divides by the sum of weights and writes one query's output. A query that sees nothing yields zeros.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn store(&self, first: usize, row: usize, any: bool, memory: &Memory) {
        let shape = &self.call.shape;
        // SAFETY: passed on from `attend`; the mask keeps within the row.
        unsafe {
            let total = (*memory.state)[2][row];
            let inverse = _mm512_set1_ps(if total == 0.0 || !any { 0.0 } else { 1.0 / total });
            let to = self.call.out.add(shape.out.at(self.b, self.h, first + row));
            for c in (0..shape.head_dim).step_by(LANES) {
                let at = memory.sums.add((c / PANEL * QUERIES + row) * PANEL + c % PANEL);
                let value = if any { _mm512_mul_ps(_mm512_loadu_ps(at), inverse) } else { _mm512_setzero_ps() };
                let value = std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(value));
                let lanes = ((1u32 << (shape.head_dim - c).min(LANES)) - 1) as u16;
                _mm256_mask_storeu_epi16(to.add(c).cast(), lanes, value);
            }
        }
    }
}
