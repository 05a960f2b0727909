//! From JSON to terms.

use rustler::{Encoder, Env, Term};
use sango_jobs::{ErrorKind, JobError};
use serde::Serialize;
use serde_json::Value;

/// Anything that is JSON elsewhere, as a term with the same shape: maps with binaries as keys, `nil` for `null`.
///
/// # Errors
/// `internal` for what cannot be JSON.
pub(crate) fn json<'a>(env: Env<'a>, value: &impl Serialize) -> Result<Term<'a>, JobError> {
    let value = serde_json::to_value(value).map_err(|error| internal(&error))?;
    encode(env, &value)
}

fn encode<'a>(env: Env<'a>, value: &Value) -> Result<Term<'a>, JobError> {
    Ok(match value {
        Value::Null => rustler::types::atom::nil().encode(env),
        Value::Bool(value) => value.encode(env),
        Value::String(text) => text.encode(env),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => integer.encode(env),
            (None, Some(integer)) => integer.encode(env),
            // JSON has no infinities, so there is always a value.
            (None, None) => number.as_f64().unwrap_or_default().encode(env),
        },
        Value::Array(values) => {
            let terms: Vec<_> = values.iter().map(|value| encode(env, value)).collect::<Result<_, _>>()?;
            terms.encode(env)
        }
        Value::Object(fields) => {
            let keys: Vec<_> = fields.keys().map(|key| key.encode(env)).collect();
            let values: Vec<_> = fields.values().map(|value| encode(env, value)).collect::<Result<_, _>>()?;
            Term::map_from_term_arrays(env, &keys, &values).map_err(|_| internal(&"a key that is there twice"))?
        }
    })
}

fn internal(why: &dyn std::fmt::Display) -> JobError {
    JobError::new(ErrorKind::Internal, format!("a bug in Sango: cannot show this as a term: {why}"))
}
