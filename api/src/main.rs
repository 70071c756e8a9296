//! `longhand-api`: settings, telemetry, clients, serve.

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use longhand_api::auth::settings::AuthSettings;
use longhand_api::settings::Settings;
use longhand_api::waiting::Waiting;
use longhand_api::{AppState, Auth, lambda, openapi, router, server};
use longhand_shared::cache::Cache;
use longhand_shared::cache::observed::ObservedStore;
use longhand_shared::cache::remote::Redis;
use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::store::JobStore;
use longhand_shared::store::dynamo::DynamoStore;
use longhand_shared::{aws, metrics, settings, shutdown, telemetry};
use tokio_util::sync::CancellationToken;
use tracing::warn;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--openapi") {
        // A closed pipe is no reason to complain.
        let _ = std::io::stdout().write_all(openapi::text().as_bytes());
        return ExitCode::SUCCESS;
    }
    settings::main(
        "longhand-api",
        "takes transcription jobs over HTTP: listens, or runs as a Lambda function where AWS_LAMBDA_RUNTIME_API is set; \
         --openapi prints its description and ends, --health asks one that runs whether it lives",
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
    // Waits go on until no more requests are taken: before that their clients might come back to this very server.
    let (closing, drain) = server::closing(&stop, settings.drain);
    let config = aws::load().await;
    let cache =
        settings.redis.map_or_else(|| Ok(Cache::local()), |url| Redis::new(url).map(Cache::shared))?;
    let table = DynamoStore::new(aws::dynamodb(&config), settings.table, settings.retention);
    let store: Arc<dyn JobStore> = Arc::new(ObservedStore::new(Arc::new(table), cache.clone()));
    let waiting = Waiting::new(store.clone(), cache, closing.clone());
    let router = router(AppState {
        store,
        queue: Arc::new(SqsQueue::new(aws::sqs(&config), settings.queue_url)),
        sources: Arc::new(settings.sources),
        callback_hosts: Arc::new(settings.callback_hosts),
        auth: Arc::new(auth),
        limits: Arc::new(settings.limits),
        origins: settings.origins,
        s3: aws::s3(&config),
        waiting: waiting.clone(),
        stop,
    });
    if lambda::is_lambda() {
        return Ok(lambda::serve(router).await?);
    }
    if open_to_all {
        warn!("LONGHAND_AUTH is none: whoever can reach this address may do everything, in everybody's name");
    }
    // Each client that waits keeps a connection. What the system allows is all that can be had.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        warn!(%error, "the limit on open files stays as it is");
    }
    tokio::spawn(async move { waiting.listen().await });
    let listener = tokio::net::TcpListener::bind(settings.listen)
        .await
        .map_err(|error| format!("LONGHAND_LISTEN: cannot listen on {}: {error}", settings.listen))?;
    Ok(server::serve(listener, router, closing, drain).await?)
}
