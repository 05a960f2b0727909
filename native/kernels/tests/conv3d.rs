//! Every 3-d convolution path against a plain f64 convolution of a video whose padding is written out.

mod support;

use half::bf16;
use proptest::prelude::*;
use sango_kernels::{
    Activation, Conv3dShape, Epilogue, Isa, KernelError, Modulation, PackedConv3d, Precision, RowNorm, TimePadding,
    conv3d, conv3d_normed,
};
use support::{Sum, check_convolution, isas, noise, rounded, stored};

#[derive(Debug, Clone)]
struct Case {
    shape: Conv3dShape,
    c_in: usize,
    c_out: usize,
    kernel: [usize; 3],
    precision: Precision,
    bias: bool,
    residual: bool,
    activation: Activation,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let video = (0usize..3, 1usize..7, 1usize..9, 1usize..20);
    let windows = (prop::array::uniform3(1usize..3), prop::array::uniform2(0usize..3));
    let time = prop::sample::select(TimePadding::ALL.to_vec());
    let channels = (prop_oneof![1usize..20, 30usize..70], prop_oneof![1usize..10, 30usize..70]);
    let kernel = prop::array::uniform3(1usize..4);
    let activation = prop::sample::select(Activation::ALL.to_vec());
    let precision = prop::sample::select(Precision::ALL.to_vec());
    (video, windows, time, channels, kernel, any::<[bool; 2]>(), precision, activation, any::<u64>())
        .prop_map(|((n, t, h, w), (stride, pad), time, (c_in, c_out), kernel, flags, precision, activation, seed)| {
            Case {
                shape: Conv3dShape { n, t, h, w, stride, time, pad },
                c_in,
                c_out,
                kernel,
                precision,
                bias: flags[0],
                residual: flags[1],
                activation,
                seed,
            }
        })
        .prop_filter("the kernel fits", |case| case.shape.output(case.kernel).is_ok())
}

/// The input pixel under a tap, where there is one.
fn pixel_at(shape: &Conv3dShape, kt: usize, at: [usize; 3]) -> Option<[usize; 3]> {
    let before = match shape.time {
        TimePadding::None => 0,
        TimePadding::Causal => kt - 1,
        TimePadding::Symmetric => (kt - 1) / 2,
    };
    let t = (at[0] as isize - before as isize).clamp(0, shape.t as isize - 1) as usize;
    let (y, x) = (at[1].checked_sub(shape.pad[0])?, at[2].checked_sub(shape.pad[1])?);
    (y < shape.h && x < shape.w).then_some([t, y, x])
}

fn reference(case: &Case, x: &[f32], w: &[f32]) -> Vec<Sum> {
    let Case { shape, c_in, c_out, kernel: [kt, kh, kw], precision, .. } = *case;
    let [out_t, out_h, out_w] = shape.output(case.kernel).unwrap();
    let w = stored(w, w.len() / c_out.max(1), precision);
    let x: Vec<f64> = x.iter().map(|&v| rounded(v, precision)).collect();
    let taps = kt * kh * kw;
    let mut sums = Vec::with_capacity(shape.n * out_t * out_h * out_w * c_out);
    for index in 0..shape.n * out_t * out_h * out_w * c_out {
        let (pixel, o) = (index / c_out, index % c_out);
        let (frame, oy, ox) = (pixel / (out_h * out_w), pixel / out_w % out_h, pixel % out_w);
        let (video, ot) = (frame / out_t, frame % out_t);
        let mut sum = Sum::default();
        for tap in 0..taps {
            let [st, sh, sw] = shape.stride;
            let at = [ot * st + tap / (kh * kw), oy * sh + tap / kw % kh, ox * sw + tap % kw];
            let Some([t, y, x_at]) = pixel_at(&shape, kt, at) else { continue };
            let pixel = &x[(((video * shape.t + t) * shape.h + y) * shape.w + x_at) * c_in..][..c_in];
            for (c, &value) in pixel.iter().enumerate() {
                sum.add(value * w[(o * c_in + c) * taps + tap]);
            }
        }
        sums.push(sum);
    }
    sums
}

fn verify(case: &Case) {
    let &Case { shape, c_in, c_out, kernel, precision, activation, seed, .. } = case;
    let x = noise(shape.n * shape.t * shape.h * shape.w * c_in, seed);
    let w = noise(c_out * c_in * kernel.iter().product::<usize>(), seed ^ 1);
    let sums = reference(case, &x, &w);
    let packed = PackedConv3d::from_f32(&w, (c_out, c_in), kernel, precision).unwrap();
    check_convolution(case, &sums, c_out, ([case.bias, case.residual], activation, seed), |epilogue, out| {
        conv3d(&x, &shape, &packed, epilogue, out)
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_agrees_with_the_reference(case in case()) {
        verify(&case);
    }
}

#[test]
fn shapes_of_the_models() {
    for precision in [Precision::F32, Precision::Bf16] {
        for time in TimePadding::ALL {
            let case = |t, h, w, c_in, c_out| Case {
                shape: Conv3dShape::new(1, t, h, w, time, 1),
                c_in,
                c_out,
                kernel: [3; 3],
                precision,
                bias: true,
                residual: true,
                activation: Activation::None,
                seed: 5,
            };
            verify(&case(4, 8, 8, 128, 96));
            verify(&case(3, 5, 22, 64, 64));
            verify(&case(3, 16, 32, 48, 32));
            let down = Conv3dShape { stride: [2, 2, 2], ..Conv3dShape::new(1, 9, 16, 16, time, 1) };
            verify(&Case { shape: down, ..case(9, 16, 16, 32, 64) });
        }
    }
}

/// Large enough for Winograd's algorithm, with edges that are not whole tiles and frames that are not whole tasks.
#[test]
fn large_videos() {
    for (time, t, h, w, kt) in [
        (TimePadding::Causal, 9, 21, 23, 3),
        (TimePadding::Symmetric, 5, 33, 18, 3),
        (TimePadding::None, 11, 17, 22, 3),
        (TimePadding::Causal, 3, 30, 41, 2),
        (TimePadding::Causal, 5, 29, 31, 1),
    ] {
        verify(&Case {
            shape: Conv3dShape::new(2, t, h, w, time, 1),
            c_in: 36,
            c_out: 40,
            kernel: [kt, 3, 3],
            precision: Precision::F32,
            bias: true,
            residual: true,
            activation: Activation::Silu,
            seed: 9,
        });
    }
}

/// An error that adds up over the layers of a decoder matters more than one output: compare the whole video.
#[test]
fn large_videos_are_accurate_relative_to_the_largest_output() {
    let (t, size, channels) = (5, 28, 256);
    let shape = Conv3dShape::new(1, t, size, size, TimePadding::Symmetric, 1);
    let (x, w) = (noise(t * size * size * channels, 1), noise(32 * channels * 27, 2));
    let packed = PackedConv3d::from_f32(&w, (32, channels), [3; 3], Precision::F32).unwrap();
    let run = |isa: Isa| {
        let mut out = vec![0.0; t * size * size * 32];
        isa.run(|| conv3d(&x, &shape, &packed, &Epilogue::default(), &mut out)).unwrap().unwrap();
        out
    };
    let direct = run(Isa::Scalar);
    let largest = direct.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
    for isa in isas() {
        let worst = run(isa).iter().zip(&direct).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst <= 1e-5 * largest, "{isa}: off by {worst}, the largest output is {largest}");
    }
}

/// A norm on the way is the norm, then the convolution: exactly so in f32, and as far as rounding goes in bf16.
#[test]
fn a_norm_on_the_way() {
    for (precision, c_in, c_out, [t, h, w]) in [
        (Precision::F32, 40, 33, [3, 5, 6]),
        (Precision::F32, 32, 64, [2, 24, 40]),
        (Precision::Bf16, 40, 33, [3, 5, 6]),
        (Precision::Bf16, 64, 32, [2, 4, 32]),
    ] {
        let shape = Conv3dShape::new(2, t, h, w, TimePadding::Causal, 1);
        let (x, weights) = (noise(2 * t * h * w * c_in, 1), noise(c_out * c_in * 27, 2));
        let packed = PackedConv3d::from_f32(&weights, (c_out, c_in), [3; 3], precision).unwrap();
        let (weight, ada) = (noise(c_in, 3), noise(2 * 2 * c_in, 4));
        let modulation = Modulation { scale: &ada, shift: &ada[c_in..], stride: 2 * c_in, rows: t * h * w };
        let norm = RowNorm {
            eps: 1e-6,
            weight: Some(&weight),
            modulation: Some(modulation),
            activation: Activation::Silu,
            ..RowNorm::default()
        };
        let residual = noise(2 * t * h * w * c_out, 5);
        let epilogue = Epilogue { residual: Some(&residual), ..Epilogue::default() };
        for isa in isas() {
            let (mut normed, mut want) = (vec![0.0; x.len()], vec![0.0; residual.len()]);
            let (mut got, mut narrow) = (vec![f32::NAN; want.len()], vec![bf16::NAN; want.len()]);
            isa.run(|| {
                norm.run(&x, (2 * t * h * w, c_in, c_in), &mut normed).unwrap();
                conv3d(&normed, &shape, &packed, &epilogue, &mut want).unwrap();
                conv3d_normed(&x, &norm, &shape, &packed, &epilogue, &mut got).unwrap();
                conv3d_normed(&x, &norm, &shape, &packed, &epilogue, &mut narrow).unwrap();
            })
            .unwrap();
            let largest = want.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
            for (i, ((got, want), narrow)) in got.iter().zip(&want).zip(&narrow).enumerate() {
                assert!((got - want).abs() <= 1e-5 * largest, "{isa} {precision:?} at {i}: {got}, not {want}");
                assert!((narrow.to_f32() - want).abs() <= 4e-3 * largest, "{isa} {precision:?} at {i}: {narrow}");
            }
        }
        let short = RowNorm { weight: Some(&weight[1..]), ..norm };
        assert!(conv3d_normed(&x, &short, &shape, &packed, &epilogue, &mut vec![0.0f32; residual.len()]).is_err());
    }
}

/// Frames that do not fit the copy all at once are convolved a few at a time.
#[test]
fn long_videos_in_bf16() {
    let (t, size, channels) = (21, 128, 96);
    let (x, w) = (noise(t * size * size * channels, 1), noise(3 * channels * 3, 2));
    let packed = PackedConv3d::from_f32(&w, (3, channels), [3, 1, 1], Precision::Bf16).unwrap();
    for (time, stride) in [(TimePadding::Causal, 1), (TimePadding::Symmetric, 2), (TimePadding::None, 1)] {
        let shape = Conv3dShape { stride: [stride, 8, 8], ..Conv3dShape::new(1, t, size, size, time, 0) };
        let [out_t, out_h, out_w] = shape.output([3, 1, 1]).unwrap();
        let run = |isa: Isa| {
            let mut out = vec![f32::NAN; out_t * out_h * out_w * 3];
            isa.run(|| conv3d(&x, &shape, &packed, &Epilogue::default(), &mut out)).unwrap().unwrap();
            out
        };
        let want = run(Isa::Scalar);
        for isa in isas().into_iter().filter(|isa| *isa != Isa::Scalar) {
            let worst = run(isa).iter().zip(&want).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(worst < 1e-3, "{isa} {time:?}: off by {worst}");
        }
    }
}

#[test]
fn bad_shapes_are_errors() {
    let pack = |len: usize| PackedConv3d::from_f32(&vec![0.0; len], (4, 4), [3; 3], Precision::F32);
    assert!(matches!(pack(431), Err(KernelError::Length { .. })));
    assert!(PackedConv3d::from_f32(&[], (4, 4), [3, 0, 3], Precision::F32).is_err());
    let w = pack(432).unwrap();
    assert_eq!((w.c_in(), w.c_out(), w.kernel()), (4, 4, [3; 3]));
    let call = |shape: Conv3dShape, x: usize, out: usize| {
        conv3d(&vec![0.0f32; x], &shape, &w, &Epilogue::default(), &mut vec![0.0f32; out])
    };
    let shape = Conv3dShape::new(1, 2, 5, 5, TimePadding::Causal, 1);
    assert_eq!(call(shape, 200, 200), Ok(()));
    assert!(matches!(call(shape, 199, 200), Err(KernelError::Length { what: "x", .. })));
    assert!(matches!(call(shape, 200, 199), Err(KernelError::Length { what: "out", .. })));
    assert!(matches!(
        call(Conv3dShape { stride: [1, 0, 1], ..shape }, 200, 200),
        Err(KernelError::InvalidShape { .. })
    ));
    assert!(matches!(call(Conv3dShape { t: 0, ..shape }, 0, 0), Err(KernelError::InvalidShape { what: "t", .. })));
    let unpadded = Conv3dShape { time: TimePadding::None, ..shape };
    assert!(matches!(call(unpadded, 200, 0), Err(KernelError::InvalidShape { .. })));
    assert!(matches!(call(Conv3dShape { h: 0, ..shape }, 0, 0), Err(KernelError::InvalidShape { .. })));
    assert!(matches!(call(Conv3dShape { h: usize::MAX, ..shape }, 0, 0), Err(KernelError::Overflow(_))));
    assert!(matches!(call(Conv3dShape { pad: [usize::MAX; 2], ..shape }, 0, 0), Err(KernelError::Overflow(_))));
    assert!(matches!(call(Conv3dShape { n: usize::MAX, ..shape }, 0, 0), Err(KernelError::Overflow(_))));
    assert_eq!(call(Conv3dShape { n: 0, ..shape }, 0, 0), Ok(()));
}
