//! Tensors, the op set on `sango-kernels`, and safetensors loading.
//!
//! Few ops, named as in PyTorch, on row-major tensors: [`Tensor`] has the element-wise, shape and reduction ops, [`nn`]
//! the layers that own weights, [`ops`] what takes several tensors as equals, and [`Weights`] reads checkpoints.
//! Images are channels-last (`[N, H, W, C]`). Computation is in f32; layers keep their matrices in f32 or bf16,
//! whichever [`Weights::compute_dtype`] says.

mod buffer;
mod cpu;
mod device;
mod dtype;
mod error;
mod kv_cache;
pub mod nn;
pub mod ops;
mod save;
mod shape;
mod storage;
mod tensor;
mod weights;

pub use buffer::release_buffers;
pub use device::Device;
pub use dtype::DType;
pub use error::{Result, TensorError};
pub use kv_cache::KvCache;
pub use sango_kernels::{Activation, KernelError};
pub use save::save;
pub use tensor::Tensor;
pub use weights::{LowRank, Patch, Weights};
