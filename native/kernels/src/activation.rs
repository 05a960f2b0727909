//! The activation functions that epilogues and element-wise kernels apply, and their scalar definitions.

/// An activation function, applied after the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(i32)]
pub enum Activation {
    /// The identity.
    #[default]
    None = 0,
    /// `x · Φ(x)` with the error function (PyTorch `gelu`).
    Gelu = 1,
    /// The tanh approximation of GELU (PyTorch `gelu(approximate="tanh")`).
    GeluTanh = 2,
    /// `x · sigmoid(1.702 x)` (CLIP's `quick_gelu`).
    QuickGelu = 3,
    /// `x · sigmoid(x)`.
    Silu = 4,
}

impl Activation {
    /// Every activation, in the order of their C values.
    pub const ALL: [Activation; 5] = [Self::None, Self::Gelu, Self::GeluTanh, Self::QuickGelu, Self::Silu];

    /// The activation of one value.
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Self::None => x,
            Self::Gelu => 0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => 0.5 * x * (1.0 + (0.797_884_6 * (x + 0.044_715 * x * x * x)).tanh()),
            Self::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Self::Silu => x / (1.0 + (-x).exp()),
        }
    }
}

/// The error function to f32 accuracy (Maclaurin series up to 3, where it is 1 − 2e-5, then erfc's continued fraction),
/// computed in f64: the yardstick for the vector approximations.
fn erf(x: f32) -> f32 {
    let x = f64::from(x);
    let magnitude = x.abs();
    if x.is_nan() || magnitude > 6.0 {
        return if x.is_nan() { f32::NAN } else { x.signum() as f32 };
    }
    if magnitude < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..60 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return (sum * std::f64::consts::FRAC_2_SQRT_PI) as f32;
    }
    let mut fraction = magnitude;
    for n in (1..=60).rev() {
        fraction = magnitude + f64::from(n) / 2.0 / fraction;
    }
    let erfc = (-magnitude * magnitude).exp() / (std::f64::consts::PI.sqrt() * fraction);
    ((1.0 - erfc) * x.signum()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        let close = |a: f32, b: f32| assert!((a - b).abs() <= 1e-6 * b.abs().max(1e-3), "{a} {b}");
        // torch.erf in f64, rounded.
        close(erf(0.5), 0.520_499_9);
        close(erf(-2.9), -0.999_958_9);
        close(erf(3.1), 0.999_988_4);
        close(Activation::Gelu.apply(1.0), 0.841_344_8);
        close(Activation::GeluTanh.apply(1.0), 0.841_192);
        close(Activation::QuickGelu.apply(1.0), 0.845_795_75);
        close(Activation::Silu.apply(-2.0), -0.238_405_84);
        assert!(Activation::ALL.iter().all(|a| a.apply(f32::NAN).is_nan()));
    }
}
