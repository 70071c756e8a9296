//! The API's settings.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use longhand_shared::cache::remote::RedisUrl;
use longhand_shared::outbound::AllowedHosts;
use longhand_shared::path::AudioSources;
use longhand_shared::settings::{Faults, HttpUrl, LogSettings, Reader, audio_sources, redis_url};
use longhand_shared::webhook::CallbackSettings;

use crate::auth::settings::{self as auth, AuthSettings};
use crate::cors::Origins;
use crate::limits::Limits;

/// What the API needs to know. Read once, at start.
#[derive(Debug)]
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
    /// How callers are told apart.
    pub auth: AuthSettings,
    /// What each user may have and do at most.
    pub limits: Limits,
    /// Whose pages may call from a browser.
    pub origins: Origins,
    /// Where results are cached for all processes.
    pub redis: Option<RedisUrl>,
    /// How to log.
    pub log: LogSettings,
}

impl Settings {
    /// Reads them, or says all that is wrong with them. `lookup` is the environment.
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
        let auth = auth::read(reader, (!lambda).then_some(listen));
        let limits = Limits::read(reader);
        let origins = reader
            .optional(
                "LONGHAND_CORS_ORIGINS",
                "origins whose pages may call from a browser, commas between; * for all",
            )
            .unwrap_or_default();
        let redis = redis_url(reader);
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
            auth: auth?,
            limits,
            origins,
            redis,
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
            "LONGHAND_QUEUE_URL is \"chunks\": must be a URL",
            "LONGHAND_AUDIO_BUCKETS names \"Not_A_Bucket\", which cannot be a bucket",
            "LONGHAND_AUDIO_HOSTS is \"good.example, 10.0.0.1\": \"10.0.0.1\" is an IP address: name a host",
            "LONGHAND_AUDIO_ROOT is /no/such/folder, which is not a folder",
            "LONGHAND_RETENTION_DAYS is 0: must be 1 to 3650",
            "LONGHAND_DRAIN_SECONDS is \"soon\": invalid digit",
            "REDIS_URL is \"cache:6379\": must be a URL",
        ] {
            assert!(faults.contains(fault), "{fault}: {faults}");
        }
    }

    #[test]
    fn without_auth_only_this_machine_is_let_in() {
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
            (&[anybody][..], "LONGHAND_AUTH is not set, and others than this machine may reach the api"),
            (&[anybody, twice], "LONGHAND_AUTH is not set"),
            (&[("LONGHAND_LISTEN", "[::]:80")], "LONGHAND_AUTH is not set"),
            (&[lambda], "LONGHAND_AUTH is not set"),
            (&[anybody, none], "set LONGHAND_AUTH_NONE=i-know too"),
            (&[anybody, none, ("LONGHAND_AUTH_NONE", "yes")], "set LONGHAND_AUTH_NONE=i-know too"),
            (&[lambda, none], "set LONGHAND_AUTH_NONE=i-know too"),
            (&[("LONGHAND_AUTH", "None")], "LONGHAND_AUTH is \"None\": must be jwt, apikey or none"),
            (
                &[("LONGHAND_AUTH", "apikey")],
                "LONGHAND_API_KEYS_FILE and LONGHAND_API_KEYS are both not set: LONGHAND_AUTH is apikey",
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
        assert!(
            faults.contains(
                "LONGHAND_AUDIO_BUCKETS is not set, nor are LONGHAND_AUDIO_HOSTS and LONGHAND_AUDIO_ROOT"
            ),
            "{faults}"
        );
        let hosts = read(&[("LONGHAND_AUDIO_BUCKETS", ""), ("LONGHAND_AUDIO_HOSTS", "*.good.example")]);
        assert!(!hosts.expect("good settings").sources.hosts.is_empty());
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().to_str().expect("UTF-8");
        let settings = read(&[("LONGHAND_AUDIO_BUCKETS", ""), ("LONGHAND_AUDIO_ROOT", root)]);
        assert_eq!(settings.expect("good settings").sources.root.as_deref(), Some(folder.path()));
    }
}
