//! What a function answers, whatever happens inside it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustler::{Encoder, Env, Term};
use sango_jobs::{ErrorKind, JobError};

use crate::atoms;

/// `{:ok, value}` or `{:error, {code, message, status}}`.
pub(crate) fn value<'a>(env: Env<'a>, work: impl FnOnce() -> Result<Term<'a>, JobError>) -> Term<'a> {
    match guarded(work) {
        Ok(value) => (atoms::ok(), value).encode(env),
        Err(error) => error_tuple(env, &error),
    }
}

/// `:ok` or `{:error, {code, message, status}}`.
pub(crate) fn done<'a>(env: Env<'a>, work: impl FnOnce() -> Result<(), JobError>) -> Term<'a> {
    match guarded(work) {
        Ok(()) => atoms::ok().encode(env),
        Err(error) => error_tuple(env, &error),
    }
}

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

fn error_tuple<'a>(env: Env<'a>, error: &JobError) -> Term<'a> {
    let reason = (error.kind.code(), error.message.as_str(), error.kind.status());
    (atoms::error(), reason).encode(env)
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
