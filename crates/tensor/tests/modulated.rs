//! Fused norms and gates against what they are made of.

mod common;

use common::{assert_close, tensor};
use sango_tensor::nn::{Conv3d, Conv3dOptions, Linear, Normed, TimePadding};
use sango_tensor::ops::{self, Columns, Modulation, layer_norm_modulated, rms_norm_modulated, rms_norm_rotary};
use sango_tensor::{Activation, DType, Tensor};

fn doubles(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F32).as_f32().unwrap().iter().map(|&v| f64::from(v)).collect()
}

#[test]
fn norms_with_a_condition_for_each_batch_or_token() {
    for (batch, tokens, width) in [(2, 6, 40), (1, 5, 7), (3, 4, 128)] {
        let x = tensor(&[batch, tokens, width], 1);
        let weight = tensor(&[width], 2);
        for conditions in [1, tokens] {
            let ada = tensor(&[batch, conditions, 3 * width], 3);
            let part = |i: usize| {
                let part = ada.narrow(2, i * width, width).unwrap();
                part.broadcast_to(&[batch, tokens, width]).unwrap()
            };
            let columns = |i: usize| Columns::of(&ada, i * width..(i + 1) * width);
            let modulation = Modulation::new(columns(2), columns(0));
            let modulated = |y: Tensor| {
                let y = y.mul(&part(2).add_scalar(1.0).unwrap()).unwrap().add(&part(0)).unwrap();
                doubles(&y.silu().unwrap())
            };
            let rms = ops::rms_norm(&x, Some(&weight), None, 1e-6, DType::F32).unwrap();
            let got = rms_norm_modulated(&x, Some(&weight), Some(&modulation), Activation::Silu, 1e-6, DType::F32);
            assert_close(&got.unwrap(), x.shape(), &modulated(rms), 1e-5);
            let layer = ops::layer_norm(&x, None, None, 1e-6, DType::F32).unwrap();
            let got = layer_norm_modulated(&x, None, Some(&modulation), Activation::Silu, 1e-6, DType::F32);
            assert_close(&got.unwrap(), x.shape(), &modulated(layer), 1e-5);
        }
        let plain = ops::rms_norm(&x, Some(&weight), None, 1e-6, DType::F32).unwrap();
        let got =
            rms_norm_modulated(&x.to_dtype(DType::BF16), Some(&weight), None, Activation::None, 1e-6, DType::BF16);
        assert_close(&got.unwrap().to_dtype(DType::F32), x.shape(), &doubles(&plain), 2e-2);
    }
}

#[test]
fn one_condition_may_be_for_all_batches_and_dimensions() {
    let x = tensor(&[2, 3, 2, 2, 16], 1);
    let (scale, shift) = (tensor(&[1, 1, 16], 2), tensor(&[1, 1, 16], 3));
    let modulation = Modulation::new(&scale, &shift);
    let got = rms_norm_modulated(&x, None, Some(&modulation), Activation::None, 1e-8, DType::F32).unwrap();
    let plain = ops::rms_norm(&x, None, None, 1e-8, DType::F32).unwrap();
    let want = plain.mul(&scale.add_scalar(1.0).unwrap()).unwrap().add(&shift).unwrap();
    assert_close(&got, x.shape(), &doubles(&want), 1e-5);
}

#[test]
fn rotary_turns_neighbours() {
    for (batch, length, width) in [(2, 5, 48), (1, 3, 6), (2, 4, 34)] {
        let wide = tensor(&[batch, length, 3 * width], 1);
        let weight = tensor(&[width], 2);
        let x = wide.narrow(2, width, width).unwrap();
        let normed = ops::rms_norm(&x, Some(&weight), None, 1e-5, DType::F32).unwrap();
        for angles in [vec![length, width / 2], vec![batch, length, width / 2]] {
            let (cos, sin) = (tensor(&angles, 3), tensor(&angles, 4));
            let (c, s, y) = (doubles(&cos), doubles(&sin), doubles(&normed));
            let want: Vec<f64> = (0..y.len())
                .map(|i| {
                    let (row, pair) = (i / width, i % width / 2);
                    let at = row * (width / 2) % c.len() + pair;
                    let other = if i % 2 == 0 { -y[i + 1] } else { y[i - 1] };
                    y[i] * c[at] + other * s[at]
                })
                .collect();
            let columns = Columns::of(&wide, width..2 * width);
            let got = rms_norm_rotary(columns.clone(), Some(&weight), Some((&cos, &sin)), 1e-5, DType::F32).unwrap();
            assert_close(&got, x.shape(), &want, 1e-5);
            let narrow = wide.to_dtype(DType::BF16);
            let columns = Columns::of(&narrow, width..2 * width);
            let got = rms_norm_rotary(columns, Some(&weight), Some((&cos, &sin)), 1e-5, DType::BF16).unwrap();
            assert_close(&got.to_dtype(DType::F32), x.shape(), &want, 4e-2);
        }
        assert_close(
            &rms_norm_rotary(&x, Some(&weight), None, 1e-5, DType::F32).unwrap(),
            x.shape(),
            &doubles(&normed),
            1e-5,
        );
    }
}

#[test]
fn linear_with_a_gate_and_a_residual() {
    let (batch, tokens, k, n) = (2, 9, 24, 37);
    let (x, residual) = (tensor(&[batch, tokens, k], 1), tensor(&[batch, tokens, n], 2));
    let layer = Linear::new(&tensor(&[n, k], 3), Some(tensor(&[n], 4))).unwrap();
    let plain = layer.forward(&x).unwrap();
    for conditions in [1, tokens] {
        let ada = tensor(&[batch, conditions, 2 * n], 5);
        let gate = ada.narrow(2, n, n).unwrap().broadcast_to(&[batch, tokens, n]).unwrap();
        let want = plain.mul(&gate).unwrap().add(&residual).unwrap();
        let got = layer.forward_gated_residual(&x, Columns::of(&ada, n..2 * n), &residual).unwrap();
        assert_close(&got, &[batch, tokens, n], &doubles(&want), 1e-5);
    }
}

#[test]
fn a_convolution_of_normalised_pixels() {
    let (x, weight) = (tensor(&[2, 3, 4, 5, 6], 1), tensor(&[7, 6, 3, 3, 3], 2));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    sango_tensor::save(&path, &[("weight", &weight)], None).unwrap();
    let weights = sango_tensor::Weights::from_bytes(std::fs::read(path).unwrap(), "model.safetensors").unwrap();
    let options = Conv3dOptions { time: TimePadding::Causal, padding: [1; 2], bias: false, ..Conv3dOptions::default() };
    let layer = Conv3d::load(&weights, 6, 7, (3, 3, 3), options).unwrap();
    let ada = tensor(&[2, 1, 12], 3);
    let modulation = Modulation::new(Columns::of(&ada, 6..12), Columns::of(&ada, 0..6));
    let normed = rms_norm_modulated(&x, None, Some(&modulation), Activation::Silu, 1e-8, DType::F32).unwrap();
    let normed_by = Normed { weight: None, modulation: Some(modulation), activation: Activation::Silu, eps: 1e-8 };
    let residual = tensor(&[2, 3, 4, 5, 7], 4);
    let want = doubles(&layer.forward_residual(&normed, &residual).unwrap());
    let got = layer.forward_normed(&x, &normed_by, Some(&residual), DType::F32).unwrap();
    assert_close(&got, residual.shape(), &want, 1e-5);
    let narrow = layer.forward_normed(&x, &normed_by, Some(&residual), DType::BF16).unwrap();
    assert_close(&narrow.to_dtype(DType::F32), residual.shape(), &want, 1e-2);
    let symmetric = layer.forward_normed_with(&x, TimePadding::Symmetric, &normed_by, None, DType::F32).unwrap();
    let want = doubles(&layer.forward_with(&normed, TimePadding::Symmetric).unwrap());
    assert_close(&symmetric, residual.shape(), &want, 1e-5);
    let other = tensor(&[2, 1, 5], 3);
    let normed_by = Normed { modulation: Some(Modulation::new(&other, &other)), ..normed_by };
    assert!(layer.forward_normed(&x, &normed_by, None, DType::F32).is_err());
}

#[test]
fn what_does_not_fit_is_an_error() {
    let x = tensor(&[2, 6, 8], 1);
    let condition = |shape: &[usize]| {
        let t = tensor(shape, 2);
        rms_norm_modulated(&x, None, Some(&Modulation::new(&t, &t)), Activation::None, 1e-6, DType::F32).is_ok()
    };
    assert!(condition(&[2, 3, 8]) && condition(&[1, 1, 8]));
    assert!(!condition(&[2, 4, 8]) && !condition(&[3, 1, 8]) && !condition(&[2, 1, 7]) && !condition(&[1, 6, 8]));
    assert!(rms_norm_modulated(&x, Some(&tensor(&[7], 1)), None, Activation::None, 1e-6, DType::F32).is_err());
    let angles = |shape: &[usize]| {
        let t = tensor(shape, 3);
        rms_norm_rotary(&x, None, Some((&t, &t)), 1e-5, DType::F32).is_ok()
    };
    assert!(angles(&[6, 4]) && !angles(&[5, 4]) && !angles(&[6, 8]));
    assert!(rms_norm_rotary(&Tensor::arange(0, 8).reshape(&[1, 1, 8]).unwrap(), None, None, 1e-5, DType::F32).is_err());
}
