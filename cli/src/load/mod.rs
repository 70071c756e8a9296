//! `longhand load`: submits test jobs at a rate and reports how the service performed.
//!
//! The main result is the overhead: a job's turnaround, from the planned submit until the client has the result, minus the
//! model's time for its slowest chunk. The simulated model reports that time; with another model the overhead is left out.

pub(crate) mod args;
mod drive;
mod figures;
mod plan;
mod report;
mod sources;
mod trace;

use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::context::Context;
use crate::error::{Exit, Failure, Fault};
use crate::output;
use args::Load;
use drive::{Accepted, LastState};
use plan::Plan;
use report::{Report, Run};
use sources::Books;

/// The report names at most this many faulty jobs.
const NAMED: usize = 10;

pub(crate) async fn run(context: &Context, args: Load) -> Result<(), Failure> {
    let Some(bucket) = args.bucket.clone() else {
        let message = "no bucket for the audio: pass --bucket or set LONGHAND_AUDIO_BUCKETS";
        return Err(Failure::usage(message));
    };
    // Fail before the load, not after it.
    let file = args.report.as_deref().map(create).transpose()?;
    context.api.reach().await?;

    let mut notes = Vec::new();
    let books = books(context, &args).await;
    if let Err(why) = &books {
        output::note(format_args!("longhand: {why}"));
    }
    let plan = Plan::new(&args, bucket);
    output::note(format_args!("longhand: uploading {} files to {}", plan.files().count(), plan.place()));
    plan.upload().await?;

    let before = sources::read_all(context, &args.api_url, &args.worker_url).await;
    output::note(format_args!(
        "longhand: submitting {} jobs of {} chunks, {}",
        args.jobs,
        args.chunks,
        report::pace(args.rate)
    ));
    let driven = drive::drive(context, &plan, args.rate, args.timeout).await?;
    let after = sources::read_all(context, &args.api_url, &args.worker_url).await;

    let books = match books {
        Ok(_) => self::books(context, &args).await,
        absent => absent,
    };
    let books = books.map_err(|why| notes.push(why)).ok();
    let run = Run { args: &args, plan: &plan, driven: &driven, books: books.as_ref() };
    let (processes, aws_calls) = sources::difference(before, after, run.accepted().count(), &mut notes);
    let report = Report::of(&run, processes, aws_calls, notes);

    let json = serde_json::to_string_pretty(&report).expect("texts and numbers fit in JSON");
    if let Some((mut file, path)) = file.zip(args.report.as_deref()) {
        writeln!(file, "{json}")
            .map_err(|error| output::not_written(Exit::NotWritten, "report", path.display(), &error))?;
    }
    let steps = if args.trace { trace::slowest(&run) } else { String::new() };
    output::print(&if context.json { json } else { report.text() + &steps })?;
    verdict(&run, &report)
}

async fn books(context: &Context, args: &Load) -> Result<Books, String> {
    const LEFT_OUT: &str = "the report omits the model's time and calls and does not check the transcripts";
    let Some(sim) = &args.sim_url else {
        return Err(format!("{LEFT_OUT}: pass --sim-url or set ASR_BASE_URL"));
    };
    let books = Books::read(context, sim).await;
    books.map_err(|why| format!("{LEFT_OUT}: {sim} is not the simulated model, or does not answer: {why}"))
}

fn create(path: &Path) -> Result<File, Failure> {
    File::create(path).map_err(|error| output::not_written(Exit::Refused, "report", path.display(), &error))
}

/// Fails unless every job completed with the correct transcript.
fn verdict(run: &Run<'_>, report: &Report<'_>) -> Result<(), Failure> {
    let jobs = &report.jobs;
    let wrong = report.model.as_ref().map_or(0, |model| model.transcripts_wrong);
    let (exit, code) = if jobs.failed + jobs.lost + wrong > 0 {
        (Exit::Failed, "LOAD_FAILED")
    } else if let Some(refusal) = run.refusals().next() {
        (refusal.exit, "LOAD_NOT_ACCEPTED")
    } else if jobs.unfinished > 0 {
        (Exit::GaveUp, "GAVE_UP")
    } else {
        return Ok(());
    };
    let message = format!(
        "of {} jobs {} completed, {} failed, {} were lost, {} are unfinished and {} were not accepted; {wrong} \
         transcripts are wrong",
        jobs.asked, jobs.completed, jobs.failed, jobs.lost, jobs.unfinished, jobs.not_accepted
    );
    let named = run.accepted().filter_map(|Accepted { id, last, .. }| {
        let detail = match last {
            LastState::Ended(result, _) => {
                let error = result.chunks.iter().find_map(|chunk| chunk.error.as_ref());
                error.map(|error| format!("failed: {}", error.message))?
            }
            LastState::Lost => "the service no longer has this job".to_owned(),
            LastState::Unfinished => "is in progress, or could not be read".to_owned(),
        };
        Some(Fault { pointer: Some(format!("job {id}")), detail, ..Fault::default() })
    });
    let wrong = run.wrong().map(|id| Fault {
        pointer: Some(format!("job {id}")),
        detail: "its transcript differs from the model's text".to_owned(),
        ..Fault::default()
    });
    let refused = run.refusals().map(|failure| Fault { detail: failure.message.clone(), ..Fault::default() });
    let faults = named.chain(wrong).chain(refused).take(NAMED).collect();
    Err(Failure::new(exit, code, message).with_faults(faults))
}
