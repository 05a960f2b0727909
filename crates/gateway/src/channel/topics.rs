//! The two topics: `studio` and `job:<id>`.

use std::sync::Arc;

use sango_jobs::{ErrorKind, JobError, JobId, JobView, ListQuery, Submission, Subscription};
use serde_json::{Value, json};
use tokio::sync::broadcast::{self, error::RecvError};

use super::message::{Message, Ref};
use super::socket::{Gone, Outbox, send};
use crate::state::AppState;

/// What a client has joined.
#[derive(Debug, Clone, Copy)]
pub(super) enum Topic {
    Studio,
    Job(JobId),
}

/// A join that was accepted.
pub(super) struct Welcome {
    pub(super) topic: Topic,
    pub(super) response: Value,
    pub(super) pushes: Pushes,
}

/// What will be pushed on a topic.
pub(super) enum Pushes {
    Jobs(AppState, broadcast::Receiver<Arc<JobView>>),
    Events(Subscription),
}

/// Jobs that `studio` shows at first.
const NEWEST: u32 = 20;

/// Joins a topic.
pub(super) async fn join(state: &AppState, topic: &str, params: &Value) -> Result<Welcome, JobError> {
    if topic == "studio" {
        // Watching begins before the list is made, so that nothing falls between them.
        let watch = state.engine.watch();
        let newest = ListQuery { limit: NEWEST, ..ListQuery::default() };
        let (page, models) = state.call(move |engine| Ok((engine.list(&newest)?, engine.models()))).await?;
        // A models folder that cannot be read is no reason not to show jobs; `readyz` and `submit` say so.
        let response = json!({"jobs": page.jobs, "models": models.unwrap_or_default()});
        return Ok(Welcome { topic: Topic::Studio, response, pushes: Pushes::Jobs(state.clone(), watch) });
    }
    let Some(id) = topic.strip_prefix("job:") else {
        let message = format!("there is no topic `{topic}`: there are `studio` and `job:<id>`");
        return Err(JobError::new(ErrorKind::UnknownTopic, message));
    };
    let id: JobId = id.parse()?;
    let after = match params.get("after") {
        None | Some(Value::Null) => 0,
        Some(after) => after.as_u64().ok_or_else(|| {
            JobError::new(ErrorKind::InvalidRequest, format!("`after` is the number of an event, not {after}"))
        })?,
    };
    let (subscription, job) = state.call(move |engine| Ok((engine.subscribe(id, after)?, engine.get(id)?))).await?;
    Ok(Welcome { topic: Topic::Job(id), response: json!({"job": job}), pushes: Pushes::Events(subscription) })
}

impl Topic {
    /// Answers a message on a joined topic.
    pub(super) async fn handle(&self, state: &AppState, message: &Message) -> Result<Value, JobError> {
        match (self, message.event.as_str()) {
            (Self::Studio, "submit") => {
                let submission = Submission::from_json(message.payload.clone())?;
                let submitted = state.call(move |engine| engine.submit(submission)).await?;
                Ok(json!(submitted.job))
            }
            (Self::Studio, "list") => {
                let query = ListQuery::from_json(message.payload.clone())?;
                Ok(json!(state.call(move |engine| engine.list(&query)).await?))
            }
            (&Self::Job(id), "cancel") => Ok(json!(state.call(move |engine| engine.cancel(id)).await?)),
            (topic, event) => {
                let known = match topic {
                    Self::Studio => "`submit` and `list`",
                    Self::Job(_) => "`cancel`",
                };
                let message = format!("`{}` does not take `{event}`: it takes {known}", message.topic);
                Err(JobError::new(ErrorKind::InvalidRequest, message))
            }
        }
    }
}

impl Pushes {
    /// Pushes until the topic is left, the client is gone or there is nothing more to come.
    pub(super) async fn forward(self, outbox: Outbox, join_ref: Option<Ref>, topic: String) {
        let push = |event: &str, payload| Message::push(join_ref.clone(), &topic, event, payload);
        // Either loop ends when nobody takes its frames any more.
        let _: Result<(), Gone> = match self {
            Self::Events(mut subscription) => {
                async {
                    while let Some(event) = subscription.next().await {
                        send(&outbox, &push(event.event.as_str(), json!(*event))).await?;
                    }
                    Ok(())
                }
                .await
            }
            Self::Jobs(state, mut watch) => {
                async {
                    loop {
                        match watch.recv().await {
                            Ok(job) => send(&outbox, &push("job", json!(*job))).await?,
                            // The client was too slow and missed some: show it how things are now.
                            Err(RecvError::Lagged(_)) => {
                                let page = state.call(|engine| engine.list(&ListQuery::default())).await;
                                for job in page.map(|page| page.jobs).unwrap_or_default().iter().rev() {
                                    send(&outbox, &push("job", json!(job))).await?;
                                }
                            }
                            Err(RecvError::Closed) => return Ok(()),
                        }
                    }
                }
                .await
            }
        };
    }
}
