//! What the kernel tests share: instruction sets to try, noise, and plain f64 references.

// Each test program uses some of this.
#![allow(dead_code)]

use std::io::Write;
use std::sync::Once;

use half::bf16;
use sango_kernels::{Activation, Epilogue, Isa, KernelError, Precision};

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx_emulator;

/// The instruction sets to test here, AMX through an emulator if need be. What is not native is named in the test output
/// (past the capture of passing tests), so that nobody takes silence for coverage.
pub fn isas() -> Vec<Isa> {
    static ANNOUNCE: Once = Once::new();
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    let emulated = amx_emulator::enable() == Some(true);
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    let emulated = false;
    let (have, lack): (Vec<_>, Vec<_>) = Isa::ALL.into_iter().partition(|isa| isa.is_available());
    ANNOUNCE.call_once(|| {
        let mut notes = String::new();
        if emulated {
            notes += "sango-kernels: this CPU lacks amx: its instructions are emulated here\n";
        }
        for isa in &lack {
            notes += &format!("sango-kernels: this CPU lacks {isa}: this program does not exercise that path\n");
        }
        std::io::stderr().write_all(notes.as_bytes()).expect("stderr takes a line");
    });
    have
}

/// Reproducible numbers in −1 .. 1.
pub fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// An activation as a product of this precision sees it.
pub fn rounded(x: f32, precision: Precision) -> f64 {
    match precision {
        Precision::F32 => f64::from(x),
        Precision::Bf16 | Precision::Int8 => f64::from(bf16::from_f32(x)),
    }
}

/// The weights of rows of `k` as products of this precision see them.
pub fn stored(w: &[f32], k: usize, precision: Precision) -> Vec<f64> {
    let row = |row: &[f32]| -> Vec<f64> {
        let scale = row.iter().fold(0.0f32, |most, w| most.max(w.abs())) / 127.0;
        let stored = |&w: &f32| match precision {
            Precision::Int8 if scale == 0.0 => 0.0,
            Precision::Int8 => f64::from((w / scale).round_ties_even()) * f64::from(scale),
            _ => rounded(w, precision),
        };
        row.iter().map(stored).collect()
    };
    w.chunks(k.max(1)).flat_map(row).collect()
}

/// What a product adds up to, and the sum of magnitudes that bounds its rounding.
#[derive(Clone, Copy, Default)]
pub struct Sum {
    pub value: f64,
    pub magnitude: f64,
}

impl Sum {
    pub fn add(&mut self, product: f64) {
        self.value += product;
        self.magnitude += product.abs();
    }
}

/// Checks one output of `activation(sum + bias) + residual`.
pub fn check(context: &dyn std::fmt::Display, got: f32, want: f64, magnitude: f64) {
    let allowed = 4e-6 * magnitude + 2e-6 * want.abs() + 1e-6;
    assert!((f64::from(got) - want).abs() <= allowed, "{context}: {got} instead of {want} (allowed {allowed})");
}

/// Runs a convolution with every instruction set, and checks `activation(sum + bias) + residual` of every output. `flags`
/// say whether there is a bias and a residual.
pub fn check_convolution(
    case: &dyn std::fmt::Debug,
    sums: &[Sum],
    c_out: usize,
    (flags, activation, seed): ([bool; 2], Activation, u64),
    convolve: impl Fn(&Epilogue<'_>, &mut [f32]) -> Result<(), KernelError>,
) {
    let bias = flags[0].then(|| noise(c_out, seed ^ 2));
    let residual = flags[1].then(|| noise(sums.len(), seed ^ 3));
    let epilogue = Epilogue { bias: bias.as_deref(), activation, residual: residual.as_deref(), ..Epilogue::default() };
    for isa in isas() {
        let mut out = vec![f32::NAN; sums.len()];
        isa.run(|| convolve(&epilogue, &mut out)).unwrap().unwrap();
        for (i, (&got, sum)) in out.iter().zip(sums).enumerate() {
            let bias = f64::from(bias.as_ref().map_or(0.0, |b| b[i % c_out]));
            let want = activate(activation, sum.value + bias) + f64::from(residual.as_ref().map_or(0.0, |r| r[i]));
            check(&format_args!("{isa} {case:?} at {i}"), got, want, 1.2 * (sum.magnitude + bias.abs()));
        }
    }
}

/// The activation in nearly f64: exact enough for sums that are themselves only good to f32.
pub fn activate(activation: Activation, x: f64) -> f64 {
    f64::from(activation.apply(x as f32))
}

/// A plain `[m, k] · [n, k]ᵀ`.
pub fn reference_gemm(a: &[f32], w: &[f32], (m, n, k): (usize, usize, usize), precision: Precision) -> Vec<Sum> {
    let mut sums = vec![Sum::default(); m * n];
    let w = stored(w, k, precision);
    for i in 0..m {
        for j in 0..n {
            for c in 0..k {
                sums[i * n + j].add(rounded(a[i * k + c], precision) * w[j * k + c]);
            }
        }
    }
    sums
}
