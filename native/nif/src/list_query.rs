//! The query of `list/2`.

use std::fmt::Display;

use sango_jobs::{ErrorKind, JobError, ListQuery};
use serde::Deserialize;
use serde_json::Value;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Given {
    state: Option<String>,
    limit: Option<u32>,
    before: Option<String>,
}

/// Reads `state`, `limit` and `before`, each of them `null` or left out if it does not matter.
///
/// # Errors
/// `invalid_request` for unknown names and wrong types, `invalid_option` for values out of range, `unknown_job` for a
/// `before` that is no id.
pub(crate) fn from_json(json: Value) -> Result<ListQuery, JobError> {
    let refused = |why: &dyn Display| JobError::new(ErrorKind::InvalidRequest, format!("not a list query: {why}"));
    // A list would be read as the fields in their order.
    if !json.is_object() {
        return Err(refused(&"it is a map"));
    }
    let given: Given = serde_json::from_value(json).map_err(|error| refused(&error))?;
    let limit = given.limit.unwrap_or(ListQuery::default().limit);
    if !(1..=ListQuery::MAX_LIMIT).contains(&limit) {
        let message = format!("`limit` is {limit}, outside 1 to {}", ListQuery::MAX_LIMIT);
        return Err(JobError::new(ErrorKind::InvalidOption, message));
    }
    // As over HTTP, where a parameter that is left empty does not matter.
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    Ok(ListQuery {
        state: filled(given.state).map(|state| state.parse()).transpose()?,
        limit,
        before: filled(given.before).map(|id| id.parse()).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sango_jobs::State;
    use serde_json::json;

    #[test]
    fn queries_have_defaults_and_bounds() {
        assert_eq!(from_json(json!({})).unwrap(), ListQuery::default());
        assert_eq!(from_json(json!({"state": null, "before": ""})).unwrap(), ListQuery::default());
        let id = "0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b";
        let query = from_json(json!({"state": "failed", "limit": 7, "before": id})).unwrap();
        assert_eq!(query, ListQuery { state: Some(State::Failed), limit: 7, before: Some(id.parse().unwrap()) });
        for (json, kind) in [
            (json!({"limit": 0}), ErrorKind::InvalidOption),
            (json!({"limit": 201}), ErrorKind::InvalidOption),
            (json!({"limit": -1}), ErrorKind::InvalidRequest),
            (json!({"state": "done"}), ErrorKind::InvalidOption),
            (json!({"before": "x"}), ErrorKind::UnknownJob),
            (json!({"page": 1}), ErrorKind::InvalidRequest),
            (json!("all"), ErrorKind::InvalidRequest),
            (json!([]), ErrorKind::InvalidRequest),
            (json!(["failed"]), ErrorKind::InvalidRequest),
        ] {
            assert_eq!(from_json(json.clone()).unwrap_err().kind, kind, "{json}");
        }
    }
}
