//! `longhand transcribe`: files to a job, and to its transcript with `--wait`.

use longhand_shared::job::TranscribeOptions;

use crate::Context;
use crate::args::Transcribe;
use crate::client::NewTranscription;
use crate::error::Failure;
use crate::output;
use crate::upload::Audio;
use crate::wait;

pub(crate) async fn run(context: &Context, args: Transcribe) -> Result<(), Failure> {
    let audio = Audio::check(&args.files)?;
    let paths = audio.upload(&context.api, &args.user, args.bucket.as_deref()).await?;

    let new = NewTranscription {
        user_id: &args.user,
        audio_chunk_paths: &paths,
        options: TranscribeOptions { language: args.language, prompt: args.prompt },
    };
    let submitted = context.api.submit(&new).await.map_err(|mut failure| {
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
        return wait::show(context, &answer, names);
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
