//! The reference: every score of a query at once, in plain Rust.

use super::{Call, MAX_HEAD_DIM};
use crate::AttentionMask;
use crate::pool::parallel_for;

/// # Safety
/// The slices reach as far as the call's shape and strides.
pub(super) unsafe fn run(call: &Call<'_>) {
    let Call { q, k, v, shape, scale, mask, .. } = *call;
    let (heads, q_len, kv_len, head_dim) = (shape.heads, shape.q_len, shape.kv_len, shape.head_dim);
    parallel_for(shape.batch * heads * q_len, &|task| {
        let (b, h, i) = (task / (heads * q_len), task / q_len % heads, task % q_len);
        let kv_head = h / (heads / shape.kv_heads);
        let query = &q[shape.q.at(b, h, i)..][..head_dim];
        let mut scores: Vec<f32> = (0..kv_len)
            .map(|j| {
                let key = &k[shape.k.at(b, kv_head, j)..][..head_dim];
                let score = scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>();
                match mask {
                    AttentionMask::None => score,
                    AttentionMask::Causal if j > i + kv_len - q_len => f32::NEG_INFINITY,
                    AttentionMask::Causal => score,
                    AttentionMask::Additive { mask, strides } => score + mask[strides.at(b, h, i) + j],
                }
            })
            .collect();
        softmax(&mut scores);
        let mut sums = [0.0f32; MAX_HEAD_DIM];
        for (j, &weight) in scores.iter().enumerate() {
            let value = &v[shape.v.at(b, kv_head, j)..][..head_dim];
            sums.iter_mut().zip(value).for_each(|(sum, v)| *sum += weight * v);
        }
        // SAFETY: the row lies in the output.
        unsafe { std::ptr::copy_nonoverlapping(sums.as_ptr(), call.out.add(shape.out.at(b, h, i)), head_dim) };
    });
}

fn softmax(scores: &mut [f32]) {
    // `max` ignores NaN, so it has to be carried through the sum.
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let max = if max == f32::NEG_INFINITY { 0.0 } else { max };
    scores.iter_mut().for_each(|s| *s = (*s - max).exp());
    let sum: f32 = scores.iter().sum();
    let inverse = if sum == 0.0 { 0.0 } else { 1.0 / sum };
    scores.iter_mut().for_each(|s| *s *= inverse);
}
