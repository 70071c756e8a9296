//! The audit finds each broken promise: evidence of a good run with one injected fault.

use std::collections::BTreeMap;
use std::time::Duration;

use longhand_chaos::audit::{Chunk, Evidence, Findings, Job, Shown, audit};
use longhand_chaos::fleet::Exit;
use longhand_chaos::ledger::Ledger;
use longhand_sim_asr::{Books, FileBook, text_for};
use serde_json::json;

const GOOD: &str = "good-job";
const FAILED: &str = "failed-job";

fn settle(ledger: &mut Ledger, job: &str, key: &str, status: &str) {
    settle_by(ledger, job, key, status, None);
}

fn settle_by(ledger: &mut Ledger, job: &str, key: &str, status: &str, by: Option<&str>) {
    let request = json!({
        "Key": {"jobId": {"S": job}, "item": {"S": key}},
        "UpdateExpression": "SET chunkStatus = :status",
        "ExpressionAttributeValues": {":status": {"S": status}},
    });
    ledger.note("UpdateItem", request.to_string().as_bytes(), Duration::from_secs(1), by);
}

fn finish(ledger: &mut Ledger, job: &str, status: &str, token: &str) {
    let request = json!({"ClientRequestToken": token, "TransactItems": [{"Update": {
        "Key": {"jobId": {"S": job}, "item": {"S": "job"}},
        "UpdateExpression": "SET jobStatus = :status",
        "ExpressionAttributeValues": {":status": {"S": status}},
    }}]});
    ledger.note("TransactWriteItems", request.to_string().as_bytes(), Duration::from_secs(2), None);
}

fn chunk(file: &str, claims: u64, code: Option<&str>) -> Chunk {
    let status = if code.is_some() { "FAILED" } else { "COMPLETED" };
    let error = code.map(|code| (code.to_owned(), "for a reason".to_owned()));
    Chunk { file: file.to_owned(), status: status.to_owned(), claims, error }
}

/// A completed job, a job with a chunk without a transcript, and a job with a chunk on which the model failed.
fn evidence() -> Evidence {
    let mut ledger = Ledger::default();
    let mut jobs = BTreeMap::new();
    let mut shown = BTreeMap::new();
    let mut model = Books { most_in_flight: 24, ..Books::default() };
    let all = [
        (GOOD, "COMPLETED", vec![chunk("a.wav", 1, None), chunk("b.wav", 3, None)]),
        (
            FAILED,
            "FAILED",
            vec![
                chunk("c.wav", 1, None),
                chunk("d.wav", 1, Some("ASR_PROTOCOL")),
                chunk("e.wav", 1, Some("ASR_UNAVAILABLE")),
            ],
        ),
    ];
    for (id, status, chunks) in all {
        let keys: Vec<String> = (0..chunks.len()).map(|index| format!("chunk#{index:02}")).collect();
        for (key, chunk) in keys.iter().zip(&chunks) {
            settle(&mut ledger, id, key, &chunk.status);
            let ok = u64::from(chunk.error.is_none());
            let calls = if chunk.file == "e.wav" { 4 } else { 1 };
            model.per_file.insert(chunk.file.clone(), FileBook { calls, ok, ..FileBook::default() });
        }
        finish(&mut ledger, id, status, id);
        let job = Job {
            status: status.to_owned(),
            chunk_count: chunks.len(),
            unsettled: Vec::new(),
            has_transcript: true,
            chunks: keys.into_iter().zip(chunks).collect(),
        };
        jobs.insert(id.to_owned(), job);
    }
    let show = |status: &str, text: String| Shown { status: status.to_owned(), transcription: Some(text) };
    let (a, b, c) = (text_for("a.wav"), text_for("b.wav"), text_for("c.wav"));
    shown.insert(GOOD.to_owned(), show("COMPLETED", format!("{a} {b}")));
    shown.insert(FAILED.to_owned(), show("FAILED", format!("{c} [chunk 1 failed] [chunk 2 failed]")));
    Evidence {
        accepted: vec![GOOD.to_owned(), FAILED.to_owned()],
        jobs,
        shown,
        left: Vec::new(),
        model,
        doomed: [("d.wav".to_owned(), "ASR_PROTOCOL")].into(),
        ledger,
        exits: vec![Exit {
            name: "api-1".to_owned(),
            asked: true,
            how: "exit status: 0".to_owned(),
            success: true,
        }],
        surprises: Vec::new(),
        forbidden: BTreeMap::new(),
        calls_at_once: 24,
    }
}

/// The findings for the evidence with this fault.
fn with(inject: impl FnOnce(&mut Evidence)) -> Findings {
    let mut evidence = evidence();
    inject(&mut evidence);
    audit(&evidence)
}

/// Asserts that there is one violation, with all of these parts.
#[track_caller]
fn only(found: &Findings, what: &[&str]) {
    assert_eq!(found.violations.len(), 1, "{:#?}", found.violations);
    for part in what {
        assert!(found.violations[0].contains(part), "{part:?} in {:?}", found.violations[0]);
    }
}

fn job<'a>(evidence: &'a mut Evidence, id: &str) -> &'a mut Job {
    evidence.jobs.get_mut(id).expect("there")
}

fn chunk_of<'a>(evidence: &'a mut Evidence, id: &str, key: &str) -> &'a mut Chunk {
    job(evidence, id).chunks.get_mut(key).expect("there")
}

#[test]
fn a_good_run_has_no_violation() {
    let found = with(|_| ());
    assert_eq!(found.violations, [""; 0]);
    assert_eq!((found.accepted, found.completed, found.failed), (2, 1, 1));
    assert_eq!((found.lost, found.stuck, found.wrong, found.unasked), (0, 0, 0, 0));
    assert_eq!(found.codes, [("ASR_PROTOCOL".to_owned(), 1), ("ASR_UNAVAILABLE".to_owned(), 1)].into());
    assert_eq!((found.most_calls, found.most_claims), ((4, 1), 3));
}

#[test]
fn an_accepted_job_that_is_not_in_the_table_is_lost() {
    let found = with(|evidence| evidence.accepted.push("gone".to_owned()));
    only(&found, &["LOST", "gone"]);
    assert_eq!(found.lost, 1);
}

#[test]
fn a_job_whose_202_was_lost_is_reported_and_must_end() {
    let unasked = |evidence: &mut Evidence| evidence.accepted.retain(|id| id != GOOD);
    let found = with(unasked);
    assert_eq!((found.unasked, found.violations.len()), (1, 0));
    let found = with(|evidence| {
        unasked(evidence);
        job(evidence, GOOD).status = "IN_PROGRESS".to_owned();
        evidence.ledger.ends.remove(GOOD);
    });
    only(&found, &["STUCK", GOOD]);
}

#[test]
fn a_job_that_does_not_end_is_stuck() {
    let found = with(|evidence| {
        let open = job(evidence, GOOD);
        open.status = "IN_PROGRESS".to_owned();
        open.unsettled = vec!["1".to_owned()];
        let chunk = chunk_of(evidence, GOOD, "chunk#01");
        chunk.status = "PENDING".to_owned();
        evidence.ledger.ends.remove(GOOD);
        evidence.ledger.outcomes.remove(&(GOOD.to_owned(), "chunk#01".to_owned()));
    });
    only(&found, &["STUCK", GOOD, "chunk#01 PENDING after 3 claims", "unsettled [1]"]);
    assert_eq!(found.stuck, 1);
}

#[test]
fn a_chunk_that_was_settled_twice_is_found() {
    let found = with(|evidence| settle(&mut evidence.ledger, GOOD, "chunk#01", "COMPLETED"));
    only(&found, &["SETTLED TWICE", GOOD, "chunk#01"]);
    assert_eq!(found.settled_twice, 1);
}

#[test]
fn a_job_that_was_finished_twice_is_found_and_a_repeated_transaction_is_not() {
    let found = with(|evidence| finish(&mut evidence.ledger, GOOD, "COMPLETED", "another token"));
    only(&found, &["FINISHED TWICE", GOOD]);
    assert_eq!(found.finished_twice, 1);
    assert_eq!(with(|evidence| finish(&mut evidence.ledger, GOOD, "COMPLETED", GOOD)).violations, [""; 0]);
}

#[test]
fn a_wrong_transcript_is_found() {
    let say = |text: Option<String>| {
        with(|evidence| evidence.shown.get_mut(GOOD).expect("there").transcription = text)
    };
    let (a, b) = (text_for("a.wav"), text_for("b.wav"));
    for text in
        [None, Some(format!("{b} {a}")), Some(a.clone()), Some(format!("{a} {a}")), Some(format!("{a}{b}"))]
    {
        let found = say(text);
        only(&found, &["WRONG", GOOD]);
        assert_eq!(found.wrong, 1);
    }
    let found = with(|evidence| {
        let shown = evidence.shown.get_mut(FAILED).expect("there");
        shown.transcription = Some(text_for("c.wav"));
    });
    only(&found, &["WRONG", FAILED, "[chunk 1 failed]"]);
    only(&with(|evidence| drop(evidence.shown.remove(GOOD))), &["WRONG", GOOD]);
}

#[test]
fn messages_that_are_left_are_found() {
    let found = with(|evidence| evidence.left.push("in the dead-letter queue: {}".to_owned()));
    only(&found, &["LEFT", "dead-letter"]);
    assert_eq!(found.left, 1);
}

#[test]
fn more_calls_than_the_claims_allow_are_found() {
    let calls =
        |count| with(|evidence| evidence.model.per_file.get_mut("a.wav").expect("there").calls = count);
    assert_eq!(calls(4).violations, [""; 0]);
    only(&calls(5), &["CALLED 5 times", "chunk#00", GOOD, "a.wav", "claimed 1 times"]);
    assert_eq!(calls(6).over_bound, 1);
}

#[test]
fn too_many_calls_at_once_are_found() {
    only(&with(|evidence| evidence.model.most_in_flight = 25), &["FLOODED", "25", "24"]);
}

#[test]
fn a_failure_without_a_cause_is_found() {
    let fail = |code: &'static str| {
        with(|evidence| {
            chunk_of(evidence, FAILED, "chunk#01").error = Some((code.to_owned(), "x".to_owned()));
        })
    };
    for code in ["INTERNAL", "AUDIO_NOT_FOUND", "ASR_REJECTED", "ASR_UNAVAILABLE", "ASR_TIMEOUT"] {
        only(&fail(code), &["FAILED without a reason", FAILED, "chunk#01", "d.wav", code]);
    }
    assert_eq!(fail("DEAD_LETTERED").violations, [""; 0]);
    let found = with(|evidence| evidence.model.per_file.get_mut("e.wav").expect("there").calls = 3);
    only(&found, &["FAILED without a reason", "e.wav", "ASR_UNAVAILABLE"]);
}

#[test]
fn audio_that_s3_refused_too_seldom_may_not_fail_its_chunk() {
    let refused = |times: u64, by: &str| {
        with(|evidence| {
            evidence.ledger.outcomes.remove(&(FAILED.to_owned(), "chunk#01".to_owned()));
            settle_by(&mut evidence.ledger, FAILED, "chunk#01", "FAILED", Some(by));
            let error = ("AUDIO_FORBIDDEN".to_owned(), "x".to_owned());
            chunk_of(evidence, FAILED, "chunk#01").error = Some(error);
            evidence.forbidden.insert("d.wav".to_owned(), times);
        })
    };
    for (times, by) in [(0, "new-worker"), (10, "new-worker"), (0, "old-worker")] {
        only(&refused(times, by), &["FAILED without a reason", "d.wav", "AUDIO_FORBIDDEN"]);
    }
    assert_eq!(refused(11, "new-worker").violations, [""; 0]);
    assert_eq!(refused(1, "old-worker").violations, [""; 0], "0.1.0 fails it at once");
}

#[test]
fn a_transcript_that_the_model_never_returned_is_found() {
    let found = with(|evidence| evidence.model.per_file.get_mut("a.wav").expect("there").ok = 0);
    only(&found, &["INVENTED", GOOD, "chunk#00", "a.wav"]);
}

#[test]
fn an_incomplete_end_is_found() {
    only(&with(|evidence| job(evidence, GOOD).has_transcript = false), &["TORN", GOOD, "no transcript"]);
    only(&with(|evidence| job(evidence, GOOD).unsettled.push("0".to_owned())), &["TORN", GOOD, "unsettled"]);
    let found = with(|evidence| drop(job(evidence, GOOD).chunks.remove("chunk#01")));
    assert!(
        found.violations.iter().any(|line| line.contains("TORN") && line.contains("1 chunks")),
        "{found:?}"
    );
    let found = with(|evidence| chunk_of(evidence, GOOD, "chunk#01").status = "IN_PROGRESS".to_owned());
    assert!(found.violations.iter().any(|line| line.contains("its chunk#01 is IN_PROGRESS")), "{found:?}");
}

#[test]
fn a_state_that_was_never_written_is_found() {
    let key = (GOOD.to_owned(), "chunk#00".to_owned());
    only(&with(|evidence| drop(evidence.ledger.outcomes.remove(&key))), &["UNSEEN", GOOD, "chunk#00"]);
    only(&with(|evidence| drop(evidence.ledger.ends.remove(GOOD))), &["UNSEEN", GOOD]);
}

#[test]
fn a_process_that_failed_is_found() {
    let exit = |asked| Exit {
        name: "worker-2".to_owned(),
        asked,
        how: "exit status: 101".to_owned(),
        success: false,
    };
    only(&with(|evidence| evidence.exits.push(exit(true))), &["ENDED worker-2", "SIGTERM", "101"]);
    only(&with(|evidence| evidence.exits.push(exit(false))), &["ENDED worker-2", "by itself"]);
}

#[test]
fn an_answer_that_no_client_may_see_is_found() {
    let found = with(|evidence| evidence.surprises.push("a read was answered 404: gone".to_owned()));
    only(&found, &["SHOWN to a client", "a read was answered 404: gone"]);
    assert_eq!(found.surprises, 1);
}
