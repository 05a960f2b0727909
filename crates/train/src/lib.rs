//! Training of the three architectures on libtorch.
//!
//! Nothing else in the workspace needs libtorch: what this crate writes are ordinary Hugging Face folders.

pub mod amused;
pub mod checkpoint;
pub mod clip;
pub mod data;
pub mod judge;
pub mod nn;
pub mod optim;
pub mod report;
