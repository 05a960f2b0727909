//! The commands of each model, but for aMUSEd's.
pub mod ltx_video;
pub mod smolvlm2;
