//! The command line, parsed into types that cannot be wrong.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use longhand_shared::job::{JobStatus, Language, Prompt};
use longhand_shared::{JobId, Timestamp, UserId};
use reqwest::Url;

use crate::error::{Exit, Failure};
use crate::key::KeyCommand;
use crate::load::args::{HELP as LOAD_HELP, Load};
use crate::operator::args::{Dlq, JobCommand};

const DEFAULT_URL: &str = "http://127.0.0.1:8080";

const GLOBAL: &str = "Options of every command";

pub(crate) const AFTER_HELP: &str = "\
Exit codes:
    0  done (of a job that was waited for: COMPLETED)
    1  the job ended FAILED; what could be transcribed is on stdout, the reasons are on stderr (doctor: a FAULT)
    2  bad usage or bad files, or the service refused the request (4xx)
    3  there is no such job, or dead letter
    4  the service or S3 cannot be reached, answers 5xx or has no room (429)
    5  gave up waiting (--timeout); the job goes on
   74  the result could not be written
  130  interrupted (Ctrl-C); a job that was submitted goes on

stdout holds the result and nothing else; progress and errors go to stderr. With --json the result is
one JSON document (watch: one a line), and an error is the last line of stderr: {\"error\":{\"code\",\"message\",..}}.

S3, where --bucket or an operator's command needs it, is set up by the AWS SDK's own variables: AWS_REGION, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE, ..";

const DOCTOR_HELP: &str = "\
Run it with the environment of the services: LONGHAND_TABLE, LONGHAND_QUEUE_URL, LONGHAND_DLQ_URL,
LONGHAND_AUDIO_BUCKETS (or LONGHAND_AUDIO_HOSTS, LONGHAND_AUDIO_ROOT), ASR_BASE_URL; where the services have them, ASR_API_KEY,
LONGHAND_VISIBILITY_SECONDS, LONGHAND_WEBHOOK_QUEUE_URL, LONGHAND_WEBHOOK_DLQ_URL, LONGHAND_WEBHOOK_SECRET,
LONGHAND_CALLBACK_HOSTS and LONGHAND_CORS_ORIGINS; AWS_REGION, AWS_ENDPOINT_URL and the SDK's other variables.
It changes nothing, and needs to be allowed dynamodb:DescribeTable, DescribeTimeToLive and DescribeContinuousBackups,
sqs:GetQueueAttributes, and of the bucket s3:ListBucket, GetBucketPublicAccessBlock, GetEncryptionConfiguration,
GetLifecycleConfiguration, GetBucketPolicy and GetBucketCORS. What it may not look at is a FAULT that names the permission.

Each line is ok, warning or FAULT. Exit code 0 without a FAULT, 1 with one.";

/// Turns short recordings into one transcript.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, max_term_width = 110)]
pub(crate) struct Cli {
    /// Where the service is.
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
        help = "A file that holds the token, or API key, to call with; LONGHAND_TOKEN without it"
    )]
    pub(crate) token_file: Option<PathBuf>,

    /// How the result is printed: for a person, as the service's own answer for a program, or (get, and
    /// transcribe with --wait) as captions.
    #[arg(long, global = true, value_enum, default_value = "text", help_heading = GLOBAL)]
    format: Format,

    /// The same as --format json.
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
    /// Uploads recordings and submits them as one job; prints the job id or, with --wait, the transcript.
    #[command(after_help = AFTER_HELP)]
    Transcribe(Transcribe),
    /// Prints the transcript of a job, as far as it is known.
    #[command(after_help = AFTER_HELP)]
    Get(Get),
    /// Follows a job until it has ended; prints each chunk's changes, one a line.
    #[command(after_help = AFTER_HELP)]
    Watch(Watch),
    /// Has the failed chunks of a job that has ended tried anew, only those.
    #[command(after_help = AFTER_HELP)]
    Retry(Retry),
    /// Erases a job with all that belongs to it; what runs of it is not heard any more.
    #[command(after_help = AFTER_HELP)]
    Delete(Delete),
    /// Lists a user's jobs, newest first.
    #[command(after_help = AFTER_HELP)]
    Search(Search),
    /// Checks all that the services stand on, says what is wrong and how to mend it.
    #[command(after_help = DOCTOR_HELP)]
    Doctor,
    /// Submits made-up jobs at a rate and reports how the service did: turnaround, throughput, AWS calls, memory, CPU.
    #[command(after_help = LOAD_HELP)]
    Load(Load),
    /// Looks into the dead-letter queue, and sends what is there back to work.
    #[command(subcommand)]
    Dlq(Dlq),
    /// Looks after one job without the service, by its table and queue.
    #[command(subcommand)]
    Job(JobCommand),
    /// Makes API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Looks after webhooks.
    #[command(subcommand)]
    Webhook(WebhookCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    #[command(
        about = "Prints what a user verifies webhooks with. Run it with the worker's LONGHAND_WEBHOOK_SECRET",
        after_help = AFTER_HELP
    )]
    Secret(WebhookSecret),
}

#[derive(Debug, Args)]
pub(crate) struct WebhookSecret {
    /// Whose.
    #[arg(long, value_name = "USER")]
    pub(crate) user: UserId,

    #[arg(long, help = "The secret before this one, of LONGHAND_WEBHOOK_SECRET_PREVIOUS")]
    pub(crate) previous: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Transcribe {
    #[arg(
        required = true,
        value_name = "FILES",
        help = "The recordings in the order they are spoken: 1 to 24 local files, up to 5 MB each, s3://bucket/key or https://host/.."
    )]
    pub(crate) files: Vec<OsString>,

    /// Whose job it is.
    #[arg(long, value_name = "USER")]
    pub(crate) user: UserId,

    /// The language spoken, such as en or pt-BR; guessed when not given.
    #[arg(long, value_name = "TAG", value_parser = |tag: &str| Language::try_from(tag.to_owned()))]
    pub(crate) language: Option<Language>,

    /// Words that help the model: names, spellings, what was said before.
    #[arg(long, value_name = "WORDS", value_parser = |words: &str| Prompt::try_from(words.to_owned()))]
    pub(crate) prompt: Option<Prompt>,

    /// Put local files into this bucket with your own AWS credentials; without it, the service gives addresses for them.
    #[arg(long, value_name = "BUCKET", value_parser = first_of_list)]
    pub(crate) bucket: Option<String>,

    /// Write the transcript into this file, not to stdout.
    #[arg(long, value_name = "FILE", requires = "wait")]
    pub(crate) output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The job.
    #[arg(value_name = "JOB_ID")]
    pub(crate) job: JobId,

    /// Write the transcript into this file, not to stdout.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The job.
    #[arg(value_name = "JOB_ID")]
    pub(crate) job: JobId,

    /// How long to follow it at most: 90s, 10m, 2h. For ever when not given.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// The job.
    #[arg(value_name = "JOB_ID")]
    pub(crate) job: JobId,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The job.
    #[arg(value_name = "JOB_ID")]
    pub(crate) job: JobId,

    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Waiting {
    /// Wait until the job has ended, showing each chunk's progress.
    #[arg(long)]
    pub(crate) wait: bool,

    /// How long to wait at most: 90s, 10m, 2h.
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
    /// Whose jobs.
    #[arg(long, value_name = "USER")]
    pub(crate) user: UserId,

    #[arg(long, value_name = "STATUS", help = "Only jobs of this status: IN_PROGRESS, COMPLETED or FAILED")]
    pub(crate) status: Option<JobStatus>,

    /// Only jobs submitted at or after this: 2026-11-22, or a moment such as 2026-11-22T23:10:00Z.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) after: Option<Timestamp>,

    /// Only jobs submitted before this, likewise.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) before: Option<Timestamp>,

    /// How many jobs at most (with --all: in one call).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: Option<u32>,

    /// Where the page before ended.
    #[arg(long, value_name = "CURSOR")]
    pub(crate) cursor: Option<String>,

    /// All pages, to the end.
    #[arg(long)]
    pub(crate) all: bool,
}

impl Cli {
    /// Reads the command line. Ends the process when there is nothing more to do: after `--help`, or
    /// when the line is wrong.
    pub(crate) fn read() -> Self {
        Self::try_parse().and_then(Self::check_format).unwrap_or_else(|error| {
            if error.use_stderr() && asks_for_json(std::env::args_os()) {
                std::process::exit(usage(&error).report(true).into());
            }
            error.exit()
        })
    }

    /// Captions are of transcripts alone.
    fn check_format(self) -> Result<Self, clap::Error> {
        let transcript = match &self.command {
            Command::Get(_) => true,
            Command::Transcribe(args) => args.waiting.wait,
            _ => false,
        };
        if transcript || matches!(self.format, Format::Text | Format::Json) {
            return Ok(self);
        }
        let message = "--format srt and vtt are for get, and for transcribe with --wait";
        Err(Self::command().error(ErrorKind::ArgumentConflict, message))
    }

    /// How results are printed; with [`Format::Json`], errors too.
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }

    /// The beginning of a command that speaks to the same service, for hints.
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

/// A wrong line cannot be asked what it wants, so its words are.
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
    // The first paragraph says what is wrong; the rest says how to use the command.
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

/// A day is the midnight, in UTC, that it begins with.
fn moment(text: &str) -> Result<Timestamp, &'static str> {
    let moment = text.parse().or_else(|_| format!("{text}T00:00:00Z").parse());
    moment.map_err(|_| "expected a time such as 2026-11-22 or 2026-11-22T23:10:00Z")
}

pub(crate) fn first_of_list(text: &str) -> Result<String, &'static str> {
    let first = text.split(',').map(str::trim).find(|name| !name.is_empty());
    first.map(str::to_owned).ok_or("names no bucket")
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
    fn the_definition_holds_together() {
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
