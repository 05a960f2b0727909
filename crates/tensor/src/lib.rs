//! Tensors, the op set on sango-kernels, and safetensors loading.
