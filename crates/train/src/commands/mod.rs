//! The commands of each model.

pub mod smolvlm2;
