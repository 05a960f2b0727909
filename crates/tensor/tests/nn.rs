//! Layers against slow references, loaded from checkpoints made for the purpose.

mod common;

use common::{assert_close, at, indices, tensor};
use sango_tensor::nn::{self, Conv2dConfig, Conv3dOptions, TimePadding};
use sango_tensor::ops::{self, Columns, multi_head_attention, scaled_dot_product_attention};
use sango_tensor::{Activation, DType, Tensor, TensorError, Weights};

/// A checkpoint with these tensors.
fn checkpoint(tensors: &[(&str, &Tensor)]) -> Weights {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    sango_tensor::save(&path, tensors, None).unwrap();
    Weights::from_bytes(std::fs::read(path).unwrap(), "model.safetensors").unwrap()
}

fn value(t: &Tensor, index: &[usize]) -> f64 {
    at(t.as_f32().unwrap(), t.shape(), index)
}

/// `x · wᵀ + b` for `x` `[rows, k]`.
fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Vec<f64> {
    let (rows, k) = (x.shape()[0], x.shape()[1]);
    indices(&[rows, w.shape()[0]])
        .iter()
        .map(|i| {
            (0..k).map(|j| value(x, &[i[0], j]) * value(w, &[i[1], j])).sum::<f64>()
                + b.map_or(0.0, |b| value(b, &[i[1]]))
        })
        .collect()
}

#[test]
fn linear_with_everything_that_can_follow_it() {
    for (rows, k, n) in [(1, 5, 3), (7, 33, 40), (64, 96, 65)] {
        let (x, w, b) = (tensor(&[rows, k], 1), tensor(&[n, k], 2), tensor(&[n], 3));
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            // Whatever type the file holds, the layer computes with exactly those numbers.
            let (w, b) = (w.to_dtype(dtype), b.to_dtype(dtype));
            let weights = checkpoint(&[("proj.weight", &w), ("proj.bias", &b)]).pp("proj");
            let (w, b) = (w.to_dtype(DType::F32), b.to_dtype(DType::F32));
            let layer = nn::Linear::load(&weights, k, n, true).unwrap();
            let expected = linear(&x, &w, Some(&b));
            assert_close(&layer.forward(&x).unwrap(), &[rows, n], &expected, 1e-5);
            let silu: Vec<f64> = expected.iter().map(|v| v / (1.0 + (-v).exp())).collect();
            assert_close(&layer.forward_act(&x, Activation::Silu).unwrap(), &[rows, n], &silu, 1e-5);
            let residual = tensor(&[rows, n], 4);
            let sum: Vec<f64> =
                expected.iter().zip(residual.as_f32().unwrap()).map(|(a, &b)| a + f64::from(b)).collect();
            assert_close(&layer.forward_residual(&x, &residual).unwrap(), &[rows, n], &sum, 1e-5);
            let plain = nn::Linear::load(&weights, k, n, false).unwrap();
            assert_close(&plain.forward(&x).unwrap(), &[rows, n], &linear(&x, &w, None), 1e-5);
        }
        // Any number of leading dimensions.
        let layer = nn::Linear::new(&w, Some(b.clone())).unwrap();
        let deep = layer.forward(&x.reshape(&[1, rows, 1, k]).unwrap()).unwrap();
        assert_close(&deep, &[1, rows, 1, n], &linear(&x, &w, Some(&b)), 1e-5);
    }
}

#[test]
fn bf16_layers_are_close_and_smaller() {
    let (x, w) = (tensor(&[9, 64], 1), tensor(&[48, 64], 2));
    let weights = checkpoint(&[("weight", &w)]).with_dtype(DType::BF16);
    assert_eq!(weights.pp("below").compute_dtype(), DType::BF16);
    let found = nn::Linear::load(&weights, 64, 48, false).unwrap().forward(&x).unwrap();
    let expected = linear(&x, &w, None);
    let error: f64 = found.as_f32().unwrap().iter().zip(&expected).map(|(&f, e)| (f64::from(f) - e).powi(2)).sum();
    let norm: f64 = expected.iter().map(|e| e * e).sum();
    let relative = (error / norm).sqrt();
    assert!(relative < 1e-2, "relative error {relative}");
    // Rounding must be visible, or the layer did not compute in bf16 at all.
    assert!(relative > 1e-5, "relative error {relative}");
}

#[test]
fn int8_layers_are_close_whatever_the_number_of_rows() {
    let w = tensor(&[48, 64], 2);
    let weights = checkpoint(&[("weight", &w)]).with_int8_linears();
    let below = weights.pp("below");
    assert!(below.int8_linears() && below.compute_dtype() == DType::BF16);
    assert!(!below.with_dtype(DType::BF16).int8_linears());
    let layer = nn::Linear::load(&weights, 64, 48, false).unwrap();
    assert_eq!(layer.dtype(), DType::BF16);
    for rows in [1, 4, 5, 40] {
        let x = tensor(&[rows, 64], 1);
        let (found, expected) = (layer.forward(&x).unwrap(), linear(&x, &w, None));
        let error: f64 = found.as_f32().unwrap().iter().zip(&expected).map(|(&f, e)| (f64::from(f) - e).powi(2)).sum();
        let norm: f64 = expected.iter().map(|e| e * e).sum();
        assert!(error.sqrt() < 1e-2 * norm.sqrt(), "{rows} rows: {}", (error / norm).sqrt());
    }
}

#[test]
fn values_and_gates_of_two_layers_are_one_gated_layer() {
    let (up, gate) = (tensor(&[20, 24], 1), tensor(&[20, 24], 2));
    let (up_bias, gate_bias) = (tensor(&[20], 3), tensor(&[20], 4));
    let weights = checkpoint(&[
        ("up.weight", &up),
        ("up.bias", &up_bias),
        ("gate.weight", &gate),
        ("gate.bias", &gate_bias),
        ("both.weight", &Tensor::cat(&[&up, &gate], 0).unwrap()),
        ("both.bias", &Tensor::cat(&[&up_bias, &gate_bias], 0).unwrap()),
    ]);
    let x = tensor(&[5, 24], 5);
    for bias in [true, false] {
        let split = nn::GatedLinear::load_split(&weights.pp("up"), &weights.pp("gate"), 24, 20, bias).unwrap();
        let whole = nn::GatedLinear::load(&weights.pp("both"), 24, 20, bias).unwrap();
        let (split, whole) = [split, whole].map(|l| l.forward_gated(&x, Activation::Silu).unwrap()).into();
        assert_eq!(split.as_f32().unwrap(), whole.as_f32().unwrap());
    }
}

#[test]
fn gated_linear_is_value_times_activated_gate() {
    let (x, w, b) = (tensor(&[5, 24], 1), tensor(&[2 * 20, 24], 2), tensor(&[40], 3));
    let weights = checkpoint(&[("weight", &w), ("bias", &b)]);
    let both = linear(&x, &w, Some(&b));
    let expected: Vec<f64> = indices(&[5, 20])
        .iter()
        .map(|i| {
            let (value, gate) = (both[i[0] * 40 + i[1]], both[i[0] * 40 + 20 + i[1]]);
            value * gate / (1.0 + (-gate).exp())
        })
        .collect();
    let layer = nn::GatedLinear::load(&weights, 24, 20, true).unwrap();
    assert_close(&layer.forward_gated(&x, Activation::Silu).unwrap(), &[5, 20], &expected, 1e-5);
}

#[test]
fn convolutions_of_videos() {
    for (time, before, out_t) in
        [(TimePadding::Causal, 2, 4), (TimePadding::Symmetric, 1, 4), (TimePadding::None, 0, 2)]
    {
        let (c_in, c_out, [t, h, w]) = (3, 5, [4, 5, 6]);
        let x = tensor(&[2, t, h, w, c_in], 1);
        let (weight, bias) = (tensor(&[c_out, c_in, 3, 3, 3], 2), tensor(&[c_out], 3));
        let weights = checkpoint(&[("weight", &weight), ("bias", &bias)]);
        let options = Conv3dOptions { time, padding: [1; 2], ..Conv3dOptions::default() };
        let layer = nn::Conv3d::load(&weights, c_in, c_out, (3, 3, 3), options).unwrap();
        let out_shape = [2, out_t, h, w, c_out];
        let expected: Vec<f64> = indices(&out_shape)
            .iter()
            .map(|i| {
                let mut sum = value(&bias, &[i[4]]);
                for tap in indices(&[3, 3, 3, c_in]) {
                    let from = (i[1] + tap[0]).saturating_sub(before).min(t - 1);
                    let (y, x_at) = ((i[2] + tap[1]).wrapping_sub(1), (i[3] + tap[2]).wrapping_sub(1));
                    if y < h && x_at < w {
                        sum += value(&x, &[i[0], from, y, x_at, tap[3]])
                            * value(&weight, &[i[4], tap[3], tap[0], tap[1], tap[2]]);
                    }
                }
                sum
            })
            .collect();
        assert_close(&layer.forward(&x).unwrap(), &out_shape, &expected, 1e-5);
        let other =
            nn::Conv3d::load(&weights, c_in, c_out, (3, 3, 3), Conv3dOptions { padding: [1; 2], ..Default::default() });
        assert_close(&other.unwrap().forward_with(&x, time).unwrap(), &out_shape, &expected, 1e-5);
        let residual = tensor(&out_shape, 4);
        let sum: Vec<f64> = expected.iter().zip(residual.as_f32().unwrap()).map(|(a, &b)| a + f64::from(b)).collect();
        assert_close(&layer.forward_residual(&x, &residual).unwrap(), &out_shape, &sum, 1e-5);
        assert!(layer.forward(&tensor(&[2, t, h, w, c_in + 1], 1)).is_err());
        assert!(layer.forward(&tensor(&[t, h, w, c_in], 1)).is_err());
        assert!(layer.forward_residual(&x, &x.unsqueeze(0).unwrap()).is_err());
        assert!(nn::Conv3d::load(&weights, c_in, c_out, (3, 3, 3), Conv3dOptions { groups: 2, ..options }).is_err());
    }
}

#[test]
fn convolutions_of_every_kind() {
    // (channels in, out, kernel, stride, padding, groups, upsample)
    let cases = [
        (3, 5, 3, 1, [1; 4], 1, 1),
        (4, 36, 1, 1, [0; 4], 1, 1),
        (3, 4, 3, 2, [0, 0, 1, 1], 1, 1),
        (4, 6, 2, 2, [0; 4], 1, 1),
        (6, 6, 3, 1, [1; 4], 6, 1),
        (3, 5, 3, 1, [1; 4], 1, 2),
    ];
    for (c_in, c_out, kernel, stride, padding, groups, upsample) in cases {
        let (n, h, w) = (2, 6, 5);
        let x = tensor(&[n, h, w, c_in], 1);
        let (weight, bias) = (tensor(&[c_out, c_in / groups, kernel, kernel], 2), tensor(&[c_out], 3));
        let weights = checkpoint(&[("weight", &weight), ("bias", &bias)]);
        let config = Conv2dConfig { stride, padding, groups, bias: true, upsample };
        let layer = nn::Conv2d::load(&weights, c_in, c_out, kernel, config).unwrap();
        let size = |s: usize, before: usize, after: usize| (s * upsample + before + after - kernel) / stride + 1;
        let (out_h, out_w) = (size(h, padding[0], padding[2]), size(w, padding[1], padding[3]));
        let out_shape = [n, out_h, out_w, c_out];
        let expected: Vec<f64> = indices(&out_shape)
            .iter()
            .map(|i| {
                let mut sum = value(&bias, &[i[3]]);
                for tap in indices(&[kernel, kernel, c_in / groups]) {
                    let y = (i[1] * stride + tap[0]).wrapping_sub(padding[0]);
                    let x_at = (i[2] * stride + tap[1]).wrapping_sub(padding[1]);
                    if y < h * upsample && x_at < w * upsample {
                        let c = if groups == 1 { tap[2] } else { i[3] };
                        sum += value(&x, &[i[0], y / upsample, x_at / upsample, c])
                            * value(&weight, &[i[3], tap[2], tap[0], tap[1]]);
                    }
                }
                sum
            })
            .collect();
        assert_close(&layer.forward(&x).unwrap(), &out_shape, &expected, 1e-5);
        let residual = tensor(&out_shape, 4);
        let sum: Vec<f64> = expected.iter().zip(residual.as_f32().unwrap()).map(|(a, &b)| a + f64::from(b)).collect();
        assert_close(&layer.forward_residual(&x, &residual).unwrap(), &out_shape, &sum, 1e-5);
        assert!(layer.forward(&tensor(&[n, h, w, c_in + 1], 1)).is_err());
        assert!(layer.forward_residual(&x, &x.unsqueeze(0).unwrap()).is_err());
    }
}

#[test]
fn transposed_convolution_writes_blocks() {
    let (x, w, b) = (tensor(&[2, 3, 4, 5], 1), tensor(&[5, 6, 2, 2], 2), tensor(&[6], 3));
    let layer = nn::ConvTranspose2d::load(&checkpoint(&[("weight", &w), ("bias", &b)]), 5, 6, 2, true).unwrap();
    let expected: Vec<f64> = indices(&[2, 6, 8, 6])
        .iter()
        .map(|i| {
            let products =
                (0..5).map(|c| value(&x, &[i[0], i[1] / 2, i[2] / 2, c]) * value(&w, &[c, i[3], i[1] % 2, i[2] % 2]));
            products.sum::<f64>() + value(&b, &[i[3]])
        })
        .collect();
    assert_close(&layer.forward(&x).unwrap(), &[2, 6, 8, 6], &expected, 1e-5);
}

#[test]
fn norms() {
    let (x, w, b) = (tensor(&[2, 3, 4, 12], 1), tensor(&[12], 2), tensor(&[12], 3));
    let weights = checkpoint(&[("weight", &w), ("bias", &b)]);
    let affine = |i: &[usize], v: f64| v * value(&w, &[i[3]]) + value(&b, &[i[3]]);
    let moments = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64)
    };
    let index = indices(x.shape());
    let row = |i: &[usize]| (0..12).map(|c| value(&x, &[i[0], i[1], i[2], c])).collect::<Vec<_>>();

    let layer: Vec<f64> = index
        .iter()
        .map(|i| {
            let (mean, variance) = moments(&row(i));
            affine(i, (value(&x, i) - mean) / (variance + 1e-5).sqrt())
        })
        .collect();
    assert_close(&nn::LayerNorm::load(&weights, 12, 1e-5).unwrap().forward(&x).unwrap(), x.shape(), &layer, 1e-5);

    let rms: Vec<f64> = index
        .iter()
        .map(|i| {
            let square = row(i).iter().map(|v| v * v).sum::<f64>() / 12.0;
            value(&x, i) / (square + 1e-6).sqrt() * value(&w, &[i[3]])
        })
        .collect();
    assert_close(&nn::RmsNorm::load(&weights, 12, 1e-6, true).unwrap().forward(&x).unwrap(), x.shape(), &rms, 1e-5);

    let group = |activate: bool| -> Vec<f64> {
        index
            .iter()
            .map(|i| {
                let members: Vec<f64> =
                    index.iter().filter(|j| j[0] == i[0] && j[3] / 3 == i[3] / 3).map(|j| value(&x, j)).collect();
                let (mean, variance) = moments(&members);
                let v = affine(i, (value(&x, i) - mean) / (variance + 1e-6).sqrt());
                if activate { v / (1.0 + (-v).exp()) } else { v }
            })
            .collect()
    };
    let norm = nn::GroupNorm::load(&weights, 4, 12, 1e-6).unwrap();
    assert_close(&norm.forward(&x).unwrap(), x.shape(), &group(false), 1e-5);
    assert_close(&norm.forward_act(&x, Activation::Silu).unwrap(), x.shape(), &group(true), 1e-5);
    assert!(norm.forward(&tensor(&[2, 11], 1)).is_err());
    assert!(norm.forward(&tensor(&[12], 1)).is_err());
    assert!(nn::GroupNorm::load(&weights, 5, 12, 1e-6).unwrap().forward(&x).is_err());

    let (gamma, beta) = (w.reshape(&[1, 1, 1, 12]).unwrap(), b.reshape(&[1, 1, 1, 12]).unwrap());
    let response = |n: usize, c: usize| {
        index.iter().filter(|j| j[0] == n && j[3] == c).map(|j| value(&x, j).powi(2)).sum::<f64>().sqrt()
    };
    let global: Vec<f64> = index
        .iter()
        .map(|i| {
            let mean = (0..12).map(|c| response(i[0], c)).sum::<f64>() / 12.0;
            affine(i, value(&x, i) * response(i[0], i[3]) / (mean + 1e-6)) + value(&x, i)
        })
        .collect();
    let norm = nn::GlobalResponseNorm::load(&checkpoint(&[("gamma", &gamma), ("beta", &beta)]), 12).unwrap();
    assert_close(&norm.forward(&x).unwrap(), x.shape(), &global, 1e-5);
}

#[test]
fn embeddings_keep_the_type_of_the_file_or_become_bf16() {
    let table = tensor(&[6, 4], 1);
    let ids = Tensor::from_i64(vec![5, 0], &[2]).unwrap();
    for (stored, compute, kept) in [
        (DType::F32, DType::F32, DType::F32),
        (DType::F16, DType::F32, DType::F16),
        (DType::F32, DType::BF16, DType::BF16),
    ] {
        let weights = checkpoint(&[("weight", &table.to_dtype(stored))]).with_dtype(compute);
        let layer = nn::Embedding::load(&weights, 6, 4).unwrap();
        assert_eq!(layer.weight().dtype(), kept);
        let rounded = table.to_dtype(kept).to_dtype(DType::F32);
        let expected: Vec<f64> =
            [5, 0].iter().flat_map(|&r| (0..4).map(move |c| (r, c))).map(|(r, c)| value(&rounded, &[r, c])).collect();
        assert_close(&layer.forward(&ids).unwrap(), &[2, 4], &expected, 0.0);
    }
    let integers = checkpoint(&[("weight", &Tensor::zeros(&[6, 4]).unwrap().to_dtype(DType::I64))]);
    assert!(matches!(nn::Embedding::load(&integers, 6, 4), Err(TensorError::WeightDType { .. })));
}

/// `mask` is indexed [b, h, i, j].
fn attention_reference(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64, mask: impl Fn(&[usize; 4]) -> f64) -> Vec<f64> {
    let (heads, group, keys, width) = (q.shape()[1], q.shape()[1] / k.shape()[1], k.shape()[2], q.shape()[3]);
    assert_eq!(heads % k.shape()[1], 0);
    indices(q.shape())
        .iter()
        .map(|i| {
            let (b, h, l) = (i[0], i[1], i[2]);
            let score = |j: usize| {
                let dot: f64 = (0..width).map(|d| value(q, &[b, h, l, d]) * value(k, &[b, h / group, j, d])).sum();
                (scale * dot + mask(&[b, h, l, j])).exp()
            };
            let scores: Vec<f64> = (0..keys).map(score).collect();
            let total: f64 = scores.iter().sum();
            scores.iter().enumerate().map(|(j, s)| s * value(v, &[b, h / group, j, i[3]])).sum::<f64>() / total
        })
        .collect()
}

#[test]
fn attention_in_both_layouts() {
    let (q, k, v) = (tensor(&[2, 4, 5, 8], 1), tensor(&[2, 2, 7, 8], 2), tensor(&[2, 2, 7, 8], 3));
    let flat = |t: &Tensor| t.transpose(1, 2).unwrap().flatten(2, 3).unwrap();
    let scale = 1.0 / 8f64.sqrt();
    let check = |mask: Option<&Tensor>, causal: bool, scale_arg: Option<f32>, expected: Vec<f64>| {
        let out = scaled_dot_product_attention(&q, &k, &v, mask, causal, scale_arg).unwrap();
        assert_close(&out, q.shape(), &expected, 1e-5);
        let fused = multi_head_attention(&flat(&q), &flat(&k), &flat(&v), 4, 2, mask, causal, scale_arg).unwrap();
        assert_eq!(fused.shape(), [2, 5, 32]);
        let back = fused.reshape(&[2, 5, 4, 8]).unwrap().transpose(1, 2).unwrap();
        assert_close(&back, q.shape(), &expected, 1e-5);
    };
    check(None, false, None, attention_reference(&q, &k, &v, scale, |_| 0.0));
    check(None, false, Some(0.3), attention_reference(&q, &k, &v, 0.3f32.into(), |_| 0.0));
    let causal = |i: &[usize; 4]| {
        if i[3] > i[2] + 2 { f64::NEG_INFINITY } else { 0.0 }
    };
    check(None, true, None, attention_reference(&q, &k, &v, scale, causal));
    // Masks of every broadcast kind.
    for shape in [&[2, 4, 5, 7][..], &[2, 1, 1, 7], &[5, 7], &[7], &[4, 5, 1], &[1, 1, 5, 7]] {
        let mask = tensor(shape, 4);
        check(Some(&mask), false, None, attention_reference(&q, &k, &v, scale, |i| value(&mask, i)));
    }
    let mask = tensor(&[5, 7], 5);
    assert!(scaled_dot_product_attention(&q, &k, &v, Some(&mask), true, None).is_err());
    assert!(scaled_dot_product_attention(&q, &k, &v, Some(&tensor(&[6, 7], 5)), false, None).is_err());
    assert!(scaled_dot_product_attention(&q, &k, &v.narrow(2, 0, 3).unwrap(), None, false, None).is_err());
    assert!(scaled_dot_product_attention(&k, &q, &q, None, false, None).is_err());
    assert!(multi_head_attention(&flat(&q), &flat(&k), &flat(&v), 3, 3, None, false, None).is_err());
    assert!(multi_head_attention(&flat(&q), &flat(&k), &flat(&v), 0, 0, None, false, None).is_err());
}

#[test]
fn layers_say_what_does_not_fit() {
    let weights = checkpoint(&[("weight", &tensor(&[3, 4], 1)), ("bias", &tensor(&[2], 1))]);
    let error = nn::Linear::load(&weights, 4, 3, true).err().unwrap().to_string();
    assert!(error.contains("`bias` has shape [2]") && error.contains("[3]"), "{error}");
    let layer = nn::Linear::load(&weights, 4, 3, false).unwrap();
    let error = layer.forward(&tensor(&[2, 5], 1)).err().unwrap().to_string();
    assert!(error.contains("4 features") && error.contains("[2, 5]"), "{error}");
    assert!(layer.forward(&Tensor::scalar(1.0)).is_err());
    assert!(layer.forward(&Tensor::arange(0, 4)).is_err());
    assert!(layer.forward_residual(&tensor(&[2, 4], 1), &tensor(&[2, 4], 1)).is_err());
    assert!(nn::Linear::new(&tensor(&[3, 4], 1), Some(tensor(&[4], 1))).is_err());
    let odd = checkpoint(&[("weight", &tensor(&[6, 2, 3, 3], 1))]);
    let config = Conv2dConfig { groups: 3, bias: false, ..Conv2dConfig::default() };
    assert!(nn::Conv2d::load(&odd, 6, 6, 3, config).is_err());
}

#[test]
fn stacked_layers_give_their_outputs_side_by_side() {
    let (x, q, k) = (tensor(&[3, 8], 1), tensor(&[6, 8], 2), tensor(&[4, 8], 3));
    let (bq, bk) = (tensor(&[6], 4), tensor(&[4], 5));
    let weights =
        checkpoint(&[("q.weight", &q), ("q.bias", &bq), ("k.weight", &k.to_dtype(DType::BF16)), ("k.bias", &bk)]);
    let (at_q, at_k) = (weights.pp("q"), weights.pp("k"));
    let layer = nn::Linear::load_stacked(&[&at_q, &at_k], 8, &[6, 4], true).unwrap();
    let k = k.to_dtype(DType::BF16).to_dtype(DType::F32);
    let (yq, yk) = (linear(&x, &q, Some(&bq)), linear(&x, &k, Some(&bk)));
    let expected: Vec<f64> = (0..3).flat_map(|r| [&yq[r * 6..][..6], &yk[r * 4..][..4]].concat()).collect();
    assert_close(&layer.forward(&x).unwrap(), &[3, 10], &expected, 1e-5);
    assert!(nn::Linear::load_stacked(&[&at_q, &at_k], 8, &[6], true).is_err());
    assert!(nn::Linear::load_stacked(&[], 8, &[], true).is_err());
}

#[test]
fn attention_on_columns_of_wider_tensors() {
    // [queries | keys | values] of 4 query heads and 2 key heads of 8, as one projection writes them.
    let fused = tensor(&[2, 5, 32 + 16 + 16], 1);
    let part = |range: std::ops::Range<usize>| fused.narrow(2, range.start, range.len()).unwrap();
    let apart = multi_head_attention(&part(0..32), &part(32..48), &part(48..64), 4, 2, None, true, None).unwrap();
    let of = |range| Columns::of(&fused, range);
    let together = multi_head_attention(of(0..32), of(32..48), of(48..64), 4, 2, None, true, None).unwrap();
    assert_eq!(together.shape(), [2, 5, 32]);
    assert_eq!(together.as_f32().unwrap(), apart.as_f32().unwrap());
    assert!(multi_head_attention(of(0..32), of(32..48), of(50..66), 4, 2, None, true, None).is_err());
    #[expect(clippy::reversed_empty_ranges, reason = "that is the mistake")]
    let reversed = of(32..0);
    assert!(multi_head_attention(reversed, of(32..48), of(48..64), 4, 2, None, true, None).is_err());
}

#[test]
fn bf16_between_layers_is_the_rounded_result() {
    let exact = |t: &Tensor| t.to_dtype(DType::F32).as_f32().unwrap().iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let (x, w, gates) = (tensor(&[2, 20, 96], 1), tensor(&[96, 96], 2), tensor(&[192, 96], 3));
    let weights = checkpoint(&[("a.weight", &w), ("b.weight", &gates)]).with_dtype(DType::BF16);
    let layer = nn::Linear::load(&weights.pp("a"), 96, 96, false).unwrap();
    // In bf16 only where attention is quicker in it.
    let narrow = layer.forward_to_attention(&x).unwrap();
    let expected = if sango_kernels::attends_in_bf16() { DType::BF16 } else { DType::F32 };
    assert_eq!((layer.dtype(), narrow.dtype()), (DType::BF16, expected));
    assert_close(&narrow.to_dtype(DType::F32), x.shape(), &exact(&layer.forward(&x).unwrap()), 4e-3);
    // What was rounded before is not rounded again.
    let rounded = x.to_dtype(DType::BF16);
    assert_close(&layer.forward(&rounded).unwrap(), x.shape(), &exact(&layer.forward(&x).unwrap()), 1e-6);
    let gated = nn::GatedLinear::load(&weights.pp("b"), 96, 96, false).unwrap();
    assert_eq!(gated.forward_gated(&x, Activation::Gelu).unwrap().dtype(), DType::BF16);
    assert!(layer.forward(&Tensor::arange(0, 96)).is_err());

    let norm = |to| ops::rms_norm(&x, None, None, 1e-6, to).unwrap();
    assert_close(&norm(DType::BF16).to_dtype(DType::F32), x.shape(), &exact(&norm(DType::F32)), 4e-3);
    let norm = |to| ops::layer_norm(&x, None, None, 1e-6, to).unwrap();
    assert_close(&norm(DType::BF16).to_dtype(DType::F32), x.shape(), &exact(&norm(DType::F32)), 4e-3);

    let attend = |t: &Tensor| multi_head_attention(t, t, t, 4, 4, None, false, None).unwrap();
    let attended = attend(&rounded);
    assert_eq!(attended.dtype(), DType::BF16);
    let expected = exact(&attend(&rounded.to_dtype(DType::F32)));
    assert_close(&attended.to_dtype(DType::F32), x.shape(), &expected, 1e-2);
    assert!(multi_head_attention(&x, &rounded, &rounded, 4, 4, None, false, None).is_err());
}

#[test]
fn norms_scaled_for_each_batch() {
    let (x, w, b) = (tensor(&[2, 3, 4], 1), tensor(&[2, 4], 2), tensor(&[2, 4], 3));
    let shared = tensor(&[4], 4);
    for batch in 0..2 {
        let one = |t: &Tensor| t.narrow(0, batch, 1).unwrap();
        let row = |t: &Tensor| one(t).squeeze(0).unwrap();
        let check = |all: Tensor, alone: Tensor| assert_eq!(one(&all).as_f32().unwrap(), alone.as_f32().unwrap());
        check(
            ops::rms_norm(&x, Some(&w), Some(&b), 1e-6, DType::F32).unwrap(),
            ops::rms_norm(&one(&x), Some(&row(&w)), Some(&row(&b)), 1e-6, DType::F32).unwrap(),
        );
        check(
            ops::layer_norm(&x, Some(&shared), Some(&b), 1e-6, DType::F32).unwrap(),
            ops::layer_norm(&one(&x), Some(&shared), Some(&row(&b)), 1e-6, DType::F32).unwrap(),
        );
    }
    let plain = ops::rms_norm(&x, None, None, 1e-6, DType::F32).unwrap();
    let expected: Vec<f64> = indices(x.shape())
        .iter()
        .map(|i| value(&plain, i) * value(&w, &[i[0], i[2]]) + value(&b, &[i[0], i[2]]))
        .collect();
    assert_close(&ops::rms_norm(&x, Some(&w), Some(&b), 1e-6, DType::F32).unwrap(), x.shape(), &expected, 1e-6);

    let layer = nn::RmsNorm::load(&checkpoint(&[("weight", &shared)]), 4, 1e-6, true).unwrap();
    let normed = layer.forward(&x).unwrap();
    let modulated: Vec<f64> = indices(x.shape())
        .iter()
        .map(|i| value(&normed, i) * (1.0 + value(&w, &[i[0], i[2]])) + value(&b, &[i[0], i[2]]))
        .collect();
    assert_close(&layer.forward_scale_shift(&x, &w, &b).unwrap(), x.shape(), &modulated, 1e-6);
    assert_close(&normed.scale_shift(&w, &b).unwrap(), x.shape(), &modulated, 1e-6);
    assert!(ops::rms_norm(&x, Some(&tensor(&[3, 4], 1)), None, 1e-6, DType::F32).is_err());
    assert!(ops::layer_norm(&x, None, Some(&tensor(&[5], 1)), 1e-6, DType::F32).is_err());
    assert!(x.scale_shift(&shared, &b).is_err());
    assert!(ops::global_response_norm(&x, &shared, &tensor(&[3], 1)).is_err());
}
