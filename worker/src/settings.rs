//! The worker's settings.

use std::net::SocketAddr;
use std::time::Duration;

use longhand_shared::cache::remote::RedisUrl;
use longhand_shared::domain::path::AudioSources;
use longhand_shared::domain::url::AllowedHosts;
use longhand_shared::service::settings::{Faults, HttpUrl, Reader, audio_sources};
use longhand_shared::service::telemetry::LogSettings;
use longhand_shared::webhook::CallbackSettings;
use longhand_shared::webhook::signature::MasterSecrets;

use crate::asr::AsrSettings;
use crate::runner::Limits;
use crate::sweeper::SweepSettings;

#[derive(Clone, Debug)]
pub struct Settings {
    /// The address of `/healthz` and `/metrics`.
    pub health_listen: SocketAddr,
    pub table: String,
    /// How long a job's items are kept.
    pub retention: Duration,
    pub queue_url: String,
    pub dlq_url: String,
    pub sources: AudioSources,
    pub limits: Limits,
    pub sweep: SweepSettings,
    /// This worker's name in the history of chunks.
    pub name: String,
    pub asr: AsrSettings,
    /// Caches results and publishes changes.
    pub redis: Option<RedisUrl>,
    /// Webhook delivery, if it is enabled.
    pub webhooks: Option<WebhookSettings>,
    pub log: LogSettings,
}

#[derive(Clone, Debug)]
pub struct WebhookSettings {
    pub queue_url: String,
    pub dlq_url: String,
    /// The hosts that may receive webhooks.
    pub hosts: AllowedHosts,
    pub secrets: MasterSecrets,
}

impl WebhookSettings {
    /// `None` without a queue.
    fn read(r: &mut Reader<'_>) -> Option<Self> {
        const DLQ: &str = "LONGHAND_WEBHOOK_DLQ_URL";
        const SECRET: &str = "LONGHAND_WEBHOOK_SECRET";
        let CallbackSettings { queue_url, hosts } = CallbackSettings::read(r);
        let dlq_url: Option<HttpUrl> = r.optional(
            DLQ,
            "URL of the dead-letter queue for webhooks; required with LONGHAND_WEBHOOK_QUEUE_URL",
        );
        let secrets = MasterSecrets::read(r);
        let queue_url = queue_url?;
        if dlq_url.is_none() {
            r.fault(DLQ, "is not set: it is required with LONGHAND_WEBHOOK_QUEUE_URL");
        }
        if secrets.is_none() {
            r.fault(
                SECRET,
                "is not set, or has fewer than 32 bytes: it is required with LONGHAND_WEBHOOK_QUEUE_URL",
            );
        }
        Some(Self { queue_url, dlq_url: dlq_url?.0, hosts, secrets: secrets? })
    }
}

/// Long help texts.
mod about {
    pub(super) const RETENTION: &str =
        "days from submission (or from a retry) until jobs and transcripts expire";
    pub(super) const CONCURRENCY: &str = "number of slots, 1 to 10000, which limits the concurrent calls of the model: a \
                                          chunk holds a slot while it is processed and while it waits after a 429, but \
                                          usually not while it waits after another failure";
    pub(super) const DRAIN: &str =
        "seconds from SIGTERM to the exit, at most; must be below the platform's kill timeout";
    pub(super) const POLL: &str = "seconds that a receive waits for messages, 1 to 20";
    pub(super) const VISIBILITY: &str =
        "visibility timeout: seconds until another worker gets the message after a crash";
    pub(super) const MAX_CHUNK: &str = "time limit for one attempt at a chunk, in seconds, at least \
                                        ASR_TIMEOUT_SECONDS x (ASR_MAX_RETRIES + 2) + 20 x ASR_MAX_RETRIES";
    pub(super) const HEALTH_LISTEN: &str = "address and port of /healthz and /metrics of the worker";
    pub(super) const NAME: &str =
        "name of the worker, up to 100 bytes; clients see only a hash of it in chunks' histories";
}

/// Fargate kills a task 120 s after SIGTERM at the latest.
const MAX_DRAIN_SECONDS: u64 = 115;

/// The name is stored with each attempt of a chunk.
const MAX_NAME_BYTES: usize = 100;

impl Settings {
    /// Reads the settings, or returns all faults. Appends the list of settings to `help`.
    pub fn read(lookup: &dyn Fn(&str) -> Option<String>, help: &mut String) -> Result<Self, Faults> {
        let mut r = Reader::new(lookup);
        let settings = Self::take(&mut r, lookup);
        *help = r.help();
        r.finish(settings)
    }

    fn take(r: &mut Reader<'_>, lookup: &dyn Fn(&str) -> Option<String>) -> Option<Self> {
        let table = r.required("LONGHAND_TABLE", "name of the DynamoDB table");
        let queue_url: Option<HttpUrl> = r.required("LONGHAND_QUEUE_URL", "URL of the SQS queue for chunks");
        let dlq_url: Option<HttpUrl> =
            r.required("LONGHAND_DLQ_URL", "URL of the dead-letter queue of LONGHAND_QUEUE_URL");
        let sources = audio_sources(r);
        let limits = limits(r);
        let sweep = SweepSettings::read(r);
        let retention: u64 = r.within("LONGHAND_RETENTION_DAYS", 30, 1..=3650, about::RETENTION);
        let health_listen =
            r.or("LONGHAND_HEALTH_LISTEN", SocketAddr::from(([127, 0, 0, 1], 8081)), about::HEALTH_LISTEN);
        let name = r.or("LONGHAND_WORKER_NAME", host_and_process(lookup), about::NAME);
        if name.len() > MAX_NAME_BYTES {
            r.fault("LONGHAND_WORKER_NAME", format_args!("is over {MAX_NAME_BYTES} bytes"));
        }
        let asr = AsrSettings::read(r, limits.slots, limits.longest);
        let redis = RedisUrl::read(r);
        let webhooks = WebhookSettings::read(r);
        let log = LogSettings::read(r);
        Some(Self {
            health_listen,
            table: table?,
            retention: Duration::from_hours(retention * 24),
            queue_url: queue_url?.0,
            dlq_url: dlq_url?.0,
            sources,
            limits,
            sweep,
            name,
            asr: asr?,
            redis,
            webhooks,
            log,
        })
    }
}

fn limits(r: &mut Reader<'_>) -> Limits {
    let slots = r.within("LONGHAND_CONCURRENCY", 32, 1..=10_000, about::CONCURRENCY);
    let drain: u64 = r.within("LONGHAND_DRAIN_SECONDS", 25, 1..=MAX_DRAIN_SECONDS, about::DRAIN);
    let poll: u64 = r.within("LONGHAND_POLL_SECONDS", 5, 1..=20, about::POLL);
    let visibility: u64 = r.within("LONGHAND_VISIBILITY_SECONDS", 12, 3..=43_200, about::VISIBILITY);
    let longest: u64 = r.within("LONGHAND_MAX_CHUNK_SECONDS", 300, 1..=43_200, about::MAX_CHUNK);
    if drain < poll + 2 {
        r.fault(
            "LONGHAND_DRAIN_SECONDS",
            "must be at least LONGHAND_POLL_SECONDS + 2: a worker waits for its last receive",
        );
    }
    if longest.saturating_add(visibility.saturating_mul(2)) > 43_200 {
        r.fault(
            "LONGHAND_MAX_CHUNK_SECONDS",
            "plus twice LONGHAND_VISIBILITY_SECONDS must be at most 43200, SQS's limit for one receive",
        );
    }
    let [poll, visibility, longest, drain] = [poll, visibility, longest, drain].map(Duration::from_secs);
    Limits { slots, poll, visibility, longest, drain }
}

/// The host's name, which on most platforms is the container's, and the process id.
fn host_and_process(lookup: &dyn Fn(&str) -> Option<String>) -> String {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| lookup("HOSTNAME"));
    let host: String = hostname.as_deref().unwrap_or("worker").trim().chars().take(60).collect();
    format!("{host}-{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(changes: &[(&str, &str)]) -> Result<Settings, Faults> {
        let good = [
            ("LONGHAND_TABLE", "jobs"),
            ("LONGHAND_QUEUE_URL", "http://q"),
            ("LONGHAND_DLQ_URL", "http://d"),
            ("LONGHAND_AUDIO_BUCKETS", "audio, more-audio"),
            ("ASR_BASE_URL", "http://127.0.0.1:8790"),
        ];
        let lookup = |name: &str| {
            let found = changes.iter().chain(&good).find(|(key, _)| *key == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::read(&lookup, &mut String::new())
    }

    #[test]
    fn five_settings_suffice() {
        let settings = read(&[]).expect("good");
        assert_eq!(settings.sources.buckets, ["audio", "more-audio"]);
        assert_eq!(settings.limits.slots, 32);
        assert_eq!(settings.asr.max_concurrency, 32);
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let faults = read(&[
            ("LONGHAND_TABLE", ""),
            ("LONGHAND_CONCURRENCY", "0"),
            ("LONGHAND_DRAIN_SECONDS", "300"),
            ("ASR_BASE_URL", "model:80"),
            ("ASR_TIMEOUT_SECONDS", "100"),
            ("LONGHAND_AUDIO_BUCKETS", ""),
        ])
        .expect_err("six faults")
        .to_string();
        for fault in [
            "LONGHAND_TABLE is not set",
            "LONGHAND_CONCURRENCY is 0: must be 1 to 10000",
            "LONGHAND_DRAIN_SECONDS is 300",
            "ASR_BASE_URL must be a URL",
            "LONGHAND_MAX_CHUNK_SECONDS must be at least 560",
            "LONGHAND_AUDIO_BUCKETS is not set: set at least one of",
        ] {
            assert!(faults.contains(fault), "{fault} in {faults}");
        }
    }

    #[test]
    fn the_largest_numbers_are_faults() {
        let largest = u64::MAX.to_string();
        for name in ["LONGHAND_RETENTION_DAYS", "LONGHAND_POLL_SECONDS", "LONGHAND_SWEEP_SECONDS"] {
            let faults = read(&[(name, &largest)]).expect_err(name).to_string();
            assert!(faults.contains(&format!("{name} is {largest}: must be ")), "{faults}");
        }
    }

    #[test]
    fn webhook_settings_require_each_other() {
        assert!(read(&[]).expect("good").webhooks.is_none());
        let all = [
            ("LONGHAND_WEBHOOK_QUEUE_URL", "http://w"),
            ("LONGHAND_WEBHOOK_DLQ_URL", "http://wd"),
            ("LONGHAND_WEBHOOK_SECRET", "0123456789abcdef-not-a-real-one-0"),
            ("LONGHAND_CALLBACK_HOSTS", "receiver.example"),
        ];
        let settings = read(&all).expect("good");
        assert_eq!(settings.webhooks.as_ref().map(|webhooks| webhooks.dlq_url.as_str()), Some("http://wd"));
        assert!(!format!("{settings:?}").contains("not-a-real-one"));
        for missing in ["LONGHAND_WEBHOOK_DLQ_URL", "LONGHAND_WEBHOOK_SECRET"] {
            let rest: Vec<_> = all.into_iter().filter(|(name, _)| *name != missing).collect();
            let faults = read(&rest).expect_err(missing).to_string();
            assert!(faults.contains(&format!("{missing} is not set")), "{faults}");
        }
        let faults = read(&all[3..]).expect_err("no queue").to_string();
        assert!(
            faults.contains("LONGHAND_CALLBACK_HOSTS is set, but LONGHAND_WEBHOOK_QUEUE_URL"),
            "{faults}"
        );
    }

    #[test]
    fn the_api_key_is_not_shown() {
        let settings = read(&[("ASR_API_KEY", "sk-secret")]).expect("good");
        assert!(!format!("{settings:?}").contains("sk-secret"));
    }
}
