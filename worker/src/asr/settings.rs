//! How the model is called.

use std::time::Duration;

use longhand_shared::service::secret::Secret;
use longhand_shared::service::settings::{HttpUrl, Reader};

use super::probe::Recording;

/// The longest pause with the chunk in hand. For a longer `Retry-After` the message returns to the queue.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(20);

const TIMEOUT_HELP: &str = "time limit for one call of the model, including the upload, in seconds";
const MAX_RETRIES_HELP: &str = "calls of the model after the first one, at most, in one attempt at a chunk; if the \
    model refuses an option, the repeated call without it counts, too";
const PROBE_HELP: &str = "recording for health probes of the model: built-in, a file, or off; with off, an outage of \
    the model may fail chunks";

#[derive(Clone, Debug)]
pub struct AsrSettings {
    /// `ASR_BASE_URL`, with or without `/v1`.
    pub base_url: String,
    /// `ASR_API_KEY`.
    pub api_key: Option<Secret>,
    /// `ASR_MODEL`.
    pub model: String,
    /// `ASR_TIMEOUT_SECONDS`: one call, from the first byte sent to the last received.
    pub timeout: Duration,
    /// `ASR_MAX_RETRIES`: calls after the first one, in one attempt at a chunk.
    pub max_retries: u32,
    /// The maximum number of concurrent calls, not counting a probe.
    pub max_concurrency: usize,
    /// The first pause of the backoff.
    pub first_pause: Duration,
    /// `ASR_PROBE`: the probe's recording. Without one, failures that count do so even in an outage.
    pub probe: Option<Recording>,
}

impl AsrSettings {
    /// `longest`: the time limit for one attempt at a chunk, which all calls must fit in.
    pub(crate) fn read(r: &mut Reader<'_>, slots: usize, longest: Duration) -> Option<Self> {
        let base_url: Option<HttpUrl> =
            r.required("ASR_BASE_URL", "URL of the model server, with or without /v1");
        let api_key = r.optional("ASR_API_KEY", "API key of the model, sent as a bearer token");
        let model = r.or("ASR_MODEL", "whisper-1".to_owned(), "name of the model");
        let timeout: f64 = r.or("ASR_TIMEOUT_SECONDS", 30.0, TIMEOUT_HELP);
        let max_retries: u32 = r.within("ASR_MAX_RETRIES", 3, 0..=20, MAX_RETRIES_HELP);
        let probe: String = r.or("ASR_PROBE", "built-in".to_owned(), PROBE_HELP);
        if !(timeout.is_finite() && timeout > 0.0 && timeout <= 3600.0) {
            r.fault("ASR_TIMEOUT_SECONDS", "must be more than 0 and at most 3600");
        }
        let probe = Recording::read(&probe).unwrap_or_else(|error| {
            r.fault("ASR_PROBE", error);
            None
        });
        // One call more: the probe's, which the last retry may wait for.
        let needed =
            (f64::from(max_retries) + 2.0) * timeout + f64::from(max_retries) * LONGEST_PAUSE.as_secs_f64();
        if needed > longest.as_secs_f64() {
            r.fault(
                "LONGHAND_MAX_CHUNK_SECONDS",
                format_args!(
                    "must be at least {needed}: ASR_TIMEOUT_SECONDS for each of the ASR_MAX_RETRIES + 1 calls and \
                     a probe, and {} s between the calls",
                    LONGEST_PAUSE.as_secs()
                ),
            );
        }
        Some(Self {
            base_url: base_url?.0,
            api_key,
            model,
            timeout: Duration::try_from_secs_f64(timeout).ok()?,
            max_retries,
            // Each chunk in hand makes one call at a time.
            max_concurrency: slots,
            first_pause: Duration::from_millis(500),
            probe,
        })
    }
}
