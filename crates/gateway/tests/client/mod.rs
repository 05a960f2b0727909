//! A real server on a free port, and clients small enough to see through.
#![allow(dead_code, reason = "each test file uses its part of it")]

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use sango_gateway::{ServeConfig, ServeError, Server};
use sango_jobs::{EmbeddedEngine, Engine};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::{Error, Message as Frame, client::IntoClientRequest};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{FakeRunner, open};

pub const PATIENCE: Duration = Duration::from_secs(20);
/// Small, so that tests can exceed it.
pub const MAX_BODY: usize = 200_000;
pub const MAX_MEDIA: u64 = 1_000_000;

pub struct TestServer {
    pub addr: SocketAddr,
    pub runner: Arc<FakeRunner>,
    pub engine: Arc<EmbeddedEngine>,
    pub folder: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), ServeError>>,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_in(folder: tempfile::TempDir) -> Self {
        let runner = FakeRunner::new();
        let engine = Arc::new(open(folder.path(), &runner));
        let config = ServeConfig {
            addr: "127.0.0.1:0".parse().unwrap(),
            max_body_bytes: MAX_BODY,
            max_media_bytes: MAX_MEDIA,
            ..ServeConfig::default()
        };
        let server = Server::bind(config, Arc::clone(&engine) as Arc<dyn Engine>).await.unwrap();
        let addr = server.local_addr();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async move { drop(stopped.await) }));
        Self { addr, runner, engine, folder, stop, running }
    }

    /// Shuts down in order and gives back the data folder.
    pub async fn stop(self) -> tempfile::TempDir {
        self.stop.send(()).unwrap();
        within(self.running).await.unwrap().unwrap();
        self.folder
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    pub async fn post(&self, json: &Value) -> Answer {
        self.send("POST", "/v1/jobs", &[("content-type", "application/json")], json.to_string().as_bytes()).await
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        // HTTP/1.0: the answer ends with the connection and is never in chunks.
        let mut request = format!("{method} {path} HTTP/1.0\r\ncontent-length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| *name == "host") {
            request += &format!("host: {}\r\n", self.addr);
        }
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        let mut bytes = (request + "\r\n").into_bytes();
        bytes.extend_from_slice(body);
        within(async {
            let mut stream = TcpStream::connect(self.addr).await.unwrap();
            // The server may answer, and hang up, before it has read a body that it refuses.
            let _ = stream.write_all(&bytes).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            Answer::parse(&answer)
        })
        .await
    }

    /// Waits until the job is in this state.
    pub async fn wait(&self, id: &str, state: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let job = self.get(&format!("/v1/jobs/{id}")).await.json();
            if job["state"] == state {
                return job;
            }
            assert!(Instant::now() < deadline, "not {state}: {job}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn socket(&self) -> Socket {
        let url = format!("ws://{}/socket/websocket?vsn=2.0.0", self.addr);
        Socket { stream: within(connect_async(url)).await.unwrap().0, refs: 0 }
    }

    /// The status with which a socket from this origin is refused, or `None`.
    pub async fn refused(&self, query: &str, origin: &str) -> Option<u16> {
        let mut request = format!("ws://{}/socket/websocket{query}", self.addr).into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        match within(connect_async(request)).await {
            Ok(_) => None,
            Err(Error::Http(response)) => Some(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }
}

pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let split = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
        let head = std::str::from_utf8(&bytes[..split]).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let pair = |line: &str| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Self { status, headers: lines.map(pair).collect(), body: bytes[split + 4..].to_vec() }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The code of the error this is, which must be in the one shape.
    pub fn code(&self) -> String {
        let json = self.json();
        let error = &json["error"];
        assert_eq!(error["status"], self.status, "{json}");
        assert!(error["message"].as_str().is_some_and(|message| message.len() > 5), "{json}");
        error["code"].as_str().unwrap().to_owned()
    }
}

pub struct Socket {
    pub stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    refs: u64,
}

impl Socket {
    /// Sends a frame and gives back its reference.
    pub async fn push(&mut self, join_ref: Option<&str>, topic: &str, event: &str, payload: Value) -> String {
        self.refs += 1;
        let reference = self.refs.to_string();
        self.raw(&json!([join_ref, reference, topic, event, payload]).to_string()).await;
        reference
    }

    pub async fn raw(&mut self, text: &str) {
        within(self.stream.send(Frame::text(text))).await.unwrap();
    }

    /// The next frame.
    pub async fn next(&mut self) -> Value {
        match within(self.stream.next()).await {
            Some(Ok(Frame::Text(text))) => serde_json::from_str(&text).unwrap(),
            other => panic!("no frame: {other:?}"),
        }
    }

    /// The status and response of a reply, passing over pushes.
    pub async fn reply(&mut self, reference: &str) -> (String, Value) {
        loop {
            let frame = self.next().await;
            if frame[3] == "phx_reply" && frame[1] == reference {
                return (frame[4]["status"].as_str().unwrap().to_owned(), frame[4]["response"].clone());
            }
        }
    }

    /// Sends and waits for the reply.
    pub async fn ask(&mut self, join_ref: Option<&str>, topic: &str, event: &str, payload: Value) -> (String, Value) {
        let reference = self.push(join_ref, topic, event, payload).await;
        self.reply(&reference).await
    }

    /// Joins, with the join's own reference as the join reference, as Phoenix clients do.
    pub async fn join(&mut self, topic: &str, params: Value) -> (String, Value) {
        let join_ref = (self.refs + 1).to_string();
        self.ask(Some(&join_ref), topic, "phx_join", params).await
    }

    /// The events pushed on a topic up to the last one, checking the numbers and the frames.
    pub async fn follow(&mut self, topic: &str, after: u64) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        loop {
            let frame = self.next().await;
            if frame[2] != topic || frame[3] == "phx_reply" {
                continue;
            }
            assert_eq!(frame[4]["n"], after + names.len() as u64 + 1, "{frame}");
            assert_eq!(frame[3], frame[4]["event"]);
            assert_eq!(frame[1], Value::Null);
            names.push(frame[3].as_str().unwrap().to_owned());
            if ["finished", "failed", "cancelled"].contains(&names.last().unwrap().as_str()) {
                return names;
            }
        }
    }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

pub fn image(prompt: &str) -> Value {
    json!({"kind": "image", "prompt": prompt, "options": {"seed": 1}})
}

pub fn id(job: &Value) -> String {
    job["id"].as_str().unwrap_or_else(|| panic!("no job: {job}")).to_owned()
}

pub fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}
