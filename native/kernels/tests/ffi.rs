//! The C entry points, called from Rust: strides, bf16, and every way to call them wrongly.

mod support;

use std::ffi::CStr;
use std::ptr::{null, null_mut};

use half::bf16;
use proptest::prelude::*;
use sango_kernels::ffi::attention::*;
use sango_kernels::ffi::conv2d::*;
use sango_kernels::ffi::conv3d::*;
use sango_kernels::ffi::gemm::*;
use sango_kernels::ffi::norm::*;
use sango_kernels::ffi::*;
use sango_kernels::{PackedConv2d, PackedConv3d, PackedWeights, Precision};
use support::{check, noise, reference_gemm};

const NULL_POINTER: i32 = 1;
const INVALID_SHAPE: i32 = 2;
const OVERFLOW: i32 = 3;
const INVALID_ENUM: i32 = 5;

fn last_error() -> String {
    // SAFETY: the function returns a valid C string.
    unsafe { CStr::from_ptr(sango_last_error()) }.to_string_lossy().into_owned()
}

fn to_bf16(values: &[f32]) -> Vec<bf16> {
    values.iter().map(|&v| bf16::from_f32(v)).collect()
}

/// Rows of `columns` values `stride` apart, NaN between them.
fn spread(values: &[f32], columns: usize, stride: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; values.len() / columns.max(1) * stride];
    for (row, values) in values.chunks_exact(columns.max(1)).enumerate() {
        out[row * stride..][..columns].copy_from_slice(values);
    }
    out
}

struct Weights(*mut PackedWeights);

impl Drop for Weights {
    fn drop(&mut self) {
        // SAFETY: the pointer came from a pack function, or is null.
        unsafe { sango_weights_free(self.0) };
    }
}

fn pack(w: &[f32], n: usize, k: usize, stride: usize, precision: i32) -> Weights {
    let mut weights = null_mut();
    // SAFETY: n rows of k values at that stride.
    let status = unsafe { sango_weights_pack_f32(w.as_ptr(), n, k, stride, precision, false, &mut weights) };
    assert_eq!(status, 0, "{}", last_error());
    Weights(weights)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn gemm_with_strides((m, n, k) in (0usize..20, 0usize..50, 0usize..90), gaps in prop::array::uniform4(0usize..5), precision in prop::sample::select(Precision::ALL.to_vec())) {
        let (a, w, r) = (noise(m * k, 1), noise(n * k, 2), noise(m * n, 3));
        // Exact in bf16, so that both entry points see the same numbers.
        let exact = |v: Vec<f32>| -> Vec<f32> { v.into_iter().map(|v| bf16::from_f32(v).to_f32()).collect() };
        let (a, r) = (exact(a), exact(r));
        let (a_stride, w_stride, r_stride, out_stride) = (k + gaps[0], n.max(k) + gaps[1], n + gaps[2], n + gaps[3]);
        let (spread_a, spread_r) = (spread(&a, k, a_stride), spread(&r, n, r_stride));
        let weights = pack(&spread(&w, k, w_stride), n, k, w_stride, precision as i32);
        let want = reference_gemm(&a, &w, (m, n, k), precision);
        let mut epilogue =
            SangoEpilogue { bias: null(), activation: 0, residual: spread_r.as_ptr().cast(), residual_stride: r_stride };

        let mut out = vec![7.0f32; m * out_stride];
        // SAFETY: all shapes and strides are those of the buffers.
        let status = unsafe { sango_gemm_f32(spread_a.as_ptr(), m, a_stride, weights.0, &epilogue, out.as_mut_ptr(), out_stride) };
        prop_assert_eq!(status, 0);
        let (narrow_a, narrow_r) = (to_bf16(&spread_a), to_bf16(&spread_r));
        epilogue.residual = narrow_r.as_ptr().cast();
        let mut narrow_out = vec![bf16::from_f32(7.0); m * out_stride];
        // SAFETY: as above.
        let status = unsafe {
            sango_gemm_bf16(narrow_a.as_ptr(), m, a_stride, weights.0, &epilogue, narrow_out.as_mut_ptr(), out_stride)
        };
        prop_assert_eq!(status, 0);
        for (i, (&value, &narrow)) in out.iter().zip(&narrow_out).enumerate() {
            let (row, column) = (i / out_stride, i % out_stride);
            if column >= n {
                prop_assert_eq!((value, narrow.to_f32()), (7.0, 7.0), "a gap was written");
                continue;
            }
            let sum = want[row * n + column];
            let wanted = sum.value + f64::from(r[row * n + column]);
            check(&format_args!("f32 {row},{column}"), value, wanted, sum.magnitude + 1.0);
            prop_assert!((narrow.to_f32() - value).abs() <= value.abs() / 128.0 + 1e-5 * sum.magnitude as f32);
        }
    }
}

#[test]
fn gemm_called_wrongly() {
    let weights = pack(&[1.0; 6], 2, 3, 3, 0);
    let (a, mut out) = ([1.0f32; 6], [5.0f32; 4]);
    let call = |a: *const f32, m, a_stride, w: *const PackedWeights, e: *const SangoEpilogue, out: *mut f32, ldo| {
        // SAFETY: pointers are null or valid for every shape that passes the checks.
        unsafe { sango_gemm_f32(a, m, a_stride, w, e, out, ldo) }
    };
    let (a, o, w) = (a.as_ptr(), out.as_mut_ptr(), weights.0.cast_const());
    assert_eq!(call(null(), 2, 3, w, null(), o, 2), NULL_POINTER);
    assert!(last_error().starts_with("a "), "{}", last_error());
    assert_eq!(call(a, 2, 3, w, null(), null_mut(), 2), NULL_POINTER);
    assert_eq!(call(a, 2, 3, null(), null(), o, 2), NULL_POINTER);
    assert_eq!(call(a, 2, 2, w, null(), o, 2), INVALID_SHAPE);
    assert_eq!(call(a, 2, 3, w, null(), o, 1), INVALID_SHAPE);
    assert_eq!(call(a, usize::MAX, 3, w, null(), o, 2), OVERFLOW);
    assert_eq!(call(a, 2, usize::MAX / 2, w, null(), o, 2), OVERFLOW);
    let bad = SangoEpilogue { bias: null(), activation: -1, residual: null(), residual_stride: 0 };
    assert_eq!(call(a, 2, 3, w, &bad, o, 2), INVALID_ENUM);
    let bad = SangoEpilogue { bias: null(), activation: 0, residual: a.cast(), residual_stride: 1 };
    assert_eq!(call(a, 2, 3, w, &bad, o, 2), INVALID_SHAPE);
    assert_eq!(call(null(), 0, 3, w, null(), null_mut(), 2), 0);
    assert_eq!(out, [5.0; 4]);
}

#[test]
fn packing_called_wrongly() {
    let mut weights = std::ptr::dangling_mut();
    let w = [1.0f32; 6];
    // SAFETY: pointers are null or valid for every shape that passes the checks.
    unsafe {
        let call = |w, n, k, stride, precision, gated, weights| {
            sango_weights_pack_f32(w, n, k, stride, precision, gated, weights)
        };
        assert_eq!(call(w.as_ptr(), 2, 3, 3, 0, false, null_mut()), NULL_POINTER);
        assert_eq!(call(null(), 2, 3, 3, 0, false, &mut weights), NULL_POINTER);
        assert!(weights.is_null());
        assert_eq!(call(w.as_ptr(), 2, 3, 2, 0, false, &mut weights), INVALID_SHAPE);
        assert_eq!(call(w.as_ptr(), 3, 2, 2, 0, true, &mut weights), INVALID_SHAPE);
        assert_eq!(call(w.as_ptr(), 2, 3, 3, 3, false, &mut weights), INVALID_ENUM);
        assert_eq!(call(w.as_ptr(), usize::MAX / 8, 9, 9, 0, false, &mut weights), OVERFLOW);
        assert_eq!(call(null(), 0, 3, 3, 0, false, &mut weights), 0);
        sango_weights_free(weights);
        sango_weights_free(null_mut());
        assert_eq!(sango_weights_bytes(null()), 0);
    }
}

/// As for images: gaps are skipped and kept, and both types compute the same, directly and with Winograd's algorithm.
#[test]
fn convolution_of_videos_with_strides_in_both_types() {
    let exact = |v: Vec<f32>| -> Vec<f32> { v.into_iter().map(|v| bf16::from_f32(v).to_f32()).collect() };
    for (t, h, w, c_in, c_out) in [(3, 5, 6, 3, 4), (7, 17, 18, 33, 35)] {
        let (x, kernel) = (exact(noise(t * h * w * c_in, 1)), exact(noise(c_out * c_in * 27, 2)));
        let mut packed: *mut PackedConv3d = null_mut();
        let mut shape =
            SangoConv3dShape { n: 1, t, h, w, stride: [1; 3], time: 2, pad: [1; 2], x_stride: c_in, out_stride: c_out };
        // SAFETY: shapes and strides are those of the buffers.
        unsafe {
            assert_eq!(sango_conv3d_weights_pack_f32(kernel.as_ptr(), c_out, c_in, 3, 3, 3, 0, &mut packed), 0);
            let mut plain = vec![0.0f32; t * h * w * c_out];
            assert_eq!(sango_conv3d_f32(x.as_ptr(), &shape, packed, null(), plain.as_mut_ptr()), 0);

            (shape.x_stride, shape.out_stride) = (c_in + 2, c_out + 1);
            let wide = spread(&x, c_in, shape.x_stride);
            let mut out = vec![7.0f32; t * h * w * shape.out_stride];
            assert_eq!(sango_conv3d_f32(wide.as_ptr(), &shape, packed, null(), out.as_mut_ptr()), 0);
            let mut narrow = vec![bf16::from_f32(7.0); out.len()];
            assert_eq!(sango_conv3d_bf16(to_bf16(&wide).as_ptr(), &shape, packed, null(), narrow.as_mut_ptr()), 0);
            for (i, value) in out.iter().enumerate() {
                let (pixel, c) = (i / shape.out_stride, i % shape.out_stride);
                let want = if c < c_out { plain[pixel * c_out + c] } else { 7.0 };
                assert_eq!(*value, want);
                assert_eq!(narrow[i], bf16::from_f32(want));
            }
            assert_eq!(sango_conv3d_f32(null(), &shape, packed, null(), out.as_mut_ptr()), NULL_POINTER);
            (shape.x_stride, shape.time) = (0, 2);
            assert_eq!(sango_conv3d_f32(x.as_ptr(), &shape, packed, null(), out.as_mut_ptr()), INVALID_SHAPE);
            (shape.x_stride, shape.time) = (c_in, 3);
            assert_eq!(sango_conv3d_f32(x.as_ptr(), &shape, packed, null(), out.as_mut_ptr()), INVALID_ENUM);
            (shape.time, shape.n) = (2, usize::MAX);
            assert_eq!(sango_conv3d_f32(x.as_ptr(), &shape, packed, null(), out.as_mut_ptr()), OVERFLOW);
            let mut size = [0; 3];
            let [out_t, out_h, out_w] = size.each_mut().map(|s| s as *mut usize);
            assert_eq!(sango_conv3d_output(&shape, packed, out_t, out_h, out_w), 0);
            assert_eq!(size, [t, h, w]);
            assert_eq!(sango_conv3d_output(&shape, packed, null_mut(), out_h, out_w), NULL_POINTER);
            sango_conv3d_weights_free(packed);
            sango_conv3d_weights_free(null_mut());
        }
    }
}

/// Gaps between pixels are skipped and kept, and both entry points compute the same: on a small image, and on one that is
/// large enough for Winograd's algorithm.
#[test]
fn convolution_with_strides_in_both_types() {
    let exact = |v: Vec<f32>| -> Vec<f32> { v.into_iter().map(|v| bf16::from_f32(v).to_f32()).collect() };
    for (h, w, c_in, c_out, upsample) in [(5, 6, 3, 4, 1), (57, 60, 33, 35, 1), (29, 30, 32, 40, 2)] {
        let (x, kernel) = (exact(noise(h * w * c_in, 1)), exact(noise(c_out * c_in * 9, 2)));
        let pixels = h * w * upsample * upsample;
        let mut packed: *mut PackedConv2d = null_mut();
        let mut shape =
            SangoConv2dShape { n: 1, h, w, stride: 1, pad: [1; 4], upsample, x_stride: c_in, out_stride: c_out };
        // SAFETY: shapes and strides are those of the buffers.
        unsafe {
            assert_eq!(sango_conv2d_weights_pack_f32(kernel.as_ptr(), c_out, c_in, 3, 3, 1, 0, &mut packed), 0);
            let mut plain = vec![0.0f32; pixels * c_out];
            assert_eq!(sango_conv2d_f32(x.as_ptr(), &shape, packed, null(), plain.as_mut_ptr()), 0);

            (shape.x_stride, shape.out_stride) = (c_in + 2, c_out + 1);
            let wide = spread(&x, c_in, shape.x_stride);
            let mut out = vec![7.0f32; pixels * shape.out_stride];
            assert_eq!(sango_conv2d_f32(wide.as_ptr(), &shape, packed, null(), out.as_mut_ptr()), 0);
            let mut narrow = vec![bf16::from_f32(7.0); out.len()];
            assert_eq!(sango_conv2d_bf16(to_bf16(&wide).as_ptr(), &shape, packed, null(), narrow.as_mut_ptr()), 0);
            for (i, value) in out.iter().enumerate() {
                let (pixel, c) = (i / shape.out_stride, i % shape.out_stride);
                let want = if c < c_out { plain[pixel * c_out + c] } else { 7.0 };
                assert_eq!(*value, want);
                assert_eq!(narrow[i], bf16::from_f32(want));
            }
            sango_conv2d_weights_free(packed);
        }
    }
}

#[test]
fn convolution_called_wrongly() {
    let (h, w, c_in, c_out) = (5, 6, 3, 4);
    let (x, kernel) = (noise(h * w * c_in, 1), noise(c_out * c_in * 9, 2));
    let mut out = vec![0.0f32; h * w * c_out];
    let mut packed: *mut PackedConv2d = null_mut();
    let shape = SangoConv2dShape { n: 1, h, w, stride: 1, pad: [1; 4], upsample: 1, x_stride: c_in, out_stride: c_out };
    // SAFETY: pointers are null or valid for every shape that passes the checks.
    unsafe {
        assert_eq!(sango_conv2d_weights_pack_f32(kernel.as_ptr(), c_out, c_in, 3, 3, 1, 0, &mut packed), 0);
        let mut call = |shape: SangoConv2dShape| sango_conv2d_f32(x.as_ptr(), &shape, packed, null(), out.as_mut_ptr());
        assert_eq!(call(SangoConv2dShape { x_stride: c_in - 1, ..shape }), INVALID_SHAPE);
        assert_eq!(call(SangoConv2dShape { out_stride: c_out - 1, ..shape }), INVALID_SHAPE);
        assert_eq!(call(SangoConv2dShape { stride: 0, ..shape }), INVALID_SHAPE);
        assert_eq!(call(SangoConv2dShape { upsample: 3, ..shape }), INVALID_SHAPE);
        assert_eq!(call(SangoConv2dShape { h: usize::MAX / 2, ..shape }), OVERFLOW);
        assert_eq!(call(SangoConv2dShape { n: usize::MAX / 64, ..shape }), OVERFLOW);
        assert_eq!(call(SangoConv2dShape { n: 0, ..shape }), 0);
        assert_eq!(sango_conv2d_f32(null(), &shape, packed, null(), out.as_mut_ptr()), NULL_POINTER);
        assert_eq!(sango_conv2d_f32(x.as_ptr(), null(), packed, null(), out.as_mut_ptr()), NULL_POINTER);
        assert_eq!(sango_conv2d_output(&shape, packed, null_mut(), null_mut()), NULL_POINTER);
        sango_conv2d_weights_free(packed);
        sango_conv2d_weights_free(null_mut());
        assert_eq!(sango_conv2d_weights_pack_f32(kernel.as_ptr(), c_out, c_in, 3, 3, 0, 0, &mut packed), INVALID_SHAPE);
        assert_eq!(sango_conv2d_weights_pack_f32(kernel.as_ptr(), usize::MAX, 2, 3, 3, 1, 0, &mut packed), OVERFLOW);
        assert!(packed.is_null());
    }
}

#[test]
fn attention_and_norms_in_bf16_and_called_wrongly() {
    let (len, dim) = (4, 8);
    let (q, k, v) = (noise(len * dim, 1), noise(len * dim, 2), noise(len * dim, 3));
    let strides = SangoStrides { batch: 0, head: 0, position: dim };
    let shape = SangoAttentionShape {
        batch: 1,
        heads: 1,
        kv_heads: 1,
        q_len: len,
        kv_len: len,
        head_dim: dim,
        q: strides,
        k: strides,
        v: strides,
        out: strides,
        mask: strides,
    };
    let close =
        |a: &[f32], b: &[bf16]| a.iter().zip(b).for_each(|(a, b)| assert!((a - b.to_f32()).abs() < 0.05, "{a} {b}"));
    let (mut out, mut narrow) = (vec![0.0f32; len * dim], vec![bf16::ZERO; len * dim]);
    // SAFETY: pointers are null or valid for every shape that passes the checks.
    unsafe {
        let (nq, nk, nv) = (to_bf16(&q), to_bf16(&k), to_bf16(&v));
        let mut wide = |shape: &SangoAttentionShape, kind, mask| {
            sango_attention_f32(q.as_ptr(), k.as_ptr(), v.as_ptr(), shape, 0.5, kind, mask, out.as_mut_ptr())
        };
        assert_eq!(wide(&SangoAttentionShape { heads: 3, kv_heads: 2, ..shape }, 0, null()), INVALID_SHAPE);
        assert_eq!(wide(&SangoAttentionShape { batch: usize::MAX / 8, ..shape }, 0, null()), OVERFLOW);
        assert_eq!(wide(&shape, 3, null()), INVALID_ENUM);
        assert_eq!(wide(&shape, 2, null()), NULL_POINTER);
        assert_eq!(wide(&SangoAttentionShape { batch: 0, ..shape }, 0, null()), 0);
        assert_eq!(wide(&shape, 1, null()), 0);
        let status =
            sango_attention_bf16(nq.as_ptr(), nk.as_ptr(), nv.as_ptr(), &shape, 0.5, 1, null(), narrow.as_mut_ptr());
        assert_eq!(status, 0);
        close(&out, &narrow);

        assert_eq!(sango_layer_norm_f32(q.as_ptr(), len, dim, dim, null(), null(), 1e-5, out.as_mut_ptr(), dim), 0);
        assert_eq!(
            sango_layer_norm_bf16(nq.as_ptr(), len, dim, dim, null(), null(), 1e-5, narrow.as_mut_ptr(), dim),
            0
        );
        close(&out, &narrow);
        assert_eq!(sango_rms_norm_f32(q.as_ptr(), 2, dim, 2 * dim, k.as_ptr(), 1e-5, out.as_mut_ptr(), dim), 0);
        assert_eq!(sango_rms_norm_bf16(nq.as_ptr(), 2, dim, 2 * dim, k.as_ptr(), 1e-5, narrow.as_mut_ptr(), dim), 0);
        close(&out, &narrow);
        assert_eq!(sango_group_norm_f32(q.as_ptr(), 1, len, dim, 2, null(), null(), 1e-5, 4, out.as_mut_ptr()), 0);
        assert_eq!(sango_group_norm_bf16(nq.as_ptr(), 1, len, dim, 2, null(), null(), 1e-5, 4, narrow.as_mut_ptr()), 0);
        close(&out, &narrow);

        let mut norm = |x, rows, stride| sango_rms_norm_f32(x, rows, dim, stride, null(), 1e-5, out.as_mut_ptr(), dim);
        assert_eq!(norm(null(), 2, dim), NULL_POINTER);
        assert_eq!(norm(q.as_ptr(), 2, dim - 1), INVALID_SHAPE);
        assert_eq!(norm(q.as_ptr(), usize::MAX / 2, dim), OVERFLOW);
        assert_eq!(norm(null(), 0, dim), 0);
        assert_eq!(
            sango_group_norm_f32(q.as_ptr(), 1, len, dim, 3, null(), null(), 0.0, 0, out.as_mut_ptr()),
            INVALID_SHAPE
        );
    }
}
