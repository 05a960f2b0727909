//! Ops that change the shape or pick parts, and compute nothing.

use crate::Tensor;
use crate::cpu::layout;
use crate::error::{Result, TensorError};
use crate::shape::{broadcast, broadcast_strides, numel, resolve_dim, split_at_dim, strides};
use crate::storage::Storage;

impl Tensor {
    /// The same elements in another shape. Free.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        if numel("reshape", shape)? != self.numel() {
            return Err(TensorError::shape("reshape", format!("shape {:?} does not become {shape:?}", self.shape)));
        }
        Ok(Tensor { shape: shape.to_vec(), ..self.clone() })
    }

    /// Joins the dimensions `start..=end` into one. Free.
    ///
    /// # Errors
    /// [`TensorError::Dim`] when there are no such dimensions, [`TensorError::Shape`] when they are in reverse order.
    pub fn flatten(&self, start: isize, end: isize) -> Result<Tensor> {
        let (start, end) = (resolve_dim("flatten", start, &self.shape)?, resolve_dim("flatten", end, &self.shape)?);
        if start > end {
            return Err(TensorError::shape("flatten", format!("dimension {start} comes after {end}")));
        }
        let mut shape = self.shape[..start].to_vec();
        shape.push(self.shape[start..=end].iter().product());
        shape.extend(&self.shape[end + 1..]);
        self.reshape(&shape)
    }

    /// Inserts a dimension of size 1 before `dim` (-1: at the end). Free.
    ///
    /// # Errors
    /// [`TensorError::Dim`] when `dim` is out of range.
    pub fn unsqueeze(&self, dim: isize) -> Result<Tensor> {
        let rank = self.rank() as isize;
        let at = if dim < 0 { dim + rank + 1 } else { dim };
        if !(0..=rank).contains(&at) {
            return Err(TensorError::Dim { op: "unsqueeze", dim, shape: self.shape.clone() });
        }
        let mut shape = self.shape.clone();
        shape.insert(at as usize, 1);
        self.reshape(&shape)
    }

    /// Removes dimension `dim`, which must have size 1. Free.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when its size is not 1.
    pub fn squeeze(&self, dim: isize) -> Result<Tensor> {
        let at = resolve_dim("squeeze", dim, &self.shape)?;
        let mut shape = self.shape.clone();
        if shape.remove(at) != 1 {
            return Err(TensorError::shape("squeeze", format!("dimension {dim} of shape {:?} is not 1", self.shape)));
        }
        self.reshape(&shape)
    }

    /// Reorders the dimensions: dimension `i` of the result is dimension `dims[i]` of this tensor.
    ///
    /// # Errors
    /// [`TensorError::Shape`] unless `dims` names every dimension once.
    pub fn permute(&self, dims: &[usize]) -> Result<Tensor> {
        let mut seen = vec![false; self.rank()];
        let valid =
            dims.len() == self.rank() && dims.iter().all(|&d| d < seen.len() && !std::mem::replace(&mut seen[d], true));
        if !valid {
            return Err(TensorError::shape(
                "permute",
                format!("{dims:?} is not an order of the dimensions of {:?}", self.shape),
            ));
        }
        let shape: Vec<usize> = dims.iter().map(|&d| self.shape[d]).collect();
        // Moving dimensions of size 1 about leaves the elements where they are.
        let long = |dims: &mut dyn Iterator<Item = usize>| dims.filter(|&d| self.shape[d] != 1).collect::<Vec<_>>();
        if long(&mut dims.iter().copied()) == long(&mut (0..self.rank())) {
            return self.reshape(&shape);
        }
        let own = strides(&self.shape);
        let strides: Vec<usize> = dims.iter().map(|&d| own[d]).collect();
        Ok(self.gather_strided(shape, &strides))
    }

    /// Exchanges two dimensions.
    ///
    /// # Errors
    /// [`TensorError::Dim`] when there are no such dimensions.
    pub fn transpose(&self, a: isize, b: isize) -> Result<Tensor> {
        let mut dims: Vec<usize> = (0..self.rank()).collect();
        dims.swap(resolve_dim("transpose", a, &self.shape)?, resolve_dim("transpose", b, &self.shape)?);
        self.permute(&dims)
    }

    /// Repeats dimensions of size 1 (and adds leading ones) until the shape is `shape`.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when this tensor does not broadcast to `shape`.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Tensor> {
        if broadcast("broadcast_to", &self.shape, shape)? != shape {
            return Err(TensorError::shape(
                "broadcast_to",
                format!("shape {:?} does not broadcast to {shape:?}", self.shape),
            ));
        }
        if self.numel() == numel("broadcast_to", shape)? {
            return self.reshape(shape);
        }
        Ok(self.gather_strided(shape.to_vec(), &broadcast_strides(&self.shape, shape)))
    }

    /// The part `start..start + len` of dimension `dim`. Free when only dimensions of size 1 come before it.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when the part reaches beyond the dimension.
    pub fn narrow(&self, dim: isize, start: usize, len: usize) -> Result<Tensor> {
        let dim = resolve_dim("narrow", dim, &self.shape)?;
        if start.checked_add(len).is_none_or(|end| end > self.shape[dim]) {
            return Err(TensorError::shape(
                "narrow",
                format!("{len} elements from {start} do not fit dimension {dim} of {:?}", self.shape),
            ));
        }
        let (outer, _, inner) = split_at_dim(&self.shape, dim);
        let mut shape = self.shape.clone();
        shape[dim] = len;
        let view = Tensor { offset: self.offset + start * inner, shape, ..self.clone() };
        if outer == 1 {
            return Ok(view);
        }
        // Not contiguous: read the part with the strides of the whole.
        let strides = strides(&self.shape);
        Ok(view.gather_strided(view.shape.clone(), &strides))
    }

    /// Cuts dimension `dim` into `n` parts of equal size.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when `n` does not divide the dimension.
    pub fn chunk(&self, n: usize, dim: isize) -> Result<Vec<Tensor>> {
        let size = self.dim(dim)?;
        if n == 0 || !size.is_multiple_of(n) {
            return Err(TensorError::shape("chunk", format!("{n} parts of a dimension of {size}")));
        }
        (0..n).map(|i| self.narrow(dim, i * (size / n), size / n)).collect()
    }

    /// Joins tensors along an existing dimension.
    ///
    /// # Errors
    /// [`TensorError::Shape`] when there are none, or their types or other dimensions differ.
    pub fn cat(tensors: &[&Tensor], dim: isize) -> Result<Tensor> {
        let [first, rest @ ..] = tensors else {
            return Err(TensorError::shape("cat", "there is nothing to join"));
        };
        let dim = resolve_dim("cat", dim, &first.shape)?;
        let mut shape = first.shape.clone();
        for t in rest {
            let fits = t.rank() == shape.len() && (0..shape.len()).all(|d| d == dim || t.shape[d] == shape[d]);
            if !fits || t.dtype() != first.dtype() {
                return Err(TensorError::shape(
                    "cat",
                    format!("{first:?} and {t:?} do not join along dimension {dim}"),
                ));
            }
            shape[dim] += t.shape[dim];
        }
        let len = numel("cat", &shape)?;
        macro_rules! join {
            ($variant:ident, $out:expr) => {{
                let mut out = $out;
                let parts: Vec<_> = tensors
                    .iter()
                    .filter_map(|t| match &*t.storage {
                        Storage::$variant(v) => Some((&v[t.range()], t.shape[dim..].iter().product())),
                        _ => None,
                    })
                    .collect();
                layout::cat(&parts, &mut out);
                out.into()
            }};
        }
        let storage: Storage = match &*first.storage {
            Storage::F32(_) => join!(F32, crate::buffer::Buffer::uninit(len)),
            Storage::F16(_) => join!(F16, vec![half::f16::ZERO; len]),
            Storage::BF16(_) => join!(BF16, vec![half::bf16::ZERO; len]),
            Storage::I64(_) => join!(I64, vec![0i64; len]),
            Storage::U8(_) => join!(U8, vec![0u8; len]),
        };
        Ok(first.like(storage, shape))
    }

    /// Joins tensors of one shape along a new dimension.
    ///
    /// # Errors
    /// As [`Tensor::cat`].
    pub fn stack(tensors: &[&Tensor], dim: isize) -> Result<Tensor> {
        let with_dim: Vec<Tensor> = tensors.iter().map(|t| t.unsqueeze(dim)).collect::<Result<_>>()?;
        let dim = if dim < 0 { dim + with_dim.first().map_or(0, Tensor::rank) as isize } else { dim };
        Tensor::cat(&with_dim.iter().collect::<Vec<_>>(), dim)
    }

    /// Copies the elements read with `strides`, starting at this tensor's first.
    fn gather_strided(&self, shape: Vec<usize>, strides: &[usize]) -> Tensor {
        let len = shape.iter().product();
        let storage: Storage = match &*self.storage {
            Storage::F32(v) => {
                let mut out = crate::buffer::Buffer::uninit(len);
                layout::gather_strided(&v[self.offset..], &shape, strides, &mut out);
                out.into()
            }
            Storage::F16(v) => gathered(&v[self.offset..], &shape, strides, len).into(),
            Storage::BF16(v) => gathered(&v[self.offset..], &shape, strides, len).into(),
            Storage::I64(v) => gathered(&v[self.offset..], &shape, strides, len).into(),
            Storage::U8(v) => gathered(&v[self.offset..], &shape, strides, len).into(),
        };
        self.like(storage, shape)
    }
}

fn gathered<T: Copy + Default + Send + Sync>(x: &[T], shape: &[usize], strides: &[usize], len: usize) -> Vec<T> {
    let mut out = vec![T::default(); len];
    layout::gather_strided(x, shape, strides, &mut out);
    out
}
