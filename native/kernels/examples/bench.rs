//! Prints GFLOP/s per shape: `cargo run --release -p sango-kernels --example bench [filter]`.
//!
//! The shapes are those of aMUSEd-256 and of LTX-Video at 256×256, 25 frames. Each figure is the best of several rounds. Packing counts elements, not FLOP.

use std::time::Instant;

use half::bf16;
use sango_kernels::{
    Activation, AttentionMask, AttentionShape, Conv2dShape, Conv3dShape, Epilogue, Isa, PackedConv2d, PackedConv3d,
    PackedWeights, Precision, Strides, TimePadding, attention, attention_bf16, conv2d, conv3d, gemm, pool,
};

const ROUNDS: usize = 7;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    println!("isa {}, {} threads", Isa::active(), pool::num_threads());
    for precision in [Precision::F32, Precision::Bf16] {
        for (m, k, n) in [
            (256, 1024, 1024),
            (512, 1024, 1024),
            (512, 1024, 5632),
            (512, 2816, 1024),
            (256, 768, 8192),
            (77, 768, 3072),
            (1, 1024, 4096),
            (2, 1024, 4096),
            (4, 1024, 4096),
        ] {
            let gated = n == 5632;
            let name = format!("gemm {precision:?} {m}x{k}x{n}{}", if gated { " geglu" } else { "" });
            if !name.contains(&filter) {
                continue;
            }
            let (a, w) = (noise(m * k), noise(n * k));
            let pack = if gated { PackedWeights::from_f32_gated } else { PackedWeights::from_f32 };
            let w = pack(&w, n, k, precision)?;
            let mut out = vec![0.0; m * w.out_columns()];
            let activation = if gated { Activation::Gelu } else { Activation::None };
            let epilogue = Epilogue { activation, ..Epilogue::default() };
            measure(&name, 2 * m * n * k, || Ok(gemm(&a, m, &w, &epilogue, &mut out)?))?;
        }
    }
    let (n, k) = (4096, 1024);
    for precision in [Precision::F32, Precision::Bf16] {
        let (name, w) = (format!("pack {precision:?} {n}x{k}"), noise(n * k));
        if name.contains(&filter) {
            measure(&name, n * k, || {
                PackedWeights::from_f32(&w, n, k, precision)?;
                Ok(())
            })?;
        }
    }
    for precision in [Precision::F32, Precision::Bf16] {
        for (size, c_in, c_out, kernel, upsample) in [
            (16, 768, 768, 3, 1),
            (16, 768, 768, 1, 1),
            (32, 512, 512, 3, 1),
            (64, 256, 256, 3, 1),
            (128, 128, 128, 3, 1),
            (256, 128, 128, 3, 1),
            (32, 512, 512, 3, 2),
            (128, 128, 128, 3, 2),
            (256, 128, 3, 3, 1),
        ] {
            let name = format!("conv {precision:?} {size}x{size}x{c_in}->{c_out} k{kernel} up{upsample}");
            if !name.contains(&filter) {
                continue;
            }
            let x = noise(size * size * c_in);
            let w = PackedConv2d::from_f32(
                &noise(c_out * c_in * kernel * kernel),
                (c_out, c_in, kernel, kernel),
                1,
                precision,
            )?;
            let shape = Conv2dShape { upsample, ..Conv2dShape::new(1, size, size, kernel / 2) };
            let pixels = (size * upsample) * (size * upsample);
            let mut out = vec![0.0; pixels * c_out];
            let flops = 2 * pixels * c_in * c_out * kernel * kernel;
            measure(&name, flops, || Ok(conv2d(&x, &shape, &w, &Epilogue::default(), &mut out)?))?;
        }
    }
    for precision in [Precision::F32, Precision::Bf16] {
        for (t, size, c_in, c_out) in [
            (4, 8, 512, 512),
            (4, 8, 512, 4096),
            (7, 16, 512, 512),
            (7, 16, 256, 2048),
            (13, 32, 256, 256),
            (13, 32, 128, 1024),
            (25, 64, 128, 128),
            (25, 64, 128, 48),
        ] {
            let name = format!("conv3d {precision:?} {t}x{size}x{size}x{c_in}->{c_out}");
            if !name.contains(&filter) {
                continue;
            }
            let (x, w) = (noise(t * size * size * c_in), noise(c_out * c_in * 27));
            let w = PackedConv3d::from_f32(&w, (c_out, c_in), [3; 3], precision)?;
            let shape = Conv3dShape::new(1, t, size, size, TimePadding::Symmetric, 1);
            let mut out = vec![0.0; t * size * size * c_out];
            let flops = 2 * 27 * t * size * size * c_in * c_out;
            measure(&name, flops, || Ok(conv3d(&x, &shape, &w, &Epilogue::default(), &mut out)?))?;
        }
    }
    for (batch, heads, q_len, kv_len, head_dim) in [
        (2, 16, 256, 256, 64),
        (2, 16, 256, 77, 64),
        (1, 12, 1024, 1024, 64),
        (2, 32, 256, 256, 64),
        (2, 32, 256, 128, 64),
        (1, 32, 2048, 128, 64),
        (1, 32, 1024, 1024, 64),
        (1, 32, 2048, 2048, 64),
        (1, 32, 4096, 4096, 64),
        (1, 32, 2048, 2048, 128),
    ] {
        let (q_strides, kv_strides) =
            (Strides::heads_first(heads, q_len, head_dim), Strides::heads_first(heads, kv_len, head_dim));
        let [q, k, v, out] = [q_strides, kv_strides, kv_strides, q_strides];
        let shape = AttentionShape { batch, heads, kv_heads: heads, q_len, kv_len, head_dim, q, k, v, out };
        let (scale, flops) = (0.125, 4 * batch * heads * q_len * kv_len * head_dim);
        let [q, k, v] = [q_len, kv_len, kv_len].map(|length| noise(batch * heads * length * head_dim));
        let name = |label: &str| format!("attention {label} {batch}x{heads} {q_len}x{kv_len}x{head_dim}");
        if name("F32").contains(&filter) {
            let mut out = vec![0.0; q.len()];
            measure(&name("F32"), flops, || Ok(attention(&q, &k, &v, &shape, scale, AttentionMask::None, &mut out)?))?;
        }
        if name("Bf16").contains(&filter) {
            let [q, k, v] = [q, k, v].map(|values| values.into_iter().map(bf16::from_f32).collect::<Vec<_>>());
            let mut out = vec![bf16::ZERO; q.len()];
            measure(&name("Bf16"), flops, || {
                Ok(attention_bf16(&q, &k, &v, &shape, scale, AttentionMask::None, &mut out)?)
            })?;
        }
    }
    Ok(())
}

fn measure(
    name: &str,
    flops: usize,
    mut run: impl FnMut() -> Result<(), Box<dyn std::error::Error>>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{name:40} {:9.3} ms {:8.1} GFLOP/s", best * 1e3, flops as f64 / best / 1e9);
    Ok(())
}

/// Reproducible numbers in −0.5 .. 0.5.
fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect()
}
