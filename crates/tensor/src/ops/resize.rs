//! Changing the resolution of images.

use crate::Tensor;
use crate::buffer::Buffer;
use crate::cpu::parallel::for_each_chunk;
use crate::error::{Result, TensorError};
use crate::shape::numel;

impl Tensor {
    /// Repeats every pixel of a channels-last image `[N, H, W, C]` `scale` times in both directions.
    ///
    /// # Errors
    /// [`TensorError::Shape`] unless there are four dimensions and `scale` is at least 1.
    pub fn upsample_nearest2d(&self, scale: usize) -> Result<Tensor> {
        const OP: &str = "upsample_nearest2d";
        let [n, h, w, c] = self.dims()?;
        let x = self.f32_for(OP)?;
        if scale == 0 {
            return Err(TensorError::shape(OP, "the scale must be at least 1"));
        }
        let shape = vec![n, h.saturating_mul(scale), w.saturating_mul(scale), c];
        let mut out = Buffer::uninit(numel(OP, &shape)?);
        let (row, cost) = (w * scale * c, out.len());
        for_each_chunk(&mut out, row, cost, |first, part| {
            for (i, out) in part.chunks_exact_mut(row).enumerate() {
                let x = &x[(first + i) / scale * w * c..][..w * c];
                for (out, pixel) in out.chunks_exact_mut(scale * c).zip(x.chunks_exact(c)) {
                    out.chunks_exact_mut(c).for_each(|out| out.copy_from_slice(pixel));
                }
            }
        });
        Ok(self.like(out, shape))
    }
}
