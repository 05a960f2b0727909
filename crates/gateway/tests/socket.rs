//! Phoenix Channels V2, against a real server.

mod client;
#[path = "../../jobs/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use client::{MAX_BODY, TestServer, id, image, within};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message as Frame;

const WHOLE: [&str; 9] =
    ["queued", "started", "progress", "preview", "progress", "preview", "progress", "preview", "finished"];

#[tokio::test]
async fn submit_watch_and_follow() {
    let server = TestServer::start().await;
    let mut socket = server.socket().await;
    assert_eq!(socket.ask(None, "phoenix", "heartbeat", json!({})).await, ("ok".into(), json!({})));
    let (status, welcome) = socket.join("studio", json!({})).await;
    assert_eq!((status.as_str(), &welcome["jobs"], &welcome["models"][0]["name"]), ("ok", &json!([]), &json!("fake")));
    let (status, job) = socket.ask(Some("2"), "studio", "submit", image("hold")).await;
    assert_eq!(status, "ok");
    let job = id(&job);
    let topic = format!("job:{job}");
    let (status, joined) = socket.join(&topic, json!({"after": 0})).await;
    assert_eq!((status.as_str(), joined["job"]["id"].as_str()), ("ok", Some(job.as_str())));
    server.runner.release();
    assert_eq!(socket.follow(&topic, 0).await, WHOLE);
    // The studio topic has told of it, too; its last word is the finished job.
    let mut last = Value::Null;
    while last["state"] != "finished" {
        let frame = socket.next().await;
        if frame[2] == "studio" && frame[3] == "job" {
            assert_eq!((&frame[0], &frame[1]), (&json!("2"), &Value::Null));
            last = frame[4].clone();
        }
    }
    assert_eq!(last["id"], job);
    let (_, page) = socket.ask(Some("2"), "studio", "list", json!({"limit": 5, "state": "finished"})).await;
    assert_eq!(page["jobs"][0]["id"], job);
}

#[tokio::test]
async fn a_client_that_reconnects_misses_and_repeats_nothing() {
    let server = TestServer::start().await;
    let job = id(&server.post(&image("hold")).await.json());
    let topic = format!("job:{job}");
    let mut first = server.socket().await;
    first.join(&topic, json!({"after": 0})).await;
    assert_eq!(first.next().await[4]["n"], 1);
    assert_eq!(first.next().await[4]["n"], 2);
    drop(first);
    server.runner.release();
    let mut second = server.socket().await;
    second.join(&topic, json!({"after": 2})).await;
    assert_eq!(second.follow(&topic, 2).await, WHOLE[2..]);
    let mut late = server.socket().await;
    let (_, joined) = late.join(&topic, json!({})).await;
    assert_eq!(joined["job"]["state"], "finished");
    assert_eq!(late.follow(&topic, 0).await, WHOLE);
}

#[tokio::test]
async fn cancelling_over_the_channel() {
    let server = TestServer::start().await;
    let job = id(&server.post(&image("hold")).await.json());
    let topic = format!("job:{job}");
    let mut socket = server.socket().await;
    socket.join(&topic, json!({"after": 0})).await;
    let reference = socket.push(Some("1"), &topic, "cancel", json!({})).await;
    let (mut cancelled, mut replied) = (false, false);
    while !(cancelled && replied) {
        let frame = socket.next().await;
        cancelled |= frame[3] == "cancelled";
        if frame[1] == reference {
            assert_eq!(frame[4]["response"]["state"], "cancelled", "{frame}");
            replied = true;
        }
    }
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_its_job_alone() {
    let server = TestServer::start().await;
    let mut socket = server.socket().await;
    socket.join("studio", json!({})).await;
    let (_, job) = socket.ask(Some("1"), "studio", "submit", image("hold")).await;
    let job = id(&job);
    socket.join(&format!("job:{job}"), json!({})).await;
    server.wait(&job, "running").await;
    // No goodbye: the connection is just gone.
    drop(socket);
    server.runner.release();
    server.wait(&job, "finished").await;
    for _ in 0..200 {
        let metrics = String::from_utf8(server.get("/metrics").await.body).unwrap();
        if metrics.contains("sango_sockets 0") && metrics.contains("sango_subscriptions 0") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the socket is still there");
}

#[tokio::test]
async fn malformed_frames_are_answered_and_the_socket_lives_on() {
    let server = TestServer::start().await;
    let mut socket = server.socket().await;
    let nonsense = [
        "",
        "null",
        "{}",
        "[]",
        "[1,2,3]",
        "[null,null,1,2,{}]",
        "\u{0}",
        "[[[[[[[[",
        "\"join\"",
        "[null,\"1\",\"t\",\"e\"",
    ];
    for text in nonsense {
        socket.raw(text).await;
        let frame = socket.next().await;
        assert_eq!((&frame[2], &frame[4]["status"]), (&json!("phoenix"), &json!("error")), "{text}");
        assert_eq!(frame[4]["response"]["error"]["code"], "invalid_request");
    }
    let deep = "[".repeat(100_000);
    socket.raw(&deep).await;
    assert_eq!(socket.next().await[4]["status"], "error");
    within(socket.stream.send(Frame::binary(vec![0, 1, 2, 255]))).await.unwrap();
    assert_eq!(socket.next().await[4]["status"], "error");
    for (topic, event, payload, code) in [
        ("studio", "submit", json!({}), "unknown_topic"),
        ("nowhere", "phx_join", json!({}), "unknown_topic"),
        ("job:", "phx_join", json!({}), "unknown_job"),
        ("job:{}", "phx_join", json!({}), "unknown_job"),
        ("job:0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b", "phx_join", json!({"after": 3}), "unknown_job"),
        ("phoenix", "dance", json!({}), "unknown_topic"),
    ] {
        let (status, response) = socket.ask(None, topic, event, payload).await;
        assert_eq!((status.as_str(), &response["error"]["code"]), ("error", &json!(code)), "{topic} {event}");
    }
    let (status, _) = socket.join("studio", json!("anything")).await;
    assert_eq!(status, "ok");
    for (event, payload, code) in [
        ("dance", json!({}), "invalid_request"),
        ("submit", json!(null), "invalid_request"),
        ("submit", json!(["image", null, "x"]), "invalid_request"),
        ("submit", json!({"kind": "image", "prompt": ""}), "invalid_option"),
        ("submit", json!({"kind": "image", "prompt": "x", "image": "??"}), "invalid_media"),
        ("list", json!({"limit": "many"}), "invalid_request"),
        ("list", json!({"state": "done"}), "invalid_option"),
        ("list", json!(null), "invalid_request"),
        ("list", json!([]), "invalid_request"),
    ] {
        let (status, response) = socket.ask(None, "studio", event, payload).await;
        assert_eq!((status.as_str(), &response["error"]["code"]), ("error", &json!(code)), "{event}");
    }
    let job = id(&server.post(&image("x")).await.json());
    let (_, response) = socket.join(&format!("job:{job}"), json!({"after": -1})).await;
    assert_eq!(response["error"]["code"], "invalid_request");
    assert_eq!(socket.ask(None, "phoenix", "heartbeat", json!({})).await.0, "ok");
}

#[tokio::test]
async fn leaving_and_joining_again() {
    let server = TestServer::start().await;
    let mut socket = server.socket().await;
    assert_eq!(socket.ask(None, "studio", "phx_leave", json!({})).await.0, "ok", "leaving what is not joined is fine");
    socket.join("studio", json!({})).await;
    let reference = socket.push(Some("2"), "studio", "phx_leave", json!({})).await;
    assert_eq!(socket.next().await, json!(["2", reference, "studio", "phx_reply", {"status": "ok", "response": {}}]));
    assert_eq!(socket.next().await, json!(["2", "2", "studio", "phx_close", {}]));
    let (status, response) = socket.ask(Some("2"), "studio", "list", json!({})).await;
    assert_eq!((status.as_str(), &response["error"]["code"]), ("error", &json!("unknown_topic")));
    // Joined twice: the first join is closed, and its references are stale.
    socket.join("studio", json!({})).await;
    let reference = socket.push(Some("6"), "studio", "phx_join", json!({})).await;
    let close = socket.next().await;
    assert_eq!((&close[0], &close[3]), (&json!("5"), &json!("phx_close")));
    assert_eq!(socket.reply(&reference).await.0, "ok");
    assert_eq!(socket.ask(Some("5"), "studio", "list", json!({})).await.0, "error");
    assert_eq!(socket.ask(Some("5"), "studio", "phx_leave", json!({})).await.0, "ok");
    assert_eq!(socket.ask(Some("6"), "studio", "list", json!({})).await.0, "ok", "a stale leave leaves nothing");
}

#[tokio::test]
async fn an_oversized_frame_ends_only_its_socket() {
    let server = TestServer::start().await;
    let mut socket = server.socket().await;
    let _ = socket.stream.send(Frame::text("x".repeat(MAX_BODY + 1))).await;
    let ended = within(async {
        while let Some(Ok(frame)) = socket.stream.next().await {
            if matches!(frame, Frame::Close(_)) {
                break;
            }
        }
    });
    ended.await;
    assert_eq!(server.socket().await.ask(None, "phoenix", "heartbeat", json!({})).await.0, "ok");
}

#[tokio::test]
async fn a_slow_client_holds_nobody_up() {
    let server = TestServer::start().await;
    let mut slow = server.socket().await;
    slow.join("studio", json!({})).await;
    // It asks and asks and never reads: at some point the server stops reading it, and nothing else suffers.
    for _ in 0..2_000 {
        let asked = slow.stream.feed(Frame::text(r#"["1","9","studio","list",{}]"#));
        if tokio::time::timeout(Duration::from_millis(50), asked).await.is_err() {
            break;
        }
    }
    let job = id(&server.post(&json!({"kind": "image", "prompt": "x", "options": {"steps": 100}})).await.json());
    let mut quick = server.socket().await;
    quick.join(&format!("job:{job}"), json!({})).await;
    assert_eq!(quick.follow(&format!("job:{job}"), 0).await.len(), 203);
}

#[tokio::test]
async fn a_shutdown_says_goodbye_and_the_jobs_run_after_the_next_start() {
    let server = TestServer::start().await;
    let mut socket = server.socket().await;
    socket.join("studio", json!({})).await;
    let (_, running) = socket.ask(Some("1"), "studio", "submit", image("hold running")).await;
    let (_, waiting) = socket.ask(Some("1"), "studio", "submit", image("hold waiting")).await;
    let (running, waiting) = (id(&running), id(&waiting));
    server.wait(&running, "running").await;
    let watching = tokio::spawn(async move {
        loop {
            match within(socket.stream.next()).await {
                Some(Ok(Frame::Close(goodbye))) => return goodbye.map(|frame| u16::from(frame.code)),
                Some(Ok(_)) => {}
                other => panic!("no goodbye: {other:?}"),
            }
        }
    });
    let folder = server.stop().await;
    assert_eq!(watching.await.unwrap(), Some(1001));

    let server = TestServer::start_in(folder).await;
    server.runner.release();
    for job in [running, waiting] {
        server.wait(&job, "finished").await;
    }
}
