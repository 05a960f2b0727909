//! Training of the three architectures on libtorch.
