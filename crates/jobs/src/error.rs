//! The one table from what went wrong to a stable code and an HTTP status.

use serde::ser::{Serialize, SerializeStruct, Serializer};

macro_rules! error_table {
    ($($(#[$doc:meta])* $kind:ident, $code:literal, $status:literal;)*) => {
        /// Every way a job, or a request about one, can go wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// Every kind, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The stable code that clients match on.
            pub fn code(self) -> &'static str {
                match self { $(Self::$kind => $code,)* }
            }

            /// The HTTP status that goes with it.
            pub fn status(self) -> u16 {
                match self { $(Self::$kind => $status,)* }
            }
        }
    };
}

error_table! {
    /// Not the JSON that was asked for: a syntax error, an unknown or missing field, a wrong type.
    InvalidRequest, "invalid_request", 400;
    /// A socket or HTTP request from a web page of another origin.
    ForbiddenOrigin, "forbidden_origin", 403;
    /// No such page or endpoint.
    NotFound, "not_found", 404;
    /// No job has this id.
    UnknownJob, "unknown_job", 404;
    /// No model has this name.
    UnknownModel, "unknown_model", 404;
    /// No channel topic of this name, or it is not joined.
    UnknownTopic, "unknown_topic", 404;
    /// The endpoint exists, for another HTTP method.
    MethodNotAllowed, "method_not_allowed", 405;
    /// The result was asked for before there is one.
    NotFinished, "not_finished", 409;
    /// The job failed or was cancelled, so there will never be a result.
    NoResult, "no_result", 409;
    /// The same idempotency key with another request.
    IdempotencyConflict, "idempotency_conflict", 409;
    /// The run was stopped on request.
    Cancelled, "cancelled", 409;
    /// The job finished, but its bytes have been removed.
    Expired, "expired", 410;
    /// A body, an image or a prompt over the limit, or a video that does not fit into memory.
    TooLarge, "too_large", 413;
    /// A body in a format the endpoint does not read.
    UnsupportedMediaType, "unsupported_media_type", 415;
    /// A field has the right type but a value outside its range.
    InvalidOption, "invalid_option", 422;
    /// An image or mask that cannot be decoded.
    InvalidMedia, "invalid_media", 422;
    /// One socket joined too many topics.
    TooManyTopics, "too_many_topics", 429;
    /// A bug: a panic or a broken invariant.
    Internal, "internal", 500;
    /// The model's files are missing, damaged or not understood.
    ModelBroken, "model_broken", 500;
    /// The job store failed.
    Storage, "storage", 500;
    /// As many unfinished jobs as the server accepts.
    QueueFull, "queue_full", 503;
    /// The server is going down.
    ShuttingDown, "shutting_down", 503;
    /// The server stopped while the job ran, more often than it is retried.
    Interrupted, "interrupted", 503;
    /// The models folder holds no model that can do this.
    NoModel, "no_model", 503;
    /// A program that this needs is not installed.
    MissingProgram, "missing_program", 503;
    /// The disk is full.
    StorageFull, "storage_full", 507;
}

impl ErrorKind {
    /// Whether the same run may succeed later: its cause was this server's, neither the request nor the model.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Internal | Self::Storage | Self::StorageFull)
    }

    /// The kind with this code, if there is one.
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.code() == code)
    }
}

/// An error as clients see it: a kind from the table and a sentence that says what to do.
///
/// It serialises as `{"code", "message", "status"}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct JobError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// The same for a person.
    pub message: String,
}

impl JobError {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// `{"error": {"code", "message", "status"}}`, the body of every HTTP error and the response of every channel error.
    pub fn body(&self) -> serde_json::Value {
        serde_json::json!({ "error": self })
    }
}

impl Serialize for JobError {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut body = serializer.serialize_struct("JobError", 3)?;
        body.serialize_field("code", self.kind.code())?;
        body.serialize_field("message", &self.message)?;
        body.serialize_field("status", &self.kind.status())?;
        body.end()
    }
}

impl From<rusqlite::Error> for JobError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => {
                Self::new(ErrorKind::StorageFull, "no room left for the job store: free some disk space")
            }
            _ => Self::new(ErrorKind::Storage, format!("the job store failed: {error}")),
        }
    }
}

impl From<sango_media::MediaError> for JobError {
    fn from(error: sango_media::MediaError) -> Self {
        use sango_media::MediaError as Media;
        let kind = match &error {
            Media::TooManyBytes { .. }
            | Media::TooManyPixels { .. }
            | Media::TooManyFrames { .. }
            | Media::TimedOut { .. }
            | Media::OutOfMemory { .. } => ErrorKind::TooLarge,
            Media::UnknownFormat
            | Media::Damaged { .. }
            | Media::NotAVideo { .. }
            | Media::DamagedVideo { .. }
            | Media::NoSuchFrame { .. } => ErrorKind::InvalidMedia,
            Media::Cancelled => ErrorKind::Cancelled,
            Media::NoProgram { .. } => ErrorKind::MissingProgram,
            Media::Encode { .. } | Media::EncodeVideo { .. } => ErrorKind::Internal,
            Media::DiskFull { .. } => ErrorKind::StorageFull,
            Media::Io { .. } => ErrorKind::Storage,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<sango_models::ModelError> for JobError {
    fn from(error: sango_models::ModelError) -> Self {
        use sango_models::ModelError as Model;
        let kind = match &error {
            Model::Request { .. } => ErrorKind::InvalidOption,
            Model::Cancelled => ErrorKind::Cancelled,
            Model::Memory { .. } => ErrorKind::TooLarge,
            _ => ErrorKind::ModelBroken,
        };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_and_statuses_are_errors() {
        let codes: HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        for kind in ErrorKind::ALL {
            assert!((400..600).contains(&kind.status()), "{kind:?}");
            assert_eq!(ErrorKind::from_code(kind.code()), Some(*kind));
        }
        assert_eq!(ErrorKind::from_code("no_such_code"), None);
    }

    #[test]
    fn the_protocol_lists_every_code() {
        let protocol = include_str!("../../../docs/protocol.md");
        let table: Vec<_> = protocol.lines().filter(|line| line.starts_with("| ")).collect();
        for kind in ErrorKind::ALL {
            let (status, code) = (format!("| {} |", kind.status()), format!("`{}`", kind.code()));
            assert!(table.iter().any(|line| line.starts_with(&status) && line.contains(&code)), "{status} {code}");
        }
    }

    #[test]
    fn what_does_not_fit_in_memory_is_too_large() {
        let (parts, advice) = ("decoder 9.0 GB".to_owned(), "make it smaller".to_owned());
        let error =
            JobError::from(sango_models::ModelError::Memory { needed: 9 << 30, budget: 1 << 30, parts, advice });
        assert!(error.kind == ErrorKind::TooLarge && error.message.contains("decoder 9.0 GB"), "{error}");
    }

    #[test]
    fn the_body_is_the_one_of_the_protocol() {
        let error = JobError::new(ErrorKind::UnknownJob, "there is no job x");
        let expected = r#"{"error":{"code":"unknown_job","message":"there is no job x","status":404}}"#;
        assert_eq!(error.body(), serde_json::from_str::<serde_json::Value>(expected).unwrap());
    }

    #[test]
    fn a_full_disk_keeps_its_kind() {
        let full = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
        assert_eq!(JobError::from(full).kind, ErrorKind::StorageFull);
        assert_eq!(JobError::from(rusqlite::Error::InvalidQuery).kind, ErrorKind::Storage);
    }
}
