//! The API with everything around it in memory, and answers that check themselves.

use std::sync::{Arc, LazyLock};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use longhand_api::waiting::Waiting;
use longhand_api::{AppState, Auth, Origins, Rendered, Signer, Tickets, router};
use longhand_shared::cache::Cache;
use longhand_shared::domain::path::AudioSources;
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::queue::ChunkQueue;
use longhand_shared::queue::memory::MemoryQueue;
use longhand_shared::store::JobStore;
use longhand_shared::store::memory::MemoryStore;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub(crate) struct Api {
    pub(crate) router: Router,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) queue: Arc<MemoryQueue>,
    /// Ends the waits.
    pub(crate) stop: CancellationToken,
    /// The audio root: `home/audio`, with a file and a link that leaves it.
    _home: TempDir,
}

impl Api {
    pub(crate) fn new() -> Self {
        let store = Arc::new(MemoryStore::new());
        let queue = Arc::new(MemoryQueue::new());
        Self::build(store.clone(), queue.clone(), store, queue, |state| state)
    }

    /// With something else set up.
    pub(crate) fn with(change: impl FnOnce(AppState) -> AppState) -> Self {
        let store = Arc::new(MemoryStore::new());
        let queue = Arc::new(MemoryQueue::new());
        Self::build(store.clone(), queue.clone(), store, queue, change)
    }

    pub(crate) fn with_store(store: impl JobStore + 'static) -> Self {
        let queue = Arc::new(MemoryQueue::new());
        Self::build(Arc::new(store), queue.clone(), Arc::default(), queue, |state| state)
    }

    pub(crate) fn with_queue(queue: impl ChunkQueue + 'static) -> Self {
        let store = Arc::new(MemoryStore::new());
        let unused = Arc::new(MemoryQueue::new());
        Self::build(store.clone(), Arc::new(queue), store, unused, |state| state)
    }

    fn build(
        used_store: Arc<dyn JobStore>,
        used_queue: Arc<dyn ChunkQueue>,
        store: Arc<MemoryStore>,
        queue: Arc<MemoryQueue>,
        change: impl FnOnce(AppState) -> AppState,
    ) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let root = home.path().join("audio");
        std::fs::create_dir(&root).expect("a folder");
        std::fs::write(root.join("a.wav"), "RIFF").expect("a file");
        std::fs::write(home.path().join("secret.wav"), "RIFF").expect("a file");
        std::os::unix::fs::symlink(home.path().join("secret.wav"), root.join("link.wav")).expect("a link");
        let sources = AudioSources {
            buckets: vec!["audio".to_owned()],
            hosts: "good.example".parse().expect("a host"),
            root: Some(root),
        };
        let stop = CancellationToken::new();
        let waiting = Waiting::new(used_store.clone(), Cache::local(), stop.clone());
        let state = AppState {
            lifecycle: Lifecycle::new(used_store, used_queue),
            sources: Arc::new(sources),
            callback_hosts: Arc::new(CALLBACK_HOSTS.parse().expect("hosts")),
            s3: s3(),
            upload_signer: Arc::new(signer(s3())),
            auth: Arc::new(Auth::none()),
            limits: Arc::default(),
            origins: Origins::default(),
            tickets: Tickets::new(None),
            dead_letters: None,
            waiting,
            rendered: Rendered::default(),
            stop: stop.clone(),
        };
        let router = router(change(state));
        Self { router, store, queue, stop, _home: home }
    }

    /// Changes jobs as a worker does.
    pub(crate) fn lifecycle(&self) -> Lifecycle {
        Lifecycle::new(self.store.clone(), self.queue.clone())
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.expect("the router never fails");
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.expect("a body in memory");
        let answer = Answer { status: parts.status, headers: parts.headers, body };
        answer.check_description(&method, &path);
        answer
    }

    pub(crate) async fn call(&self, method: &str, uri: &str) -> Answer {
        let request = Request::builder().method(method).uri(uri).body(Body::empty());
        self.send(request.expect("a request")).await
    }

    pub(crate) async fn get(&self, uri: &str) -> Answer {
        self.call("GET", uri).await
    }

    /// A call with these credentials, and with a body unless it is empty.
    pub(crate) async fn call_as(&self, authorization: &str, method: &str, uri: &str, body: &str) -> Answer {
        let request = Request::builder().method(method).uri(uri).header("authorization", authorization);
        self.send(request.body(body.to_owned().into()).expect("a request")).await
    }

    /// `POST /transcribe` with an unchanged body.
    pub(crate) async fn post(&self, body: impl Into<Body>) -> Answer {
        self.post_to("/transcribe", body).await
    }

    pub(crate) async fn post_to(&self, uri: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post(uri).header("content-type", "application/json");
        self.send(request.body(body.into()).expect("a request")).await
    }

    pub(crate) async fn transcribe(&self, body: &Value) -> Answer {
        self.post(body.to_string()).await
    }
}

/// An S3 that is never called: addresses are signed here.
pub(crate) fn s3() -> aws_sdk_s3::Client {
    let credentials = Credentials::new("AKIDTEST", "secret", None, None, "test");
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials);
    aws_sdk_s3::Client::from_conf(config.build())
}

/// Signs uploads with credentials that never expire.
pub(crate) fn signer(s3: aws_sdk_s3::Client) -> Signer {
    let credentials = Credentials::new("AKIDTEST", "secret", None, None, "test");
    Signer::new(s3, SharedCredentialsProvider::new(credentials))
}

/// The hosts that webhooks may be delivered to.
pub(crate) const CALLBACK_HOSTS: &str = "receiver.example, http://127.0.0.1:9099";

/// A body that is good in every field.
pub(crate) fn good_body() -> Value {
    json!({"userId": "ana", "audioChunkPaths": ["s3://audio/a.wav", "a.wav"]})
}

/// [`good_body`] with one field changed; null takes it away.
pub(crate) fn body_with(field: &str, value: Value) -> Value {
    let mut body = good_body();
    body[field] = value;
    body
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }

    /// A problem must be among those that the description has for the operation.
    #[track_caller]
    fn check_description(&self, method: &str, path: &str) {
        static DOCUMENT: LazyLock<Value> =
            LazyLock::new(|| serde_json::from_str(longhand_api::description()).expect("JSON"));
        let parts: Vec<&str> = path.split('/').collect();
        let described = match parts[..] {
            ["", "transcript", "search"] => path,
            ["", "transcript", id] if !id.is_empty() => "/transcript/{jobId}",
            ["", "transcript", _, rest @ ("events" | "retry")] => &format!("/transcript/{{jobId}}/{rest}"),
            _ => path,
        };
        let operation = &DOCUMENT["paths"][described][method.to_lowercase()];
        if operation.is_null() || self.header("content-type") != "application/problem+json" {
            return;
        }
        let code = self.any_problem()["code"].as_str().expect("text").to_owned();
        let problems = &operation["responses"][self.status.as_str()]["content"]["application/problem+json"];
        assert!(problems["examples"].get(&code).is_some(), "{method} {described} does not describe {code}");
    }

    /// The body of a success.
    #[track_caller]
    pub(crate) fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/json");
        let cache_control = self.header("cache-control");
        assert!(cache_control == "no-store" || cache_control.starts_with("private, "), "{cache_control}");
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The body of a failure, after checks of all that RFC 9457 and this API promise.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        let problem = self.any_problem();
        assert_eq!(self.status, status, "{problem}");
        assert_eq!(problem["code"], code, "{problem}");
        problem
    }

    #[track_caller]
    pub(crate) fn any_problem(&self) -> Value {
        assert!(self.status.is_client_error() || self.status.is_server_error(), "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        assert_eq!(self.header("cache-control"), "no-store");
        let problem: Value = serde_json::from_slice(&self.body).expect("JSON");
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["title"], self.status.canonical_reason().expect("a known status"));
        assert_eq!(problem["requestId"], self.header("x-request-id"));
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{problem}");
        problem
    }

    /// The faults of a bad request, in order, as (pointer, detail).
    #[track_caller]
    pub(crate) fn faults(&self) -> Vec<(String, String)> {
        let problem = self.problem(400, "INVALID_REQUEST");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let faults = problem["errors"].as_array().expect("faults");
        faults.iter().map(|fault| (text(&fault["pointer"]), text(&fault["detail"]))).collect()
    }

    /// That there is one fault, here, and that it says this.
    #[track_caller]
    pub(crate) fn assert_fault(&self, pointer: &str, detail: &str) {
        let faults = self.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].0, pointer, "{faults:?}");
        assert!(faults[0].1.contains(detail), "{detail:?} is not in {faults:?}");
        let problem = self.any_problem();
        assert_eq!(problem["detail"], format!("{pointer} {}", faults[0].1));
    }
}
