//! Jobs over HTTP, with the api as a server and as a function: submit, read, search.

use std::time::Duration;

use longhand_e2e::eventually;
use longhand_e2e::gateway::ApiMode;
use longhand_e2e::service::{LIMITS, Service, wav};
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::queue::{ChunkQueue, Envelope, Outgoing};
use longhand_sim_asr::{Answer, Behaviour, Latency, Odd, Script, text_for};
use reqwest::StatusCode;
use serde_json::{Value, json};

in_each_mode! {
    six_chunks_become_one_transcript_in_order
    chunk_statuses_change_while_the_job_runs
    jobs_may_have_1_to_24_chunks
    full_jobs_complete_in_any_script
    failed_chunks_leave_the_rest_of_the_transcript
    each_status_can_be_searched
    transient_model_errors_are_retried
    foreign_messages_do_not_affect_jobs
    jobs_of_ten_users_run_side_by_side
    very_short_objects_in_s3_are_read
}

fn statuses(result: &Value) -> Vec<&str> {
    let chunks = result["chunks"].as_array().expect("chunks");
    chunks.iter().map(|chunk| chunk["chunkStatus"].as_str().expect("a status")).collect()
}

async fn six_chunks_become_one_transcript_in_order(mode: ApiMode) {
    let service = Service::start_in(mode).await;
    let names: Vec<String> = (0..6).map(|n| format!("part {n}.wav")).collect();
    // Later chunks complete earlier.
    for (n, name) in (0u64..).zip(&names) {
        service.asr.script(name, [Answer::Echo.after_ms(300 - 50 * n)]);
    }
    let paths = service.audio(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let worker = service.work(LIMITS);
    let body = json!({
        "userId": "ana", "audioChunkPaths": paths, "language": "en", "prompt": "Dashwood",
        "metadata": {"call": "7"},
    });
    let job = service.submit_body(&body).await;
    let result = service.ended(&job).await;

    let expected: Vec<String> = names.iter().map(|name| text_for(name)).collect();
    assert_eq!(result["transcription"], json!(expected.join(" ")));
    assert_eq!(result["jobStatus"], "COMPLETED");
    assert_eq!(result["partial"], false);
    assert_eq!(result["userId"], "ana");
    assert_eq!(result["metadata"], json!({"call": "7"}));
    assert!(result["completedTime"].as_str() > result["submittedTime"].as_str(), "{result}");
    assert_eq!(statuses(&result), ["COMPLETED"; 6]);
    for (index, chunk) in result["chunks"].as_array().expect("chunks").iter().enumerate() {
        assert_eq!((&chunk["index"], &chunk["attempts"]), (&json!(index), &json!(1)));
        assert_eq!(chunk["audioChunkPath"], json!(paths[index]));
    }
    let form = service.asr.books().file("part 0.wav").last_form;
    assert_eq!((form["language"].as_str(), form["prompt"].as_str()), ("en", "Dashwood"));
    assert_eq!(service.asr.books().calls, 6);
    worker.stop().await;
    let depth = service.aws.queue().depth().await.expect("a depth");
    assert_eq!(depth, longhand_shared::queue::Depth::default(), "no message is left");
}

async fn chunk_statuses_change_while_the_job_runs(mode: ApiMode) {
    let service = Service::start_in(mode).await;
    service.asr.script("b.wav", [Answer::Hang]);
    let paths = service.audio(&["a.wav", "b.wav", "c.wav"]).await;
    let job = service.submit("ana", &paths).await;
    let at_first = service.read(&job).await;
    assert_eq!(statuses(&at_first), ["PENDING"; 3]);
    assert_eq!((&at_first["transcription"], &at_first["partial"]), (&Value::Null, &json!(true)));
    assert_eq!(at_first["completedTime"], Value::Null);

    let _worker = service.work(LIMITS);
    let half_way = eventually("two of three chunks", async || {
        let result = service.read(&job).await;
        (statuses(&result) == ["COMPLETED", "IN_PROGRESS", "COMPLETED"]).then_some(result)
    })
    .await;
    let known = format!("{} [chunk 1 pending] {}", text_for("a.wav"), text_for("c.wav"));
    assert_eq!(half_way["transcription"], json!(known));
    assert_eq!((&half_way["jobStatus"], &half_way["partial"]), (&json!("IN_PROGRESS"), &json!(true)));
}

async fn jobs_may_have_1_to_24_chunks(mode: ApiMode) {
    let service = Service::start_in(mode).await;
    let _worker = service.work(LIMITS);
    let names: Vec<String> = (0..MAX_CHUNKS).map(|n| format!("{n}.wav")).collect();
    let paths = service.audio(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let one = service.submit("ana", &paths[..1]).await;
    let all = service.submit("ana", &paths).await;
    assert_eq!(service.ended(&one).await["transcription"], json!(text_for("0.wav")));
    let expected: Vec<String> = names.iter().map(|name| text_for(name)).collect();
    assert_eq!(service.ended(&all).await["transcription"], json!(expected.join(" ")));
}

async fn full_jobs_complete_in_any_script(mode: ApiMode) {
    let service = Service::start_in(mode).await;
    let _worker = service.work(LIMITS);
    let names: Vec<String> = (0..MAX_CHUNKS).map(|n| format!("{n}.wav")).collect();
    let paths = service.audio(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for script in [Script::Latin, Script::Thai] {
        let answer = Answer::Words { count: 700, script };
        service.asr.set(Behaviour::answering(answer.clone()));
        let job = service.submit("ana", &paths).await;
        let result = service.ended(&job).await;
        let texts: Vec<String> =
            names.iter().map(|name| answer.expected_text(name).expect("a text")).collect();
        let glue = if script.has_spaces() { " " } else { "" };
        assert_eq!(result["transcription"], json!(texts.join(glue)));
        assert_eq!(result["jobStatus"], "COMPLETED");
    }
}

async fn failed_chunks_leave_the_rest_of_the_transcript(mode: ApiMode) {
    let service = Service::start_in(mode).await;
    let _worker = service.work(LIMITS);
    service.asr.script("silence.wav", [Answer::Empty, Answer::Empty]);
    service.asr.script("refused.wav", [400, 400].map(Answer::status));
    service.asr.script("odd.wav", [Answer::Odd(Odd::NoText)]);
    let mut paths = service.audio(&["a.wav", "silence.wav", "refused.wav", "odd.wav", "b.wav"]).await;
    let missing = paths[0].replace("a.wav", "missing.wav");
    let empty = service.aws.put("empty.wav", vec![]).await;
    let text = service.aws.put("text.wav", "not audio at all").await;
    let large = service.aws.put("large.wav", wav(5 * 1024 * 1024 + 1)).await;
    let silent = service.submit("ana", &paths[1..2]).await;
    paths.extend([missing, empty, text, large]);
    let job = service.submit("ana", &paths).await;

    let result = service.ended(&silent).await;
    assert_eq!((&result["jobStatus"], &result["transcription"]), (&json!("COMPLETED"), &json!("")));

    let result = service.ended(&job).await;
    assert_eq!((&result["jobStatus"], &result["partial"]), (&json!("FAILED"), &json!(true)));
    let (a, b) = (text_for("a.wav"), text_for("b.wav"));
    let expected = format!(
        "{a} [chunk 2 failed] [chunk 3 failed] {b} [chunk 5 failed] [chunk 6 failed] [chunk 7 failed] [chunk 8 failed]"
    );
    assert_eq!(result["transcription"], json!(expected));
    let codes: Vec<&Value> =
        result["chunks"].as_array().expect("chunks").iter().map(|chunk| &chunk["error"]["code"]).collect();
    let null = Value::Null;
    let code = |text: &str| json!(text);
    assert_eq!(
        codes,
        [
            &null,
            &null,
            &code("ASR_REJECTED"),
            &code("ASR_PROTOCOL"),
            &null,
            &code("AUDIO_NOT_FOUND"),
            &code("AUDIO_EMPTY"),
            &code("AUDIO_UNSUPPORTED"),
            &code("AUDIO_TOO_LARGE"),
        ]
    );
    let message = result["chunks"][5]["error"]["message"].as_str().expect("a message");
    assert!(message.contains("missing.wav"), "{message}");
    assert_eq!(service.asr.books().file("refused.wav").calls, 2);
    assert_eq!(service.asr.books().file("text.wav").calls, 0);
}

async fn each_status_can_be_searched(mode: ApiMode) {
    let service = Service::start_in(mode).await;
    let worker = service.work(LIMITS);
    service.asr.script("bad.wav", [Answer::status(400), Answer::status(400)]);
    let paths = service.audio(&["good.wav", "bad.wav", "slow.wav"]).await;
    let good = service.submit("ana", &paths[..1]).await;
    let bad = service.submit("ana", &paths[1..2]).await;
    let others = service.submit("bob", &paths[..1]).await;
    for job in [&good, &bad, &others] {
        service.ended(job).await;
    }
    worker.stop().await;
    let open = service.submit("ana", &paths[2..]).await;
    for (status, job) in [("COMPLETED", &good), ("FAILED", &bad), ("IN_PROGRESS", &open)] {
        let query = format!("/transcript/search?userId=ana&jobStatus={status}");
        let results = eventually("the listing", async || {
            let (code, listing) = service.get(&query).await;
            assert_eq!(code, StatusCode::OK, "{listing}");
            let results = listing["results"].as_array().expect("results").clone();
            (results.len() == 1 && listing["nextCursor"].is_null()).then_some(results)
        })
        .await;
        assert_eq!(results[0], service.read(job).await);
    }
}

async fn transient_model_errors_are_retried(mode: ApiMode) {
    let service = Service::start_in(mode).await;
    let _worker = service.work(LIMITS);
    service.asr.script("a.wav", [Answer::status(500), Answer::status(500)]);
    service.asr.script("b.wav", [Answer::Cut, Answer::CutMidBody]);
    service.asr.script("c.wav", [Answer::status_retry_after(429, "1")]);
    let broken = [500, 500, 500, 500, 500].map(Answer::status);
    service.asr.script("d.wav", broken);
    let paths = service.audio(&["a.wav", "b.wav", "c.wav", "d.wav"]).await;
    let job = service.submit("ana", &paths).await;
    let result = service.ended(&job).await;
    assert_eq!(statuses(&result), ["COMPLETED", "COMPLETED", "COMPLETED", "FAILED"]);
    assert_eq!(result["chunks"][3]["error"]["code"], "ASR_UNAVAILABLE");
    let books = service.asr.books();
    let calls = ["a.wav", "b.wav", "c.wav", "d.wav"].map(|name| books.file(name).calls);
    assert_eq!(calls, [3, 3, 2, 4]);
    assert!(books.file("c.wav").gaps()[0] >= Duration::from_secs(1));
}

async fn foreign_messages_do_not_affect_jobs(mode: ApiMode) {
    let service = Service::start_in(mode).await;
    let _worker = service.work(LIMITS);
    let foreign = |body: &str| Outgoing {
        body: body.to_owned(),
        group: None,
        envelope: Envelope::default(),
        delay: Duration::ZERO,
    };
    let newer = r#"{"version":2,"jobId":"x"}"#;
    let unknown_job = r#"{"version":1,"jobId":"0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b","chunkIndex":0,"audioChunkPath":"a.wav"}"#;
    let foreigners = ["garbage", newer, unknown_job].map(foreign);
    for answer in service.aws.queue().send(&foreigners).await {
        answer.expect("sent");
    }
    let paths = service.audio(&["a.wav"]).await;
    let job = service.submit("ana", &paths).await;
    assert_eq!(service.ended(&job).await["jobStatus"], "COMPLETED");
    // The two unreadable messages become dead letters. The third is for an unknown job and is deleted.
    eventually("two dead letters", async || {
        let dead = service.aws.dead_letters().depth().await.expect("a depth");
        let chunks = service.aws.queue().depth().await.expect("a depth");
        (dead.visible + dead.in_flight == 2 && chunks.visible + chunks.in_flight == 0).then_some(())
    })
    .await;
}

async fn jobs_of_ten_users_run_side_by_side(mode: ApiMode) {
    let service = Service::start_in(mode).await;
    service.asr.set(Behaviour::taking(Latency::Uniform { from_ms: 10, to_ms: 100 }));
    let _workers = [service.work(LIMITS), service.work(LIMITS)];
    let paths = service.audio(&["a.wav", "b.wav", "c.wav"]).await;
    let mut jobs = Vec::new();
    for n in 0..10 {
        jobs.push(service.submit(&format!("user{n}"), &paths).await);
    }
    let expected = ["a.wav", "b.wav", "c.wav"].map(text_for).join(" ");
    for job in &jobs {
        assert_eq!(service.ended(job).await["transcription"], json!(expected));
    }
    let books = service.asr.books();
    let calls = ["a.wav", "b.wav", "c.wav"].map(|name| books.file(name).calls);
    assert_eq!(calls, [10, 10, 10], "each chunk once");
}

/// The whole object is read for the detection of its format, and must be sent to the model nevertheless.
async fn very_short_objects_in_s3_are_read(mode: ApiMode) {
    let service = Service::start_in(mode).await;
    let _worker = service.work(LIMITS);
    let path = service.aws.put("tiny.wav", wav(32)).await;
    let job = service.submit("ana", &[path]).await;
    let result = service.ended(&job).await;
    assert_eq!(result["jobStatus"], "COMPLETED", "{result}");
    assert_eq!(service.asr.books().file("tiny.wav").bytes, 32);
}
