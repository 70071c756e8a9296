//! The operator's commands: the real binary against real resources, sound and not.

use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;
use longhand_e2e::processes::{binary, free_port};
use longhand_e2e::service::{LIMITS, Service};
use longhand_shared::job::{Metadata, NewJob, TranscribeOptions};
use longhand_shared::queue::{ChunkMessage, ChunkQueue, Envelope, Outgoing};
use longhand_shared::store::read;
use longhand_shared::{JobId, Timestamp, lifecycle};
use longhand_sim_asr::Answer;
use serde_json::{Value, json};
use tokio::process::Command;

/// How a command ended.
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("{} {}", self.stdout, self.stderr))
    }

    /// How a check came out.
    fn verdict(&self, check: &str) -> String {
        let document = self.json();
        let checks = document["checks"].as_array().expect("checks");
        let found = checks.iter().find(|found| found["check"] == check);
        let found = found.unwrap_or_else(|| panic!("no check {check}: {document}"));
        found["verdict"].as_str().expect("a verdict").to_owned()
    }
}

/// Runs `longhand` with the environment of the services, and these changes to it.
async fn longhand(service: &Service, changes: &[(&str, &str)], args: &[&str]) -> Ran {
    let resources = &service.aws.resources;
    let ran = Command::new(binary("longhand"))
        .args(args)
        .env("LONGHAND_TABLE", &resources.table)
        .env("LONGHAND_QUEUE_URL", &resources.queue_url)
        .env("LONGHAND_DLQ_URL", &resources.dlq_url)
        .env("LONGHAND_AUDIO_BUCKETS", &resources.bucket)
        .env("LONGHAND_URL", &service.url)
        .env("ASR_BASE_URL", service.asr.base_url())
        .env_remove("LONGHAND_VISIBILITY_SECONDS")
        .envs(changes.iter().copied())
        .kill_on_drop(true)
        .output();
    let ran = tokio::time::timeout(Duration::from_mins(1), ran).await.expect("in time").expect("it ran");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: ran.status.code(), stdout: text(ran.stdout), stderr: text(ran.stderr) }
}

async fn set_attribute(service: &Service, url: &str, name: QueueAttributeName, value: &str) {
    let set = service.aws.sqs.set_queue_attributes().queue_url(url).attributes(name, value);
    set.send().await.expect("the attribute is set");
}

#[tokio::test]
async fn a_fresh_stack_is_sound() {
    let service = Service::start().await;
    let ran = longhand(&service, &[], &["doctor"]).await;
    assert_eq!(ran.code, Some(0), "{}{}", ran.stdout, ran.stderr);
    for check in [
        "table",
        "index userId-jobStatus",
        "index openJobs",
        "queue",
        "visibility",
        "queue retention",
        "redrive policy",
        "dead-letter queue",
        "dead-letter retention",
        "bucket",
        "model",
        "api",
        "clock",
    ] {
        let line = format!("ok       {check:<22}  ");
        assert!(ran.stdout.lines().any(|found| found.starts_with(&line)), "{check}: {}", ran.stdout);
    }
    let ran = longhand(&service, &[], &["doctor", "--json"]).await;
    assert_ne!(ran.json()["verdict"], "fault", "{}", ran.stdout);
    assert_ne!(ran.verdict("ttl"), "fault", "{}", ran.stdout);
}

#[tokio::test]
async fn what_is_wrong_is_found_all_at_once() {
    let service = Service::start().await;
    let queue = service.aws.resources.queue_url.clone();
    set_attribute(&service, &queue, QueueAttributeName::RedrivePolicy, "").await;
    set_attribute(&service, &queue, QueueAttributeName::VisibilityTimeout, "7").await;
    let dlq = service.aws.resources.dlq_url.clone();
    set_attribute(&service, &dlq, QueueAttributeName::MessageRetentionPeriod, "86400").await;
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let changes = [
        ("LONGHAND_TABLE", "no-such-table"),
        ("LONGHAND_AUDIO_BUCKETS", "no-such-bucket"),
        ("LONGHAND_URL", nobody.as_str()),
        ("ASR_BASE_URL", nobody.as_str()),
    ];
    let ran = longhand(&service, &changes, &["doctor", "--json"]).await;
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.json()["verdict"], "fault");
    for fault in ["table", "redrive policy", "dead-letter retention", "bucket", "model", "api"] {
        assert_eq!(ran.verdict(fault), "fault", "{fault}: {}", ran.stdout);
    }
    assert_eq!(ran.verdict("visibility"), "warning", "{}", ran.stdout);
    assert_eq!((ran.verdict("queue"), ran.verdict("clock")), ("ok".to_owned(), "ok".to_owned()));

    // Without an emulator there is no table, no queue and no bucket, and no check hangs.
    let nowhere = [("AWS_ENDPOINT_URL", nobody.as_str()), ("LONGHAND_QUEUE_URL", "")];
    let ran = longhand(&service, &nowhere, &["doctor", "--json"]).await;
    assert_eq!(ran.code, Some(1), "{}{}", ran.stdout, ran.stderr);
    for fault in ["table", "ttl", "LONGHAND_QUEUE_URL", "dead-letter queue", "bucket"] {
        assert_eq!(ran.verdict(fault), "fault", "{fault}: {}", ran.stdout);
    }
    assert_eq!((ran.verdict("model"), ran.verdict("api")), ("ok".to_owned(), "ok".to_owned()));
}

/// A job of one chunk in the table, its message among the dead letters.
async fn dead_letter(service: &Service) -> JobId {
    let path = service.audio(&["0.wav"]).await.remove(0).parse().expect("a path");
    let user = "ana".parse().expect("a user");
    let options = TranscribeOptions::default();
    let new = NewJob::new(user, vec![path], options, Metadata::new(), Timestamp::now()).expect("a job");
    let store = service.aws.store();
    // The dead-letter queue in place of the queue of chunks: as if the message had ended there.
    lifecycle::submit(store.as_ref(), service.aws.dead_letters().as_ref(), &new, None)
        .await
        .expect("submitted");
    new.id
}

#[tokio::test]
async fn dead_letters_are_listed_shown_and_sent_back() {
    let service = Service::start().await;
    let (job, other) = (dead_letter(&service).await, dead_letter(&service).await);
    let foreign = Outgoing {
        body: "not ours".to_owned(),
        group: None,
        envelope: Envelope { reason: Some("unreadable".to_owned()), ..Envelope::default() },
        delay: Duration::ZERO,
    };
    let dlq = service.aws.dead_letters();
    assert_eq!(dlq.send(&[foreign]).await, [Ok(())]);

    let ran = longhand(&service, &[], &["dlq", "list", "--json"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let listed = ran.json();
    let messages = listed["messages"].as_array().expect("messages");
    assert_eq!((messages.len(), &listed["hidden"]), (3, &json!(0)), "{listed}");
    let id_of = |job: Value| {
        let found = messages.iter().find(|message| message["jobId"] == job).expect("listed");
        found["messageId"].as_str().expect("an id").to_owned()
    };
    let (mine, stranger) = (id_of(json!(job)), id_of(Value::Null));
    let text = longhand(&service, &[], &["dlq", "list"]).await;
    assert!(text.stdout.contains(&job.to_string()) && text.stdout.contains("unreadable"), "{}", text.stdout);
    assert!(text.stderr.contains("3 dead letters"), "{}", text.stderr);
    // A look gives everything back.
    assert_eq!(dlq.depth().await.expect("a depth").visible, 3);

    let shown = longhand(&service, &[], &["dlq", "show", &mine, "--json"]).await.json();
    assert_eq!((&shown["origin"], &shown["system"]["MessageGroupId"]), (&json!(mine), &json!("ana")));
    let body = shown["body"].as_str().expect("a body");
    assert_eq!(ChunkMessage::parse(body).expect("ours").chunk().job, job);
    let missing = longhand(&service, &[], &["dlq", "show", "no-such-message"]).await;
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(3), ""), "{}", missing.stderr);

    let dry = longhand(&service, &[], &["dlq", "redrive", "--all", "--dry-run"]).await;
    assert_eq!(dry.stdout.matches("would redrive  ").count(), 2, "{}", dry.stdout);
    assert_eq!(dlq.depth().await.expect("a depth").visible, 3);

    let one = longhand(&service, &[], &["dlq", "redrive", "--job", &job.to_string()]).await;
    assert_eq!(one.code, Some(0), "{}", one.stderr);
    assert_eq!(one.stdout, format!("redriven  {mine}  job {job} chunk 0\n"));
    assert_eq!(dlq.depth().await.expect("a depth").visible, 2);

    let wait = Duration::from_secs(1);
    let queue = service.aws.queue();
    let copies = queue.receive(10, wait, Duration::from_secs(30)).await.expect("received");
    assert_eq!(copies.len(), 1);
    assert_eq!((copies[0].receive_count, copies[0].origin()), (1, mine.as_str()));
    assert_eq!(copies[0].group.as_deref(), Some("ana"));
    let back = [(copies[0].receipt.clone(), Duration::ZERO)];
    assert_eq!(queue.change_visibility(&back).await, [Ok(())]);

    let all = longhand(&service, &[], &["dlq", "redrive", "--all"]).await;
    assert_eq!(all.code, Some(0), "{}", all.stderr);
    assert!(all.stdout.contains(&format!("job {other} chunk 0")), "{}", all.stdout);
    assert!(all.stdout.contains(&format!("refused  {stranger}: no worker could read it")), "{}", all.stdout);
    assert_eq!(dlq.depth().await.expect("a depth").visible, 1);

    // What went back is work like any other.
    let worker = service.work(LIMITS);
    for id in [job, other] {
        assert_eq!(service.ended(&id.to_string()).await["jobStatus"], "COMPLETED");
        assert!(read(service.aws.store().as_ref(), id).await.expect("read").is_some());
    }
    worker.stop().await;
}

#[tokio::test]
async fn what_a_worker_hides_is_counted() {
    let service = Service::start().await;
    dead_letter(&service).await;
    let dlq = service.aws.dead_letters();
    let parked = dlq.receive(10, Duration::from_secs(1), Duration::from_mins(15)).await.expect("received");
    assert_eq!(parked.len(), 1);
    let ran = longhand(&service, &[], &["dlq", "list"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("about 1 hidden"), "{}", ran.stderr);
    let ran = longhand(&service, &[], &["doctor", "--json"]).await;
    assert_eq!((ran.code, ran.verdict("dead-letter queue")), (Some(0), "warning".to_owned()));
}

#[tokio::test]
async fn a_failed_job_is_given_another_try() {
    let service = Service::start().await;
    let paths = service.audio(&["a.wav", "b.wav"]).await;
    service.asr.script("b.wav", [Answer::status(400)]);
    let job = service.submit("ana", &paths).await;
    let in_progress = longhand(&service, &[], &["job", "retry", &job]).await;
    assert_eq!(in_progress.code, Some(2), "{}", in_progress.stderr);
    assert!(in_progress.stderr.contains("is in progress"), "{}", in_progress.stderr);

    let _worker = service.work(LIMITS);
    assert_eq!(service.ended(&job).await["jobStatus"], "FAILED");
    let ran = longhand(&service, &[], &["job", "retry", &job, "--json"]).await;
    assert_eq!((ran.code, ran.json()), (Some(0), json!({"jobId": job, "chunks": 1})), "{}", ran.stderr);
    let result = service.ended(&job).await;
    assert_eq!(result["jobStatus"], "COMPLETED");
    assert_eq!(service.asr.books().file("a.wav").calls, 1, "only what failed is tried again");

    let nothing = longhand(&service, &[], &["job", "retry", &job]).await;
    assert_eq!(nothing.code, Some(2), "{}", nothing.stderr);
    let unknown = JobId::random().to_string();
    let unknown = longhand(&service, &[], &["job", "retry", &unknown]).await;
    assert_eq!(unknown.code, Some(3), "{}", unknown.stderr);
}
