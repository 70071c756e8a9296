//! The program itself: its settings, its end, and its life as a Lambda function.

use std::process::{Output, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::{Mutex, mpsc};

/// The program with nothing in its environment.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longhand-api"));
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The program with settings that lead nowhere.
fn configured() -> Command {
    let mut command = program();
    command
        .env("LONGHAND_LISTEN", "127.0.0.1:0")
        .env("LONGHAND_TABLE", "jobs")
        .env("LONGHAND_QUEUE_URL", "http://127.0.0.1:1/000000000000/chunks")
        .env("LONGHAND_AUDIO_BUCKETS", "audio")
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test");
    command
}

async fn run(mut command: Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().await.expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}

#[tokio::test]
async fn without_settings_it_lists_all_that_are_missing() {
    let (code, stdout, stderr) = run(program()).await;
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    for fault in [
        "LONGHAND_TABLE is not set",
        "LONGHAND_QUEUE_URL is not set",
        "LONGHAND_AUDIO_BUCKETS is not set: set at least one of",
        "--help lists all settings",
    ] {
        assert!(stderr.contains(fault), "{stderr}");
    }
}

#[tokio::test]
async fn a_bad_log_filter_and_a_bad_argument_are_errors() {
    let mut command = configured();
    command.env("RUST_LOG", "longhand=loud");
    let (code, _, stderr) = run(command).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("\n  RUST_LOG is \"longhand=loud\""), "{stderr}");
    let mut command = configured();
    command.arg("--port");
    let (code, _, stderr) = run(command).await;
    assert_eq!(code, Some(2));
    assert!(stderr.starts_with("longhand-api: unknown argument \"--port\""), "{stderr}");
}

#[tokio::test]
async fn the_health_argument_asks_the_running_server() {
    // No server listens on port 1.
    let mut command = configured();
    command.env("LONGHAND_LISTEN", "127.0.0.1:1").arg("--health");
    let (code, _, stderr) = run(command).await;
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("longhand-api: http://127.0.0.1:1/healthz: "), "{stderr}");
    // Settings that no server would start with are reported.
    let mut command = program();
    command.arg("--health");
    let (code, _, stderr) = run(command).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("LONGHAND_TABLE is not set"), "{stderr}");
}

#[tokio::test]
async fn help_lists_all_settings() {
    let mut command = program();
    command.arg("--help");
    let (code, stdout, stderr) = run(command).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for (name, default) in [
        ("LONGHAND_LISTEN", "[127.0.0.1:8080]"),
        ("LONGHAND_TABLE", "[required]"),
        ("LONGHAND_QUEUE_URL", "[required]"),
        ("LONGHAND_AUDIO_BUCKETS", "[no default]"),
        ("LONGHAND_AUDIO_ROOT", "[no default]"),
        ("LONGHAND_RETENTION_DAYS", "[30]"),
        ("LONGHAND_DRAIN_SECONDS", "[25]"),
        ("LONGHAND_AUTH", "[no default]"),
        ("LONGHAND_RATE_PER_MINUTE", "[600]"),
        ("LONGHAND_MAX_OPEN_JOBS", "[1000]"),
        ("LONGHAND_UPLOAD_ENDPOINT", "[no default]"),
        ("LONGHAND_CORS_ORIGINS", "[no default]"),
        ("LONGHAND_LOG_FORMAT", "[pretty]"),
        ("REDIS_URL", "[no default]"),
        ("RUST_LOG", "[info]"),
    ] {
        let line = stdout.lines().find(|line| line.trim_start().starts_with(name));
        assert!(line.is_some_and(|line| line.ends_with(default)), "{name}: {stdout}");
    }
}

#[tokio::test]
async fn uploads_are_signed_for_the_endpoint_that_clients_reach() {
    let mut command = configured();
    command.env("LONGHAND_UPLOAD_ENDPOINT", "https://files.example/");
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the program runs");
    let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
    let address = loop {
        let line = log.next_line().await.expect("a log").expect("a line");
        if let Some((_, address)) = line.split_once("address=") {
            break address.to_owned();
        }
    };
    let body = json!({"userId": "ana", "files": [{"name": "a.wav", "bytes": 100}]});
    let answer = reqwest::Client::new().post(format!("http://{address}/uploads")).json(&body).send().await;
    let answer: Value = answer.expect("an answer").json().await.expect("JSON");
    let url = answer["uploads"][0]["url"].as_str().expect("an address");
    assert!(url.starts_with("https://files.example/audio/uploads/ana/"), "{url}");

    let mut command = configured();
    command.env("LONGHAND_UPLOAD_ENDPOINT", "files.example");
    let (code, _, stderr) = run(command).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("LONGHAND_UPLOAD_ENDPOINT"), "{stderr}");
}

#[tokio::test]
async fn it_listens_and_ends_with_0_on_sigterm() {
    let mut child = configured().stderr(Stdio::piped()).spawn().expect("the program runs");
    let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
    let line = log.next_line().await.expect("a log").expect("a line");
    assert!(line.contains("LONGHAND_AUTH=none"), "{line}");
    let line = log.next_line().await.expect("a log").expect("a line");
    let (_, address) = line.split_once("address=").expect(&line);
    let mut ask = configured();
    ask.env("LONGHAND_LISTEN", address).arg("--health");
    assert_eq!(run(ask).await, (Some(0), String::new(), String::new()));
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    socket.write_all(request).await.expect("sent");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");

    let pid = child.id().expect("it runs").to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill runs");
    assert!(sent.success());
    let mut rest = String::new();
    while let Some(line) = log.next_line().await.expect("a log") {
        rest += &line;
    }
    assert_eq!(child.wait().await.expect("an end").code(), Some(0), "{rest}");
    assert!(rest.contains("stopping") && rest.contains("stopped"), "{rest}");
}

#[tokio::test]
async fn other_machines_have_no_access_by_mistake() {
    let mut command = configured();
    command.env("LONGHAND_LISTEN", "0.0.0.0:0");
    let (code, _, stderr) = run(command).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("\n  LONGHAND_AUTH is not set, and the api"), "{stderr}");
    let mut command = configured();
    command.env("LONGHAND_AUTH", "apikey").env("LONGHAND_API_KEYS_FILE", "/no/such/file");
    let (code, _, stderr) = run(command).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("LONGHAND_AUTH: /no/such/file: No such file"), "{stderr}");
}

#[tokio::test]
async fn a_port_in_use_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let mut command = configured();
    command.env("LONGHAND_LISTEN", &address);
    let (code, _, stderr) = run(command).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&format!("cannot listen on {address}")), "{stderr}");
}

/// What AWS's Lambda Runtime API gives and takes: events in, answers out.
struct Runtime {
    events: Mutex<mpsc::Receiver<Value>>,
    answers: mpsc::Sender<(String, Value)>,
}

async fn next(State(runtime): State<Arc<Runtime>>) -> impl IntoResponse {
    let Some(event) = runtime.events.lock().await.recv().await else {
        // No more events: as the real one, it lets the function wait.
        return std::future::pending().await;
    };
    let headers = [
        ("content-type", "application/json"),
        ("lambda-runtime-aws-request-id", "request-7"),
        ("lambda-runtime-deadline-ms", "9999999999999"),
        ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:000000000000:function:longhand"),
    ];
    (headers, event.to_string())
}

async fn answer(State(runtime): State<Arc<Runtime>>, Path(id): Path<String>, body: String) -> StatusCode {
    let answer = serde_json::from_str(&body).expect("JSON");
    runtime.answers.send((id, answer)).await.expect("the test waits");
    StatusCode::ACCEPTED
}

/// An event of an API Gateway HTTP API, payload format 2.0.
fn event(method: &str, path: &str, query: &str, body: Option<&str>) -> Value {
    let mut event = json!({
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {"host": "api.example.com", "x-forwarded-proto": "https", "x-request-id": "from-the-client"},
        "isBase64Encoded": false,
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "api",
            "domainName": "api.example.com",
            "domainPrefix": "api",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1", "userAgent": "test"},
            "requestId": "id",
            "routeKey": "$default",
            "stage": "$default",
            "time": "22/Nov/2025:23:00:00 +0000",
            "timeEpoch": 1_763_852_400_000_i64,
        },
    });
    if let Some(body) = body {
        event["body"] = json!(body);
    }
    event
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one scenario, in order")]
async fn the_same_router_runs_as_a_lambda_function() {
    let (events, received) = mpsc::channel(8);
    let (answers, mut answered) = mpsc::channel(8);
    let runtime = Arc::new(Runtime { events: Mutex::new(received), answers });
    let router = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(answer))
        .route("/2018-06-01/runtime/invocation/{id}/error", post(answer))
        .with_state(runtime);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async { axum::serve(listener, router).await });

    let _child = configured()
        .env("AWS_LAMBDA_RUNTIME_API", address)
        .env("LONGHAND_AUTH", "none")
        .env("LONGHAND_AUTH_NONE", "i-know")
        .env("AWS_LAMBDA_FUNCTION_NAME", "longhand")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
        .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
        .stderr(Stdio::null())
        .spawn()
        .expect("the program runs");
    let mut call = async |event: Value| -> Value {
        events.send(event).await.expect("the function takes events");
        let (id, answer) = answered.recv().await.expect("an answer");
        assert_eq!(id, "request-7");
        answer
    };

    let alive = call(event("GET", "/healthz", "", None)).await;
    assert_eq!(alive["statusCode"], 200, "{alive}");
    assert_eq!(alive["body"], "{\"status\":\"ok\"}");
    assert_eq!(alive["isBase64Encoded"], false);
    assert_eq!(alive["headers"]["content-type"], "application/json");
    assert_eq!(alive["headers"]["x-request-id"], "from-the-client");

    let refused = call(event("POST", "/transcribe", "", Some("{\"userId\": \"\"}"))).await;
    assert_eq!(refused["statusCode"], 400, "{refused}");
    assert_eq!(refused["headers"]["content-type"], "application/problem+json");
    let problem: Value = serde_json::from_str(refused["body"].as_str().expect("text")).expect("JSON");
    assert_eq!(problem["errors"].as_array().map(Vec::len), Some(2), "{problem}");

    let path = "/transcript/0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b/events";
    let refused = call(event("GET", path, "", None)).await;
    assert_eq!(refused["statusCode"], 406, "{refused}");
    assert!(refused["body"].as_str().is_some_and(|body| body.contains("STREAMS_NOT_SUPPORTED")), "{refused}");

    let refused = call(event("GET", "/transcript/search", "userId=ana&jobStatus=x%20y", None)).await;
    assert_eq!(refused["statusCode"], 400, "{refused}");

    // The gateway decodes paths, and hands on queries as they came: none of that is the function's end.
    for (path, query, status) in [
        ("/transcript/a b?c#d", "", 400),
        ("/transcript/é/retry", "", 405),
        ("/transcript/search", "userId=<\"ana\">|&x=é", 400),
        ("//healthz", "", 404),
    ] {
        let answer = call(event("GET", path, query, None)).await;
        assert_eq!(answer["statusCode"], status, "{path} {query}: {answer}");
        assert_eq!(answer["headers"]["content-type"], "application/problem+json", "{answer}");
    }

    // REST APIs and load balancers work too.
    let rest = json!({
        "version": "1.0", "path": "/healthz", "httpMethod": "GET", "headers": null, "body": null,
        "requestContext": {"httpMethod": "GET", "requestId": "id"},
    });
    let balancer = json!({
        "requestContext": {"elb": {"targetGroupArn": "arn"}}, "httpMethod": "GET", "path": "/healthz", "headers": {},
    });
    for event in [rest, balancer] {
        assert_eq!(call(event).await["statusCode"], 200);
    }
    // Other events fail, and do not end the function: those that keep functions warm, and anything else.
    for odd in [json!({"source": "aws.events"}), json!({}), json!("warm"), Value::Null] {
        let error = call(odd.clone()).await;
        let message = error["errorMessage"].as_str().unwrap_or_default();
        assert!(message.contains("API Gateway"), "{odd}: {error}");
    }
    let mut bad = event("POST", "/transcribe", "", Some("no base64"));
    bad["isBase64Encoded"] = true.into();
    assert_eq!(call(bad).await["statusCode"], 400);
    assert_eq!(call(event("GET", "/healthz", "", None)).await["statusCode"], 200);

    // The figures of one function among many, for the whole Internet: they are not there.
    assert_eq!(call(event("GET", "/metrics", "", None)).await["statusCode"], 404);
}
