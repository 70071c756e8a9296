//! Server-sent events of a job.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use axum::response::Response;
use futures::StreamExt;
use longhand_shared::domain::attempt::Claimant;
use longhand_shared::domain::job::{ChunkError, ErrorCode, Verdict};
use longhand_shared::store::{Claim, JobStore};
use longhand_shared::{JobId, Timestamp};
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::ServiceExt;

use crate::jobs::{chunk, settle, words};
use crate::support::Api;
use crate::waiting::{submitted, with_room};

async fn open(api: &Api, job: JobId, last: Option<&str>) -> Response {
    let mut request = Request::get(format!("/transcript/{job}/events"));
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let request = request.body(Body::empty()).expect("a request");
    api.router.clone().oneshot(request).await.expect("the router never fails")
}

struct Events(BodyDataStream);

#[derive(Debug)]
struct Event {
    id: String,
    name: String,
    data: Value,
}

impl Events {
    async fn of(api: &Api, job: JobId, last: Option<&str>) -> Self {
        let response = open(api, job, last).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-cache, no-transform");
        let mut body = response.into_body().into_data_stream();
        assert_eq!(body.next().await.expect("a frame").expect("bytes"), "retry: 2000\n\n");
        Self(body)
    }

    async fn frame(&mut self) -> Option<String> {
        let frame = self.0.next().await?.expect("bytes");
        Some(String::from_utf8(frame.to_vec()).expect("UTF-8"))
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Event> {
        let frame = self.frame().await?;
        let field = |name: &str| {
            let line = frame.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            line.unwrap_or_else(|| panic!("no {name} in {frame:?}")).to_owned()
        };
        let data = serde_json::from_str(&field("data")).expect("JSON");
        Some(Event { id: field("id"), name: field("event"), data })
    }

    async fn all(mut self) -> Vec<Event> {
        let mut all = vec![];
        while let Some(event) = self.next().await {
            all.push(event);
        }
        all
    }
}

fn content(event: &Event) -> (&str, Value) {
    let data = &event.data;
    match event.name.as_str() {
        "chunk" => ("chunk", json!([data["index"], data["chunkStatus"], data["attempts"]])),
        name => (name, data["jobStatus"].clone()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_is_followed_to_its_end() {
    let api = Arc::new(Api::new());
    let job = submitted(&api).await;
    let mut events = Events::of(&api, job, None).await;
    let first = events.next().await.expect("an event");
    assert_eq!(content(&first), ("job", json!("IN_PROGRESS")));
    assert_eq!(first.data, json!({"jobId": job.to_string(), "jobStatus": "IN_PROGRESS", "chunkCount": 2}));
    for index in 0..2 {
        let event = events.next().await.expect("an event");
        assert_eq!(content(&event), ("chunk", json!([index, "PENDING", 0])));
    }
    // Nothing happens for a while, but a sign of life.
    assert_eq!(events.frame().await.as_deref(), Some(":\n\n"));
    settle(&api, chunk(job, 1), Verdict::Failed(ChunkError::new(ErrorCode::AsrRejected, "no"))).await;
    let failed = events.next().await.expect("an event");
    assert_eq!(content(&failed), ("chunk", json!([1, "FAILED", 0])));
    assert_eq!(failed.data["error"]["code"], "ASR_REJECTED");
    settle(&api, chunk(job, 0), words("hello")).await;
    assert_eq!(content(&events.next().await.expect("an event")), ("chunk", json!([0, "COMPLETED", 0])));
    let last = events.next().await.expect("an event");
    assert_eq!(last.data, api.get(&format!("/transcript/{job}")).await.json(200), "the whole result");
    assert!(events.next().await.is_none(), "closed");

    // A client that has read everything should not reconnect; another gets what it lacks.
    assert_eq!(open(&api, job, Some(&last.id)).await.status(), 204);
    let missed = Events::of(&api, job, Some(&failed.id)).await.all().await;
    let missed: Vec<_> = missed.iter().map(content).collect();
    assert_eq!(missed, [("chunk", json!([0, "COMPLETED", 0])), ("job", json!("FAILED"))]);
    for nonsense in ["7", "", ";", "F;F0", "\u{ff}", &"x".repeat(2000)] {
        assert_eq!(Events::of(&api, job, Some(nonsense)).await.all().await.len(), 3, "{nonsense}");
    }
}

#[tokio::test(start_paused = true)]
async fn failed_calls_of_the_model_are_events() {
    let api = Arc::new(Api::new());
    let job = submitted(&api).await;
    let mut events = Events::of(&api, job, None).await;
    for _ in 0..3 {
        events.next().await.expect("an event");
    }
    let by = Claimant { origin: "o", message: "m", generation: 0, redelivered: false, worker: "w" };
    let claim = api.store.claim(chunk(job, 1), by, Timestamp::now(), Duration::from_mins(5)).await;
    let Ok(Claim::Claimed(attempt)) = claim else { panic!("{claim:?}") };
    let claimed = events.next().await.expect("an event");
    assert_eq!((&claimed.data["chunkStatus"], claimed.data.get("running")), (&json!("IN_PROGRESS"), None));
    for calls in [1, 2] {
        let retrying = attempt.retrying(ErrorCode::AsrTimeout, calls, 4);
        api.store.note(chunk(job, 1), &retrying).await.expect("in memory");
        let event = events.next().await.expect("an event");
        let running = &event.data["running"];
        assert_eq!(running["asrCalls"], calls);
        assert_eq!((&running["code"], &running["mostCalls"]), (&json!("ASR_TIMEOUT"), &json!(4)));
    }
    settle(&api, chunk(job, 1), words("hello")).await;
    let done = events.next().await.expect("an event");
    assert_eq!((content(&done), done.data.get("running")), (("chunk", json!([1, "COMPLETED", 1])), None));
}

#[tokio::test(start_paused = true)]
async fn a_stream_resumes_after_each_id() {
    let api = Api::new();
    let job = submitted(&api).await;
    settle(&api, chunk(job, 0), words("hello")).await;
    settle(&api, chunk(job, 1), words("world")).await;
    let all = Events::of(&api, job, None).await.all().await;
    assert_eq!(all.len(), 3);
    for (read, event) in all.iter().enumerate().take(2) {
        let rest = Events::of(&api, job, Some(&event.id)).await.all().await;
        let ids = |events: &[Event]| events.iter().map(|event| event.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&rest), ids(&all[read + 1..]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_client_gets_the_current_state() {
    let api = Api::new();
    let job = submitted(&api).await;
    let _other = Events::of(&api, job, None).await;
    sleep(Duration::from_millis(1)).await;
    settle(&api, chunk(job, 0), words("hello")).await;
    let mut events = Events::of(&api, job, Some("I;C0.P0")).await;
    settle(&api, chunk(job, 1), words("world")).await;
    let next = events.next().await.expect("an event");
    assert_eq!(
        content(&next),
        ("chunk", json!([1, "COMPLETED", 0])),
        "and nothing that it knows, or knew before"
    );
}

#[tokio::test(start_paused = true)]
async fn streams_end_with_the_process_and_resume_elsewhere() {
    let api = Api::new();
    let job = submitted(&api).await;
    let events = Events::of(&api, job, None).await;
    sleep(Duration::from_secs(1)).await;
    api.stop.cancel();
    let read = events.all().await;
    assert_eq!(read.len(), 3, "the job and two chunks");
}

#[tokio::test(start_paused = true)]
async fn streams_are_limited_and_only_jobs_are_followed() {
    let api = with_room(40, Duration::from_mins(15));
    let unknown = format!("/transcript/{}/events", JobId::random());
    api.get(&unknown).await.problem(404, "JOB_NOT_FOUND");
    api.get("/transcript/7/events").await.problem(400, "INVALID_JOB_ID");
    let jobs = [submitted(&api).await, submitted(&api).await, submitted(&api).await];
    let path = |job: JobId| format!("/transcript/{job}/events");
    let mut open_streams = vec![];
    // A twentieth for each job.
    for job in &jobs[..2] {
        open_streams.push(Events::of(&api, *job, None).await);
        open_streams.push(Events::of(&api, *job, None).await);
        let refused = api.get(&path(*job)).await;
        refused.problem(429, "TOO_MANY_WAITING");
        assert_ne!(refused.header("retry-after"), "");
    }
    // A tenth for each user; others are served.
    api.get(&path(jobs[2])).await.problem(429, "TOO_MANY_WAITING");
    let others = crate::support::body_with("userId", json!("bob"));
    let others = crate::jobs::job_id(&api.transcribe(&others).await.json(202));
    Events::of(&api, others, None).await;
    open_streams.pop();
    Events::of(&api, jobs[2], None).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_age_and_is_resumed() {
    let api = with_room(40, Duration::from_mins(2));
    let job = submitted(&api).await;
    let mut events = Events::of(&api, job, None).await;
    let mut last = String::new();
    let began = tokio::time::Instant::now();
    while let Some(frame) = events.frame().await {
        if let Some(id) = frame.lines().find_map(|line| line.strip_prefix("id: ")) {
            last = id.to_owned();
        }
    }
    assert_eq!(began.elapsed().as_secs(), 120);
    settle(&api, chunk(job, 0), words("hello")).await;
    let next = Events::of(&api, job, Some(&last)).await.next().await.expect("what is new");
    assert_eq!(content(&next), ("chunk", json!([0, "COMPLETED", 0])), "and nothing that it knows");
}
