//! Norms, activations and softmax on every instruction set against f64 references.

mod support;

use proptest::prelude::*;
use sango_kernels::{Activation, Isa, activate, group_norm, layer_norm, log_softmax, rms_norm, softmax};
use support::{isas, noise};

#[track_caller]
fn close(isa: Isa, what: &str, got: &[f32], want: &[f64], tolerance: f64) {
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(g) - w).abs() <= tolerance * w.abs().max(1.0), "{isa} {what}: value {i} is {g}, not {w}");
    }
}

fn moments(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn row_norms(rows in 1usize..20, width in prop_oneof![1usize..70, 120usize..140, 1000usize..1100], offset in -20f32..20.0, weighted: bool, biased: bool, seed: u64) {
        let x: Vec<f32> = noise(rows * width, seed).iter().map(|v| v + offset).collect();
        let (w, b) = (noise(width, seed ^ 1), noise(width, seed ^ 2));
        let (weight, bias) = (weighted.then_some(&w[..]), biased.then_some(&b[..]));
        let eps = 1e-3;
        let affine = |i: usize, v: f64| v * weight.map_or(1.0, |w| f64::from(w[i % width])) + bias.map_or(0.0, |b| f64::from(b[i % width]));
        let (mut layer, mut rms) = (Vec::new(), Vec::new());
        for row in x.chunks_exact(width) {
            let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
            let (mean, variance) = moments(&row);
            let square = row.iter().map(|v| v * v).sum::<f64>() / width as f64;
            layer.extend(row.iter().enumerate().map(|(i, v)| affine(i, (v - mean) / (variance + f64::from(eps)).sqrt())));
            rms.extend(row.iter().enumerate().map(|(i, v)| affine(i, v / (square + f64::from(eps)).sqrt())));
        }
        for isa in isas() {
            let mut out = vec![f32::NAN; x.len()];
            isa.run(|| layer_norm(&x, width, weight, bias, eps, &mut out)).unwrap().unwrap();
            // The mean of values near 20 is itself only good to 2e-6, which a small variance magnifies.
            close(isa, "layer", &out, &layer, 2e-4);
            isa.run(|| rms_norm(&x, width, weight, bias, eps, &mut out)).unwrap().unwrap();
            close(isa, "rms", &out, &rms, 5e-6);
        }
    }

    #[test]
    fn group_norms(n in 1usize..3, pixels in prop_oneof![1usize..40, 300usize..600], groups in 1usize..9, width in 1usize..25, offset in -20f32..20.0, affine: bool, activation in prop::sample::select(Activation::ALL.to_vec()), seed: u64) {
        let channels = groups * width;
        let x: Vec<f32> = noise(n * pixels * channels, seed).iter().map(|v| v + offset).collect();
        let (w, b) = (noise(channels, seed ^ 1), noise(channels, seed ^ 2));
        let (weight, bias) = (affine.then_some(&w[..]), affine.then_some(&b[..]));
        let eps = 1e-3;
        let mut expected = vec![0.0; x.len()];
        for image in 0..n {
            for group in 0..groups {
                let members: Vec<usize> = (0..pixels).flat_map(|p| (0..width).map(move |c| (image * pixels + p) * channels + group * width + c)).collect();
                let (mean, variance) = moments(&members.iter().map(|&i| f64::from(x[i])).collect::<Vec<_>>());
                for i in members {
                    let c = i % channels;
                    let v = (f64::from(x[i]) - mean) / (variance + f64::from(eps)).sqrt();
                    let v = if affine { v * f64::from(w[c]) + f64::from(b[c]) } else { v };
                    expected[i] = f64::from(activation.apply(v as f32));
                }
            }
        }
        for isa in isas() {
            let mut out = vec![f32::NAN; x.len()];
            isa.run(|| group_norm(&x, (n, pixels, channels), groups, weight, bias, eps, activation, &mut out)).unwrap().unwrap();
            close(isa, "group", &out, &expected, 1e-4);
        }
    }

    #[test]
    fn softmax_and_activations(rows in 1usize..6, width in prop_oneof![1usize..70, 8000usize..8300], spread in 0.1f32..50.0, activation in prop::sample::select(Activation::ALL.to_vec()), seed: u64) {
        let x: Vec<f32> = noise(rows * width, seed).iter().map(|v| v * spread).collect();
        let (mut soft, mut log) = (Vec::new(), Vec::new());
        for row in x.chunks_exact(width) {
            let max = row.iter().fold(f64::MIN, |m, &v| m.max(v.into()));
            let total: f64 = row.iter().map(|&v| (f64::from(v) - max).exp()).sum();
            soft.extend(row.iter().map(|&v| (f64::from(v) - max).exp() / total));
            log.extend(row.iter().map(|&v| f64::from(v) - max - total.ln()));
        }
        let activated: Vec<f64> = x.iter().map(|&v| f64::from(activation.apply(v))).collect();
        for isa in isas() {
            let mut out = vec![f32::NAN; x.len()];
            isa.run(|| softmax(&x, width, &mut out)).unwrap().unwrap();
            let total: f64 = soft.iter().zip(&out).map(|(w, &g)| (w - f64::from(g)).abs()).sum();
            prop_assert!(total <= 3e-6 * rows as f64, "{} softmax is off by {}", isa, total);
            isa.run(|| log_softmax(&x, width, &mut out)).unwrap().unwrap();
            close(isa, "log softmax", &out, &log, 2e-6);
            isa.run(|| activate(&x, activation, &mut out)).unwrap().unwrap();
            close(isa, "activation", &out, &activated, 3e-6);
        }
    }
}

#[test]
fn large_images_take_many_tasks() {
    // Far from 0 and wider than one task: the sums of squares must not lose the variance.
    let (pixels, channels) = (3000, 64);
    let x: Vec<f32> = noise(pixels * channels, 1).iter().map(|v| v * 0.1 + 30.0).collect();
    for isa in isas() {
        let mut out = vec![0.0; x.len()];
        isa.run(|| group_norm(&x, (1, pixels, channels), 4, None, None, 0.0, Activation::None, &mut out))
            .unwrap()
            .unwrap();
        for group in 0..4 {
            let members: Vec<f64> =
                (0..pixels).flat_map(|p| &out[p * channels + group * 16..][..16]).map(|&v| v.into()).collect();
            let (mean, variance) = moments(&members);
            assert!(mean.abs() < 1e-4 && (variance - 1.0).abs() < 1e-4, "{isa}: mean {mean}, variance {variance}");
        }
    }
}

#[test]
fn sizes_are_checked() {
    assert!(softmax(&[0.0; 6], 4, &mut [0.0; 6]).is_err());
    assert!(softmax(&[], 0, &mut []).is_err());
    assert!(log_softmax(&[0.0; 6], 3, &mut [0.0; 5]).is_err());
    assert!(activate(&[0.0; 6], Activation::Silu, &mut [0.0; 5]).is_err());
}
