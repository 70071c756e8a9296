//! The service on fauxqs, another emulator of SQS.

use aws_sdk_sqs::types::QueueAttributeName;
use longhand_e2e::calls::Calls;
use longhand_e2e::eventually;
use longhand_e2e::processes::{Process, free_port, ready};
use longhand_e2e::resources::Resources;
use longhand_e2e::service::{LIMITS, Service};
use longhand_shared::cache::Cache;
use longhand_shared::queue::{ChunkQueue, Depth};
use serde_json::json;
use tokio::process::Command;

/// Creates a queue in fauxqs. Returns its URL and ARN.
async fn create(sqs: &aws_sdk_sqs::Client, name: &str, dead_letters: Option<&str>) -> (String, String) {
    let redrive =
        dead_letters.map(|arn| json!({"deadLetterTargetArn": arn, "maxReceiveCount": 3}).to_string());
    let attributes = redrive.map(|policy| [(QueueAttributeName::RedrivePolicy, policy)].into());
    let made = sqs.create_queue().queue_name(name).set_attributes(attributes).send().await;
    let url = made.expect("a queue").queue_url.expect("its URL");
    let described = sqs.get_queue_attributes().queue_url(&url).attribute_names(QueueAttributeName::QueueArn);
    let attributes = described.send().await.expect("a description").attributes.expect("attributes");
    (url, attributes[&QueueAttributeName::QueueArn].clone())
}

#[tokio::test]
#[ignore = "`make test-all` installs fauxqs"]
async fn jobs_complete_on_fauxqs() {
    let program = std::env::var("TESTS_FAUXQS").expect(
        "TESTS_FAUXQS is not set: python3 localstack/stack.py install fauxqs, then stack.py test -- ...",
    );
    let port = free_port();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("exec {program}")]);
    command.env("FAUXQS_PORT", port.to_string()).env("FAUXQS_LOGGER", "false");
    let log = tempfile::tempfile().expect("a file");
    let _fauxqs = Process::start_group(&mut command, log);
    let endpoint = format!("http://127.0.0.1:{port}");
    ready(&format!("{endpoint}/health")).await;

    let calls = Calls::default();
    let mut aws = Resources::deploy().await.clients(&calls).await;
    aws.sqs = aws_sdk_sqs::Client::from_conf(aws.sqs.config().to_builder().endpoint_url(endpoint).build());
    let (dlq_url, arn) = create(&aws.sqs, "chunks-dlq", None).await;
    let (queue_url, _) = create(&aws.sqs, "chunks", Some(&arn)).await;
    (aws.resources.queue_url, aws.resources.dlq_url) = (queue_url, dlq_url);

    let (store, queue) = (aws.store(), aws.queue());
    let service = Service::start_with(aws, calls, store, queue, Cache::local()).await;
    let working = service.work(LIMITS);
    let paths = service.audio(&["a.wav", "b.wav", "c.wav"]).await;
    for user in ["ana", "ben"] {
        let ended = service.ended(&service.submit(user, &paths).await).await;
        assert_eq!(ended["jobStatus"], "COMPLETED", "{ended}");
    }
    let queue = service.aws.queue();
    eventually("an empty queue", async || {
        (queue.depth().await.expect("an answer") == Depth::default()).then_some(())
    })
    .await;
    working.stop().await;
}
