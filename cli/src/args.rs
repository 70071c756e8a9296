//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use longhand_shared::domain::job::{JobStatus, Language, Prompt};
use longhand_shared::{JobId, Timestamp, UserId};
use reqwest::Url;

use crate::error::{Exit, Failure};
use crate::key::KeyCommand;
use crate::load::args::{HELP as LOAD_HELP, Load};
use crate::operator::args::{Dlq, JobCommand};

const DEFAULT_URL: &str = "http://127.0.0.1:8080";

const GLOBAL: &str = "Global options";

pub(crate) const AFTER_HELP: &str = "\
Exit codes:
    0  success (with --wait and for watch: the job is COMPLETED)
    1  the job FAILED: stdout has the text that could be transcribed, stderr the reasons (doctor: a check is FAULT)
    2  wrong usage or files, or the service rejected the request (4xx)
    3  no such job or dead letter
    4  the service or S3 cannot be reached, answers with 5xx, or is limiting requests (429)
    5  the time limit (--timeout) ended; the job continues
   74  the result could not be written
  130  interrupted (Ctrl-C); a submitted job continues

Only the result is written to stdout. Progress and errors are written to stderr. With --json the result is one
JSON document (for watch, one on each line). After an error, the last line of stderr is
{\"error\":{\"code\",\"message\",..}}.

Commands that call AWS themselves (--bucket, load and the operator's commands) use the AWS SDK's variables:
AWS_REGION, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE and others.";

const DOCTOR_HELP: &str = "\
Set the same environment as for the services. Required: LONGHAND_TABLE, LONGHAND_QUEUE_URL, LONGHAND_DLQ_URL,
ASR_BASE_URL, and one of LONGHAND_AUDIO_BUCKETS, LONGHAND_AUDIO_HOSTS and LONGHAND_AUDIO_ROOT. If the services have
them: ASR_API_KEY, LONGHAND_VISIBILITY_SECONDS, LONGHAND_WEBHOOK_QUEUE_URL, LONGHAND_WEBHOOK_DLQ_URL,
LONGHAND_WEBHOOK_SECRET, LONGHAND_CALLBACK_HOSTS, LONGHAND_CORS_ORIGINS, and the AWS SDK's variables.

doctor changes nothing. It needs these permissions: dynamodb:DescribeTable, DescribeTimeToLive and
DescribeContinuousBackups; sqs:GetQueueAttributes; on the bucket s3:ListBucket, GetBucketPublicAccessBlock,
GetEncryptionConfiguration, GetLifecycleConfiguration, GetBucketPolicy and GetBucketCORS. A missing permission is a
FAULT that names it.

Each line of the report is ok, warning or FAULT. The exit code is 1 if there is a FAULT, else 0.";

/// Transcribe short recordings into one text, and operate the Longhand service.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Cli {
    /// URL of the service.
    #[arg(
        long,
        global = true,
        env = "LONGHAND_URL",
        hide_env_values = true,
        default_value = DEFAULT_URL,
        value_parser = url,
        help_heading = GLOBAL
    )]
    pub(crate) url: Url,

    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = GLOBAL,
        help = "File with the token or API key. Default: the token in LONGHAND_TOKEN"
    )]
    pub(crate) token_file: Option<PathBuf>,

    /// Output format: text, the service's JSON, or captions (srt and vtt: for get, and for transcribe with --wait).
    #[arg(long, global = true, value_enum, default_value = "text", help_heading = GLOBAL)]
    format: Format,

    /// Longest line of captions, in characters, such as 42. Only with --format srt or vtt.
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(10..=1000), help_heading = GLOBAL)]
    pub(crate) max_line_chars: Option<u32>,

    /// Same as --format json.
    #[arg(long, global = true, conflicts_with = "format", help_heading = GLOBAL)]
    json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
    Srt,
    Vtt,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Upload recordings and submit them as one job. Prints the job id or, with --wait, the transcript.
    #[command(after_help = AFTER_HELP)]
    Transcribe(Transcribe),
    /// Print the transcript of a job. If the job is in progress, print the completed part.
    #[command(after_help = AFTER_HELP)]
    Get(Get),
    /// Follow a job until it ends. Prints each change of a chunk on a line.
    #[command(after_help = AFTER_HELP)]
    Watch(Watch),
    /// Retry the failed chunks of a finished job.
    #[command(after_help = AFTER_HELP)]
    Retry(Retry),
    /// Erase a job and its transcript. Results of in-flight calls of the model are discarded.
    #[command(after_help = AFTER_HELP)]
    Delete(Delete),
    /// List a user's jobs, newest first.
    #[command(after_help = AFTER_HELP)]
    Search(Search),
    /// Check the table, queues, bucket, model and api, and say how to fix faults.
    #[command(after_help = DOCTOR_HELP)]
    Doctor,
    /// Submit test jobs at a rate. Reports turnaround, throughput, AWS calls, memory and CPU.
    #[command(after_help = LOAD_HELP)]
    Load(Load),
    /// List and redrive dead letters.
    #[command(subcommand)]
    Dlq(Dlq),
    /// Retry a job directly through the table and the queue, without the api.
    #[command(subcommand)]
    Job(JobCommand),
    /// Create API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Print webhook secrets.
    #[command(subcommand)]
    Webhook(WebhookCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    #[command(
        about = "Print the secret with which a user verifies webhooks. Needs LONGHAND_WEBHOOK_SECRET as for the worker",
        after_help = AFTER_HELP
    )]
    Secret(WebhookSecret),
}

#[derive(Debug, Args)]
pub(crate) struct WebhookSecret {
    /// The user.
    #[arg(long, value_name = "USER")]
    pub(crate) user: UserId,

    #[arg(long, help = "Print the secret that is derived from LONGHAND_WEBHOOK_SECRET_PREVIOUS")]
    pub(crate) previous: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Transcribe {
    #[arg(
        required = true,
        value_name = "FILES",
        help = "1 to 24 recordings in order: local files of up to 5 MB, s3://bucket/key, https://host/.., or - for stdin"
    )]
    pub(crate) files: Vec<OsString>,

    /// The owner of the job. Default: the caller.
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<UserId>,

    /// Do not sort numbered files. By default 1.wav 10.wav 2.wav become 1.wav 2.wav 10.wav.
    #[arg(long)]
    pub(crate) keep_order: bool,

    /// Language of the speech, such as en or pt-BR. Default: the model detects it.
    #[arg(long, value_name = "TAG", value_parser = |tag: &str| Language::try_from(tag.to_owned()))]
    pub(crate) language: Option<Language>,

    /// Text that helps the model: names, spellings, the preceding text.
    #[arg(long, value_name = "WORDS", value_parser = |words: &str| Prompt::try_from(words.to_owned()))]
    pub(crate) prompt: Option<Prompt>,

    /// Metadata, returned with the job. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = entry)]
    pub(crate) metadata: Vec<(String, String)>,

    /// https:// URL for a webhook when the job ends.
    #[arg(long, value_name = "URL")]
    pub(crate) callback_url: Option<String>,

    /// Submitting the same paths again with the same key returns the existing job. Each upload of a local file has a new
    /// path, so this is for s3:// and https:// paths.
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    pub(crate) idempotency_key: Option<String>,

    /// Upload local files into this bucket with your own AWS credentials. Default: the service provides upload URLs.
    #[arg(long, value_name = "BUCKET", value_parser = first_of_list)]
    pub(crate) bucket: Option<String>,

    /// Write the transcript to this file instead of stdout.
    #[arg(long, value_name = "FILE", requires = "wait")]
    pub(crate) output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// Id of the job.
    #[arg(value_name = "JOB_ID")]
    pub(crate) job: JobId,

    /// Write the transcript to this file instead of stdout.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    /// Print each segment of the text with its times, in seconds from the beginning of the job.
    #[arg(long)]
    pub(crate) segments: bool,

    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Id of the job.
    #[arg(value_name = "JOB_ID")]
    pub(crate) job: JobId,

    /// Longest time to follow the job: 90s, 10m, 2h. Default: no limit.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// Id of the job.
    #[arg(value_name = "JOB_ID")]
    pub(crate) job: JobId,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Id of the job.
    #[arg(value_name = "JOB_ID")]
    pub(crate) job: JobId,

    /// Also erase the recordings that were uploaded for the job.
    #[arg(long)]
    pub(crate) audio: bool,

    /// Do not ask for confirmation.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Waiting {
    /// Wait until the job ends, and show the progress of each chunk.
    #[arg(long)]
    pub(crate) wait: bool,

    /// Longest time to wait: 90s, 10m, 2h.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10m",
        requires = "wait",
        value_parser = duration
    )]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Search {
    /// The owner of the jobs. Default: the caller.
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<UserId>,

    #[arg(
        long,
        value_name = "STATUS",
        help = "Only jobs with this status: IN_PROGRESS, COMPLETED or FAILED"
    )]
    pub(crate) status: Option<JobStatus>,

    /// Only jobs submitted at or after this time: 2026-11-22 or 2026-11-22T23:10:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) after: Option<Timestamp>,

    /// Only jobs submitted before this time.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) before: Option<Timestamp>,

    /// Maximum number of jobs on a page.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,

    /// Cursor of the next page, as printed with the page before it.
    #[arg(long, value_name = "CURSOR")]
    pub(crate) cursor: Option<String>,

    /// All pages.
    #[arg(long)]
    pub(crate) all: bool,
}

impl Cli {
    /// Reads the command line. Exits after `--help` and after a usage error.
    pub(crate) fn read() -> Self {
        Self::try_parse().and_then(Self::check_format).unwrap_or_else(|error| {
            if error.use_stderr() && asks_for_json(std::env::args_os()) {
                std::process::exit(usage(&error).report(true).into());
            }
            error.exit()
        })
    }

    /// Only transcripts can be printed as captions.
    fn check_format(self) -> Result<Self, clap::Error> {
        let transcript = match &self.command {
            Command::Get(_) => true,
            Command::Transcribe(args) => args.waiting.wait,
            _ => false,
        };
        let captions = matches!(self.format, Format::Srt | Format::Vtt);
        if captions && matches!(&self.command, Command::Get(args) if args.segments) {
            let message = "--segments needs --format text or json: captions already have times";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        }
        if self.max_line_chars.is_some() && !captions {
            let message = "--max-line-chars needs --format srt or vtt";
            return Err(Self::command().error(ErrorKind::ArgumentConflict, message));
        }
        if transcript || !captions {
            return Ok(self);
        }
        let message = "--format srt and vtt are for get, and for transcribe with --wait";
        Err(Self::command().error(ErrorKind::ArgumentConflict, message))
    }

    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }

    /// The beginning of a command line for the same service, for hints.
    pub(crate) fn command_prefix(&self) -> String {
        let url = self.url.as_str().trim_end_matches('/');
        let usual = std::env::var("LONGHAND_URL").unwrap_or_else(|_| DEFAULT_URL.to_owned());
        let mut command = "longhand".to_owned();
        if url != usual.trim_end_matches('/') {
            command = format!("{command} --url {url}");
        }
        if let Some(path) = &self.token_file {
            command = format!("{command} --token-file {}", path.display());
        }
        command
    }
}

/// A completion script.
pub(crate) fn completions(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "longhand", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Whether JSON is wanted, if the line cannot be parsed.
fn asks_for_json(line: impl Iterator<Item = OsString>) -> bool {
    let words: Vec<_> = line.collect();
    words.iter().any(|word| word == "--json" || word == "--format=json")
        || words.windows(2).any(|pair| pair[0] == "--format" && pair[1] == "json")
}

fn usage(error: &clap::Error) -> Failure {
    let text = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a command is missing".to_owned(),
        _ => error.render().to_string(),
    };
    // The first paragraph is the error; the rest is the usage.
    let message = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    Failure::new(Exit::Refused, "USAGE", message.split_whitespace().collect::<Vec<_>>().join(" "))
}

pub(crate) fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if matches!(url.scheme(), "http" | "https") {
        Ok(url)
    } else {
        Err("must begin with http:// or https://".to_owned())
    }
}

fn entry(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn idempotency_key(text: &str) -> Result<String, &'static str> {
    let good = (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    good.then(|| text.to_owned()).ok_or("expected 1 to 255 visible ASCII characters")
}

/// A day means its beginning in UTC.
fn moment(text: &str) -> Result<Timestamp, &'static str> {
    let moment = text.parse().or_else(|_| format!("{text}T00:00:00Z").parse());
    moment.map_err(|_| "expected a time such as 2026-11-22 or 2026-11-22T23:10:00Z")
}

pub(crate) fn first_of_list(text: &str) -> Result<String, &'static str> {
    let first = text.split(',').map(str::trim).find(|name| !name.is_empty());
    first.map(str::to_owned).ok_or("is empty: expected the name of a bucket")
}

pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    const EXPECTED: &str = "expected a time such as 90s, 10m or 2h";
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(EXPECTED),
    };
    // Hours up to u32::MAX stay far from the end of the clock.
    let number: u32 = number.parse().map_err(|_| EXPECTED)?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_are_read() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_mins(10)));
        assert_eq!(duration("2h"), Ok(Duration::from_hours(2)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        for bad in ["", "m", "-1s", "1.5m", "10 m", "99999999999s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn days_and_moments_are_read() {
        assert_eq!(moment("2026-11-22").map(|m| m.to_string()), Ok("2026-11-22T00:00:00.000Z".to_owned()));
        let moved = moment("2026-11-22T01:00:00+02:00").map(|m| m.to_string());
        assert_eq!(moved, Ok("2026-11-21T23:00:00.000Z".to_owned()));
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn the_first_bucket_is_taken() {
        assert_eq!(first_of_list("one, two"), Ok("one".to_owned()));
        assert_eq!(first_of_list(",two"), Ok("two".to_owned()));
        assert!(first_of_list(" , ").is_err());
    }
}
