//! What keeps a bug, or an argument made to find one, from ending the VM.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use sango_jobs::{ErrorKind, JobError};

/// Does the work on a stack as large as a Rust thread's. Those of the BEAM's dirty schedulers have 320 kB, which a picture
/// that somebody has made for the purpose could overrun, and with it the VM.
pub(crate) fn on_large_stack<T>(work: impl FnOnce() -> T) -> T {
    const STACK_BYTES: usize = 2 << 20;
    stacker::grow(STACK_BYTES, work)
}

/// A panic as an error. The panic hook has already written it to standard error.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, JobError>) -> Result<T, JobError> {
    // What the work touches is behind locks that tolerate a panic.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// The error that a panic becomes.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> JobError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    JobError::new(ErrorKind::Internal, format!("a bug in Sango: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_also_on_the_large_stack() {
        let error = guarded(|| on_large_stack(|| -> Result<(), JobError> { panic!("on {}", "purpose") })).unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::Internal, "a bug in Sango: on purpose"));
        assert_eq!(guarded(|| Ok(on_large_stack(|| 7))), Ok(7));
    }
}
