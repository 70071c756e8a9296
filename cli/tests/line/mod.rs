//! Arguments of `transcribe` (order of files, stdin, metadata, keys) and the output for a job.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::fake::{Fake, JOB, Reply, end, longhand, result};
use crate::{COMPLETED, IN_PROGRESS, completed, files, in_progress, sound};

/// The names in `POST /uploads`.
fn announced(fake: &Fake) -> Vec<String> {
    let calls = fake.calls();
    let asked = calls.iter().rev().find(|call| call.line == "POST /uploads").expect("uploads were asked for");
    let files = asked.body["files"].as_array().expect("files");
    files.iter().map(|file| file["name"].as_str().expect("a name").to_owned()).collect()
}

fn submitted(fake: &Fake) -> Value {
    let calls = fake.calls();
    calls.iter().rev().find(|call| call.line == "POST /transcribe").expect("a submit").body.clone()
}

#[tokio::test]
async fn numbered_files_are_sorted_by_number() {
    let fake = Fake::start(vec![]).await;
    let names: Vec<String> = (1..=24).map(|number| format!("{number}.wav")).collect();
    let (_folder, mut paths) = files(&names.iter().map(String::as_str).collect::<Vec<_>>());
    // In the order of a shell's *.wav.
    paths.sort();
    let mut line = vec!["transcribe"];
    line.extend(paths.iter().map(String::as_str));
    let ran = fake.run(&line).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.stderr.contains("in the order of their numbers") && ran.stderr.contains("--keep-order"),
        "{ran:?}"
    );
    let by_number: Vec<String> = (1..=24).map(|number| format!("{:02}-{number}.wav", number - 1)).collect();
    assert_eq!(announced(&fake), by_number);

    line.push("--keep-order");
    let ran = fake.run(&line).await;
    assert!(!ran.stderr.contains("order"), "{ran:?}");
    assert_eq!(announced(&fake)[..3], ["00-1.wav", "01-10.wav", "02-11.wav"]);

    // Any other order is the user's own.
    fake.run(&["transcribe", &paths[23], &paths[0]]).await;
    assert_eq!(announced(&fake), ["00-9.wav", "01-1.wav"]);
}

#[tokio::test]
async fn the_user_may_come_from_the_token() {
    let fake =
        Fake::start(vec![]).await.on_search(vec![Reply::ok(&json!({"results": [], "nextCursor": null}))]);
    let (_folder, paths) = files(&["a.wav"]);
    assert_eq!(fake.run(&["transcribe", &paths[0]]).await.code, Some(0));
    assert_eq!(fake.run(&["search"]).await.code, Some(0));
    let calls = fake.calls();
    assert_eq!(calls.last().expect("a call").line, "GET /transcript/search?fields=summary");
    assert!(calls.iter().all(|call| call.body.get("userId").is_none()), "{calls:?}");

    // If the service requires a user, the message names the option.
    let errors = json!([{"pointer": "#/userId", "detail": "is required"}]);
    let fake = Fake::start(vec![]).await.on_submit(vec![Reply::problem(400, "INVALID_REQUEST", &errors)]);
    let ran = fake.run(&["transcribe", "s3://archive/a.wav"]).await;
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("--user: is required") && !ran.stderr.contains("#/"), "{ran:?}");
}

#[tokio::test]
async fn metadata_callback_and_key_are_sent_with_the_job() {
    let fake = Fake::start(vec![]).await;
    let mut line =
        vec!["transcribe", "s3://archive/a.wav", "--metadata", "title=A = B", "--metadata", "empty="];
    line.extend(["--callback-url", "https://good.example/end?x=1", "--idempotency-key", "talk-7"]);
    assert_eq!(fake.run(&line).await.code, Some(0));
    let call = fake.calls().pop().expect("a submit");
    assert_eq!(call.body["metadata"], json!({"title": "A = B", "empty": ""}));
    assert_eq!(call.body["callbackUrl"], "https://good.example/end?x=1");
    assert_eq!(call.headers["idempotency-key"], "talk-7");

    fake.run(&["transcribe", "s3://archive/a.wav"]).await;
    assert_eq!(submitted(&fake), json!({"audioChunkPaths": ["s3://archive/a.wav"]}));
    for bad in [["--metadata", "no-value"], ["--idempotency-key", "two words"], ["--idempotency-key", ""]] {
        let ran = fake.run(&[&["transcribe", "s3://archive/a.wav"][..], &bad].concat()).await;
        assert_eq!(ran.code, Some(2), "{bad:?}");
    }
}

#[tokio::test]
async fn a_recording_can_come_from_stdin() {
    let fake = Fake::start(vec![]).await;
    let (_folder, paths) = files(&["a.wav"]);
    let run = async |args: &[&str], content: Vec<u8>| {
        let mut child = fake.command(args).stdin(Stdio::piped()).spawn().expect("it starts");
        let mut stdin = child.stdin.take().expect("piped");
        // The command need not read all of stdin.
        let _ = stdin.write_all(&content).await;
        drop(stdin);
        end(child).await
    };
    let ran = run(&["transcribe", &paths[0], "-"], sound(b"from a pipe")).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(announced(&fake), ["00-a.wav", "01-stdin.wav"]);
    assert!(fake.objects().values().any(|object| object[..] == sound(b"from a pipe")));

    let before = fake.count("POST");
    for (args, content, wrong) in [
        (&["transcribe", "-"][..], Vec::new(), "-: is empty"),
        (&["transcribe", "-"], b"no sound at all".to_vec(), "-: is not audio: it is text"),
        (&["transcribe", "-"], sound(&vec![1; 5 << 20]), "-: has more than 5 MB, the limit for stdin"),
        (&["transcribe", "-", "-"], sound(b"x"), "-: is given more than once"),
    ] {
        let ran = run(args, content).await;
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains(wrong), "{wrong}: {ran:?}");
    }
    assert_eq!(fake.count("POST"), before, "something was sent");
}

#[tokio::test]
async fn files_that_are_not_audio_are_not_uploaded() {
    let fake = Fake::start(vec![]).await;
    let (folder, paths) = files(&["good.wav"]);
    let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let bad = [
        ("notes.wav", b"Dear diary,".to_vec(), "it is text"),
        ("page.mp3", b"<html><body>404</body></html>".to_vec(), "it is HTML"),
        ("cover.m4a", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(), "it is of the type image/png"),
        ("zeros.wav", vec![0; 5000], "it contains only zeros"),
    ];
    let mut line = vec!["transcribe".to_owned(), paths[0].clone()];
    for (name, content, _) in &bad {
        std::fs::write(at(name), content).expect("written");
        line.push(at(name));
    }
    let ran = fake.run(&line.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!((ran.code, fake.calls().len()), (Some(2), 0), "{ran:?}");
    for (name, _, what) in bad {
        assert!(ran.stderr.contains(&format!("{}: is not audio: {what}", at(name))), "{ran:?}");
    }
    // The model may know formats that Longhand does not.
    std::fs::write(at("new.xyz"), b"\x01\x02\x03\xA0").expect("written");
    assert_eq!(fake.run(&["transcribe", &at("new.xyz")]).await.code, Some(0));
}

#[tokio::test]
async fn delete_can_erase_the_recordings() {
    let fake = Fake::start(vec![]).await.on_other(vec![Reply::text("")]);
    assert_eq!(fake.run(&["delete", JOB, "--yes", "--audio"]).await.code, Some(0));
    assert_eq!(fake.run(&["delete", JOB, "--yes"]).await.code, Some(0));
    let lines: Vec<_> = fake.calls().into_iter().map(|call| call.line).collect();
    assert_eq!(lines, [format!("DELETE /transcript/{JOB}?audio=true"), format!("DELETE /transcript/{JOB}")]);
}

#[tokio::test]
async fn segments_are_printed_as_lines_or_json() {
    let mut answer = result(COMPLETED, Some("And so"), &[COMPLETED]);
    answer["segments"] = json!([
        {"chunk": 0, "start": 0.0, "end": 1.5, "text": "And"},
        {"chunk": 0, "start": 1.5, "end": 61.25, "text": "so"},
    ]);
    answer["timesExact"] = json!(true);
    let fake = Fake::start(vec![]).await.on_other(vec![Reply::ok(&answer)]);
    let ran = fake.run(&["get", JOB, "--segments"]).await;
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (Some(0), "[0.000 - 1.500] And\n[1.500 - 61.250] so\n"),
        "{ran:?}"
    );
    assert_eq!(fake.calls()[0].line, format!("GET /transcript/{JOB}?segments=true"));
    let ran = fake.run(&["get", JOB, "--segments", "--json"]).await;
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("{answer}\n")));
    let ran = fake.run(&["get", JOB, "--segments", "--format", "vtt"]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
}

#[tokio::test]
async fn completion_scripts_know_the_commands() {
    for (shell, mark) in
        [("bash", "complete -F"), ("zsh", "#compdef longhand"), ("fish", "complete -c longhand")]
    {
        let ran = end(longhand(&["completions", shell]).spawn().expect("it starts")).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.stdout.contains(mark) && ran.stdout.contains("idempotency-key"), "{shell}");
    }
}

#[tokio::test]
async fn silence_is_noted_on_stderr() {
    let silent = || Reply::ok(&result(COMPLETED, Some(""), &[COMPLETED]));
    let fake = Fake::start(vec![silent()]).await.on_other(vec![Reply::text("WEBVTT\n")]);
    for line in [&["get", JOB][..], &["get", JOB, "--format", "vtt"]] {
        let ran = fake.run(line).await;
        assert_eq!(ran.code, Some(0));
        assert!(ran.stderr.contains("no speech found"), "{ran:?}");
    }
    assert_eq!(fake.run(&["get", JOB, "--json"]).await.stderr, "", "JSON says it itself");
    let fake = Fake::start(vec![completed()]).await;
    assert_eq!(fake.run(&["get", JOB]).await.stderr, "");
}

#[tokio::test]
async fn files_keep_their_names_and_chunks_count_from_one() {
    let (_folder, paths) = files(&["d\u{ed}a 1.wav", "b.wav"]);
    let half = Reply::ok(&result(IN_PROGRESS, None, &[COMPLETED, IN_PROGRESS]));
    let fake = Fake::start(vec![in_progress(), half, completed()]).await;
    let ran = fake.run(&["transcribe", &paths[0], &paths[1], "--wait"]).await;
    for line in
        [format!("chunk 1 of 2 COMPLETED  {}", paths[0]), format!("chunk 2 of 2 IN_PROGRESS  {}", paths[1])]
    {
        assert!(ran.stderr.contains(&line), "{line}: {ran:?}");
    }
    // For a job of another client: without the number of an upload.
    let fake = Fake::start(vec![completed()]).await;
    let ran = fake.run(&["watch", JOB]).await;
    assert!(
        ran.stdout.starts_with("chunk 1 of 2 COMPLETED  a.wav\nchunk 2 of 2 COMPLETED  a.wav\n"),
        "{ran:?}"
    );
}

/// A job whose second chunk is running after this many calls.
fn retrying(calls: u32) -> Value {
    let mut job = result(IN_PROGRESS, None, &["PENDING", IN_PROGRESS]);
    job["chunks"][1]["history"] = json!([{
        "startedTime": "2026-11-22T23:10:22.000Z", "worker": "worker-1", "outcome": "RUNNING",
        "code": "ASR_TIMEOUT", "asrCalls": calls, "mostCalls": 4,
    }]);
    job
}

#[tokio::test]
async fn watch_shows_the_retries_of_a_chunk() {
    let looks = || [in_progress(), Reply::ok(&retrying(1)), Reply::ok(&retrying(2)), completed()].to_vec();
    let second = "chunk 2 of 2 IN_PROGRESS  a.wav: model timed out, call 2 of at most 4";
    let ran = Fake::start(looks()).await.run(&["watch", JOB]).await;
    assert!(ran.stdout.contains(second), "{ran:?}");
    assert_eq!(ran.stdout.matches("model timed out").count(), 2, "{ran:?}");
    let ran = Fake::start(looks()).await.run(&["get", JOB, "--wait"]).await;
    assert!(ran.stderr.contains(second), "{ran:?}");
    let ran = Fake::start(looks()).await.run(&["watch", JOB, "--json"]).await;
    let document =
        json!({"chunk": 1, "chunkStatus": IN_PROGRESS, "asrCalls": 2, "mostCalls": 4, "code": "ASR_TIMEOUT"});
    let lines = ran.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    assert!(lines.collect::<Vec<Value>>().contains(&document), "{ran:?}");

    // The same by the event stream.
    let data = json!({"index": 1, "chunkStatus": IN_PROGRESS, "attempts": 1,
        "running": retrying(2)["chunks"][1]["history"][0]});
    let end = result(COMPLETED, Some("And so"), &[COMPLETED, COMPLETED]);
    let events = format!("id: I;P0.I1~2\nevent: chunk\ndata: {data}\n\nid: x\nevent: job\ndata: {end}\n\n");
    let fake = Fake::start(vec![in_progress()]).await.on_events(vec![Reply::events(&events).open()]);
    let ran = fake.run(&["watch", JOB]).await;
    assert!(ran.stdout.contains(second), "{ran:?}");
}
