//! Arithmetic on shapes: element counts, dimension numbers, broadcasting.

use crate::error::{Result, TensorError};

/// Number of elements, or an error when it does not fit in memory addresses.
pub(crate) fn numel(op: &'static str, shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= isize::MAX as usize / 8)
        .ok_or_else(|| TensorError::shape(op, format!("shape {shape:?} has too many elements")))
}

/// Turns a dimension number, where -1 is the last, into an index.
pub(crate) fn resolve_dim(op: &'static str, dim: isize, shape: &[usize]) -> Result<usize> {
    let rank = shape.len() as isize;
    let resolved = if dim < 0 { dim + rank } else { dim };
    if (0..rank).contains(&resolved) {
        Ok(resolved as usize)
    } else {
        Err(TensorError::Dim { op, dim, shape: shape.to_vec() })
    }
}

/// Row-major strides, in elements.
pub(crate) fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for i in (1..shape.len()).rev() {
        strides[i - 1] = strides[i] * shape[i];
    }
    strides
}

/// `shape` seen as (product before `dim`, size of `dim`, product after `dim`).
pub(crate) fn split_at_dim(shape: &[usize], dim: usize) -> (usize, usize, usize) {
    (shape[..dim].iter().product(), shape[dim], shape[dim + 1..].iter().product())
}

/// The shape both inputs broadcast to, by the rules of NumPy and PyTorch.
pub(crate) fn broadcast(op: &'static str, a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], i: usize| {
        if i + s.len() < rank { 1 } else { s[i + s.len() - rank] }
    };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(TensorError::shape(op, format!("shapes {a:?} and {b:?} do not broadcast together"))),
        })
        .collect()
}

/// Strides of a row-major tensor of `shape` when read as the larger `target`: 0 along broadcast dimensions.
pub(crate) fn broadcast_strides(shape: &[usize], target: &[usize]) -> Vec<usize> {
    let own = strides(shape);
    let lead = target.len() - shape.len();
    (0..target.len())
        .map(|i| if i < lead || (shape[i - lead] == 1 && target[i] != 1) { 0 } else { own[i - lead] })
        .collect()
}

/// Merges neighbouring dimensions that every operand walks in one stride, and drops those of size 1, so that inner
/// loops are as long as they can be. `operands` are stride lists of the same rank as `shape`.
pub(crate) fn coalesce<const N: usize>(shape: &[usize], operands: [&[usize]; N]) -> (Vec<usize>, [Vec<usize>; N]) {
    let mut dims: Vec<usize> = Vec::with_capacity(shape.len());
    let mut out: [Vec<usize>; N] = std::array::from_fn(|_| Vec::with_capacity(shape.len()));
    for (i, &d) in shape.iter().enumerate() {
        if d == 1 {
            continue;
        }
        let merges = !dims.is_empty() && (0..N).all(|o| out[o][dims.len() - 1] == operands[o][i] * d);
        if merges {
            let last = dims.len() - 1;
            dims[last] *= d;
            for o in 0..N {
                out[o][last] = operands[o][i];
            }
        } else {
            dims.push(d);
            for o in 0..N {
                out[o].push(operands[o][i]);
            }
        }
    }
    if dims.is_empty() {
        dims.push(1);
        for strides in &mut out {
            strides.push(0);
        }
    }
    (dims, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_numpy() {
        assert_eq!(broadcast("add", &[2, 1, 4], &[3, 1]).unwrap(), [2, 3, 4]);
        assert_eq!(broadcast("add", &[], &[3]).unwrap(), [3]);
        assert_eq!(broadcast("add", &[0], &[1]).unwrap(), [0]);
        assert!(broadcast("add", &[2], &[3]).is_err());
        assert_eq!(broadcast_strides(&[3, 1], &[2, 3, 4]), [0, 1, 0]);
    }

    #[test]
    fn coalescing_joins_what_is_contiguous() {
        let (dims, [a, b]) = coalesce(&[2, 3, 1, 4], [&[12, 4, 4, 1], &[0, 4, 0, 1]]);
        assert_eq!((dims, a, b), (vec![2, 12], vec![12, 1], vec![0, 1]));
        let (dims, [a]) = coalesce(&[1, 1], [&[1, 1]]);
        assert_eq!((dims, a), (vec![1], vec![0]));
    }

    #[test]
    fn element_counts_cannot_overflow() {
        assert!(numel("zeros", &[usize::MAX, 2]).is_err());
        assert!(numel("zeros", &[1 << 62]).is_err());
        assert_eq!(numel("zeros", &[]).unwrap(), 1);
    }

    #[test]
    fn dimensions_count_from_both_ends() {
        assert_eq!(resolve_dim("sum", -1, &[2, 3]).unwrap(), 1);
        assert!(resolve_dim("sum", 2, &[2, 3]).is_err());
        assert!(resolve_dim("sum", -1, &[]).is_err());
    }
}
