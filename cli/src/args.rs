//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use reqwest::Url;

use crate::client::Layout;
use crate::delete::Delete;
use crate::error::Failure;
use crate::get::Get;
use crate::key::KeyCommand;
use crate::load::args::{HELP as LOAD_HELP, Load};
use crate::operator::dlq::args::Dlq;
use crate::operator::doctor;
use crate::operator::job::JobCommand;
use crate::operator::webhook::WebhookCommand;
use crate::options::{AFTER_HELP, Format, url};
use crate::output;
use crate::retry::Retry;
use crate::search::Search;
use crate::transcribe::Transcribe;
use crate::watch::Watch;

const DEFAULT_URL: &str = "http://127.0.0.1:8080";

const GLOBAL: &str = "Global options";

/// Transcribe recordings, and operate the Longhand service.
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
    max_line_chars: Option<u32>,

    /// Split long captions between words: at most two lines each. Only with --format srt or vtt.
    #[arg(long, global = true, help_heading = GLOBAL)]
    split: bool,

    /// Same as --format json.
    #[arg(long, global = true, conflicts_with = "format", help_heading = GLOBAL)]
    json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Upload recordings and submit them. Prints the job id or, with --wait, the transcript. Long recordings are divided
    /// into chunks.
    #[command(after_help = AFTER_HELP)]
    Transcribe(Transcribe),
    /// Print the transcript of a job, or of the jobs of one recording. If a job is in progress, print the completed part.
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
    #[command(after_help = doctor::HELP)]
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

impl Cli {
    /// Reads the command line. Exits after `--help` and after a usage error.
    pub(crate) fn read() -> Self {
        Self::try_parse().and_then(Self::check_format).unwrap_or_else(|error| {
            if error.use_stderr() && asks_for_json(std::env::args_os()) {
                std::process::exit(output::report(&usage(&error), true) as i32);
            }
            error.exit()
        })
    }

    /// Refuses options that do not fit together. Only transcripts can be printed as captions.
    fn check_format(self) -> Result<Self, clap::Error> {
        let (transcript, segments, words) = match &self.command {
            Command::Get(args) => (true, args.segments, args.words),
            Command::Transcribe(args) => (args.waiting.wait, false, false),
            _ => (false, false, false),
        };
        let captions = matches!(self.format, Format::Srt | Format::Vtt);
        let conflicts = [
            (captions && segments, "--segments needs --format text or json: captions already have times"),
            (
                captions && words,
                "--words needs --format text or json. To split captions between words, use --split",
            ),
            (self.max_line_chars.is_some() && !captions, "--max-line-chars needs --format srt or vtt"),
            (self.split && !captions, "--split needs --format srt or vtt"),
            (captions && !transcript, "--format srt and vtt are for get, and for transcribe with --wait"),
        ];
        match conflicts.into_iter().find(|(conflict, _)| *conflict) {
            Some((_, message)) => Err(Self::command().error(ErrorKind::ArgumentConflict, message)),
            None => Ok(self),
        }
    }

    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }

    pub(crate) fn layout(&self) -> Layout {
        Layout { max_line_chars: self.max_line_chars, split: self.split }
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
    Failure::usage(message.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_valid() {
        Cli::command().debug_assert();
    }
}
