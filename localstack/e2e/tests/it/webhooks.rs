//! Webhook delivery with queues in the emulator and the public library of Standard Webhooks.

use longhand_e2e::eventually;
use longhand_e2e::service::{LIMITS, Service};
use longhand_shared::queue::ChunkQueue;
use serde_json::{Value, json};

async fn submit(service: &Service, user: &str, paths: &[String]) -> String {
    let url = service.receiver.url();
    service.submit_body(&json!({"userId": user, "audioChunkPaths": paths, "callbackUrl": url})).await
}

/// Waits for the end of the webhook's delivery. Returns its state.
async fn delivered(service: &Service, job: &str) -> Value {
    eventually("the end of the delivery", async || {
        let callback = service.read(job).await["callback"].clone();
        (callback["state"] != "PENDING").then_some(callback)
    })
    .await
}

async fn waiting(service: &Service) -> u64 {
    let depth = service.aws.webhooks().depth().await.expect("an answer");
    depth.visible + depth.in_flight + depth.delayed
}

#[tokio::test]
async fn webhooks_are_retried_until_delivered_or_gone() {
    let service = Service::start().await;
    let _worker = service.work_with_webhooks(LIMITS);
    let paths = service.audio(&["a.wav", "b.wav"]).await;
    service.receiver.answer(&[500]);
    let job = submit(&service, "ana", &paths).await;
    let result = service.ended(&job).await;
    let callback = delivered(&service, &job).await;
    assert_eq!((&callback["state"], &callback["tries"]), (&json!("DELIVERED"), &json!(2)), "{callback}");
    assert_eq!(callback["attempts"][0]["error"], "HTTP 500");
    let events = service.receiver.events(&job);
    assert_eq!(events.len(), 2);
    assert_eq!(events[0].id, events[1].id, "the same id for the same end");
    let event = &events[0].event;
    assert_eq!(
        (&event["type"], &event["timestamp"]),
        (&json!("transcript.completed"), &result["completedTime"])
    );
    let (status, read) = service.get(event["data"]["transcriptPath"].as_str().expect("a path")).await;
    assert_eq!((status.as_u16(), &read["transcription"]), (200, &result["transcription"]));

    let missing = service.audio(&["c.wav"]).await[0].replace("c.wav", "not-there.wav");
    service.receiver.answer(&[410]);
    let failed = submit(&service, "bob", &[missing]).await;
    let callback = delivered(&service, &failed).await;
    assert_eq!((&callback["state"], &callback["tries"]), (&json!("GONE"), &json!(1)), "{callback}");
    assert_eq!(service.receiver.events(&failed)[0].event["type"], "transcript.failed");
    eventually("an empty queue", async || (waiting(&service).await == 0).then_some(())).await;
    assert_eq!(service.aws.webhook_dead_letters().depth().await.expect("an answer").visible, 0);
}

#[tokio::test]
async fn the_sweeper_sends_a_lost_webhook_message_again() {
    let service = Service::start().await;
    // A worker without webhooks ends the job, like one that crashes before it sends the message.
    let paths = service.audio(&["a.wav"]).await;
    let job = submit(&service, "ana", &paths).await;
    let ending = service.work(LIMITS);
    let result = service.ended(&job).await;
    ending.stop().await;
    assert_eq!((&result["callback"]["state"], waiting(&service).await), (&json!("PENDING"), 0));

    let _worker = service.work_with_webhooks(LIMITS);
    service.make_due(&job).await;
    assert_eq!(delivered(&service, &job).await["state"], "DELIVERED");
    assert_eq!(service.receiver.events(&job).len(), 1);
}
