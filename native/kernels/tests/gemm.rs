//! Every gemm path against a plain f64 product.

mod support;

use half::bf16;
use proptest::prelude::*;
use sango_kernels::{Activation, BLayout, Epilogue, Gate, KernelError, PackedWeights, Precision, gemm, matmul};
use support::{activate, check, isas, noise, reference_gemm};

#[derive(Debug, Clone)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    precision: Precision,
    gated: bool,
    bias: bool,
    residual: bool,
    activation: Activation,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let rows = prop_oneof![0usize..6, 0usize..70];
    let size = (rows, 0usize..140, prop_oneof![0usize..80, 200usize..1100]);
    let precision = prop::sample::select(Precision::ALL.to_vec());
    let activation = prop::sample::select(Activation::ALL.to_vec());
    let flags = any::<[bool; 3]>();
    (size, precision, flags, activation, any::<u64>()).prop_map(|((m, n, k), precision, flags, activation, seed)| {
        let [gated, bias, residual] = flags;
        Case { m, n: if gated { n / 2 * 2 } else { n }, k, precision, gated, bias, residual, activation, seed }
    })
}

fn verify(case: &Case) {
    let &Case { m, n, k, precision, gated, activation, seed, .. } = case;
    let (a, w) = (noise(m * k, seed), noise(n * k, seed ^ 1));
    let columns = if gated { n / 2 } else { n };
    let bias = case.bias.then(|| noise(n, seed ^ 2));
    let residual = case.residual.then(|| noise(m * columns, seed ^ 3));
    let pack = if gated { PackedWeights::from_f32_gated } else { PackedWeights::from_f32 };
    let packed = pack(&w, n, k, precision).unwrap();
    let epilogue = Epilogue { bias: bias.as_deref(), activation, residual: residual.as_deref(), ..Epilogue::default() };
    let sums = reference_gemm(&a, &w, (m, n, k), precision);
    for isa in isas() {
        let mut out = vec![f32::NAN; m * columns];
        isa.run(|| gemm(&a, m, &packed, &epilogue, &mut out)).unwrap().unwrap();
        for (i, &got) in out.iter().enumerate() {
            let (row, column) = (i / columns, i % columns);
            let biased = |n_row: usize| {
                let sum = sums[row * n + n_row];
                let bias = f64::from(bias.as_ref().map_or(0.0, |b| b[n_row]));
                (sum.value + bias, sum.magnitude + bias.abs())
            };
            let (value, mut magnitude) = biased(column);
            let value = if gated {
                let (gate, spread) = biased(columns + column);
                let factor = activate(activation, gate);
                magnitude = magnitude * factor.abs() + 1.2 * spread * value.abs();
                value * factor
            } else {
                magnitude *= 1.2;
                activate(activation, value)
            };
            let want = value + f64::from(residual.as_ref().map_or(0.0, |r| r[i]));
            check(&format_args!("{isa} {case:?} at {row},{column}"), got, want, magnitude);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_agrees_with_the_reference(case in case()) {
        verify(&case);
    }
}

#[test]
fn shapes_of_the_models() {
    for (m, n, k, gated) in [(256, 96, 1024, false), (77, 64, 768, true), (1, 256, 2816, false), (3, 50, 1024, false)] {
        for precision in Precision::ALL {
            let activation = if gated { Activation::Gelu } else { Activation::None };
            verify(&Case { m, n, k, precision, gated, bias: false, residual: true, activation, seed: 7 });
        }
    }
}

#[test]
fn bf16_activations_are_read_and_written_as_they_are() {
    let bits = |values: &[f32]| values.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>();
    // Widths that are read in place, that are copied, and that are padded.
    for (m, n, k) in [(40, 64, 96), (33, 70, 1024), (5, 3, 37)] {
        let (a, w) = (bits(&noise(m * k, 1)), noise(n * k, 2));
        let wide: Vec<f32> = a.iter().map(|x| x.to_f32()).collect();
        for precision in Precision::ALL {
            let packed = PackedWeights::from_f32(&w, n, k, precision).unwrap();
            for isa in isas() {
                let (mut out, mut narrow, mut expected) = (vec![0.0; m * n], vec![bf16::ZERO; m * n], vec![0.0; m * n]);
                isa.run(|| {
                    gemm(&a, m, &packed, &Epilogue::default(), &mut out).unwrap();
                    gemm(&a, m, &packed, &Epilogue::default(), &mut narrow).unwrap();
                    gemm(&wide, m, &packed, &Epilogue::default(), &mut expected).unwrap();
                })
                .unwrap();
                assert_eq!(out, expected, "{isa} {precision:?} {m}x{k}x{n}");
                assert_eq!(narrow, bits(&expected), "{isa} {precision:?} {m}x{k}x{n}");
            }
        }
    }
}

#[test]
fn nan_and_infinity_reach_their_outputs_and_no_others() {
    let (m, n, k) = (11, 40, 70);
    for precision in Precision::ALL {
        for isa in isas() {
            let mut a = vec![0.0; m * k];
            a[3 * k + 69] = f32::NAN;
            a[4 * k] = f32::INFINITY;
            let mut w = vec![1.0; n * k];
            w[39 * k + 5] = f32::NAN;
            let packed = PackedWeights::from_f32(&w, n, k, precision).unwrap();
            let mut out = vec![0.0; m * n];
            isa.run(|| gemm(&a, m, &packed, &Epilogue::default(), &mut out)).unwrap().unwrap();
            for (i, value) in out.iter().enumerate() {
                match (i / n, i % n) {
                    (3, _) | (_, 39) => assert!(value.is_nan(), "{isa} {precision:?} {i}: {value}"),
                    (4, _) => assert_eq!(*value, f32::INFINITY, "{isa} {precision:?} {i}"),
                    _ => assert_eq!(*value, 0.0, "{isa} {precision:?} {i}"),
                }
            }
        }
    }
}

#[test]
fn denormals_count_as_zero_on_every_path() {
    let tiny = f32::MIN_POSITIVE / 4.0;
    for precision in Precision::ALL {
        for isa in isas() {
            let packed = PackedWeights::from_f32(&[1.0; 64], 1, 64, precision).unwrap();
            let mut out = [1.0];
            isa.run(|| gemm(&[tiny; 64], 1, &packed, &Epilogue::default(), &mut out)).unwrap().unwrap();
            assert_eq!(out, [0.0], "{isa} {precision:?}");
        }
    }
}

#[test]
fn matmul_takes_either_layout() {
    let (m, n, k) = (9, 35, 41);
    let (a, b) = (noise(m * k, 1), noise(n * k, 2));
    let transposed: Vec<f32> = (0..k * n).map(|i| b[(i % n) * k + i / n]).collect();
    let want = reference_gemm(&a, &b, (m, n, k), Precision::F32);
    for isa in isas() {
        for (layout, b) in [(BLayout::NK, &b), (BLayout::KN, &transposed)] {
            let mut out = vec![0.0; m * n];
            isa.run(|| matmul(&a, b, layout, (m, n, k), &mut out)).unwrap().unwrap();
            for (got, want) in out.iter().zip(&want) {
                check(&format_args!("{isa} {layout:?}"), *got, want.value, want.magnitude);
            }
        }
    }
}

/// So long that only a part of each row stays in the cache: sums of many panels wait for the other parts.
#[test]
fn long_rows() {
    let (activation, precision, seed) = (Activation::GeluTanh, Precision::Bf16, 3);
    verify(&Case { m: 270, n: 300, k: 5200, precision, gated: false, bias: true, residual: true, activation, seed });
}

/// A gate between activation and residual, one row for several rows of the output.
#[test]
fn gates() {
    let (m, n, k, stride) = (37, 45, 70, 50);
    let (a, w, values, residual) = (noise(m * k, 1), noise(n * k, 2), noise(4 * stride, 3), noise(m * n, 4));
    for precision in Precision::ALL {
        let packed = PackedWeights::from_f32(&w, n, k, precision).unwrap();
        for isa in isas() {
            let (mut plain, mut out) = (vec![0.0; m * n], vec![0.0; m * n]);
            let gate = Gate { values: &values, stride, rows: 10 };
            let gated = Epilogue { gate: Some(gate), residual: Some(&residual), ..Epilogue::default() };
            isa.run(|| gemm(&a, m, &packed, &Epilogue::default(), &mut plain).unwrap()).unwrap();
            isa.run(|| gemm(&a, m, &packed, &gated, &mut out).unwrap()).unwrap();
            for i in 0..m * n {
                let want = plain[i] * values[i / n / 10 * stride + i % n] + residual[i];
                assert!((out[i] - want).abs() <= 1e-5 * (1.0 + want.abs()), "{isa} {precision:?} at {i}");
            }
            let short = Epilogue { gate: Some(Gate { rows: 9, ..gate }), ..Epilogue::default() };
            assert!(gemm(&a, m, &packed, &short, &mut out).is_err());
            let none = Epilogue { gate: Some(Gate { rows: 0, ..gate }), ..Epilogue::default() };
            assert!(gemm(&a, m, &packed, &none, &mut out).is_err());
        }
    }
}

#[test]
fn wrong_lengths_are_errors_and_leave_the_output_alone() {
    let packed = PackedWeights::from_f32(&[1.0; 6], 2, 3, Precision::F32).unwrap();
    let call = |a: usize, bias: usize, residual: usize, out: usize| {
        let (bias, residual) = (vec![0.0; bias], vec![0.0; residual]);
        let epilogue = Epilogue { bias: Some(&bias), residual: Some(&residual), ..Epilogue::default() };
        let mut buffer = vec![5.0; out];
        let result = gemm(&vec![0.0; a], 2, &packed, &epilogue, &mut buffer);
        assert!(result.is_ok() || buffer.iter().all(|&v| v == 5.0));
        result
    };
    assert_eq!(call(6, 2, 4, 4), Ok(()));
    for (a, bias, residual, out) in [(5, 2, 4, 4), (6, 3, 4, 4), (6, 2, 3, 4), (6, 2, 4, 5)] {
        assert!(matches!(call(a, bias, residual, out), Err(KernelError::Length { .. })));
    }
    let huge = gemm::<f32, f32>(&[], usize::MAX, &packed, &Epilogue::default(), &mut []);
    assert!(matches!(huge, Err(KernelError::Overflow(_))));
}
