//! Training of the three architectures on libtorch.
//!
//! Nothing else in the workspace needs libtorch: what this crate writes are ordinary Hugging Face folders.

pub mod amused;
mod card;
pub mod checkpoint;
pub mod clip;
pub mod data;
pub mod files;
pub mod judge;
pub mod ltx_video;
pub mod nn;
pub mod optim;
pub mod report;
pub mod smolvlm2;

/// Held by every test that draws from libtorch's generator: there is one for the whole process.
#[cfg(test)]
pub(crate) fn generator() -> std::sync::MutexGuard<'static, ()> {
    static GENERATOR: std::sync::Mutex<()> = std::sync::Mutex::new(());
    tch::set_num_threads(1);
    GENERATOR.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
