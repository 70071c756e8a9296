//! Audio by presigned uploads and by web addresses, with the real programs and their settings.

use axum::Router;
use axum::routing::get;
use longhand_e2e::gateway::{ApiMode, start as start_gateway};
use longhand_e2e::processes::{Process, binary, free_address, ready};
use longhand_e2e::service::{Service, wav};
use longhand_sim_asr::text_for;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::crashes::worker_variables;

in_each_mode! {
    uploads_become_a_transcript
    the_cli_needs_no_aws_credentials
}

/// Starts the service as programs, with the api in this mode. Returns its URL and the processes.
async fn programs(service: &Service, mode: ApiMode) -> (String, Vec<Process>) {
    let (variables, worker_address) = worker_variables(service);
    let mut processes = vec![Process::start("longhand-worker", &variables)];
    ready(&format!("http://{worker_address}/healthz")).await;
    let url = match mode {
        ApiMode::Gateway => start_gateway(&service.aws).await,
        ApiMode::Server => {
            let (url, api) = server(service, "").await;
            processes.push(api);
            url
        }
    };
    (url, processes)
}

/// Starts the api as a server with these allowed hosts of audio. Returns its URL.
pub(crate) async fn server(service: &Service, hosts: &str) -> (String, Process) {
    let listen = free_address();
    let mut variables = service.aws.resources.variables();
    variables.extend([("LONGHAND_LISTEN", listen.clone()), ("LONGHAND_AUDIO_HOSTS", hosts.to_owned())]);
    let api = Process::start("longhand-api", &variables);
    let url = format!("http://{listen}");
    ready(&format!("{url}/healthz")).await;
    (url, api)
}

async fn post(url: &str, path: &str, body: &Value) -> (StatusCode, Value) {
    let answer = Client::new().post(format!("{url}{path}")).json(body).send().await.expect("an answer");
    (answer.status(), answer.json().await.expect("JSON"))
}

/// Uploads a file as described by `POST /uploads`.
async fn put(upload: &Value, bytes: Vec<u8>) -> Response {
    let mut request = Client::new().put(upload["url"].as_str().expect("an address"));
    let headers = upload["headers"].as_object().expect("headers");
    // The client sets the content length itself.
    for (name, value) in headers.iter().filter(|(name, _)| *name != "content-length") {
        request = request.header(name, value.as_str().expect("a text"));
    }
    request.body(bytes).send().await.expect("an answer")
}

async fn uploads_become_a_transcript(mode: ApiMode) {
    let service = Service::start().await;
    let (url, _processes) = programs(&service, mode).await;
    let file = |name: &str, bytes: u32| json!({"name": name, "contentType": "audio/wav", "bytes": bytes});
    let body = json!({"userId": "ana@example.com", "files": [file("one.wav", 1000), file("two.wav", 2000)]});
    let (status, signed) = post(&url, "/uploads", &body).await;
    assert_eq!(status, StatusCode::OK, "{signed}");
    let uploads = signed["uploads"].as_array().expect("uploads");
    for (upload, bytes) in uploads.iter().zip([1000, 2000]) {
        let answer = put(upload, wav(bytes)).await;
        assert!(answer.status().is_success(), "{answer:?}");
    }
    // Presigning makes no call to S3.
    let metrics = Client::new().get(format!("{url}/metrics")).send().await.expect("an answer");
    assert!(!metrics.text().await.expect("a text").contains("PutObject"));
    let paths: Vec<&Value> = uploads.iter().map(|upload| &upload["audioChunkPath"]).collect();
    let body = json!({"userId": "ana@example.com", "audioChunkPaths": paths});
    let (status, accepted) = post(&url, "/transcribe", &body).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{accepted}");
    let result = service.ended(accepted["jobId"].as_str().expect("a job id")).await;
    let expected = format!("{} {}", text_for("one.wav"), text_for("two.wav"));
    assert_eq!(result["transcription"], json!(expected), "{result}");

    // S3 refuses a size and a type other than the signed ones.
    assert_eq!(put(&uploads[0], wav(1001)).await.status(), StatusCode::FORBIDDEN);
    let mut html = uploads[0].clone();
    html["headers"]["content-type"] = json!("text/html");
    assert_eq!(put(&html, wav(1000)).await.status(), StatusCode::FORBIDDEN);

    // The job's uploads are erased with it, but not other audio.
    let other = service.aws.put("kept.wav", wav(100)).await;
    let body = json!({"userId": "ana@example.com", "audioChunkPaths": [paths[0], other]});
    let (_, both) = post(&url, "/transcribe", &body).await;
    let job = both["jobId"].as_str().expect("a job id");
    service.ended(job).await;
    let erase = async |query: &str| {
        let erased = Client::new().delete(format!("{url}/transcript/{job}{query}")).send().await;
        erased.expect("an answer").status()
    };
    assert_eq!(erase("?audio=yes").await, StatusCode::BAD_REQUEST);
    assert_eq!(erase("?audio=true").await, StatusCode::NO_CONTENT);
    let list = service.aws.s3().list_objects_v2().bucket(&service.aws.resources.bucket).send().await;
    let keys: Vec<String> =
        list.expect("a list").contents().iter().filter_map(|object| object.key.clone()).collect();
    let left = |name: &str| keys.iter().any(|key| key.ends_with(name));
    assert!(!left("one.wav") && left("two.wav") && left("kept.wav"), "{keys:?}");
}

async fn the_cli_needs_no_aws_credentials(mode: ApiMode) {
    let service = Service::start().await;
    let (url, _processes) = programs(&service, mode).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("día 1.wav");
    std::fs::write(&file, wav(5000)).expect("written");
    let ran = Command::new(binary("longhand"))
        .env_clear()
        .args(["transcribe", "--user", "ana", "--wait", "--timeout", "60s", "--url", &url])
        .arg(&file)
        .output();
    let ran = ran.await.expect("the command runs");
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), text_for("00-d_a_1.wav"));
}

#[tokio::test]
async fn audio_is_read_only_from_allowed_public_hosts() {
    let service = Service::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let host = format!("http://{}", listener.local_addr().expect("an address"));
    let files = Router::new()
        .route("/rec/good.wav", get(async || wav(3000)))
        .route("/none.wav", get(async || StatusCode::GONE));
    let serving = tokio::spawn(async { axum::serve(listener, files).await });
    // `localhost` is allowed but has no public address, so the connection is refused.
    let hosts = format!("localhost, {host}");
    let (mut variables, worker_address) = worker_variables(&service);
    variables.push(("LONGHAND_AUDIO_HOSTS", hosts.clone()));
    let _worker = Process::start("longhand-worker", &variables);
    ready(&format!("http://{worker_address}/healthz")).await;
    let (url, _api) = server(&service, &hosts).await;

    let paths =
        [format!("{host}/rec/good.wav?sig=x"), format!("{host}/none.wav"), "https://localhost/a".into()];
    let (status, accepted) =
        post(&url, "/transcribe", &json!({"userId": "ana", "audioChunkPaths": paths})).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{accepted}");
    let result = service.ended(accepted["jobId"].as_str().expect("a job id")).await;
    let codes: Vec<&Value> =
        result["chunks"].as_array().expect("chunks").iter().map(|chunk| &chunk["error"]["code"]).collect();
    assert_eq!(codes, [&Value::Null, &json!("AUDIO_NOT_FOUND"), &json!("AUDIO_FORBIDDEN")], "{result}");
    assert!(result["transcription"].as_str().is_some_and(|text| text.starts_with(&text_for("good.wav"))));

    let paths = ["https://evil.example/a.wav", "https://169.254.169.254/latest", "http://localhost/a.wav"];
    let (status, refused) =
        post(&url, "/transcribe", &json!({"userId": "ana", "audioChunkPaths": paths})).await;
    assert_eq!((status, refused["errors"].as_array().map(Vec::len)), (StatusCode::BAD_REQUEST, Some(3)));
    serving.abort();
}
