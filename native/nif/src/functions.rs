//! The functions of `Sango.Native`, thin: decode, call the engine, encode.

use std::fs;
use std::sync::Arc;

use rustler::{Encoder, Env, NewBinary, ResourceArc, Term};
use sango_jobs::{Engine, ErrorKind, JobError, ListQuery, ResultFile};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::guard::on_large_stack;
use crate::options::Options;
use crate::reply::{done, value};
use crate::session::{EngineHandle, Open, Session};
use crate::subscription::{Recipient, SubscriptionHandle, send_events, send_jobs};
use crate::{decode, encode, process};

/// Kept beside `docs/protocol.md`.
const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// Calls an engine that Elixir has named.
fn call<T>(engine: Term<'_>, call: impl FnOnce(&dyn Engine) -> Result<T, JobError>) -> Result<T, JobError> {
    let open = opened(engine)?.1;
    on_large_stack(|| call(&open.engine))
}

fn opened(engine: Term<'_>) -> Result<(ResourceArc<EngineHandle>, Arc<Open>), JobError> {
    let handle: ResourceArc<EngineHandle> = decode::handle("the engine", engine)?;
    let open = handle.session.get()?;
    Ok((handle, open))
}

#[rustler::nif(schedule = "DirtyIo")]
fn open<'a>(env: Env<'a>, options: Term<'a>, owner: Term<'a>) -> Term<'a> {
    value(env, || {
        let owner = decode::pid(owner)?;
        let options = Options::from_json(decode::json(options)?)?;
        let session = on_large_stack(|| Session::open(options))?;
        let handle = ResourceArc::new(EngineHandle { session });
        if env.monitor(&handle, &owner).is_none() {
            handle.session.close()?;
            return Err(JobError::new(ErrorKind::InvalidRequest, "the owner of the engine is not alive"));
        }
        Ok(handle.encode(env))
    })
}

#[rustler::nif(schedule = "DirtyIo")]
fn close<'a>(env: Env<'a>, engine: Term<'a>) -> Term<'a> {
    done(env, || {
        let handle: ResourceArc<EngineHandle> = decode::handle("the engine", engine)?;
        on_large_stack(|| handle.session.close())
    })
}

#[rustler::nif(schedule = "DirtyIo")]
fn submit<'a>(env: Env<'a>, engine: Term<'a>, request: Term<'a>) -> Term<'a> {
    value(env, || {
        let submitted = call(engine, |engine| engine.submit(decode::submission(request)?))?;
        Ok((encode::json(env, &submitted.job)?, submitted.created).encode(env))
    })
}

#[rustler::nif(schedule = "DirtyIo")]
fn get<'a>(env: Env<'a>, engine: Term<'a>, id: Term<'a>) -> Term<'a> {
    value(env, || encode::json(env, &call(engine, |engine| engine.get(decode::id(id)?))?))
}

#[rustler::nif(schedule = "DirtyIo")]
fn cancel<'a>(env: Env<'a>, engine: Term<'a>, id: Term<'a>) -> Term<'a> {
    value(env, || encode::json(env, &call(engine, |engine| engine.cancel(decode::id(id)?))?))
}

#[rustler::nif(schedule = "DirtyIo")]
fn list<'a>(env: Env<'a>, engine: Term<'a>, query: Term<'a>) -> Term<'a> {
    value(env, || encode::json(env, &call(engine, |engine| engine.list(&ListQuery::from_json(decode::json(query)?)?))?))
}

#[rustler::nif(schedule = "DirtyIo")]
fn arrange<'a>(env: Env<'a>, engine: Term<'a>, ids: Term<'a>) -> Term<'a> {
    done(env, || call(engine, |engine| engine.arrange(&decode::ids(ids)?)))
}

#[rustler::nif(schedule = "DirtyIo")]
fn events_after<'a>(env: Env<'a>, engine: Term<'a>, id: Term<'a>, after: Term<'a>) -> Term<'a> {
    value(env, || {
        let events = call(engine, |engine| engine.events_after(decode::id(id)?, decode::after(after)?))?;
        encode::json(env, &events)
    })
}

#[rustler::nif(schedule = "DirtyIo")]
fn subscribe<'a>(
    env: Env<'a>,
    engine: Term<'a>,
    id: Term<'a>,
    after: Term<'a>,
    pid: Term<'a>,
    tag: Term<'a>,
) -> Term<'a> {
    value(env, || {
        let (id, after, pid) = (decode::id(id)?, decode::after(after)?, decode::pid(pid)?);
        let (handle, open) = opened(engine)?;
        let events = on_large_stack(|| open.engine.subscribe(id, after))?;
        let subscription = monitored(env, pid);
        let stop = Arc::clone(&subscription.stop);
        handle.session.spawn(&open, send_events(Recipient::new(pid, tag), events, stop));
        Ok(subscription.encode(env))
    })
}

#[rustler::nif(schedule = "DirtyIo")]
fn watch<'a>(env: Env<'a>, engine: Term<'a>, pid: Term<'a>, tag: Term<'a>) -> Term<'a> {
    value(env, || {
        let pid = decode::pid(pid)?;
        let (handle, open) = opened(engine)?;
        let subscription = monitored(env, pid);
        let stop = Arc::clone(&subscription.stop);
        let jobs = open.engine.watch();
        handle.session.spawn(&open, send_jobs(Recipient::new(pid, tag), jobs, open.closing(), stop));
        Ok(subscription.encode(env))
    })
}

/// A subscription that ends with the process, at once if that is dead already.
fn monitored(env: Env<'_>, pid: rustler::LocalPid) -> ResourceArc<SubscriptionHandle> {
    let subscription = ResourceArc::new(SubscriptionHandle { stop: Arc::new(Notify::new()) });
    if env.monitor(&subscription, &pid).is_none() {
        subscription.stop.notify_one();
    }
    subscription
}

#[rustler::nif]
fn unsubscribe<'a>(env: Env<'a>, subscription: Term<'a>) -> Term<'a> {
    done(env, || {
        let subscription: ResourceArc<SubscriptionHandle> = decode::handle("the subscription", subscription)?;
        subscription.stop.notify_one();
        Ok(())
    })
}

#[rustler::nif(schedule = "DirtyIo")]
fn result<'a>(env: Env<'a>, engine: Term<'a>, id: Term<'a>) -> Term<'a> {
    value(env, || result_map(env, &call(engine, |engine| engine.result(decode::id(id)?))?))
}

#[rustler::nif(schedule = "DirtyIo")]
fn stage_result<'a>(env: Env<'a>, engine: Term<'a>, id: Term<'a>, stage: Term<'a>) -> Term<'a> {
    value(env, || {
        let file = call(engine, |engine| engine.stage_result(decode::id(id)?, decode::stage(stage)?))?;
        result_map(env, &file)
    })
}

#[rustler::nif(schedule = "DirtyIo")]
fn media<'a>(env: Env<'a>, engine: Term<'a>, id: Term<'a>, index: Term<'a>) -> Term<'a> {
    value(env, || {
        let file = call(engine, |engine| engine.media(decode::id(id)?, decode::index(index)?))?;
        result_map(env, &file)
    })
}

#[rustler::nif(schedule = "DirtyIo")]
fn read_result<'a>(env: Env<'a>, engine: Term<'a>, id: Term<'a>) -> Term<'a> {
    value(env, || {
        let (file, bytes) = call(engine, |engine| {
            let id = decode::id(id)?;
            let file = engine.result(id)?;
            let bytes = fs::read(&file.path).map_err(|error| {
                let message = format!("the result of job {id} has been removed ({error}): submit it again");
                JobError::new(ErrorKind::Expired, message)
            })?;
            Ok((file, bytes))
        })?;
        let bytes: Term<'_> = NewBinary::from_slice(env, &bytes).into();
        Ok((result_map(env, &file)?, bytes).encode(env))
    })
}

fn result_map<'a>(env: Env<'a>, file: &ResultFile) -> Result<Term<'a>, JobError> {
    let ResultFile { path, content_type, bytes, sha256 } = file;
    let path = path.to_string_lossy();
    encode::json(env, &json!({"path": path, "content_type": content_type, "bytes": bytes, "sha256": sha256}))
}

#[rustler::nif(schedule = "DirtyIo")]
fn models<'a>(env: Env<'a>, engine: Term<'a>) -> Term<'a> {
    value(env, || encode::json(env, &call(engine, |engine| engine.models())?))
}

#[rustler::nif(schedule = "DirtyIo")]
fn load_model<'a>(env: Env<'a>, engine: Term<'a>, name: Term<'a>) -> Term<'a> {
    value(env, || encode::json(env, &call(engine, |engine| engine.load_model(decode::name(name)?))?))
}

#[rustler::nif(schedule = "DirtyIo")]
fn unload_model<'a>(env: Env<'a>, engine: Term<'a>, name: Term<'a>) -> Term<'a> {
    value(env, || encode::json(env, &call(engine, |engine| engine.unload_model(decode::name(name)?))?))
}

#[rustler::nif(schedule = "DirtyIo")]
fn ready<'a>(env: Env<'a>, engine: Term<'a>) -> Term<'a> {
    done(env, || call(engine, |engine| engine.ready()))
}

#[rustler::nif(schedule = "DirtyIo")]
fn stats<'a>(env: Env<'a>, engine: Term<'a>) -> Term<'a> {
    value(env, || {
        let stats = call(engine, |engine| engine.stats())?;
        let jobs: Map<_, _> =
            stats.jobs.iter().map(|(state, count)| (state.as_str().to_owned(), Value::from(*count))).collect();
        let process::Usage { rss_bytes, threads } = process::usage();
        let stats = json!({
            "jobs": jobs, "submitted": stats.submitted, "refused": stats.refused, "runs": stats.runs,
            "cache_hits": stats.cache_hits, "shared": stats.shared, "run_count": stats.run_count, "run_ms": stats.run_ms,
            "tokens": stats.tokens, "first_token_count": stats.first_token_count,
            "first_token_ms": stats.first_token_ms, "feeds": stats.feeds, "rss_bytes": rss_bytes, "threads": threads
        });
        encode::json(env, &stats)
    })
}

#[rustler::nif]
fn error_table() -> Vec<(&'static str, u16)> {
    ErrorKind::ALL.iter().map(|kind| (kind.code(), kind.status())).collect()
}

#[rustler::nif]
fn openapi() -> &'static str {
    OPENAPI
}

#[rustler::nif]
fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
