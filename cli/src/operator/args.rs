//! The command line of the operator's commands.

use clap::{Args, Subcommand, ValueEnum};
use longhand_shared::JobId;

use crate::args::AFTER_HELP;

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

    #[command(flatten)]
    pub(crate) queue: QueueUrl,
}

/// Which dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Which {
    #[default]
    Chunks,
    Webhooks,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// Lists what is in the dead-letter queue. Each look counts as a receive.
    #[command(after_help = AFTER_HELP)]
    List(DlqList),
    /// Prints one message with everything that is known of it.
    #[command(after_help = AFTER_HELP)]
    Show(DlqShow),
    /// Sends messages back to the queue that they came from, their receive counts starting over; says what it did.
    #[command(after_help = AFTER_HELP)]
    Redrive(DlqRedrive),
}

#[derive(Debug, Args)]
pub(crate) struct QueueUrl {
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

#[derive(Debug, Args)]
pub(crate) struct DeadLetters {
    /// The dead letters of which queue.
    #[arg(long = "queue", value_name = "WHICH", value_enum, default_value_t)]
    pub(crate) which: Which,

    #[arg(
        long,
        value_name = "URL",
        value_parser = clap::builder::NonEmptyStringValueParser::new(),
        help = "The dead-letter queue, in place of LONGHAND_DLQ_URL or, for webhooks, LONGHAND_WEBHOOK_DLQ_URL"
    )]
    pub(crate) dlq_url: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DlqList {
    /// How many messages at most.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) limit: u32,

    #[command(flatten)]
    pub(crate) dlq: DeadLetters,
}

#[derive(Debug, Args)]
pub(crate) struct DlqShow {
    /// The message.
    #[arg(value_name = "MESSAGE_ID")]
    pub(crate) message: String,

    #[command(flatten)]
    pub(crate) dlq: DeadLetters,
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

    #[arg(
        long,
        value_name = "URL",
        value_parser = clap::builder::NonEmptyStringValueParser::new(),
        help = "Where they go, in place of LONGHAND_QUEUE_URL or, for webhooks, LONGHAND_WEBHOOK_QUEUE_URL"
    )]
    pub(crate) queue_url: Option<String>,

    #[command(flatten)]
    pub(crate) dlq: DeadLetters,
}
