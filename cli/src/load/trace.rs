//! The steps of one job with their times.

use std::fmt::Write;
use std::time::Duration;

use longhand_shared::Timestamp;

use super::report::{Ended, Run};
use crate::chunk::label;

/// The steps of the completed job with the largest overhead.
pub(super) fn slowest(run: &Run<'_>) -> String {
    let overhead = |ended: &Ended<'_>| {
        let model = run.books.and_then(|books| ended.slowest(books)).unwrap_or_default();
        ended.turnaround.saturating_sub(model.0)
    };
    match run.completed().max_by_key(overhead) {
        Some(ended) => steps(run, &ended),
        None => "no job completed, so there is nothing to trace\n".to_owned(),
    }
}

fn steps(run: &Run<'_>, ended: &Ended<'_>) -> String {
    let result = ended.result;
    let since = |at: Timestamp| at.since(ended.driven.due);
    let mut steps = vec![
        (Duration::ZERO, "the planned submit".to_owned()),
        (since(result.submitted_time), "the api has the request (submittedTime)".to_owned()),
        (ended.driven.latency, "the client has the answer, 202".to_owned()),
        (ended.turnaround, "the client has the result".to_owned()),
    ];
    steps.extend(
        result.completed_time.map(|at| (since(at), "the job is about to end (completedTime)".to_owned())),
    );
    for (chunk, file) in result.chunks.iter().zip(&ended.driven.job.files) {
        let label = label(chunk.index.get(), result.chunks.len());
        for attempt in &chunk.history {
            steps.push((since(attempt.started_time), format!("{label}: a worker has the message")));
        }
        let took = run.books.and_then(|books| books.took(&file.name));
        if let Some(at) = chunk.completed_time {
            let model =
                took.map(|ms| format!("; the model took {:.3} s", Duration::from_millis(ms).as_secs_f64()));
            steps.push((
                since(at),
                format!("{label}: the result is about to be stored{}", model.unwrap_or_default()),
            ));
        }
    }
    steps.sort_by_key(|(at, _)| *at);
    let mut text = format!("\nsteps of job {}, the one with the largest overhead\n", result.job_id);
    for (at, step) in steps {
        let _ = writeln!(text, "{:>10.3}  {step}", at.as_secs_f64());
    }
    text
}
