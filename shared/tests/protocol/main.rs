//! The protocol between the table and the queue (`lifecycle`), in worlds where processes die
//! between any two calls, answers are lost, clocks disagree and messages come twice, late or not
//! at all. Time and order are values: a case that fails once fails always.

mod again;
mod charge;
mod checker;
mod crashes;
mod exhaustive;
mod post;
mod processes;
mod sim;
mod table;
mod world;

use longhand_shared::job::JobStatus;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestError, TestRng, TestRunner};

use processes::Heard;
use sim::now;
use table::Flaw;
use world::{Sights, World, plans, run};

/// As many cases as given here, unless `PROPTEST_CASES` says otherwise. The input of a failed case
/// is printed in full, so nothing is written to the source tree.
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
    fn every_job_ends_once_and_rightly_whatever_happens_on_the_way(plan in plans(false)) {
        run(&plan, None)?;
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn a_job_that_is_erased_at_any_moment_stays_gone(plan in plans(true)) {
        run(&plan, None)?;
    }
}

/// The same plans at every run.
fn fixed(count: u32) -> TestRunner {
    let config = ProptestConfig {
        cases: count,
        failure_persistence: None,
        // The smallest example is of no interest when one is expected.
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn the_worlds_are_wild_enough_to_meet_every_outcome() {
    let sights = std::cell::RefCell::new(Sights::new());
    fixed(200)
        .run(&any::<bool>().prop_flat_map(plans), |plan| {
            for (sight, count) in run(&plan, None)? {
                *sights.borrow_mut().entry(sight).or_default() += count;
            }
            Ok(())
        })
        .expect("nothing is wrong");
    let sights = sights.into_inner();
    for outcome in [
        "claim: claimed",
        "claim: busy",
        "claim: settled",
        "claim: gone",
        "release: released",
        "release: nothing",
        "burial: failed",
        "burial: stale",
        "burial: blameless",
        "settle: settled",
        "settle: already settled",
        "settle: superseded",
        "settle: gone",
        "strike: remaining",
        "strike: all settled",
        "strike: ended",
        "finish: finished",
        "finish: not open",
        "postpone: mine",
        "postpone: another's",
    ] {
        assert!(sights.contains_key(outcome), "{outcome} is not among {sights:?}");
    }
}

/// What the checker says of a flaw.
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
fn a_store_that_hears_the_superseded_is_found() {
    let why = found(Flaw::HearsTheSuperseded);
    assert!(why.contains("failed the chunk, which is"), "{why}");
}

#[test]
fn a_counter_in_place_of_the_set_is_found() {
    let why = found(Flaw::CountsDown);
    assert!(why.contains("ended with chunks not struck off"), "{why}");
}

#[test]
fn an_end_without_its_condition_is_found() {
    let why = found(Flaw::EndsTwice);
    assert!(why.contains("finished 2 times"), "{why}");
}

#[test]
fn a_worker_that_deletes_too_early_is_found() {
    for flaw in
        [Flaw::DeletesEarly, Flaw::DeletesWhenSuperseded, Flaw::DeletesBeforeRequeue, Flaw::ForgetsTheOrigin]
    {
        let why = found(flaw);
        assert!(why.contains("its message is deleted"), "{flaw:?}: {why}");
    }
}

#[test]
fn a_store_that_lets_any_message_claim_is_found() {
    let why = found(Flaw::ClaimsForAnyone);
    assert!(why.contains("was taken from a living worker"), "{why}");
}

#[test]
fn a_store_that_keeps_a_chunk_from_its_own_message_is_found() {
    let why = found(Flaw::BusyForItsOwn);
    assert!(why.contains("its message is deleted"), "{why}");
}

#[test]
fn a_dead_letter_that_fails_what_is_another_messages_is_found() {
    let why = found(Flaw::BuriesAnothers);
    assert!(why.contains("another's dead letter failed a living worker's chunk"), "{why}");
}

#[test]
fn a_dead_letter_that_is_deleted_although_its_chunk_is_not_to_blame_is_found() {
    let why = found(Flaw::BuriesTheBlameless);
    assert!(why.contains("its message is deleted"), "{why}");
}

#[test]
fn a_worker_that_does_not_conclude_what_another_settled_is_found() {
    let why = found(Flaw::LeavesSettledAlone);
    assert!(why.contains("deleted"), "{why}");
}

/// A job whose chunks are each in the hand of a worker that has heard it and is about to settle.
fn about_to_settle(chunks: usize) -> World {
    let mut world = World::new(chunks, None);
    now(world.submit()).expect("memory never fails");
    for message in 0..chunks {
        world.begin_work(message, Heard::Words, 0);
    }
    for call in ["claim", "model"] {
        for task in 0..chunks {
            world.step(task, None).expect(call);
        }
    }
    world
}

#[test]
fn the_last_two_chunks_settling_at_the_same_moment_finish_the_job_once() {
    let mut world = about_to_settle(2);
    for _ in ["settle", "strike"] {
        world.step(0, None).expect("nothing is wrong");
        world.step(1, None).expect("nothing is wrong");
    }
    // The second to strike sees the empty set, and only it: the first one's next call is its delete.
    let table = std::sync::Arc::clone(&world.process.table);
    assert_eq!(table.outcomes()["strike: remaining"], 1);
    assert_eq!(table.outcomes()["strike: all settled"], 1);
    world.settle_down().expect("nothing is wrong");
    assert_eq!(table.outcomes()["finish: finished"], 1);
    assert_eq!(table.outcomes().get("finish: not open"), None);
    assert_eq!(result(&world).transcription.as_deref(), Some("chunk-0-claim-1 chunk-1-claim-1"));
}

#[test]
fn any_number_that_see_the_last_chunk_settled_at_once_finish_the_job_once() {
    let mut world = about_to_settle(2);
    for _ in ["settle", "strike"] {
        world.step(0, None).expect("nothing is wrong");
        world.step(1, None).expect("nothing is wrong");
    }
    // Both messages come again before the job is ended, and the sweeper comes by.
    world.begin_work(0, Heard::Refusal, 0);
    world.begin_work(1, Heard::Words, 0);
    world.process.clock.pass(longhand_shared::lifecycle::FIRST_CHECK);
    world.begin_sweep(true, 0);
    // The first worker has nothing more to do but to delete. Of the others: claim and strike; look
    // for what is due, read the job, postpone; then all of them read the chunks.
    let (second, again, sweeper) = (1, [2, 3], 4);
    for _ in ["claim", "strike", "chunks"] {
        world.step(again[0], None).expect("nothing is wrong");
        world.step(again[1], None).expect("nothing is wrong");
    }
    for _ in ["due", "job", "postpone", "chunks"] {
        world.step(sweeper, None).expect("nothing is wrong");
    }
    world.step(second, None).expect("nothing is wrong");
    assert_eq!(world.process.table.finished(), 0, "all have read, none has ended it");
    for finishing in [sweeper, again[1], again[0], second] {
        world.step(finishing, None).expect("nothing is wrong");
    }
    let outcomes = world.process.table.outcomes();
    assert_eq!((outcomes["finish: finished"], outcomes["finish: not open"]), (1, 3));
    world.settle_down().expect("nothing is wrong");
    assert_eq!(result(&world).job_status, JobStatus::Completed);
}

/// The end of a job that must have ended.
fn result(world: &World) -> &longhand_shared::transcript::TranscriptResult {
    world.checker.ended().expect("the job has ended")
}

#[test]
fn a_call_is_made_at_its_step_and_not_before() {
    let mut world = World::new(1, None);
    world.begin_submit();
    assert_eq!((world.tasks.len(), world.process.table.peek(world.new.id)), (1, None));
    world.step(0, None).expect("nothing is wrong");
    assert!(world.process.table.peek(world.new.id).is_some());
    assert_eq!((world.tasks.len(), world.process.post.len()), (1, 0));
    world.step(0, None).expect("nothing is wrong");
    assert_eq!((world.tasks.len(), world.process.post.len()), (0, 1));
}
