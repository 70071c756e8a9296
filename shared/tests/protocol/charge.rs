//! Who is in charge of a chunk: the message that it was claimed for, whose copies may claim it again
//! and before which all other messages give way.

use std::time::Duration;

use longhand_shared::attempt::AttemptOutcome;
use longhand_shared::job::{ChunkState, ErrorCode, JobStatus, Verdict};
use longhand_shared::{ChunkIndex, ChunkRef};

use crate::processes::{Heard, SILENCE};
use crate::sim::{Fault, now};
use crate::world::{Finale, World};

const SECOND: Duration = Duration::from_secs(1);

/// A job of one chunk that waits with `messages` messages of different origins: its own, and the sweeper's.
fn waiting(messages: usize) -> World {
    let mut world = World::new(1, None);
    now(world.submit()).expect("memory never fails");
    while world.process.post.len() < messages {
        world.resend(1).expect("nothing is wrong");
    }
    assert_eq!(world.process.post.ids(), (0..messages).collect::<Vec<_>>());
    world
}

/// The task makes its next `calls` calls.
fn steps(world: &mut World, task: usize, calls: usize) {
    for _ in 0..calls {
        world.step(task, None).expect("nothing is wrong");
    }
}

/// Lets the newest task end; the others wait.
fn end_newest(world: &mut World) {
    let newest = world.tasks.len() - 1;
    while world.tasks.len() > newest {
        steps(world, newest, 1);
    }
}

/// Gives a message to a worker that claims its chunk and is at work from then on.
fn begin_and_claim(world: &mut World, id: usize, heard: Heard) {
    world.begin_work_on(id, heard, 0);
    let newest = world.tasks.len() - 1;
    steps(world, newest, 1);
}

/// Gives a message to a worker that claims its chunk and dies.
fn claim_and_die(world: &mut World, id: usize) {
    begin_and_claim(world, id, Heard::Words);
    let newest = world.tasks.len() - 1;
    world.tasks.crash(newest);
}

fn state(world: &World) -> ChunkState {
    let chunk = ChunkRef { job: world.new.id, index: ChunkIndex::first(1).next().expect("one") };
    world.process.table.peek_chunk(chunk).expect("it is there").state
}

fn outcome(world: &World, outcome: &str) -> usize {
    world.process.table.outcomes().get(outcome).copied().unwrap_or_default()
}

fn in_charge(world: &World) -> Option<String> {
    match state(world) {
        ChunkState::InProgress { by, .. } => Some(by),
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
    begin_and_claim(&mut world, 0, Heard::Words);
    // All of them come every ten seconds, while the chunk is worked on for five minutes.
    for _ in 0..30 {
        world.process.clock.pass(10 * SECOND);
        for id in world.process.post.ids() {
            if id != 0 {
                world.begin_work_on(id, Heard::Words, 0);
                end_newest(&mut world);
            }
        }
        world.begin_sweep(true, 0);
        end_newest(&mut world);
    }
    assert_eq!(world.process.post.ids(), [0], "the others were dropped when they first came");
    assert_eq!((outcome(&world, "claim: busy"), outcome(&world, "claim: claimed")), (3, 1));
    world.settle_down().expect("nothing is wrong");
    assert_eq!(text(&world), Some("chunk-0-claim-1"));
    assert_eq!((world.process.post.died(), world.process.post.len()), (0, 0));
}

#[test]
fn a_message_that_is_not_in_charge_takes_over_after_the_silence_and_not_before() {
    let mut world = waiting(3);
    begin_and_claim(&mut world, 0, Heard::Refusal);
    world.process.clock.pass(SILENCE.saturating_sub(SECOND));
    world.begin_work_on(1, Heard::Words, 0);
    end_newest(&mut world);
    assert_eq!((in_charge(&world).as_deref(), world.process.post.ids()), (Some("0"), vec![0, 2]));

    world.process.clock.pass(SECOND);
    begin_and_claim(&mut world, 2, Heard::Words);
    assert_eq!(in_charge(&world).as_deref(), Some("2"));
    // The first worker hears a refusal, which does not count any more; its message is kept, and
    // superfluous when it comes again.
    steps(&mut world, 0, 2);
    assert_eq!((outcome(&world, "settle: superseded"), world.process.post.ids()), (1, vec![0, 2]));
    world.begin_work_on(0, Heard::Refusal, 0);
    end_newest(&mut world);
    assert_eq!(world.process.post.ids(), [2]);
    world.settle_down().expect("nothing is wrong");
    assert_eq!(text(&world), Some("chunk-0-claim-2"));
}

#[test]
fn a_dead_letter_does_not_touch_a_chunk_in_the_charge_of_another_message() {
    for heard in [Heard::Words, Heard::Refusal] {
        let mut world = waiting(2);
        begin_and_claim(&mut world, 0, heard);
        world.begin_burial(1);
        end_newest(&mut world);
        assert_eq!((outcome(&world, "burial: stale"), world.process.post.ids()), (1, vec![0]));
        world.settle_down().expect("nothing is wrong");
        assert!(world.checker.ended().is_some(), "by what its worker heard");
        assert_eq!(is_failed(&world, ErrorCode::AsrRejected), heard == Heard::Refusal);
        assert!(!is_failed(&world, ErrorCode::DeadLettered));
    }
}

/// Three workers die, and the dead letter is looked at.
fn die_thrice_and_bury(world: &mut World, id: usize, claims: usize) {
    for _ in 0..3 {
        world.begin_work_on(id, Heard::Words, 0);
        steps(world, 0, claims);
        world.tasks.crash_all();
    }
    world.begin_work_on(id, Heard::Words, 0);
    world.settle_down().expect("nothing is wrong");
}

#[test]
fn a_chunk_whose_workers_died_goes_back_twice_and_fails_the_third_time() {
    let mut world = waiting(1);
    for id in [0, 1] {
        die_thrice_and_bury(&mut world, id, 1);
        assert_eq!(world.process.post.ids(), [id + 1], "it went back");
    }
    die_thrice_and_bury(&mut world, 2, 1);
    assert!(is_failed(&world, ErrorCode::DeadLettered));
    assert_eq!(world.checker.ended().map(|result| result.job_status), Some(JobStatus::Failed));
    assert_eq!((world.process.post.died(), world.process.post.len()), (3, 0));
    let chunk = &world.checker.ended().expect("it ended").chunks[0];
    assert_eq!(chunk.attempts, 9);
    assert!(chunk.history.iter().all(|attempt| attempt.outcome == AttemptOutcome::Lost));
}

#[test]
fn a_message_that_nobody_could_even_claim_for_goes_back_until_its_bound() {
    let mut world = waiting(1);
    die_thrice_and_bury(&mut world, 0, 0);
    assert_eq!((outcome(&world, "burial: blameless"), world.process.post.ids()), (1, vec![1]));
    world.begin_burial(1);
    world.settle_down().expect("nothing is wrong");
    assert!(is_failed(&world, ErrorCode::DeadLettered));
}

#[test]
fn a_chunk_that_is_never_done_in_time_fails_with_its_first_dead_letter() {
    let mut world = waiting(1);
    for heard in [Heard::Overdue, Heard::LeaseLost, Heard::Overdue] {
        world.begin_work_on(0, heard, 0);
        world.settle_down().expect("nothing is wrong");
    }
    world.begin_work_on(0, Heard::Words, 0);
    world.settle_down().expect("nothing is wrong");
    assert!(is_failed(&world, ErrorCode::DeadLettered));
    let chunk = &world.checker.ended().expect("it ended").chunks[0];
    let told: Vec<_> = chunk.history.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(told, [AttemptOutcome::Overdue, AttemptOutcome::LeaseLost, AttemptOutcome::Overdue]);
    assert_eq!(chunk.attempts, 2, "the lost lease does not count");
}

#[test]
fn a_dead_letter_whose_chunk_was_given_back_goes_back_with_its_origin() {
    let mut world = waiting(1);
    for _ in 0..3 {
        world.begin_work_on(0, Heard::LeaseLost, 0);
        world.settle_down().expect("nothing is wrong");
    }
    world.begin_work_on(0, Heard::Words, 0);
    world.settle_down().expect("nothing is wrong");
    assert_eq!((outcome(&world, "burial: blameless"), world.process.post.ids()), (1, vec![1]));
    begin_and_claim(&mut world, 1, Heard::Words);
    assert_eq!(in_charge(&world).as_deref(), Some("0"));
    world.settle_down().expect("nothing is wrong");
    assert_eq!(text(&world), Some("chunk-0-claim-4"));
}

/// The dead letter has read the chunk; before it can fail it, the chunk is claimed and given back, since
/// the queue brings the same message once more.
#[test]
fn a_dead_letter_that_comes_too_late_to_fail_its_chunk_is_not_lost() {
    let mut world = waiting(1);
    claim_and_die(&mut world, 0);
    world.begin_burial(0);
    steps(&mut world, 0, 1);
    world.begin_work_again(0, Heard::LeaseLost, 0);
    end_newest(&mut world);
    world.settle_down().expect("nothing is wrong");
    assert_eq!((outcome(&world, "settle: superseded"), world.process.post.ids()), (1, vec![1]));
    world.finale(Finale::Redelivery, false).expect("the job ends");
    assert_eq!(text(&world), Some("chunk-0-claim-3"));
}

#[test]
fn a_copy_claims_at_once_what_could_not_be_given_back() {
    for fault in [Fault::NotDone, Fault::NotAnswered] {
        let mut world = waiting(1);
        begin_and_claim(&mut world, 0, Heard::Nothing);
        steps(&mut world, 0, 1);
        world.step(0, Some(fault)).expect("the release fails");
        world.settle_down().expect("nothing is wrong");
        assert_eq!(in_charge(&world).is_some(), fault == Fault::NotDone);
        assert_eq!(world.process.post.ids(), [1]);
        world.begin_work_on(1, Heard::Words, 0);
        world.settle_down().expect("nothing is wrong");
        assert_eq!(text(&world), Some("chunk-0-claim-2"));
    }
}

/// A job whose message was put back by a worker that died before it could delete the first: two
/// messages, 0 and 1, of one origin.
fn put_back_by_halves() -> World {
    let mut world = waiting(1);
    begin_and_claim(&mut world, 0, Heard::Nothing);
    // The model, the release, the send.
    steps(&mut world, 0, 3);
    world.tasks.crash_all();
    assert_eq!(world.process.post.ids(), [0, 1]);
    world
}

#[test]
fn two_copies_take_a_chunk_from_each_other_and_settle_it_once() {
    for (first, second) in [(0, 1), (1, 0)] {
        let mut world = put_back_by_halves();
        begin_and_claim(&mut world, first, Heard::Refusal);
        begin_and_claim(&mut world, second, Heard::Words);
        assert_eq!((outcome(&world, "claim: busy"), in_charge(&world).as_deref()), (0, Some("0")));
        steps(&mut world, 0, 2);
        assert_eq!(outcome(&world, "settle: superseded"), 1);
        // The one that took over dies; either message is enough.
        world.tasks.crash_all();
        assert_eq!(world.process.post.ids(), [0, 1]);
        world.finale(Finale::Redelivery, false).expect("the job ends");
        assert_eq!(outcome(&world, "settle: settled"), 1);
    }
}

#[test]
fn a_dead_copy_leaves_the_chunk_to_the_copy_that_is_worked_on() {
    let mut world = put_back_by_halves();
    claim_and_die(&mut world, 0);
    claim_and_die(&mut world, 0);
    begin_and_claim(&mut world, 1, Heard::Words);
    world.begin_work_on(0, Heard::Words, 0);
    end_newest(&mut world);
    assert_eq!((outcome(&world, "burial: blameless"), world.process.post.ids()), (1, vec![1, 2]));
    world.settle_down().expect("nothing is wrong");
    assert_eq!(text(&world), Some("chunk-0-claim-4"));
}

/// A chunk without a message: 1 was superfluous when one worker saw it, came to another as well, was in
/// charge by then, and was deleted by the first. The other dies, and 0 gives way to nobody.
fn orphaned() -> World {
    let mut world = waiting(2);
    begin_and_claim(&mut world, 0, Heard::LeaseLost);
    begin_and_claim(&mut world, 1, Heard::Words);
    assert_eq!((outcome(&world, "claim: busy"), world.tasks.len()), (1, 2), "about to delete 1");
    // 0 gives its chunk back.
    steps(&mut world, 0, 2);
    claim_and_die(&mut world, 1);
    assert_eq!((in_charge(&world).as_deref(), world.tasks.len()), (Some("1"), 1));
    world.settle_down().expect("nothing is wrong");
    world.begin_work_on(0, Heard::Words, 0);
    world.settle_down().expect("nothing is wrong");
    assert_eq!(world.process.post.len(), 0);
    world
}

#[test]
fn a_superfluous_message_that_comes_twice_may_leave_a_chunk_to_the_sweeper() {
    let mut world = orphaned();
    assert!(!world.checker.all_mailed(&world.process.table, &world.process.post), "no promise is made");
    assert!(world.finale(Finale::Redelivery, false).is_err(), "nothing can come");
    for finale in [Finale::Sweeper, Finale::Both] {
        let mut world = orphaned();
        world.finale(finale, true).expect("the job ends");
        assert_eq!(text(&world), Some("chunk-0-claim-3"));
    }
}
