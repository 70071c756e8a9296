//! Tests the command against fakes of the service and of S3.

mod access;
mod fake;
mod follow;
mod forms;
mod line;
mod load;
mod recordings;
mod uploads;

use std::time::Duration;

use tokio::time::Instant;

use fake::{Fake, JOB, NOWHERE, Reply, end, longhand, result};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

const IN_PROGRESS: &str = "IN_PROGRESS";
const COMPLETED: &str = "COMPLETED";
const FAILED: &str = "FAILED";

fn completed() -> Reply {
    Reply::ok(&result(COMPLETED, Some("And so, my fellow Americans."), &[COMPLETED, COMPLETED]))
}

fn in_progress() -> Reply {
    Reply::ok(&result(IN_PROGRESS, None, &["PENDING", IN_PROGRESS]))
}

/// The beginning of a WAV file, enough for the format check.
fn sound(content: &[u8]) -> Vec<u8> {
    [b"RIFF\0\0\0\0WAVEfmt ", content].concat()
}

/// Small files and their paths.
fn files(names: &[&str]) -> (TempDir, Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let paths = names.iter().map(|name| {
        let path = folder.path().join(name);
        std::fs::write(&path, sound(name.as_bytes())).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    });
    let paths = paths.collect();
    (folder, paths)
}

#[tokio::test]
async fn files_become_a_transcript() {
    let half = Reply::ok(&result(IN_PROGRESS, Some("And so"), &[COMPLETED, IN_PROGRESS]));
    let fake = Fake::start(vec![in_progress(), half, completed()]).await;
    let (_folder, paths) = files(&["día 1.wav", "b.mp3"]);
    let web = "https://good.example/e.wav?sig=x";
    let mut args = vec!["transcribe", &paths[0], "s3://archive/c d.wav", &paths[1], web];
    args.extend(["--user", "ana", "--language", "en", "--prompt", "Kennedy", "--wait"]);
    // Without AWS credentials.
    let mut command = fake.command(&args);
    for name in ["AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL_S3"] {
        command.env_remove(name);
    }
    let ran = end(command.spawn().expect("it starts")).await;

    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(ran.stdout, "And so, my fellow Americans.\n");
    for line in ["chunk 2 of 2 IN_PROGRESS", "chunk 1 of 2 COMPLETED", "chunk 2 of 2 COMPLETED"] {
        assert_eq!(ran.stderr.matches(line).count(), 1, "{line}: {ran:?}");
    }
    assert!(ran.stderr.contains("día 1.wav"), "{ran:?}");

    let objects: Vec<_> = fake.objects().into_iter().collect();
    assert_eq!(objects.len(), 2);
    let (first, second) = (&objects[0], &objects[1]);
    assert_eq!((&*first.0, &*second.0), ("/audio/uploads/ana/00-d_a_1.wav", "/audio/uploads/ana/02-b.mp3"));
    assert_eq!(first.1, sound("día 1.wav".as_bytes()));
    assert_eq!(second.1, sound(b"b.mp3"));

    let calls = fake.calls();
    let put = calls.iter().find(|call| call.line == "PUT /audio/uploads/ana/02-b.mp3?X-Amz-Signature=abc");
    let put = put.expect("sent to the signed address");
    assert_eq!(put.body, json!({ "type": "audio/wav", "length": second.1.len().to_string() }));
    let submitted = calls.iter().find(|call| call.line == "POST /transcribe").expect("submitted");
    let paths = [
        format!("s3:/{}", first.0),
        "s3://archive/c d.wav".to_owned(),
        format!("s3:/{}", second.0),
        web.to_owned(),
    ];
    let body = json!({ "userId": "ana", "audioChunkPaths": paths, "language": "en", "prompt": "Kennedy" });
    assert_eq!(submitted.body, body);
}

#[tokio::test]
async fn json_is_the_answer_unchanged() {
    let answer = result(COMPLETED, Some("hello"), &[COMPLETED]);
    let fake = Fake::start(vec![in_progress(), Reply::ok(&answer)]).await;
    for flag in [["--json", "--wait"], ["--format=json", "--wait"]] {
        let ran =
            fake.run(&[&["transcribe", "s3://archive/a.wav", "--user", "ana"], &flag[..]].concat()).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!(ran.stdout, format!("{answer}\n"));
    }
    let ran = fake.run(&["--json", "get", JOB]).await;
    assert_eq!((ran.code, ran.stdout, ran.stderr), (Some(0), format!("{answer}\n"), String::new()));
}

#[tokio::test]
async fn without_wait_the_job_id_is_printed() {
    let fake = Fake::start(vec![]).await;
    let line = ["transcribe", "s3://archive/a.wav", "--user", "ana"];
    let ran = fake.run(&line).await;
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("{JOB}\n")));
    assert!(ran.stderr.contains(&format!("longhand get {JOB} --wait")), "{}", ran.stderr);

    let ran = fake.run(&[&line[..], &["--json"]].concat()).await;
    let printed: Value = serde_json::from_str(&ran.stdout).expect("one document");
    assert_eq!(printed, json!({ "jobId": JOB, "jobStatus": IN_PROGRESS }));
    assert_eq!((ran.code, ran.stderr), (Some(0), String::new()));
}

#[tokio::test]
async fn a_failed_job_prints_the_partial_text_and_the_reasons() {
    let answer = result(FAILED, Some("And so [chunk 1 failed]"), &[COMPLETED, FAILED]);
    let fake = Fake::start(vec![Reply::ok(&answer)]).await;
    let (_folder, paths) = files(&["a.wav", "b.wav"]);
    let line = ["transcribe", &paths[0], &paths[1], "--user", "ana", "--wait"];
    let ran = fake.run(&line).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), "And so [a.wav failed]\n"));
    assert!(ran.stderr.contains("1 of 2 chunks could not be transcribed"), "{}", ran.stderr);
    let reason = format!("chunk 2 of 2 {}: AUDIO_NOT_FOUND: there is no such object", paths[1]);
    assert!(ran.stderr.contains(&reason), "{}", ran.stderr);

    let ran = fake.run(&["get", JOB, "--json"]).await;
    assert_eq!((ran.code, &ran.stdout), (Some(1), &format!("{answer}\n")));
    let error = ran.error();
    assert_eq!((&error["code"], &error["jobId"]), (&json!("JOB_FAILED"), &json!(JOB)));
    let fault = json!({
        "file": "a.wav", "chunk": 1, "code": "AUDIO_NOT_FOUND", "detail": "there is no such object"
    });
    assert_eq!(error["faults"], json!([fault]));

    let nothing = Fake::start(vec![Reply::ok(&result(FAILED, None, &[FAILED]))]).await;
    let ran = nothing.run(&["get", JOB]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""));
}

#[tokio::test]
async fn faults_of_the_request_name_the_files() {
    let errors = json!([
        { "pointer": "#/audioChunkPaths/1", "detail": "names a bucket that is not read here" },
        { "pointer": "#/userId", "detail": "is not known" },
    ]);
    let fake = Fake::start(vec![]).await.on_submit(vec![Reply::problem(422, "INVALID_INPUT", &errors)]);
    let line = ["transcribe", "s3://good/a.wav", "s3://bad/b.wav", "--user", "ana", "--wait"];
    let ran = fake.run(&line).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    assert!(ran.stderr.contains("s3://bad/b.wav: names a bucket"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--user: is not known"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("#/"), "a JSON pointer: {}", ran.stderr);

    let error = fake.run(&[&line[..], &["--json"]].concat()).await.error();
    assert_eq!((&error["code"], &error["status"]), (&json!("INVALID_INPUT"), &json!(422)));
    assert_eq!(error["faults"][0]["file"], "s3://bad/b.wav");
    assert_eq!(error["faults"][0]["pointer"], "#/audioChunkPaths/1");
    assert_eq!(error["faults"][1].get("file"), None);
}

#[tokio::test]
async fn an_unknown_job_has_its_own_exit_code() {
    let fake = Fake::start(vec![Reply::problem(404, "JOB_NOT_FOUND", &json!([]))]).await;
    for line in [&["get", JOB][..], &["get", JOB, "--wait"]] {
        let ran = fake.run(line).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(3), ""));
        assert!(ran.stderr.contains(&format!("job {JOB} is not at http://")), "{}", ran.stderr);
    }
    assert_eq!(fake.run(&["get", JOB, "--json"]).await.error()["code"], "JOB_NOT_FOUND");
}

#[tokio::test]
async fn an_unreachable_service_is_exit_4() {
    for line in [
        &["get", JOB][..],
        &["get", JOB, "--wait", "--timeout", "1s"],
        &["search", "--user", "ana", "--status", FAILED],
        &["transcribe", "s3://archive/a.wav", "--user", "ana"],
    ] {
        let ran = end(longhand(line).args(["--url", NOWHERE, "--json"]).spawn().expect("it starts")).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(4), ""), "{line:?}");
        assert_eq!(ran.error()["code"], "UNREACHABLE");
    }

    // The service answers but S3 does not: nothing is submitted.
    let fake = Fake::start(vec![]).await.uploading_to(NOWHERE);
    let (_folder, paths) = files(&["a.wav"]);
    for line in [&["--json"][..], &["--json", "--bucket", "audio"]] {
        let mut command = fake.command(&["transcribe", &paths[0], "--user", "ana"]);
        command.env("AWS_ENDPOINT_URL_S3", NOWHERE).args(line);
        let ran = end(command.spawn().expect("it starts")).await;
        assert_eq!((ran.code, &ran.error()["code"]), (Some(4), &json!("UPLOAD_FAILED")), "{ran:?}");
        assert_eq!(fake.count("POST /transcribe"), 0);
    }
}

#[tokio::test]
async fn a_failing_service_is_exit_4() {
    let fake =
        Fake::start(vec![Reply::ok(&json!({ "hello": "there" }))]).await.on_submit(vec![Reply::html(502)]);
    let ran = fake.run(&["transcribe", "s3://archive/a.wav", "--user", "ana"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(4), ""));
    assert_eq!(fake.count("POST"), 4, "once, and three times more");
    // The job may exist, so the message says where to look.
    assert!(ran.stderr.contains("Look for it with: longhand search --user ana\n"), "{}", ran.stderr);
    let ran = fake.run(&["get", JOB, "--wait", "--json"]).await;
    assert_eq!((ran.code, &ran.error()["code"]), (Some(4), &json!("PROTOCOL")));

    for (status, what) in [
        (403, "rejected the request (403 Forbidden)"),
        (408, "timed out on the request (408 Request Timeout)"),
        (429, "limits requests (429 Too Many Requests)"),
        (500, "failed on the request (500 Internal Server Error)"),
        (501, "does not support the request (501 Not Implemented)"),
    ] {
        let fake = Fake::start(vec![Reply::problem(status, "A_CODE", &json!([]))]).await;
        let ran = fake.run(&["get", JOB]).await;
        assert_eq!(ran.code, Some(if status == 403 { 2 } else { 4 }), "{ran:?}");
        assert!(ran.stderr.contains(what), "{ran:?}");
    }
}

#[tokio::test]
async fn after_the_time_limit_the_job_continues() {
    let fake = Fake::start(vec![in_progress()]).await;
    let line = ["transcribe", "s3://archive/a.wav", "s3://archive/b.wav", "--user", "ana", "--wait"];
    let began = Instant::now();
    let ran = fake.run(&[&line[..], &["--timeout", "1s"]].concat()).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(5), ""));
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(ran.stderr.contains("continues"), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("longhand get {JOB} --wait")), "{}", ran.stderr);

    // One request, and a hint with the service's URL, which is not the default.
    let url = fake.url();
    let mut command = longhand(&["get", JOB, "--wait", "--timeout", "0s", "--json", "--url", &url]);
    let ran = end(command.spawn().expect("it starts")).await;
    let error = ran.error();
    assert_eq!((ran.code, &error["code"], &error["jobId"]), (Some(5), &json!("GAVE_UP"), &json!(JOB)));
    let hint = format!("longhand --url {url} get {JOB} --wait");
    assert!(error["message"].as_str().is_some_and(|message| message.contains(&hint)), "{error}");
}

#[tokio::test]
async fn transient_failures_are_retried() {
    let replies = vec![
        Reply::html(503),
        Reply::problem(500, "INTERNAL", &json!([])),
        in_progress(),
        Reply::problem(429, "TOO_MANY_REQUESTS", &json!([])).retry_after("1"),
        completed(),
    ];
    let fake = Fake::start(replies).await;
    let began = Instant::now();
    let ran = fake.run(&["get", JOB, "--wait"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "And so, my fellow Americans.\n"));
    assert!(began.elapsed() >= Duration::from_secs(1), "Retry-After was not obeyed");
    assert_eq!(fake.looks(), 5);
    // Once for each run of failures, not for each failure.
    assert_eq!(ran.stderr.matches("trying again").count(), 2, "{}", ran.stderr);
}

#[tokio::test]
async fn wrong_usage_is_exit_2_in_text_and_json() {
    let fake = Fake::start(vec![]).await;
    for line in [
        &["get", "no-id"][..],
        &["get", JOB, "--timeout", "1s"],
        &["search", "--user", "ana", "--status", "DONE"],
        &["search", "--user", "a b", "--status", FAILED],
        &["transcribe", "--user", "ana"],
        &["completions", "cmd"],
        &["transcribe", "s3://archive/a.wav", "--user", "ana", "--language", "english!"],
        &["search", "--user", "ana", "--after", "yesterday"],
        &["transcribe", "s3://archive/a.wav", "--user", "ana", "--output", "x.txt"],
        &["delete", JOB],
        &["watch", "no-id"],
        &["--url", "ftp://host", "get", JOB],
    ] {
        let ran = fake.run(line).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{line:?}");
        let ran = fake.run(&[line, &["--json"]].concat()).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{line:?}");
        assert_eq!(ran.error()["code"], "USAGE", "{line:?}");
    }
    assert_eq!(fake.calls().len(), 0);
}

#[tokio::test]
async fn a_search_prints_a_table_or_the_answer() {
    let job = |chunks: usize| {
        json!({"jobId": JOB, "userId": "a+b@c", "jobStatus": FAILED, "chunkCount": chunks,
            "submittedTime": "2026-11-22T23:10:22.000Z", "completedTime": null})
    };
    let pages = [
        json!({ "results": [job(2)], "nextCursor": "abc+/=" }),
        json!({ "results": [job(1)], "nextCursor": null }),
    ];
    let both = || pages.iter().map(Reply::ok).collect::<Vec<_>>();
    let line = ["search", "--user", "a+b@c", "--status", FAILED];
    let table = format!(
        "JOB ID                                SUBMITTED                 STATUS       CHUNKS\n\
         {JOB}  2026-11-22T23:10:22.000Z  FAILED            2\n"
    );

    let fake = Fake::start(vec![]).await.on_search(both());
    let ran = fake.run(&[&line[..], &["--limit", "1"]].concat()).await;
    assert_eq!((ran.code, &ran.stdout), (Some(0), &table));
    assert!(ran.stderr.contains("--cursor abc+/="), "{}", ran.stderr);
    assert_eq!(
        fake.calls()[0].line,
        "GET /transcript/search?userId=a%2Bb%40c&jobStatus=FAILED&limit=1&fields=summary"
    );

    let fake = fake.on_search(both());
    let ran = fake.run(&[&line[..], &["--all"]].concat()).await;
    let second = format!("{JOB}  2026-11-22T23:10:22.000Z  FAILED            1\n");
    assert_eq!((ran.code, ran.stdout, ran.stderr.as_str()), (Some(0), table + &second, ""));
    let last = fake.calls().pop().expect("a call");
    assert!(last.line.ends_with("&cursor=abc%2B%2F%3D&fields=summary"), "{}", last.line);

    let fake = fake.on_search(both());
    let ran = fake.run(&[&line[..], &["--json"]].concat()).await;
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("{}\n", pages[0])));
    let last = fake.calls().pop().expect("a call");
    assert!(!last.line.contains("fields"), "{}", last.line);

    let fake = fake.on_search(both());
    let ran = fake.run(&[&line[..], &["--json", "--all"]].concat()).await;
    let printed: Value = serde_json::from_str(&ran.stdout).expect("one document");
    let results = [&pages[0]["results"][0], &pages[1]["results"][0]];
    assert_eq!(printed, json!({ "results": results, "nextCursor": null }));

    let fake = fake.on_search(vec![Reply::ok(&json!({ "results": [], "nextCursor": null }))]);
    let ran = fake.run(&line).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""));

    let fake = fake.on_search(vec![Reply::problem(400, "INVALID_CURSOR", &json!([]))]);
    assert_eq!(fake.run(&line).await.code, Some(2));
}

#[tokio::test]
async fn a_search_works_with_a_server_without_summaries() {
    let unknown = json!([{ "pointer": "?fields", "detail": "is not known here" }]);
    let full = result(COMPLETED, Some("And so"), &[COMPLETED, COMPLETED]);
    let page = |cursor: Option<&str>| Reply::ok(&json!({ "results": [full], "nextCursor": cursor }));
    let fake = Fake::start(vec![]).await.on_search(vec![
        Reply::problem(400, "INVALID_REQUEST", &unknown),
        page(Some("next")),
        page(None),
    ]);
    let ran = fake.run(&["search", "--user", "ana", "--all"]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let rows: Vec<&str> = ran.stdout.lines().skip(1).collect();
    assert!(rows.len() == 2 && rows.iter().all(|row| row.ends_with("COMPLETED         2")), "{}", ran.stdout);
    let with_fields = fake.calls().iter().filter(|call| call.line.contains("fields")).count();
    assert_eq!((fake.calls().len(), with_fields), (3, 1));
}

#[tokio::test]
async fn a_job_in_progress_is_printed_with_a_hint() {
    let half = result(IN_PROGRESS, Some("And so [chunk 1 pending]"), &[COMPLETED, "PENDING"]);
    let fake = Fake::start(vec![Reply::ok(&half)]).await;
    let ran = fake.run(&["get", JOB]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "And so [a.wav pending]\n"));
    assert!(ran.stderr.contains("1 of 2 chunks are done"), "{}", ran.stderr);
}

#[tokio::test]
async fn a_closed_pipe_is_not_an_error() {
    // More than a pipe's buffer, so that the write fails when the reader closes it.
    let long = "word ".repeat(100_000);
    let fake = Fake::start(vec![Reply::ok(&result(COMPLETED, Some(&long), &[COMPLETED]))]).await;
    for line in [&["get", JOB][..], &["get", JOB, "--json"]] {
        let mut child = fake.command(line).spawn().expect("it starts");
        drop(child.stdout.take());
        let ran = end(child).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    }
    // A closed stderr is not an error either.
    let mut child = fake.command(&["get", "no-id", "--json"]).spawn().expect("it starts");
    drop(child.stderr.take());
    assert_eq!(end(child).await.code, Some(2));
}

#[tokio::test]
async fn ctrl_c_reports_that_the_job_continues() {
    let fake = Fake::start(vec![in_progress()]).await;
    let line = ["transcribe", "s3://archive/a.wav", "s3://archive/b.wav", "--user", "ana", "--wait"];
    let child = fake.command(&line).spawn().expect("it starts");
    fake.called("GET /transcript/").await;
    let id = child.id().expect("it runs").to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status().await.expect("kill is there");
    assert!(sent.success());
    let ran = end(child).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(130), ""));
    assert!(ran.stderr.contains(&format!("job {JOB} continues")), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("longhand get {JOB} --wait")), "{}", ran.stderr);
}
