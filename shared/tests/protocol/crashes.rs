//! Death after each single write, one by one, where the random worlds only come by often.

use std::time::Duration;

use longhand_shared::job::JobStatus;
use longhand_shared::lifecycle::{FIRST_CHECK, LONGEST_CHECK};
use longhand_shared::store::{Created, StoreError};

use crate::processes::Heard;
use crate::sim::{Fault, now};
use crate::world::{Finale, World};

/// Submits a job of two chunks and works on both, one after the other; dies after the `lives`-th write.
fn live(world: &mut World, lives: usize) {
    world.begin_submit();
    run_until(world, lives);
    while world.wire.writes() < lives && world.process.post.len() > 0 {
        world.begin_work(0, Heard::Words, 0);
        run_until(world, lives);
    }
}

/// Sweeps and takes every message once; dies after the `lives`-th write.
fn recover(world: &mut World, lives: usize) {
    world.process.clock.pass(LONGEST_CHECK);
    world.begin_sweep(world.process.post.len() == 0, 0);
    run_until(world, lives);
    for message in 0..world.process.post.len() {
        if world.wire.writes() < lives {
            world.begin_work(message, Heard::Words, 0);
            run_until(world, lives);
        }
    }
}

fn run_until(world: &mut World, lives: usize) {
    while world.tasks.len() > 0 && world.wire.writes() < lives {
        world.step(0, None).expect("nothing is wrong");
    }
    world.tasks.crash_all();
}

/// Without the number of the claim: a second claim is what a crash may cost.
fn text(world: &World) -> Option<String> {
    let result = world.checker.ended()?;
    assert_eq!(result.job_status, JobStatus::Completed);
    let text = result.transcription.clone()?;
    let words = text.split(' ').map(|word| word.split("-claim").next().unwrap_or_default());
    Some(words.collect::<Vec<_>>().join(" "))
}

#[test]
fn a_crash_after_any_write_leads_to_the_same_end() {
    let mut whole = World::new(2, None);
    live(&mut whole, usize::MAX);
    let writes = whole.wire.writes();
    // Create, 2 messages; claim, settle, strike, delete of each chunk; finish.
    assert_eq!(writes, 12);
    assert_eq!(text(&whole).as_deref(), Some("chunk-0 chunk-1"));
    assert_eq!(whole.process.post.len(), 0);

    for lives in 1..=writes {
        for finale in [Finale::Redelivery, Finale::Sweeper, Finale::Both] {
            let mut world = World::new(2, None);
            live(&mut world, lives);
            if finale == Finale::Redelivery
                && !world.checker.all_mailed(&world.process.table, &world.process.post)
            {
                continue;
            }
            let ended = world.finale(finale, false);
            assert!(ended.is_ok(), "after write {lives}, {finale:?}: {ended:?}");
            assert_eq!(text(&world), text(&whole), "after write {lives}, {finale:?}");
        }
    }
}

#[test]
fn a_second_crash_after_any_write_of_the_recovery_leads_to_the_same_end() {
    let mut pairs = 0;
    for first in 1..=12 {
        for second in 1.. {
            let mut world = World::new(2, None);
            live(&mut world, first);
            recover(&mut world, first + second);
            let recovered = world.wire.writes() < first + second;
            let ended = world.finale(Finale::Both, false);
            assert!(ended.is_ok(), "after writes {first} and {second}: {ended:?}");
            assert_eq!(text(&world).as_deref(), Some("chunk-0 chunk-1"), "after writes {first} and {second}");
            pairs += 1;
            if recovered {
                break;
            }
        }
    }
    assert!(pairs > 80, "{pairs} pairs");
}

#[test]
fn a_submit_that_dies_before_it_is_durable_leaves_nothing() {
    let mut world = World::new(3, None);
    world.begin_submit();
    world.tasks.crash_all();
    assert_eq!(world.process.table.peek(world.new.id), None);
    assert_eq!(world.process.post.len(), 0);
}

#[test]
fn a_submit_that_dies_before_or_amid_sending_is_completed_by_the_sweeper() {
    for sent in 0..=4 {
        let mut world = World::new(4, None);
        world.begin_submit();
        run_until(&mut world, 1 + sent);
        assert_eq!(world.process.post.len(), sent);

        // Not due yet, then due; the messages that were sent have been taken by other workers.
        world.begin_sweep(true, 0);
        world.settle_down().expect("nothing is wrong");
        assert_eq!(world.process.post.len(), sent, "the sweeper leaves a new job alone");
        world.process.clock.pass(FIRST_CHECK);
        world.begin_sweep(true, 0);
        world.settle_down().expect("nothing is wrong");
        assert_eq!(world.process.post.len(), sent + 4, "one for each that is pending, duplicates or not");

        for message in 0..sent + 4 {
            world.begin_work(message, Heard::Words, 0);
        }
        world.settle_down().expect("nothing is wrong");
        let outcomes = world.process.table.outcomes();
        assert_eq!((outcomes["claim: claimed"], outcomes["finish: finished"]), (4, 1));
        assert_eq!(text(&world).as_deref(), Some("chunk-0 chunk-1 chunk-2 chunk-3"));
    }
}

#[test]
fn a_queue_that_never_answers_a_submit_costs_no_job() {
    for fault in [Fault::NotDone, Fault::NotAnswered] {
        let mut world = World::new(3, None);
        world.begin_submit();
        world.step(0, None).expect("created");
        for _ in 0..3 {
            world.step(0, Some(fault)).expect("nothing is wrong");
        }
        assert_eq!(world.tasks.len(), 0, "the client was told that the job is made");
        assert_eq!(world.process.post.len(), if fault == Fault::NotDone { 0 } else { 3 });
        world.finale(Finale::Both, false).expect("the job ends");
        assert_eq!(text(&world).as_deref(), Some("chunk-0 chunk-1 chunk-2"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_does_not_wait_for_a_queue_that_is_silent() {
    let world = World::new(2, None);
    world.process.post.fall_silent();
    let patience = tokio::time::timeout(Duration::from_secs(10), world.submit());
    assert!(
        matches!(patience.await, Ok(Ok(Created::New))),
        "the job is made, and the client is told so in time"
    );
    assert!(world.process.table.peek(world.new.id).is_some());
}

#[test]
fn a_queue_that_is_never_empty_does_not_hide_what_was_never_sent() {
    let mut world = World::new(2, None);
    world.begin_submit();
    run_until(&mut world, 1);
    world.finale(Finale::Sweeper, true).expect("the job ends");
}

#[test]
fn a_table_that_does_not_answer_a_submit_fails_it_and_the_job_ends_if_it_was_made() {
    for (fault, made) in [(Fault::NotDone, false), (Fault::NotAnswered, true)] {
        let mut world = World::new(1, None);
        let submit = world.submit();
        let table = std::sync::Arc::clone(&world.process.table);
        world.tasks.begin(async move {
            if !matches!(submit.await, Err(StoreError::Unavailable(_))) {
                table.complain("the client was told that the job is made");
            }
        });
        world.step(0, Some(fault)).expect("the client is told");
        assert_eq!(world.process.post.len(), 0);
        assert_eq!(world.process.table.peek(world.new.id).is_some(), made);
        if made {
            // The same again changes nothing; the sweeper goes on with what is there.
            now(world.submit()).expect("memory never fails");
            assert_eq!(world.process.post.len(), 1);
            world.finale(Finale::Both, false).expect("the job ends");
        }
    }
}
