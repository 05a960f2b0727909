//! Where a tensor lives.

/// Where a tensor's elements live and where ops on it run.
///
/// A model never names a device: its weights are loaded onto one, and every op runs where its inputs are. Inside this
/// crate each op matches on the device after it has checked shapes, so a new device is a new module beside `cpu` and
/// the compiler lists what it has to provide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Device {
    /// The processor, through `sango-kernels`.
    #[default]
    Cpu,
}
