//! Measurements of a run from elsewhere: `/metrics` of the processes, and the records of the simulated model.

use std::collections::{BTreeMap, HashMap};

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::figures::{count, ratio};
use super::plan::Plan;
use crate::context::Context;

/// Seconds by which a process's start time may change without a restart: it depends on a clock that is adjusted.
const CLOCK_SLACK: f64 = 1.5;

/// A process that serves `/metrics`.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) name: &'static str,
    pub(super) url: Url,
    reading: Result<Reading, String>,
}

/// One reading of a process's metrics.
#[derive(Clone, Debug, Default, PartialEq)]
struct Reading {
    /// Start time in seconds since 1970. Another value means another process.
    started: Option<f64>,
    cpu_seconds: Option<f64>,
    peak_bytes: Option<f64>,
    /// By service and operation.
    calls: BTreeMap<(String, String), Calls>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Calls {
    all: f64,
    not_ok: f64,
}

/// Resources that a process used during the run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Used {
    pub(super) process: &'static str,
    pub(super) url: String,
    /// Since the start of the process, which may be long before the run.
    pub(super) peak_memory_bytes: Option<f64>,
    pub(super) cpu_seconds: Option<f64>,
    /// Whether the process restarted during the run. The figures then count from the restart.
    pub(super) restarted: bool,
}

/// Calls of one AWS operation by the processes of one kind.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AwsCalls {
    pub(super) process: &'static str,
    pub(super) service: String,
    pub(super) operation: String,
    pub(super) calls: f64,
    pub(super) per_job: f64,
    pub(super) not_ok: f64,
}

impl AwsCalls {
    /// Whether these are reads of the api. Clients that wait for results cause most of them.
    pub(super) fn is_read_of_the_api(&self) -> bool {
        self.process == "api" && ["BatchGetItem", "GetItem", "Query"].contains(&self.operation.as_str())
    }
}

/// Reads the `/metrics` of each api server, by default the one at `--url`, and of each worker.
pub(super) async fn read_all(context: &Context, apis: &[Url], workers: &[Url]) -> Vec<Process> {
    let called = std::slice::from_ref(context.api.base());
    let mut all = Vec::new();
    for url in if apis.is_empty() { called } else { apis } {
        all.push(Process::read(context, "api", url).await);
    }
    for url in workers {
        all.push(Process::read(context, "worker", url).await);
    }
    all
}

/// The difference between two readings of the same processes. Adds a note for each process that could not be read.
pub(super) fn difference(
    before: Vec<Process>,
    after: Vec<Process>,
    jobs: usize,
    notes: &mut Vec<String>,
) -> (Vec<Used>, Vec<AwsCalls>) {
    let mut used = Vec::new();
    let mut calls: BTreeMap<(&str, String, String), Calls> = BTreeMap::new();
    for (before, after) in before.into_iter().zip(after) {
        let (process, url) = (after.name, after.url);
        let readings = before.reading.and_then(|before| Ok((before, after.reading?)));
        let (mut first, last) = match readings {
            Ok(readings) => readings,
            Err(why) => {
                notes.push(format!("no metrics of the {process} at {url}: {why}"));
                continue;
            }
        };
        let moved = last.started.zip(first.started).map(|(last, first)| (last - first).abs());
        let restarted = moved.is_some_and(|seconds| seconds > CLOCK_SLACK);
        if restarted {
            notes.push(format!(
                "the {process} at {url} restarted during the run: its figures count from the restart"
            ));
            first = Reading { cpu_seconds: Some(0.0), ..Reading::default() };
        }
        for (key, last) in last.calls {
            let first = first.calls.get(&key).copied().unwrap_or_default();
            let sum = calls.entry((process, key.0, key.1)).or_default();
            sum.all += last.all - first.all;
            sum.not_ok += last.not_ok - first.not_ok;
        }
        let cpu_seconds = last.cpu_seconds.zip(first.cpu_seconds).map(|(last, first)| last - first);
        let peak_memory_bytes = last.peak_bytes;
        used.push(Used { process, url: url.into(), peak_memory_bytes, cpu_seconds, restarted });
    }
    let calls = calls.into_iter().filter(|(_, calls)| calls.all > 0.0);
    let calls = calls.map(|((process, service, operation), calls)| AwsCalls {
        process,
        service,
        operation,
        calls: calls.all,
        per_job: ratio(calls.all, count(jobs)),
        not_ok: calls.not_ok,
    });
    (used, calls.collect())
}

impl Process {
    async fn read(context: &Context, name: &'static str, url: &Url) -> Self {
        let page = context.api.page(url, &["metrics"]).await;
        Self { name, url: url.clone(), reading: page.map(|text| Reading::of(&text)) }
    }
}

impl Reading {
    fn of(text: &str) -> Self {
        let mut reading = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            match series {
                "process_start_time_seconds" => reading.started = Some(value),
                "process_cpu_seconds_total" => reading.cpu_seconds = Some(value),
                "process_peak_resident_memory_bytes" => reading.peak_bytes = Some(value),
                _ => {}
            }
            if let Some(labels) = series.strip_prefix("longhand_aws_calls_total{") {
                let label = |name: &str| {
                    let (_, after) = labels.split_once(&format!("{name}=\""))?;
                    after.split_once('"').map(|(value, _)| value.to_owned())
                };
                let Some(key) = label("service").zip(label("operation")) else { continue };
                let calls = reading.calls.entry(key).or_default();
                calls.all += value;
                if label("outcome").as_deref() != Some("ok") {
                    calls.not_ok += value;
                }
            }
        }
        reading
    }
}

/// The simulated model's records of its calls. Times are in milliseconds.
#[derive(Debug, Deserialize)]
pub(super) struct Books {
    per_file: HashMap<String, FileBook>,
}

#[derive(Debug, Deserialize)]
struct FileBook {
    calls: u64,
    arrived: Vec<u64>,
    took: Vec<u64>,
}

/// The simulated model's calls of one run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ModelCalls {
    pub(super) calls: u64,
    pub(super) most_per_chunk: u64,
    pub(super) most_at_once: usize,
}

impl Books {
    /// Fails if the server is not the simulated model.
    pub(super) async fn read(context: &Context, sim: &Url) -> Result<Self, String> {
        let page = context.api.page(sim, &["_sim", "books"]).await?;
        serde_json::from_str(&page).map_err(|error| format!("unexpected answer: {error}"))
    }

    /// The time of a file's last call, which gave the transcript, in milliseconds.
    pub(super) fn took(&self, file: &str) -> Option<u64> {
        self.per_file.get(file)?.took.last().copied()
    }

    /// The calls for this run's files.
    pub(super) fn calls(&self, plan: &Plan) -> ModelCalls {
        let files: Vec<_> = plan.files().filter_map(|file| self.per_file.get(&file.name)).collect();
        let times = files.iter().flat_map(|book| book.arrived.iter().zip(&book.took));
        ModelCalls {
            calls: files.iter().map(|book| book.calls).sum(),
            most_per_chunk: files.iter().map(|book| book.calls).max().unwrap_or_default(),
            most_at_once: most_at_once(times.map(|(began, took)| (*began, began + took))),
        }
    }
}

/// The largest number of overlapping spans. A span that ends when another begins does not overlap it.
fn most_at_once(spans: impl Iterator<Item = (u64, u64)>) -> usize {
    let mut changes: Vec<_> = spans.flat_map(|(from, to)| [(from, 1_isize), (to, -1)]).collect();
    changes.sort_unstable();
    let running = changes.iter().scan(0, |now, (_, change)| {
        *now += change;
        Some(*now)
    });
    usize::try_from(running.max().unwrap_or_default()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# HELP longhand_aws_calls_total ..\n\
        longhand_aws_calls_total{service=\"sqs\",operation=\"SendMessageBatch\",outcome=\"ok\"} 10\n\
        process_start_time_seconds 1795399450.25\nprocess_cpu_seconds_total 1.5\n\
        process_peak_resident_memory_bytes 1000000\n";
    const AFTER: &str = "longhand_aws_calls_total{service=\"sqs\",operation=\"SendMessageBatch\",outcome=\"ok\"} 14\n\
        longhand_aws_calls_total{service=\"sqs\",operation=\"SendMessageBatch\",outcome=\"throttled\"} 2\n\
        longhand_http_requests_total{route=\"/x y\"} 9\n\
        process_start_time_seconds 1795399450.25\nprocess_cpu_seconds_total 4\n\
        process_peak_resident_memory_bytes 3000000\n";

    fn process(reading: Result<&str, &str>) -> Process {
        Process {
            name: "api",
            url: Url::parse("http://a").expect("a URL"),
            reading: reading.map(Reading::of).map_err(str::to_owned),
        }
    }

    #[test]
    fn usage_is_the_difference_of_two_readings() {
        let mut notes = Vec::new();
        let (used, calls) = difference(vec![process(Ok(BEFORE))], vec![process(Ok(AFTER))], 3, &mut notes);
        assert_eq!((used[0].cpu_seconds, used[0].peak_memory_bytes), (Some(2.5), Some(3e6)));
        assert!(!used[0].restarted && notes.is_empty(), "{notes:?}");
        let expected = AwsCalls {
            process: "api",
            service: "sqs".to_owned(),
            operation: "SendMessageBatch".to_owned(),
            calls: 6.0,
            per_job: 2.0,
            not_ok: 2.0,
        };
        assert_eq!(calls, [expected]);
    }

    #[test]
    fn a_process_that_restarted_or_is_silent_is_named() {
        let mut notes = Vec::new();
        let restarted = AFTER.replace("1795399450.25", "1795399460.25");
        let before = vec![process(Ok(BEFORE)), process(Ok(BEFORE))];
        let after = vec![process(Ok(&restarted)), process(Err("connection refused"))];
        let (used, calls) = difference(before, after, 1, &mut notes);
        assert_eq!((used.len(), used[0].cpu_seconds, used[0].restarted), (1, Some(4.0), true));
        assert_eq!((calls[0].calls, calls[0].not_ok), (16.0, 2.0));
        assert!(notes[0].contains("restarted") && notes[1].contains("connection refused"), "{notes:?}");
    }

    #[test]
    fn overlapping_calls_are_counted() {
        assert_eq!(most_at_once([(0, 10), (5, 15), (10, 20), (30, 40)].into_iter()), 2);
        assert_eq!(most_at_once([(0, 10), (0, 10), (3, 4)].into_iter()), 3);
        assert_eq!(most_at_once([].into_iter()), 0);
    }
}
