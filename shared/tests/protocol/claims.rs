//! Which message may claim a chunk: the one that it was last claimed for, and its later copies. Other messages are
//! superfluous until the claim times out.

use std::time::Duration;

use longhand_shared::domain::attempt::AttemptOutcome;
use longhand_shared::domain::job::{ChunkState, ErrorCode, JobStatus, Verdict};
use longhand_shared::{ChunkIndex, ChunkRef};

use crate::processes::{CLAIM_TIMEOUT, ModelResult};
use crate::sim::{Fault, now};
use crate::world::{Recovery, World};

const SECOND: Duration = Duration::from_secs(1);

/// A job with one pending chunk that has `messages` messages of different origins: its own, and the sweeper's.
fn waiting(messages: usize) -> World {
    let mut world = World::new(1, None);
    now(world.submit()).expect("memory never fails");
    while world.process.queue.len() < messages {
        world.resend(1).expect("no violation");
    }
    assert_eq!(world.process.queue.ids(), (0..messages).collect::<Vec<_>>());
    world
}

/// Lets a task make its next `calls` calls.
fn steps(world: &mut World, task: usize, calls: usize) {
    for _ in 0..calls {
        world.step(task, None).expect("no violation");
    }
}

/// Runs the newest task to its end. The others wait.
fn end_newest(world: &mut World) {
    let newest = world.tasks.len() - 1;
    while world.tasks.len() > newest {
        steps(world, newest, 1);
    }
}

/// Delivers a message to a worker that claims its chunk and then calls the model.
fn begin_and_claim(world: &mut World, id: usize, model: ModelResult) {
    world.begin_work_on(id, model, 0);
    let newest = world.tasks.len() - 1;
    steps(world, newest, 1);
}

/// Delivers a message to a worker that claims its chunk and crashes.
fn claim_and_crash(world: &mut World, id: usize) {
    begin_and_claim(world, id, ModelResult::Transcribed);
    let newest = world.tasks.len() - 1;
    world.tasks.crash(newest);
}

fn state(world: &World) -> ChunkState {
    let chunk = ChunkRef { job: world.new.id, index: ChunkIndex::first(1).next().expect("one") };
    world.process.table.peek_chunk(chunk).expect("the chunk exists").state
}

fn outcome(world: &World, outcome: &str) -> usize {
    world.process.table.outcomes().get(outcome).copied().unwrap_or_default()
}

fn claimed_for(world: &World) -> Option<String> {
    match state(world) {
        ChunkState::InProgress { by, .. } => Some(by.origin),
        _ => None,
    }
}

fn text(world: &World) -> Option<&str> {
    let result = world.checker.ended().expect("the job has ended");
    result.transcription.as_deref()
}

fn is_failed(world: &World, code: ErrorCode) -> bool {
    matches!(state(world), ChunkState::Settled { verdict: Verdict::Failed(error), .. } if error.code == code)
}

#[test]
fn four_messages_and_long_work_make_no_dead_letter() {
    let mut world = waiting(4);
    begin_and_claim(&mut world, 0, ModelResult::Transcribed);
    // All of them are delivered every ten seconds, while the model call takes five minutes.
    for _ in 0..30 {
        world.process.clock.pass(10 * SECOND);
        for id in world.process.queue.ids() {
            if id != 0 {
                world.begin_work_on(id, ModelResult::Transcribed, 0);
                end_newest(&mut world);
            }
        }
        world.begin_sweep(true, 0);
        end_newest(&mut world);
    }
    assert_eq!(world.process.queue.ids(), [0], "the others are deleted at their first delivery");
    assert_eq!((outcome(&world, "claim: busy"), outcome(&world, "claim: claimed")), (3, 1));
    world.settle_down().expect("no violation");
    assert_eq!(text(&world), Some("chunk-0-claim-1"));
    assert_eq!((world.process.queue.dead_lettered(), world.process.queue.len()), (0, 0));
}

#[test]
fn another_message_may_claim_only_after_the_claim_timeout() {
    let mut world = waiting(3);
    begin_and_claim(&mut world, 0, ModelResult::Rejected);
    world.process.clock.pass(CLAIM_TIMEOUT.saturating_sub(SECOND));
    world.begin_work_on(1, ModelResult::Transcribed, 0);
    end_newest(&mut world);
    assert_eq!((claimed_for(&world).as_deref(), world.process.queue.ids()), (Some("0"), vec![0, 2]));

    world.process.clock.pass(SECOND);
    begin_and_claim(&mut world, 2, ModelResult::Transcribed);
    assert_eq!(claimed_for(&world).as_deref(), Some("2"));
    // The first worker's rejection no longer counts. Its message is kept, and is superfluous when it is delivered
    // again.
    steps(&mut world, 0, 2);
    assert_eq!((outcome(&world, "settle: superseded"), world.process.queue.ids()), (1, vec![0, 2]));
    world.begin_work_on(0, ModelResult::Rejected, 0);
    end_newest(&mut world);
    assert_eq!(world.process.queue.ids(), [2]);
    world.settle_down().expect("no violation");
    assert_eq!(text(&world), Some("chunk-0-claim-2"));
}

#[test]
fn a_dead_letter_does_not_fail_a_chunk_of_another_message() {
    for model in [ModelResult::Transcribed, ModelResult::Rejected] {
        let mut world = waiting(2);
        begin_and_claim(&mut world, 0, model);
        world.begin_dead_letter(1);
        end_newest(&mut world);
        assert_eq!((outcome(&world, "dead letter: stale"), world.process.queue.ids()), (1, vec![0]));
        world.settle_down().expect("no violation");
        assert!(world.checker.ended().is_some(), "by its worker's verdict");
        assert_eq!(is_failed(&world, ErrorCode::AsrRejected), model == ModelResult::Rejected);
        assert!(!is_failed(&world, ErrorCode::DeadLettered));
    }
}

/// Lets three workers crash, and then handles the dead letter.
fn crash_thrice(world: &mut World, id: usize, claims: usize) {
    for _ in 0..3 {
        world.begin_work_on(id, ModelResult::Transcribed, 0);
        steps(world, 0, claims);
        world.tasks.crash_all();
    }
    world.begin_work_on(id, ModelResult::Transcribed, 0);
    world.settle_down().expect("no violation");
}

#[test]
fn a_chunk_with_lost_workers_fails_at_its_third_dead_letter() {
    let mut world = waiting(1);
    for id in [0, 1] {
        crash_thrice(&mut world, id, 1);
        assert_eq!(world.process.queue.ids(), [id + 1], "the message was requeued");
    }
    crash_thrice(&mut world, 2, 1);
    assert!(is_failed(&world, ErrorCode::DeadLettered));
    assert_eq!(world.checker.ended().map(|result| result.job_status), Some(JobStatus::Failed));
    assert_eq!((world.process.queue.dead_lettered(), world.process.queue.len()), (3, 0));
    let chunk = &world.checker.ended().expect("the job ended").chunks[0];
    assert_eq!(chunk.attempts, 9);
    assert!(chunk.history.iter().all(|attempt| attempt.outcome == AttemptOutcome::Lost));
}

#[test]
fn an_unclaimed_dead_letter_is_requeued_up_to_the_limit() {
    let mut world = waiting(1);
    crash_thrice(&mut world, 0, 0);
    assert_eq!((outcome(&world, "dead letter: requeue"), world.process.queue.ids()), (1, vec![1]));
    world.begin_dead_letter(1);
    world.settle_down().expect("no violation");
    assert!(is_failed(&world, ErrorCode::DeadLettered));
}

#[test]
fn an_overdue_chunk_fails_at_its_first_dead_letter() {
    let mut world = waiting(1);
    for model in [ModelResult::Overdue, ModelResult::LeaseLost, ModelResult::Overdue] {
        world.begin_work_on(0, model, 0);
        world.settle_down().expect("no violation");
    }
    world.begin_work_on(0, ModelResult::Transcribed, 0);
    world.settle_down().expect("no violation");
    assert!(is_failed(&world, ErrorCode::DeadLettered));
    let chunk = &world.checker.ended().expect("the job ended").chunks[0];
    let outcomes: Vec<_> = chunk.history.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [AttemptOutcome::Overdue, AttemptOutcome::LeaseLost, AttemptOutcome::Overdue]);
    assert_eq!(chunk.attempts, 2, "the lost lease does not count");
}

#[test]
fn a_dead_letter_of_a_released_chunk_keeps_its_origin() {
    let mut world = waiting(1);
    for _ in 0..3 {
        world.begin_work_on(0, ModelResult::LeaseLost, 0);
        world.settle_down().expect("no violation");
    }
    world.begin_work_on(0, ModelResult::Transcribed, 0);
    world.settle_down().expect("no violation");
    assert_eq!((outcome(&world, "dead letter: requeue"), world.process.queue.ids()), (1, vec![1]));
    begin_and_claim(&mut world, 1, ModelResult::Transcribed);
    assert_eq!(claimed_for(&world).as_deref(), Some("0"));
    world.settle_down().expect("no violation");
    assert_eq!(text(&world), Some("chunk-0-claim-4"));
}

/// The dead letter's worker reads the chunk. Before it can fail the chunk, the queue delivers the same message again,
/// and the chunk is claimed and released.
#[test]
fn a_dead_letter_that_is_superseded_is_requeued() {
    let mut world = waiting(1);
    claim_and_crash(&mut world, 0);
    world.begin_dead_letter(0);
    steps(&mut world, 0, 1);
    world.begin_work_again(0, ModelResult::LeaseLost, 0);
    end_newest(&mut world);
    world.settle_down().expect("no violation");
    assert_eq!((outcome(&world, "settle: superseded"), world.process.queue.ids()), (1, vec![1]));
    world.recover(Recovery::Redelivery, false).expect("the job ends");
    assert_eq!(text(&world), Some("chunk-0-claim-3"));
}

#[test]
fn a_copy_may_claim_at_once_if_the_release_failed() {
    for fault in [Fault::NotDone, Fault::NotAnswered] {
        let mut world = waiting(1);
        begin_and_claim(&mut world, 0, ModelResult::Down);
        steps(&mut world, 0, 1);
        world.step(0, Some(fault)).expect("the release fails");
        world.settle_down().expect("no violation");
        assert_eq!(claimed_for(&world).is_some(), fault == Fault::NotDone);
        assert_eq!(world.process.queue.ids(), [1]);
        world.begin_work_on(1, ModelResult::Transcribed, 0);
        world.settle_down().expect("no violation");
        assert_eq!(text(&world), Some("chunk-0-claim-2"));
    }
}

/// A job with two messages, 0 and 1, of one origin: a worker requeued message 0 and crashed before it deleted it.
fn requeued_without_delete() -> World {
    let mut world = waiting(1);
    begin_and_claim(&mut world, 0, ModelResult::Down);
    // The model, the release, the send.
    steps(&mut world, 0, 3);
    world.tasks.crash_all();
    assert_eq!(world.process.queue.ids(), [0, 1]);
    world
}

#[test]
fn a_later_copy_may_claim_and_an_earlier_one_may_not() {
    let mut world = requeued_without_delete();
    // The later copy claimed and released the chunk, so the earlier one is superfluous.
    begin_and_claim(&mut world, 1, ModelResult::LeaseLost);
    end_newest(&mut world);
    world.begin_work_on(0, ModelResult::Transcribed, 0);
    end_newest(&mut world);
    assert_eq!((outcome(&world, "claim: busy"), world.process.queue.ids()), (1, vec![1]));

    let mut world = requeued_without_delete();
    begin_and_claim(&mut world, 0, ModelResult::Rejected);
    begin_and_claim(&mut world, 1, ModelResult::Transcribed);
    assert_eq!((outcome(&world, "claim: busy"), claimed_for(&world).as_deref()), (0, Some("0")));
    steps(&mut world, 0, 2);
    assert_eq!(outcome(&world, "settle: superseded"), 1);
    // The worker with the later copy crashes, and the message is delivered again.
    world.tasks.crash_all();
    assert_eq!(world.process.queue.ids(), [0, 1]);
    world.begin_work_on(0, ModelResult::Transcribed, 0);
    end_newest(&mut world);
    assert_eq!(world.process.queue.ids(), [1], "the earlier copy is deleted");
    world.recover(Recovery::Redelivery, false).expect("the job ends");
    assert_eq!(outcome(&world, "settle: settled"), 1);
}

#[test]
fn a_dead_letter_does_not_fail_a_chunk_of_a_later_copy() {
    let mut world = requeued_without_delete();
    claim_and_crash(&mut world, 0);
    claim_and_crash(&mut world, 0);
    begin_and_claim(&mut world, 1, ModelResult::Transcribed);
    world.begin_work_on(0, ModelResult::Transcribed, 0);
    end_newest(&mut world);
    assert_eq!((outcome(&world, "dead letter: stale"), world.process.queue.ids()), (1, vec![1]));
    world.settle_down().expect("no violation");
    assert_eq!(text(&world), Some("chunk-0-claim-4"));
}

/// A chunk without a message. One worker finds message 1 superfluous. Another worker receives it too and claims the
/// chunk for it, and then the first worker deletes it. The other worker crashes, and message 0 is superfluous.
fn orphaned() -> World {
    let mut world = waiting(2);
    begin_and_claim(&mut world, 0, ModelResult::LeaseLost);
    begin_and_claim(&mut world, 1, ModelResult::Transcribed);
    assert_eq!(
        (outcome(&world, "claim: busy"), world.tasks.len()),
        (1, 2),
        "the worker is about to delete 1"
    );
    // The worker with message 0 releases the chunk.
    steps(&mut world, 0, 2);
    claim_and_crash(&mut world, 1);
    assert_eq!((claimed_for(&world).as_deref(), world.tasks.len()), (Some("1"), 1));
    world.settle_down().expect("no violation");
    world.begin_work_on(0, ModelResult::Transcribed, 0);
    world.settle_down().expect("no violation");
    assert_eq!(world.process.queue.len(), 0);
    world
}

#[test]
fn the_sweeper_repairs_a_chunk_without_a_message() {
    let mut world = orphaned();
    assert!(
        !world.checker.all_sent(&world.process.table, &world.process.queue),
        "redelivery alone need not end the job"
    );
    assert!(world.recover(Recovery::Redelivery, false).is_err(), "no message is left");
    for recovery in [Recovery::Sweeper, Recovery::Both] {
        let mut world = orphaned();
        world.recover(recovery, true).expect("the job ends");
        assert_eq!(text(&world), Some("chunk-0-claim-3"));
    }
}
