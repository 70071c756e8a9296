//! The audit: what was promised, held against what the table, the queues, the model, the proxy and the client say.
//! A pure function, so that a test can plant a fault and see it found.

use std::collections::BTreeMap;

use longhand_sim_asr::text_for;

use crate::fleet::{Exit, Kind, app};
use crate::ledger::{Entry, Ledger};

/// The calls of the model that one claim of a chunk may make: the first and three retries, in whatever form.
const CALLS_PER_CLAIM: u64 = 4;

/// How often S3 refuses a file before its chunk fails: ten turns go back to the queue (`worker/src/failure.rs`). A worker
/// of 0.1.0 fails it at once.
const REFUSALS: u64 = 11;

/// All that was gathered.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Jobs whose `202` the client read.
    pub accepted: Vec<String>,
    /// What the table holds, by job.
    pub jobs: BTreeMap<String, Job>,
    /// The api's answer for each job. An answer without a job status gets a status of its own.
    pub shown: BTreeMap<String, Shown>,
    /// Messages left: the queue and a description of each.
    pub left: Vec<String>,
    /// The model's books.
    pub model: longhand_sim_asr::Books,
    /// Files that the model never had a transcript for, and the code that their chunks must fail with.
    pub doomed: BTreeMap<String, &'static str>,
    /// How often S3 refused to give each file.
    pub forbidden: BTreeMap<String, u64>,
    /// What the table took.
    pub ledger: Ledger,
    /// How processes ended.
    pub exits: Vec<Exit>,
    /// What clients were shown that a standard client does not try again, or that is wrong.
    pub surprises: Vec<String>,
    /// What the model's books are held against.
    pub bounds: Bounds,
}

/// Limits that were set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Calls of the model at once, of all workers, with their probes.
    pub calls_at_once: usize,
}

/// A job in the table.
#[derive(Clone, Debug, Default)]
pub struct Job {
    /// `jobStatus`.
    pub status: String,
    /// `chunkCount`.
    pub chunk_count: usize,
    /// `unsettled`.
    pub unsettled: Vec<String>,
    /// Whether it has a transcript.
    pub has_transcript: bool,
    /// By the chunk's key, `chunk#07`: in order.
    pub chunks: BTreeMap<String, Chunk>,
}

/// A chunk in the table.
#[derive(Clone, Debug, Default)]
pub struct Chunk {
    /// The name of its file.
    pub file: String,
    /// `chunkStatus`.
    pub status: String,
    /// How often it was claimed.
    pub claims: u64,
    /// Its error's code and message.
    pub error: Option<(String, String)>,
}

/// A job as the api shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// `jobStatus`.
    pub status: String,
    /// `transcription`.
    pub transcription: Option<String>,
}

/// What the audit found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// Jobs whose `202` was read.
    pub accepted: usize,
    /// Jobs in the table that the client has no `202` of.
    pub unasked: usize,
    /// Jobs that ended `COMPLETED`.
    pub completed: usize,
    /// Jobs that ended `FAILED`.
    pub failed: usize,
    /// Failed chunks by their code.
    pub codes: BTreeMap<String, usize>,
    /// Accepted jobs that are not in the table.
    pub lost: usize,
    /// Jobs that have not ended.
    pub stuck: usize,
    /// Chunks that were settled more than once.
    pub settled_twice: usize,
    /// Jobs that were finished more than once.
    pub finished_twice: usize,
    /// Ended jobs whose text is not the expected one.
    pub wrong: usize,
    /// Messages left in the queue and the dead-letter queue.
    pub left: usize,
    /// The most calls of the model for one chunk, and how often that one was claimed.
    pub most_calls: (u64, u64),
    /// The most claims of one chunk.
    pub most_claims: u64,
    /// Chunks with more calls than their claims allow.
    pub over_bound: usize,
    /// The most calls of the model at once.
    pub most_at_once: usize,
    /// What clients were shown that they should not have been.
    pub surprises: usize,
    /// Everything that is not as promised, one line each: the job, the chunk, what to look at.
    pub violations: Vec<String>,
}

impl Findings {
    fn say(&mut self, violation: String) {
        self.violations.push(violation);
    }
}

/// Holds the evidence against the promises.
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
            found.say(format!("LOST job {id}: its 202 was read, and it is not in the table"));
        }
    }
    for (id, job) in &evidence.jobs {
        found.unasked += usize::from(!accepted.contains(id));
        whole(id, job, &mut found);
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
        found.say(format!("LEFT {message}"));
    }
    for surprise in &evidence.surprises {
        found.say(format!("SHOWN to a client: {surprise}"));
    }
    let bound = evidence.bounds.calls_at_once;
    if found.most_at_once > bound {
        found.say(format!("FLOODED the model: {} calls at once, {bound} allowed", found.most_at_once));
    }
    for exit in evidence.exits.iter().filter(|exit| !exit.success) {
        let Exit { name, asked, how, .. } = exit;
        let why = if *asked { "after SIGTERM" } else { "by itself" };
        found.say(format!("ENDED {name} {why} with {how}: see {name}.log"));
    }
    found
}

fn whole(id: &str, job: &Job, found: &mut Findings) {
    if job.chunks.len() != job.chunk_count || job.chunk_count == 0 {
        let (chunks, count) = (job.chunks.len(), job.chunk_count);
        found.say(format!("TORN job {id}: {chunks} chunks in the table, {count} by its own count"));
    }
}

fn stuck(id: &str, job: &Job, found: &mut Findings) {
    found.stuck += 1;
    let open: Vec<String> = job
        .chunks
        .iter()
        .filter(|(_, chunk)| !is_last(&chunk.status))
        .map(|(key, chunk)| format!("{key} {} after {} claims", chunk.status, chunk.claims))
        .collect();
    let unsettled = job.unsettled.join(",");
    found.say(format!("STUCK job {id} is {}, unsettled [{unsettled}]: {}", job.status, open.join("; ")));
}

fn ended(evidence: &Evidence, id: &str, job: &Job, found: &mut Findings) {
    let completed = job.chunks.values().all(|chunk| chunk.status == "COMPLETED");
    if job.status == "COMPLETED" {
        found.completed += 1;
    } else {
        found.failed += 1;
    }
    for (key, chunk) in &job.chunks {
        if !is_last(&chunk.status) {
            found.say(format!("TORN job {id} is {}, its {key} is {}", job.status, chunk.status));
        }
    }
    if completed != (job.status == "COMPLETED") {
        found.say(format!("TORN job {id} is {}: not what its chunks are", job.status));
    }
    if !job.unsettled.is_empty() {
        found.say(format!("TORN job {id} is {}, with {} unsettled", job.status, job.unsettled.join(",")));
    }
    if !job.has_transcript {
        found.say(format!("TORN job {id} is {} and has no transcript item", job.status));
    }
    let expected = Shown { status: job.status.clone(), transcription: expected_text(job) };
    let shown = evidence.shown.get(id).cloned().unwrap_or_default();
    if shown != expected {
        found.wrong += 1;
        found.say(format!("WRONG transcript of job {id}: the api shows {shown:?}, expected {expected:?}"));
    }
}

/// The text of an ended job: in order of the chunks, gaps marked; none if there is no chunk with one.
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
        found.say(format!(
            "CALLED {calls} times for {key} of job {id} ({file}): it was claimed {claims} times, {CALLS_PER_CLAIM} calls each"
        ));
    }
    let doom = evidence.doomed.get(&chunk.file);
    if chunk.status == "COMPLETED" {
        if book.ok == 0 {
            found.say(format!("INVENTED {key} of job {id}: the model had no transcript for {}", chunk.file));
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
        // Handed out as often as may be: its workers died.
        "DEAD_LETTERED" => true,
        "AUDIO_FORBIDDEN" => {
            let verdict = evidence.ledger.verdicts.get(&(id.to_owned(), key.to_owned()));
            let by = verdict.and_then(|entries| entries.last()?.by.as_deref());
            let least = if by == Some(&app(Kind::Worker, true)) { 1 } else { REFUSALS };
            evidence.forbidden.get(&chunk.file).is_some_and(|refusals| *refusals >= least)
        }
        "ASR_UNAVAILABLE" | "ASR_TIMEOUT" => bad >= CALLS_PER_CLAIM,
        code => doom.is_some_and(|doom| *doom == code),
    };
    if !has_reason {
        found.say(format!(
            "FAILED without a reason: {key} of job {id} ({}) with {code} ({message}); the model answered {} of {} calls",
            chunk.file, book.ok, book.calls
        ));
    }
}

/// What the table took, against what it holds: once each, and nothing past the ledger.
fn ledger(evidence: &Evidence, found: &mut Findings) {
    let times = |entries: &[Entry]| {
        let all = entries.iter().map(|Entry { status, at_ms, .. }| format!("{status} at {at_ms} ms"));
        all.collect::<Vec<_>>().join(", ")
    };
    for ((id, key), entries) in &evidence.ledger.verdicts {
        if entries.len() > 1 {
            found.settled_twice += 1;
            found.say(format!("SETTLED TWICE: {key} of job {id}: {}", times(entries)));
        }
    }
    for (id, entries) in &evidence.ledger.ends {
        if entries.len() > 1 {
            found.finished_twice += 1;
            found.say(format!("FINISHED TWICE: job {id}: {}", times(entries)));
        }
    }
    for (id, job) in &evidence.jobs {
        let last = |entries: Option<&Vec<Entry>>| entries?.last().map(|entry| entry.status.clone());
        for (key, chunk) in job.chunks.iter().filter(|(_, chunk)| is_last(&chunk.status)) {
            let verdict = last(evidence.ledger.verdicts.get(&(id.clone(), key.clone())));
            if verdict.as_deref() != Some(chunk.status.as_str()) {
                let status = &chunk.status;
                found.say(format!(
                    "UNSEEN: {key} of job {id} is {status}, the ledger's last word is {verdict:?}"
                ));
            }
        }
        let end = last(evidence.ledger.ends.get(id));
        if is_last(&job.status) && end.as_deref() != Some(job.status.as_str()) {
            found.say(format!("UNSEEN: job {id} is {}, the ledger's last word is {end:?}", job.status));
        }
    }
}

fn is_last(status: &str) -> bool {
    matches!(status, "COMPLETED" | "FAILED")
}
