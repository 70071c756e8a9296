//! `longhand-api`: settings, telemetry, clients, serve.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use longhand_api::auth::settings::AuthSettings;
use longhand_api::settings::Settings;
use longhand_api::{AppState, Auth, router, server};
use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::store::dynamo::DynamoStore;
use longhand_shared::{aws, metrics, settings, shutdown, telemetry};
use tracing::warn;

fn main() -> ExitCode {
    settings::main(
        "longhand-api",
        "takes transcription jobs over HTTP: listens, or runs as a Lambda function where AWS_LAMBDA_RUNTIME_API is set",
        &Settings::help(),
        Settings::read(&settings::environment),
        run,
    )
}

#[tokio::main]
async fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    let _telemetry = telemetry::init("longhand-api", &settings.log)?;
    metrics::install()?;
    let open_to_all = matches!(settings.auth, AuthSettings::None);
    let auth = Auth::new(settings.auth).map_err(|error| format!("LONGHAND_AUTH: {error}"))?;
    let config = aws::load().await;
    let router = router(AppState {
        store: Arc::new(DynamoStore::new(aws::dynamodb(&config), settings.table, settings.retention)),
        queue: Arc::new(SqsQueue::new(aws::sqs(&config), settings.queue_url)),
        sources: Arc::new(settings.sources),
        callback_hosts: Arc::new(settings.callback_hosts),
        auth: Arc::new(auth),
        limits: Arc::new(settings.limits),
        origins: settings.origins,
        s3: aws::s3(&config),
    });
    if server::is_lambda() {
        return Ok(server::serve_lambda(router).await?);
    }
    if open_to_all {
        warn!("LONGHAND_AUTH is none: whoever can reach this address may do everything, in everybody's name");
    }
    let listener = tokio::net::TcpListener::bind(settings.listen)
        .await
        .map_err(|error| format!("LONGHAND_LISTEN: cannot listen on {}: {error}", settings.listen))?;
    Ok(server::serve(listener, router, shutdown::on_signal()?, settings.drain).await?)
}
