//! Picking rows and elements by integer index.

use half::slice::HalfFloatSliceExt;

use crate::buffer::Buffer;
use crate::error::{Result, TensorError};
use crate::shape::{resolve_dim, split_at_dim};
use crate::storage::Storage;
use crate::{DType, Tensor};

impl Tensor {
    /// The slices of dimension `dim` that `ids` (one-dimensional, `I64`) names, in that order.
    ///
    /// # Errors
    /// [`TensorError::Index`] for an id out of range, [`TensorError::DType`] for other types.
    pub fn index_select(&self, dim: isize, ids: &Tensor) -> Result<Tensor> {
        let dim = resolve_dim("index_select", dim, &self.shape)?;
        let x = self.f32_for("index_select")?;
        let (outer, n, inner) = split_at_dim(&self.shape, dim);
        let ids = checked_ids("index_select", ids, n)?;
        let mut out = Buffer::uninit(outer * ids.len() * inner);
        for (out, x) in out.chunks_exact_mut((ids.len() * inner).max(1)).zip(x.chunks_exact((n * inner).max(1))) {
            for (out, &id) in out.chunks_exact_mut(inner.max(1)).zip(&ids) {
                out.copy_from_slice(&x[id * inner..(id + 1) * inner]);
            }
        }
        let mut shape = self.shape.clone();
        shape[dim] = ids.len();
        Ok(self.like(out, shape))
    }

    /// The rows of this `[rows, width]` table that `ids` names: shape `ids.shape() + [width]`, in `F32` whatever
    /// float type the table is stored in.
    ///
    /// # Errors
    /// [`TensorError::Index`] for an id out of range, [`TensorError::DType`] for other types.
    pub fn embedding(&self, ids: &Tensor) -> Result<Tensor> {
        let [rows, width] = self.dims()?;
        let mut shape = ids.shape.clone();
        shape.push(width);
        let ids = checked_ids("embedding", ids, rows)?;
        let mut out = Buffer::uninit(ids.len() * width);
        for (out, id) in out.chunks_exact_mut(width.max(1)).zip(ids) {
            let row = self.offset + id * width..self.offset + (id + 1) * width;
            match &*self.storage {
                Storage::F32(v) => out.copy_from_slice(&v[row]),
                Storage::BF16(v) => v[row].convert_to_f32_slice(out),
                Storage::F16(v) => v[row].convert_to_f32_slice(out),
                Storage::I64(_) | Storage::U8(_) => {
                    return Err(self.dtype_error("embedding", DType::F32));
                }
            }
        }
        Ok(self.like(out, shape))
    }

    /// For every row of the last dimension, the element that `ids` (this shape without the last dimension) names.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the shapes do not match, [`TensorError::Index`] for an id out of range.
    pub fn gather_last(&self, ids: &Tensor) -> Result<Tensor> {
        let n = self.dim(-1)?;
        if ids.shape != self.shape[..self.rank() - 1] {
            return Err(TensorError::shape(
                "gather_last",
                format!("ids of shape {:?} for rows of {:?}", ids.shape, self.shape),
            ));
        }
        let x = self.f32_for("gather_last")?;
        let ids_checked = checked_ids("gather_last", ids, n)?;
        let out: Vec<f32> = ids_checked.iter().enumerate().map(|(row, &id)| x[row * n + id]).collect();
        Ok(self.like(out, ids.shape.clone()))
    }
}

fn checked_ids(op: &'static str, ids: &Tensor, len: usize) -> Result<Vec<usize>> {
    let Storage::I64(v) = &*ids.storage else {
        return Err(ids.dtype_error(op, DType::I64));
    };
    v[ids.range()]
        .iter()
        .map(|&index| usize::try_from(index).ok().filter(|&i| i < len).ok_or(TensorError::Index { op, index, len }))
        .collect()
}
