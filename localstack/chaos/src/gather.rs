//! Gathers the evidence: the table, the messages left in the queues, and the api's answers.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::MessageSystemAttributeName;
use futures::{StreamExt, stream};
use longhand_e2e::resources::Clients;
use longhand_shared::queue::ChunkQueue;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::audit::{Chunk, Job, Shown};
use crate::world::World;

type Item = HashMap<String, AttributeValue>;

/// The time limit for an answer of the api, with all retries.
const TIMEOUT: Duration = Duration::from_mins(1);

/// All jobs in the table.
pub async fn table(aws: &Clients) -> BTreeMap<String, Job> {
    let mut jobs: BTreeMap<String, Job> = BTreeMap::new();
    let scan = aws.dynamodb.scan().table_name(&aws.resources.table).consistent_read(true);
    let mut items = scan.into_paginator().items().send();
    while let Some(item) = items.next().await {
        let item = item.expect("the emulator answers");
        let (Some(id), Some(key)) = (text(&item, "jobId"), text(&item, "item")) else { continue };
        // Lists of recent jobs and idempotency keys are in the table too.
        if !(key == "job" || key == "transcript" || key.starts_with("chunk#")) {
            continue;
        }
        let job = jobs.entry(id).or_default();
        match key.as_str() {
            "job" => {
                job.status = text(&item, "jobStatus").unwrap_or_default();
                job.chunk_count = number(&item, "chunkCount").unwrap_or(0);
                let unsettled = item.get("unsettled").and_then(|set| set.as_ns().ok());
                job.unsettled = unsettled.cloned().unwrap_or_default();
            }
            "transcript" => job.has_transcript = true,
            _ => {
                job.chunks.insert(key, chunk(&item));
            }
        }
    }
    jobs
}

fn chunk(item: &Item) -> Chunk {
    let error = item.get("error").and_then(|error| error.as_m().ok());
    let path = text(item, "path").unwrap_or_default();
    Chunk {
        file: path.rsplit('/').next().unwrap_or_default().to_owned(),
        status: text(item, "chunkStatus").unwrap_or_default(),
        claims: number(item, "attempt").unwrap_or(0),
        error: error.map(|error| {
            (text(error, "code").unwrap_or_default(), text(error, "message").unwrap_or_default())
        }),
    }
}

fn text(item: &Item, name: &str) -> Option<String> {
    item.get(name)?.as_s().ok().cloned()
}

fn number<T: FromStr>(item: &Item, name: &str) -> Option<T> {
    item.get(name)?.as_n().ok()?.parse().ok()
}

/// The number of jobs that have not ended.
pub fn open(jobs: &BTreeMap<String, Job>) -> usize {
    jobs.values().filter(|job| !matches!(job.status.as_str(), "COMPLETED" | "FAILED")).count()
}

/// The answers of each api for these jobs.
pub async fn shown_by_each(world: &World, ids: &[String]) -> Vec<BTreeMap<String, Shown>> {
    let apis = world.fleet.apis().len().max(1);
    stream::iter(0..apis).then(|first| shown(world, ids, first)).collect().await
}

/// The answers for these jobs of the api at place `first`, or of the next one if it does not answer.
async fn shown(world: &World, ids: &[String], first: usize) -> BTreeMap<String, Shown> {
    let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().expect("a client");
    let read = async |id: String| {
        let deadline = Instant::now() + TIMEOUT;
        let mut turn = first;
        loop {
            let apis = world.fleet.apis();
            let url = apis.get(turn % apis.len().max(1));
            turn += 1;
            let answer = match url {
                Some(url) => read_once(&http, &format!("{url}/transcript/{id}")).await,
                None => Err("no api runs".to_owned()),
            };
            match answer {
                Ok(shown) => return (id, shown),
                Err(status) if Instant::now() > deadline => {
                    return (id, Shown { status, transcription: None });
                }
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    };
    stream::iter(ids.to_vec()).map(read).buffer_unordered(4).collect().await
}

async fn read_once(http: &reqwest::Client, url: &str) -> Result<Shown, String> {
    let answer = http.get(url).send().await.map_err(|error| error.to_string())?;
    let status = answer.status();
    // A 404 is an answer.
    if status.is_server_error() {
        return Err(status.to_string());
    }
    let body: Value = answer.json().await.map_err(|error| error.to_string())?;
    let field = |name: &str| body[name].as_str().map(str::to_owned);
    let status = field("jobStatus").unwrap_or_else(|| status.to_string());
    Ok(Shown { status, transcription: field("transcription") })
}

/// The number of messages in both queues: visible, hidden and delayed.
pub async fn depth(aws: &Clients) -> u64 {
    let mut all = 0;
    for queue in [aws.queue(), aws.dead_letters()] {
        let depth = queue.depth().await.expect("the emulator answers");
        all += depth.visible + depth.in_flight + depth.delayed;
    }
    all
}

/// Receives and deletes all messages. Returns a description of each, and a line for each hidden one.
pub async fn drain(aws: &Clients) -> Vec<String> {
    let mut left = Vec::new();
    for (name, url) in
        [("the queue", &aws.resources.queue_url), ("the dead-letter queue", &aws.resources.dlq_url)]
    {
        loop {
            let receive =
                aws.sqs.receive_message().queue_url(url).max_number_of_messages(10).wait_time_seconds(1);
            let receive = receive
                .visibility_timeout(600)
                .message_attribute_names("All")
                .message_system_attribute_names(MessageSystemAttributeName::All);
            let messages = receive.send().await.expect("the emulator answers").messages.unwrap_or_default();
            if messages.is_empty() {
                break;
            }
            for message in messages {
                let attributes = message.message_attributes.unwrap_or_default();
                let attributes = attributes
                    .into_iter()
                    .map(|(name, value)| format!("{name}={}", value.string_value.unwrap_or_default()));
                let attributes = attributes.collect::<Vec<_>>().join(" ");
                left.push(format!("in {name}: {} {attributes}", message.body.unwrap_or_default()));
                let receipt = message.receipt_handle.unwrap_or_default();
                let _ = aws.sqs.delete_message().queue_url(url).receipt_handle(receipt).send().await;
            }
        }
    }
    let hidden = depth(aws).await;
    left.extend((0..hidden).map(|_| "a hidden or delayed message in a queue".to_owned()));
    left
}
