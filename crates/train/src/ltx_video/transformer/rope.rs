//! `LTXVideoRotaryPosEmbed`: rotations by time in seconds and place in pixels, the same for all heads together.

use tch::{Kind, Tensor};

/// What times and places are divided by.
const BASE: [f64; 3] = [20.0, 2048.0, 2048.0];
const THETA: f64 = 10_000.0;

/// Cosines and sines for every token, `[1, S, dim]`.
#[derive(Debug)]
pub struct RotaryPosEmbed {
    cos: Tensor,
    sin: Tensor,
    /// `[dim, dim]`: a product with it turns each pair of channels by 90°, faster than taking the pairs apart.
    quarter_turn: Tensor,
}

impl RotaryPosEmbed {
    /// For latents of `grid` frames, rows and columns, which are `scale` seconds and pixels apart, in a model that is
    /// `dim` wide and computes in `kind`.
    pub fn new(dim: i64, grid: [i64; 3], scale: [f64; 3], kind: Kind) -> Self {
        let (frequencies, rest) = (dim / 6, dim % 6);
        let spread = |i: i64| THETA.powf(i as f64 / (frequencies - 1).max(1) as f64) * std::f64::consts::FRAC_PI_2;
        let mut angles: Vec<f32> = Vec::new();
        for f in 0..grid[0] {
            for h in 0..grid[1] {
                for w in 0..grid[2] {
                    let at = [f, h, w];
                    let place: Vec<f64> = (0..3).map(|axis| at[axis] as f64 * scale[axis] / BASE[axis]).collect();
                    angles.extend(std::iter::repeat_n(0.0, rest as usize));
                    for i in 0..frequencies {
                        for place in &place {
                            let angle = spread(i) * (place * 2.0 - 1.0);
                            angles.extend([angle as f32; 2]);
                        }
                    }
                }
            }
        }
        let angles = Tensor::from_slice(&angles).view([1, -1, dim]);
        let quarter_turn = Tensor::zeros([dim, dim], (Kind::Float, angles.device()));
        for i in (0..dim).step_by(2) {
            let _ = quarter_turn.get(i).get(i + 1).fill_(1.0);
            let _ = quarter_turn.get(i + 1).get(i).fill_(-1.0);
        }
        let [cos, sin, quarter_turn] = [angles.cos(), angles.sin(), quarter_turn].map(|tensor| tensor.to_kind(kind));
        Self { cos, sin, quarter_turn }
    }

    /// Turns each pair of channels of `x` `[B, S, dim]`.
    pub(super) fn apply(&self, x: &Tensor) -> Tensor {
        (x * &self.cos).addcmul(&x.matmul(&self.quarter_turn), &self.sin)
    }
}
