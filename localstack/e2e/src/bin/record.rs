//! `record`: records what the programs of another version write into the table, the queues and Redis, and the responses
//! of their api, as test fixtures. It needs an emulator. localstack/tests/fixtures/0.1.0/written/README.md has the
//! command.

use std::collections::BTreeMap;
use std::fs::{create_dir_all, write};
use std::path::PathBuf;
use std::process::Stdio;

use aws_sdk_dynamodb::types::AttributeValue;
use aws_sdk_sqs::types::Message;
use clap::Parser;
use longhand_e2e::processes::{Process, free_address, ready};
use longhand_e2e::receiver::SECRET;
use longhand_e2e::redis::RedisServer;
use longhand_e2e::service::{Service, wav};
use longhand_e2e::{TIMEOUT, eventually};
use longhand_shared::Timestamp;
use longhand_sim_asr::{Answer, Odd};
use serde_json::{Value, json};

/// Records the data and responses of another version.
#[derive(Debug, Parser)]
struct Arguments {
    /// The folder with `longhand-api` and `longhand-worker` of that version.
    #[arg(long)]
    old: PathBuf,
    /// The folder for the files.
    #[arg(long)]
    out: PathBuf,
}

/// The programs and their resources.
struct Stage {
    old: PathBuf,
    /// The resources, the model and the receiver of webhooks. Its URL is that of the old api.
    service: Service,
    redis: RedisServer,
    /// The jobs by their names in the tests.
    jobs: BTreeMap<&'static str, String>,
}

#[tokio::main]
async fn main() {
    let Arguments { old, out } = Arguments::parse();
    create_dir_all(&out).expect("a folder for the files");
    let address = free_address();
    let mut stage = Stage {
        old,
        service: Service::start().await,
        redis: RedisServer::start().await,
        jobs: BTreeMap::new(),
    };
    stage.service.url = format!("http://{address}");
    let _api = stage.program("longhand-api", &[("LONGHAND_LISTEN", address)]).await;
    for (name, value) in stage.record().await {
        let text = format!("{value:#}\n");
        write(out.join(name).with_extension("json"), text).expect("the file is written");
    }
}

impl Stage {
    /// Creates the jobs. Returns the content of each file.
    async fn record(&mut self) -> [(&'static str, Value); 6] {
        let queue = self.service.aws.resources.queue_url.clone();
        let worker = self.worker().await;
        let uploaded = self.ended_jobs().await;
        let cached = self.cached().await;
        let webhooks = self.undelivered_webhook().await;
        self.stopped(worker).await;
        let mut messages = self.take(&queue, 1).await;
        self.throttled().await;
        messages.extend(self.take(&queue, 1).await);
        self.killed().await;
        messages.extend(self.take(&queue, 1).await);
        self.lost().await;
        let waiting = json!({"userId": "ana", "language": "de"});
        self.submit("waiting", waiting, &["waiting.wav", "second.wav"]).await;
        messages.extend(self.take(&queue, 2).await);
        let about = json!({
            "recorded": Timestamp::now(),
            "bucket": self.service.aws.resources.bucket,
            "receiver": self.service.receiver.url(),
            "uploaded": uploaded,
            "jobs": self.jobs,
        });
        let answers = self.answers().await;
        [
            ("about", about),
            ("table", self.table().await),
            ("messages", json!(messages)),
            ("webhooks", json!(webhooks)),
            ("redis", cached),
            ("answers", answers),
        ]
    }

    async fn program(&self, name: &str, own: &[(&'static str, String)]) -> Process {
        let resources = &self.service.aws.resources;
        let mut variables = resources.variables();
        variables.extend([
            ("LONGHAND_WEBHOOK_QUEUE_URL", resources.webhook_queue_url.clone()),
            ("LONGHAND_WEBHOOK_DLQ_URL", resources.webhook_dlq_url.clone()),
            ("LONGHAND_WEBHOOK_SECRET", SECRET.to_owned()),
            ("LONGHAND_CALLBACK_HOSTS", self.service.receiver.url().replace("/hook", "")),
            ("REDIS_URL", self.redis.url()),
            ("RUST_LOG", "error".to_owned()),
        ]);
        variables.extend_from_slice(own);
        let process = Process::start_logging(&self.old.join(name), &variables, Stdio::inherit());
        let (_, address) = own.iter().find(|(name, _)| name.ends_with("LISTEN")).expect("a listen address");
        ready(&format!("http://{address}/healthz")).await;
        process
    }

    async fn worker(&self) -> Process {
        let own = [
            ("LONGHAND_HEALTH_LISTEN", free_address()),
            ("LONGHAND_WORKER_NAME", "worker-host-1".to_owned()),
            ("LONGHAND_VISIBILITY_SECONDS", "3".to_owned()),
            ("LONGHAND_POLL_SECONDS", "1".to_owned()),
            ("LONGHAND_DRAIN_SECONDS", "3".to_owned()),
            ("LONGHAND_SWEEP_SECONDS", "3600".to_owned()),
            ("ASR_BASE_URL", self.service.asr.base_url()),
        ];
        self.program("longhand-worker", &own).await
    }

    /// Writes audio files with these names and submits a job with them under the name `name`.
    async fn submit(&mut self, name: &'static str, mut body: Value, files: &[&str]) {
        let mut paths = Vec::new();
        for file in files {
            let there = file.starts_with("s3://");
            paths.push(if there { (*file).to_owned() } else { self.service.aws.put(file, wav(1_000)).await });
        }
        body["audioChunkPaths"] = json!(paths);
        let post = self.service.http.post(format!("{}/transcribe", self.service.url)).json(&body);
        let answer =
            post.header("idempotency-key", format!("key-of-{name}")).send().await.expect("an answer");
        assert_eq!(answer.status(), 202, "{name}");
        let answer: Value = answer.json().await.expect("JSON");
        self.jobs.insert(name, answer["jobId"].as_str().expect("a job id").to_owned());
    }

    /// Creates finished jobs, one of them with an uploaded file. Returns the path of the upload.
    async fn ended_jobs(&mut self) -> String {
        let body = json!({"userId": "ana", "files": [{"name": "up.wav", "contentType": "audio/wav", "bytes": 1_000}]});
        let post = self.service.http.post(format!("{}/uploads", self.service.url)).json(&body).send().await;
        let upload: Value = post.expect("an answer").json().await.expect("JSON");
        let upload = &upload["uploads"][0];
        let mut put = self.service.http.put(upload["url"].as_str().expect("an address")).body(wav(1_000));
        for (name, value) in upload["headers"].as_object().expect("headers") {
            put = put.header(name, value.as_str().expect("a text"));
        }
        assert!(put.send().await.expect("an answer").status().is_success());
        let uploaded = upload["audioChunkPath"].as_str().expect("a path").to_owned();

        let options = json!({
            "userId": "ana", "language": "en", "prompt": "names: Ana",
            "metadata": {"meeting": "monday"}, "callbackUrl": self.service.receiver.url(),
        });
        self.submit("completed", options, &[&uploaded, "b.wav"]).await;
        self.service.ended(&self.jobs["completed"]).await;
        let job = self.jobs["completed"].clone();
        eventually("the webhook", async || (!self.service.receiver.events(&job).is_empty()).then_some(()))
            .await;

        self.service.asr.script("bad.wav", vec![Answer::Odd(Odd::NoText); 20]);
        self.submit("failed", json!({"userId": "ana"}), &["good.wav", "bad.wav"]).await;
        self.service.ended(&self.jobs["failed"]).await;
        for (name, file) in [("second", "second-of-three.wav"), ("third", "third-of-three.wav")] {
            self.submit(name, json!({"userId": "ana"}), &[file]).await;
            self.service.ended(&self.jobs[name]).await;
        }
        uploaded
    }

    /// The cached results of the ended jobs.
    async fn cached(&self) -> Value {
        let mut kept = BTreeMap::new();
        for job in self.jobs.values() {
            // A read caches the result.
            self.service.read(job).await;
            let key = format!("longhand:v1:result:{job}");
            let answer = self.redis.ask(&format!("GET {key}")).await.expect("an answer");
            if let Some((_, value)) = answer.strip_prefix('$').and_then(|rest| rest.split_once("\r\n"))
                && !value.is_empty()
            {
                kept.insert(key, value.trim_end_matches("\r\n").to_owned());
            }
        }
        assert!(!kept.is_empty(), "Redis caches completed jobs");
        json!(kept)
    }

    /// Creates a job with an undelivered webhook. Returns its message.
    async fn undelivered_webhook(&mut self) -> Vec<Value> {
        self.service.receiver.answer(&[500; 20]);
        let options = json!({"userId": "ana", "callbackUrl": self.service.receiver.url()});
        self.submit("undelivered", options, &["undelivered.wav"]).await;
        self.service.ended(&self.jobs["undelivered"]).await;
        let job = self.jobs["undelivered"].clone();
        eventually("a failed delivery", async || {
            let result = self.service.read(&job).await;
            result["callback"]["tries"].as_u64().filter(|tries| *tries > 0).map(|_| ())
        })
        .await;
        self.take(&self.service.aws.resources.webhook_queue_url, 1).await
    }

    /// Creates a chunk that was released because its worker stopped.
    async fn stopped(&mut self, worker: Process) {
        self.service.asr.script("stopped.wav", [Answer::Hang]);
        self.submit("stopped", json!({"userId": "ana"}), &["stopped.wav"]).await;
        let called = |books: &longhand_sim_asr::Books| books.file("stopped.wav").calls > 0;
        assert!(self.service.asr.wait_until(called, TIMEOUT).await);
        worker.signal("-TERM").await;
        assert!(worker.ended().await.success());
    }

    /// Creates a chunk that was released because the model throttles.
    async fn throttled(&mut self) {
        self.service.asr.script("throttled.wav", vec![Answer::status_retry_after(429, "1"); 20]);
        self.submit("throttled", json!({"userId": "ana"}), &["throttled.wav"]).await;
        let worker = self.worker().await;
        let job = self.jobs["throttled"].clone();
        eventually("the release of the chunk", async || {
            let result = self.service.read(&job).await;
            (result["chunks"][0]["history"][0]["outcome"] == "THROTTLED").then_some(())
        })
        .await;
        worker.signal("-TERM").await;
        assert!(worker.ended().await.success());
    }

    /// Creates a chunk whose two workers were killed.
    async fn killed(&mut self) {
        self.service.asr.script("killed.wav", [Answer::Hang, Answer::Hang]);
        self.submit("killed", json!({"userId": "ana"}), &["killed.wav"]).await;
        for calls in 1..=2 {
            let mut worker = self.worker().await;
            let called = |books: &longhand_sim_asr::Books| books.file("killed.wav").calls == calls;
            assert!(self.service.asr.wait_until(called, TIMEOUT).await);
            worker.kill().await;
        }
    }

    /// Creates a job whose messages are lost.
    async fn lost(&mut self) {
        self.submit("lost", json!({"userId": "ana"}), &["lost.wav", "lost-too.wav"]).await;
        self.take(&self.service.aws.resources.queue_url, 2).await;
    }

    /// Takes this many messages out of a queue.
    async fn take(&self, queue: &str, count: usize) -> Vec<Value> {
        let mut taken = Vec::new();
        while taken.len() < count {
            let message = eventually("a message", async || {
                let receive =
                    self.service.aws.sqs.receive_message().queue_url(queue).message_attribute_names("All");
                let received = receive.wait_time_seconds(1).send().await.expect("the queue answers");
                received.messages.unwrap_or_default().pop()
            })
            .await;
            let receipt = message.receipt_handle.as_deref().expect("a receipt handle");
            let delete = self.service.aws.sqs.delete_message().queue_url(queue).receipt_handle(receipt);
            delete.send().await.expect("it is deleted");
            taken.push(recorded_message(message));
        }
        taken
    }

    /// The responses of the api: each job by its name, and pages of searches with their cursors.
    async fn answers(&self) -> Value {
        let mut jobs = BTreeMap::new();
        for (name, job) in &self.jobs {
            jobs.insert(name, self.service.read(job).await);
        }
        let mut searches = Vec::new();
        for query in ["userId=ana", "userId=ana&jobStatus=COMPLETED", "userId=ana&jobStatus=IN_PROGRESS"] {
            let mut pages = Vec::new();
            let mut cursor = None::<String>;
            loop {
                let from = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
                let (_, page) = self.service.get(&format!("/transcript/search?{query}&limit=2{from}")).await;
                let found = page["results"].as_array().expect("results").iter();
                let found: Vec<&Value> = found.map(|job| &job["jobId"]).collect();
                pages.push(json!({"cursor": cursor, "jobs": found}));
                cursor = page["nextCursor"].as_str().map(str::to_owned);
                if cursor.is_none() {
                    break;
                }
            }
            searches.push(json!({"query": query, "pages": pages}));
        }
        json!({"jobs": jobs, "searches": searches})
    }

    /// Every item of the table, as `DynamoDB`'s JSON.
    async fn table(&self) -> Value {
        let scan = self
            .service
            .aws
            .dynamodb
            .scan()
            .table_name(&self.service.aws.resources.table)
            .consistent_read(true);
        let mut items = Vec::new();
        let mut all = scan.into_paginator().items().send();
        while let Some(item) = all.next().await {
            let mut item = item.expect("the table answers");
            // Sets have no order.
            if let Some(AttributeValue::Ns(numbers)) = item.get_mut("unsettled") {
                numbers.sort();
            }
            let text = |name: &str| item[name].as_s().expect("a key").clone();
            let key = (text("jobId"), text("item"));
            items.push((key, json!(serde_dynamo::Item::from(item))));
        }
        items.sort_by(|(one, _), (other, _)| one.cmp(other));
        items.into_iter().map(|(_, item)| item).collect()
    }
}

fn recorded_message(message: Message) -> Value {
    let attributes = message.message_attributes.unwrap_or_default().into_iter();
    let attributes: BTreeMap<_, _> = attributes
        .map(|(name, value)| (name, json!({"type": value.data_type, "value": value.string_value})))
        .collect();
    json!({"body": message.body, "attributes": attributes})
}
