//! Transcendental functions on vectors, to about 1e-6 relative over the whole range of f32.

use super::Simd;
use crate::Activation;

/// `e^x`: 2^n · e^r with |r| ≤ ln 2 / 2 and a polynomial of degree 6 for e^r (1e-8, fitted at Chebyshev points).
/// Overflows to infinity, underflows to 0, keeps NaN.
///
/// # Safety
/// The CPU has the instructions of `S`.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: passed on from the caller.
    unsafe {
        let x = S::min(S::splat(130.0), S::max(S::splat(-130.0), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        // ln 2 in two parts, so that n · ln 2 is subtracted without rounding.
        let r = S::fma(n, S::splat(-355.0 / 512.0), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(0.001_393_373_3);
        for c in [0.008_363_235, 0.041_666_463, 0.166_665_77, 0.5, 1.0, 1.0] {
            p = S::fma(p, r, S::splat(c));
        }
        S::scale(p, n)
    }
}

/// `erfc(z)` for z ≥ 0 as t · P(t) · e^(−z²), t = 1 / (1 + z / 2); P fits erfcx(z) / t to 5e-8 at Chebyshev points.
///
/// # Safety
/// The CPU has the instructions of `S`.
#[inline(always)]
unsafe fn erfc_positive<S: Simd>(z: S::V) -> S::V {
    const P: [f32; 9] = [
        -0.060_205_21,
        0.289_904_32,
        -0.497_749_92,
        0.289_532_7,
        -0.034_073_68,
        0.205_633_96,
        0.242_413_43,
        0.282_462_45,
        0.282_081_9,
    ];
    // SAFETY: passed on from the caller.
    unsafe {
        let one = S::splat(1.0);
        let t = S::div(one, S::fma(z, S::splat(0.5), one));
        let mut p = S::splat(P[0]);
        for c in &P[1..] {
            p = S::fma(p, t, S::splat(*c));
        }
        let e = exp::<S>(S::sub(S::splat(0.0), S::mul(z, z)));
        S::mul(S::mul(t, p), e)
    }
}

/// `1 / (1 + e^(−x))`.
///
/// # Safety
/// The CPU has the instructions of `S`.
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: passed on from the caller.
    unsafe {
        let one = S::splat(1.0);
        S::div(one, S::add(one, exp::<S>(S::sub(S::splat(0.0), x))))
    }
}

/// The activation of every lane.
///
/// # Safety
/// The CPU has the instructions of `S`.
#[inline(always)]
pub(crate) unsafe fn activate<S: Simd>(activation: Activation, x: S::V) -> S::V {
    // SAFETY: passed on from the caller.
    unsafe {
        match activation {
            Activation::None => x,
            Activation::Gelu => {
                // 1 + erf is 2 − erfc on the right and erfc on the left, so nothing cancels.
                let z = S::mul(S::abs(x), S::splat(std::f32::consts::FRAC_1_SQRT_2));
                let tail = S::mul(S::splat(0.5), erfc_positive::<S>(z));
                let zero = S::splat(0.0);
                S::mul(x, S::select_lt(x, zero, tail, S::sub(S::splat(1.0), tail)))
            }
            Activation::GeluTanh => {
                // (1 + tanh u) / 2 = sigmoid(2u).
                let cube = S::mul(S::mul(x, x), x);
                let inner = S::fma(cube, S::splat(0.044_715), x);
                S::mul(x, sigmoid::<S>(S::mul(inner, S::splat(2.0 * 0.797_884_6))))
            }
            Activation::QuickGelu => S::mul(x, sigmoid::<S>(S::mul(x, S::splat(1.702)))),
            Activation::Silu => S::mul(x, sigmoid::<S>(x)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::simd::{Kernel, dispatch};

    struct Map<'a>(&'a [f32], &'a mut [f32], Option<Activation>);

    impl Kernel for Map<'_> {
        type Output = ();
        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            for i in (0..self.0.len()).step_by(S::LANES) {
                // SAFETY: the lengths are multiples of every lane count.
                unsafe {
                    let x = S::load(self.0.as_ptr().add(i));
                    let y = self.2.map_or_else(|| exp::<S>(x), |a| activate::<S>(a, x));
                    S::store(self.1.as_mut_ptr().add(i), y);
                }
            }
        }
    }

    #[test]
    fn functions_match_f64_on_every_instruction_set() {
        let mut x: Vec<f32> = (-32_000..32_000).map(|i| i as f32 / 800.0).collect();
        x.extend((-320..320).map(|i| i as f32 * 0.4));
        let mut y = vec![0.0; x.len()];
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            dispatch(isa, Map(&x, &mut y, None));
            for (x, y) in x.iter().zip(&y) {
                let want = f64::from(*x).exp() as f32;
                assert!(*y == want || (y - want).abs() <= 1e-6 * want + 1e-38, "{isa} exp({x}) = {y}, not {want}");
            }
            for activation in Activation::ALL {
                dispatch(isa, Map(&x, &mut y, Some(activation)));
                for (x, y) in x.iter().zip(&y) {
                    let want = activation.apply(*x);
                    // On the far left the result is tiny, and an f32 exponent of −z² is itself only good to z² · 6e-8.
                    let allowed = 2e-6 * want.abs() + 1e-7 * x.abs().min(1.0) + 1e-30;
                    assert!((y - want).abs() <= allowed, "{isa} {activation:?}({x}) = {y}, not {want}");
                }
            }
        }
    }

    #[test]
    fn edges() {
        let x: Vec<f32> = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0].repeat(8);
        let mut y = vec![0.0; x.len()];
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            dispatch(isa, Map(&x, &mut y, None));
            assert!(y[0].is_nan() && y[1..4] == [f32::INFINITY, 0.0, 1.0], "{isa} {:?}", &y[..4]);
            for activation in Activation::ALL {
                dispatch(isa, Map(&x, &mut y, Some(activation)));
                assert!(y[0].is_nan() && y[1] == f32::INFINITY && y[3] == 0.0, "{isa} {activation:?} {:?}", &y[..4]);
            }
        }
    }
}
