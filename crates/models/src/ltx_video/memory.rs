//! What a request takes in memory, and what there is.

use serde::Serialize;

use crate::error::{ModelError, Result};

/// How much memory a request takes at its peak, beyond the model itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryEstimate {
    /// Bytes at the peak.
    pub bytes: u64,
    /// What they are for, in bytes. The parts run one after the other and do not add up.
    pub parts: Vec<(&'static str, u64)>,
}

impl MemoryEstimate {
    /// Of parts that run one after the other.
    pub(super) fn of_stages(parts: Vec<(&'static str, u64)>) -> Self {
        Self { bytes: parts.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0), parts }
    }

    /// Refuses what does not fit in `budget` bytes.
    pub(super) fn check(&self, budget: u64) -> Result<()> {
        if self.bytes <= budget {
            return Ok(());
        }
        let gigabytes = |(name, bytes): &(&str, u64)| format!("{name} {:.1} GB", *bytes as f64 / 1e9);
        let parts = self.parts.iter().map(gigabytes).collect::<Vec<_>>().join(", ");
        let advice = "make the video smaller or shorter, or raise the limit".to_owned();
        Err(ModelError::Memory { needed: self.bytes, budget, parts, advice })
    }
}

/// Bytes that the system can give without taking them from somebody, where it says so.
pub(super) fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(match limit_of_group() {
        Some(limit) => (kilobytes << 10).min(limit),
        None => kilobytes << 10,
    })
}

/// What is left of the limit that a container sets.
fn limit_of_group() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let (limit, used) = (number("/sys/fs/cgroup/memory.max")?, number("/sys/fs/cgroup/memory.current")?);
    let stat = std::fs::read_to_string("/sys/fs/cgroup/memory.stat").unwrap_or_default();
    // Pages of files are given back when they are needed.
    let files = stat.lines().find_map(|line| line.strip_prefix("file ")?.parse::<u64>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(files)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let estimate = MemoryEstimate::of_stages(vec![("transformer", 3_000_000_000), ("autoencoder", 5_240_000_000)]);
        assert_eq!(estimate.bytes, 5_240_000_000);
        estimate.check(6_000_000_000).expect("it fits");
        let error = estimate.check(4_000_000_000).expect_err("it does not").to_string();
        for word in ["5.3 GB", "4.0 GB", "transformer 3.0 GB", "shorter"] {
            assert!(error.contains(word), "{word} is missing from: {error}");
        }
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available().is_none_or(|bytes| bytes > 1 << 20));
    }
}
