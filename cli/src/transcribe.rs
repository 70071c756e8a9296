//! `longhand transcribe`: files to a job, and to its transcript with `--wait`.

use std::time::Duration;

use longhand_shared::job::TranscribeOptions;
use tokio::time::sleep;
use uuid::Uuid;

use crate::Context;
use crate::args::Transcribe;
use crate::client::{Answer, NewTranscription, Submitted};
use crate::error::Failure;
use crate::output;
use crate::upload::Audio;
use crate::wait;

/// From one try of a submit to the next; there is one more try than pauses.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];

/// The longest that the service may ask us to wait before a try.
const LONGEST_HINT: Duration = Duration::from_secs(10);

pub(crate) async fn run(context: &Context, args: Transcribe) -> Result<(), Failure> {
    let audio = Audio::check(&args.files)?;
    let paths = audio.upload(&context.api, &args.user, args.bucket.as_deref()).await?;

    let new = NewTranscription {
        user_id: &args.user,
        audio_chunk_paths: &paths,
        options: TranscribeOptions { language: args.language, prompt: args.prompt },
    };
    let submitted = submit(context, &new).await.map_err(|mut failure| {
        if failure.is_doubtful() {
            failure.message = format!(
                "{}. The job may have been accepted all the same: {} search --user {} --status IN_PROGRESS",
                failure.message, context.command, args.user
            );
        }
        failure.naming("audioChunkPaths", &audio.names)
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
            context.how_to_get(job)
        ));
    }
    Ok(())
}

/// Submits the job, again where no good answer came: the key makes sure that there is one job.
async fn submit(context: &Context, new: &NewTranscription<'_>) -> Result<Answer<Submitted>, Failure> {
    let key = Uuid::now_v7();
    let mut pauses = PAUSES.iter();
    loop {
        let failure = match context.api.submit(new, Some(key)).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let hint = failure.passing.map(Option::unwrap_or_default).filter(|hint| *hint <= LONGEST_HINT);
        let hint = hint.filter(|_| !failure.is_unreachable());
        let (Some(hint), Some(pause)) = (hint, pauses.next()) else { return Err(failure) };
        output::note(format_args!("{failure}; trying again"));
        sleep(pause.mul_f64(rand::random_range(0.8..1.2)).max(hint)).await;
    }
}
