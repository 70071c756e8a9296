//! How the model is called.

use std::time::Duration;

use longhand_shared::service::secret::Secret;

use super::probe::Recording;

#[derive(Clone, Debug)]
pub struct AsrSettings {
    /// `ASR_BASE_URL`, without `/v1`.
    pub base_url: String,
    /// `ASR_API_KEY`.
    pub api_key: Option<Secret>,
    /// `ASR_MODEL`.
    pub model: String,
    /// `ASR_TIMEOUT_SECONDS`: one call, from the first byte sent to the last received.
    pub timeout: Duration,
    /// `ASR_MAX_RETRIES`: calls for one chunk after the first.
    pub max_retries: u32,
    /// The maximum number of concurrent calls, not counting a probe.
    pub max_concurrency: usize,
    /// The first pause of the backoff.
    pub first_pause: Duration,
    /// `ASR_PROBE`: the probe's recording. Without one, every failure counts against its chunk.
    pub probe: Option<Recording>,
}
