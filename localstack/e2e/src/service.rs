//! The service in this process: the api on a socket, a worker, the simulated model, and the table, queues and
//! bucket in the emulator.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use longhand_api::waiting::Waiting;
use longhand_api::{AppState, Auth, Origins, Rendered, Tickets};
use longhand_shared::JobId;
use longhand_shared::cache::Cache;
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::net::outbound::Outbound;
use longhand_shared::queue::ChunkQueue;
use longhand_shared::store::JobStore;
use longhand_sim_asr::{Behaviour, SimAsr};
use longhand_worker::asr::AsrSettings;
use longhand_worker::asr::probe::Recording;
use longhand_worker::audio::AudioStore;
use longhand_worker::runner::{EndedEarly, Limits};
use longhand_worker::sweeper::SweepSettings;
use longhand_worker::{Parts, WebhookSources, Worker};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use crate::calls::Calls;
use crate::eventually;
use crate::gateway::{self, ApiMode};
use crate::receiver::{Receiver, secrets};
use crate::resources::{Clients, Resources};

/// Short limits for tests.
pub const LIMITS: Limits = Limits {
    slots: 32,
    poll: Duration::from_secs(1),
    visibility: Duration::from_secs(3),
    longest: Duration::from_mins(1),
    drain: Duration::from_secs(6),
};

pub struct Service {
    pub aws: Clients,
    pub calls: Calls,
    /// The simulated model.
    pub asr: SimAsr,
    /// The receiver of webhooks, whose host jobs may use.
    pub receiver: Receiver,
    /// The api's address.
    pub url: String,
    pub http: Client,
    /// The api's waits.
    pub waiting: Waiting,
    cache: Cache,
    _api: AbortOnDropHandle<()>,
}

/// A worker in this process.
pub struct Working {
    stop: DropGuard,
    running: JoinHandle<Result<(), EndedEarly>>,
}

impl Service {
    /// Starts the api and the model, without a worker.
    pub async fn start() -> Self {
        Self::start_cached(Cache::local()).await
    }

    /// Like [`Self::start`], with the api in this mode.
    pub async fn start_in(mode: ApiMode) -> Self {
        let mut service = Self::start().await;
        if mode == ApiMode::Gateway {
            service.url = gateway::start(&service.aws).await;
        }
        service
    }

    /// Starts the api and the model with a cache. The worker uses it too if it is Redis.
    pub async fn start_cached(cache: Cache) -> Self {
        let calls = Calls::default();
        let aws = Resources::deploy().await.clients(&calls).await;
        let (store, queue) = (aws.store(), aws.queue());
        Self::start_with(aws, calls, store, queue, cache).await
    }

    /// Like [`Self::start_cached`], with this store and queue in the api.
    pub async fn start_with(
        aws: Clients,
        calls: Calls,
        store: Arc<dyn JobStore>,
        queue: Arc<dyn ChunkQueue>,
        cache: Cache,
    ) -> Self {
        let waiting = Waiting::new(store.clone(), cache.clone(), CancellationToken::new());
        let listening = waiting.clone();
        tokio::spawn(async move { listening.listen().await });
        let receiver = Receiver::start().await;
        let callback_hosts = Arc::new(receiver.hosts());
        let state = AppState {
            lifecycle: Lifecycle::new(store, queue).with_cache(cache.clone()),
            sources: Arc::new(aws.sources()),
            callback_hosts,
            s3: aws.s3(),
            upload_signer: Arc::new(aws.signer()),
            auth: Arc::new(Auth::none()),
            limits: Arc::default(),
            origins: Origins::default(),
            tickets: Tickets::new(None),
            dead_letters: None,
            waiting: waiting.clone(),
            rendered: Rendered::default(),
            stop: CancellationToken::new(),
        };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = tokio::net::TcpListener::bind(any).await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let api = AbortOnDropHandle::new(tokio::spawn(async move {
            axum::serve(listener, longhand_api::router(state)).await.expect("the api serves");
        }));
        let asr = SimAsr::start(Behaviour::default()).await.expect("the model starts");
        Self { aws, calls, asr, receiver, url, http: Client::new(), waiting, cache, _api: api }
    }

    /// The settings of model calls in tests.
    pub fn asr_settings(&self) -> AsrSettings {
        AsrSettings {
            base_url: self.asr.base_url(),
            api_key: None,
            model: "sim".to_owned(),
            timeout: Duration::from_secs(10),
            max_retries: 3,
            max_concurrency: 64,
            first_pause: Duration::from_millis(50),
            probe: Some(Recording::built_in()),
        }
    }

    /// Starts a worker.
    pub fn work(&self, limits: Limits) -> Working {
        self.begin(limits, None)
    }

    /// Starts a worker that also sends webhooks.
    pub fn work_with_webhooks(&self, limits: Limits) -> Working {
        let webhooks = WebhookSources {
            queue: self.aws.webhooks(),
            dead_letters: self.aws.webhook_dead_letters(),
            outbound: Outbound::new().expect("a client"),
            hosts: self.receiver.hosts(),
            secrets: secrets(),
        };
        self.begin(limits, Some(webhooks))
    }

    fn begin(&self, limits: Limits, webhooks: Option<WebhookSources>) -> Working {
        let mut lifecycle = Lifecycle::new(self.aws.store(), self.aws.queue());
        if self.cache.redis().is_some() {
            lifecycle = lifecycle.with_cache(self.cache.clone());
        }
        let worker = Worker::new(Parts {
            lifecycle,
            dead_letters: self.aws.dead_letters(),
            webhooks,
            audio: AudioStore::new(self.aws.s3(), Outbound::new().expect("a client"), self.aws.sources()),
            asr: self.asr_settings(),
            limits,
            sweep: SweepSettings { every: Duration::from_secs(1) },
            name: "test".to_owned(),
        });
        let worker = worker.expect("a worker");
        let stop = CancellationToken::new();
        let running = tokio::spawn(worker.run(stop.clone()));
        Working { stop: stop.drop_guard(), running }
    }

    /// Writes a small audio file for each name. Returns their paths.
    pub async fn audio(&self, names: &[&str]) -> Vec<String> {
        let mut paths = Vec::new();
        for name in names {
            paths.push(self.aws.put(name, wav(1000)).await);
        }
        paths
    }

    /// Calls `POST /transcribe`. Returns the job's id.
    pub async fn submit(&self, user: &str, paths: &[String]) -> String {
        self.submit_body(&json!({"userId": user, "audioChunkPaths": paths})).await
    }

    /// Calls `POST /transcribe` with this body. Returns the job's id.
    pub async fn submit_body(&self, body: &Value) -> String {
        let request = self.http.post(format!("{}/transcribe", self.url)).json(body);
        let answer = request.send().await.expect("an answer");
        let status = answer.status();
        let answer: Value = answer.json().await.expect("JSON");
        assert_eq!(status, StatusCode::ACCEPTED, "{answer}");
        answer["jobId"].as_str().expect("a job id").to_owned()
    }

    /// Calls `GET` with a path and query. Returns the status and the JSON.
    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.expect("an answer");
        (answer.status(), answer.json().await.expect("JSON"))
    }

    /// Reads a job from the api.
    pub async fn read(&self, job: &str) -> Value {
        let (status, result) = self.get(&format!("/transcript/{job}")).await;
        assert_eq!(status, StatusCode::OK, "{result}");
        result
    }

    /// Waits for the end of a job. Returns the result.
    pub async fn ended(&self, job: &str) -> Value {
        eventually("the end of the job", async || {
            let result = self.read(job).await;
            (result["jobStatus"] != "IN_PROGRESS").then_some(result)
        })
        .await
    }

    /// Makes the job due for the sweeper now.
    pub async fn make_due(&self, job: &str) {
        let id: JobId = job.parse().expect("a job id");
        let store = self.aws.store();
        let far = longhand_shared::Timestamp::now().plus(Duration::from_hours(1));
        let due = eventually("the job in the index of open jobs", async || {
            let due = store.due(far, 1000).await.expect("a listing");
            due.into_iter().find(|due| due.job == id)
        })
        .await;
        let past = longhand_shared::Timestamp::from_unix(0);
        assert!(
            store.postpone(&due, past, None).await.expect("an answer"),
            "another sweeper has postponed the check"
        );
    }
}

impl Working {
    /// Stops the worker like SIGTERM, and waits for the end of its drain.
    pub async fn stop(self) {
        drop(self.stop);
        let ended = self.running.await.expect("the worker ends without a panic");
        ended.expect("the worker drains");
    }
}

/// `bytes` bytes with the header of a WAV file.
pub fn wav(bytes: usize) -> Vec<u8> {
    let mut wav = b"RIFF\0\0\0\0WAVEfmt ".to_vec();
    wav.resize(bytes.max(wav.len()), 0);
    wav
}
