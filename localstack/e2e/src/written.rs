//! The recorded data of 0.1.0: `localstack/tests/fixtures/0.1.0/written`. Its README describes the recording.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::MessageAttributeValue;
use longhand_shared::Timestamp;
use serde_json::Value;

use crate::resources::Clients;
use crate::service::{Service, wav};

/// The files of a recording, with the names of the resources that they are restored to.
#[derive(Debug)]
pub struct Written {
    about: Value,
    table: Value,
    messages: Value,
    webhooks: Value,
    /// The values in Redis, by key.
    pub redis: BTreeMap<String, String>,
    answers: Value,
    /// The bucket's name in the recording.
    pub bucket: String,
}

impl Written {
    /// Reads the files, and restores the items and the audio, but no messages.
    pub async fn restore(service: &Service) -> Self {
        let about = file("about");
        let text = |name: &str| about[name].as_str().expect("a text").to_owned();
        let (bucket, receiver) = (&service.aws.resources.bucket, service.receiver.url());
        let here = |name: &str| -> Value {
            let text = file(name).to_string().replace(&text("bucket"), bucket);
            let text = text.replace(about["receiver"].as_str().expect("an address"), &receiver);
            serde_json::from_str(&text).expect("JSON")
        };
        let redis = serde_json::from_value(here("redis")).expect("texts by key");
        let written = Self {
            about: here("about"),
            table: here("table"),
            messages: here("messages"),
            webhooks: here("webhooks"),
            redis,
            answers: here("answers"),
            bucket: text("bucket"),
        };
        written.restore_items(&service.aws).await;
        written
    }

    async fn restore_items(&self, aws: &Clients) {
        let recorded: Timestamp = serde_json::from_value(self.about["recorded"].clone()).expect("a time");
        let age = Timestamp::now().since(recorded);
        let mut put = Vec::new();
        for item in self.table.as_array().expect("items") {
            let item: serde_dynamo::Item = serde_json::from_value(item.clone()).expect("an item");
            let mut item: HashMap<String, AttributeValue> = item.into();
            // Moves the times to now. Otherwise items would have expired, and jobs would be due for the sweeper at once.
            if let Some(AttributeValue::N(ttl)) = item.get_mut("ttl") {
                *ttl = Timestamp::from_unix(ttl.parse().expect("seconds")).plus(age).unix().to_string();
            }
            if let Some(AttributeValue::S(next)) = item.get_mut("nextCheckTime") {
                *next = next.parse::<Timestamp>().expect("a time").plus(age).to_string();
            }
            if let Some(AttributeValue::S(path)) = item.get("path") {
                let key = path.strip_prefix(&format!("s3://{}/", aws.resources.bucket));
                put.push(key.expect("all audio is in the bucket").to_owned());
            }
            let to = aws.dynamodb.put_item().table_name(&aws.resources.table);
            to.set_item(Some(item)).send().await.expect("the table accepts it");
        }
        for key in put {
            aws.put(&key, wav(1_000)).await;
        }
    }

    /// Sends the messages of this job again.
    pub async fn send_chunks(&self, aws: &Clients, name: &str) {
        self.send(aws, &aws.resources.queue_url, &self.messages, name).await;
    }

    /// Sends the webhook messages of this job again.
    pub async fn send_webhooks(&self, aws: &Clients, name: &str) {
        self.send(aws, &aws.resources.webhook_queue_url, &self.webhooks, name).await;
    }

    async fn send(&self, aws: &Clients, queue: &str, messages: &Value, name: &str) {
        let job = self.job(name);
        let of_job = |message: &&Value| message["body"].as_str().is_some_and(|body| body.contains(job));
        let messages: Vec<&Value> = messages.as_array().expect("messages").iter().filter(of_job).collect();
        assert!(!messages.is_empty(), "there are messages of {name}");
        for message in messages {
            let mut send = aws.sqs.send_message().queue_url(queue);
            send = send.message_body(message["body"].as_str().expect("a body"));
            for (name, value) in message["attributes"].as_object().expect("attributes") {
                let field = |name: &str| value[name].as_str().expect("a text").to_owned();
                let value =
                    MessageAttributeValue::builder().data_type(field("type")).string_value(field("value"));
                send = send.message_attributes(name, value.build().expect("a type and a value"));
            }
            send.send().await.expect("the queue accepts it");
        }
    }

    /// The id of the job with this name in the recording.
    pub fn job(&self, name: &str) -> &str {
        self.about["jobs"][name].as_str().expect("a job of this name")
    }

    /// The names of all jobs.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.about["jobs"].as_object().expect("jobs").keys().map(String::as_str)
    }

    /// The response of 0.1.0's api for this job.
    pub fn answer(&self, name: &str) -> &Value {
        &self.answers["jobs"][name]
    }

    /// The recorded searches with their pages.
    pub fn searches(&self) -> &[Value] {
        self.answers["searches"].as_array().expect("searches")
    }

    /// The path of the uploaded audio.
    pub fn uploaded(&self) -> &str {
        self.about["uploaded"].as_str().expect("a path")
    }
}

fn file(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/0.1.0/written");
    let path = folder.join(name).with_extension("json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}
