//! Limits on how much an argument may hold.

use sango_jobs::{ErrorKind, JobError};

/// How many terms an argument may be made of.
pub(crate) const MAX_TERMS: usize = 10_000;
/// How many bytes of text and pictures an argument may hold: as much as a body may over HTTP.
const MAX_BYTES: usize = 56 << 20;

/// What is left of the limits while an argument is read.
pub(crate) struct Budget {
    terms: usize,
    bytes: usize,
}

impl Budget {
    /// All of them.
    pub(crate) fn new() -> Self {
        Self { terms: MAX_TERMS, bytes: MAX_BYTES }
    }

    /// One more term.
    ///
    /// # Errors
    /// `too_large`.
    pub(crate) fn take_term(&mut self) -> Result<(), JobError> {
        self.terms = self.terms.checked_sub(1).ok_or_else(|| {
            JobError::new(ErrorKind::TooLarge, format!("more than {MAX_TERMS} terms in one argument"))
        })?;
        Ok(())
    }

    /// So many more bytes.
    ///
    /// # Errors
    /// `too_large`.
    pub(crate) fn take_bytes(&mut self, bytes: usize) -> Result<(), JobError> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or_else(|| {
            JobError::new(ErrorKind::TooLarge, format!("more than {MAX_BYTES} bytes in one argument"))
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_ends() {
        let mut budget = Budget { terms: 1, bytes: 3 };
        assert!(budget.take_term().is_ok() && budget.take_bytes(3).is_ok());
        assert_eq!(budget.take_term().unwrap_err().kind, ErrorKind::TooLarge);
        assert_eq!(budget.take_bytes(1).unwrap_err().kind, ErrorKind::TooLarge);
    }
}
