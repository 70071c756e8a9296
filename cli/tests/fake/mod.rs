//! A fake service with scripted answers, a fake S3 that stores uploads, and the command run against both.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

pub(crate) const JOB: &str = "0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b";

/// No server listens on port 1.
pub(crate) const NOWHERE: &str = "http://127.0.0.1:1";

/// Much longer than any step of these tests.
const DEADLINE: Duration = Duration::from_mins(1);

#[derive(Clone)]
pub(crate) struct Reply {
    status: u16,
    header: Option<(&'static str, &'static str)>,
    body: String,
    /// The connection ends before the body does.
    cut: bool,
    /// The body does not end.
    open: bool,
}

impl Reply {
    pub(crate) fn ok(body: &Value) -> Self {
        Self::text(&body.to_string())
    }

    pub(crate) fn text(body: &str) -> Self {
        Self { status: 200, header: None, body: body.to_owned(), cut: false, open: false }
    }

    pub(crate) fn accepted() -> Self {
        Self { status: 202, ..Self::ok(&json!({ "jobId": JOB, "jobStatus": "IN_PROGRESS" })) }
    }

    pub(crate) fn problem(status: u16, code: &str, errors: &Value) -> Self {
        let body = json!({
            "title": "A title", "status": status, "detail": "#/field is a detail.", "code": code, "errors": errors
        });
        Self { status, ..Self::ok(&body) }
    }

    /// A load balancer's answer without a backend.
    pub(crate) fn html(status: u16) -> Self {
        Self { status, ..Self::text("<html>no</html>") }
    }

    pub(crate) fn retry_after(self, seconds: &'static str) -> Self {
        self.header("retry-after", seconds)
    }

    pub(crate) fn header(self, name: &'static str, value: &'static str) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    /// A stream that ends after these events.
    pub(crate) fn events(events: &str) -> Self {
        Self::text(events).header("content-type", "text/event-stream")
    }

    /// The body stays open without more data.
    pub(crate) fn open(self) -> Self {
        Self { open: true, ..self }
    }

    pub(crate) fn cut(self) -> Self {
        Self { cut: true, ..self }
    }
}

/// Replies in order; the last one is repeated.
type Replies = Mutex<VecDeque<Reply>>;

pub(crate) struct Fake {
    address: SocketAddr,
    state: Arc<Served>,
}

struct Served {
    /// The address of uploads.
    bucket: Mutex<String>,
    /// The answers to the next uploads; 200 after that.
    put: Mutex<VecDeque<u16>>,
    submit: Replies,
    transcript: Replies,
    search: Replies,
    /// Retries, deletes and captions.
    other: Replies,
    /// Scripted streams; empty by default.
    events: Replies,
    calls: watch::Sender<Vec<Call>>,
    objects: Mutex<BTreeMap<String, Bytes>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    /// The values of `Authorization`.
    pub(crate) authorization: Option<String>,
}

impl Fake {
    /// A service that accepts every job and answers `GET /transcript` with `transcript`.
    pub(crate) async fn start(transcript: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Served {
            bucket: Mutex::new(format!("http://{address}/audio")),
            put: Mutex::default(),
            submit: Mutex::new([Reply::accepted()].into()),
            transcript: Mutex::new(transcript.into()),
            search: Mutex::default(),
            other: Mutex::default(),
            events: Mutex::new([Reply::problem(406, "STREAMS_NOT_SUPPORTED", &json!([]))].into()),
            calls: watch::Sender::default(),
            objects: Mutex::default(),
        });
        let app = Router::new().fallback(serve).with_state(Arc::clone(&state));
        tokio::spawn(async { axum::serve(listener, app).await });
        Self { address, state }
    }

    pub(crate) fn on_submit(self, replies: Vec<Reply>) -> Self {
        *self.state.submit.lock().expect("not poisoned") = replies.into();
        self
    }

    /// The answers to retries, deletes and requests for captions.
    pub(crate) fn on_other(self, replies: Vec<Reply>) -> Self {
        *self.state.other.lock().expect("not poisoned") = replies.into();
        self
    }

    /// The job's streams, in order.
    pub(crate) fn on_events(self, replies: Vec<Reply>) -> Self {
        *self.state.events.lock().expect("not poisoned") = replies.into();
        self
    }

    /// Sets the address of uploads.
    pub(crate) fn uploading_to(self, bucket: &str) -> Self {
        bucket.clone_into(&mut self.state.bucket.lock().expect("not poisoned"));
        self
    }

    /// Sets the answers to the first uploads.
    pub(crate) fn on_put(self, statuses: &[u16]) -> Self {
        *self.state.put.lock().expect("not poisoned") = statuses.iter().copied().collect();
        self
    }

    pub(crate) fn on_search(self, replies: Vec<Reply>) -> Self {
        *self.state.search.lock().expect("not poisoned") = replies.into();
        self
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every call so far, in order: `METHOD /path?query`.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state.calls.borrow().clone()
    }

    pub(crate) fn count(&self, beginning: &str) -> usize {
        self.calls().iter().filter(|call| call.line.starts_with(beginning)).count()
    }

    /// The number of polls of the job.
    pub(crate) fn looks(&self) -> usize {
        self.calls().iter().filter(|call| call.line == format!("GET /transcript/{JOB}")).count()
    }

    /// The `Last-Event-ID` of each stream.
    pub(crate) fn streams(&self) -> Vec<Option<String>> {
        let calls = self.calls();
        let streams = calls.iter().filter(|call| call.line.ends_with("/events"));
        let last = |call: &Call| Some(call.headers.get("last-event-id")?.to_str().expect("ASCII").to_owned());
        streams.map(last).collect()
    }

    /// Waits for a call that begins with this.
    pub(crate) async fn called(&self, beginning: &str) {
        let mut calls = self.state.calls.subscribe();
        let came = calls.wait_for(|calls| calls.iter().any(|call| call.line.starts_with(beginning)));
        timeout(DEADLINE, came).await.expect("within the deadline").expect("the server lives");
    }

    /// The objects in S3, by path.
    pub(crate) fn objects(&self) -> BTreeMap<String, Bytes> {
        self.state.objects.lock().expect("not poisoned").clone()
    }

    /// The command with these fakes as its service and S3, not started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = longhand(args);
        command.env("LONGHAND_URL", self.url()).env("AWS_ENDPOINT_URL_S3", self.url());
        command
    }

    pub(crate) async fn run(&self, args: &[&str]) -> Ran {
        end(self.command(args).spawn().expect("it starts")).await
    }
}

async fn serve(State(state): State<Arc<Served>>, request: Request) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.expect("a whole body");
    let path = parts.uri.path().to_owned();
    let line = format!("{} {}", parts.method, parts.uri);
    let headers = parts.headers;
    let captions = headers.get("accept").is_some_and(|accept| accept != "*/*");
    let segments = line.contains("segments=") || line.contains("words=");
    let authorization = headers.get("authorization");
    let authorization = authorization.map(|value| value.to_str().expect("ASCII").to_owned());
    let replies = match (&parts.method, path.as_str()) {
        (&Method::PUT, _) => {
            if let Some(status) = state.put.lock().expect("not poisoned").pop_front() {
                state.calls.send_modify(|calls| {
                    calls.push(Call { line, headers: headers.clone(), body: Value::Null, authorization });
                });
                let body = "<Error><Code>SlowDown</Code></Error>";
                return Response::builder().status(status).body(body.into()).expect("a good response");
            }
            let chunked = headers.get("content-encoding").is_some_and(|value| value == "aws-chunked");
            let object = if chunked { unchunk(&bytes) } else { bytes };
            state.objects.lock().expect("not poisoned").insert(path, object);
            let header = |name| headers.get(name).map(|value| value.to_str().expect("text"));
            let body = json!({ "type": header("content-type"), "length": header("content-length") });
            state.calls.send_modify(|calls| {
                calls.push(Call { line, headers: headers.clone(), body, authorization });
            });
            return Response::new(Body::empty());
        }
        (&Method::POST, "/uploads") => {
            let body: Value = serde_json::from_slice(&bytes).expect("JSON");
            let bucket = state.bucket.lock().expect("not poisoned").clone();
            let reply = Reply::ok(&uploads(&bucket, &body));
            state.calls.send_modify(|calls| {
                calls.push(Call { line, headers: headers.clone(), body, authorization });
            });
            return Response::new(reply.body.into());
        }
        (&Method::POST, "/transcribe") => &state.submit,
        (&Method::GET, "/transcript/search") => &state.search,
        (&Method::GET, path) if path.ends_with("/events") => &state.events,
        (&Method::GET, path) if path.matches('/').count() == 2 && !captions && !segments => &state.transcript,
        (_, path) if path.starts_with("/transcript/") => &state.other,
        _ => panic!("an unexpected call: {line}"),
    };
    let reply = {
        let mut replies = replies.lock().expect("not poisoned");
        if replies.len() > 1 { replies.pop_front() } else { replies.front().cloned() }
    };
    let body = serde_json::from_slice(&bytes).unwrap_or_default();
    state.calls.send_modify(|calls| calls.push(Call { line, headers: headers.clone(), body, authorization }));
    let reply = reply.expect("a reply was prepared");
    let mut response = Response::builder().status(reply.status);
    if let Some((name, value)) = reply.header {
        response = response.header(name, value);
    }
    if reply.cut {
        response = response.header("content-length", reply.body.len() + 1);
    }
    let body = if reply.open {
        let first = futures::stream::once(async { Ok::<_, Infallible>(reply.body) });
        Body::from_stream(first.chain(futures::stream::pending()))
    } else {
        reply.body.into()
    };
    response.body(body).expect("a good response")
}

/// The answer to `POST /uploads`.
fn uploads(bucket: &str, body: &Value) -> Value {
    let files = body["files"].as_array().expect("files").iter();
    let uploads = files.map(|file| {
        let key = format!(
            "uploads/{}/{}",
            body["userId"].as_str().unwrap_or("caller"),
            file["name"].as_str().expect("a name")
        );
        json!({
            "audioChunkPath": format!("s3://audio/{key}"),
            "url": format!("{bucket}/{key}?X-Amz-Signature=abc"),
            "method": "PUT",
            "headers": { "content-length": file["bytes"].to_string(), "content-type": file["contentType"] },
            "expiresTime": "2026-11-22T23:10:22.000Z",
        })
    });
    json!({ "uploads": uploads.collect::<Vec<_>>() })
}

/// The content of a body in S3's `aws-chunked` encoding: `SIZE[;..]\r\nBYTES\r\n .. 0\r\n trailers`.
fn unchunk(mut body: &[u8]) -> Bytes {
    let mut content = Vec::new();
    loop {
        let end = body.windows(2).position(|pair| pair == b"\r\n").expect("a size line");
        let line = std::str::from_utf8(&body[..end]).expect("text");
        let size = line.split(';').next().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.expect("a size");
        if size == 0 {
            return content.into();
        }
        content.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = &body[end + 2 + size + 2..];
    }
}

/// The command with an empty environment.
pub(crate) fn longhand(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longhand"));
    command
        .env_clear()
        .envs([
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("LONGHAND_AUDIO_BUCKETS", "audio,other"),
        ])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The error document on the last line of stderr.
    pub(crate) fn error(&self) -> Value {
        let last = self.stderr.lines().last().expect("something on stderr");
        let document: Value = serde_json::from_str(last).expect("JSON on the last line");
        document["error"].clone()
    }
}

pub(crate) async fn end(child: Child) -> Ran {
    let ended = timeout(DEADLINE, child.wait_with_output()).await.expect("within the deadline");
    let Output { status, stdout, stderr } = ended.expect("it ran");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// A `TranscriptResult` whose chunks have these statuses.
pub(crate) fn result(job_status: &str, text: Option<&str>, chunks: &[&str]) -> Value {
    let chunks: Vec<_> = chunks
        .iter()
        .enumerate()
        .map(|(index, status)| {
            let mut chunk = json!({
                "index": index,
                "audioChunkPath": format!("s3://audio/uploads/x/{index:02}-a.wav"),
                "chunkStatus": status,
                "attempts": 1,
            });
            if *status == "FAILED" {
                chunk["error"] = json!({ "code": "AUDIO_NOT_FOUND", "message": "there is no such object" });
            }
            chunk
        })
        .collect();
    json!({
        "jobId": JOB,
        "userId": "ana",
        "jobStatus": job_status,
        "submittedTime": "2026-11-22T23:10:22.000Z",
        "completedTime": null,
        "transcription": text,
        "partial": job_status != "COMPLETED",
        "chunks": chunks,
        "newerThanThisCommand": true,
    })
}
