//! What a worker reports about itself, for operators.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::clock::Timestamp;

/// The interval between reports. One is a write of less than 1 KB to the table, which is one write unit;
/// under load of less than 2 KB.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(15);

/// How long a worker without reports is listed.
pub const REPORT_TTL: Duration = Duration::from_mins(1);

/// How many minutes a report covers.
pub const MINUTES: usize = 30;

/// A worker's report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerState {
    pub name: String,
    pub started: Timestamp,
    pub reported: Timestamp,
    /// The number of chunks that the worker may process at the same time: the concurrency limit of model calls. 0 while
    /// the circuit breaker is open.
    pub slots: usize,
    /// The configured maximum of `slots`.
    pub ceiling: usize,
    pub in_hand: usize,
    pub circuit_open: bool,
    /// Why the circuit is open.
    pub problem: Option<String>,
    /// The minute since 1970 of the last entry of `minutes`.
    pub last_minute: i64,
    /// The last minutes, the newest last.
    pub minutes: Vec<Minute>,
    /// How many chunks failed in these minutes, by error code.
    pub failures: BTreeMap<String, u64>,
}

/// What a worker did in a minute. In JSON an array, so that a report stays small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 6]", into = "[u64; 6]")]
pub struct Minute {
    pub completed: u64,
    pub failed: u64,
    /// Model calls, and how long all of them took together, in milliseconds.
    pub calls: u64,
    pub call_ms: u64,
    /// Received messages, and how long all of them had waited in the queue, in milliseconds.
    pub received: u64,
    pub wait_ms: u64,
}

impl From<[u64; 6]> for Minute {
    fn from([completed, failed, calls, call_ms, received, wait_ms]: [u64; 6]) -> Self {
        Self { completed, failed, calls, call_ms, received, wait_ms }
    }
}

impl From<Minute> for [u64; 6] {
    fn from(minute: Minute) -> Self {
        let Minute { completed, failed, calls, call_ms, received, wait_ms } = minute;
        [completed, failed, calls, call_ms, received, wait_ms]
    }
}

impl Minute {
    pub fn add(&mut self, other: Self) {
        self.completed += other.completed;
        self.failed += other.failed;
        self.calls += other.calls;
        self.call_ms += other.call_ms;
        self.received += other.received;
        self.wait_ms += other.wait_ms;
    }
}

impl WorkerState {
    /// Whether the worker still reports.
    pub fn is_current(&self, now: Timestamp) -> bool {
        now.since(self.reported) <= REPORT_TTL
    }
}
