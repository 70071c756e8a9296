//! The operator's commands of the CLI against resources in the emulator, except the doctor (see `doctor.rs`).

use std::time::Duration;

use longhand_e2e::eventually;
use longhand_e2e::service::{LIMITS, Service};
use longhand_shared::domain::callback::{CallbackAttempt, CallbackState};
use longhand_shared::domain::job::{Metadata, NewJob, TranscribeOptions};
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::queue::{ChunkMessage, ChunkQueue, Envelope, Outgoing};
use longhand_shared::store::{JobStore, read};
use longhand_shared::{JobId, Timestamp};
use longhand_sim_asr::Answer;
use serde_json::{Value, json};

use crate::command::longhand;

/// Creates a job with one chunk whose message is a dead letter.
async fn dead_letter(service: &Service) -> JobId {
    let path = service.audio(&["0.wav"]).await.remove(0).parse().expect("a path");
    let user = "ana".parse().expect("a user");
    let options = TranscribeOptions::default();
    let new = NewJob::new(user, vec![path], options, Metadata::new(), Timestamp::now()).expect("a job");
    let store = service.aws.store();
    // Sends the message to the dead-letter queue.
    Lifecycle::new(store, service.aws.dead_letters()).submit(&new, None).await.expect("submitted");
    new.id
}

#[tokio::test]
async fn dead_letters_can_be_listed_shown_and_redriven() {
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
    let (own, foreign_id) = (id_of(json!(job)), id_of(Value::Null));
    let text = longhand(&service, &[], &["dlq", "list"]).await;
    assert!(text.stdout.contains(&job.to_string()) && text.stdout.contains("unreadable"), "{}", text.stdout);
    assert!(text.stderr.contains("3 dead letters"), "{}", text.stderr);
    // Listing makes all messages visible again.
    assert_eq!(dlq.depth().await.expect("a depth").visible, 3);

    let shown = longhand(&service, &[], &["dlq", "show", &own, "--json"]).await.json();
    assert_eq!((&shown["origin"], &shown["system"]["MessageGroupId"]), (&json!(own), &json!("ana")));
    let body = shown["body"].as_str().expect("a body");
    assert_eq!(ChunkMessage::parse(body).expect("a chunk message").chunk().job, job);
    let missing = longhand(&service, &[], &["dlq", "show", "no-such-message"]).await;
    assert_eq!((missing.code, missing.stdout.as_str()), (Some(3), ""), "{}", missing.stderr);

    let dry = longhand(&service, &[], &["dlq", "redrive", "--all", "--dry-run"]).await;
    assert_eq!(dry.stdout.matches("would redrive  ").count(), 2, "{}", dry.stdout);
    assert_eq!(dlq.depth().await.expect("a depth").visible, 3);

    let one = longhand(&service, &[], &["dlq", "redrive", "--job", &job.to_string()]).await;
    assert_eq!(one.code, Some(0), "{}", one.stderr);
    assert_eq!(one.stdout, format!("redriven  {own}  job {job} chunk 1\n"));
    assert_eq!(dlq.depth().await.expect("a depth").visible, 2);

    let wait = Duration::from_secs(1);
    let queue = service.aws.queue();
    let copies = queue.receive(10, wait, Duration::from_secs(30)).await.expect("received");
    assert_eq!(copies.len(), 1);
    assert_eq!((copies[0].receive_count, copies[0].origin()), (1, own.as_str()));
    assert_eq!(copies[0].group.as_deref(), Some("ana"));
    let back = [(copies[0].receipt.clone(), Duration::ZERO)];
    assert_eq!(queue.change_visibility(&back).await, [Ok(())]);

    let all = longhand(&service, &[], &["dlq", "redrive", "--all"]).await;
    assert_eq!(all.code, Some(0), "{}", all.stderr);
    assert!(all.stdout.contains(&format!("job {other} chunk 1")), "{}", all.stdout);
    assert!(
        all.stdout.contains(&format!("refused  {foreign_id}: no worker could read it")),
        "{}",
        all.stdout
    );
    assert_eq!(dlq.depth().await.expect("a depth").visible, 1);

    // Workers process the redriven messages.
    let worker = service.work(LIMITS);
    for id in [job, other] {
        assert_eq!(service.ended(&id.to_string()).await["jobStatus"], "COMPLETED");
        assert!(read(service.aws.store().as_ref(), id).await.expect("read").is_some());
    }
    worker.stop().await;
}

#[tokio::test]
async fn copies_of_a_dead_letter_do_not_hide_other_messages() {
    let service = Service::start().await;
    let (store, dlq) = (service.aws.store(), service.aws.dead_letters());
    let job = dead_letter(&service).await;
    let head = store.job(job).await.expect("an answer").expect("it is there");
    let chunk = store.chunks(job).await.expect("an answer").remove(0);
    let mut copy = ChunkMessage::outgoing(&head, &chunk, None);
    copy.envelope.origin = Some("one-origin".to_owned());
    // More than two receives return.
    let copies = vec![copy; 25];
    assert!(dlq.send(&copies).await.iter().all(Result::is_ok));
    let other = dead_letter(&service).await;
    let all = longhand(&service, &[], &["dlq", "redrive", "--all"]).await;
    assert_eq!((all.code, all.stdout.lines().count()), (Some(0), 3), "{}{}", all.stdout, all.stderr);
    assert!(all.stdout.contains(&format!("job {other} chunk 1")), "{}", all.stdout);
}

#[tokio::test]
async fn hidden_dead_letters_are_counted() {
    let service = Service::start().await;
    dead_letter(&service).await;
    let dlq = service.aws.dead_letters();
    let parked = dlq.receive(10, Duration::from_secs(1), Duration::from_mins(15)).await.expect("received");
    assert_eq!(parked.len(), 1);
    let ran = longhand(&service, &[], &["dlq", "list"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("about 1 hidden"), "{}", ran.stderr);
    let ran = longhand(&service, &[], &["doctor", "--json"]).await;
    assert_eq!((ran.code, ran.verdict("dlq")), (Some(0), "warning".to_owned()));
}

/// Creates a job whose webhook has failed. Returns its id and its dead letter.
async fn undelivered_webhook(service: &Service) -> (JobId, Outgoing) {
    let paths = service.audio(&["w.wav"]).await;
    let url = service.receiver.url();
    let body = json!({ "userId": "ana", "audioChunkPaths": paths, "callbackUrl": url });
    let job = service.submit_body(&body).await;
    // This worker sends no webhooks.
    let worker = service.work(LIMITS);
    let result = service.ended(&job).await;
    worker.stop().await;
    let ended: Timestamp =
        result["completedTime"].as_str().and_then(|time| time.parse().ok()).expect("a time");
    let (id, store): (JobId, _) = (job.parse().expect("an id"), service.aws.store());
    let head = store.job(id).await.expect("an answer").expect("the job exists").head;
    let attempt = CallbackAttempt { time: ended, status: Some(500), milliseconds: 1, error: None };
    let callback = head.callback.expect("a callback").settled(CallbackState::Failed, attempt);
    assert!(store.note_callback(id, ended, &callback).await.expect("an answer"));
    let message = Outgoing {
        body: json!({ "version": 1, "jobId": id, "completedTime": ended }).to_string(),
        group: Some("ana".to_owned()),
        envelope: Envelope { reason: Some("gave up after 1 attempts".to_owned()), ..Envelope::default() },
        delay: Duration::ZERO,
    };
    (id, message)
}

#[tokio::test]
async fn a_failed_webhook_can_be_redriven() {
    let service = Service::start().await;
    let (job, message) = undelivered_webhook(&service).await;
    let dlq = service.aws.webhook_dead_letters();
    assert_eq!(dlq.send(&[message]).await, [Ok(())]);

    let listed = longhand(&service, &[], &["dlq", "list", "--queue", "webhooks", "--json"]).await.json();
    let message = &listed["messages"][0];
    assert_eq!((&message["jobId"], &message["foreign"]), (&json!(job), &json!(false)), "{listed}");
    assert_eq!(message["reason"], "gave up after 1 attempts");
    let id = message["messageId"].as_str().expect("an id");
    let shown = longhand(&service, &[], &["dlq", "show", id, "--queue", "webhooks"]).await;
    assert!(shown.stdout.contains("redrive   possible"), "{}{}", shown.stdout, shown.stderr);
    // The dead-letter queue of chunks does not have it.
    assert_eq!(longhand(&service, &[], &["dlq", "show", id]).await.code, Some(3));
    let doctor = longhand(&service, &[], &["doctor"]).await;
    assert!(doctor.stdout.contains("`longhand dlq list --queue webhooks`"), "{}", doctor.stdout);

    let unset = [("LONGHAND_WEBHOOK_QUEUE_URL", "")];
    let nowhere = longhand(&service, &unset, &["dlq", "redrive", "--all", "--queue", "webhooks"]).await;
    assert_eq!(nowhere.code, Some(2), "{}", nowhere.stderr);
    assert!(nowhere.stderr.contains("LONGHAND_WEBHOOK_QUEUE_URL"), "{}", nowhere.stderr);
    assert_eq!(dlq.depth().await.expect("a depth").visible, 1);

    let back = longhand(&service, &[], &["dlq", "redrive", "--all", "--queue", "webhooks"]).await;
    assert_eq!(
        (back.code, back.stdout),
        (Some(0), format!("redriven  {id}  job {job}\n")),
        "{}",
        back.stderr
    );
    assert_eq!(dlq.depth().await.expect("a depth").visible, 0);
    let worker = service.work_with_webhooks(LIMITS);
    eventually("the delivery of the webhook", async || {
        (service.read(&job.to_string()).await["callback"]["state"] == "DELIVERED").then_some(())
    })
    .await;
    assert_eq!(service.receiver.events(&job.to_string()).len(), 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_failed_job_can_be_retried() {
    let service = Service::start().await;
    let paths = service.audio(&["a.wav", "b.wav"]).await;
    service.asr.script("b.wav", [400, 400].map(Answer::status));
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
    assert_eq!(service.asr.books().file("a.wav").calls, 1, "only the failed chunk is retried");

    let nothing = longhand(&service, &[], &["job", "retry", &job]).await;
    assert_eq!(nothing.code, Some(2), "{}", nothing.stderr);
    let unknown = JobId::random().to_string();
    let unknown = longhand(&service, &[], &["job", "retry", &unknown]).await;
    assert_eq!(unknown.code, Some(3), "{}", unknown.stderr);
}
