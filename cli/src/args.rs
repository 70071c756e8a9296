//! The command line, parsed into types that cannot be wrong.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use longhand_shared::api_key::MAX_ID_BYTES;
use longhand_shared::job::{JobStatus, Language, Prompt};
use longhand_shared::secret::Secret;
use longhand_shared::{JobId, UserId};
use reqwest::Url;

use crate::error::{Exit, Failure};
use crate::load::args::{HELP as LOAD_HELP, Load};

const DEFAULT_URL: &str = "http://127.0.0.1:8080";

const GLOBAL: &str = "Options of every command";

const AFTER_HELP: &str = "\
Exit codes:
    0  done (of a job that was waited for: COMPLETED)
    1  the job ended FAILED; what could be transcribed is on stdout, the reasons are on stderr (doctor: a FAULT)
    2  bad usage or bad files, or the service refused the request (4xx)
    3  there is no such job, or dead letter
    4  the service or S3 cannot be reached, answers 5xx or has no room (429)
    5  gave up waiting (--timeout); the job goes on
   74  the result could not be written to stdout
  130  interrupted (Ctrl-C); a job that was submitted goes on

stdout holds the result and nothing else; progress and errors go to stderr. With --json the result is
one JSON document, and an error is the last line of stderr: {\"error\":{\"code\",\"message\",..}}.

S3, where --bucket or an operator's command needs it, is set up by the AWS SDK's own variables: AWS_REGION, AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_PROFILE, ..";

const DOCTOR_HELP: &str = "\
Run it with the environment of the services: LONGHAND_TABLE, LONGHAND_QUEUE_URL, LONGHAND_DLQ_URL,
LONGHAND_AUDIO_BUCKETS (or LONGHAND_AUDIO_HOSTS, LONGHAND_AUDIO_ROOT), ASR_BASE_URL; ASR_API_KEY and
LONGHAND_VISIBILITY_SECONDS where the workers have them; AWS_REGION, AWS_ENDPOINT_URL and the SDK's other variables. It changes nothing.

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
    token_file: Option<PathBuf>,

    /// How the result is printed: for a person, or as the service's own answer for a program.
    #[arg(long, global = true, value_enum, default_value = "text", help_heading = GLOBAL)]
    format: Format,

    /// The same as --format json.
    #[arg(long, global = true, conflicts_with = "format", help_heading = GLOBAL)]
    json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Uploads recordings and submits them as one job; prints the job id or, with --wait, the transcript.
    #[command(after_help = AFTER_HELP)]
    Transcribe(Transcribe),
    /// Prints the transcript of a job, as far as it is known.
    #[command(after_help = AFTER_HELP)]
    Get(Get),
    /// Lists a user's jobs of one status, newest first.
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
    /// Looks after one job.
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

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    #[command(
        about = "Prints a new API key, once, and its line for the file that the api reads (LONGHAND_API_KEYS_FILE)",
        after_help = AFTER_HELP
    )]
    New(KeyNew),
}

#[derive(Debug, Args)]
pub(crate) struct KeyNew {
    /// Whom the key speaks for.
    #[arg(long, value_name = "USER")]
    pub(crate) user: UserId,

    /// What the key is called in the file; made up when not given.
    #[arg(long, value_name = "NAME", value_parser = key_id)]
    pub(crate) id: Option<String>,

    /// The key may act for all other users too.
    #[arg(long)]
    pub(crate) operator: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// Has the failed chunks of a job tried anew, only those; the job is in progress again.
    #[command(after_help = AFTER_HELP)]
    Retry(JobRetry),
}

#[derive(Debug, Args)]
pub(crate) struct JobRetry {
    /// The job.
    #[arg(value_name = "JOB_ID")]
    pub(crate) job: JobId,

    /// The table of jobs.
    #[arg(
        long,
        value_name = "NAME",
        env = "LONGHAND_TABLE",
        hide_env_values = true,
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub(crate) table: String,

    /// The queue of chunks.
    #[arg(
        long,
        value_name = "URL",
        env = "LONGHAND_QUEUE_URL",
        hide_env_values = true,
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub(crate) queue_url: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// Lists what is in the dead-letter queue. Each look counts as a receive.
    #[command(after_help = AFTER_HELP)]
    List(DlqList),
    /// Prints one message with everything that is known of it.
    #[command(after_help = AFTER_HELP)]
    Show(DlqShow),
    /// Sends messages back to the queue of chunks, their receive counts starting over; says what it did.
    #[command(after_help = AFTER_HELP)]
    Redrive(DlqRedrive),
}

#[derive(Debug, Args)]
pub(crate) struct DlqUrl {
    /// The dead-letter queue.
    #[arg(
        long,
        value_name = "URL",
        env = "LONGHAND_DLQ_URL",
        hide_env_values = true,
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub(crate) dlq_url: String,
}

#[derive(Debug, Args)]
pub(crate) struct DlqList {
    /// How many messages at most.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,

    #[command(flatten)]
    pub(crate) dlq: DlqUrl,
}

#[derive(Debug, Args)]
pub(crate) struct DlqShow {
    /// The message.
    #[arg(value_name = "MESSAGE_ID")]
    pub(crate) message: String,

    #[command(flatten)]
    pub(crate) dlq: DlqUrl,
}

#[derive(Debug, Args)]
pub(crate) struct DlqRedrive {
    /// The messages of this job.
    #[arg(long, value_name = "JOB_ID", required_unless_present = "all")]
    pub(crate) job: Option<JobId>,

    /// All messages.
    #[arg(long, conflicts_with = "job")]
    pub(crate) all: bool,

    /// Only say what would be done.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// The queue of chunks.
    #[arg(
        long,
        value_name = "URL",
        env = "LONGHAND_QUEUE_URL",
        hide_env_values = true,
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub(crate) queue_url: String,

    #[command(flatten)]
    pub(crate) dlq: DlqUrl,
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

    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The job.
    #[arg(value_name = "JOB_ID")]
    pub(crate) job: JobId,

    #[command(flatten)]
    pub(crate) waiting: Waiting,
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

    #[arg(long, value_name = "STATUS", help = "Jobs of which status: IN_PROGRESS, COMPLETED or FAILED")]
    pub(crate) status: JobStatus,

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
        Self::try_parse().unwrap_or_else(|error| {
            if error.use_stderr() && asks_for_json(std::env::args_os()) {
                std::process::exit(usage(&error).report(true).into());
            }
            error.exit()
        })
    }

    /// Whether results and errors are to be JSON.
    pub(crate) fn json(&self) -> bool {
        self.json || self.format == Format::Json
    }

    /// What to call with: from the file, else from the environment. Never from the command line, which
    /// everybody on the machine can read.
    pub(crate) fn token(&self) -> Result<Option<Secret>, Failure> {
        let usage = |message: String| Failure::new(Exit::Refused, "USAGE", message);
        let (place, token) = match &self.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|error| usage(format!("--token-file {}: {error}", path.display())))?;
                (path.display().to_string(), text)
            }
            None => match std::env::var("LONGHAND_TOKEN") {
                Ok(token) if !token.trim().is_empty() => ("LONGHAND_TOKEN".to_owned(), token),
                _ => return Ok(None),
            },
        };
        let token = token.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(usage(format!("{place} holds no token: expected one word of visible ASCII")));
        }
        Ok(Some(Secret::from(token.to_owned())))
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

fn key_id(text: &str) -> Result<String, String> {
    if (1..=MAX_ID_BYTES).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err(format!("must have 1 to {MAX_ID_BYTES} bytes"))
    }
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
    use clap::CommandFactory;

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
    fn the_first_bucket_is_taken() {
        assert_eq!(first_of_list("one, two"), Ok("one".to_owned()));
        assert_eq!(first_of_list(",two"), Ok("two".to_owned()));
        assert!(first_of_list(" , ").is_err());
    }
}
