//! What clients send to list jobs, over HTTP, on the socket and through the NIF.

use std::fmt::Display;

use serde::Deserialize;
use serde_json::Value;

use crate::{ErrorKind, JobError, ListQuery};

/// `state`, `limit` and `before`, each of them `null`, left empty or left out if it does not matter.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListParams {
    state: Option<String>,
    limit: Option<u32>,
    before: Option<String>,
}

impl TryFrom<ListParams> for ListQuery {
    type Error = JobError;

    /// # Errors
    /// `invalid_option` for values out of range, `unknown_job` for a `before` that is no id.
    fn try_from(params: ListParams) -> Result<Self, JobError> {
        let limit = params.limit.unwrap_or(Self::default().limit);
        if !(1..=Self::MAX_LIMIT).contains(&limit) {
            let message = format!("`limit` is {limit}, outside 1 to {}", Self::MAX_LIMIT);
            return Err(JobError::new(ErrorKind::InvalidOption, message));
        }
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Self {
            state: filled(params.state).map(|state| state.parse()).transpose()?,
            limit,
            before: filled(params.before).map(|id| id.parse()).transpose()?,
        })
    }
}

impl ListQuery {
    /// Reads [`ListParams`] that came as JSON.
    ///
    /// # Errors
    /// `invalid_request` for unknown names and wrong types, and as from [`ListParams`].
    pub fn from_json(json: Value) -> Result<Self, JobError> {
        let refused = |why: &dyn Display| JobError::new(ErrorKind::InvalidRequest, format!("not a list query: {why}"));
        // serde would take the fields from a list, too, in their order.
        if !json.is_object() {
            return Err(refused(&"it is no JSON object"));
        }
        serde_json::from_value::<ListParams>(json).map_err(|error| refused(&error))?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::State;
    use serde_json::json;

    #[test]
    fn queries_have_defaults_and_bounds() {
        assert_eq!(ListQuery::from_json(json!({})).unwrap(), ListQuery::default());
        assert_eq!(ListQuery::from_json(json!({"state": null, "before": ""})).unwrap(), ListQuery::default());
        let id = "0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b";
        let query = ListQuery::from_json(json!({"state": "failed", "limit": 7, "before": id})).unwrap();
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
            assert_eq!(ListQuery::from_json(json.clone()).unwrap_err().kind, kind, "{json}");
        }
    }
}
