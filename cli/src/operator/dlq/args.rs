//! The command line of `longhand dlq`.

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use longhand_shared::JobId;
use longhand_shared::service::settings::environment;

use crate::error::Failure;
use crate::operator::queues::{CHUNKS, Pair, WEBHOOKS};
use crate::options::AFTER_HELP;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Which {
    #[default]
    Chunks,
    Webhooks,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// List dead letters. This adds one to their receive counts.
    #[command(after_help = AFTER_HELP)]
    List(DlqList),
    /// Print one dead letter in full. This adds one to the receive counts.
    #[command(after_help = AFTER_HELP)]
    Show(DlqShow),
    /// Send dead letters back to their queue, with new receive counts.
    #[command(after_help = AFTER_HELP)]
    Redrive(DlqRedrive),
}

#[derive(Debug, Args)]
pub(crate) struct DeadLetters {
    /// Which dead letters: those of chunks or those of webhooks.
    #[arg(long = "queue", value_name = "WHICH", value_enum, default_value_t)]
    pub(crate) which: Which,

    #[arg(
        long,
        value_name = "URL",
        value_parser = NonEmptyStringValueParser::new(),
        help = "URL of the dead-letter queue. Default: LONGHAND_DLQ_URL; for webhooks LONGHAND_WEBHOOK_DLQ_URL"
    )]
    pub(crate) dlq_url: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DlqList {
    /// Maximum number of messages. Reading ends after 15 s.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,

    #[command(flatten)]
    pub(crate) dlq: DeadLetters,
}

#[derive(Debug, Args)]
pub(crate) struct DlqShow {
    /// Id of the message.
    #[arg(value_name = "MESSAGE_ID")]
    pub(crate) message: String,

    #[command(flatten)]
    pub(crate) dlq: DeadLetters,
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("messages").required(true).args(["job", "all"])))]
pub(crate) struct DlqRedrive {
    /// Only the messages of this job. Either --job or --all is required.
    #[arg(long, value_name = "JOB_ID")]
    pub(crate) job: Option<JobId>,

    /// All messages.
    #[arg(long)]
    pub(crate) all: bool,

    /// Print what would be done, without sending or deleting. This adds one to the receive counts.
    #[arg(long)]
    pub(crate) dry_run: bool,

    #[arg(
        long,
        value_name = "URL",
        value_parser = NonEmptyStringValueParser::new(),
        help = "URL of the queue to send to. Default: LONGHAND_QUEUE_URL; for webhooks LONGHAND_WEBHOOK_QUEUE_URL"
    )]
    pub(crate) queue_url: Option<String>,

    #[command(flatten)]
    pub(crate) dlq: DeadLetters,
}

impl Which {
    pub(super) fn pair(self) -> Pair {
        match self {
            Self::Chunks => CHUNKS,
            Self::Webhooks => WEBHOOKS,
        }
    }
}

impl DeadLetters {
    pub(super) fn url(&self) -> Result<String, Failure> {
        url(self.dlq_url.as_ref(), "--dlq-url", self.which.pair().dlq_url)
    }
}

/// The URL from the command line, else from the environment.
pub(super) fn url(given: Option<&String>, option: &str, setting: &str) -> Result<String, Failure> {
    let set = || environment(setting).filter(|url| !url.trim().is_empty());
    given.cloned().or_else(set).ok_or_else(|| {
        let message = format!("no queue: pass {option} or set {setting}");
        Failure::usage(message)
    })
}
