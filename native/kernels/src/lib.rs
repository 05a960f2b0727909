//! C-ABI compute kernels: gemm, attention, convolution and norms.
