//! Every convolution path against a plain f64 convolution.

mod support;

use proptest::prelude::*;
use sango_kernels::{Activation, Conv2dShape, Epilogue, Isa, KernelError, PackedConv2d, Precision, conv2d};
use support::{Sum, check_convolution, isas, noise, rounded, stored};

#[derive(Debug, Clone)]
struct Case {
    shape: Conv2dShape,
    c_in: usize,
    c_out: usize,
    kernel: (usize, usize),
    depthwise: bool,
    precision: Precision,
    bias: bool,
    residual: bool,
    activation: Activation,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let image = (0usize..3, 1usize..14, 1usize..20, 1usize..4, prop::array::uniform4(0usize..3), 1usize..3);
    let channels = (prop_oneof![1usize..20, 30usize..70], prop_oneof![1usize..10, 30usize..70]);
    let kernel = (1usize..4, 1usize..4);
    let activation = prop::sample::select(Activation::ALL.to_vec());
    let precision = prop::sample::select(Precision::ALL.to_vec());
    (image, channels, kernel, any::<[bool; 3]>(), precision, activation, any::<u64>())
        .prop_map(|((n, h, w, stride, pad, upsample), (c_in, c_out), kernel, flags, precision, activation, seed)| {
            Case {
                shape: Conv2dShape { n, h, w, stride, pad, upsample },
                c_in,
                c_out: if flags[0] { c_in } else { c_out },
                kernel,
                // One channel in one group is an ordinary convolution.
                depthwise: flags[0] && c_in > 1,
                precision,
                bias: flags[1],
                residual: flags[2],
                activation,
                seed,
            }
        })
        .prop_filter("the kernel fits", |case| case.shape.output(case.kernel.0, case.kernel.1).is_ok())
}

fn reference(case: &Case, x: &[f32], w: &[f32]) -> Vec<Sum> {
    let Case { shape, c_in, c_out, kernel: (kh, kw), depthwise, .. } = *case;
    let (out_h, out_w) = shape.output(kh, kw).unwrap();
    // Depthwise convolutions are computed in f32 whatever the precision.
    let precision = if depthwise { Precision::F32 } else { case.precision };
    let w = stored(w, w.len() / c_out.max(1), precision);
    let mut sums = Vec::with_capacity(shape.n * out_h * out_w * c_out);
    for index in 0..shape.n * out_h * out_w * c_out {
        let (pixel, o) = (index / c_out, index % c_out);
        let (image, oy, ox) = (pixel / (out_h * out_w), pixel / out_w % out_h, pixel % out_w);
        let mut sum = Sum::default();
        for tap in 0..kh * kw {
            let y = (oy * shape.stride + tap / kw) as isize - shape.pad[0] as isize;
            let x_at = (ox * shape.stride + tap % kw) as isize - shape.pad[1] as isize;
            let (up_h, up_w) = ((shape.h * shape.upsample) as isize, (shape.w * shape.upsample) as isize);
            if y < 0 || x_at < 0 || y >= up_h || x_at >= up_w {
                continue;
            }
            let (y, x_at) = (y as usize / shape.upsample, x_at as usize / shape.upsample);
            let pixel = &x[((image * shape.h + y) * shape.w + x_at) * c_in..][..c_in];
            if depthwise {
                sum.add(rounded(pixel[o], precision) * w[o * kh * kw + tap]);
                continue;
            }
            for (c, &value) in pixel.iter().enumerate() {
                sum.add(rounded(value, precision) * w[(o * c_in + c) * kh * kw + tap]);
            }
        }
        sums.push(sum);
    }
    sums
}

fn verify(case: &Case) {
    let &Case { shape, c_in, c_out, kernel: (kh, kw), depthwise, precision, activation, seed, .. } = case;
    let x = noise(shape.n * shape.h * shape.w * c_in, seed);
    let groups = if depthwise { c_in } else { 1 };
    let w = noise(c_out * (c_in / groups) * kh * kw, seed ^ 1);
    let sums = reference(case, &x, &w);
    let packed = PackedConv2d::from_f32(&w, (c_out, c_in, kh, kw), groups, precision).unwrap();
    check_convolution(case, &sums, c_out, ([case.bias, case.residual], activation, seed), |epilogue, out| {
        conv2d(&x, &shape, &packed, epilogue, out)
    });
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
    let case = |h, w, c_in, c_out, k: usize, depthwise, upsample| Case {
        shape: Conv2dShape { upsample, ..Conv2dShape::new(1, h, w, k / 2) },
        c_in,
        c_out,
        kernel: (k, k),
        depthwise,
        precision: Precision::F32,
        bias: true,
        residual: false,
        activation: Activation::Silu,
        seed: 5,
    };
    let downsample = Conv2dShape { stride: 2, pad: [0, 0, 1, 1], ..Conv2dShape::new(2, 16, 16, 0) };
    for precision in Precision::ALL {
        for case in [
            case(16, 16, 128, 128, 3, false, 1),
            case(8, 12, 256, 64, 3, false, 2),
            case(16, 16, 192, 96, 1, false, 1),
            case(24, 24, 3, 32, 3, false, 1),
            case(24, 24, 64, 3, 3, false, 1),
            case(16, 16, 96, 96, 3, true, 1),
            Case { shape: downsample, ..case(16, 16, 64, 64, 3, false, 1) },
        ] {
            verify(&Case { precision, ..case });
        }
    }
}

/// Large enough for Winograd's algorithm, with edges that are not whole tiles.
#[test]
fn large_images() {
    let case = Case {
        shape: Conv2dShape::new(1, 57, 61, 1),
        c_in: 40,
        c_out: 36,
        kernel: (3, 3),
        depthwise: false,
        precision: Precision::F32,
        bias: true,
        residual: true,
        activation: Activation::Silu,
        seed: 9,
    };
    verify(&case);
    verify(&Case { shape: Conv2dShape { upsample: 2, ..Conv2dShape::new(2, 21, 19, 1) }, ..case.clone() });
    let shape = Conv2dShape { pad: [0, 2, 1, 1], ..Conv2dShape::new(1, 63, 58, 0) };
    verify(&Case { shape, bias: false, residual: false, activation: Activation::None, ..case });
}

/// An error that adds up over the thirty convolutions of a decoder matters more than one output: compare the whole image.
#[test]
fn large_images_are_accurate_relative_to_the_largest_output() {
    let (size, channels) = (56, 256);
    let shape = Conv2dShape::new(1, size, size, 1);
    let (x, w) = (noise(size * size * channels, 1), noise(32 * channels * 9, 2));
    let packed = PackedConv2d::from_f32(&w, (32, channels, 3, 3), 1, Precision::F32).unwrap();
    let run = |isa: Isa| {
        let mut out = vec![0.0; size * size * 32];
        isa.run(|| conv2d(&x, &shape, &packed, &Epilogue::default(), &mut out)).unwrap().unwrap();
        out
    };
    let direct = run(Isa::Scalar);
    let largest = direct.iter().fold(0.0f32, |largest, v| largest.max(v.abs()));
    for isa in isas() {
        let worst = run(isa).iter().zip(&direct).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst <= 1e-5 * largest, "{isa}: off by {worst}, the largest output is {largest}");
    }
}

#[test]
fn nan_stays_under_its_windows() {
    let (size, channels) = (8, 32);
    for precision in Precision::ALL {
        let w = PackedConv2d::from_f32(&[1.0; 32 * 32 * 9], (channels, channels, 3, 3), 1, precision).unwrap();
        for isa in isas() {
            let mut x = vec![1.0; size * size * channels];
            x[(3 * size + 4) * channels + 7] = f32::NAN;
            let mut out = vec![0.0; x.len()];
            let shape = Conv2dShape::new(1, size, size, 1);
            isa.run(|| conv2d(&x, &shape, &w, &Epilogue::default(), &mut out)).unwrap().unwrap();
            for (i, value) in out.iter().enumerate() {
                let (y, x) = (i / channels / size, i / channels % size);
                let under = y.abs_diff(3) <= 1 && x.abs_diff(4) <= 1;
                assert_eq!(value.is_nan(), under, "{isa} {precision:?} at {y},{x}: {value}");
            }
        }
    }
}

#[test]
fn bad_shapes_are_errors() {
    let pack = |len: usize, groups| PackedConv2d::from_f32(&vec![0.0; len], (4, 4, 3, 3), groups, Precision::F32);
    assert!(pack(144, 1).is_ok() && pack(36, 4).is_ok());
    assert!(matches!(pack(143, 1), Err(KernelError::Length { .. })));
    assert!(matches!(pack(72, 2), Err(KernelError::InvalidShape { what: "groups", .. })));
    assert!(PackedConv2d::from_f32(&[], (4, 4, 0, 3), 1, Precision::F32).is_err());

    let w = pack(144, 1).unwrap();
    let call = |shape: Conv2dShape, x: usize, out: usize| {
        conv2d(&vec![0.0; x], &shape, &w, &Epilogue::default(), &mut vec![0.0; out])
    };
    let shape = Conv2dShape::new(1, 5, 5, 1);
    assert_eq!(call(shape, 100, 100), Ok(()));
    assert!(matches!(call(shape, 99, 100), Err(KernelError::Length { what: "x", .. })));
    assert!(matches!(call(shape, 100, 99), Err(KernelError::Length { what: "out", .. })));
    assert!(matches!(call(Conv2dShape { stride: 0, ..shape }, 100, 100), Err(KernelError::InvalidShape { .. })));
    assert!(matches!(call(Conv2dShape { upsample: 3, ..shape }, 100, 100), Err(KernelError::InvalidShape { .. })));
    assert!(matches!(call(Conv2dShape { h: 0, ..shape }, 0, 0), Err(KernelError::InvalidShape { .. })));
    assert!(matches!(call(Conv2dShape { h: usize::MAX, ..shape }, 0, 0), Err(KernelError::Overflow(_))));
    assert!(matches!(call(Conv2dShape { n: usize::MAX, ..shape }, 0, 0), Err(KernelError::Overflow(_))));
    assert_eq!(call(Conv2dShape { n: 0, ..shape }, 0, 0), Ok(()));
}
