//! How often a run shows how far it is.

use std::time::{Duration, Instant};

/// No side of a preview is longer.
pub(super) const PREVIEW_SIDE: u32 = 128;
/// A preview decodes a picture. Those of a run may take this share of the time that its steps take.
const SHARE: f64 = 0.3;
/// Until they have taken this long, they may take more: a quick model then shows every step, and its result comes later
/// by less than anybody minds.
const FREE: Duration = Duration::from_secs(1);

/// The time that the previews of a run may take.
pub(super) struct PreviewBudget {
    began: Instant,
    spent: Duration,
}

impl PreviewBudget {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), spent: Duration::ZERO }
    }

    /// Makes a preview, if there is time for it.
    pub(super) fn within<T>(&mut self, make: impl FnOnce() -> Option<T>) -> Option<T> {
        let before = Instant::now();
        let steps = before.duration_since(self.began).saturating_sub(self.spent);
        if self.spent > steps.mul_f64(SHARE).max(FREE) {
            return None;
        }
        let made = make();
        self.spent += before.elapsed();
        made
    }
}
