//! What the test files share: made-up numbers and comparisons.

#![allow(dead_code, reason = "each test file uses its own part")]

use proptest::prelude::*;
use sango_tensor::Tensor;

/// Numbers between −2 and 2 that look random and are the same in every run.
pub fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 22) as f32 - 2.0
        })
        .collect()
}

pub fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(numbers(shape.iter().product(), seed), shape).unwrap()
}

/// The largest difference is at most `tolerance` times the largest expected magnitude (or `tolerance`, below 1).
#[track_caller]
pub fn assert_close(found: &Tensor, shape: &[usize], expected: &[f64], tolerance: f64) {
    assert_eq!(found.shape(), shape);
    let found = found.as_f32().unwrap();
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        let same = (f64::from(f) - e).abs() <= tolerance * scale || (f.is_nan() && e.is_nan());
        assert!(same, "element {i}: {f}, expected {e}");
    }
}

/// Row-major position of every index of `shape`, in order: the slow, obvious way.
pub fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for &d in shape {
        all = all.iter().flat_map(|i| (0..d).map(move |x| [i.as_slice(), &[x]].concat())).collect();
    }
    all
}

/// The element at `index` of a row-major array, with index 0 wherever the dimension is 1 and leading ones missing.
pub fn at(data: &[f32], shape: &[usize], index: &[usize]) -> f64 {
    let index = &index[index.len() - shape.len()..];
    let flat = shape.iter().zip(index).fold(0, |flat, (&d, &i)| flat * d + if d == 1 { 0 } else { i });
    f64::from(data[flat])
}

/// Shapes of up to four dimensions of 1 to 6.
pub fn any_shape() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..=6, 0..=4)
}
