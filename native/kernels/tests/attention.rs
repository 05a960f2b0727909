//! Every attention path against a plain f64 reference.

mod support;

use half::bf16;
use proptest::prelude::*;
use sango_kernels::{AttentionMask, AttentionShape, Strides, attention, attention_bf16};
use support::{isas, noise};

#[derive(Debug, Clone, Copy)]
enum Mask {
    None,
    Causal,
    /// Broadcast over (batch, head, query) where false.
    Additive(bool, bool, bool),
}

#[derive(Debug, Clone)]
struct Case {
    shape: AttentionShape,
    mask: Mask,
    /// Positions that keys and values have room for beyond those there are, as in a cache.
    spare: usize,
    seed: u64,
}

fn shape(
    (batch, kv_heads, group): (usize, usize, usize),
    (q_len, kv_len): (usize, usize),
    head_dim: usize,
    heads_first: bool,
) -> AttentionShape {
    let heads = kv_heads * group;
    let strides = if heads_first { Strides::heads_first } else { Strides::positions_first };
    let kv = strides(kv_heads, kv_len, head_dim);
    AttentionShape {
        batch,
        heads,
        kv_heads,
        q_len,
        kv_len,
        head_dim,
        q: strides(heads, q_len, head_dim),
        k: kv,
        v: kv,
        out: strides(heads, q_len, head_dim),
    }
}

fn case() -> impl Strategy<Value = Case> {
    let lengths = prop_oneof![
        (1usize..40, 0usize..40),
        (60usize..70, 120usize..140),
        (1usize..300, 250usize..270),
        (1usize..18, 400usize..700),
    ];
    let head_dim = prop_oneof![1usize..20, 30usize..36, 60usize..70, Just(64), Just(128), Just(256)];
    let mask = prop_oneof![
        Just(Mask::None),
        Just(Mask::Causal),
        any::<(bool, bool, bool)>().prop_map(|(b, h, i)| Mask::Additive(b, h, i)),
    ];
    let heads = (1usize..3, 1usize..3, 1usize..4);
    (heads, lengths, head_dim, any::<bool>(), mask, 0usize..3, any::<u64>()).prop_map(
        |(heads, (q_len, kv_len), head_dim, heads_first, mask, spare, seed)| {
            let kv_len = if matches!(mask, Mask::Causal) { kv_len.max(q_len) } else { kv_len };
            let strides = if heads_first { Strides::heads_first } else { Strides::positions_first };
            let kv = strides(heads.1, kv_len + spare, head_dim);
            let shape = AttentionShape { k: kv, v: kv, ..shape(heads, (q_len, kv_len), head_dim, heads_first) };
            Case { shape, mask, spare, seed }
        },
    )
}

fn at(s: Strides, b: usize, h: usize, i: usize) -> usize {
    b * s.batch + h * s.head + i * s.position
}

fn verify(case: &Case) {
    let s = case.shape;
    let q = noise(s.batch * s.heads * s.q_len * s.head_dim, case.seed);
    // What lies between and behind the keys must not matter.
    let cache = |seed: u64| {
        let mut cache = vec![f32::NAN; s.batch * s.kv_heads * (s.kv_len + case.spare) * s.head_dim];
        let used = noise(cache.len(), seed);
        for n in 0..s.batch * s.kv_heads * s.kv_len {
            let (b, h, i) = (n / (s.kv_heads * s.kv_len), n / s.kv_len % s.kv_heads, n % s.kv_len);
            let row = at(s.k, b, h, i)..at(s.k, b, h, i) + s.head_dim;
            cache[row.clone()].copy_from_slice(&used[row]);
        }
        cache
    };
    let (k, v) = (cache(case.seed ^ 1), cache(case.seed ^ 2));
    let scale = 2.0 / (s.head_dim as f32).sqrt();
    let (batch, heads, rows) = match case.mask {
        Mask::Additive(b, h, i) => {
            (if b { s.batch } else { 1 }, if h { s.heads } else { 1 }, if i { s.q_len } else { 1 })
        }
        _ => (0, 0, 0),
    };
    let mut numbers = noise(batch * heads * rows * s.kv_len, case.seed ^ 3);
    // Hide a third of the keys, and once in a while all of them.
    let hide_all = case.seed.is_multiple_of(5);
    numbers.iter_mut().for_each(|m| {
        if *m < -0.33 || hide_all {
            *m = f32::NEG_INFINITY;
        }
    });
    let step = |many: usize, stride: usize| if many > 1 { stride } else { 0 };
    let strides = Strides {
        batch: step(batch, heads * rows * s.kv_len),
        head: step(heads, rows * s.kv_len),
        position: step(rows, s.kv_len),
    };
    let mask = match case.mask {
        Mask::None => AttentionMask::None,
        Mask::Causal => AttentionMask::Causal,
        Mask::Additive(..) => AttentionMask::Additive { mask: &numbers, strides },
    };
    let mut expected = vec![0.0f64; q.len()];
    for (b, h, i) in
        (0..s.batch * s.heads * s.q_len).map(|n| (n / (s.heads * s.q_len), n / s.q_len % s.heads, n % s.q_len))
    {
        let kv_head = h / (s.heads / s.kv_heads);
        let weights: Vec<f64> = (0..s.kv_len)
            .map(|j| {
                let dot: f64 = (0..s.head_dim)
                    .map(|d| f64::from(q[at(s.q, b, h, i) + d]) * f64::from(k[at(s.k, b, kv_head, j) + d]))
                    .sum();
                let added = match case.mask {
                    Mask::None => 0.0,
                    Mask::Causal if j > i + s.kv_len - s.q_len => f64::NEG_INFINITY,
                    Mask::Causal => 0.0,
                    Mask::Additive(..) => f64::from(numbers[at(strides, b, h, i) + j]),
                };
                (f64::from(scale) * dot + added).exp()
            })
            .collect();
        let total: f64 = weights.iter().sum();
        for d in 0..s.head_dim {
            let sum: f64 = weights.iter().enumerate().map(|(j, w)| w * f64::from(v[at(s.v, b, kv_head, j) + d])).sum();
            expected[at(s.out, b, h, i) + d] = if total == 0.0 { 0.0 } else { sum / total };
        }
    }
    for isa in isas() {
        let mut out = vec![f32::NAN; q.len()];
        isa.run(|| attention(&q, &k, &v, &s, scale, mask, &mut out)).unwrap().unwrap();
        let bf16_out = isa.run(|| in_bf16(&q, &k, &v, &s, scale, mask)).unwrap();
        // Rounded queries and keys change a score by up to 2e-2 here, and rounded values and weights add a little.
        for (name, out, allowed) in [("f32", out, 3e-6), ("bf16", bf16_out, 2.5e-2)] {
            for (i, (&got, &want)) in out.iter().zip(&expected).enumerate() {
                let near = (f64::from(got) - want).abs() <= allowed;
                assert!(near, "{isa} {name} {case:?}: element {i} is {got}, not {want}");
            }
        }
    }
}

/// [`attention_bf16`] on rounded tensors, widened again.
fn in_bf16(q: &[f32], k: &[f32], v: &[f32], s: &AttentionShape, scale: f32, mask: AttentionMask<'_>) -> Vec<f32> {
    let [q, k, v] = [q, k, v].map(|values| values.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>());
    let mut out = vec![bf16::NAN; q.len()];
    attention_bf16(&q, &k, &v, s, scale, mask, &mut out).unwrap();
    out.into_iter().map(bf16::to_f32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_path_matches_the_reference(case in case()) {
        verify(&case);
    }
}

#[test]
fn shapes_of_real_models() {
    // Self and cross attention of aMUSEd, CLIP's text tower, and one grouped-query decoding step.
    for (heads, lengths, head_dim, mask) in [
        ((2, 16, 1), (256, 256), 64, Mask::None),
        ((2, 16, 1), (256, 77), 64, Mask::None),
        ((1, 2, 1), (530, 530), 72, Mask::None),
        ((1, 12, 1), (77, 77), 64, Mask::Causal),
        ((1, 3, 3), (1, 700), 64, Mask::Causal),
        ((1, 3, 3), (24, 700), 64, Mask::Causal),
    ] {
        verify(&Case { shape: shape(heads, lengths, head_dim, false), mask, spare: 0, seed: 7 });
    }
}

#[test]
fn large_scores_neither_overflow_nor_vanish() {
    // Scores of ±10⁴: the running maximum must be subtracted before the exponential, block after block.
    for (isa, queries) in isas().into_iter().flat_map(|isa| [(isa, 20), (isa, 5)]) {
        let s = shape((1, 1, 1), (queries, 400), 8, true);
        let (mut q, mut k, v) = (noise(queries * 8, 1), noise(3200, 2), noise(3200, 3));
        q.iter_mut().chain(&mut k).for_each(|x| *x *= 100.0);
        // Exact in bf16, so that both types agree on the best key.
        q.iter_mut().chain(&mut k).for_each(|x| *x = x.round());
        let v: Vec<f32> = v.into_iter().map(|x| bf16::from_f32(x).to_f32()).collect();
        let mut out = vec![f32::NAN; q.len()];
        isa.run(|| attention(&q, &k, &v, &s, 1.0, AttentionMask::None, &mut out)).unwrap().unwrap();
        let bf16_out = isa.run(|| in_bf16(&q, &k, &v, &s, 1.0, AttentionMask::None)).unwrap();
        for (i, out) in (0..queries).flat_map(|i| [(i, &out), (i, &bf16_out)]) {
            let score = |j: usize| (0..8).map(|d| f64::from(q[i * 8 + d]) * f64::from(k[j * 8 + d])).sum::<f64>();
            let best = (0..400).max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap();
            let runner_up = (0..400).filter(|&j| j != best).map(score).fold(f64::MIN, f64::max);
            if score(best) - runner_up > 30.0 {
                assert_eq!(out[i * 8..][..8], v[best * 8..][..8], "{isa}, query {i}");
            }
        }
    }
}

#[test]
fn nan_stays_where_it_belongs() {
    for (isa, queries, bad) in isas().into_iter().flat_map(|isa| [(isa, 70, 33), (isa, 5, 3)]) {
        let s = shape((1, 1, 1), (queries, 150), 16, true);
        let (mut q, k, v) = (noise(queries * 16, 1), noise(150 * 16, 2), noise(150 * 16, 3));
        q[bad * 16 + 5] = f32::NAN;
        let mut out = vec![0.0; q.len()];
        isa.run(|| attention(&q, &k, &v, &s, 1.0, AttentionMask::None, &mut out)).unwrap().unwrap();
        let bf16_out = isa.run(|| in_bf16(&q, &k, &v, &s, 1.0, AttentionMask::None)).unwrap();
        for (i, x) in out.iter().enumerate().chain(bf16_out.iter().enumerate()) {
            assert_eq!(x.is_nan(), i / 16 == bad, "{isa}: element {i} is {x}");
        }
    }
}
