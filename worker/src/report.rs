//! This worker's reports for operators: what it is doing, and what it did in the last minutes. `GET /operations` of the
//! api reads them from the table.
//!
//! The numbers are those of `/metrics`, so that nothing is counted twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use longhand_shared::Timestamp;
use longhand_shared::domain::worker_state::{MINUTES, Minute, REPORT_INTERVAL, WorkerState};
use longhand_shared::service::metrics;
use longhand_shared::store::JobStore;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use crate::asr::guard::Guard;
use crate::runner::Pulse;

/// Counts since the start of the process.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts {
    minute: Minute,
    failures: BTreeMap<String, u64>,
}

/// The last [`MINUTES`] minutes, the newest last.
#[derive(Debug, Default)]
struct History {
    before: Counts,
    last_minute: i64,
    minutes: VecDeque<Counts>,
}

/// Writes a report at once and then every [`REPORT_INTERVAL`]. Runs beside the worker. A report that cannot be written
/// is left out: the worker works without it.
pub async fn publish(
    store: Arc<dyn JobStore>,
    name: String,
    ceiling: usize,
    pulse: Arc<Pulse>,
    guard: Arc<Guard>,
) {
    let started = Timestamp::now();
    let mut history = History::default();
    let mut ticks = interval(REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = Timestamp::now();
        history.add(parse(&metrics::render()), now.unix() / 60);
        let state = WorkerState {
            name: name.clone(),
            started,
            reported: now,
            slots: guard.limit(),
            ceiling,
            in_hand: pulse.in_hand(),
            circuit_open: !guard.is_closed(),
            problem: guard.problem(),
            last_minute: history.last_minute,
            minutes: history.minutes.iter().map(|counts| counts.minute).collect(),
            failures: history.failures(),
        };
        if let Err(error) = store.report(&state).await {
            debug!(%error, "cannot report the worker's state");
        }
    }
}

impl History {
    /// Adds to this minute what was counted since the last call.
    fn add(&mut self, now: Counts, minute: i64) {
        let passed = usize::try_from(minute - self.last_minute).unwrap_or_default().min(MINUTES);
        let passed = if self.minutes.is_empty() { 1 } else { passed };
        self.minutes.extend(std::iter::repeat_n(Counts::default(), passed));
        while self.minutes.len() > MINUTES {
            self.minutes.pop_front();
        }
        self.last_minute = self.last_minute.max(minute);
        if let Some(newest) = self.minutes.back_mut() {
            newest.minute.add(difference(now.minute, self.before.minute));
            for (code, count) in &now.failures {
                let new = count - self.before.failures.get(code).copied().unwrap_or_default().min(*count);
                if new > 0 {
                    *newest.failures.entry(code.clone()).or_default() += new;
                }
            }
        }
        self.before = now;
    }

    fn failures(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for (code, count) in self.minutes.iter().flat_map(|counts| &counts.failures) {
            *all.entry(code.clone()).or_default() += count;
        }
        all
    }
}

fn difference(now: Minute, before: Minute) -> Minute {
    let (now, before) = (<[u64; 6]>::from(now), <[u64; 6]>::from(before));
    Minute::from(std::array::from_fn(|place| now[place].saturating_sub(before[place])))
}

/// The counts in the text of `/metrics`.
fn parse(text: &str) -> Counts {
    let mut counts = Counts::default();
    let minute = &mut counts.minute;
    for line in text.lines() {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let (name, labels) = name.split_once('{').unwrap_or((name, ""));
        let Ok(value) = value.parse::<f64>() else { continue };
        match name {
            "longhand_chunk_seconds_count" => match label(labels, "outcome") {
                Some("completed") => minute.completed += whole(value),
                Some(code) => {
                    minute.failed += whole(value);
                    counts.failures.insert(code.to_owned(), whole(value));
                }
                None => {}
            },
            "longhand_asr_call_seconds_count" => minute.calls += whole(value),
            "longhand_asr_call_seconds_sum" => minute.call_ms += whole(value * 1000.0),
            "longhand_queue_wait_seconds_count" => minute.received += whole(value),
            "longhand_queue_wait_seconds_sum" => minute.wait_ms += whole(value * 1000.0),
            _ => {}
        }
    }
    counts
}

/// The value of a label in `name="value",other="value"}`.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let value = labels.split(name).nth(1)?.strip_prefix("=\"")?;
    value.split('"').next()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts and sums of times")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP longhand_chunk_seconds Time from claim to verdict\n\
        longhand_chunk_seconds_bucket{outcome=\"completed\",le=\"0.5\"} 7\n\
        longhand_chunk_seconds_count{outcome=\"completed\"} 8\n\
        longhand_chunk_seconds_count{outcome=\"AUDIO_NOT_FOUND\"} 2\n\
        longhand_asr_call_seconds_sum 12.5\n\
        longhand_asr_call_seconds_count 10\n\
        longhand_queue_wait_seconds_sum 0.25\n\
        longhand_queue_wait_seconds_count 5\n\
        process_start_time_seconds 1e9\n";

    #[test]
    fn counts_are_read_from_the_metrics() {
        let counts = parse(TEXT);
        let minute = Minute { completed: 8, failed: 2, calls: 10, call_ms: 12500, received: 5, wait_ms: 250 };
        let failures = BTreeMap::from([("AUDIO_NOT_FOUND".to_owned(), 2)]);
        assert_eq!(counts, Counts { minute, failures });
    }

    #[test]
    fn each_minute_has_what_was_counted_in_it() {
        let mut history = History::default();
        let at = |completed, failed| Counts {
            minute: Minute { completed, failed, ..Minute::default() },
            failures: BTreeMap::from([("INTERNAL".to_owned(), failed)]),
        };
        for (completed, failed, minute) in [(2, 0, 100), (5, 1, 100), (5, 1, 102), (9, 3, 103)] {
            history.add(at(completed, failed), minute);
        }
        let completed: Vec<_> = history.minutes.iter().map(|counts| counts.minute.completed).collect();
        assert_eq!((completed, history.last_minute), (vec![5, 0, 0, 4], 103));
        assert_eq!(history.failures(), BTreeMap::from([("INTERNAL".to_owned(), 3)]));
        // Half an hour later all of it is too old.
        history.add(at(9, 3), 103 + 30);
        assert_eq!((history.minutes.len(), history.failures().len()), (MINUTES, 0));
    }

    #[test]
    fn a_report_is_at_most_two_write_units() {
        let minute = Minute {
            completed: 120,
            failed: 9,
            calls: 129,
            call_ms: 999_999,
            received: 129,
            wait_ms: 99_999,
        };
        let state = WorkerState {
            name: "ip-10-0-12-34.eu-central-1.compute.internal-1234567".to_owned(),
            started: Timestamp::from_unix(1_763_852_400),
            reported: Timestamp::from_unix(1_763_852_400),
            slots: 100,
            ceiling: 100,
            in_hand: 100,
            circuit_open: false,
            problem: None,
            last_minute: 29_397_540,
            minutes: vec![minute; MINUTES],
            failures: BTreeMap::from([("AUDIO_NOT_FOUND".to_owned(), 9)]),
        };
        let json = serde_json::to_string(&state).expect("JSON");
        assert!(json.len() < 2 * 1024 - 200, "{}", json.len());
    }
}
