//! Where a token is in the video, as angles (`LTXVideoRotaryPosEmbed`).

use sango_tensor::Tensor;

use crate::error::Result;

/// Rotary position embedding over time, height and width.
#[derive(Debug, Clone)]
pub struct LTXVideoRotaryPosEmbed {
    dim: usize,
    /// The frequencies, in radians for the whole extent.
    freqs: Vec<f32>,
}

/// Cosines and sines, one for each pair of neighbouring features: `[L, dim / 2]`, or `[B, L, dim / 2]`.
#[derive(Debug, Clone)]
pub struct RotaryEmbedding {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

/// Frames, rows and columns that positions are measured in: `base_num_frames`, `base_height` and `base_width`.
const BASE: [f32; 3] = [20.0, 2048.0, 2048.0];
const THETA: f64 = 10_000.0;

impl LTXVideoRotaryPosEmbed {
    /// For hidden states of `dim` features.
    pub fn new(dim: usize) -> Self {
        let exponents = linspace(dim / 6);
        let freq = |exponent: f32| (THETA.powf(f64::from(exponent)) as f32) * std::f32::consts::PI / 2.0;
        Self { dim, freqs: exponents.into_iter().map(freq).collect() }
    }

    /// For a grid of latents, each `rope_interpolation_scale` frames, rows and columns apart.
    ///
    /// # Errors
    /// When the grid is larger than memory.
    pub fn forward_grid(
        &self,
        [frames, height, width]: [usize; 3],
        rope_interpolation_scale: Option<[f32; 3]>,
    ) -> Result<RotaryEmbedding> {
        let place = |axis: usize, at: usize| match rope_interpolation_scale {
            Some(scale) => at as f32 * scale[axis] / BASE[axis],
            None => at as f32,
        };
        let axes = [frames, height, width];
        let [f, h, w] = [0, 1, 2].map(|axis| (0..axes[axis]).map(|at| place(axis, at)).collect::<Vec<_>>());
        let grid = (0..frames * height * width).map(|i| [f[i / (height * width)], h[i / width % height], w[i % width]]);
        self.embed(grid, &[frames * height * width, self.dim / 2])
    }

    /// For coordinates `[B, 3, L]` in seconds, pixels and pixels.
    ///
    /// # Errors
    /// When the tensor has another shape or type.
    pub fn forward_coords(&self, video_coords: &Tensor) -> Result<RotaryEmbedding> {
        let [batch, _, length] = video_coords.dims()?;
        let coords = video_coords.reshape(&[batch, 3, length])?;
        let coords = coords.as_f32()?;
        let places = (0..batch * length).map(|row| {
            let (b, l) = (row / length.max(1), row % length.max(1));
            [0, 1, 2].map(|axis| coords[(b * 3 + axis) * length + l] / BASE[axis])
        });
        let shape: &[usize] = if batch == 1 { &[length, self.dim / 2] } else { &[batch, length, self.dim / 2] };
        self.embed(places, shape)
    }

    fn embed(&self, places: impl Iterator<Item = [f32; 3]>, shape: &[usize]) -> Result<RotaryEmbedding> {
        let len = shape.iter().product();
        let (mut cos, mut sin) = (Vec::with_capacity(len), Vec::with_capacity(len));
        for place in places {
            // What does not divide into three axes is left unturned, in front.
            cos.extend((0..self.dim % 6 / 2).map(|_| 1.0));
            sin.extend((0..self.dim % 6 / 2).map(|_| 0.0));
            for freq in &self.freqs {
                for at in place {
                    // Angles go up to thousands of radians: the product is the reference's, to the bit, and the functions
                    // are exact.
                    let (s, c) = f64::from(freq * (at * 2.0 - 1.0)).sin_cos();
                    cos.push(c as f32);
                    sin.push(s as f32);
                }
            }
        }
        Ok(RotaryEmbedding { cos: Tensor::from_vec(cos, shape)?, sin: Tensor::from_vec(sin, shape)? })
    }
}

/// `torch.linspace(0, 1, steps)` in single precision, to the bit: counted from both ends, each rounded once. The least
/// difference would be a thousandth of a radian in the fastest angle.
fn linspace(steps: usize) -> Vec<f32> {
    if steps == 1 {
        return vec![0.0];
    }
    let step = 1.0 / (steps.max(2) - 1) as f32;
    (0..steps)
        .map(|i| if i < steps / 2 { step * i as f32 } else { (-step).mul_add((steps - 1 - i) as f32, 1.0) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_those_of_torch() {
        // `torch.linspace(0, 1, 42)[[32, 34]].view(torch.int32)`; rounding twice gives others.
        let exponents = linspace(42);
        assert_eq!([exponents[32].to_bits(), exponents[34].to_bits()], [0x3f47_ce0d, 0x3f54_4aed]);
        assert_eq!((exponents[0], exponents[41]), (0.0, 1.0));
    }

    #[test]
    fn positions_turn_pairs_by_axis() {
        let rope = LTXVideoRotaryPosEmbed::new(16);
        // 16 = 2 · (3 axes · 2 frequencies) + 4: two pairs in front are left alone.
        let RotaryEmbedding { cos, sin } = rope.forward_grid([2, 1, 3], Some([10.0, 32.0, 1024.0])).expect("a grid");
        assert_eq!(cos.shape(), [6, 8]);
        let (cos, sin) = (cos.as_f32().expect("f32"), sin.as_f32().expect("f32"));
        assert_eq!((&cos[..2], &sin[..2]), (&[1.0, 1.0][..], &[0.0, 0.0][..]));
        // The middle of time and width is an angle of zero at every frequency.
        let last = 5 * 8;
        assert_eq!((cos[last + 2], sin[last + 2]), (1.0, 0.0), "frame 1 of 2 at half of 20");
        let width = (std::f32::consts::FRAC_PI_2 * (2.0 * 2.0 * 1024.0 / 2048.0 - 1.0)).cos();
        assert!((cos[last + 4] - width).abs() < 1e-6);
    }

    #[test]
    fn coordinates_and_grids_agree() {
        let rope = LTXVideoRotaryPosEmbed::new(12);
        let grid = rope.forward_grid([1, 2, 1], Some([1.0, 32.0, 32.0])).expect("a grid");
        let coords = Tensor::from_vec(vec![0.0, 0.0, 0.0, 32.0, 0.0, 0.0], &[1, 3, 2]).expect("coordinates");
        let coords = rope.forward_coords(&coords).expect("places");
        assert_eq!(grid.cos.as_f32().expect("f32"), coords.cos.as_f32().expect("f32"));
    }
}
