//! `longhand transcribe`: submits files as a job and, with `--wait`, prints the transcript.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use longhand_shared::UserId;
use longhand_shared::domain::job::{Language, Prompt, Timestamps, TranscribeOptions};
use longhand_shared::net::backoff::backoff;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::bodies::{NewTranscription, Submitted};
use crate::client::Answer;
use crate::context::{Context, listed};
use crate::error::Failure;
use crate::options::{Waiting, first_of_list};
use crate::parts::{self, Part};
use crate::{audio, order, output, show, wait};

/// How often a failed submit is repeated, and the first pause.
const RETRIES: usize = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(350);

/// A longer `Retry-After` is not waited for.
const LONGEST_HINT: Duration = Duration::from_secs(10);

/// The most characters of a key to which the number of a job is added: the service allows 255.
const LONGEST_BASE_KEY: usize = 250;

#[derive(Debug, Args)]
pub(crate) struct Transcribe {
    #[arg(
        required = true,
        value_name = "FILES",
        help = "1 to 24 recordings in order: local files, s3://bucket/key, https://host/.., or - for stdin. A local file of \
                more than 5 minutes or 5 MB is divided into chunks at pauses, which needs ffmpeg and ffprobe"
    )]
    files: Vec<OsString>,

    /// The owner of the job. Default: the user of the token. Required without a token.
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

    /// Times to store: those of segments, or also those of words (segment or word). Default: segment.
    #[arg(long, value_name = "WHAT", value_parser = |what: &str| Timestamps::try_from(what.to_owned()))]
    timestamps: Option<Timestamps>,

    /// Translate the text to English, if the model can.
    #[arg(long)]
    translate: bool,

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

    /// With --wait: write the transcript to this file instead of stdout.
    #[arg(long, value_name = "FILE", requires = "wait")]
    output: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

pub(crate) async fn run(context: &Context, mut args: Transcribe) -> Result<(), Failure> {
    let files = std::mem::take(&mut args.files);
    let files = if args.keep_order { files } else { in_order(files) };
    let parts = parts::of(audio::check(&files).await?).await?;
    if parts.len() > 1 && args.idempotency_key.as_ref().is_some_and(|key| key.len() > LONGEST_BASE_KEY) {
        let message = format!(
            "--idempotency-key may have at most {LONGEST_BASE_KEY} characters, since the recording becomes several jobs"
        );
        return Err(Failure::usage(message));
    }
    let length: f64 = parts.iter().map(Part::seconds).sum();
    let mut names = Vec::new();
    let mut uploaded = Vec::new();
    for part in parts {
        names.push(part.names());
        let start = part.start;
        let paths = part.upload(&context.api, args.user.as_ref(), args.bucket.as_deref()).await?;
        uploaded.push((start, paths));
    }
    let submitted = submit_all(context, &args, &uploaded, &names).await?;

    if args.waiting.wait {
        let until = Instant::now() + args.waiting.limit(Duration::from_secs_f64(length));
        let mut answers = Vec::new();
        for (submitted, names) in submitted.iter().zip(&names) {
            let left = until.saturating_duration_since(Instant::now());
            answers.push(wait::wait(context, submitted.value.job_id, left, Some(names)).await?);
        }
        let names = if let [names] = &names[..] { Some(&names[..]) } else { None };
        let words = args.timestamps == Some(Timestamps::Word);
        return show::show(context, &answers, names, words, args.output.as_deref()).await;
    }
    print_ids(context, &submitted)
}

/// Submits each part as a job.
async fn submit_all(
    context: &Context,
    args: &Transcribe,
    parts: &[(f64, Vec<String>)],
    names: &[Vec<String>],
) -> Result<Vec<Answer<Submitted>>, Failure> {
    let key = args.idempotency_key.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
    let mut submitted = Vec::new();
    for (number, (start_offset, paths)) in (1..).zip(parts) {
        let new = NewTranscription {
            user_id: args.user.as_ref(),
            audio_chunk_paths: paths,
            options: TranscribeOptions {
                language: args.language.clone(),
                prompt: args.prompt.clone(),
                timestamps: args.timestamps.unwrap_or_default(),
                translate: args.translate,
            },
            metadata: args.metadata.iter().cloned().collect(),
            callback_url: args.callback_url.as_deref(),
            start_offset: Some(*start_offset).filter(|start| *start > 0.0),
        };
        let key = if number == 1 { key.clone() } else { format!("{key}-{number}") };
        let answer = submit(context, &new, &key).await;
        let answer = answer.map_err(|failure| not_all(context, args, failure, number, parts.len()));
        let answer =
            answer.map_err(|failure| failure.with_file_names("audioChunkPaths", &names[number - 1]))?;
        context.jobs.add(answer.value.job_id);
        submitted.push(answer);
    }
    Ok(submitted)
}

/// Adds to a failure which jobs exist or may exist.
fn not_all(
    context: &Context,
    args: &Transcribe,
    mut failure: Failure,
    number: usize,
    parts: usize,
) -> Failure {
    if failure.is_ambiguous() {
        let user = args.user.as_ref().map(|user| format!(" --user {user}")).unwrap_or_default();
        failure.message = format!(
            "{}. The job may have been accepted. Look for it with: {} search{user}",
            failure.message, context.command
        );
    }
    let jobs = context.jobs.all();
    if !jobs.is_empty() {
        failure.message = format!(
            "submitting job {number} of {parts} of this recording failed: {}. The jobs before it were submitted: {}. Delete \
             all jobs of this recording ({} delete) before you submit it again",
            failure.message,
            listed(&jobs, ", "),
            context.command
        );
    }
    failure
}

/// Prints the id of each job on a line.
fn print_ids(context: &Context, submitted: &[Answer<Submitted>]) -> Result<(), Failure> {
    if context.json {
        let document = match submitted {
            [one] => one.raw.clone(),
            several => {
                let raw: Vec<_> = several.iter().map(|answer| answer.raw.as_str()).collect();
                format!("{{\"jobs\":[{}]}}", raw.join(","))
            }
        };
        return output::print(&document).map(drop);
    }
    let jobs: Vec<_> = submitted.iter().map(|answer| answer.value.job_id).collect();
    output::print(&listed(&jobs, "\n"))?;
    output::note(format_args!(
        "longhand: submitted. Get the transcript with: {}",
        context.get_command(&jobs)
    ));
    Ok(())
}

/// Sorts numbered files by number if a shell has sorted them as text.
fn in_order(files: Vec<OsString>) -> Vec<OsString> {
    let names: Vec<String> = files.iter().map(|file| file.to_string_lossy().into_owned()).collect();
    // A shell expands only local names.
    if !names.iter().all(|name| audio::is_local(name)) {
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
