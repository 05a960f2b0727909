//! Every change of a job, as one transaction each, in one SQLite file.
//!
//! Methods that change something give back the events to publish once the change is stored.

mod stages;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Params, Transaction, params};
use serde_json::{Value, json};

pub(crate) use stages::Found;
use stages::tell_stage;

use crate::embedded::Told;
use crate::job::unknown_job;
use crate::schema::{COLUMNS, JobRow, NewJob, Stored, connect};
use crate::{ErrorKind, Event, EventName, JobError, JobId, ListQuery, MediaInfo, Phase, Progress, State, Task};

/// What a job that joins others is told of what they have been told before.
#[derive(Debug, Clone)]
pub(crate) enum Missed {
    /// An event.
    Event(EventName, Value),
    /// A stage of a pipeline.
    Stage(Told),
}

type Result<T> = std::result::Result<T, JobError>;

/// The order in which waiting jobs run.
const IN_LINE: &str = "ORDER BY place IS NULL, place, priority DESC, seq";

/// The embedded store.
pub(crate) struct Store {
    /// For changes of state: on the disk before they are acknowledged.
    durable: Connection,
    /// For progress, of which a power cut may lose the newest; so that a step does not wait for the disk.
    quick: Connection,
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self { durable: connect(path, true)?, quick: connect(path, false)? })
    }

    /// The job with this id.
    pub(crate) fn get(&self, id: JobId) -> Result<JobRow> {
        self.one("WHERE id = ?1", [id.to_string()])?.ok_or_else(|| unknown_job(&id))
    }

    /// The job that was handed in with this key.
    pub(crate) fn with_idempotency_key(&self, key: &str) -> Result<Option<JobRow>> {
        self.one("WHERE idempotency_key = ?1", [key])
    }

    /// Finished jobs that made what this key asks for, newest first.
    pub(crate) fn finished_with(&self, cache_key: &str) -> Result<Vec<JobRow>> {
        self.many("WHERE cache_key = ?1 AND state = 'finished' ORDER BY seq DESC LIMIT 8", [cache_key])
    }

    /// A page of jobs, newest first, and whether there are more.
    pub(crate) fn list(&self, query: &ListQuery) -> Result<(Vec<JobRow>, bool)> {
        let before = match query.before {
            Some(id) => self.get(id)?.seq,
            None => i64::MAX,
        };
        let limit = query.limit.clamp(1, ListQuery::MAX_LIMIT) as i64;
        let state = query.state.map(State::as_str);
        let mut rows = self.many(
            "WHERE seq < ?1 AND (?2 IS NULL OR state = ?2) ORDER BY seq DESC LIMIT ?3",
            params![before, state, limit + 1],
        )?;
        let more = rows.len() as i64 > limit;
        rows.truncate(limit as usize);
        Ok((rows, more))
    }

    /// 1 for the job that runs next, `None` unless it waits.
    pub(crate) fn position(&self, row: &JobRow) -> Result<Option<u64>> {
        if !row.state.is_waiting() {
            return Ok(None);
        }
        position(&self.durable, row.place, row.request.priority, row.seq).map(Some)
    }

    /// How many jobs are queued, interrupted or running.
    pub(crate) fn unfinished(&self) -> Result<u64> {
        let sql = "SELECT COUNT(*) FROM jobs WHERE state IN ('queued', 'interrupted', 'running')";
        Ok(self.durable.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0))?.cast_unsigned())
    }

    /// How many jobs there are in each state.
    pub(crate) fn counts(&self) -> Result<Vec<(State, u64)>> {
        let mut statement = self.durable.prepare_cached("SELECT COUNT(*) FROM jobs WHERE state = ?1")?;
        let count = |state: State| {
            let count = statement.query_row([state.as_str()], |row| row.get::<_, i64>(0))?;
            Ok((state, count.cast_unsigned()))
        };
        State::ALL.into_iter().map(count).collect()
    }

    /// The events of a job after number `after`.
    pub(crate) fn events_after(&self, id: JobId, after: u64) -> Result<Vec<Event>> {
        let sql = "SELECT n, event, at, data FROM events WHERE job = ?1 AND n > ?2 ORDER BY n";
        let mut statement = self.durable.prepare_cached(sql)?;
        let mut rows = statement.query(params![id.to_string(), i64::try_from(after).unwrap_or(i64::MAX)])?;
        let mut events = Vec::new();
        while let Some(row) = rows.next()? {
            let damaged = || JobError::new(ErrorKind::Storage, "the job store is damaged: an event");
            events.push(Event {
                n: row.get::<_, i64>(0)?.cast_unsigned(),
                job: id,
                event: row.get::<_, String>(1)?.parse().map_err(|()| damaged())?,
                at: row.get(2)?,
                data: serde_json::from_str(&row.get::<_, String>(3)?).map_err(|_| damaged())?,
            });
        }
        Ok(events)
    }

    /// Stores a new job that waits for a worker.
    pub(crate) fn insert_queued(&mut self, job: &NewJob) -> Result<Vec<Event>> {
        let tx = self.durable.transaction()?;
        let events = vec![insert(&tx, job)?];
        tx.commit()?;
        Ok(events)
    }

    /// Stores a new job that joins a run, and what it has missed of it.
    pub(crate) fn insert_running(&mut self, job: &NewJob, run: i64, missed: Vec<Missed>) -> Result<Vec<Event>> {
        let tx = self.durable.transaction()?;
        let mut events = vec![insert(&tx, job)?, start(&tx, job.id, run, 1)?];
        catch_up(&tx, job.id, missed, &mut events)?;
        tx.commit()?;
        Ok(events)
    }

    /// Stores a new job whose result another job has made, and what that one has shown.
    pub(crate) fn insert_finished(&mut self, job: &NewJob, result: &Stored, shown: Vec<Missed>) -> Result<Vec<Event>> {
        let tx = self.durable.transaction()?;
        let mut events = vec![insert(&tx, job)?];
        catch_up(&tx, job.id, shown, &mut events)?;
        events.push(finish(&tx, job.id, result, true)?);
        tx.commit()?;
        Ok(events)
    }

    /// What a job was answered from, as it was told last: the frames and how they look.
    pub(crate) fn shown(&self, id: JobId) -> Result<Vec<(EventName, Value)>> {
        let events = self.events_after(id, 0)?;
        let Some(begun) = events.iter().rposition(|event| event.event == EventName::Frames) else {
            return Ok(Vec::new());
        };
        let shows = |event: &Event| matches!(event.event, EventName::Frames | EventName::Preview);
        // What a pipeline shows after that is of its later stages.
        let own = events.into_iter().skip(begun).take_while(|event| event.event != EventName::Stage);
        Ok(own.filter(shows).map(|event| (event.event, event.data)).collect())
    }

    /// Takes the next job of the queue, and every waiting job that asks for the same, into run number `run`.
    pub(crate) fn claim(&mut self, run: i64) -> Result<(Vec<JobRow>, Vec<Event>)> {
        let next = format!("WHERE state IN ('queued', 'interrupted') {IN_LINE} LIMIT 1");
        let Some(first) = self.one(&next, [])? else {
            return Ok((Vec::new(), Vec::new()));
        };
        let same = format!("WHERE state IN ('queued', 'interrupted') AND cache_key = ?1 {IN_LINE}");
        let mut rows = self.many(&same, [&first.cache_key])?;
        let tx = self.durable.transaction()?;
        let mut events = Vec::with_capacity(rows.len());
        for row in &mut rows {
            row.attempts += 1;
            events.push(start(&tx, row.id, run, row.attempts)?);
        }
        tx.commit()?;
        Ok((rows, events))
    }

    /// Puts waiting jobs at the head of the line, in this order, and takes every other job out of it. Jobs that do not
    /// wait, and ids of no job, are passed over.
    pub(crate) fn arrange(&mut self, ids: &[JobId]) -> Result<()> {
        let tx = self.quick.transaction()?;
        let mut placed = HashMap::new();
        {
            let sql = "SELECT id, place FROM jobs WHERE state IN ('queued', 'interrupted') AND place IS NOT NULL";
            let mut statement = tx.prepare_cached(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                placed.insert(row.get::<_, String>(0)?, row.get::<_, i64>(1)?);
            }
            let sql = "UPDATE jobs SET place = ?2 WHERE id = ?1 AND state IN ('queued', 'interrupted')";
            let mut put = tx.prepare_cached(sql)?;
            let mut seen = HashSet::new();
            for (place, id) in ids.iter().filter(|id| seen.insert(**id)).enumerate() {
                let (id, place) = (id.to_string(), place as i64);
                // Most of a line stays as it was.
                if placed.remove(&id) != Some(place) {
                    put.execute(params![id, place])?;
                }
            }
            for id in placed.into_keys() {
                put.execute(params![id, None::<i64>])?;
            }
        }
        tx.commit()?;
        Ok(())
    }

    /// A step of a run: one `progress` event, and a `preview` if there is one, for each job that shares it.
    pub(crate) fn progress(&mut self, run: i64, progress: Progress, preview: Option<&Value>) -> Result<Vec<Event>> {
        let tx = self.quick.transaction()?;
        let mut events = Vec::new();
        let eta_ms = progress.eta_ms.map(u64::cast_signed);
        for id in running(&tx, run)? {
            let sql = "UPDATE jobs SET step = ?2, total = ?3, eta_ms = ?4, phase = ?5 WHERE id = ?1";
            let phase = progress.phase.map(Phase::as_str);
            tx.prepare_cached(sql)?.execute(params![id.to_string(), progress.step, progress.total, eta_ms, phase])?;
            events.push(append(&tx, id, EventName::Progress, json!(progress))?);
            if let Some(preview) = preview {
                events.push(append(&tx, id, EventName::Preview, preview.clone())?);
            }
        }
        tx.commit()?;
        Ok(events)
    }

    /// What a run tells beside its steps: one event for each job that shares it.
    pub(crate) fn tell(&mut self, run: i64, name: EventName, data: &Value) -> Result<Vec<Event>> {
        let tx = self.quick.transaction()?;
        let jobs = running(&tx, run)?.into_iter();
        let events = jobs.map(|id| append(&tx, id, name, data.clone())).collect::<Result<_>>()?;
        tx.commit()?;
        Ok(events)
    }

    /// The run has a result: so have the jobs that share it. `cached`: it was there already.
    pub(crate) fn finish_run(&mut self, run: i64, result: &Stored, cached: bool) -> Result<Vec<Event>> {
        let tx = self.durable.transaction()?;
        let events = running(&tx, run)?.into_iter().map(|id| finish(&tx, id, result, cached)).collect::<Result<_>>()?;
        tx.commit()?;
        Ok(events)
    }

    /// The run has failed: so have the jobs that share it, but for those that wait for another attempt because the cause
    /// may pass.
    pub(crate) fn fail_run(&mut self, run: i64, error: &JobError, max_attempts: u32) -> Result<Vec<Event>> {
        let rows = self.many("WHERE run = ?1 AND state = 'running' ORDER BY seq", [run])?;
        let tx = self.durable.transaction()?;
        let end = |row: &JobRow| match error.kind.may_pass() && row.attempts < max_attempts {
            true => retry(&tx, row),
            false => fail(&tx, row.id, error),
        };
        let events = rows.iter().map(end).collect::<Result<_>>()?;
        tx.commit()?;
        Ok(events)
    }

    /// Cancels a job that has not ended. Also says whether the job's run has no other job left.
    pub(crate) fn cancel(&mut self, row: &JobRow) -> Result<(Vec<Event>, bool)> {
        let tx = self.durable.transaction()?;
        let sql = "UPDATE jobs SET state = 'cancelled', finished_at = ?2 WHERE id = ?1";
        tx.prepare_cached(sql)?.execute(params![row.id.to_string(), now()])?;
        let events = vec![append(&tx, row.id, EventName::Cancelled, json!({}))?];
        let alone = match row.run {
            Some(run) => running(&tx, run)?.is_empty(),
            None => false,
        };
        tx.commit()?;
        Ok((events, alone))
    }

    /// Marks every running job as interrupted by an orderly shutdown, which does not count as an attempt.
    pub(crate) fn interrupt(&mut self) -> Result<()> {
        let sql =
            "UPDATE jobs SET state = 'interrupted', attempts = attempts - 1, step = NULL, total = NULL, eta_ms = NULL, phase = NULL
                   WHERE state = 'running'";
        self.durable.execute(sql, [])?;
        Ok(())
    }

    /// After a start: jobs that a crash left running wait again, unless they have been tried `max_attempts` times.
    pub(crate) fn recover(&mut self, max_attempts: u32) -> Result<()> {
        let rows = self.many("WHERE state IN ('running', 'interrupted') AND run IS NOT NULL ORDER BY seq", [])?;
        let tx = self.durable.transaction()?;
        for row in &rows {
            let id = row.id.to_string();
            let sql =
                "UPDATE jobs SET run = NULL, step = NULL, total = NULL, eta_ms = NULL, phase = NULL WHERE id = ?1";
            tx.execute(sql, [&id])?;
            if row.attempts >= max_attempts {
                let message = format!("the server stopped {max_attempts} times while this job ran: submit it again");
                fail(&tx, row.id, &JobError::new(ErrorKind::Interrupted, message))?;
                continue;
            }
            tx.execute("UPDATE jobs SET state = 'interrupted' WHERE id = ?1", [&id])?;
            queued_again(&tx, row)?;
        }
        tx.commit()?;
        Ok(())
    }

    /// The result's bytes are gone.
    pub(crate) fn expire(&mut self, id: JobId) -> Result<()> {
        let sql = "UPDATE jobs SET state = 'expired' WHERE id = ?1 AND state = 'finished'";
        self.durable.execute(sql, [id.to_string()])?;
        Ok(())
    }

    /// Forgets all but the newest `keep` jobs that have ended. Gives back hashes of files no job needs any more.
    pub(crate) fn prune(&mut self, keep: u64) -> Result<Vec<String>> {
        let ended = "state IN ('finished', 'failed', 'cancelled', 'expired')";
        let tx = self.durable.transaction()?;
        let cut: Option<i64> = tx
            .prepare_cached(&format!("SELECT seq FROM jobs WHERE {ended} ORDER BY seq DESC LIMIT 1 OFFSET ?1"))?
            .query_row([i64::try_from(keep).unwrap_or(i64::MAX)], |row| row.get(0))
            .optional()?;
        let Some(cut) = cut else {
            return Ok(Vec::new());
        };
        let old = format!("{ended} AND seq <= ?1");
        let mut files = HashSet::new();
        {
            let sql = format!("SELECT result_sha256, image_sha256, mask_sha256 FROM jobs WHERE {old}");
            let mut statement = tx.prepare(&sql)?;
            let mut rows = statement.query([cut])?;
            while let Some(row) = rows.next()? {
                for column in 0..3 {
                    files.extend(row.get::<_, Option<String>>(column)?);
                }
            }
            let sql = format!(
                "SELECT sha256 FROM media WHERE job IN (SELECT id FROM jobs WHERE {old})
                 UNION SELECT sha256 FROM stages WHERE job IN (SELECT id FROM jobs WHERE {old})"
            );
            let mut statement = tx.prepare(&sql)?;
            let mut rows = statement.query([cut])?;
            while let Some(row) = rows.next()? {
                files.insert(row.get(0)?);
            }
        }
        tx.execute(&format!("DELETE FROM media WHERE job IN (SELECT id FROM jobs WHERE {old})"), [cut])?;
        tx.execute(&format!("DELETE FROM stages WHERE job IN (SELECT id FROM jobs WHERE {old})"), [cut])?;
        tx.execute(&format!("DELETE FROM events WHERE job IN (SELECT id FROM jobs WHERE {old})"), [cut])?;
        tx.execute(&format!("DELETE FROM jobs WHERE {old}"), [cut])?;
        let needed =
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE result_sha256 = ?1 OR image_sha256 = ?1 OR mask_sha256 = ?1)
                 OR EXISTS (SELECT 1 FROM media WHERE sha256 = ?1)
                 OR EXISTS (SELECT 1 FROM stages WHERE sha256 = ?1)";
        let mut unused = Vec::new();
        for file in files {
            if !tx.query_row(needed, [&file], |row| row.get::<_, bool>(0))? {
                unused.push(file);
            }
        }
        tx.commit()?;
        Ok(unused)
    }

    /// The hashes of every file that a job needs.
    pub(crate) fn files(&self) -> Result<HashSet<String>> {
        let sql = "SELECT result_sha256 FROM jobs WHERE result_sha256 IS NOT NULL
                   UNION SELECT image_sha256 FROM jobs WHERE image_sha256 IS NOT NULL
                   UNION SELECT mask_sha256 FROM jobs WHERE mask_sha256 IS NOT NULL
                   UNION SELECT sha256 FROM media
                   UNION SELECT sha256 FROM stages";
        let mut statement = self.durable.prepare(sql)?;
        let files = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        Ok(files)
    }

    /// What is known about a file that some job is about.
    pub(crate) fn media(&self, sha256: &str) -> Result<Option<MediaInfo>> {
        let job = self.one("WHERE id IN (SELECT job FROM media WHERE sha256 = ?1 LIMIT 1)", [sha256])?;
        Ok(job.and_then(|job| job.request.media().iter().find(|media| media.sha256 == sha256).cloned()))
    }

    fn one(&self, condition: &str, params: impl Params) -> Result<Option<JobRow>> {
        Ok(self.many(condition, params)?.into_iter().next())
    }

    fn many(&self, condition: &str, params: impl Params) -> Result<Vec<JobRow>> {
        let mut statement = self.durable.prepare_cached(&format!("SELECT {COLUMNS} FROM jobs {condition}"))?;
        let mut rows = statement.query(params)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(JobRow::read(row)?);
        }
        Ok(found)
    }
}

/// Milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn insert(tx: &Transaction<'_>, job: &NewJob) -> Result<Event> {
    let (mut image, mut mask) = (None, None);
    match &job.request.task {
        Task::Image(task) => (image, mask) = (task.image.as_ref(), task.mask.as_ref()),
        Task::Video(task) => image = task.image.as_ref(),
        Task::Understand(_) | Task::Pipeline(_) => {
            let mut put = tx.prepare_cached("INSERT INTO media (job, n, sha256) VALUES (?1, ?2, ?3)")?;
            for (n, media) in job.request.media().iter().enumerate() {
                put.execute(params![job.id.to_string(), n as i64, media.sha256])?;
            }
        }
    }
    tx.prepare_cached(
        "INSERT INTO jobs (id, kind, state, priority, request, request_hash, cache_key, idempotency_key, created_at,
                           image_sha256, mask_sha256)
         VALUES (?1, ?2, 'queued', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        job.id.to_string(),
        job.request.kind().as_str(),
        job.request.priority,
        json!(job.request).to_string(),
        job.request_hash,
        job.cache_key,
        job.idempotency_key,
        now(),
        image.map(|image| &image.sha256),
        mask.map(|mask| &mask.sha256),
    ])?;
    let position = position(tx, None, job.request.priority, tx.last_insert_rowid())?;
    append(tx, job.id, EventName::Queued, json!({"position": position, "attempt": 1}))
}

/// Tells a job what others have been told.
fn catch_up(tx: &Transaction<'_>, id: JobId, missed: Vec<Missed>, events: &mut Vec<Event>) -> Result<()> {
    for told in missed {
        match told {
            Missed::Event(name, data) => events.push(append(tx, id, name, data)?),
            Missed::Stage(told) => events.extend(tell_stage(tx, id, &told)?),
        }
    }
    Ok(())
}

fn start(tx: &Transaction<'_>, id: JobId, run: i64, attempt: u32) -> Result<Event> {
    // Its place was for this attempt.
    let sql = "UPDATE jobs SET state = 'running', run = ?2, attempts = ?3, started_at = ?4, place = NULL WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id.to_string(), run, attempt, now()])?;
    append(tx, id, EventName::Started, json!({"attempt": attempt}))
}

fn finish(tx: &Transaction<'_>, id: JobId, result: &Stored, cached: bool) -> Result<Event> {
    tx.prepare_cached(
        "UPDATE jobs SET state = 'finished', finished_at = ?2, result_sha256 = ?3, result_type = ?4, result_bytes = ?5,
                         cached = ?6, result_text = ?7 WHERE id = ?1",
    )?
    .execute(params![
        id.to_string(),
        now(),
        result.sha256,
        result.content_type,
        result.bytes.cast_signed(),
        cached,
        result.text,
    ])?;
    append(tx, id, EventName::Finished, json!({"result": result.view(id, cached)}))
}

fn fail(tx: &Transaction<'_>, id: JobId, error: &JobError) -> Result<Event> {
    tx.prepare_cached(
        "UPDATE jobs SET state = 'failed', finished_at = ?2, error_code = ?3, error_message = ?4 WHERE id = ?1",
    )?
    .execute(params![id.to_string(), now(), error.kind.code(), error.message])?;
    append(tx, id, EventName::Failed, json!({"error": error}))
}

/// Back into the line.
fn retry(tx: &Transaction<'_>, row: &JobRow) -> Result<Event> {
    let sql = "UPDATE jobs SET state = 'queued', run = NULL, step = NULL, total = NULL, eta_ms = NULL, phase = NULL
               WHERE id = ?1";
    tx.prepare_cached(sql)?.execute([row.id.to_string()])?;
    queued_again(tx, row)
}

fn queued_again(tx: &Transaction<'_>, row: &JobRow) -> Result<Event> {
    let position = position(tx, row.place, row.request.priority, row.seq)?;
    append(tx, row.id, EventName::Queued, json!({"position": position, "attempt": row.attempts + 1}))
}

/// Stores the next event of a job.
fn append(tx: &Transaction<'_>, job: JobId, event: EventName, data: Value) -> Result<Event> {
    let n: i64 = tx
        .prepare_cached("UPDATE jobs SET last_event = last_event + 1 WHERE id = ?1 RETURNING last_event")?
        .query_row([job.to_string()], |row| row.get(0))?;
    let at = now();
    tx.prepare_cached("INSERT INTO events (job, n, event, at, data) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        job.to_string(),
        n,
        event.as_str(),
        at,
        data.to_string()
    ])?;
    Ok(Event { n: n.cast_unsigned(), job, event, at, data })
}

/// The jobs that share a run and have not left it.
fn running(db: &Connection, run: i64) -> Result<Vec<JobId>> {
    let mut statement = db.prepare_cached("SELECT id FROM jobs WHERE run = ?1 AND state = 'running' ORDER BY seq")?;
    let mut rows = statement.query([run])?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        ids.push(row.get::<_, String>(0)?.parse()?);
    }
    Ok(ids)
}

/// How many waiting jobs are not behind this one, itself included. Compares as [`IN_LINE`] orders.
fn position(db: &Connection, place: Option<i64>, priority: i32, seq: i64) -> Result<u64> {
    let sql = "SELECT COUNT(*) FROM jobs WHERE state IN ('queued', 'interrupted')
               AND (IFNULL(place, ?1), -priority, seq) <= (?2, -?3, ?4)";
    let last = i64::MAX;
    let count = db
        .prepare_cached(sql)?
        .query_row(params![last, place.unwrap_or(last), priority, seq], |row| row.get::<_, i64>(0))?;
    Ok(count.cast_unsigned())
}
