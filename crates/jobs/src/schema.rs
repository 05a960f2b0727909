//! The tables of the embedded store, and a job's row.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Row};

use crate::{ErrorKind, JobError, JobId, JobKind, JobRequest, JobView, Phase, Progress, ResultView, StageView, State};

/// Grows when a table changes; a file of a newer Sango is refused rather than misread.
const VERSION: i64 = 4;

const TABLES: &str = "
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    priority INTEGER NOT NULL,
    request TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    cache_key TEXT NOT NULL,
    idempotency_key TEXT UNIQUE,
    attempts INTEGER NOT NULL DEFAULT 0,
    run INTEGER,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    step INTEGER,
    total INTEGER,
    eta_ms INTEGER,
    last_event INTEGER NOT NULL DEFAULT 0,
    result_sha256 TEXT,
    result_type TEXT,
    result_bytes INTEGER,
    cached INTEGER NOT NULL DEFAULT 0,
    error_code TEXT,
    error_message TEXT,
    image_sha256 TEXT,
    mask_sha256 TEXT,
    place INTEGER,
    result_text TEXT,
    phase TEXT
);
CREATE INDEX jobs_queue ON jobs (state, place, priority DESC, seq);
CREATE INDEX jobs_cache ON jobs (cache_key, state);
CREATE INDEX jobs_run ON jobs (run);
CREATE INDEX jobs_result ON jobs (result_sha256);
CREATE INDEX jobs_image ON jobs (image_sha256);
CREATE INDEX jobs_mask ON jobs (mask_sha256);
CREATE TABLE events (
    job TEXT NOT NULL,
    n INTEGER NOT NULL,
    event TEXT NOT NULL,
    at INTEGER NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (job, n)
) WITHOUT ROWID;
";

/// From version 1: waiting jobs can be given a place in the line.
const ADD_PLACE: &str = "
ALTER TABLE jobs ADD COLUMN place INTEGER;
DROP INDEX jobs_queue;
CREATE INDEX jobs_queue ON jobs (state, place, priority DESC, seq);
";

/// The files that a job is about.
const MEDIA: &str = "
CREATE TABLE media (
    job TEXT NOT NULL,
    n INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (job, n)
) WITHOUT ROWID;
CREATE INDEX media_sha256 ON media (sha256);
";

/// What the stages of a job have made.
const STAGES: &str = "
CREATE TABLE stages (
    job TEXT NOT NULL,
    n INTEGER NOT NULL,
    cache_key TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    type TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    text TEXT,
    cached INTEGER NOT NULL,
    PRIMARY KEY (job, n)
) WITHOUT ROWID;
CREATE INDEX stages_cache ON stages (cache_key);
CREATE INDEX stages_sha256 ON stages (sha256);
";

/// What leads from each version to the next: from 2, jobs about any number of files, and results that are text; from 3,
/// jobs in stages, each with a result, and runs in phases.
const STEPS: [&[&str]; VERSION as usize - 1] = [
    &[ADD_PLACE],
    &["ALTER TABLE jobs ADD COLUMN result_text TEXT;", MEDIA],
    &["ALTER TABLE jobs ADD COLUMN phase TEXT;", STAGES],
];

/// Opens the file and makes the tables if it is new. `durable`: a commit is on the disk before it returns; otherwise it
/// survives a crash of the process, but the newest commits not a power cut.
pub(crate) fn connect(path: &Path, durable: bool) -> Result<Connection, JobError> {
    let mut db = Connection::open(path)?;
    db.busy_timeout(Duration::from_secs(10))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", if durable { "FULL" } else { "NORMAL" })?;
    db.set_prepared_statement_cache_capacity(64);
    let transaction = db.transaction()?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match version {
        0 => [TABLES, MEDIA, STAGES].iter().try_for_each(|tables| transaction.execute_batch(tables))?,
        1..=VERSION => {
            let mut steps = STEPS[version as usize - 1..].iter().copied().flatten();
            steps.try_for_each(|step| transaction.execute_batch(step))?;
        }
        newer => {
            let message = format!(
                "{} was written by a newer Sango (version {newer} of its tables, this one knows {VERSION}): update \
                 Sango or use another data folder",
                path.display()
            );
            return Err(JobError::new(ErrorKind::Storage, message));
        }
    }
    if version != VERSION {
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()?;
    Ok(db)
}

/// The columns that [`JobRow::read`] expects, in order.
pub(crate) const COLUMNS: &str = "seq, id, state, priority, request, request_hash, cache_key, attempts, run, created_at, \
     started_at, finished_at, step, total, eta_ms, last_event, result_sha256, result_type, result_bytes, cached, \
     error_code, error_message, place, result_text, phase";

/// One job as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct JobRow {
    pub(crate) seq: i64,
    pub(crate) id: JobId,
    pub(crate) state: State,
    pub(crate) request: JobRequest,
    pub(crate) request_hash: String,
    pub(crate) cache_key: String,
    pub(crate) attempts: u32,
    pub(crate) run: Option<i64>,
    /// Where the job was put in the line, if it was: see [`Engine::arrange`](crate::Engine::arrange).
    pub(crate) place: Option<i64>,
    pub(crate) result: Option<Stored>,
    created_at: i64,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    progress: Option<Progress>,
    last_event: u64,
    cached: bool,
    error: Option<JobError>,
}

/// A result file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) sha256: String,
    pub(crate) content_type: String,
    pub(crate) bytes: u64,
    /// What there is to read in it, for those who will not fetch the file.
    pub(crate) text: Option<String>,
}

/// What a stage of a job has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StageRow {
    pub(crate) stored: Stored,
    pub(crate) cache_key: String,
    pub(crate) cached: bool,
}

impl Stored {
    /// Reads hash, type, size and text from the columns from `first` on.
    pub(crate) fn read(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        Ok(Self {
            sha256: row.get(first)?,
            content_type: row.get(first + 1)?,
            bytes: row.get::<_, i64>(first + 2)?.cast_unsigned(),
            text: row.get(first + 3)?,
        })
    }

    /// The result as the job with this id shows it.
    pub(crate) fn view(&self, id: JobId, cached: bool) -> ResultView {
        self.view_at(format!("/v1/jobs/{id}/result"), cached)
    }

    /// The result of a stage as the job with this id shows it.
    pub(crate) fn stage_view(&self, id: JobId, stage: JobKind, cached: bool) -> ResultView {
        self.view_at(format!("/v1/jobs/{id}/result?stage={}", stage.as_str()), cached)
    }

    fn view_at(&self, url: String, cached: bool) -> ResultView {
        ResultView {
            url,
            content_type: self.content_type.clone(),
            bytes: self.bytes,
            sha256: self.sha256.clone(),
            cached,
            text: self.text.clone(),
        }
    }
}

impl JobRow {
    /// Reads a row of [`COLUMNS`].
    pub(crate) fn read(row: &Row<'_>) -> Result<Self, JobError> {
        let damaged = |what: &str| JobError::new(ErrorKind::Storage, format!("the job store is damaged: {what}"));
        let id: String = row.get(1)?;
        let state: String = row.get(2)?;
        let request: String = row.get(4)?;
        let step: Option<u32> = row.get(12)?;
        let total: Option<u32> = row.get(13)?;
        let eta_ms: Option<i64> = row.get(14)?;
        let phase: Option<String> = row.get(24)?;
        let sha256: Option<String> = row.get(16)?;
        let code: Option<String> = row.get(20)?;
        let message: Option<String> = row.get(21)?;
        Ok(Self {
            seq: row.get(0)?,
            id: id.parse().map_err(|_| damaged("a job id"))?,
            state: state.parse().map_err(|_| damaged("a state"))?,
            request: serde_json::from_str(&request).map_err(|_| damaged("a request"))?,
            request_hash: row.get(5)?,
            cache_key: row.get(6)?,
            attempts: row.get(7)?,
            run: row.get(8)?,
            place: row.get(22)?,
            created_at: row.get(9)?,
            started_at: row.get(10)?,
            finished_at: row.get(11)?,
            progress: step.zip(total).map(|(step, total)| Progress {
                step,
                total,
                eta_ms: eta_ms.map(i64::cast_unsigned),
                phase: phase.as_deref().and_then(Phase::from_name),
            }),
            last_event: row.get::<_, i64>(15)?.cast_unsigned(),
            result: match sha256 {
                Some(sha256) => Some(Stored {
                    sha256,
                    content_type: row.get(17)?,
                    bytes: row.get::<_, i64>(18)?.cast_unsigned(),
                    text: row.get(23)?,
                }),
                None => None,
            },
            cached: row.get(19)?,
            error: code.map(|code| {
                let kind = ErrorKind::from_code(&code).unwrap_or(ErrorKind::Internal);
                JobError::new(kind, message.unwrap_or_default())
            }),
        })
    }

    /// The job as clients see it.
    pub(crate) fn view(self, position: Option<u64>, stages: Option<Vec<StageView>>) -> JobView {
        let shown = matches!(self.state, State::Finished);
        JobView {
            id: self.id,
            kind: self.request.kind(),
            model: self.request.model.clone(),
            state: self.state,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            position,
            progress: self.progress,
            result: self.result.filter(|_| shown).map(|result| result.view(self.id, self.cached)),
            error: self.error,
            last_event: self.last_event,
            stages,
            request: self.request,
        }
    }
}

/// A job that is about to be stored.
pub(crate) struct NewJob {
    pub(crate) id: JobId,
    pub(crate) request: JobRequest,
    pub(crate) request_hash: String,
    pub(crate) cache_key: String,
    pub(crate) idempotency_key: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_an_earlier_version_gains_what_it_lacks() {
        let folder = tempfile::tempdir().unwrap();
        let without_phase = TABLES.replace(",\n    phase TEXT", "");
        let third = format!("{without_phase}{MEDIA}");
        let second = without_phase.replace(",\n    result_text TEXT", "");
        let first = second.replace(",\n    place INTEGER", "").replace("(state, place, ", "(state, ");
        assert!(!first.contains("place") && !second.contains("result_text") && !third.contains("phase"));

        let schema = |db: &Connection| {
            let sql = "SELECT m.name || '.' || p.name FROM sqlite_schema m, pragma_table_info(m.name) p ORDER BY 1";
            let mut statement = db.prepare(sql).unwrap();
            let columns = statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<Vec<String>, _>>();
            let sql = "SELECT sql FROM sqlite_schema WHERE name = 'jobs_queue'";
            (columns.unwrap(), db.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap())
        };
        let new = schema(&connect(&folder.path().join("new.sqlite"), true).unwrap());
        for (version, tables) in [(1, &first), (2, &second), (3, &third)] {
            let path = folder.path().join(format!("{version}.sqlite"));
            let db = Connection::open(&path).unwrap();
            db.execute_batch(tables).unwrap();
            db.pragma_update(None, "user_version", version).unwrap();
            drop(db);
            assert_eq!(schema(&connect(&path, true).unwrap()), new);
            // Opening it again changes nothing.
            assert_eq!(schema(&connect(&path, false).unwrap()), new);
        }
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.sqlite");
        connect(&path, true).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
        let error = connect(&path, true).unwrap_err();
        assert!(error.kind == ErrorKind::Storage && error.message.contains("newer Sango"), "{error}");
    }
}
