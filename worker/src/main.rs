//! `longhand-worker`: settings, telemetry, clients, run, drain.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use longhand_shared::cache::Cache;
use longhand_shared::cache::remote::Redis;
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::net::outbound::Outbound;
use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::store::dynamo::DynamoStore;
use longhand_shared::{
    service::aws, service::metrics, service::settings, service::shutdown, service::telemetry,
};
use longhand_worker::audio::AudioStore;
use longhand_worker::settings::Settings;
use longhand_worker::{Parts, WebhookSources, Worker, health, report};
use tracing::{info, warn};

fn main() -> ExitCode {
    let mut help = String::new();
    let settings = Settings::read(&settings::environment, &mut help);
    settings::main(
        "longhand-worker",
        "transcribes chunks from the queue; --health checks a running worker",
        &help,
        settings,
        |settings| settings.health_listen,
        run,
    )
}

#[tokio::main]
async fn run(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
    let _telemetry = telemetry::init("longhand-worker", &settings.log)?;
    metrics::install()?;
    let stop = shutdown::on_signal()?;
    // Each chunk in hand uses up to three sockets.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        warn!(%error, "cannot raise the limit on open files");
    }
    let config = aws::load().await;
    let sqs = aws::sqs(&config);
    let limits = settings.limits;
    let store = DynamoStore::new(aws::dynamodb(&config), settings.table, settings.retention);
    let queue = SqsQueue::new(sqs.clone(), settings.queue_url);
    let mut lifecycle = Lifecycle::new(Arc::new(store), Arc::new(queue));
    if let Some(url) = settings.redis {
        lifecycle = lifecycle.with_cache(Cache::shared(Redis::new(url)?));
    }
    let outbound = Outbound::new()?;
    let webhooks = settings.webhooks.map(|webhooks| WebhookSources {
        queue: Arc::new(SqsQueue::new(sqs.clone(), webhooks.queue_url)),
        dead_letters: Arc::new(SqsQueue::new(sqs.clone(), webhooks.dlq_url)),
        outbound: outbound.clone(),
        hosts: webhooks.hosts,
        secrets: webhooks.secrets,
    });
    let (store, name) = (Arc::clone(lifecycle.store()), settings.name.clone());
    let worker = Worker::new(Parts {
        lifecycle,
        dead_letters: Arc::new(SqsQueue::new(sqs, settings.dlq_url)),
        webhooks,
        audio: AudioStore::new(aws::s3(&config), outbound, settings.sources),
        asr: settings.asr,
        limits,
        sweep: settings.sweep,
        name: settings.name,
    })?;

    let listener = tokio::net::TcpListener::bind(settings.health_listen).await.map_err(|error| {
        format!("LONGHAND_HEALTH_LISTEN: cannot listen on {}: {error}", settings.health_listen)
    })?;
    // A receive without an answer ends 5 s after its poll, and a pause of up to 30 s follows.
    let longest = limits.poll + Duration::from_secs(5) + Duration::from_secs(40);
    let health = axum::serve(listener, health::router(&worker, longest)).into_future();
    let health = tokio::spawn(health);
    let report = tokio::spawn(health::report(worker.pulse(), worker.guard()));
    let publish = tokio::spawn(report::publish(store, name, limits.slots, worker.pulse(), worker.guard()));
    info!(slots = limits.slots, health = %settings.health_listen, "worker started");
    let ended = worker.run(stop).await;
    health.abort();
    report.abort();
    publish.abort();
    info!("worker stopped");
    // If a part has ended by itself, the process exits with an error, and the platform restarts it.
    Ok(ended?)
}
