//! Captions, output files, retried submits, and retry and delete.

use serde_json::{Value, json};

use crate::fake::{Fake, JOB, Reply, result};
use crate::{COMPLETED, FAILED, IN_PROGRESS, completed, in_progress};

const VTT: &str = "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nAnd so\n";

fn retried() -> Value {
    result(IN_PROGRESS, Some("And so [chunk 1 pending]"), &[COMPLETED, "PENDING"])
}

#[tokio::test]
async fn wait_prints_captions() {
    let fake = Fake::start(vec![in_progress(), completed()]).await.on_other(vec![Reply::text(VTT)]);
    let line = ["transcribe", "s3://archive/a.wav", "--user", "ana", "--wait", "--format", "vtt"];
    let ran = fake.run(&line).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), VTT), "{ran:?}");
    assert!(!ran.stderr.contains("estimated"), "{ran:?}");
    assert_eq!(fake.calls().last().expect("a call").headers["accept"], "text/vtt");

    let srt = "1\n00:00:00,000 --> 00:00:02,000\nAnd so\n";
    let estimated = Reply::text(srt).header("longhand-times-exact", "false");
    let failed = Reply::ok(&result(FAILED, Some("And so [chunk 1 failed]"), &[COMPLETED, FAILED]));
    let fake = Fake::start(vec![failed]).await.on_other(vec![estimated]);
    let ran = fake.run(&["get", JOB, "--format", "srt"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), srt), "{ran:?}");
    assert!(ran.stderr.contains("some times are estimated"), "{ran:?}");
    assert!(ran.stderr.contains("AUDIO_NOT_FOUND"), "{ran:?}");
    assert_eq!(fake.calls().last().expect("a call").headers["accept"], "application/x-subrip");
}

#[tokio::test]
async fn a_chunk_without_a_text_has_its_files_name() {
    let mut answer = result(FAILED, Some("And so [chunk 1 failed]"), &[COMPLETED, FAILED]);
    answer["segments"] = json!([{ "chunk": 1, "start": 2.0, "end": 3.0, "text": "[chunk 1 failed]" }]);
    for (options, expected) in
        [(&[][..], "And so [a.wav failed]\n"), (&["--segments"], "[2.000 - 3.000] [a.wav failed]\n")]
    {
        let fake = Fake::start(vec![Reply::ok(&answer)]).await.on_other(vec![Reply::ok(&answer)]);
        let ran = fake.run(&[&["get", JOB], options].concat()).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), expected), "{ran:?}");
        assert!(ran.stderr.contains("chunk 2 of 2 a.wav: AUDIO_NOT_FOUND"), "{ran:?}");
    }
}

#[tokio::test]
async fn the_length_of_caption_lines_can_be_limited() {
    let fake = Fake::start(vec![completed()]).await.on_other(vec![Reply::text(VTT)]);
    let ran = fake.run(&["get", JOB, "--format", "vtt", "--max-line-chars", "42"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), VTT), "{ran:?}");
    let last = fake.calls().pop().expect("a call");
    assert_eq!(last.line, format!("GET /transcript/{JOB}?maxLineChars=42"));
    for line in [
        &["get", JOB, "--max-line-chars", "42"][..],
        &["get", JOB, "--format", "vtt", "--max-line-chars", "9"],
        &["get", JOB, "--split"],
        &["get", JOB, "--words", "--format", "vtt"],
    ] {
        assert_eq!(fake.run(line).await.code, Some(2), "{line:?}");
    }
}

#[tokio::test]
async fn speakers_and_warnings_are_shown() {
    let mut answer = result(COMPLETED, Some("And so my fellow Americans"), &[COMPLETED]);
    answer["chunks"][0]["speakers"] = json!(["A", "B"]);
    let warning = json!({ "code": "AUDIO_SHORTER", "message": "much less audio than stated" });
    answer["chunks"][0]["warnings"] = json!([warning, { "code": "NEW_IN_2030", "message": "something new" }]);
    let turns = "A: And so\nB: my fellow Americans\n";
    let fake = Fake::start(vec![Reply::ok(&answer)]).await.on_other(vec![Reply::text(turns)]);
    let ran = fake.run(&["get", JOB]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), turns), "{ran:?}");
    assert_eq!(fake.calls().last().expect("a call").headers["accept"], "text/plain");
    for message in ["a.wav: much less audio than stated", "a.wav: something new"] {
        assert!(ran.stderr.contains(message), "{ran:?}");
    }

    answer["segments"] = json!([{ "chunk": 0, "start": 0.0, "end": 1.5, "text": "And so", "speaker": "A" }]);
    let fake = Fake::start(vec![]).await.on_other(vec![Reply::ok(&answer)]);
    let ran = fake.run(&["get", JOB, "--segments"]).await;
    assert_eq!(ran.stdout, "[0.000 - 1.500] A: And so\n");
    let ran = fake.run(&["get", JOB, "--words"]).await;
    assert!(ran.stderr.contains("there are no words with times"), "{ran:?}");
}

#[tokio::test]
async fn only_transcripts_can_be_captions() {
    let fake = Fake::start(vec![]).await;
    for line in [
        &["transcribe", "s3://archive/a.wav", "--user", "ana", "--format", "vtt"][..],
        &["search", "--user", "ana", "--format", "srt"],
        &["watch", JOB, "--format", "srt"],
    ] {
        let ran = fake.run(line).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{line:?}");
        assert!(ran.stderr.contains("are for get, and for transcribe with --wait"), "{ran:?}");
    }
    assert_eq!(fake.calls().len(), 0);
}

#[tokio::test]
async fn a_result_can_be_written_to_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("out");
    let file = path.to_str().expect("UTF-8");
    let fake = Fake::start(vec![completed()]).await.on_other(vec![Reply::text(VTT)]);
    let submit = ["transcribe", "s3://archive/a.wav", "--user", "ana", "--wait", "--output", file];
    for (line, content) in [
        (&submit[..], "And so, my fellow Americans.\n".to_owned()),
        (&["get", JOB, "--output", file, "--format", "vtt"], VTT.to_owned()),
        (&["get", JOB, "--output", file, "--json"], {
            format!("{}\n", result(COMPLETED, Some("And so, my fellow Americans."), &[COMPLETED, COMPLETED]))
        }),
    ] {
        let ran = fake.run(line).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{ran:?}");
        assert_eq!(std::fs::read_to_string(&path).expect("written"), content);
    }
    let nowhere = folder.path().join("missing/out");
    let ran = fake.run(&["get", JOB, "--json", "--output", nowhere.to_str().expect("UTF-8")]).await;
    assert_eq!((ran.code, &ran.error()["code"]), (Some(74), &json!("NOT_WRITTEN")), "{ran:?}");
    assert_eq!(ran.error()["jobId"], JOB);
}

#[tokio::test]
async fn a_submit_is_retried_with_one_key() {
    let replies = vec![Reply::accepted().cut(), Reply::html(503).retry_after("1"), Reply::accepted()];
    let fake = Fake::start(vec![]).await.on_submit(replies);
    let line = ["transcribe", "s3://archive/a.wav", "--user", "ana"];
    let ran = fake.run(&line).await;
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("{JOB}\n")), "{}", ran.stderr);
    assert_eq!(ran.stderr.matches("trying again").count(), 2, "{}", ran.stderr);
    let calls = fake.calls();
    let keys: Vec<_> = calls.iter().map(|call| &call.headers["idempotency-key"]).collect();
    assert_eq!(keys, [keys[0]; 3]);
    assert_eq!(calls[0].body, calls[2].body);

    // Another run has another key.
    let fake = fake.on_submit(vec![Reply::accepted()]);
    assert_eq!(fake.run(&line).await.code, Some(0));
    assert_ne!(fake.calls()[3].headers["idempotency-key"], *keys[0]);

    // Neither a long Retry-After nor a refusal is retried.
    for reply in [
        Reply::problem(429, "TOO_MANY_REQUESTS", &json!([])).retry_after("60"),
        Reply::problem(422, "IDEMPOTENCY_KEY_REUSED", &json!([])),
    ] {
        let fake = Fake::start(vec![]).await.on_submit(vec![reply]);
        let ran = fake.run(&line).await;
        assert_ne!(ran.code, Some(0));
        assert_eq!(fake.count("POST"), 1, "{ran:?}");
    }
}

#[tokio::test]
async fn watch_prints_each_change_on_a_line() {
    let half = || Reply::ok(&result(IN_PROGRESS, Some("And so"), &[COMPLETED, IN_PROGRESS]));
    let failed = || Reply::ok(&result(FAILED, Some("And so"), &[COMPLETED, FAILED]));
    let replies = || vec![in_progress(), in_progress(), Reply::html(502), half(), failed()];
    let fake = Fake::start(replies()).await;
    let ran = fake.run(&["watch", JOB]).await;
    let lines = format!(
        "chunk 1 of 2 PENDING  a.wav\nchunk 2 of 2 IN_PROGRESS  a.wav\nchunk 1 of 2 COMPLETED  a.wav\n\
         chunk 2 of 2 FAILED  a.wav\njob {JOB} FAILED\n"
    );
    assert_eq!((ran.code, ran.stdout), (Some(1), lines), "{}", ran.stderr);
    assert!(ran.stderr.contains("trying again") && ran.stderr.contains("AUDIO_NOT_FOUND"), "{}", ran.stderr);

    let fake = Fake::start(replies()).await;
    let ran = fake.run(&["watch", JOB, "--json"]).await;
    let documents: Vec<Value> =
        ran.stdout.lines().map(|line| serde_json::from_str(line).expect("a document a line")).collect();
    let change = |chunk: u8, status: &str| json!({ "chunk": chunk, "chunkStatus": status });
    let expected = [
        change(0, "PENDING"),
        change(1, IN_PROGRESS),
        change(0, COMPLETED),
        change(1, FAILED),
        json!({ "jobId": JOB, "jobStatus": FAILED }),
    ];
    assert_eq!(documents, expected);
    assert_eq!((ran.code, &ran.error()["code"]), (Some(1), &json!("JOB_FAILED")));

    let fake = Fake::start(vec![in_progress()]).await;
    assert_eq!(fake.run(&["watch", JOB, "--timeout", "1s"]).await.code, Some(5));
}

#[tokio::test]
async fn retry_restarts_the_job_or_reports_why_not() {
    let fake = Fake::start(vec![]).await.on_other(vec![Reply::ok(&retried())]);
    let ran = fake.run(&["retry", JOB]).await;
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("job {JOB} is in progress again\n")));
    assert!(ran.stderr.contains(&format!("longhand get {JOB} --wait")), "{}", ran.stderr);
    assert_eq!(fake.calls()[0].line, format!("POST /transcript/{JOB}/retry"));
    let ran = fake.run(&["retry", JOB, "--json"]).await;
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("{}\n", retried())));

    for (status, code, exit) in [(409, "NOTHING_FAILED", 2), (404, "JOB_NOT_FOUND", 3), (503, "STORE", 4)] {
        let fake = Fake::start(vec![]).await.on_other(vec![Reply::problem(status, code, &json!([]))]);
        for line in [&["retry", JOB, "--json"][..], &["delete", JOB, "--yes", "--json"]] {
            let ran = fake.run(line).await;
            assert_eq!((ran.code, ran.stdout.as_str(), &ran.error()["code"]), (Some(exit), "", &json!(code)));
        }
        assert_eq!(fake.calls().len(), 2, "asked again");
    }
}

#[tokio::test]
async fn delete_erases_the_job_after_a_confirmation() {
    let gone = Reply::text("");
    let fake = Fake::start(vec![]).await.on_other(vec![gone]);
    // Stdin is not a terminal.
    let ran = fake.run(&["delete", JOB]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    assert!(ran.stderr.contains("--yes"), "{}", ran.stderr);
    assert_eq!(fake.calls().len(), 0);

    let ran = fake.run(&["delete", JOB, "--yes"]).await;
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("job {JOB} is erased\n")));
    assert_eq!(fake.calls()[0].line, format!("DELETE /transcript/{JOB}"));
    let ran = fake.run(&["delete", JOB, "--yes", "--json"]).await;
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("{{\"erased\":true,\"jobId\":\"{JOB}\"}}\n")));
}

#[tokio::test]
async fn a_search_can_be_limited_by_time() {
    let page = json!({ "results": [result(COMPLETED, Some("hello"), &[COMPLETED])], "nextCursor": null });
    let fake = Fake::start(vec![]).await.on_search(vec![Reply::ok(&page)]);
    let ran = fake.run(&["search", "--user", "ana"]).await;
    assert!(ran.code == Some(0) && ran.stdout.contains(COMPLETED), "{ran:?}");
    let line = ["search", "--user", "ana", "--after", "2026-11-22", "--before", "2026-11-22T12:00:00+01:00"];
    assert_eq!(fake.run(&line).await.code, Some(0));
    let lines: Vec<_> = fake.calls().into_iter().map(|call| call.line).collect();
    let times = "submittedAfter=2026-11-22T00%3A00%3A00.000Z&submittedBefore=2026-11-22T11%3A00%3A00.000Z";
    let expected = [
        "GET /transcript/search?userId=ana&fields=summary".to_owned(),
        format!("GET /transcript/search?userId=ana&{times}&fields=summary"),
    ];
    assert_eq!(lines, expected);
}
