//! `longhand-api`: settings, telemetry, clients, serve.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use longhand_api::auth::settings::AuthSettings;
use longhand_api::settings::{Capacity, Settings};
use longhand_api::waiting::Waiting;
use longhand_api::{AppState, Auth, Rendered, Signer, description, lambda, router, server};
use longhand_shared::cache::Cache;
use longhand_shared::cache::remote::Redis;
use longhand_shared::lifecycle::Lifecycle;
use longhand_shared::queue::ChunkQueue;
use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::service::settings::HttpUrl;
use longhand_shared::store::JobStore;
use longhand_shared::store::dynamo::DynamoStore;
use longhand_shared::{
    service::aws, service::metrics, service::settings, service::shutdown, service::telemetry,
};
use mimalloc::MiMalloc;
use tokio_util::sync::CancellationToken;
use tracing::warn;

// Answers from memory take a fifth less CPU time than with glibc's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--openapi") {
        // A closed pipe is not an error.
        let _ = std::io::stdout().write_all(description().as_bytes());
        return ExitCode::SUCCESS;
    }
    settings::main(
        "longhand-api",
        "accepts transcription jobs over HTTP, as a server, or as a Lambda function if AWS_LAMBDA_RUNTIME_API is set; \
         --openapi prints the OpenAPI document, --health checks a running server",
        &Settings::help(),
        Settings::read(&settings::environment),
        |settings| settings.listen,
        run,
    )
}

#[tokio::main]
async fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    let _telemetry = telemetry::init("longhand-api", &settings.log)?;
    metrics::install()?;
    let open_to_all = matches!(settings.auth, AuthSettings::None);
    let auth = Auth::new(settings.auth).map_err(|error| format!("LONGHAND_AUTH: {error}"))?;
    // Lambda stops a function by itself.
    let stop = if lambda::is_lambda() { CancellationToken::new() } else { shutdown::on_signal()? };
    // At a stop, waits end only with the listener: otherwise their clients might return to this very server.
    let (closing, drain) = server::closing(&stop, settings.drain);
    let config = aws::load().await;
    let credentials = config
        .credentials_provider()
        .ok_or("no AWS credentials are configured (AWS_ACCESS_KEY_ID, AWS_PROFILE or a role)")?;
    let upload_s3 = settings
        .upload_endpoint
        .map_or_else(|| aws::s3(&config), |HttpUrl(endpoint)| aws::s3_at(&config, &endpoint));
    let cache =
        settings.redis.map_or_else(|| Ok(Cache::local()), |url| Redis::new(url).map(Cache::shared))?;
    let table = DynamoStore::new(aws::dynamodb(&config), settings.table, settings.retention);
    let store: Arc<dyn JobStore> = Arc::new(table);
    let queue = SqsQueue::new(aws::sqs(&config), settings.queue_url);
    let dead_letters = settings.dlq_url.map(|HttpUrl(url)| SqsQueue::new(aws::sqs(&config), url));
    let lifecycle = Lifecycle::new(store.clone(), Arc::new(queue)).with_cache(cache.clone());
    let limits = settings.limits.shared(cache.redis().cloned());
    let Capacity { connections, waiting, stream_age } = settings.capacity;
    let waiting = Waiting::bounded(store.clone(), cache, closing.clone(), waiting, stream_age);
    let router = router(AppState {
        lifecycle,
        sources: Arc::new(settings.sources),
        callback_hosts: Arc::new(settings.callback_hosts),
        auth: Arc::new(auth),
        limits: Arc::new(limits),
        origins: settings.origins,
        s3: aws::s3(&config),
        upload_signer: Arc::new(Signer::new(upload_s3, credentials)),
        tickets: settings.tickets,
        dead_letters: dead_letters.map(|queue| Arc::new(queue) as Arc<dyn ChunkQueue>),
        waiting: waiting.clone(),
        rendered: Rendered::default(),
        stop,
    });
    if lambda::is_lambda() {
        return Ok(lambda::serve(router).await?);
    }
    if open_to_all {
        warn!("LONGHAND_AUTH=none: every caller that can reach this address may act for every user");
    }
    // Each client that waits keeps a connection.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        warn!(%error, "cannot raise the limit on open files");
    }
    tokio::spawn(async move { waiting.listen().await });
    let listener = tokio::net::TcpListener::bind(settings.listen)
        .await
        .map_err(|error| format!("LONGHAND_LISTEN: cannot listen on {}: {error}", settings.listen))?;
    Ok(server::serve(listener, router, connections, closing, drain).await?)
}
