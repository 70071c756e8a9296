//! Settings: read once from the environment, every fault reported at once, never a silent fallback.
//!
//! A reader calls [`Reader::required`] and [`Reader::or`] for each of its settings. The same calls
//! make the list that `--help` prints, so that no setting is without its line there.

use std::fmt::{self, Display, Write as _};
use std::io::Write as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

use crate::cache::remote::RedisUrl;
use crate::health;
use crate::outbound::AllowedHosts;
use crate::path::{AudioPath, AudioSources};
use crate::telemetry::{DEFAULT_FILTER, LogFormat};

/// Where values come from: the environment in production, a map in tests.
type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Reads settings and gathers what is wrong with them.
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

/// Everything that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the settings are wrong:")?;
        for fault in &self.0 {
            write!(f, "\n  {fault}")?;
        }
        f.write_str("\n(--help lists all settings)")
    }
}

impl std::error::Error for Faults {}

impl<'a> Reader<'a> {
    /// A reader of what `lookup` gives.
    pub fn new(lookup: &'a Lookup<'a>) -> Self {
        Self { lookup, faults: Vec::new(), help: Vec::new() }
    }

    /// A setting that must be there. `None` when it is missing or wrong, which is then a fault.
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

    /// A setting that may be absent.
    pub fn optional<T>(&mut self, name: &'static str, about: &'static str) -> Option<T>
    where
        T: FromStr<Err: Display>,
    {
        self.line(name, "none", about);
        let value = self.value(name)?;
        self.parse(name, &value)
    }

    /// A setting with a default.
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

    /// A number with a default, that must be in a range.
    pub fn within<T>(
        &mut self,
        name: &'static str,
        default: T,
        range: RangeInclusive<T>,
        about: &'static str,
    ) -> T
    where
        T: FromStr<Err: Display> + Display + PartialOrd,
    {
        let value = self.or(name, default, about);
        if !range.contains(&value) {
            self.fault(name, format_args!("is {value}: must be {} to {}", range.start(), range.end()));
        }
        value
    }

    /// Records that a setting is wrong.
    pub fn fault(&mut self, name: &str, what: impl Display) {
        self.faults.push(format!("{name} {what}"));
    }

    /// Whether something is wrong with a setting that has been read.
    pub fn is_faulted(&self, name: &str) -> bool {
        self.faults.iter().any(|fault| fault.split(' ').next() == Some(name))
    }

    /// What was made of the settings, or all that is wrong with them. `None` without a fault is
    /// not possible: whatever made it `None` recorded one.
    pub fn finish<T>(self, settings: Option<T>) -> Result<T, Faults> {
        match settings {
            Some(settings) if self.faults.is_empty() => Ok(settings),
            _ => Err(Faults(self.faults)),
        }
    }

    /// The list for `--help`.
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

    /// An empty value is as good as none: shells and orchestrators cannot always unset.
    fn value(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.trim().is_empty())
    }

    fn parse<T: FromStr<Err: Display>>(&mut self, name: &str, value: &str) -> Option<T> {
        match value.trim().parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.fault(name, format_args!("is {value:?}: {error}"));
                None
            }
        }
    }
}

/// A list with commas between, blanks around them ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List(pub Vec<String>);

impl FromStr for List {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Ok(Self(entries.map(str::to_owned).collect()))
    }
}

/// Where audio may be read from: told to the api, which refuses the rest, and to the worker, which reads.
pub fn audio_sources(reader: &mut Reader<'_>) -> AudioSources {
    const BUCKETS: &str = "LONGHAND_AUDIO_BUCKETS";
    const ROOT: &str = "LONGHAND_AUDIO_ROOT";
    const HOSTS: &str = "LONGHAND_AUDIO_HOSTS";
    let List(buckets) =
        reader.optional(BUCKETS, "S3 buckets that paths may name, commas between").unwrap_or_default();
    let hosts: AllowedHosts = reader
        .optional(
            HOSTS,
            "hosts that https:// paths may name, commas between; *.example.com for those under it",
        )
        .unwrap_or_default();
    let root: Option<PathBuf> = reader.optional(ROOT, "folder that local paths are under");
    for bucket in &buckets {
        if format!("s3://{bucket}/key").parse::<AudioPath>().is_err() {
            reader.fault(BUCKETS, format_args!("names {bucket:?}, which cannot be a bucket"));
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
            format_args!("is not set, nor are {HOSTS} and {ROOT}: there is no audio to read"),
        );
    }
    AudioSources { buckets, hosts, root }
}

/// Where results are cached, and changes told: to the api and the worker alike.
pub fn redis_url(reader: &mut Reader<'_>) -> Option<RedisUrl> {
    reader.optional("REDIS_URL", "Redis or Valkey for results and for word of changes, redis:// or rediss://")
}

/// How to log; read by every process.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// `LONGHAND_LOG_FORMAT`.
    pub format: LogFormat,
    /// `RUST_LOG`.
    pub filter: String,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`: where traces go.
    pub traces: Option<HttpUrl>,
}

/// An address that begins with `http://` or `https://`.
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

impl LogSettings {
    /// Reads them.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let format: Format = reader.or("LONGHAND_LOG_FORMAT", Format(LogFormat::Pretty), "pretty or json");
        let filter =
            reader.or("RUST_LOG", DEFAULT_FILTER.to_owned(), "what to log, in tracing's filter syntax");
        if let Err(error) = EnvFilter::try_new(&filter) {
            reader.fault("RUST_LOG", format_args!("is {filter:?}: {error}"));
        }
        let about = "where traces go, by OTLP over HTTP, such as http://127.0.0.1:4318";
        let traces = reader.optional("OTEL_EXPORTER_OTLP_ENDPOINT", about);
        Self { format: format.0, filter, traces }
    }
}

struct Format(LogFormat);

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            LogFormat::Pretty => "pretty",
            LogFormat::Json => "json",
        })
    }
}

/// What `main` does in every server: prints the settings for `--help`, tells all that is wrong with
/// them (status 2), runs (status 1 with the reason if that fails). With `--health` it asks the server that runs with the
/// same settings, at the address that `listen` takes from them, whether it lives.
pub fn main<T>(
    name: &str,
    about: &str,
    help: &str,
    settings: Result<T, Faults>,
    listen: impl FnOnce(&T) -> SocketAddr,
    run: impl FnOnce(T) -> Result<(), Box<dyn std::error::Error>>,
) -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), settings) {
        (Some("--help" | "-h"), _) => {
            say(&format!(
                "{name} {about}.\n\nSettings, from the environment [default]:\n{help}\n\
                 AWS: AWS_REGION, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and the SDK's other variables."
            ));
            ExitCode::SUCCESS
        }
        (Some("--version" | "-V"), _) => {
            say(&format!("{name} {}", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
        (Some("--health"), Ok(settings)) => match health::probe(listen(&settings)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format!("{name}: {error}"));
                ExitCode::FAILURE
            }
        },
        (Some(other), _) if other != "--health" => {
            complain(&format!(
                "{name}: {other:?} is not known here; settings come from the environment (--help)"
            ));
            ExitCode::from(2)
        }
        (_, Err(faults)) => {
            complain(&format!("{name}: {faults}"));
            ExitCode::from(2)
        }
        (_, Ok(settings)) => match run(settings) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&format!("{name}: {error}"));
                ExitCode::FAILURE
            }
        },
    }
}

/// A closed pipe is no reason to fail.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The environment.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn help_lists_what_was_asked_for() {
        let mut reader = Reader::new(&lookup);
        reader.or("SIZE", 3, "how many");
        let _: Option<String> = reader.required("QUEUE", "which");
        assert_eq!(reader.help(), "  SIZE   how many [3]\n  QUEUE  which [required]\n");
    }
}
