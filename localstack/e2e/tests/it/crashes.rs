//! Crashes and shutdowns. Tests that kill a process run the real programs.

use std::time::Duration;

use longhand_e2e::processes::{Process, free_address, ready};
use longhand_e2e::service::{LIMITS, Service};
use longhand_e2e::{TIMEOUT, eventually};
use longhand_shared::Timestamp;
use longhand_shared::queue::{ChunkMessage, ChunkQueue, Depth, Envelope, Outgoing};
use longhand_shared::store::{Claim, JobStore};
use longhand_sim_asr::{Answer, Behaviour, Books, Latency, text_for};
use longhand_worker::runner::Limits;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

/// The worker's settings for a service, and the address of its health check.
pub(crate) fn worker_variables(service: &Service) -> (Vec<(&'static str, String)>, String) {
    let health = free_address();
    let mut variables = service.aws.resources.variables();
    variables.extend([
        ("LONGHAND_HEALTH_LISTEN", health.clone()),
        ("LONGHAND_VISIBILITY_SECONDS", "3".to_owned()),
        ("LONGHAND_POLL_SECONDS", "1".to_owned()),
        ("LONGHAND_DRAIN_SECONDS", "6".to_owned()),
        ("LONGHAND_SWEEP_SECONDS", "1".to_owned()),
        ("ASR_BASE_URL", service.asr.base_url()),
    ]);
    (variables, health)
}

async fn worker(service: &Service) -> Process {
    let (variables, health) = worker_variables(service);
    let process = Process::start("longhand-worker", &variables);
    ready(&format!("http://{health}/healthz")).await;
    process
}

fn attempts(result: &Value) -> Vec<u64> {
    let chunks = result["chunks"].as_array().expect("chunks");
    chunks.iter().map(|chunk| chunk["attempts"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn a_killed_worker_loses_no_chunk() {
    let service = Service::start().await;
    let names = ["a.wav", "b.wav", "c.wav", "d.wav"];
    service.asr.script("c.wav", [Answer::Hang]);
    service.asr.script("d.wav", [Answer::Hang]);
    let paths = service.audio(&names).await;
    let mut first = worker(&service).await;
    let job = service.submit("ana", &paths).await;
    eventually("two completed chunks and two model calls in flight", async || {
        let result = service.read(&job).await;
        let done = |index: usize| result["chunks"][index]["chunkStatus"] == "COMPLETED";
        (done(0) && done(1) && service.asr.books().in_flight == 2).then_some(())
    })
    .await;
    first.kill().await;

    let _second = worker(&service).await;
    let result = service.ended(&job).await;
    assert_eq!(result["transcription"], json!(names.map(text_for).join(" ")));
    assert_eq!(attempts(&result), [1, 1, 2, 2]);
    let books = service.asr.books();
    assert_eq!(names.map(|name| books.file(name).calls), [1, 1, 2, 2], "no further call for settled chunks");
}

/// The api is killed while its call to SQS hangs. The job is in the table, and no message is sent.
#[tokio::test]
async fn an_api_killed_before_it_sends_messages_loses_no_job() {
    let service = Service::start().await;
    let paths = service.audio(&["a.wav", "b.wav"]).await;
    let hanging_sqs = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let listen = free_address();
    let resources = &service.aws.resources;
    let mut api = Process::start(
        "longhand-api",
        &[
            ("LONGHAND_LISTEN", listen.clone()),
            ("LONGHAND_TABLE", resources.table.clone()),
            ("LONGHAND_QUEUE_URL", resources.queue_url.clone()),
            ("LONGHAND_AUDIO_BUCKETS", resources.bucket.clone()),
            ("AWS_ENDPOINT_URL_SQS", format!("http://{}", hanging_sqs.local_addr().expect("an address"))),
        ],
    );
    ready(&format!("http://{listen}/healthz")).await;
    let body = json!({"userId": "ana", "audioChunkPaths": paths});
    let request = service.http.post(format!("http://{listen}/transcribe")).json(&body);
    let submit = tokio::spawn(request.send());
    let (mut connection, _) = tokio::time::timeout(TIMEOUT, hanging_sqs.accept())
        .await
        .expect("a call to SQS")
        .expect("a connection");
    let mut head = [0; 512];
    let read = connection.read(&mut head).await.expect("a request");
    assert!(read > 0);
    api.kill().await;
    assert!(submit.await.expect("no panic").is_err(), "the client gets no response");

    let listing = eventually("the job in the listing", async || {
        let (_, listing) = service.get("/transcript/search?userId=ana&jobStatus=IN_PROGRESS").await;
        listing["results"].get(0).cloned()
    })
    .await;
    let job = listing["jobId"].as_str().expect("a job id").to_owned();
    assert_eq!(service.aws.queue().depth().await.expect("a depth"), Depth::default(), "no message was sent");
    service.make_due(&job).await;
    let _worker = worker(&service).await;
    assert_eq!(service.ended(&job).await["transcription"], json!(["a.wav", "b.wav"].map(text_for).join(" ")));
}

#[tokio::test]
async fn on_sigterm_a_worker_finishes_or_releases_and_exits_0() {
    let service = Service::start().await;
    let names = ["quick.wav", "slow.wav", "later.wav"];
    service.asr.script("quick.wav", [Answer::Echo.after_ms(1000)]);
    service.asr.script("slow.wav", [Answer::Hang]);
    let paths = service.audio(&names).await;
    let first = worker(&service).await;
    let job = service.submit("ana", &paths[..2]).await;
    assert!(service.asr.wait_until(|books| books.in_flight == 2, TIMEOUT).await);
    first.signal("-TERM").await;
    let later = service.submit("ana", &paths[2..]).await;
    let began = tokio::time::Instant::now();
    let status = first.ended().await;
    assert!(status.success(), "{status}");
    assert!(began.elapsed() < Duration::from_secs(8), "within the drain deadline of 6 s");

    let result = service.read(&job).await;
    assert_eq!(result["chunks"][0]["chunkStatus"], "COMPLETED", "the quick chunk is finished");
    assert_eq!(result["chunks"][1]["chunkStatus"], "PENDING", "the slow chunk is released");
    assert_eq!(
        service.read(&later).await["chunks"][0]["chunkStatus"],
        "PENDING",
        "no new message is received"
    );

    let _second = worker(&service).await;
    let result = service.ended(&job).await;
    assert_eq!(result["transcription"], json!(["quick.wav", "slow.wav"].map(text_for).join(" ")));
    assert_eq!(attempts(&result), [1, 1], "a shutdown costs no attempt");
    service.ended(&later).await;
    let dead = service.aws.dead_letters().depth().await.expect("a depth");
    assert_eq!(dead, Depth::default(), "a shutdown causes no dead letter");
}

/// A job of two chunks, one of which becomes a dead letter after three receives, each with `claims` claims.
async fn with_a_dead_letter(service: &Service, claims: u32) -> String {
    let paths = service.audio(&["good.wav", "poison.wav"]).await;
    let job = service.submit("ana", &paths).await;
    let (store, queue) = (service.aws.store(), service.aws.queue());
    let mut received = 0;
    while received < 3 {
        for delivery in
            queue.receive(10, Duration::from_secs(1), Duration::from_secs(30)).await.expect("an answer")
        {
            let poison = delivery.body.contains("poison.wav");
            received += u32::from(poison);
            let chunk = ChunkMessage::parse(&delivery.body).expect("a chunk's message").chunk();
            let by = delivery.claimant("dead");
            for _ in 0..if poison { claims } else { 0 } {
                let claim = store.claim(chunk, by, Timestamp::now(), Duration::from_mins(5)).await;
                assert!(matches!(claim, Ok(Claim::Claimed(_))), "{claim:?}");
            }
            let visible_in = if poison { Duration::ZERO } else { Duration::from_secs(30) };
            let released = queue.change_visibility(&[(delivery.receipt, visible_in)]).await;
            assert_eq!(released, [Ok(())]);
        }
    }
    for delivery in queue.receive(10, Duration::ZERO, Duration::from_secs(30)).await.expect("an answer") {
        assert!(!delivery.body.contains("poison.wav"), "the message is a dead letter");
    }
    job
}

#[tokio::test]
async fn a_dead_letter_after_three_lost_workers_is_requeued() {
    let service = Service::start().await;
    let job = with_a_dead_letter(&service, 1).await;
    let _worker = service.work(LIMITS);
    let result = service.ended(&job).await;
    assert_eq!(result["jobStatus"], "COMPLETED");
    let chunk = &result["chunks"][1];
    assert_eq!(chunk["attempts"], 4);
    let outcomes: Vec<_> =
        chunk["history"].as_array().expect("a list").iter().map(|it| &it["outcome"]).collect();
    assert_eq!(outcomes, ["LOST", "LOST", "LOST", "COMPLETED"]);
    let worker = chunk["history"][0]["worker"].as_str().expect("a name");
    assert!(worker.starts_with("worker-") && worker != "dead", "{worker}");
}

#[tokio::test]
async fn a_dead_letter_after_nine_lost_attempts_fails_its_chunk() {
    let service = Service::start().await;
    let job = with_a_dead_letter(&service, 3).await;
    let _worker = service.work(LIMITS);
    let result = service.ended(&job).await;
    assert_eq!(result["jobStatus"], "FAILED");
    assert_eq!(result["chunks"][1]["error"]["code"], "DEAD_LETTERED");
    assert_eq!(result["transcription"], json!(format!("{} [chunk 1 failed]", text_for("good.wav"))));
    assert_eq!(service.asr.books().file("poison.wav").calls, 0);
}

#[tokio::test]
async fn long_work_renews_its_lease() {
    let service = Service::start().await;
    // Three times the visibility timeout.
    service.asr.set(Behaviour::taking(Latency::Fixed(9_000)));
    let _workers = [service.work(LIMITS), service.work(LIMITS)];
    let paths = service.audio(&["a.wav", "b.wav", "c.wav"]).await;
    let job = service.submit("ana", &paths).await;
    let result = service.ended(&job).await;
    assert_eq!(attempts(&result), [1, 1, 1]);
    assert_eq!(service.asr.books().calls, 3, "no message was delivered twice");
    assert!(service.calls.of("ChangeMessageVisibilityBatch") > 0);
}

#[tokio::test]
async fn a_message_delivered_twice_is_transcribed_once() {
    let service = Service::start().await;
    service.asr.set(Behaviour::taking(Latency::Fixed(500)));
    let paths = service.audio(&["a.wav"]).await;
    let job = service.submit("ana", &paths).await;
    let queue = service.aws.queue();
    let original = queue.receive(1, Duration::from_secs(1), Duration::from_secs(1)).await.expect("an answer");
    let body = original.first().expect("a message").body.clone();
    let copy = Outgoing { body, group: None, envelope: Envelope::default(), delay: Duration::ZERO };
    let sent = queue.send(&[copy.clone(), copy.clone()]).await;
    assert_eq!(sent, [Ok(()), Ok(())]);
    // Three copies of the message at once, for two workers.
    let _workers = [service.work(Limits { slots: 2, ..LIMITS }), service.work(Limits { slots: 2, ..LIMITS })];
    let result = service.ended(&job).await;
    assert_eq!(result["transcription"], json!(text_for("a.wav")));
    // A late copy.
    assert_eq!(queue.send(&[copy]).await, [Ok(())]);
    eventually("an empty queue", async || {
        let depth = queue.depth().await.expect("a depth");
        (depth == Depth::default()).then_some(())
    })
    .await;
    assert_eq!(service.asr.books().calls, 1);
    assert_eq!(service.read(&job).await, result, "nothing changed");
}

#[tokio::test]
async fn an_outage_of_the_model_costs_no_attempt() {
    let service = Service::start().await;
    service.asr.set(Behaviour::answering(Answer::status(503)));
    let paths = service.audio(&["a.wav"]).await;
    let job = service.submit("ana", &paths).await;
    let _worker = service.work(LIMITS);
    // One call for the chunk and three probes.
    let refused = |books: &Books| books.status(503) >= 4;
    assert!(service.asr.wait_until(refused, Duration::from_mins(1)).await);
    service.asr.set(Behaviour::default());
    let result = service.ended(&job).await;
    assert_eq!(result["jobStatus"], "COMPLETED");
    assert_eq!(attempts(&result), [1], "the attempt during the outage does not count");
}
