//! Longhand's API: reads its settings, makes its clients, and answers until it is told to stop.

use std::error::Error;
use std::io::{Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::Arc;

use longhand_api::settings::{self, Settings};
use longhand_api::{AppState, router, server};
use longhand_shared::queue::sqs::SqsQueue;
use longhand_shared::store::dynamo::DynamoStore;
use longhand_shared::{aws, metrics, shutdown, telemetry};

#[tokio::main]
async fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("-h" | "--help") => return say(stdout(), 0, &settings::usage().to_string()),
        Some("-V" | "--version") => {
            return say(stdout(), 0, concat!("longhand-api ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        Some(other) => return say(stderr(), 2, &format!("{other:?} is not known: --help lists all\n")),
    }
    let settings = match Settings::read(&longhand_shared::settings::environment) {
        Ok(settings) => settings,
        Err(faults) => return say(stderr(), 2, &format!("{faults}\n")),
    };
    if let Err(error) = telemetry::init(settings.log.format, &settings.log.filter) {
        return say(stderr(), 2, &format!("RUST_LOG is {:?}: {error}\n", settings.log.filter));
    }
    match run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the API ended");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    metrics::install()?;
    let config = aws::load().await;
    let router = router(AppState {
        store: Arc::new(DynamoStore::new(aws::dynamodb(&config), settings.table, settings.retention)),
        queue: Arc::new(SqsQueue::new(aws::sqs(&config), settings.queue_url)),
        sources: Arc::new(settings.sources),
    });
    if server::is_lambda() {
        return Ok(server::serve_lambda(router).await?);
    }
    let listener = tokio::net::TcpListener::bind(settings.listen)
        .await
        .map_err(|error| format!("LONGHAND_LISTEN: cannot listen on {}: {error}", settings.listen))?;
    Ok(server::serve(listener, router, shutdown::on_signal()?, settings.drain).await?)
}

/// Prints, and ends with a code. A reader that has gone (`| head`) is no failure.
fn say(mut to: impl Write, code: u8, text: &str) -> ExitCode {
    let _ = to.write_all(text.as_bytes());
    ExitCode::from(code)
}
