//! C-ABI compute kernels: gemm, attention, convolution and norms.
//!
//! Every operation exists once. The safe Rust functions in this crate and the `extern "C"` functions of
//! `include/sango_kernels.h` check their arguments and then call the same implementation, which picks its instructions
//! at run time ([`Isa`]): a scalar reference, AVX2 + FMA, AVX-512 (with and without bf16) and AMX.
//!
//! Activations are row-major f32 (or bf16, where an operation says so), images are channels-last (`[n, h, w, c]`), and weights are packed once, in f32,
//! bf16 or int8, into panels that every instruction set reads ([`PackedWeights`]).
//!
//! ```
//! use sango_kernels::{Epilogue, PackedWeights, Precision, gemm};
//!
//! // y = x · wᵀ for x [1, 2] and a PyTorch-style weight [out = 1, in = 2].
//! let weights = PackedWeights::from_f32(&[3.0, 4.0], 1, 2, Precision::F32)?;
//! let mut y = [0.0];
//! gemm(&[1.0, 2.0], 1, &weights, &Epilogue::default(), &mut y)?;
//! assert_eq!(y, [11.0]);
//! # Ok::<(), sango_kernels::KernelError>(())
//! ```

mod activation;
mod attention;
mod conv2d;
mod conv3d;
mod convert;
mod depthwise;
mod elementwise;
mod error;
pub mod ffi;
mod gemm;
mod isa;
mod memory;
mod norm;
pub mod pool;
mod scratch;
pub(crate) mod simd;
mod winograd;

pub use activation::Activation;
pub use attention::{AttentionMask, AttentionShape, Strides, attends_in_bf16, attention, attention_bf16};
pub use conv2d::{Conv2dShape, PackedConv2d, conv2d};
pub use conv3d::{Conv3dShape, PackedConv3d, TimePadding, conv3d, conv3d_normed};
pub use elementwise::{activate, log_softmax, softmax};
pub use error::KernelError;
pub use gemm::{BLayout, Epilogue, Gate, Number, PackedWeights, Precision, gemm, matmul};
pub use isa::Isa;
pub use norm::{Modulation, Rotary, RowNorm, group_norm, layer_norm, rms_norm};
