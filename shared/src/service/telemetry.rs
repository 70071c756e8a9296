//! Logs and traces. Logs go to standard error, one event per line, for people (`pretty`) or for programs
//! (`json`). Traces go to an OpenTelemetry collector if one is configured.

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use strum::{Display, EnumString};
use tracing_subscriber::filter::{FilterExt, LevelFilter, Targets, filter_fn};
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::service::settings::{HttpUrl, Reader};

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, EnumString)]
#[strum(serialize_all = "lowercase", parse_err_ty = InvalidLogFormat, parse_err_fn = InvalidLogFormat::new)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object per line.
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be pretty or json")]
pub struct InvalidLogFormat;

impl InvalidLogFormat {
    fn new(_: &str) -> Self {
        Self
    }
}

/// Settings of logs and traces, for every process.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// `LONGHAND_LOG_FORMAT`.
    pub format: LogFormat,
    /// `RUST_LOG`.
    pub filter: String,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`: the collector of traces.
    pub traces: Option<HttpUrl>,
}

impl LogSettings {
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let format = reader.or("LONGHAND_LOG_FORMAT", LogFormat::Pretty, "pretty or json");
        let filter = reader.or(
            "RUST_LOG",
            "info".to_owned(),
            "log filter in the syntax of tracing's EnvFilter, such as info,longhand=debug; the alarms on AWS need info",
        );
        if let Err(error) = EnvFilter::try_new(&filter) {
            reader.fault("RUST_LOG", format_args!("is {filter:?}: {error}"));
        }
        let about = "collector of traces, OTLP over HTTP, such as http://127.0.0.1:4318";
        let traces = reader.optional("OTEL_EXPORTER_OTLP_ENDPOINT", about);
        Self { format, filter, traces }
    }
}

/// How long the process waits at its end until the last spans are sent.
const FLUSH: Duration = Duration::from_secs(2);

/// Sends the last spans when it is dropped.
#[derive(Debug)]
pub struct Telemetry(SdkTracerProvider);

impl Drop for Telemetry {
    fn drop(&mut self) {
        // The process does not fail if the collector is not reachable.
        let _ = self.0.shutdown_with_timeout(FLUSH);
    }
}

/// Starts logs and traces. They stop when the returned value is dropped. `service` is the program's name.
pub fn init(service: &'static str, settings: &LogSettings) -> Result<Telemetry, Box<dyn std::error::Error>> {
    let filter = EnvFilter::try_new(&settings.filter)
        .map_err(|error| format!("RUST_LOG is {:?}: {error}", settings.filter))?;
    let mut provider =
        SdkTracerProvider::builder().with_resource(Resource::builder().with_service_name(service).build());
    if let Some(url) = &settings.traces {
        let exporter =
            SpanExporter::builder().with_http().with_endpoint(format!("{}/v1/traces", url.0)).build()?;
        provider = provider.with_batch_exporter(exporter);
    }
    let provider = provider.build();
    // Longhand's own spans, whatever the log filter. The SDKs create about ten spans for each of these. Without a
    // collector spans are needed for trace ids, but their events are not read.
    let ours = Targets::new().with_target("longhand", LevelFilter::INFO);
    let collected = settings.traces.is_some();
    let wanted = filter_fn(move |meta| collected || meta.is_span()).with_max_level_hint(LevelFilter::INFO);
    let ours = ours.and(wanted);
    let traces = tracing_opentelemetry::layer().with_tracer(provider.tracer("longhand")).with_filter(ours);

    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let lines = match settings.format {
        LogFormat::Pretty => lines.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => {
            let json = lines.json().flatten_event(true).with_current_span(true).with_span_list(false);
            json.with_span_events(FmtSpan::NONE).with_filter(filter).boxed()
        }
    };
    tracing_subscriber::registry().with(lines).with(traces).try_init()?;
    Ok(Telemetry(provider))
}
