//! The loops behind the ops on the CPU. What computes heavily is in `sango-kernels`; what moves or combines elements
//! is here. Shapes were checked by the callers in `ops`.

pub(crate) mod elementwise;
pub(crate) mod layout;
pub(crate) mod parallel;
pub(crate) mod reduce;
