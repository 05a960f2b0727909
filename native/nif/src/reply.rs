//! What a function answers, whatever happens inside it.

use rustler::{Encoder, Env, Term};
use sango_jobs::JobError;

use crate::atoms;
use crate::guard::guarded;

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

fn error_tuple<'a>(env: Env<'a>, error: &JobError) -> Term<'a> {
    let reason = (error.kind.code(), error.message.as_str(), error.kind.status());
    (atoms::error(), reason).encode(env)
}
