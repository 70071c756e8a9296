//! The end of a job told to a receiver, with real queues and the public library of the scheme.

use longhand_e2e::eventually;
use longhand_e2e::service::{LIMITS, Service};
use longhand_shared::queue::ChunkQueue;
use serde_json::{Value, json};

async fn submit(service: &Service, user: &str, paths: &[String]) -> String {
    let url = service.receiver.url();
    service.submit_body(&json!({"userId": user, "audioChunkPaths": paths, "callbackUrl": url})).await
}

/// The telling once it is over.
async fn told(service: &Service, job: &str) -> Value {
    eventually("the end of the telling", async || {
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
async fn a_receiver_is_told_of_each_end_once_it_takes_the_word() {
    let service = Service::start().await;
    let _worker = service.work_and_tell(LIMITS);
    let paths = service.audio(&["a.wav", "b.wav"]).await;
    service.receiver.answer(&[500]);
    let job = submit(&service, "ana", &paths).await;
    let result = service.ended(&job).await;
    let callback = told(&service, &job).await;
    assert_eq!((&callback["state"], &callback["tries"]), (&json!("DELIVERED"), &json!(2)), "{callback}");
    assert_eq!(callback["attempts"][0]["error"], "HTTP 500");
    let heard = service.receiver.heard(&job);
    assert_eq!(heard.len(), 2);
    assert_eq!(heard[0].id, heard[1].id, "the same end, the same id");
    let event = &heard[0].event;
    assert_eq!(
        (&event["type"], &event["timestamp"]),
        (&json!("transcript.completed"), &result["completedTime"])
    );
    let (status, read) = service.get(event["data"]["transcriptPath"].as_str().expect("a path")).await;
    assert_eq!((status.as_u16(), &read["transcription"]), (200, &result["transcription"]));

    let missing = service.audio(&["c.wav"]).await[0].replace("c.wav", "not-there.wav");
    service.receiver.answer(&[410]);
    let failed = submit(&service, "bob", &[missing]).await;
    let callback = told(&service, &failed).await;
    assert_eq!((&callback["state"], &callback["tries"]), (&json!("GONE"), &json!(1)), "{callback}");
    assert_eq!(service.receiver.heard(&failed)[0].event["type"], "transcript.failed");
    eventually("an empty queue", async || (waiting(&service).await == 0).then_some(())).await;
    assert_eq!(service.aws.webhook_dead_letters().depth().await.expect("an answer").visible, 0);
}

#[tokio::test]
async fn a_message_that_was_lost_is_sent_again_by_the_sweeper() {
    let service = Service::start().await;
    // One who ends the job and dies before it can send the message: a worker without webhooks.
    let paths = service.audio(&["a.wav"]).await;
    let job = submit(&service, "ana", &paths).await;
    let ending = service.work(LIMITS);
    let result = service.ended(&job).await;
    ending.stop().await;
    assert_eq!((&result["callback"]["state"], waiting(&service).await), (&json!("PENDING"), 0));

    let _worker = service.work_and_tell(LIMITS);
    service.make_due(&job).await;
    assert_eq!(told(&service, &job).await["state"], "DELIVERED");
    assert_eq!(service.receiver.heard(&job).len(), 1);
}
