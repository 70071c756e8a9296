//! The report, as JSON or as aligned lines.

use std::fmt::Write;
use std::time::Duration;

use longhand_shared::domain::job::JobStatus;
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::{JobId, Timestamp};
use serde::Serialize;

use super::args::Load;
use super::drive::{Accepted, Driven, LastState};
use super::figures::{Spread, count, ratio};
use super::plan::{Job, Plan};
use super::sources::{AwsCalls, Books, Used};
use crate::error::Failure;

/// The design's limit for an answer. `infra/alarms.yaml` watches the same share of jobs.
const IN_TIME: Duration = Duration::from_secs(15);

pub(super) struct Run<'a> {
    pub(super) args: &'a Load,
    pub(super) plan: &'a Plan,
    pub(super) driven: &'a [Driven<'a>],
    /// `None` if the model is not the simulated one.
    pub(super) books: Option<&'a Books>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report<'a> {
    settings: Settings<'a>,
    pub(super) jobs: Jobs,
    throughput: Throughput,
    submit_latency_seconds: Option<Spread>,
    turnaround_seconds: Option<Spread>,
    /// Percentage of the accepted jobs.
    answered_within15_seconds: f64,
    pub(super) model: Option<Model>,
    aws_calls_per_job: f64,
    /// Without the reads of the api, which depend on how clients wait.
    aws_calls_per_job_without_reads: f64,
    aws_calls: Vec<AwsCalls>,
    processes: Vec<Used>,
    /// Requests of this command for jobs.
    looks: u64,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Settings<'a> {
    run: &'a str,
    jobs: u32,
    chunks: u8,
    rate: f64,
    seed: u64,
    audio_bytes: u32,
    user_count: u32,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Jobs {
    pub(super) asked: usize,
    pub(super) completed: usize,
    pub(super) failed: usize,
    pub(super) lost: usize,
    pub(super) unfinished: usize,
    pub(super) not_accepted: usize,
}

/// From the first `submittedTime` to the last `completedTime`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throughput {
    seconds: f64,
    jobs_per_second: f64,
    chunks_per_second: f64,
}

/// From the simulated model's records.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Model {
    calls: u64,
    most_calls_per_chunk: u64,
    most_at_once: usize,
    slowest_chunk_seconds: Option<Spread>,
    /// Turnaround minus the slowest chunk's time.
    overhead_seconds: Option<Spread>,
    /// From the submit until a worker has received the slowest chunk.
    queue_wait_seconds: Option<Spread>,
    /// The overhead minus that wait.
    overhead_without_wait_seconds: Option<Spread>,
    transcripts_right: usize,
    pub(super) transcripts_wrong: usize,
}

impl Run<'_> {
    pub(super) fn accepted(&self) -> impl Iterator<Item = &Accepted> {
        self.driven.iter().filter_map(|driven| driven.answer.as_ref().ok())
    }

    pub(super) fn refusals(&self) -> impl Iterator<Item = &Failure> {
        self.driven.iter().filter_map(|driven| driven.answer.as_ref().err())
    }

    /// Completed jobs whose transcript differs from the simulated model's text.
    pub(super) fn wrong(&self) -> impl Iterator<Item = JobId> {
        let checked = self.completed().filter(|_| self.books.is_some());
        checked.filter(|ended| !is_right(ended.driven.job, ended.result)).map(|ended| ended.result.job_id)
    }

    /// The jobs that ended, with their turnarounds.
    fn ended(&self) -> impl Iterator<Item = Ended<'_>> {
        self.driven.iter().filter_map(|driven| match &driven.answer.as_ref().ok()?.last {
            LastState::Ended(result, turnaround) => Some(Ended { driven, result, turnaround: *turnaround }),
            LastState::Lost | LastState::Unfinished => None,
        })
    }

    pub(super) fn completed(&self) -> impl Iterator<Item = Ended<'_>> {
        self.ended().filter(|ended| ended.result.job_status == JobStatus::Completed)
    }
}

/// A job that has ended.
pub(super) struct Ended<'a> {
    pub(super) driven: &'a Driven<'a>,
    pub(super) result: &'a TranscriptResult,
    /// From when the submit was due until the client had the result.
    pub(super) turnaround: Duration,
}

impl Ended<'_> {
    /// The model's time for the slowest chunk, and the chunk's number.
    pub(super) fn slowest(&self, books: &Books) -> Option<(Duration, usize)> {
        let files = self.driven.job.files.iter().enumerate();
        let times = files.map(|(chunk, file)| Some((books.took(&file.name)?, chunk)));
        let (took, chunk) = times.collect::<Option<Vec<_>>>()?.into_iter().max()?;
        Some((Duration::from_millis(took), chunk))
    }

    /// From the submit until a worker has received this chunk for the first time.
    fn waited(&self, chunk: usize) -> Option<Duration> {
        Some(self.result.chunks.get(chunk)?.history.first()?.started_time.since(self.result.submitted_time))
    }
}

/// The simulated model's text contains the file's name, so a correct transcript has each name of the job once, in order.
fn is_right(job: &Job, result: &TranscriptResult) -> bool {
    let text = result.transcription.as_deref().unwrap_or_default();
    let places: Vec<_> =
        job.files.iter().map(|file| text.match_indices(&file.name).collect::<Vec<_>>()).collect();
    places.iter().all(|found| found.len() == 1) && places.is_sorted_by_key(|found| found[0].0)
}

impl<'a> Report<'a> {
    pub(super) fn of(
        run: &Run<'a>,
        processes: Vec<Used>,
        aws_calls: Vec<AwsCalls>,
        notes: Vec<String>,
    ) -> Self {
        let args = run.args;
        let turnarounds = run.completed().map(|ended| ended.turnaround).collect();
        let in_time = run.ended().filter(|ended| ended.turnaround <= IN_TIME).count();
        let accepted = run.driven.iter().filter(|driven| driven.answer.is_ok());
        Self {
            settings: Settings {
                run: &run.plan.run,
                jobs: args.jobs,
                chunks: args.chunks,
                rate: args.rate,
                seed: args.seed,
                audio_bytes: args.audio_bytes,
                user_count: args.user_count,
            },
            jobs: Jobs::of(run),
            throughput: Throughput::of(run),
            submit_latency_seconds: Spread::of(accepted.map(|driven| driven.latency).collect()),
            turnaround_seconds: Spread::of(turnarounds),
            answered_within15_seconds: 100.0 * ratio(count(in_time), count(run.accepted().count())),
            model: run.books.map(|books| Model::of(run, books)),
            aws_calls_per_job: aws_calls.iter().map(|calls| calls.per_job).sum(),
            aws_calls_per_job_without_reads: aws_calls
                .iter()
                .filter(|calls| !calls.is_read_of_the_api())
                .map(|calls| calls.per_job)
                .sum(),
            aws_calls,
            processes,
            looks: run.accepted().map(|job| job.looks).sum(),
            notes,
        }
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let usage = self.aws_rows().chain([(String::new(), String::new())]).chain(self.process_rows());
        let notes = self.notes.iter().map(|note| ("note".to_owned(), note.clone()));
        for (name, what) in self.result_rows().into_iter().chain(usage).chain(notes) {
            let _ = writeln!(text, "{}", format!("{name:<26}{what}").trim_end());
        }
        text
    }

    /// The load, the jobs and their times.
    fn result_rows(&self) -> Vec<(String, String)> {
        let Settings { run, jobs, chunks, rate, seed, audio_bytes, user_count } = &self.settings;
        let pace = pace(*rate);
        let Jobs { completed, failed, lost, unfinished, not_accepted, .. } = &self.jobs;
        let Throughput { seconds, jobs_per_second, chunks_per_second } = &self.throughput;
        let in_time = self.answered_within15_seconds;
        let (latency, turnaround) = (self.submit_latency_seconds, self.turnaround_seconds);
        let mut rows = vec![
            (
                "load",
                format!(
                    "{jobs} jobs of {chunks} chunks, {pace}, seed {seed}, {user_count} users, about {audio_bytes} bytes a chunk, run {run}"
                ),
            ),
            (
                "jobs",
                format!(
                    "{completed} completed, {failed} failed, {lost} lost, {unfinished} unfinished, {not_accepted} not accepted"
                ),
            ),
            (
                "throughput",
                format!(
                    "{jobs_per_second:.1} jobs/s, {chunks_per_second:.1} chunks/s, {seconds:.1} s from the first submit to the last end"
                ),
            ),
            ("", String::new()),
            ("seconds", "     p50       p90       p99       max".to_owned()),
            ("submit latency", spread(latency, "POST /transcribe, from the planned submit")),
            ("job turnaround", spread(turnaround, "from the planned submit until the result arrives")),
            ("answered within 15 s", format!("{in_time:>7.1} %  of the jobs accepted")),
        ];
        if let Some(model) = &self.model {
            let Model {
                calls, most_calls_per_chunk, most_at_once, transcripts_right, transcripts_wrong, ..
            } = model;
            rows.extend([
                ("slowest chunk's model time", spread(model.slowest_chunk_seconds, "as the simulated model recorded it")),
                ("overhead", spread(model.overhead_seconds, "turnaround minus the row above")),
                ("  waiting in the queue", spread(model.queue_wait_seconds, "from submittedTime to the claim of the slowest chunk")),
                ("  other overhead", spread(model.overhead_without_wait_seconds, "overhead minus that wait")),
                ("", String::new()),
                ("model calls", format!("{calls}, {most_at_once} at once at most, {most_calls_per_chunk} for one chunk at most")),
                ("transcripts", format!("{transcripts_right} right, {transcripts_wrong} wrong")),
            ]);
        }
        rows.extend([
            ("", String::new()),
            (
                "AWS calls per job",
                format!(
                    "{:>10.2}  ({:.2} without reads of the api; requests for results: {})",
                    self.aws_calls_per_job, self.aws_calls_per_job_without_reads, self.looks
                ),
            ),
        ]);
        rows.into_iter().map(|(name, what)| (name.to_owned(), what)).collect()
    }

    fn aws_rows(&self) -> impl Iterator<Item = (String, String)> {
        self.aws_calls.iter().map(|AwsCalls { process, service, operation, calls, per_job, not_ok }| {
            let not_ok = if *not_ok > 0.0 { format!(", {not_ok} of them not ok") } else { String::new() };
            (
                format!("  {process}"),
                format!("{per_job:>10.2}  {service} {operation} ({calls} calls{not_ok})"),
            )
        })
    }

    fn process_rows(&self) -> impl Iterator<Item = (String, String)> {
        let figure = |value: Option<f64>| value.map_or("?".to_owned(), |value| format!("{value:.1}"));
        self.processes.iter().map(move |used| {
            let (cpu, memory) =
                (figure(used.cpu_seconds), figure(used.peak_memory_bytes.map(|bytes| bytes / 1e6)));
            let url = &used.url;
            (
                used.process.to_owned(),
                format!("{cpu:>10} s CPU, {memory} MB peak memory since its start, {url}"),
            )
        })
    }
}

impl Jobs {
    fn of(run: &Run<'_>) -> Self {
        let mut jobs =
            Self { asked: run.driven.len(), not_accepted: run.refusals().count(), ..Self::default() };
        for job in run.accepted() {
            match &job.last {
                LastState::Ended(result, _) if result.job_status == JobStatus::Completed => {
                    jobs.completed += 1;
                }
                LastState::Ended(..) => jobs.failed += 1,
                LastState::Lost => jobs.lost += 1,
                LastState::Unfinished => jobs.unfinished += 1,
            }
        }
        jobs
    }
}

impl Throughput {
    fn of(run: &Run<'_>) -> Self {
        let ended: Vec<&TranscriptResult> = run.ended().map(|ended| ended.result).collect();
        let first: Option<Timestamp> = ended.iter().map(|result| result.submitted_time).min();
        let last = ended.iter().filter_map(|result| result.completed_time).max();
        let span = last.zip(first).map_or(Duration::ZERO, |(last, first)| last.since(first));
        let rate = |things| ratio(count(things), span.as_secs_f64());
        Self {
            seconds: span.as_secs_f64(),
            jobs_per_second: rate(ended.len()),
            chunks_per_second: rate(ended.iter().map(|result| result.chunks.len()).sum()),
        }
    }
}

impl Model {
    fn of(run: &Run<'_>, books: &Books) -> Self {
        let calls = books.calls(run.plan);
        let times: Vec<(Duration, Duration, Duration)> = run
            .completed()
            .filter_map(|ended| {
                let (slowest, chunk) = ended.slowest(books)?;
                Some((slowest, ended.turnaround.saturating_sub(slowest), ended.waited(chunk)?))
            })
            .collect();
        let spread =
            |of: fn(&(Duration, Duration, Duration)) -> Duration| Spread::of(times.iter().map(of).collect());
        let wrong = run.wrong().count();
        Self {
            calls: calls.calls,
            most_calls_per_chunk: calls.most_per_chunk,
            most_at_once: calls.most_at_once,
            slowest_chunk_seconds: spread(|(slowest, _, _)| *slowest),
            overhead_seconds: spread(|(_, over, _)| *over),
            queue_wait_seconds: spread(|(_, _, waited)| *waited),
            overhead_without_wait_seconds: spread(|(_, over, waited)| over.saturating_sub(*waited)),
            transcripts_right: run.completed().count() - wrong,
            transcripts_wrong: wrong,
        }
    }
}

pub(super) fn pace(rate: f64) -> String {
    if rate > 0.0 { format!("{rate} jobs/s") } else { "all at once".to_owned() }
}

fn spread(spread: Option<Spread>, how: &str) -> String {
    match spread {
        Some(Spread { p50, p90, p99, max }) => {
            format!("{p50:>8.3}  {p90:>8.3}  {p99:>8.3}  {max:>8.3}  {how}")
        }
        None => format!("{:>8}", "-"),
    }
}
