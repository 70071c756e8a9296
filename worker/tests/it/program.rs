//! The program itself, as a container's health check calls it.

use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

/// Runs `--health` against the address of `listener`, which gives `answer`.
async fn health(answer: &'static str) -> (Option<i32>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a caller");
        let mut asked = [0; 1024];
        let length = stream.read(&mut asked).await.expect("a request");
        assert!(asked[..length].starts_with(b"GET /healthz "));
        stream.write_all(answer.as_bytes()).await.expect("a caller who listens");
    });
    let output = Command::new(env!("CARGO_BIN_EXE_longhand-worker"))
        .env_clear()
        .env("LONGHAND_TABLE", "jobs")
        .env("LONGHAND_QUEUE_URL", "http://127.0.0.1:1/000000000000/chunks")
        .env("LONGHAND_DLQ_URL", "http://127.0.0.1:1/000000000000/chunks-dlq")
        .env("LONGHAND_AUDIO_BUCKETS", "audio")
        .env("ASR_BASE_URL", "http://127.0.0.1:1")
        .env("LONGHAND_HEALTH_LISTEN", address.to_string())
        .arg("--health")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("the program runs");
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
}

#[tokio::test]
async fn health_is_what_the_worker_beside_it_answers() {
    assert_eq!(health("HTTP/1.1 200 OK\r\n\r\n").await, (Some(0), String::new()));
    let (code, stderr) = health("HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("longhand-worker: ") && stderr.contains("503"), "{stderr}");
}
