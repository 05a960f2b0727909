//! The results of pipelines' stages.

use rusqlite::{Transaction, params};
use serde_json::json;

use super::{Result, Store, append, running};
use crate::embedded::Told;
use crate::pipeline;
use crate::schema::{StageRow, Stored};
use crate::{Event, EventName, JobId, StageState};

/// A result that is there already, and the job that has it.
pub(crate) struct Found {
    pub(crate) job: JobId,
    pub(crate) stored: Stored,
}

impl Store {
    /// What a job's stages have made, in their order.
    pub(crate) fn stages(&self, id: JobId) -> Result<Vec<StageRow>> {
        let sql = "SELECT sha256, type, bytes, text, cache_key, cached FROM stages WHERE job = ?1 ORDER BY n";
        let mut statement = self.durable.prepare_cached(sql)?;
        let mut rows = statement.query([id.to_string()])?;
        let mut stages = Vec::new();
        while let Some(row) = rows.next()? {
            stages.push(StageRow { stored: Stored::read(row, 0)?, cache_key: row.get(4)?, cached: row.get(5)? });
        }
        Ok(stages)
    }

    /// What finished jobs and stages have made of the work that this key stands for, newest first.
    pub(crate) fn made(&self, cache_key: &str) -> Result<Vec<Found>> {
        let jobs = self.finished_with(cache_key)?.into_iter();
        let mut found: Vec<_> = jobs.filter_map(|row| row.result.map(|stored| Found { job: row.id, stored })).collect();
        let sql = "SELECT sha256, type, bytes, text, job FROM stages WHERE cache_key = ?1 ORDER BY job DESC LIMIT 8";
        let mut statement = self.durable.prepare_cached(sql)?;
        let mut rows = statement.query([cache_key])?;
        while let Some(row) = rows.next()? {
            found.push(Found { stored: Stored::read(row, 0)?, job: row.get::<_, String>(4)?.parse()? });
        }
        Ok(found)
    }

    /// A stage begins or has a result: one event for each job that shares the run and does not have it yet.
    pub(crate) fn stage(&mut self, run: i64, told: &Told) -> Result<Vec<Event>> {
        let connection = match told {
            Told::Begun { .. } => &mut self.quick,
            Told::Made { .. } => &mut self.durable,
        };
        let tx = connection.transaction()?;
        let mut events = Vec::new();
        for id in running(&tx, run)? {
            events.extend(tell_stage(&tx, id, told)?);
        }
        tx.commit()?;
        Ok(events)
    }
}

/// Tells one job of a stage, unless it knows: a run that goes on after a restart begins with what was made before.
pub(super) fn tell_stage(tx: &Transaction<'_>, id: JobId, told: &Told) -> Result<Option<Event>> {
    let n = told.index() as i64;
    let has = "SELECT EXISTS (SELECT 1 FROM stages WHERE job = ?1 AND n = ?2)";
    let known = tx.prepare_cached(has)?.query_row(params![id.to_string(), n], |row| row.get::<_, bool>(0))?;
    let view = match told {
        Told::Begun { n, prompt } if !known => {
            let sql = "UPDATE jobs SET step = NULL, total = NULL, eta_ms = NULL, phase = NULL WHERE id = ?1";
            tx.prepare_cached(sql)?.execute([id.to_string()])?;
            pipeline::view(*n, StageState::Running, prompt.clone(), None)
        }
        Told::Begun { .. } => return Ok(None),
        Told::Made { n: index, prompt, key, stored, cached } => {
            put(tx, id, n, (key, stored, *cached))?;
            if known {
                return Ok(None);
            }
            pipeline::view(*index, StageState::Finished, prompt.clone(), Some((stored, id, *cached)))
        }
    };
    append(tx, id, EventName::Stage, json!(view)).map(Some)
}

fn put(tx: &Transaction<'_>, id: JobId, n: i64, (key, stored, cached): (&str, &Stored, bool)) -> Result<()> {
    // One that was there stays as it is, unless its file had gone and was made again.
    let sql = "INSERT INTO stages (job, n, cache_key, sha256, type, bytes, text, cached)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
               ON CONFLICT (job, n) DO UPDATE SET cache_key = ?3, sha256 = ?4, type = ?5, bytes = ?6, text = ?7";
    tx.prepare_cached(sql)?.execute(params![
        id.to_string(),
        n,
        key,
        stored.sha256,
        stored.content_type,
        stored.bytes.cast_signed(),
        stored.text,
        cached
    ])?;
    Ok(())
}
