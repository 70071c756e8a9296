//! `longhand-worker`: settings, telemetry, clients, run, drain.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use longhand_shared::cache::Cache;
use longhand_shared::cache::observed::ObservedStore;
use longhand_shared::cache::remote::Redis;
use longhand_shared::outbound::Outbound;
use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::store::JobStore;
use longhand_shared::store::dynamo::DynamoStore;
use longhand_shared::{aws, metrics, settings, shutdown, telemetry};
use longhand_worker::audio::AudioStore;
use longhand_worker::settings::Settings;
use longhand_worker::{WebhookSources, Worker, health};
use tracing::{info, warn};

fn main() -> ExitCode {
    let mut help = String::new();
    let settings = Settings::read(&settings::environment, &mut help);
    settings::main(
        "longhand-worker",
        "takes chunks from the queue and has them transcribed",
        &help,
        settings,
        run,
    )
}

#[tokio::main]
async fn run(settings: Settings) -> Result<(), Box<dyn std::error::Error>> {
    let _telemetry = telemetry::init("longhand-worker", &settings.log)?;
    metrics::install()?;
    let stop = shutdown::on_signal()?;
    // Each chunk in hand is up to three sockets. What the system allows is all that can be had.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        warn!(%error, "the limit on open files stays as it is");
    }
    let config = aws::load().await;
    let sqs = aws::sqs(&config);
    let limits = settings.limits;
    let mut store: Arc<dyn JobStore> =
        Arc::new(DynamoStore::new(aws::dynamodb(&config), settings.table, settings.retention));
    if let Some(url) = settings.redis {
        store = Arc::new(ObservedStore::new(store, Cache::shared(Redis::new(url)?)));
    }
    let outbound = Outbound::new()?;
    let webhooks = settings.webhooks.map(|webhooks| WebhookSources {
        queue: Arc::new(SqsQueue::new(sqs.clone(), webhooks.queue_url)),
        dead_letters: Arc::new(SqsQueue::new(sqs.clone(), webhooks.dlq_url)),
        outbound: outbound.clone(),
        hosts: webhooks.hosts,
        secrets: webhooks.secrets,
    });
    let worker = Worker::new(
        store,
        Arc::new(SqsQueue::new(sqs.clone(), settings.queue_url)),
        Arc::new(SqsQueue::new(sqs, settings.dlq_url)),
        webhooks,
        AudioStore::new(aws::s3(&config), outbound, settings.sources),
        settings.asr,
        limits,
        settings.sweep,
        settings.name,
    )?;

    let listener = tokio::net::TcpListener::bind(settings.health_listen).await.map_err(|error| {
        format!("LONGHAND_HEALTH_LISTEN: cannot listen on {}: {error}", settings.health_listen)
    })?;
    // A receive that nobody answers is cut 5 s after its poll and tried three times, with pauses between; it
    // may take longer than the pause after it.
    let patience = (limits.poll + Duration::from_secs(5)) * 3 + Duration::from_secs(10);
    let health =
        axum::serve(listener, health::router(worker.pulse(), worker.guard(), patience)).into_future();
    let health = tokio::spawn(health);
    let report = tokio::spawn(health::report(worker.pulse(), worker.guard()));
    info!(slots = limits.slots, health = %settings.health_listen, "worker started");
    worker.run(stop).await;
    health.abort();
    report.abort();
    info!("worker stopped");
    Ok(())
}
