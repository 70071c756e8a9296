//! `longhand transcribe`: submits files as a job and, with `--wait`, prints the transcript.

use std::ffi::OsString;
use std::time::Duration;

use longhand_shared::domain::job::TranscribeOptions;
use longhand_shared::net::backoff::backoff;
use tokio::time::sleep;
use uuid::Uuid;

use crate::bodies::{NewTranscription, Submitted};
use crate::client::Answer;
use crate::context::Context;
use crate::error::Failure;
use crate::options::{Waiting, first_of_list};
use crate::upload::{self, Audio};
use crate::{order, output, wait};
use clap::Args;
use longhand_shared::UserId;
use longhand_shared::domain::job::{Language, Prompt};
use std::path::PathBuf;

/// How often a failed submit is repeated, and the first pause.
const RETRIES: usize = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(350);

/// A longer `Retry-After` is not waited for.
const LONGEST_HINT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(crate) struct Transcribe {
    #[arg(
        required = true,
        value_name = "FILES",
        help = "1 to 24 recordings in order: local files of up to 5 MB, s3://bucket/key, https://host/.., or - for stdin"
    )]
    files: Vec<OsString>,

    /// The owner of the job. Default: the caller.
    #[arg(long, value_name = "USER")]
    user: Option<UserId>,

    /// Do not sort numbered files. By default 1.wav 10.wav 2.wav become 1.wav 2.wav 10.wav.
    #[arg(long)]
    keep_order: bool,

    /// Language of the speech, such as en or pt-BR. Default: the model detects it.
    #[arg(long, value_name = "TAG", value_parser = |tag: &str| Language::try_from(tag.to_owned()))]
    language: Option<Language>,

    /// Text that helps the model: names, spellings, the preceding text.
    #[arg(long, value_name = "WORDS", value_parser = |words: &str| Prompt::try_from(words.to_owned()))]
    prompt: Option<Prompt>,

    /// Metadata, returned with the job. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = entry)]
    metadata: Vec<(String, String)>,

    /// https:// URL for a webhook when the job ends.
    #[arg(long, value_name = "URL")]
    callback_url: Option<String>,

    /// Submitting the same paths again with the same key returns the existing job. Each upload of a local file has a new
    /// path, so this is for s3:// and https:// paths.
    #[arg(long, value_name = "KEY", value_parser = idempotency_key)]
    idempotency_key: Option<String>,

    /// Upload local files into this bucket with your own AWS credentials. Default: the service provides upload URLs.
    #[arg(long, value_name = "BUCKET", value_parser = first_of_list)]
    bucket: Option<String>,

    /// Write the transcript to this file instead of stdout.
    #[arg(long, value_name = "FILE", requires = "wait")]
    output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

pub(crate) async fn run(context: &Context, args: Transcribe) -> Result<(), Failure> {
    let files = if args.keep_order { args.files } else { in_order(args.files) };
    let audio = Audio::check(&files)?;
    let user = args.user.as_ref();
    let paths = audio.upload(&context.api, user, args.bucket.as_deref()).await?;

    let new = NewTranscription {
        user_id: user,
        audio_chunk_paths: &paths,
        options: TranscribeOptions {
            language: args.language,
            prompt: args.prompt,
            ..TranscribeOptions::default()
        },
        metadata: args.metadata.into_iter().collect(),
        callback_url: args.callback_url.as_deref(),
    };
    let key = args.idempotency_key.unwrap_or_else(|| Uuid::now_v7().to_string());
    let submitted = submit(context, &new, &key).await.map_err(|mut failure| {
        if failure.is_ambiguous() {
            let user = user.map(|user| format!(" --user {user}")).unwrap_or_default();
            failure.message = format!(
                "{}. The job may have been accepted. Look for it with: {} search{user} --status IN_PROGRESS",
                failure.message, context.command
            );
        }
        failure.with_file_names("audioChunkPaths", &audio.names)
    })?;
    let job = submitted.value.job_id;
    let _ = context.job.set(job);

    if args.waiting.wait {
        let names = Some(audio.names.as_slice());
        let answer = wait::wait(context, job, args.waiting.timeout, names).await?;
        return wait::show(context, &answer, names, args.output.as_deref()).await;
    }
    if context.json {
        output::print(&submitted.raw)?;
    } else {
        output::print(&job.to_string())?;
        output::note(format_args!(
            "longhand: submitted. Get the transcript with: {}",
            context.get_command(job)
        ));
    }
    Ok(())
}

/// Sorts numbered files by number if a shell has sorted them as text.
fn in_order(files: Vec<OsString>) -> Vec<OsString> {
    let names: Vec<String> = files.iter().map(|file| file.to_string_lossy().into_owned()).collect();
    // A shell expands only local names.
    if !names.iter().all(|name| upload::is_local(name)) {
        return files;
    }
    let Some(places) = order::by_number(&names) else { return files };
    let ordered: Vec<&str> = places.iter().map(|place| names[*place].as_str()).collect();
    output::note(format_args!(
        "longhand: using the files in the order of their numbers: {} (--keep-order keeps the given order)",
        ordered.join(" ")
    ));
    places.into_iter().map(|place| files[place].clone()).collect()
}

/// Submits the job and retries after transient failures. The key ensures that there is only one job.
async fn submit(
    context: &Context,
    new: &NewTranscription<'_>,
    key: &str,
) -> Result<Answer<Submitted>, Failure> {
    let mut pauses = backoff(FIRST_PAUSE, LONGEST_HINT).take(RETRIES);
    loop {
        let failure = match context.api.submit(new, Some(key)).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let hint = failure.retryable.map(Option::unwrap_or_default).filter(|hint| *hint <= LONGEST_HINT);
        let hint = hint.filter(|_| !failure.is_unreachable());
        let (Some(hint), Some(pause)) = (hint, pauses.next()) else { return Err(failure) };
        output::note(format_args!("{failure}; trying again"));
        sleep(pause.max(hint)).await;
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
