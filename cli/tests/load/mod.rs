//! `longhand load` against fakes of the service and of the simulated model.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fake::{NOWHERE, Ran, end, longhand};

/// The behaviour of the fake. By default it accepts and completes every job at once.
#[derive(Clone, Copy, Default)]
struct Manner {
    /// Numbers of jobs, from 0.
    fails: Option<usize>,
    lost: Option<usize>,
    in_progress: Option<usize>,
    refused: Option<usize>,
    wrong: Option<usize>,
    /// The first submit is answered only after this many submits.
    first_waits_for: usize,
    /// Whether `/_sim/books` is missing.
    no_sim: bool,
    /// Whether `/metrics` is missing.
    no_metrics: bool,
    /// Whether each reading of `/metrics` is from a new process.
    restarts: bool,
}

struct Made {
    manner: Manner,
    jobs: Mutex<Vec<Job>>,
    came: watch::Sender<usize>,
    readings: Mutex<u32>,
    looks: Mutex<u32>,
}

struct Job {
    user: String,
    paths: Vec<String>,
    arrived: Instant,
}

struct Service {
    address: SocketAddr,
    made: Arc<Made>,
}

/// How long a request for a result takes.
const ENDS_AFTER: Duration = Duration::from_millis(300);

/// The id of a job by its number.
fn id(number: usize) -> String {
    format!("0198c1d2-7a3e-7cc0-8000-{number:012}")
}

impl Service {
    async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let made = Arc::new(Made {
            manner,
            jobs: Mutex::default(),
            came: watch::Sender::default(),
            readings: Mutex::default(),
            looks: Mutex::default(),
        });
        let app = Router::new()
            .route("/healthz", get(StatusCode::OK))
            .route("/metrics", get(metrics))
            .route("/_sim/books", get(books))
            .route("/transcribe", post(submit))
            .route("/transcript/{id}", get(transcript))
            // S3's PutObject.
            .fallback(|uri: Uri| async move { assert!(uri.path().starts_with("/audio/load/"), "{uri}") })
            .with_state(Arc::clone(&made));
        tokio::spawn(async { axum::serve(listener, app).await });
        Self { address, made }
    }

    async fn load(&self, args: &str) -> Ran {
        let mut command = longhand(&["load"]);
        let url = format!("http://{}", self.address);
        command.args(args.split_whitespace());
        command.envs([("LONGHAND_URL", &url), ("AWS_ENDPOINT_URL_S3", &url), ("ASR_BASE_URL", &url)]);
        command.env("LONGHAND_HEALTH_LISTEN", self.address.to_string());
        end(command.spawn().expect("it starts")).await
    }
}

async fn submit(State(made): State<Arc<Made>>, Json(body): Json<Value>) -> Response {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let number = {
        let mut jobs = made.jobs.lock().expect("not poisoned");
        jobs.push(Job {
            user: text(&body["userId"]),
            paths: body["audioChunkPaths"].as_array().expect("paths").iter().map(text).collect(),
            arrived: Instant::now(),
        });
        jobs.len() - 1
    };
    made.came.send_replace(number + 1);
    if number == 0 {
        let mut came = made.came.subscribe();
        came.wait_for(|came| *came >= made.manner.first_waits_for).await.expect("the server lives");
    }
    if made.manner.refused == Some(number) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    (StatusCode::ACCEPTED, Json(json!({ "jobId": id(number) }))).into_response()
}

async fn transcript(State(made): State<Arc<Made>>, Path(asked): Path<String>) -> Response {
    tokio::time::sleep(ENDS_AFTER).await;
    *made.looks.lock().expect("not poisoned") += 1;
    let number: usize = asked.rsplit('-').next().and_then(|number| number.parse().ok()).expect("a number");
    let manner = made.manner;
    if manner.lost == Some(number) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let jobs = made.jobs.lock().expect("not poisoned");
    let (status, chunk_status) = if manner.fails == Some(number) {
        ("FAILED", "FAILED")
    } else if manner.in_progress == Some(number) {
        ("IN_PROGRESS", "PENDING")
    } else {
        ("COMPLETED", "COMPLETED")
    };
    let mut names: Vec<_> = jobs[number].paths.iter().map(|path| format!("amber {}", name(path))).collect();
    if manner.wrong == Some(number) {
        names.reverse();
    }
    let chunk = |(index, path): (usize, &String)| {
        let claimed = format!("2026-11-22T23:10:{number:02}.070Z");
        let attempt =
            json!({ "startedTime": claimed, "worker": "w", "outcome": chunk_status, "seconds": 1.0 });
        let mut chunk = json!({
            "index": index,
            "audioChunkPath": path,
            "chunkStatus": chunk_status,
            "attempts": 1,
            "completedTime": (chunk_status != "PENDING").then_some("2026-11-22T23:10:09.000Z"),
            "history": if chunk_status == "PENDING" { json!([]) } else { json!([attempt]) },
        });
        if chunk_status == "FAILED" {
            chunk["error"] = json!({ "code": "ASR_REJECTED", "message": "the model refused it" });
        }
        chunk
    };
    Json(json!({
        "jobId": asked,
        "userId": jobs[number].user,
        "jobStatus": status,
        "submittedTime": format!("2026-11-22T23:10:{number:02}.000Z"),
        // The job of number n takes 4 s and n tenths.
        "completedTime": (status != "IN_PROGRESS").then(|| format!("2026-11-22T23:10:{:02}.{number}00Z", number + 4)),
        "transcription": names.join(" "),
        "partial": status != "COMPLETED",
        "chunks": jobs[number].paths.iter().enumerate().map(chunk).collect::<Vec<_>>(),
    }))
    .into_response()
}

/// Chunk n of a job was called for twice; the call that gave its transcript took 100 ms and 10 ms more for each n.
async fn books(State(made): State<Arc<Made>>) -> Response {
    if made.manner.no_sim {
        return StatusCode::NOT_FOUND.into_response();
    }
    let mut files = BTreeMap::from([(
        "somebody-elses.wav".to_owned(),
        json!({ "calls": 9, "ok": 9, "arrived": [0, 0, 0], "took": [90_000, 90_000, 90_000] }),
    )]);
    for job in made.jobs.lock().expect("not poisoned").iter() {
        for (index, path) in job.paths.iter().enumerate() {
            let took = json!([5, 100 + 10 * index]);
            files.insert(name(path), json!({ "calls": 2, "ok": 1, "arrived": [0, 1000], "took": took }));
        }
    }
    Json(json!({ "calls": 99, "per_file": files })).into_response()
}

async fn metrics(State(made): State<Arc<Made>>) -> Response {
    if made.manner.no_metrics {
        return StatusCode::NOT_FOUND.into_response();
    }
    let mut readings = made.readings.lock().expect("not poisoned");
    *readings += 1;
    // Two before, of the api and of the worker, and two after.
    let second = u32::from(*readings > 2);
    let started = if made.manner.restarts { 1_000 * *readings } else { 1_000 };
    let calls = "longhand_aws_calls_total{service=\"dynamodb\",operation=\"UpdateItem\",outcome=";
    format!(
        "{calls}\"ok\"}} {}\n{calls}\"throttled\"}} {}\nprocess_start_time_seconds {started}\n\
         process_cpu_seconds_total {}\nprocess_peak_resident_memory_bytes 20000000\n",
        100 + 30 * second,
        second,
        f64::from(second) * 1.5 + 1.0
    )
    .into_response()
}

fn name(path: &str) -> String {
    path.rsplit('/').next().expect("a name").to_owned()
}

fn json_of(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("no document: {ran:?}"))
}

fn close(value: &Value, expected: f64) -> bool {
    value.as_f64().is_some_and(|value| (value - expected).abs() < 1e-6)
}

#[tokio::test]
async fn a_successful_load_is_reported() {
    let service = Service::start(Manner::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("report.json");
    let file = file.to_str().expect("UTF-8");
    let ran = service.load(&format!("--jobs 4 --chunks 3 --rate 0 --json --report {file}")).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report = json_of(&ran);
    let written = std::fs::read_to_string(file).expect("a report");
    assert_eq!(report, serde_json::from_str::<Value>(&written).expect("JSON"));

    let ends =
        json!({ "asked": 4, "completed": 4, "failed": 0, "lost": 0, "unfinished": 0, "notAccepted": 0 });
    assert_eq!(report["jobs"], ends);
    // The slowest chunk of each job takes 120 ms, and 70 ms pass until its claim.
    let figure = |name: &str| report.pointer(name).and_then(Value::as_f64).expect("a figure");
    for rank in ["p50", "max"] {
        let turnaround = figure(&format!("/turnaroundSeconds/{rank}"));
        assert!(turnaround >= ENDS_AFTER.as_secs_f64(), "{report}");
        for (name, expected) in [
            ("slowestChunkSeconds", 0.12),
            ("overheadSeconds", turnaround - 0.12),
            ("queueWaitSeconds", 0.07),
            ("overheadWithoutWaitSeconds", turnaround - 0.12 - 0.07),
        ] {
            let found = figure(&format!("/model/{name}/{rank}"));
            assert!((found - expected).abs() < 1e-6, "{name} {rank}: {found}, not {expected}");
        }
    }
    assert!(report["submitLatencySeconds"]["max"].as_f64().is_some_and(|max| max > 0.0), "{report}");
    // From 23:10:00 to 23:10:07.3.
    assert!(close(&report["throughput"]["seconds"], 7.3), "{report}");
    assert!(close(&report["throughput"]["chunksPerSecond"], 12.0 / 7.3), "{report}");
    assert!(close(&report["answeredWithin15Seconds"], 100.0), "{report}");
    let model = &report["model"];
    assert_eq!((&model["calls"], &model["mostCallsPerChunk"]), (&json!(24), &json!(2)));
    // Those that took 100 ms and more overlap each other, not those of 5 ms before them.
    assert_eq!((&model["mostAtOnce"], &model["transcriptsRight"]), (&json!(12), &json!(4)));

    // Two processes, 31 calls each, one of them throttled.
    assert!(close(&report["awsCallsPerJob"], 62.0 / 4.0), "{report}");
    assert!(close(&report["awsCallsPerJobWithoutReads"], 62.0 / 4.0), "{report}");
    let calls = report["awsCalls"].as_array().expect("calls");
    assert_eq!(calls.len(), 2, "{report}");
    assert_eq!((&calls[1]["process"], &calls[1]["operation"]), (&json!("worker"), &json!("UpdateItem")));
    assert_eq!((&calls[1]["calls"], &calls[1]["notOk"]), (&json!(31.0), &json!(1.0)));
    let used = &report["processes"][0];
    assert!(close(&used["cpuSeconds"], 1.5) && close(&used["peakMemoryBytes"], 2e7), "{used}");
    assert_eq!(report["notes"], json!([]));

    // File names are unique, and each job is polled once.
    let jobs = service.made.jobs.lock().expect("not poisoned");
    let names: std::collections::BTreeSet<_> =
        jobs.iter().flat_map(|job| &job.paths).map(|p| name(p)).collect();
    assert_eq!(names.len(), 12);
    assert_eq!((*service.made.looks.lock().expect("not poisoned"), &report["looks"]), (4, &json!(4)));
}

#[tokio::test]
async fn the_text_report_has_every_figure_with_its_unit() {
    let service = Service::start(Manner::default()).await;
    let ran = service.load("--jobs 2 --chunks 2 --rate 100").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for expected in [
        "jobs                      2 completed, 0 failed, 0 lost, 0 unfinished, 0 not accepted\n",
        "seconds                        p50       p90       p99       max\n",
        "  from the planned submit until the result arrives\n",
        "answered within 15 s        100.0 %  of the jobs accepted\n",
        "slowest chunk's model time   0.110     0.110     0.110     0.110  as the simulated model recorded it\n",
        "  waiting in the queue       0.070     0.070     0.070     0.070  from submittedTime to the claim of",
        "  turnaround minus the row above\n",
        "  other overhead             ",
        "model calls               8, 4 at once at most, 2 for one chunk at most\n",
        "transcripts               2 right, 0 wrong\n",
        "dynamodb UpdateItem (31 calls, 1 of them not ok)\n",
        " 1.5 s CPU, 20.0 MB peak memory since its start, http://",
    ] {
        assert!(ran.stdout.contains(expected), "{expected}{}", ran.stdout);
    }
}

#[tokio::test]
async fn the_steps_of_a_job_are_traced() {
    let service = Service::start(Manner::default()).await;
    let ran = service.load("--jobs 1 --chunks 2 --rate 0 --trace").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let (_, steps) = ran.stdout.split_once("steps of job ").expect("a trace");
    let count = |text: &str| steps.matches(text).count();
    for (step, times) in [
        ("0.000  the planned submit\n", 1),
        ("  the client has the answer, 202\n", 1),
        ("  chunk 1 of 2: a worker has the message\n", 1),
        ("  chunk 2 of 2: a worker has the message\n", 1),
        ("; the model took 0.110 s\n", 1),
        ("  the client has the result\n", 1),
    ] {
        assert_eq!(count(step), times, "{step}{steps}");
    }
    let ran = service.load("--jobs 1 --chunks 2 --rate 0 --trace --json").await;
    assert_eq!(json_of(&ran)["jobs"]["completed"], json!(1), "one document");
}

#[tokio::test]
async fn a_slow_answer_does_not_delay_the_next_submit() {
    // If submits waited for answers, there would be no second job and no answer to the first.
    let service = Service::start(Manner { first_waits_for: 5, ..Manner::default() }).await;
    let began = Instant::now();
    let ran = service.load("--jobs 5 --chunks 1 --rate 10 --json").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    // The fifth is due 400 ms after the first, and not submitted before.
    let last = service.made.jobs.lock().expect("not poisoned")[4].arrived;
    assert!(last - began >= Duration::from_millis(400), "{:?}", last - began);
    assert!(json_of(&ran)["submitLatencySeconds"]["max"].as_f64().is_some_and(|max| max >= 0.4), "{ran:?}");
}

#[tokio::test]
async fn jobs_that_do_not_complete_are_counted_by_kind() {
    let cases = [
        (Manner { fails: Some(1), ..Manner::default() }, 1, "failed", "LOAD_FAILED", "the model refused it"),
        (Manner { lost: Some(1), ..Manner::default() }, 1, "lost", "LOAD_FAILED", "no longer has"),
        (Manner { in_progress: Some(1), ..Manner::default() }, 5, "unfinished", "GAVE_UP", "in progress"),
        (Manner { refused: Some(1), ..Manner::default() }, 4, "notAccepted", "LOAD_NOT_ACCEPTED", "503"),
    ];
    for (manner, code, figure, error, detail) in cases {
        let service = Service::start(manner).await;
        let ran = service.load("--jobs 3 --chunks 2 --rate 50 --timeout 1s --json").await;
        assert_eq!(ran.code, Some(code), "{figure}: {ran:?}");
        let report = json_of(&ran);
        assert_eq!(
            (&report["jobs"][figure], &report["jobs"]["completed"]),
            (&json!(1), &json!(2)),
            "{report}"
        );
        // A job that never ended is late; one that was not accepted does not count.
        let in_time = if ["lost", "unfinished"].contains(&figure) { 200.0 / 3.0 } else { 100.0 };
        assert!(close(&report["answeredWithin15Seconds"], in_time), "{report}");
        let failure = ran.error();
        assert_eq!(failure["code"], error, "{figure}: {failure}");
        let faults = failure["faults"].as_array().expect("faults");
        assert_eq!(faults.len(), 1, "{figure}: {failure}");
        assert!(
            faults[0]["detail"].as_str().is_some_and(|text| text.contains(detail)),
            "{figure}: {failure}"
        );
    }
}

#[tokio::test]
async fn a_transcript_in_another_order_is_wrong() {
    let service = Service::start(Manner { wrong: Some(0), ..Manner::default() }).await;
    let ran = service.load("--jobs 2 --chunks 2 --rate 0 --json").await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let model = &json_of(&ran)["model"];
    assert_eq!((&model["transcriptsRight"], &model["transcriptsWrong"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn without_the_simulated_model_its_figures_are_omitted() {
    // Then transcripts cannot be checked either.
    let manner = Manner { no_sim: true, wrong: Some(0), ..Manner::default() };
    let service = Service::start(manner).await;
    let ran = service.load("--jobs 2 --chunks 2 --rate 0").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("is not the simulated model"), "{}", ran.stdout);
    assert!(ran.stdout.contains("job turnaround"), "{}", ran.stdout);
    assert!(!ran.stdout.contains("model calls") && !ran.stdout.contains("overhead"), "{}", ran.stdout);
}

#[tokio::test]
async fn restarted_and_silent_processes_are_named() {
    let service = Service::start(Manner { restarts: true, ..Manner::default() }).await;
    let ran = service.load("--jobs 1 --chunks 1 --rate 0 --json").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report = json_of(&ran);
    assert_eq!(report["processes"][1]["restarted"], json!(true), "{report}");
    assert!(report["notes"][1].as_str().is_some_and(|note| note.contains("restarted")), "{report}");

    let service = Service::start(Manner { no_metrics: true, ..Manner::default() }).await;
    let ran = service.load("--jobs 1 --chunks 1 --rate 0 --json").await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report = json_of(&ran);
    assert_eq!((&report["processes"], &report["awsCalls"]), (&json!([]), &json!([])), "{report}");
    assert!(report["notes"][0].as_str().is_some_and(|note| note.contains("404")), "{report}");
}

#[tokio::test]
async fn usage_errors_are_reported_before_any_upload() {
    let ran = end(longhand(&["load", "--url", NOWHERE, "--json"]).spawn().expect("it starts")).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(4), ""), "{ran:?}");
    assert_eq!(ran.error()["code"], "UNREACHABLE");
    assert!(ran.error()["message"].as_str().is_some_and(|text| text.contains(NOWHERE)), "{ran:?}");

    let service = Service::start(Manner::default()).await;
    for (line, code) in [
        ("--json --report /no/such/folder/report.json", "NOT_WRITTEN"),
        ("--json --jobs 0", "USAGE"),
        ("--json --chunks 100", "USAGE"),
        ("--json --rate -1", "USAGE"),
    ] {
        let ran = service.load(line).await;
        assert_eq!((ran.code, &ran.error()["code"]), (Some(2), &json!(code)), "{line}: {ran:?}");
    }
    assert_eq!(service.made.jobs.lock().expect("not poisoned").len(), 0);
}
