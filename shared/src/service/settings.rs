//! Settings from the environment: read once at startup, all faults reported at once, no silent fallback.
//!
//! A program calls [`Reader::required`], [`Reader::or`] and so on for each of its settings. The same
//! calls build the list that `--help` prints, so it is always complete.

use std::fmt::{self, Display, Write as _};
use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use crate::domain::path::{AudioPath, AudioSources};
use crate::domain::url::AllowedHosts;
use crate::service::health;

/// The source of values: the environment in production, a function in tests.
type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Reads settings and collects their faults.
pub struct Reader<'a> {
    lookup: &'a Lookup<'a>,
    faults: Vec<String>,
    help: Vec<Line>,
}

struct Line {
    name: &'static str,
    default: String,
    about: &'static str,
}

/// All faults of the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid settings:")?;
        for fault in &self.0 {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

impl<'a> Reader<'a> {
    pub fn new(lookup: &'a Lookup<'a>) -> Self {
        Self { lookup, faults: Vec::new(), help: Vec::new() }
    }

    /// A required setting. If it is missing or invalid, records a fault and returns `None`.
    pub fn required<T>(&mut self, name: &'static str, about: &'static str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        self.line(name, "required", about);
        let value = self.value(name);
        if value.is_none() {
            self.fault(name, "is not set");
        }
        self.parse(name, &value?)
    }

    /// An optional setting. `None` if it is absent or invalid; an invalid one is a fault.
    pub fn optional<T>(&mut self, name: &'static str, about: &'static str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        self.line(name, "no default", about);
        let value = self.value(name)?;
        self.parse(name, &value)
    }

    pub fn or<T>(&mut self, name: &'static str, default: T, about: &'static str) -> T
    where
        T: FromStr<Err: Display> + Display,
    {
        self.line(name, &default.to_string(), about);
        match self.value(name) {
            Some(value) => self.parse(name, &value).unwrap_or(default),
            None => default,
        }
    }

    /// A number with a default and a range. Out of range it is the default, as if it could not be read: callers compute
    /// with it before all faults are known.
    pub fn within<T>(
        &mut self,
        name: &'static str,
        default: T,
        range: RangeInclusive<T>,
        about: &'static str,
    ) -> T
    where
        T: FromStr<Err: Display> + Display + PartialOrd + Copy,
    {
        let value = self.or(name, default, about);
        if range.contains(&value) {
            return value;
        }
        self.fault(name, format_args!("is {value}: must be {} to {}", range.start(), range.end()));
        default
    }

    /// Records a fault. `what` continues a sentence that starts with the setting's name.
    pub fn fault(&mut self, name: &str, what: impl Display) {
        self.faults.push(format!("{name} {what}"));
    }

    /// Returns the settings, or all faults. `settings` is `None` only if a fault was recorded.
    pub fn finish<T>(self, settings: Option<T>) -> Result<T, Faults> {
        match settings {
            Some(settings) if self.faults.is_empty() => Ok(settings),
            _ => Err(Faults(self.faults)),
        }
    }

    /// The lines for `--help`.
    pub fn help(&self) -> String {
        let width = self.help.iter().map(|line| line.name.len()).max().unwrap_or(0);
        let mut text = String::new();
        for Line { name, default, about } in &self.help {
            let _ = writeln!(text, "  {name:width$}  {about} [{default}]");
        }
        text
    }

    fn line(&mut self, name: &'static str, default: &str, about: &'static str) {
        self.help.push(Line { name, default: default.to_owned(), about });
    }

    /// An empty value counts as unset, since shells and orchestrators cannot always unset a variable.
    fn value(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.trim().is_empty())
    }

    fn parse<T: FromStr<Err: Display>>(&mut self, name: &str, value: &str) -> Option<T> {
        let parsed = value.trim().parse();
        match &parsed {
            Ok(_) => {}
            // An address may contain a password, so the message must not quote it.
            Err(error) if is_address(name) => self.fault(name, error),
            Err(error) => self.fault(name, format_args!("is {value:?}: {error}")),
        }
        parsed.ok()
    }
}

/// Whether a setting's value is a URL.
fn is_address(name: &str) -> bool {
    name.ends_with("_URL") || name.ends_with("_ENDPOINT")
}

/// A list separated by commas. Spaces around the entries are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List(pub Vec<String>);

impl FromStr for List {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Ok(Self(entries.map(str::to_owned).collect()))
    }
}

/// Reads the allowed audio sources. The api and the worker have the same settings for them.
pub fn audio_sources(reader: &mut Reader<'_>) -> AudioSources {
    const BUCKETS: &str = "LONGHAND_AUDIO_BUCKETS";
    const ROOT: &str = "LONGHAND_AUDIO_ROOT";
    const HOSTS: &str = "LONGHAND_AUDIO_HOSTS";
    let List(buckets) = reader
        .optional(BUCKETS, "S3 buckets for s3:// paths, separated by commas; uploads go to the first")
        .unwrap_or_default();
    let hosts: AllowedHosts = reader
        .optional(HOSTS, "hosts for https:// paths, separated by commas; *.example.com allows all subdomains")
        .unwrap_or_default();
    let root: Option<PathBuf> = reader.optional(ROOT, "folder for local paths");
    for bucket in &buckets {
        if format!("s3://{bucket}/key").parse::<AudioPath>().is_err() {
            reader.fault(BUCKETS, format_args!("contains {bucket:?}, which is not a valid bucket name"));
        }
    }
    if let Some(root) = &root
        && !root.is_dir()
    {
        reader.fault(ROOT, format_args!("is {}, which is not a folder", root.display()));
    }
    if buckets.is_empty() && root.is_none() && hosts.is_empty() {
        reader.fault(
            BUCKETS,
            format_args!(
                "is not set: set at least one of {BUCKETS}, {HOSTS} and {ROOT}, so that audio can be read"
            ),
        );
    }
    AudioSources { buckets, hosts, root }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl(pub String);

impl FromStr for HttpUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        if rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) {
            Ok(Self(text.trim_end_matches('/').to_owned()))
        } else {
            Err("must be a URL: http://host:port or https://host")
        }
    }
}

/// The `main` of every server. It prints the settings for `--help`, exits with status 2 and all faults if the settings
/// are invalid, and otherwise calls `run`. If that fails, it exits with status 1 and the reason. With `--health` it
/// calls `/healthz` of the running server with the same settings, at the address that `listen` takes from them.
pub fn main<T>(
    name: &str,
    about: &str,
    help: &str,
    settings: Result<T, Faults>,
    listen: impl FnOnce(&T) -> SocketAddr,
    run: impl FnOnce(T) -> Result<(), Box<dyn std::error::Error>>,
) -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let outcome = match (arguments.next().as_deref(), settings) {
        (Some("--help" | "-h"), _) => Ok(format!(
            "{name} {about}.\n\nSettings, from the environment [default]:\n{help}\n\
             AWS: AWS_REGION, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and the SDK's other variables.\n"
        )),
        (Some("--version" | "-V"), _) => Ok(format!("{name} {}\n", env!("CARGO_PKG_VERSION"))),
        (Some("--health"), Ok(settings)) => {
            health::probe(listen(&settings)).map(|()| String::new()).map_err(|error| (1, error))
        }
        (Some(other), _) if other != "--health" => {
            Err((2, format!("unknown argument {other:?}; settings come from the environment (see --help)")))
        }
        (_, Err(faults)) => Err((2, format!("{faults}\n(--help lists all settings)"))),
        (_, Ok(settings)) => run(settings).map(|()| String::new()).map_err(|error| (1, error.to_string())),
    };
    // A closed pipe is ignored.
    match outcome {
        Ok(text) => {
            let _ = write!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err((status, error)) => {
            let _ = writeln!(std::io::stderr(), "{name}: {error}");
            ExitCode::from(status)
        }
    }
}

/// Looks a setting up in the environment.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::remote::RedisUrl;
    use crate::service::telemetry::LogSettings;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "PORT" => Some("80a".to_owned()),
            "SIZE" => Some(" 7 ".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let mut reader = Reader::new(&lookup);
        let port: u16 = reader.or("PORT", 8080, "where to listen");
        let missing: Option<String> = reader.required("EMPTY", "a name");
        assert_eq!((port, missing.clone()), (8080, None));
        assert_eq!(reader.or("SIZE", 1, "how many"), 7);
        let faults = reader.finish(missing).expect_err("two faults").to_string();
        assert!(faults.contains("PORT is \"80a\": invalid digit"), "{faults}");
        assert!(faults.contains("EMPTY is not set"), "{faults}");
    }

    #[test]
    fn messages_never_quote_addresses() {
        let lookup = |_: &str| Some("cache:hunter2@host".to_owned());
        let mut reader = Reader::new(&lookup);
        RedisUrl::read(&mut reader);
        LogSettings::read(&mut reader);
        for name in ["LONGHAND_QUEUE_URL", "LONGHAND_ASR_URL", "AWS_ENDPOINT_URL"] {
            let _: Option<HttpUrl> = reader.required(name, "an address");
        }
        let faults = reader.finish::<()>(None).expect_err("faults").to_string();
        for name in ["REDIS_URL", "OTEL_EXPORTER_OTLP_ENDPOINT", "LONGHAND_QUEUE_URL", "LONGHAND_ASR_URL"] {
            let line = faults.lines().find(|line| line.trim().starts_with(name)).expect("a line");
            assert!(line.contains("must be a URL") && !line.contains("hunter2"), "{line}");
        }
    }

    #[test]
    fn help_lists_every_setting_read() {
        let mut reader = Reader::new(&lookup);
        reader.or("SIZE", 3, "how many");
        let _: Option<String> = reader.required("QUEUE", "which");
        assert_eq!(reader.help(), "  SIZE   how many [3]\n  QUEUE  which [required]\n");
    }
}
