//! One client's connection: frames in, topics, frames out.
//!
//! Nothing piles up for a slow client: what goes out passes a short queue, pushes are cursors into their job's events
//! (see `sango_jobs::Subscription`), and while the queue is full the client's own frames are not read.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message as Frame, WebSocket, close_code};
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use sango_jobs::{ErrorKind, JobError};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::message::{Message, Ref};
use super::topics::{self, Topic};
use crate::state::AppState;

/// A client that sends nothing, not even its heartbeat, is gone.
const SILENCE: Duration = Duration::from_secs(90);
/// A client that takes nothing is gone, too.
const STUCK: Duration = Duration::from_secs(30);
/// Frames that wait for a slow client.
const WAITING: usize = 32;
/// Topics that one client may join: the page joins one for each picture it shows.
const MAX_TOPICS: usize = 256;

/// Where frames go out. Sending fails once the client is gone.
pub(super) type Outbox = mpsc::Sender<String>;

/// The client is gone.
#[derive(Debug)]
pub(super) struct Gone;

/// Sends a frame, waiting while the client is slow.
pub(super) async fn send(outbox: &Outbox, message: &Message) -> Result<(), Gone> {
    outbox.send(message.encode()).await.map_err(|_| Gone)
}

/// A joined topic; leaving it stops its pushes.
struct Joined {
    join_ref: Option<Ref>,
    topic: Topic,
    pushes: JoinHandle<()>,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.pushes.abort();
    }
}

/// Talks to a client until it goes or the server closes.
pub(super) async fn run(socket: WebSocket, state: &AppState) {
    let (sink, mut stream) = socket.split();
    let (outbox, frames) = mpsc::channel(WAITING);
    let writer = tokio::spawn(write(sink, frames));
    let mut connection = Connection { state, outbox, joined: HashMap::new() };
    let mut closing = state.closing.clone();
    loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(SILENCE, stream.next()) => frame,
            // An error means that the server is gone altogether.
            _ = closing.wait_for(|closing| *closing) => break,
        };
        let handled = match frame {
            Ok(Some(Ok(Frame::Text(text)))) => connection.handle(&text).await,
            Ok(Some(Ok(Frame::Binary(_)))) => connection.complain("frames are JSON text, not binary").await,
            // Pings are answered below this, by the WebSocket library.
            Ok(Some(Ok(Frame::Ping(_) | Frame::Pong(_)))) => Ok(()),
            Ok(Some(Ok(Frame::Close(_))) | None) => break,
            Ok(Some(Err(error))) => {
                tracing::debug!("a socket broke: {error}");
                break;
            }
            Err(_) => break,
        };
        if handled.is_err() {
            break;
        }
    }
    // Dropping the topics and the outbox ends the writer, which says goodbye. Jobs go on.
    drop(connection);
    if writer.await.is_err() {
        tracing::error!("a bug in Sango: the writer of a socket panicked");
    }
}

async fn write(mut sink: SplitSink<WebSocket, Frame>, mut frames: mpsc::Receiver<String>) {
    while let Some(frame) = frames.recv().await {
        match tokio::time::timeout(STUCK, sink.send(Frame::from(frame))).await {
            Ok(Ok(())) => {}
            // Gone or stuck: dropping the queue tells the reader.
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let goodbye = CloseFrame { code: close_code::AWAY, reason: "the server is closing this socket".into() };
    let _ = tokio::time::timeout(Duration::from_secs(1), sink.send(Frame::Close(Some(goodbye)))).await;
}

struct Connection<'a> {
    state: &'a AppState,
    outbox: Outbox,
    joined: HashMap<String, Joined>,
}

impl Connection<'_> {
    async fn handle(&mut self, text: &str) -> Result<(), Gone> {
        let message = match Message::parse(text) {
            Ok(message) => message,
            Err(complaint) => return self.complain(&complaint).await,
        };
        match (message.topic.as_str(), message.event.as_str()) {
            ("phoenix", "heartbeat") => send(&self.outbox, &message.reply(Ok(json!({})))).await,
            (_, "phx_join") => self.join(message).await,
            (_, "phx_leave") => self.leave(message).await,
            _ => {
                let outcome = match self.joined(&message) {
                    Some(joined) => joined.topic.handle(self.state, &message).await,
                    None => Err(unmatched(&message.topic)),
                };
                send(&self.outbox, &message.reply(outcome)).await
            }
        }
    }

    /// The topic of a message, if it is joined, and by the join that the message belongs to.
    fn joined(&self, message: &Message) -> Option<&Joined> {
        let joined = self.joined.get(&message.topic)?;
        (message.join_ref.is_none() || message.join_ref == joined.join_ref).then_some(joined)
    }

    async fn join(&mut self, message: Message) -> Result<(), Gone> {
        // As in Phoenix: joining again closes the first join.
        if let Some(before) = self.joined.remove(&message.topic) {
            send(&self.outbox, &Message::close(before.join_ref.clone(), &message.topic)).await?;
        }
        if self.joined.len() >= MAX_TOPICS {
            let error = JobError::new(ErrorKind::TooManyTopics, format!("a socket joins at most {MAX_TOPICS} topics"));
            return send(&self.outbox, &message.reply(Err(error))).await;
        }
        match topics::join(self.state, &message.topic, &message.payload).await {
            Ok(welcome) => {
                // The reply before the first push.
                send(&self.outbox, &message.reply(Ok(welcome.response))).await?;
                let pushes =
                    welcome.pushes.forward(self.outbox.clone(), message.join_ref.clone(), message.topic.clone());
                let joined = Joined { join_ref: message.join_ref, topic: welcome.topic, pushes: tokio::spawn(pushes) };
                self.joined.insert(message.topic, joined);
                Ok(())
            }
            Err(error) => send(&self.outbox, &message.reply(Err(error))).await,
        }
    }

    async fn leave(&mut self, message: Message) -> Result<(), Gone> {
        let join_ref = self.joined(&message).map(|joined| joined.join_ref.clone());
        if join_ref.is_some() {
            self.joined.remove(&message.topic);
        }
        send(&self.outbox, &message.reply(Ok(json!({})))).await?;
        match join_ref {
            Some(join_ref) => send(&self.outbox, &Message::close(join_ref, &message.topic)).await,
            None => Ok(()),
        }
    }

    /// Tells whoever wrote a frame that is none. Phoenix clients never see this.
    async fn complain(&self, complaint: &str) -> Result<(), Gone> {
        let error = JobError::new(ErrorKind::InvalidRequest, complaint);
        let nobody = Message::push(None, "phoenix", "", json!({}));
        send(&self.outbox, &nobody.reply(Err(error))).await
    }
}

fn unmatched(topic: &str) -> JobError {
    JobError::new(ErrorKind::UnknownTopic, format!("`{topic}` is not joined"))
}
