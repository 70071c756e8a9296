//! The API's settings.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use longhand_shared::cache::remote::RedisUrl;
use longhand_shared::domain::path::AudioSources;
use longhand_shared::domain::url::AllowedHosts;
use longhand_shared::service::settings::{Faults, HttpUrl, Reader, audio_sources};
use longhand_shared::service::telemetry::LogSettings;
use longhand_shared::webhook::CallbackSettings;

use crate::auth::settings::{self as auth, AuthSettings};
use crate::cors::Origins;
use crate::limits::Limits;
use crate::tickets::Tickets;
use crate::waiting::{MAX_WAITING, STREAM_AGE};

const RETENTION: &str = "days from submission (or from a retry) until jobs and transcripts expire";

/// Read once, at start.
#[derive(Debug)]
pub struct Settings {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The table of jobs.
    pub table: String,
    /// The queue that chunks are sent to.
    pub queue_url: String,
    /// Its dead-letter queue, which operators may list and redrive.
    pub dlq_url: Option<HttpUrl>,
    /// Where audio may be read from.
    pub sources: AudioSources,
    /// The hosts that webhooks may be delivered to.
    pub callback_hosts: AllowedHosts,
    /// How long a job is kept after its submission or its last retry.
    pub retention: Duration,
    /// How long running requests may take to end after the process was asked to stop.
    pub drain: Duration,
    /// How callers are authenticated.
    pub auth: AuthSettings,
    /// Signs and verifies tickets.
    pub tickets: Tickets,
    /// The limits of each user.
    pub limits: Limits,
    /// How much one server does at once.
    pub capacity: Capacity,
    /// The origins whose pages may call from a browser.
    pub origins: Origins,
    /// The endpoint at which clients reach S3, if the api uses another.
    pub upload_endpoint: Option<HttpUrl>,
    /// The Redis that caches results for all processes.
    pub redis: Option<RedisUrl>,
    /// How to log.
    pub log: LogSettings,
}

impl Settings {
    /// Reads them, and reports every fault. `lookup` is the environment.
    pub fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let settings = Self::take(&mut reader, lookup("AWS_LAMBDA_RUNTIME_API").is_some());
        reader.finish(settings)
    }

    /// The list of all settings with their defaults.
    pub fn help() -> String {
        let mut reader = Reader::new(&|_| None);
        Self::take(&mut reader, false);
        reader.help()
    }

    fn take(reader: &mut Reader<'_>, lambda: bool) -> Option<Self> {
        let listen = reader.or(
            "LONGHAND_LISTEN",
            SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            "address and port of the api; not used in Lambda",
        );
        let table = reader.required("LONGHAND_TABLE", "name of the DynamoDB table");
        let queue_url = reader.required("LONGHAND_QUEUE_URL", "URL of the SQS queue for chunks");
        let dlq_url = reader.optional(
            "LONGHAND_DLQ_URL",
            "URL of the dead-letter queue of LONGHAND_QUEUE_URL; without it the api shows operators no dead letters",
        );
        let sources = audio_sources(reader);
        let callbacks = CallbackSettings::read(reader);
        let days = reader.within("LONGHAND_RETENTION_DAYS", 30, 1..=3650, RETENTION);
        let drain = reader.within(
            "LONGHAND_DRAIN_SECONDS",
            25,
            1..=3600,
            "seconds from SIGTERM to the exit, at most; must be below the platform's kill timeout",
        );
        let auth = auth::read(reader, (!lambda).then_some(listen));
        let tickets = Tickets::read_settings(reader);
        let limits = Limits::read_settings(reader);
        let capacity = Capacity::read(reader);
        let origins = reader
            .optional(
                "LONGHAND_CORS_ORIGINS",
                "origins of web pages that may call the api, separated by commas, or * for all",
            )
            .unwrap_or_default();
        let upload_endpoint = reader.optional(
            "LONGHAND_UPLOAD_ENDPOINT",
            "S3 endpoint in the URLs that upload and play audio, if clients cannot use the endpoint that the api uses",
        );
        let redis = RedisUrl::read(reader);
        let log = LogSettings::read(reader);
        let HttpUrl(queue_url) = queue_url?;
        Some(Self {
            listen,
            table: table?,
            queue_url,
            dlq_url,
            sources,
            callback_hosts: callbacks.hosts,
            retention: Duration::from_hours(days * 24),
            drain: Duration::from_secs(drain),
            auth: auth?,
            tickets: tickets?,
            limits,
            capacity,
            origins,
            upload_endpoint,
            redis,
            log,
        })
    }
}

/// How much one server does at once.
#[derive(Debug)]
pub struct Capacity {
    /// How many connections are kept.
    pub connections: usize,
    /// How many clients may follow a job or wait for one.
    pub waiting: usize,
    /// How long an event stream lasts.
    pub stream_age: Duration,
}

impl Capacity {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            connections: reader.within(
                "LONGHAND_MAX_CONNECTIONS",
                4000,
                1..=1_000_000,
                "concurrent connections at each server; further ones are closed",
            ),
            waiting: reader.within(
                "LONGHAND_MAX_WAITING",
                MAX_WAITING,
                1..=1_000_000,
                "concurrent waits and event streams at each server; at most a tenth for one user and a twentieth for one job",
            ),
            stream_age: Duration::from_mins(reader.within(
                "LONGHAND_STREAM_MINUTES",
                STREAM_AGE.as_secs() / 60,
                1..=1440,
                "minutes that an event stream lasts; its client then resumes",
            )),
        }
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
    fn every_fault_is_reported() {
        let faults = read(&[
            ("LONGHAND_LISTEN", "8080"),
            ("LONGHAND_TABLE", ""),
            ("LONGHAND_QUEUE_URL", "chunks"),
            ("LONGHAND_AUDIO_BUCKETS", "Not_A_Bucket"),
            ("LONGHAND_AUDIO_HOSTS", "good.example, 10.0.0.1"),
            ("LONGHAND_AUDIO_ROOT", "/no/such/folder"),
            ("LONGHAND_RETENTION_DAYS", "0"),
            ("LONGHAND_DRAIN_SECONDS", "soon"),
            ("REDIS_URL", "cache:6379"),
        ])
        .expect_err("faults");
        for fault in [
            "LONGHAND_LISTEN is \"8080\": invalid socket address",
            "LONGHAND_TABLE is not set",
            "LONGHAND_QUEUE_URL must be a URL",
            "LONGHAND_AUDIO_BUCKETS contains \"Not_A_Bucket\", which is not a valid bucket name",
            "LONGHAND_AUDIO_HOSTS is \"good.example, 10.0.0.1\": \"10.0.0.1\" is an IP address: use a host name",
            "LONGHAND_AUDIO_ROOT is /no/such/folder, which is not a folder",
            "LONGHAND_RETENTION_DAYS is 0: must be 1 to 3650",
            "LONGHAND_DRAIN_SECONDS is \"soon\": invalid digit",
            "REDIS_URL must be a URL",
        ] {
            assert!(faults.contains(fault), "{fault}: {faults}");
        }
    }

    #[test]
    fn without_auth_only_this_machine_has_access() {
        let auth = |changes: &[(&str, &str)]| read(changes).map(|settings| format!("{:?}", settings.auth));
        let anybody = ("LONGHAND_LISTEN", "0.0.0.0:8080");
        let none = ("LONGHAND_AUTH", "none");
        let twice = ("LONGHAND_AUTH_NONE", "i-know");
        for good in [&[][..], &[none], &[("LONGHAND_LISTEN", "[::1]:80")], &[anybody, none, twice]] {
            assert_eq!(auth(good), Ok("None".to_owned()), "{good:?}");
        }
        let lambda = ("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001");
        assert_eq!(auth(&[lambda, none, twice]), Ok("None".to_owned()));
        for (bad, fault) in [
            (&[anybody][..], "LONGHAND_AUTH is not set, and the api can be reached from other machines"),
            (&[anybody, twice], "LONGHAND_AUTH is not set"),
            (&[("LONGHAND_LISTEN", "[::]:80")], "LONGHAND_AUTH is not set"),
            (&[lambda], "LONGHAND_AUTH is not set"),
            (&[anybody, none], "set LONGHAND_AUTH_NONE=i-know too"),
            (&[anybody, none, ("LONGHAND_AUTH_NONE", "yes")], "set LONGHAND_AUTH_NONE=i-know too"),
            (&[lambda, none], "set LONGHAND_AUTH_NONE=i-know too"),
            (&[("LONGHAND_AUTH", "None")], "LONGHAND_AUTH is \"None\": must be jwt, apikey or none"),
            (
                &[("LONGHAND_AUTH", "apikey")],
                "LONGHAND_API_KEYS_FILE and LONGHAND_API_KEYS are both not set: LONGHAND_AUTH=apikey needs one of them",
            ),
            (
                &[
                    ("LONGHAND_AUTH", "apikey"),
                    ("LONGHAND_API_KEYS_FILE", "keys"),
                    ("LONGHAND_API_KEYS", "[]"),
                ],
                "LONGHAND_API_KEYS and LONGHAND_API_KEYS_FILE are both set",
            ),
        ] {
            let faults = auth(bad).expect_err("a fault");
            assert!(faults.contains(fault), "{fault}: {faults}");
            assert_eq!(faults.matches("\n  ").count(), 1, "{faults}");
        }
    }

    #[test]
    fn tokens_need_a_key_an_issuer_and_an_audience() {
        const SECRET: &str = "a secret of more than thirty-two bytes";
        let with = |name: &'static str, value: &'static str| {
            let changes = [
                (name, value),
                ("LONGHAND_AUTH", "jwt"),
                ("LONGHAND_JWT_SECRET", SECRET),
                ("LONGHAND_JWT_ISSUER", "https://issuer.example"),
                ("LONGHAND_JWT_AUDIENCE", "longhand"),
                ("LONGHAND_LISTEN", "0.0.0.0:80"),
            ];
            read(&changes).map(|settings| format!("{:?}", settings.auth))
        };
        let good = with("", "").expect("good settings");
        assert!(good.contains("Secret(***)") && !good.contains("thirty"), "{good}");
        for (name, value, fault) in [
            ("LONGHAND_JWT_SECRET", "thirty-one bytes are not enough", "LONGHAND_JWT_SECRET has 31 bytes"),
            ("LONGHAND_JWT_SECRET", "", "LONGHAND_JWT_JWKS_URL and LONGHAND_JWT_SECRET are both not set"),
            ("LONGHAND_JWT_JWKS_URL", "https://issuer.example/keys", "are both set"),
            ("LONGHAND_JWT_ISSUER", "", "LONGHAND_JWT_ISSUER is not set"),
            ("LONGHAND_JWT_AUDIENCE", "", "LONGHAND_JWT_AUDIENCE is not set"),
            ("LONGHAND_JWT_LEEWAY_SECONDS", "301", "must be 0 to 300"),
        ] {
            let faults = with(name, value).expect_err("a fault");
            assert!(faults.contains(fault), "{fault}: {faults}");
            assert!(!faults.contains("thirty"), "{faults}");
        }
        let at = |url: &'static str| {
            let changes = [
                ("LONGHAND_AUTH", "jwt"),
                ("LONGHAND_JWT_JWKS_URL", url),
                ("LONGHAND_JWT_ISSUER", "https://issuer.example"),
                ("LONGHAND_JWT_AUDIENCE", "longhand"),
            ];
            read(&changes).map(|settings| format!("{:?}", settings.auth))
        };
        for good in ["https://me:thirty@issuer.example/keys", "http://127.0.0.1:1/keys", "http://[::1]:1/"] {
            assert!(!at(good).expect("good settings").contains("thirty"));
        }
        for bad in ["http://me:thirty@issuer.example", "http://127.0.0.1.example", "file:///keys", "thirty"] {
            let faults = at(bad).expect_err("a fault");
            assert!(faults.contains("\n  LONGHAND_JWT_JWKS_URL "), "{faults}");
            assert!(!faults.contains("thirty"), "{faults}");
        }
    }

    #[test]
    fn some_audio_must_be_readable() {
        let faults = read(&[("LONGHAND_AUDIO_BUCKETS", " , ")]).expect_err("no audio");
        assert!(faults.contains("LONGHAND_AUDIO_BUCKETS is not set: set at least one of"), "{faults}");
        let hosts = read(&[("LONGHAND_AUDIO_BUCKETS", ""), ("LONGHAND_AUDIO_HOSTS", "*.good.example")]);
        assert!(!hosts.expect("good settings").sources.hosts.is_empty());
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().to_str().expect("UTF-8");
        let settings = read(&[("LONGHAND_AUDIO_BUCKETS", ""), ("LONGHAND_AUDIO_ROOT", root)]);
        assert_eq!(settings.expect("good settings").sources.root.as_deref(), Some(folder.path()));
    }
}
