//! `longhand`: transcribe files, read and search transcripts; look after the service.

mod again;
mod args;
mod client;
mod error;
mod events;
mod follow;
mod get;
mod key;
mod load;
mod operator;
mod output;
mod progress;
mod search;
mod token;
mod transcribe;
mod upload;
mod wait;
mod watch;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use args::{Cli, Command, Format};
use client::Api;
use error::{Exit, Failure};
use longhand_shared::JobId;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// What every command works with.
struct Context {
    api: Api,
    /// Whether stdout, and errors on stderr, are JSON.
    json: bool,
    /// How a transcript is printed.
    format: Format,
    /// The job that is known to go on whatever happens here; what Ctrl-C tells about.
    job: Arc<OnceLock<JobId>>,
    /// The beginning of a command line that speaks to the same service.
    command: String,
}

impl Context {
    /// The command that waits for a job.
    fn how_to_get(&self, job: JobId) -> String {
        format!("{} get {job} --wait", self.command)
    }
}

fn main() -> ExitCode {
    let cli = Cli::read();
    let json = cli.format() == Format::Json;
    let end = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::new(Exit::Unavailable, "INTERNAL", format!("no runtime: {error}")))
        .and_then(|runtime| {
            let end = runtime.block_on(run_or_interrupt(cli));
            // A DNS lookup or a write that still hangs must not hold up the end.
            runtime.shutdown_background();
            end
        });
    ExitCode::from(match end {
        Ok(()) => Exit::Ok as u8,
        Err(failure) => failure.report(json) as u8,
    })
}

async fn run_or_interrupt(cli: Cli) -> Result<(), Failure> {
    let context = Context {
        api: Api::new(cli.url.clone(), token::read(cli.token_file.as_deref())?)?,
        json: cli.format() == Format::Json,
        format: cli.format(),
        job: Arc::default(),
        command: cli.command_prefix(),
    };
    let (job, command) = (Arc::clone(&context.job), context.command.clone());
    // Heard from here on: a job that is under way must not be left without a word.
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| Failure::new(Exit::Unavailable, "INTERNAL", format!("no signals: {error}")))?;
    // A task of its own, so that Ctrl-C is heard even while stdout is full and nobody reads it.
    let mut task = tokio::spawn(run(context, cli.command));
    tokio::select! {
        end = &mut task => return end.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())),
        _ = interrupt.recv() => {}
    }
    // The lines of progress end with the task; one that hangs in a write is left to itself.
    task.abort();
    let _ = timeout(Duration::from_millis(200), task).await;
    let interrupted = |message: &str| Failure::new(Exit::Interrupted, "INTERRUPTED", message);
    Err(match job.get() {
        Some(job) => {
            let hint = format!("interrupted; job {job} goes on. Get it with: {command} get {job} --wait");
            interrupted(&hint).of_job(*job)
        }
        None => interrupted("interrupted"),
    })
}

async fn run(context: Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Transcribe(args) => transcribe::run(&context, args).await,
        Command::Get(args) => get::run(&context, args).await,
        Command::Watch(args) => watch::run(&context, args).await,
        Command::Retry(args) => again::retry(&context, args).await,
        Command::Delete(args) => again::delete(&context, args).await,
        Command::Search(args) => search::run(&context, args).await,
        Command::Load(args) => Box::pin(load::run(&context, args)).await,
        Command::Doctor => Box::pin(operator::doctor::run(&context)).await,
        Command::Dlq(command) => operator::dlq::run(&context, command).await,
        Command::Key(command) => key::run(&context, command),
        Command::Job(command) => operator::job::run(&context, command).await,
        Command::Webhook(command) => operator::webhook::run(&context, &command),
    }
}
