//! News of jobs as messages to a process, sent by the engine's driver thread.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use rustler::env::SavedTerm;
use rustler::{Encoder, Env, LocalPid, Monitor, OwnedEnv, Resource, Term};
use sango_jobs::{JobError, JobView, Subscription};
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::{Notify, watch};

use crate::atoms;
use crate::encode;

/// What Elixir holds of a subscription.
pub(crate) struct SubscriptionHandle {
    pub(crate) stop: Arc<Notify>,
}

#[rustler::resource_impl]
impl Resource for SubscriptionHandle {
    const IMPLEMENTS_DOWN: bool = true;

    fn down(&self, _: Env<'_>, _: LocalPid, _: Monitor) {
        self.stop.notify_one();
    }
}

impl Drop for SubscriptionHandle {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

/// Where messages go, and the tag in each of them.
pub(crate) struct Recipient {
    pid: LocalPid,
    tag: SavedTerm,
    /// Holds the tag. Not the environment of the messages, which is cleared after each.
    tag_env: OwnedEnv,
    message_env: OwnedEnv,
}

/// The process does not take messages any more.
struct Gone;

impl Recipient {
    /// Messages to `pid` with a copy of `tag`.
    pub(crate) fn new(pid: LocalPid, tag: Term<'_>) -> Self {
        let tag_env = OwnedEnv::new();
        Self { pid, tag: tag_env.save(tag), tag_env, message_env: OwnedEnv::new() }
    }

    /// Sends what `build` makes of the tag. Only for threads that are not the BEAM's.
    fn send(
        &mut self,
        build: impl for<'a> FnOnce(Env<'a>, Term<'a>) -> Result<Term<'a>, JobError>,
    ) -> Result<(), Gone> {
        let Self { pid, tag, tag_env, message_env } = self;
        // `None` is what cannot be shown as a term; the encoder of a subscription's own types always can.
        let sent = message_env.send_and_clear(pid, |env| {
            let tag = tag_env.run(|tag_env| tag.load(tag_env).in_env(env));
            build(env, tag).map_err(|error| tracing::error!("{error}")).ok()
        });
        sent.map_err(|_| Gone)
    }

    /// `{name, tag, json}`.
    fn send_json(&mut self, name: rustler::Atom, json: &impl Serialize) -> Result<(), Gone> {
        self.send(|env, tag| Ok((name, tag, encode::json(env, json)?).encode(env)))
    }

    /// `{:sango_end, tag}`.
    fn send_end(&mut self) -> Result<(), Gone> {
        self.send(|env, tag| Ok((atoms::sango_end(), tag).encode(env)))
    }
}

/// Sends every event of a job, then the end.
pub(crate) async fn send_events(recipient: Recipient, events: Subscription, stop: Arc<Notify>) {
    until_stopped(&stop, forward_events(recipient, events)).await;
}

/// Sends every change of every job until the engine closes, then the end.
pub(crate) async fn send_jobs(
    recipient: Recipient,
    jobs: broadcast::Receiver<Arc<JobView>>,
    closing: watch::Receiver<()>,
    stop: Arc<Notify>,
) {
    until_stopped(&stop, forward_jobs(recipient, jobs, closing)).await;
}

async fn until_stopped(stop: &Notify, work: impl Future<Output = Result<(), Gone>>) {
    let work = AssertUnwindSafe(work).catch_unwind();
    tokio::select! {
        biased;
        () = stop.notified() => {}
        // A process that is gone ends its subscription. A panic has been written to standard error by its hook.
        _ = work => {}
    }
}

async fn forward_events(mut recipient: Recipient, mut events: Subscription) -> Result<(), Gone> {
    while let Some(event) = events.next().await {
        recipient.send_json(atoms::sango_event(), &*event)?;
        // A long replay must not hold up the others.
        tokio::task::consume_budget().await;
    }
    recipient.send_end()
}

async fn forward_jobs(
    mut recipient: Recipient,
    mut jobs: broadcast::Receiver<Arc<JobView>>,
    mut closing: watch::Receiver<()>,
) -> Result<(), Gone> {
    loop {
        let job = tokio::select! {
            biased;
            job = jobs.recv() => job,
            // Nothing is ever sent on it: it ends with the engine.
            _ = closing.changed() => Err(RecvError::Closed),
        };
        match job {
            Ok(job) => recipient.send_json(atoms::sango_job(), &*job)?,
            Err(RecvError::Lagged(missed)) => {
                recipient.send(|env, tag| Ok((atoms::sango_lagged(), tag, missed).encode(env)))?;
            }
            Err(RecvError::Closed) => return recipient.send_end(),
        }
    }
}
