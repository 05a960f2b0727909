//! Numbers as vectors, for models that are told a time or a size.

/// `get_timestep_embedding(values, width, flip_sin_to_cos=True, downscale_freq_shift=0)`: cosines, then sines, then a
/// zero when `width` is odd, for each value.
pub(crate) fn timestep_embedding(values: &[f32], width: usize) -> Vec<f32> {
    let half = width / 2;
    let frequency = |i: usize| f64::from(-(10_000f64.ln() as f32) * i as f32 / half as f32).exp() as f32;
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let mut out = Vec::with_capacity(values.len() * width);
    for value in values {
        out.extend(frequencies.iter().map(|f| (value * f).cos()));
        out.extend(frequencies.iter().map(|f| (value * f).sin()));
        out.extend((2 * half..width).map(|_| 0.0));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_come_first() {
        let embedding = timestep_embedding(&[0.0, 1.0], 5);
        assert_eq!(embedding[..5], [1.0, 1.0, 0.0, 0.0, 0.0]);
        let slow = 10_000f32.powf(-0.5);
        let expected = [1f32.cos(), slow.cos(), 1f32.sin(), slow.sin(), 0.0];
        assert!(embedding[5..].iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{embedding:?}");
    }
}
