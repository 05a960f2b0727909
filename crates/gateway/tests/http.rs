//! Every HTTP endpoint, against a real server.

mod client;
#[path = "../../jobs/tests/support/mod.rs"]
mod support;

use client::{MAX_BODY, MAX_MEDIA, TestServer, files, id, image};
use serde_json::{Value, json};

fn png() -> Vec<u8> {
    // 1x1, black.
    let hex = "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c636000000002000148afa4710000000049454e44ae426082";
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn form(parts: &[(&str, &[u8])]) -> (String, Vec<u8>) {
    let mut body = Vec::new();
    for (name, bytes) in parts {
        let head = format!("--BOUND\r\ncontent-disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\r\n");
        body.extend([head.as_bytes(), bytes, b"\r\n"].concat());
    }
    body.extend(b"--BOUND--\r\n");
    ("multipart/form-data; boundary=BOUND".to_owned(), body)
}

#[tokio::test]
async fn a_job_from_submission_to_bytes() {
    let server = TestServer::start().await;
    let answer = server.post(&image("a red circle")).await;
    assert_eq!(answer.status, 202);
    let job = id(&answer.json());
    assert_eq!(answer.headers["location"], format!("/v1/jobs/{job}"));
    let view = server.wait(&job, "finished").await;
    let url = view["result"]["url"].as_str().unwrap();
    let result = server.get(url).await;
    assert_eq!((result.status, result.body.as_slice()), (200, &b"a red circle 1 0"[..]));
    assert_eq!(result.headers["content-type"], "image/png");
    assert_eq!(result.headers["content-disposition"], format!("inline; filename=\"sango-{job}.png\""));
    let saved = server.get(&format!("{url}?download=1")).await;
    assert!(saved.headers["content-disposition"].starts_with("attachment"));
    assert_eq!(server.send("HEAD", url, &[], b"").await.headers["content-length"], "16");
    let again = server.post(&image("a red circle")).await;
    assert_eq!((again.status, &again.json()["result"]["cached"]), (200, &json!(true)));
    let list = server.get("/v1/jobs?limit=1").await.json();
    assert_eq!(list["jobs"][0]["id"], again.json()["id"]);
    let rest = server.get(&format!("/v1/jobs?before={}", list["next"].as_str().unwrap())).await.json();
    assert_eq!((rest["jobs"][0]["id"].as_str(), &rest["next"]), (Some(job.as_str()), &Value::Null));
}

#[tokio::test]
async fn ranges_and_validators() {
    let server = TestServer::start().await;
    let job = id(&server.post(&image("0123456789")).await.json());
    server.wait(&job, "finished").await;
    let path = format!("/v1/jobs/{job}/result");
    let etag = server.get(&path).await.headers["etag"].clone();
    let range = async |range: &str| server.send("GET", &path, &[("range", range)], b"").await;
    let middle = range("bytes=2-4").await;
    assert_eq!((middle.status, middle.body.as_slice()), (206, &b"234"[..]));
    assert_eq!(middle.headers["content-range"], "bytes 2-4/14");
    assert_eq!(range("bytes=-3").await.body, b"1 0");
    assert_eq!(range("bytes=900-").await.status, 416);
    let known = server.send("GET", &path, &[("if-none-match", &etag)], b"").await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let other = server.send("GET", &path, &[("range", "bytes=2-4"), ("if-range", "\"old\"")], b"").await;
    assert_eq!((other.status, other.body.len()), (200, 14), "other bytes than the client has begun with");
    let same = server.send("GET", &path, &[("range", "bytes=2-4"), ("if-range", &etag)], b"").await;
    assert_eq!(same.status, 206);
    for file in std::fs::read_dir(server.folder.path().join("results")).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert_eq!(server.get(&path).await.code(), "expired");
    assert_eq!(server.get(&format!("/v1/jobs/{job}")).await.json()["state"], "expired");
}

#[tokio::test]
async fn forms_bring_images() {
    let server = TestServer::start().await;
    let job = image("x").to_string();
    let (content_type, body) = form(&[("job", job.as_bytes()), ("image", &png()), ("mask", b"")]);
    let answer = server.send("POST", "/v1/jobs", &[("content-type", &content_type)], &body).await;
    assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.json()["request"]["image"]["width"], 1);
    assert_eq!(files(&server.folder.path().join("uploads")), 1);
    for (parts, code) in [
        (vec![("image", png())], "invalid_request"),
        (vec![("job", job.clone().into_bytes()), ("other", png())], "invalid_request"),
        (vec![("job", job.clone().into_bytes()), ("image", b"not a picture".to_vec())], "invalid_media"),
        (vec![("job", b"{".to_vec())], "invalid_request"),
        (vec![("job", job.clone().into_bytes()), ("image", vec![0; MAX_BODY + 1])], "too_large"),
    ] {
        let parts: Vec<_> = parts.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
        let (content_type, body) = form(&parts);
        let answer = server.send("POST", "/v1/jobs", &[("content-type", &content_type)], &body).await;
        assert_eq!(answer.code(), code);
    }
    let cut = server.send("POST", "/v1/jobs", &[("content-type", &content_type)], &body[..body.len() / 2]).await;
    assert_eq!(cut.code(), "invalid_request");
}

/// A picture whose file is larger than what a body may have in memory.
fn large_png() -> Vec<u8> {
    let mut state = 1u32;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let picture = sango_media::RgbImage::from_fn(300, 300, |_, _| sango_media::Rgb([noise(), noise(), noise()]));
    let png = sango_media::encode_png(&picture, &[]).unwrap();
    assert!(png.len() > MAX_BODY && (png.len() as u64) < MAX_MEDIA);
    png
}

#[tokio::test]
async fn questions_bring_files_of_any_size_and_ask_about_them_again() {
    let server = TestServer::start().await;
    let ask = async |parts: &[(&str, &[u8])]| {
        let (content_type, body) = form(parts);
        server.send("POST", "/v1/jobs", &[("content-type", &content_type)], &body).await
    };
    let question = |text: &str| json!({"kind": "understand", "question": text}).to_string();
    let large = large_png();
    let job = question("What is it?");
    let answer = ask(&[("job", job.as_bytes()), ("media", &large), ("media", &png()), ("media", b"")]).await;
    assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
    let (job, media) = (id(&answer.json()), answer.json()["request"]["media"].clone());
    assert_eq!((media.as_array().unwrap().len(), &media[0]["width"], &media[1]["width"]), (2, &json!(300), &json!(1)));
    let view = server.wait(&job, "finished").await;
    assert_eq!(view["result"]["text"], "What is it?");
    let result = server.get(&format!("/v1/jobs/{job}/result")).await;
    assert_eq!(
        (result.headers["content-type"].as_str(), &result.json()["text"]),
        ("application/json", &json!("What is it?"))
    );

    let path = format!("/v1/jobs/{job}/media/0");
    let whole = server.get(&path).await;
    assert!(whole.status == 200 && whole.body == large);
    assert_eq!(
        (whole.headers["content-type"].as_str(), whole.headers["x-content-type-options"].as_str()),
        ("image/png", "nosniff")
    );
    assert!(whole.headers["content-security-policy"].contains("sandbox"));
    let part = server.send("GET", &path, &[("range", "bytes=1-3")], b"").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"PNG"[..]));
    for nothing in ["2", "-1", "x"] {
        assert_eq!(server.get(&format!("/v1/jobs/{job}/media/{nothing}")).await.code(), "not_found");
    }
    let again = json!({"kind": "understand", "question": "And now?", "media": {"sha256": media[0]["sha256"]}});
    assert_eq!(server.post(&again).await.json()["request"]["media"][0], media[0]);
    assert_eq!(files(&server.folder.path().join("uploads")), 2);

    let (of_image, question, small) = (image("x").to_string(), question("x"), png());
    for (parts, code) in [
        (vec![("media", &large[..]); 4], "too_large"),
        (vec![("job", of_image.as_bytes()), ("media", &small)], "invalid_request"),
        (vec![("job", question.as_bytes()), ("image", &small)], "invalid_request"),
        (vec![("job", question.as_bytes()), ("media", b"no picture")], "invalid_media"),
        (vec![("job", question.as_bytes())], "invalid_option"),
    ] {
        assert_eq!(ask(&parts).await.code(), code);
    }
    assert_eq!(files(&server.folder.path().join("uploads")), 2, "what is refused is not kept");
    let metrics = String::from_utf8(server.get("/metrics").await.body).unwrap();
    assert!(metrics.contains("sango_tokens_total") && metrics.contains("sango_first_token_seconds_count"), "{metrics}");
}

#[tokio::test]
async fn a_pipeline_hands_out_what_each_stage_made() {
    let server = TestServer::start().await;
    let picture = sango_media::encode_png(&sango_media::RgbImage::new(4, 2), &[]).unwrap();
    let job =
        json!({"kind": "pipeline", "question": "a red star moves up over a blue background", "options": {"seed": 1}});
    let (content_type, body) = form(&[("job", job.to_string().as_bytes()), ("media", &picture)]);
    let answer = server.send("POST", "/v1/jobs", &[("content-type", &content_type)], &body).await;
    assert_eq!(answer.status, 202, "{}", answer.json());
    let id = id(&answer.json());
    let done = server.wait(&id, "finished").await;
    let result = format!("/v1/jobs/{id}/result");
    for (n, (stage, kind)) in
        [("understand", "application/json"), ("image", "image/png"), ("video", "video/mp4")].into_iter().enumerate()
    {
        let view = &done["stages"][n]["result"];
        assert_eq!(view["url"], format!("{result}?stage={stage}"));
        let file = server.get(view["url"].as_str().unwrap()).await;
        assert_eq!((file.status, file.headers["content-type"].as_str()), (200, kind));
        let disposition = file.headers["content-disposition"].clone();
        assert!(disposition.contains(&format!("sango-{id}-{stage}.")), "{disposition}");
    }
    let (whole, last) = (server.get(&result).await, server.get(&format!("{result}?stage=video")).await);
    assert_eq!((whole.headers["content-type"].as_str(), &whole.body), ("video/mp4", &last.body));
    let part = server.send("GET", &format!("{result}?stage=video"), &[("range", "bytes=0-3")], b"").await;
    assert_eq!((part.status, &part.body[..]), (206, &b"film"[..]));
    for nothing in ["pipeline", "", "x"] {
        assert_eq!(server.get(&format!("{result}?stage={nothing}")).await.code(), "not_found");
    }
}

#[tokio::test]
async fn every_refusal_has_its_code() {
    let server = TestServer::start().await;
    let unknown = "/v1/jobs/0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b";
    for (path, code) in [
        ("/v1/jobs/nonsense", "unknown_job"),
        (unknown, "unknown_job"),
        (&format!("{unknown}/events"), "unknown_job"),
        (&format!("{unknown}/result"), "unknown_job"),
        ("/v1/jobs?state=done", "invalid_option"),
        ("/v1/jobs?limit=0", "invalid_option"),
        ("/v1/jobs?limit=many", "invalid_request"),
        ("/v1/jobs?colour=red", "invalid_request"),
        ("/v1/nothing", "not_found"),
        ("/nothing.html", "not_found"),
        ("/../../etc/passwd", "not_found"),
        ("/socket/websocket", "invalid_request"),
    ] {
        assert_eq!(server.get(path).await.code(), code, "{path}");
    }
    assert_eq!(server.send("DELETE", unknown, &[], b"").await.code(), "unknown_job");
    assert_eq!(server.send("PUT", "/v1/jobs", &[], b"").await.code(), "method_not_allowed");
    assert_eq!(server.send("POST", "/v1/nothing", &[], b"").await.code(), "not_found");
    let json = [("content-type", "application/json; charset=utf-8")];
    let post = |body: &'static [u8]| server.send("POST", "/v1/jobs", &json, body);
    assert_eq!(post(b"").await.code(), "invalid_request");
    assert_eq!(post(b"{\"kind\":").await.code(), "invalid_request");
    assert_eq!(post(b"\xff\xfe").await.code(), "invalid_request");
    assert_eq!(server.send("POST", "/v1/jobs", &[], b"{}").await.code(), "unsupported_media_type");
    assert_eq!(server.post(&json!({"kind": "video"})).await.code(), "invalid_request");
    assert_eq!(server.post(&json!({"kind": "pipeline"})).await.code(), "invalid_option");
    assert_eq!(server.post(&image(&"x".repeat(10_000))).await.code(), "too_large");
    assert_eq!(server.post(&image(&"x".repeat(MAX_BODY))).await.code(), "too_large");
    assert_eq!(server.post(&json!({"kind": "image", "prompt": "x", "model": "none"})).await.code(), "unknown_model");
    let held = id(&server.post(&image("hold")).await.json());
    assert_eq!(server.get(&format!("/v1/jobs/{held}/result")).await.code(), "not_finished");
    assert_eq!(server.send("DELETE", &format!("/v1/jobs/{held}"), &[], b"").await.json()["state"], "cancelled");
    assert_eq!(server.get(&format!("/v1/jobs/{held}/result")).await.code(), "no_result");
    let failed = id(&server.post(&image("fail")).await.json());
    assert_eq!(server.wait(&failed, "failed").await["error"]["code"], "model_broken");
}

#[tokio::test]
async fn an_idempotency_key_may_be_a_header() {
    let server = TestServer::start().await;
    let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
    let post = async |prompt: &str| {
        let body = json!({"kind": "image", "prompt": prompt}).to_string();
        server.send("POST", "/v1/jobs", &headers, body.as_bytes()).await
    };
    let (first, second) = (post("x").await, post("x").await);
    assert_eq!((first.status, second.status), (202, 200));
    assert_eq!(first.json()["id"], second.json()["id"]);
    assert_eq!(post("y").await.code(), "idempotency_conflict");
}

#[tokio::test]
async fn events_stream_and_resume() {
    let server = TestServer::start().await;
    let job = id(&server.post(&image("hold")).await.json());
    let path = format!("/v1/jobs/{job}/events");
    let live = {
        let path = path.clone();
        let reading = server.get(&path);
        let (answer, ()) = tokio::join!(reading, async { server.runner.release() });
        answer
    };
    assert_eq!(live.headers["content-type"], "text/event-stream");
    let text = String::from_utf8(live.body).unwrap();
    let ids: Vec<u64> = text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect();
    assert_eq!(ids, (1..=9).collect::<Vec<_>>());
    assert!(text.contains("event: preview\n") && text.trim_end().ends_with('}'));
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).next_back().unwrap();
    let last: Value = serde_json::from_str(data).unwrap();
    assert_eq!((&last["event"], &last["n"], last["job"].as_str()), (&json!("finished"), &json!(9), Some(job.as_str())));
    let rest = server.get(&format!("{path}?after=7")).await;
    assert_eq!(String::from_utf8(rest.body).unwrap().matches("id: ").count(), 2);
    let resumed = server.send("GET", &path, &[("last-event-id", "8")], b"").await;
    assert_eq!(String::from_utf8(resumed.body).unwrap().matches("id: ").count(), 1);
    assert_eq!(server.get(&format!("{path}?after=9")).await.status, 204);
    assert_eq!(server.get(&format!("{path}?after=x")).await.code(), "invalid_request");
}

#[tokio::test]
async fn operators_see_how_it_is() {
    let server = TestServer::start().await;
    let models = server.get("/v1/models").await.json();
    assert_eq!(
        (&models["models"][0]["name"], &models["models"][0]["tasks"]),
        (&json!("fake"), &json!(["image", "understand", "video"]))
    );
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get("/readyz").await.status, 200);
    let job = id(&server.post(&image("x")).await.json());
    server.wait(&job, "finished").await;
    let metrics = String::from_utf8(server.get("/metrics").await.body).unwrap();
    for line in
        ["sango_jobs{state=\"finished\"} 1", "sango_runs_total 1", "sango_http_requests_total{status=\"202\"} 1"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn openapi_names_what_is_there() {
    let server = TestServer::start().await;
    let openapi = server.get("/openapi.json").await.json();
    let paths = openapi["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 10);
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{id}", "0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b").replace("{index}", "0");
            let answer = server.send(&method.to_ascii_uppercase(), &path, &[], b"").await;
            if answer.status >= 400 {
                assert!(!["not_found", "method_not_allowed"].contains(&answer.code().as_str()), "{method} {path}");
            }
        }
    }
    let text = openapi.to_string();
    for reference in text.split("\"$ref\":\"#/").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let found = openapi.pointer(&format!("/{reference}"));
        assert!(found.is_some(), "{reference} is not defined");
    }
}

#[tokio::test]
async fn the_page_is_served_with_the_right_headers() {
    let server = TestServer::start().await;
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert_eq!(page.headers["cache-control"], "no-cache");
    assert_eq!(page.headers["content-security-policy"], "frame-ancestors 'none'");
    let known = server.send("GET", "/", &[("if-none-match", &page.headers["etag"])], b"").await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    let html = String::from_utf8(page.body).unwrap();
    // A built page, or the one that says how to build it.
    match html.split("./assets/").nth(1).and_then(|rest| rest.split('"').next()) {
        Some(asset) => {
            let asset = server.get(&format!("/assets/{asset}")).await;
            assert_eq!(asset.status, 200);
            assert!(asset.headers["cache-control"].contains("immutable"));
        }
        None => assert!(html.contains("make web")),
    }
}

#[tokio::test]
async fn other_sites_stay_outside() {
    let server = TestServer::start().await;
    let body = image("x").to_string();
    let from = |origin: &'static str| {
        let (server, body) = (&server, body.as_bytes());
        async move {
            let headers = [("content-type", "application/json"), ("origin", origin)];
            server.send("POST", "/v1/jobs", &headers, body).await
        }
    };
    assert_eq!(from("https://evil.example").await.code(), "forbidden_origin");
    assert_eq!(from("null").await.code(), "forbidden_origin");
    let rebound = server.send("GET", "/v1/jobs", &[("host", "evil.example")], b"").await;
    assert_eq!(rebound.code(), "forbidden_origin");
    let own = format!("http://{}", server.addr);
    let headers = [("content-type", "application/json"), ("origin", own.as_str())];
    assert_eq!(server.send("POST", "/v1/jobs", &headers, body.as_bytes()).await.status, 202);
    assert_eq!(server.refused("?vsn=2.0.0", "https://evil.example").await, Some(403));
    assert_eq!(server.refused("?vsn=2.0.0", &own).await, None);
    assert_eq!(server.refused("", &own).await, None);
    assert_eq!(server.refused("?vsn=1.0.0", &own).await, Some(400));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_identical_posts_are_one_run() {
    let server = std::sync::Arc::new(TestServer::start().await);
    let posts: Vec<_> = (0..100)
        .map(|_| {
            let server = std::sync::Arc::clone(&server);
            tokio::spawn(async move { id(&server.post(&image("hold")).await.json()) })
        })
        .collect();
    let mut ids = std::collections::HashSet::new();
    for post in posts {
        ids.insert(post.await.unwrap());
    }
    assert_eq!(ids.len(), 100);
    server.runner.release();
    for job in ids {
        server.wait(&job, "finished").await;
    }
    assert_eq!(server.runner.count(), 1);
}
