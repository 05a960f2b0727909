//! One token through every product of a decoder of SmolVLM2-256M's sizes: what the weights' bandwidth allows, and what is
//! reached, best of several. The weights are streamed from memory as in a model, since all of them together exceed the caches.
//!
//! Usage: decode [rounds]

use std::hint::black_box;
use std::time::Instant;

use half::bf16;
use sango_kernels::{
    Activation, AttentionMask, AttentionShape, Epilogue, PackedWeights, Precision, Strides, attention, attention_bf16,
    gemm, pool,
};

const LAYERS: usize = 30;
const HIDDEN: usize = 576;
const INTERMEDIATE: usize = 1536;
const KEYS: usize = 192;
const VOCABULARY: usize = 49280;

struct Layer {
    qkv: PackedWeights,
    o: PackedWeights,
    gate_up: PackedWeights,
    down: PackedWeights,
}

fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn pack(n: usize, k: usize, precision: Precision, gated: bool) -> PackedWeights {
    let w = noise(n * k, (n * k) as u64);
    let pack = if gated { PackedWeights::from_f32_gated } else { PackedWeights::from_f32 };
    pack(&w, n, k, precision).expect("packs")
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(15);
    println!("{} threads, {}", pool::num_threads(), sango_kernels::Isa::active());
    let stream: Vec<u64> = vec![1; 32 << 20];
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let began = Instant::now();
        pool::parallel_for(64, &|task| {
            let part = &stream[task * (stream.len() / 64)..][..stream.len() / 64];
            black_box(part.iter().fold(0u64, |sum, &x| sum.wrapping_add(x)));
        });
        best = best.min(began.elapsed().as_secs_f64());
    }
    println!("plain read: {:.1} GB/s", stream.len() as f64 * 8.0 / best / 1e9);
    drop(stream);
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let layers: Vec<Layer> = (0..LAYERS)
            .map(|_| Layer {
                qkv: pack(HIDDEN + 2 * KEYS, HIDDEN, precision, false),
                o: pack(HIDDEN, HIDDEN, precision, false),
                gate_up: pack(2 * INTERMEDIATE, HIDDEN, precision, true),
                down: pack(HIDDEN, INTERMEDIATE, precision, false),
            })
            .collect();
        let head = pack(VOCABULARY, HIDDEN, precision, false);
        let bytes: usize =
            layers.iter().map(|l| l.qkv.bytes() + l.o.bytes() + l.gate_up.bytes() + l.down.bytes()).sum::<usize>()
                + head.bytes();
        for m in [1, 2, 4, 8, 16] {
            let mut x = noise(m * HIDDEN, 1);
            let mut qkv = vec![0.0; m * (HIDDEN + 2 * KEYS)];
            let mut hidden = vec![0.0; m * INTERMEDIATE];
            let mut logits = vec![0.0; m * VOCABULARY];
            let mut times: [Vec<f64>; 6] = Default::default();
            for _ in 0..rounds {
                let began = Instant::now();
                let mut parts = [0.0; 5];
                let mut time = |part: usize, run: &mut dyn FnMut()| {
                    let began = Instant::now();
                    run();
                    parts[part] += began.elapsed().as_secs_f64();
                };
                let plain = Epilogue::default();
                for layer in &layers {
                    time(0, &mut || gemm(&x, m, &layer.qkv, &plain, &mut qkv).expect("multiplies"));
                    time(1, &mut || gemm(&qkv[..m * HIDDEN], m, &layer.o, &plain, &mut x).expect("multiplies"));
                    let silu = Epilogue { activation: Activation::Silu, ..plain };
                    time(2, &mut || gemm(&x, m, &layer.gate_up, &silu, &mut hidden).expect("multiplies"));
                    time(3, &mut || gemm(&hidden, m, &layer.down, &plain, &mut x).expect("multiplies"));
                    x.iter_mut().for_each(|x| *x *= 1e-3);
                }
                time(4, &mut || gemm(&x, m, &head, &plain, &mut logits).expect("multiplies"));
                black_box(&logits);
                times[5].push(began.elapsed().as_secs_f64());
                parts.iter().zip(&mut times).for_each(|(part, times)| times.push(*part));
            }
            let best = times.map(|times| times.into_iter().fold(f64::INFINITY, f64::min));
            let names = ["qkv", "o", "gate_up", "down", "head"];
            let sizes = [
                layers[0].qkv.bytes() * LAYERS,
                layers[0].o.bytes() * LAYERS,
                layers[0].gate_up.bytes() * LAYERS,
                layers[0].down.bytes() * LAYERS,
                head.bytes(),
            ];
            print!("{precision:?} m {m:2}: {:6.2} ms {:5.1} GB/s;", best[5] * 1e3, bytes as f64 / best[5] / 1e9);
            for ((name, size), time) in names.iter().zip(sizes).zip(best) {
                print!("  {name} {:.2} ms {:.1} GB/s", time * 1e3, size as f64 / time / 1e9);
            }
            println!();
        }
    }
    attend(rounds);
}

/// Attention of the newest tokens over each layer's own cache.
fn attend(rounds: usize) {
    let (heads, kv_heads, head_dim, kv_len, capacity) = (9, 3, 64, 700, 1024);
    let wide: Vec<Vec<f32>> = (0..2 * LAYERS).map(|i| noise(capacity * kv_heads * head_dim, i as u64)).collect();
    let narrow: Vec<Vec<bf16>> = wide.iter().map(|v| v.iter().map(|&x| bf16::from_f32(x)).collect()).collect();
    for q_len in [1, 4, 8, 15, 16, 32] {
        let kv = Strides { batch: 0, head: head_dim, position: kv_heads * head_dim };
        let q_strides = Strides::positions_first(heads, q_len, head_dim);
        let shape = AttentionShape {
            batch: 1,
            heads,
            kv_heads,
            q_len,
            kv_len,
            head_dim,
            q: q_strides,
            k: kv,
            v: kv,
            out: q_strides,
        };
        let q = noise(q_len * heads * head_dim, 7);
        let q16: Vec<bf16> = q.iter().map(|&x| bf16::from_f32(x)).collect();
        let (mut out, mut out16) = (vec![0.0; q.len()], q16.clone());
        let mut best = [f64::INFINITY; 2];
        for _ in 0..rounds {
            let began = Instant::now();
            for kv in wide.chunks(2) {
                attention(&q, &kv[0], &kv[1], &shape, 0.125, AttentionMask::Causal, &mut out).expect("attends");
            }
            best[0] = best[0].min(began.elapsed().as_secs_f64());
            let began = Instant::now();
            for kv in narrow.chunks(2) {
                attention_bf16(&q16, &kv[0], &kv[1], &shape, 0.125, AttentionMask::Causal, &mut out16)
                    .expect("attends");
            }
            best[1] = best[1].min(began.elapsed().as_secs_f64());
        }
        let [f32_ms, bf16_ms] = best.map(|t| t * 1e3);
        println!("attention, {LAYERS} layers, {q_len:2} over {kv_len}: f32 {f32_ms:.3} ms, bf16 {bf16_ms:.3} ms");
    }
}
