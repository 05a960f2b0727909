//! Ops, named as in PyTorch: each checks shapes and element types here and then runs where the tensor lives.
//!
//! Dimension arguments are `isize`; -1 is the last dimension.

mod attention;
mod binary;
mod index;
mod matmul;
pub(crate) mod modulated;
mod norm;
mod reduce;
mod resize;
mod rotary;
mod unary;
mod view;

pub use attention::{Columns, cached_attention, multi_head_attention, scaled_dot_product_attention};
pub use modulated::{Modulation, layer_norm_modulated, rms_norm_modulated, rms_norm_rotary};
pub use norm::{global_response_norm, layer_norm, rms_norm};
pub use rotary::rotary_embedding;
