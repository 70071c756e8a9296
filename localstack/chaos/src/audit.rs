//! The audit compares Longhand's promises with the table, the queues, and the records of the model, the proxy and the
//! clients. It is a pure function, so that tests can inject violations.

use std::collections::BTreeMap;

use longhand_sim_asr::text_for;

use crate::fleet::Exit;
use crate::ledger::{Entry, Ledger};
use crate::member::{Kind, app};

/// The maximum number of calls of the model for one claim of a chunk: the first and three retries.
const CALLS_PER_CLAIM: u64 = 4;

/// How often S3 refuses a file before its chunk fails: ten deliveries return to the queue (`worker/src/failure.rs`). A
/// worker of 0.1.0 fails the chunk at once.
const REFUSALS: u64 = 11;

#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Jobs whose `202` the client received.
    pub accepted: Vec<String>,
    /// The jobs in the table, by id.
    pub jobs: BTreeMap<String, Job>,
    /// The api's answer for each job. An answer without a job status has the HTTP status.
    pub shown: BTreeMap<String, Shown>,
    /// The messages that are left, with their queue.
    pub left: Vec<String>,
    pub model: longhand_sim_asr::Books,
    /// Files whose chunks must fail, with their error code.
    pub doomed: BTreeMap<String, &'static str>,
    /// How often S3 refused each file.
    pub forbidden: BTreeMap<String, u64>,
    /// The outcomes and ends that were written.
    pub ledger: Ledger,
    /// How processes ended.
    pub exits: Vec<Exit>,
    /// Answers that a standard client does not retry, and wrong ones.
    pub surprises: Vec<String>,
    /// The maximum of concurrent calls of the model by all workers, with their probes.
    pub calls_at_once: usize,
}

/// A job in the table.
#[derive(Clone, Debug, Default)]
pub struct Job {
    pub status: String,
    pub chunk_count: usize,
    /// The indexes of the unsettled chunks.
    pub unsettled: Vec<String>,
    /// Whether it has a transcript item.
    pub has_transcript: bool,
    /// By key, `chunk#07`, and so in order.
    pub chunks: BTreeMap<String, Chunk>,
}

/// A chunk in the table.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// The name of its audio file.
    pub file: String,
    pub status: String,
    /// The number of claims.
    pub claims: u64,
    /// The code and message of its error.
    pub error: Option<(String, String)>,
}

/// A job as the api shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    pub status: String,
    pub transcription: Option<String>,
}

/// The result of the audit.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Jobs whose `202` arrived.
    pub accepted: usize,
    /// Jobs in the table whose `202` did not arrive.
    pub unasked: usize,
    pub completed: usize,
    pub failed: usize,
    /// Failed chunks by error code.
    pub codes: BTreeMap<String, usize>,
    /// Accepted jobs that are not in the table.
    pub lost: usize,
    /// Jobs that have not ended.
    pub stuck: usize,
    /// Chunks that were settled more than once.
    pub settled_twice: usize,
    /// Jobs that were finished more than once.
    pub finished_twice: usize,
    /// Ended jobs with a wrong transcript.
    pub wrong: usize,
    /// Messages left in the queue and the dead-letter queue.
    pub left: usize,
    /// The most calls of the model for one chunk, and the number of its claims.
    pub most_calls: (u64, u64),
    /// The most claims of one chunk.
    pub most_claims: u64,
    /// Chunks with more calls than their claims allow.
    pub over_bound: usize,
    /// The most calls of the model at once.
    pub most_at_once: usize,
    /// Answers that clients should not have seen.
    pub surprises: usize,
    /// One line for each broken promise: the job, the chunk, the details.
    pub violations: Vec<String>,
}

impl Findings {
    fn violation(&mut self, violation: String) {
        self.violations.push(violation);
    }
}

pub fn audit(evidence: &Evidence) -> Findings {
    let mut found = Findings {
        accepted: evidence.accepted.len(),
        left: evidence.left.len(),
        surprises: evidence.surprises.len(),
        most_at_once: evidence.model.most_in_flight,
        ..Findings::default()
    };
    let accepted: std::collections::BTreeSet<&String> = evidence.accepted.iter().collect();
    for id in &accepted {
        if !evidence.jobs.contains_key(*id) {
            found.lost += 1;
            found.violation(format!("LOST job {id}: its 202 arrived, but it is not in the table"));
        }
    }
    for (id, job) in &evidence.jobs {
        found.unasked += usize::from(!accepted.contains(id));
        chunk_count(id, job, &mut found);
        for (key, chunk) in &job.chunks {
            one_chunk(evidence, id, key, chunk, &mut found);
        }
        match job.status.as_str() {
            "COMPLETED" | "FAILED" => ended(evidence, id, job, &mut found),
            _ => stuck(id, job, &mut found),
        }
    }
    ledger(evidence, &mut found);
    for message in &evidence.left {
        found.violation(format!("LEFT {message}"));
    }
    for surprise in &evidence.surprises {
        found.violation(format!("SHOWN to a client: {surprise}"));
    }
    let bound = evidence.calls_at_once;
    if found.most_at_once > bound {
        found.violation(format!("FLOODED the model: {} calls at once, {bound} allowed", found.most_at_once));
    }
    for exit in evidence.exits.iter().filter(|exit| !exit.success) {
        let Exit { name, asked, how, .. } = exit;
        let why = if *asked { "after SIGTERM" } else { "by itself" };
        found.violation(format!("ENDED {name} {why} with {how}: see {name}.log"));
    }
    found
}

fn chunk_count(id: &str, job: &Job, found: &mut Findings) {
    if job.chunks.len() != job.chunk_count || job.chunk_count == 0 {
        let (chunks, count) = (job.chunks.len(), job.chunk_count);
        found.violation(format!(
            "TORN job {id}: it has {chunks} chunks in the table, and its chunkCount is {count}"
        ));
    }
}

fn stuck(id: &str, job: &Job, found: &mut Findings) {
    found.stuck += 1;
    let open: Vec<String> = job
        .chunks
        .iter()
        .filter(|(_, chunk)| !is_final(&chunk.status))
        .map(|(key, chunk)| format!("{key} {} after {} claims", chunk.status, chunk.claims))
        .collect();
    let unsettled = job.unsettled.join(",");
    found.violation(format!(
        "STUCK job {id} is {}, unsettled [{unsettled}]: {}",
        job.status,
        open.join("; ")
    ));
}

fn ended(evidence: &Evidence, id: &str, job: &Job, found: &mut Findings) {
    let completed = job.chunks.values().all(|chunk| chunk.status == "COMPLETED");
    if job.status == "COMPLETED" {
        found.completed += 1;
    } else {
        found.failed += 1;
    }
    for (key, chunk) in &job.chunks {
        if !is_final(&chunk.status) {
            found.violation(format!("TORN job {id} is {}, its {key} is {}", job.status, chunk.status));
        }
    }
    if completed != (job.status == "COMPLETED") {
        found.violation(format!("TORN job {id} is {}, which does not match its chunks", job.status));
    }
    if !job.unsettled.is_empty() {
        found.violation(format!(
            "TORN job {id} is {}, with {} unsettled",
            job.status,
            job.unsettled.join(",")
        ));
    }
    if !job.has_transcript {
        found.violation(format!("TORN job {id} is {} and has no transcript item", job.status));
    }
    let expected = Shown { status: job.status.clone(), transcription: expected_text(job) };
    let shown = evidence.shown.get(id).cloned().unwrap_or_default();
    if shown != expected {
        found.wrong += 1;
        found.violation(format!(
            "WRONG transcript of job {id}: the api shows {shown:?}, expected {expected:?}"
        ));
    }
}

/// The text of an ended job: the chunks in order, with failed ones marked. `None` if no chunk completed.
fn expected_text(job: &Job) -> Option<String> {
    let parts: Vec<String> = job
        .chunks
        .values()
        .enumerate()
        .map(|(index, chunk)| match chunk.status.as_str() {
            "COMPLETED" => text_for(&chunk.file),
            _ => format!("[chunk {index} failed]"),
        })
        .collect();
    job.chunks.values().any(|chunk| chunk.status == "COMPLETED").then(|| parts.join(" "))
}

fn one_chunk(evidence: &Evidence, id: &str, key: &str, chunk: &Chunk, found: &mut Findings) {
    let book = evidence.model.file(&chunk.file);
    if book.calls > found.most_calls.0 {
        found.most_calls = (book.calls, chunk.claims);
    }
    found.most_claims = found.most_claims.max(chunk.claims);
    if book.calls > CALLS_PER_CLAIM * chunk.claims {
        found.over_bound += 1;
        let (calls, claims, file) = (book.calls, chunk.claims, &chunk.file);
        found.violation(format!(
            "CALLED {calls} times for {key} of job {id} ({file}): it was claimed {claims} times, {CALLS_PER_CLAIM} calls each"
        ));
    }
    let doom = evidence.doomed.get(&chunk.file);
    if chunk.status == "COMPLETED" {
        if book.ok == 0 {
            found.violation(format!(
                "INVENTED {key} of job {id}: the model had no transcript for {}",
                chunk.file
            ));
        }
        return;
    }
    if chunk.status != "FAILED" {
        return;
    }
    let (code, message) = chunk.error.clone().unwrap_or_default();
    *found.codes.entry(code.clone()).or_default() += 1;
    let bad = book.calls.saturating_sub(book.ok);
    let has_reason = match code.as_str() {
        // Received too often: its workers were killed.
        "DEAD_LETTERED" => true,
        "AUDIO_FORBIDDEN" => {
            let outcome = evidence.ledger.outcomes.get(&(id.to_owned(), key.to_owned()));
            let by = outcome.and_then(|entries| entries.last()?.by.as_deref());
            let least = if by == Some(&app(Kind::Worker, true)) { 1 } else { REFUSALS };
            evidence.forbidden.get(&chunk.file).is_some_and(|refusals| *refusals >= least)
        }
        "ASR_UNAVAILABLE" | "ASR_TIMEOUT" => bad >= CALLS_PER_CLAIM,
        code => doom.is_some_and(|doom| *doom == code),
    };
    if !has_reason {
        found.violation(format!(
            "FAILED without a reason: {key} of job {id} ({}) with {code} ({message}); the model answered {} of {} calls",
            chunk.file, book.ok, book.calls
        ));
    }
}

/// Each outcome and end is written once, and the table holds the last one that was written.
fn ledger(evidence: &Evidence, found: &mut Findings) {
    let times = |entries: &[Entry]| {
        let all = entries.iter().map(|Entry { status, at_ms, .. }| format!("{status} at {at_ms} ms"));
        all.collect::<Vec<_>>().join(", ")
    };
    for ((id, key), entries) in &evidence.ledger.outcomes {
        if entries.len() > 1 {
            found.settled_twice += 1;
            found.violation(format!("SETTLED TWICE: {key} of job {id}: {}", times(entries)));
        }
    }
    for (id, entries) in &evidence.ledger.ends {
        if entries.len() > 1 {
            found.finished_twice += 1;
            found.violation(format!("FINISHED TWICE: job {id}: {}", times(entries)));
        }
    }
    for (id, job) in &evidence.jobs {
        let last = |entries: Option<&Vec<Entry>>| entries?.last().map(|entry| entry.status.clone());
        for (key, chunk) in job.chunks.iter().filter(|(_, chunk)| is_final(&chunk.status)) {
            let outcome = last(evidence.ledger.outcomes.get(&(id.clone(), key.clone())));
            if outcome.as_deref() != Some(chunk.status.as_str()) {
                let status = &chunk.status;
                found.violation(format!(
                    "UNSEEN: {key} of job {id} is {status}, but the last outcome that was written is {outcome:?}"
                ));
            }
        }
        let end = last(evidence.ledger.ends.get(id));
        if is_final(&job.status) && end.as_deref() != Some(job.status.as_str()) {
            found.violation(format!(
                "UNSEEN: job {id} is {}, but the last end that was written is {end:?}",
                job.status
            ));
        }
    }
}

fn is_final(status: &str) -> bool {
    matches!(status, "COMPLETED" | "FAILED")
}
