//! The API's settings.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use longhand_shared::outbound::AllowedHosts;
use longhand_shared::path::AudioSources;
use longhand_shared::settings::{Faults, HttpUrl, LogSettings, Reader, audio_sources};
use longhand_shared::webhook::CallbackSettings;

/// What the API needs to know. Read once, at start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The table that jobs are kept in.
    pub table: String,
    /// The queue that chunks are sent to.
    pub queue_url: String,
    /// Where audio may be read from.
    pub sources: AudioSources,
    /// Who may be told of a job's end.
    pub callback_hosts: AllowedHosts,
    /// How long a job is kept after it was submitted.
    pub retention: Duration,
    /// How long requests in hand may take to end once the process was told to stop.
    pub drain: Duration,
    /// How to log.
    pub log: LogSettings,
}

impl Settings {
    /// Reads them, or says all that is wrong with them. `lookup` is the environment.
    pub fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let settings = Self::take(&mut reader);
        reader.finish(settings)
    }

    /// The list of all settings with their defaults.
    pub fn help() -> String {
        let mut reader = Reader::new(&|_| None);
        Self::take(&mut reader);
        reader.help()
    }

    fn take(reader: &mut Reader<'_>) -> Option<Self> {
        let listen = reader.or(
            "LONGHAND_LISTEN",
            SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            "address and port to listen on; not used as a Lambda function",
        );
        let table = reader.required("LONGHAND_TABLE", "DynamoDB table of jobs");
        let queue_url = reader.required("LONGHAND_QUEUE_URL", "URL of the SQS queue of chunks");
        let sources = audio_sources(reader);
        let callbacks = CallbackSettings::read(reader);
        let days = reader.within("LONGHAND_RETENTION_DAYS", 30, 1..=3650, "days that a job is kept");
        let drain = reader.within(
            "LONGHAND_DRAIN_SECONDS",
            25,
            1..=3600,
            "seconds that requests in hand have to end at a stop; less than the platform waits before it kills",
        );
        let log = LogSettings::read(reader);
        let HttpUrl(queue_url) = queue_url?;
        Some(Self {
            listen,
            table: table?,
            queue_url,
            sources,
            callback_hosts: callbacks.hosts,
            retention: Duration::from_hours(days * 24),
            drain: Duration::from_secs(drain),
            log,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 3] = [
        ("LONGHAND_TABLE", "jobs"),
        ("LONGHAND_QUEUE_URL", "http://127.0.0.1:4566/000000000000/chunks"),
        ("LONGHAND_AUDIO_BUCKETS", "audio, more-audio"),
    ];

    fn read(changes: &[(&str, &str)]) -> Result<Settings, String> {
        let lookup = |name: &str| {
            let all = changes.iter().chain(&GOOD);
            all.into_iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Settings::read(&lookup).map_err(|faults| faults.to_string())
    }

    #[test]
    fn defaults() {
        let settings = read(&[]).expect("good settings");
        assert_eq!(settings.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(settings.retention, Duration::from_hours(720));
        assert_eq!(settings.drain, Duration::from_secs(25));
        assert_eq!(settings.sources.buckets, ["audio", "more-audio"]);
        assert_eq!(settings.sources.root, None);
    }

    #[test]
    fn every_fault_is_told() {
        let faults = read(&[
            ("LONGHAND_LISTEN", "8080"),
            ("LONGHAND_TABLE", ""),
            ("LONGHAND_QUEUE_URL", "chunks"),
            ("LONGHAND_AUDIO_BUCKETS", "Not_A_Bucket"),
            ("LONGHAND_AUDIO_ROOT", "/no/such/folder"),
            ("LONGHAND_RETENTION_DAYS", "0"),
            ("LONGHAND_DRAIN_SECONDS", "soon"),
        ])
        .expect_err("faults");
        for fault in [
            "LONGHAND_LISTEN is \"8080\": invalid socket address",
            "LONGHAND_TABLE is not set",
            "LONGHAND_QUEUE_URL is \"chunks\": must be a URL",
            "LONGHAND_AUDIO_BUCKETS names \"Not_A_Bucket\", which cannot be a bucket",
            "LONGHAND_AUDIO_ROOT is /no/such/folder, which is not a folder",
            "LONGHAND_RETENTION_DAYS is 0: must be 1 to 3650",
            "LONGHAND_DRAIN_SECONDS is \"soon\": invalid digit",
        ] {
            assert!(faults.contains(fault), "{fault}: {faults}");
        }
    }

    #[test]
    fn some_audio_must_be_readable() {
        let faults = read(&[("LONGHAND_AUDIO_BUCKETS", " , ")]).expect_err("no audio");
        assert!(
            faults.contains("LONGHAND_AUDIO_BUCKETS and LONGHAND_AUDIO_ROOT are both not set"),
            "{faults}"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().to_str().expect("UTF-8");
        let settings = read(&[("LONGHAND_AUDIO_BUCKETS", ""), ("LONGHAND_AUDIO_ROOT", root)]);
        assert_eq!(settings.expect("good settings").sources.root.as_deref(), Some(folder.path()));
    }
}
