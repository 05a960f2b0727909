//! What happens to a job, numbered.

use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;

use crate::JobId;

/// The names of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventName {
    /// It waits, at a position.
    Queued,
    /// A worker took it.
    Started,
    /// A step is done.
    Progress,
    /// A small picture of how it looks so far.
    Preview,
    /// Which frames of the media the model is shown.
    Frames,
    /// More of the answer.
    Token,
    /// A stage of a pipeline begins, or has a result.
    Stage,
    /// There is a result. Last.
    Finished,
    /// There is an error. Last.
    Failed,
    /// Somebody cancelled it. Last.
    Cancelled,
}

impl EventName {
    const ALL: [Self; 10] = [
        Self::Queued,
        Self::Started,
        Self::Progress,
        Self::Preview,
        Self::Frames,
        Self::Token,
        Self::Stage,
        Self::Finished,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The name in JSON and on channels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Started => "started",
            Self::Progress => "progress",
            Self::Preview => "preview",
            Self::Frames => "frames",
            Self::Token => "token",
            Self::Stage => "stage",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// It changes what [`JobView`](crate::JobView) shows.
    pub(crate) fn changes_view(self) -> bool {
        !matches!(self, Self::Preview | Self::Frames | Self::Token)
    }

    /// No event follows one of these.
    pub fn is_last(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled)
    }
}

impl FromStr for EventName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|name| name.as_str() == text).ok_or(())
    }
}

/// One thing that happened to one job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    /// 1 for the job's first event, then one more each time.
    pub n: u64,
    /// Whose event it is.
    pub job: JobId,
    /// What happened.
    pub event: EventName,
    /// Milliseconds since 1970.
    pub at: i64,
    /// The details, by `event`; see `docs/protocol.md`.
    pub data: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_written_as_in_the_protocol() {
        let job = JobId::generate();
        let data = serde_json::json!({"step": 2, "total": 12, "eta_ms": 900});
        let event = Event { n: 3, job, event: EventName::Progress, at: 17, data };
        let text = format!(
            r#"{{"n":3,"job":"{job}","event":"progress","at":17,"data":{{"eta_ms":900,"step":2,"total":12}}}}"#
        );
        assert_eq!(serde_json::to_value(&event).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
        for name in EventName::ALL {
            assert_eq!(serde_json::to_value(name).unwrap(), name.as_str());
            assert_eq!(name.as_str().parse(), Ok(name));
        }
    }
}
