//! `longhand`: transcribe files, read and search transcripts, operate the service.

mod args;
mod audio;
mod bodies;
mod chunk;
mod client;
mod context;
mod delete;
mod error;
mod events;
mod follow;
mod get;
mod joined;
mod key;
mod load;
mod operator;
mod options;
mod order;
mod output;
mod parts;
mod progress;
mod recording;
mod retry;
mod search;
mod show;
mod token;
mod transcribe;
mod upload;
mod wait;
mod watch;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use args::{Cli, Command};
use client::Api;
use context::Context;
use error::{Exit, Failure};
use options::Format;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

fn main() -> ExitCode {
    let cli = Cli::read();
    let json = cli.format() == Format::Json;
    let end = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::internal(format!("the command cannot start: {error}")))
        .and_then(|runtime| {
            let end = runtime.block_on(run_or_interrupt(cli));
            // A hanging DNS lookup or write must not delay the exit.
            runtime.shutdown_background();
            end
        });
    ExitCode::from(match end {
        Ok(()) => Exit::Ok as u8,
        Err(failure) => output::report(&failure, json) as u8,
    })
}

async fn run_or_interrupt(cli: Cli) -> Result<(), Failure> {
    let context = Context {
        api: Api::new(cli.url.clone(), token::read(cli.token_file.as_deref())?)?,
        json: cli.format() == Format::Json,
        format: cli.format(),
        layout: cli.layout(),
        jobs: Arc::default(),
        command: cli.command_prefix(),
    };
    let (jobs, command) = (Arc::clone(&context.jobs), context.command.clone());
    // From here on Ctrl-C prints the ids of submitted jobs.
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| Failure::internal(format!("signals cannot be handled: {error}")))?;
    // A separate task, so that Ctrl-C works while a write to stdout blocks.
    let mut task = tokio::spawn(run(context, cli.command));
    tokio::select! {
        end = &mut task => return end.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())),
        _ = interrupt.recv() => {}
    }
    // The task removes its progress lines when it ends. One that hangs in a write is abandoned.
    task.abort();
    let _ = timeout(Duration::from_millis(200), task).await;
    let interrupted = |message: &str| Failure::new(Exit::Interrupted, "INTERRUPTED", message);
    let jobs = jobs.all();
    let Some(first) = jobs.first() else { return Err(interrupted("interrupted")) };
    let (what, get) = (context::continuing(&jobs), context::get_command(&command, &jobs));
    Err(interrupted(&format!("interrupted; {what}. Get the transcript with: {get}")).of_job(*first))
}

async fn run(context: Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Transcribe(args) => transcribe::run(&context, args).await,
        Command::Get(args) => get::run(&context, args).await,
        Command::Watch(args) => watch::run(&context, args).await,
        Command::Retry(args) => retry::run(&context, args).await,
        Command::Delete(args) => delete::run(&context, args).await,
        Command::Search(args) => search::run(&context, args).await,
        Command::Load(args) => Box::pin(load::run(&context, args)).await,
        Command::Doctor => Box::pin(operator::doctor::run(&context)).await,
        Command::Dlq(command) => operator::dlq::run(&context, command).await,
        Command::Key(command) => key::run(&context, command),
        Command::Completions { shell } => output::print(&args::completions(shell)).map(drop),
        Command::Job(command) => operator::job::run(&context, command).await,
        Command::Webhook(command) => operator::webhook::run(&context, &command),
    }
}
