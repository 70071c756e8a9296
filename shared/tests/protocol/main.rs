//! Tests of the protocol between the table and the queue (`lifecycle`) under faults: processes crash between any two
//! calls, answers are lost, clocks differ, and messages are duplicated, late or lost. Time and order are test input, so
//! a failed case can be repeated.

mod checker;
mod claims;
mod crashes;
mod exhaustive;
mod processes;
mod queue;
mod retry;
mod sim;
mod table;
mod world;

use longhand_shared::domain::job::JobStatus;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};

use processes::ModelResult;
use sim::now;
use table::Flaw;
use world::{Outcomes, World, plans, run};

/// `count` cases, unless `PROPTEST_CASES` is set. The input of a failed case is printed in full, so nothing is
/// written to the source tree.
fn cases(count: u32) -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        config
    } else {
        ProptestConfig { cases: count, ..config }
    }
}

proptest! {
    #![proptest_config(cases(600))]

    #[test]
    fn every_job_ends_once_with_the_right_result(plan in plans(false)) {
        run(&plan, None)?;
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn an_erased_job_stays_erased(plan in plans(true)) {
        run(&plan, None)?;
    }
}

/// A runner with the same plans in every run.
fn fixed(count: u32) -> TestRunner {
    let config = ProptestConfig {
        cases: count,
        failure_persistence: None,
        // Shrinking is not needed, since a failure is expected.
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn the_random_plans_reach_every_outcome() {
    let outcomes = std::cell::RefCell::new(Outcomes::new());
    fixed(200)
        .run(&any::<bool>().prop_flat_map(plans), |plan| {
            for (outcome, count) in run(&plan, None)? {
                *outcomes.borrow_mut().entry(outcome).or_default() += count;
            }
            Ok(())
        })
        .expect("no violation");
    let outcomes = outcomes.into_inner();
    for outcome in [
        "claim: claimed",
        "claim: busy",
        "claim: settled",
        "claim: gone",
        "release: released",
        "release: nothing",
        "dead letter: failed",
        "dead letter: stale",
        "dead letter: requeue",
        "settle: settled",
        "settle: already settled",
        "settle: superseded",
        "settle: gone",
        "remove unsettled: remaining",
        "remove unsettled: all settled",
        "remove unsettled: ended",
        "finish: finished",
        "finish: not open",
        "postpone: mine",
        "postpone: another's",
    ] {
        assert!(outcomes.contains_key(outcome), "{outcome} is not among {outcomes:?}");
    }
}

/// The violation that the checker reports for a flaw.
fn found(flaw: Flaw) -> String {
    match fixed(600).run(&plans(false), |plan| run(&plan, Some(flaw)).map(|_| ())) {
        Err(TestError::Fail(why, _)) => why.message().to_owned(),
        other => panic!("{flaw:?} was not found: {other:?}"),
    }
}

#[test]
fn a_store_that_settles_twice_is_found() {
    let why = found(Flaw::SettlesTwice);
    assert!(why.contains("settled twice"), "{why}");
}

#[test]
fn a_store_that_accepts_superseded_failures_is_found() {
    let why = found(Flaw::AcceptsSuperseded);
    assert!(why.contains("failed the chunk, which is"), "{why}");
}

#[test]
fn a_counter_instead_of_the_set_is_found() {
    let why = found(Flaw::CountsChunks);
    assert!(why.contains("AllSettled with a non-empty unsettled set"), "{why}");
}

#[test]
fn an_unconditional_finish_is_found() {
    let why = found(Flaw::FinishesTwice);
    assert!(why.contains("finished 2 times"), "{why}");
}

#[test]
fn a_worker_that_deletes_too_early_is_found() {
    for flaw in
        [Flaw::DeletesEarly, Flaw::DeletesWhenSuperseded, Flaw::DeletesBeforeRequeue, Flaw::DropsOrigin]
    {
        let why = found(flaw);
        assert!(why.contains("its message is deleted"), "{flaw:?}: {why}");
    }
}

#[test]
fn a_store_that_lets_any_message_claim_is_found() {
    let why = found(Flaw::ClaimsForAnyMessage);
    assert!(why.contains("was taken from a running worker"), "{why}");
}

#[test]
fn a_store_that_refuses_claims_of_the_same_message_is_found() {
    let why = found(Flaw::RefusesOwnMessage);
    assert!(why.contains("its message is deleted"), "{why}");
}

#[test]
fn a_dead_letter_that_fails_a_claimed_chunk_is_found() {
    let why = found(Flaw::FailsClaimedByOther);
    assert!(why.contains("another message's dead letter failed a running worker's chunk"), "{why}");
}

#[test]
fn a_dead_letter_deleted_without_a_new_message_is_found() {
    let why = found(Flaw::SkipsRequeue);
    assert!(why.contains("its message is deleted"), "{why}");
}

#[test]
fn a_worker_that_skips_settled_chunks_is_found() {
    let why = found(Flaw::SkipsConclude);
    assert!(why.contains("deleted"), "{why}");
}

/// A job with a worker for each chunk that has the transcription and is about to settle the chunk.
fn about_to_settle(chunks: usize) -> World {
    let mut world = World::new(chunks, None);
    now(world.submit()).expect("memory never fails");
    for message in 0..chunks {
        world.begin_work(message, ModelResult::Transcribed, 0);
    }
    for call in ["claim", "model"] {
        for task in 0..chunks {
            world.step(task, None).expect(call);
        }
    }
    world
}

#[test]
fn two_last_chunks_settled_at_once_finish_the_job_once() {
    let mut world = about_to_settle(2);
    for _ in ["settle", "remove unsettled"] {
        world.step(0, None).expect("no violation");
        world.step(1, None).expect("no violation");
    }
    // Only the second worker finds the set empty. The first worker's next call is its delete.
    let table = std::sync::Arc::clone(&world.process.table);
    assert_eq!(table.outcomes()["remove unsettled: remaining"], 1);
    assert_eq!(table.outcomes()["remove unsettled: all settled"], 1);
    world.settle_down().expect("no violation");
    assert_eq!(table.outcomes()["finish: finished"], 1);
    assert_eq!(table.outcomes().get("finish: not open"), None);
    assert_eq!(result(&world).transcription.as_deref(), Some("chunk-0-claim-1 chunk-1-claim-1"));
}

#[test]
fn concurrent_finishes_end_the_job_once() {
    let mut world = about_to_settle(2);
    for _ in ["settle", "remove unsettled"] {
        world.step(0, None).expect("no violation");
        world.step(1, None).expect("no violation");
    }
    // Both messages are delivered again before the job ends, and a sweep begins.
    world.begin_work(0, ModelResult::Rejected, 0);
    world.begin_work(1, ModelResult::Transcribed, 0);
    world.process.clock.pass(longhand_shared::store::FIRST_CHECK);
    world.begin_sweep(true, 0);
    // The first worker only has to delete its message. The repeated deliveries claim and remove from the set. The
    // sweeper calls due, job and postpone. Then all of them read the chunks.
    let (second, again, sweeper) = (1, [2, 3], 4);
    for _ in ["claim", "remove unsettled", "chunks"] {
        world.step(again[0], None).expect("no violation");
        world.step(again[1], None).expect("no violation");
    }
    for _ in ["due", "job", "postpone", "chunks"] {
        world.step(sweeper, None).expect("no violation");
    }
    world.step(second, None).expect("no violation");
    assert_eq!(world.process.table.finished(), 0, "all have read the chunks, and none has finished the job");
    for finishing in [sweeper, again[1], again[0], second] {
        world.step(finishing, None).expect("no violation");
    }
    let outcomes = world.process.table.outcomes();
    assert_eq!((outcomes["finish: finished"], outcomes["finish: not open"]), (1, 3));
    world.settle_down().expect("no violation");
    assert_eq!(result(&world).job_status, JobStatus::Completed);
}

/// The result of a job that must have ended.
fn result(world: &World) -> &longhand_shared::domain::transcript::TranscriptResult {
    world.checker.ended().expect("the job has ended")
}

#[test]
fn a_call_is_made_at_its_step() {
    let mut world = World::new(1, None);
    world.begin_submit();
    assert_eq!((world.tasks.len(), world.process.table.peek(world.new.id)), (1, None));
    world.step(0, None).expect("no violation");
    assert!(world.process.table.peek(world.new.id).is_some());
    assert_eq!((world.tasks.len(), world.process.queue.len()), (1, 0));
    world.step(0, None).expect("no violation");
    assert_eq!((world.tasks.len(), world.process.queue.len()), (0, 1));
}
