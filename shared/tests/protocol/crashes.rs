//! Crashes after each single write. The random plans cover these only by chance.

use std::time::Duration;

use longhand_shared::domain::job::JobStatus;
use longhand_shared::lifecycle::MAX_CHECK_INTERVAL;
use longhand_shared::store::FIRST_CHECK;
use longhand_shared::store::{Created, StoreError};

use crate::processes::ModelResult;
use crate::sim::{Fault, now};
use crate::world::{Recovery, World};

/// Submits a job of two chunks and works on both, one after the other. Crashes after `writes` writes.
fn run_job(world: &mut World, writes: usize) {
    world.begin_submit();
    run_until(world, writes);
    while world.wire.writes() < writes && world.process.queue.len() > 0 {
        world.begin_work(0, ModelResult::Transcribed, 0);
        run_until(world, writes);
    }
}

/// Sweeps, and delivers every message once. Crashes after `writes` writes.
fn run_recovery(world: &mut World, writes: usize) {
    world.process.clock.pass(MAX_CHECK_INTERVAL);
    world.begin_sweep(world.process.queue.len() == 0, 0);
    run_until(world, writes);
    for message in 0..world.process.queue.len() {
        if world.wire.writes() < writes {
            world.begin_work(message, ModelResult::Transcribed, 0);
            run_until(world, writes);
        }
    }
}

/// Runs all tasks one after the other until they end. Crashes after `writes` writes.
fn run_until(world: &mut World, writes: usize) {
    while world.tasks.len() > 0 && world.wire.writes() < writes {
        world.step(0, None).expect("no violation");
    }
    world.tasks.crash_all();
}

/// The job's text without attempt numbers, since a crash may cost an attempt.
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
    run_job(&mut whole, usize::MAX);
    let writes = whole.wire.writes();
    // Create; 2 messages; for each chunk claim, settle, remove unsettled, delete; finish.
    assert_eq!(writes, 12);
    assert_eq!(text(&whole).as_deref(), Some("chunk-0 chunk-1"));
    assert_eq!(whole.process.queue.len(), 0);

    for crash in 1..=writes {
        for recovery in [Recovery::Redelivery, Recovery::Sweeper, Recovery::Both] {
            let mut world = World::new(2, None);
            run_job(&mut world, crash);
            if recovery == Recovery::Redelivery
                && !world.checker.all_sent(&world.process.table, &world.process.queue)
            {
                continue;
            }
            let ended = world.recover(recovery, false);
            assert!(ended.is_ok(), "after write {crash}, {recovery:?}: {ended:?}");
            assert_eq!(text(&world), text(&whole), "after write {crash}, {recovery:?}");
        }
    }
}

#[test]
fn a_second_crash_during_recovery_leads_to_the_same_end() {
    let mut pairs = 0;
    for first in 1..=12 {
        for second in 1.. {
            let mut world = World::new(2, None);
            run_job(&mut world, first);
            run_recovery(&mut world, first + second);
            let recovered = world.wire.writes() < first + second;
            let ended = world.recover(Recovery::Both, false);
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
fn a_crash_before_the_first_write_leaves_nothing() {
    let mut world = World::new(3, None);
    world.begin_submit();
    world.tasks.crash_all();
    assert_eq!(world.process.table.peek(world.new.id), None);
    assert_eq!(world.process.queue.len(), 0);
}

#[test]
fn the_sweeper_sends_the_messages_of_a_crashed_submit() {
    for sent in 0..=4 {
        let mut world = World::new(4, None);
        world.begin_submit();
        run_until(&mut world, 1 + sent);
        assert_eq!(world.process.queue.len(), sent);

        // The job is not due yet, and then due. The queue reports no messages, as if other workers had received them.
        world.begin_sweep(true, 0);
        world.settle_down().expect("no violation");
        assert_eq!(world.process.queue.len(), sent, "the sweeper skips a new job");
        world.process.clock.pass(FIRST_CHECK);
        world.begin_sweep(true, 0);
        world.settle_down().expect("no violation");
        assert_eq!(
            world.process.queue.len(),
            sent + 4,
            "one message for each pending chunk, even if it has one"
        );

        for message in 0..sent + 4 {
            world.begin_work(message, ModelResult::Transcribed, 0);
        }
        world.settle_down().expect("no violation");
        let outcomes = world.process.table.outcomes();
        assert_eq!((outcomes["claim: claimed"], outcomes["finish: finished"]), (4, 1));
        assert_eq!(text(&world).as_deref(), Some("chunk-0 chunk-1 chunk-2 chunk-3"));
    }
}

#[test]
fn an_unreachable_queue_does_not_fail_a_submit() {
    for fault in [Fault::NotDone, Fault::NotAnswered] {
        let mut world = World::new(3, None);
        world.begin_submit();
        world.step(0, None).expect("created");
        for _ in 0..3 {
            world.step(0, Some(fault)).expect("no violation");
        }
        assert_eq!(world.tasks.len(), 0, "the submit has returned");
        assert_eq!(world.process.queue.len(), if fault == Fault::NotDone { 0 } else { 3 });
        world.recover(Recovery::Both, false).expect("the job ends");
        assert_eq!(text(&world).as_deref(), Some("chunk-0 chunk-1 chunk-2"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_submit_returns_in_time_if_the_queue_hangs() {
    let world = World::new(2, None);
    world.process.queue.stop_answering();
    let submit = tokio::time::timeout(Duration::from_secs(10), world.submit());
    assert!(matches!(submit.await, Ok(Ok(Created::New))), "the submit succeeds in time");
    assert!(world.process.table.peek(world.new.id).is_some());
}

#[test]
fn missing_messages_are_sent_even_if_the_queue_is_never_empty() {
    let mut world = World::new(2, None);
    world.begin_submit();
    run_until(&mut world, 1);
    world.recover(Recovery::Sweeper, true).expect("the job ends");
}

/// The sweeper sends a missing message when the job is five minutes old. The sweeper that does this check crashes
/// before it sends.
#[test]
fn a_check_that_a_sweeper_crash_interrupts_is_repeated() {
    // The calls: due, job, postpone, chunks.
    for calls in 3..=4 {
        let mut world = World::new(1, None);
        world.begin_submit();
        run_until(&mut world, 1);
        assert_eq!(world.process.queue.len(), 0);
        world.process.clock.pass(Duration::from_secs(301));
        world.begin_sweep(false, 0);
        for _ in 0..calls {
            world.step(0, None).expect("no violation");
        }
        world.tasks.crash_all();
        assert_eq!(world.process.queue.len(), 0);
        world.process.clock.pass(Duration::from_secs(61));
        world.begin_sweep(false, 0);
        world.settle_down().expect("no violation");
        assert_eq!(world.process.queue.len(), 1, "after {calls} calls");
    }
}

#[test]
fn an_unreachable_table_fails_a_submit_and_a_stored_job_ends() {
    for (fault, stored) in [(Fault::NotDone, false), (Fault::NotAnswered, true)] {
        let mut world = World::new(1, None);
        let submit = world.submit();
        let table = std::sync::Arc::clone(&world.process.table);
        world.tasks.begin(async move {
            if !matches!(submit.await, Err(StoreError::Unavailable(_))) {
                table.report("the submit succeeded");
            }
        });
        world.step(0, Some(fault)).expect("the submit fails");
        assert_eq!(world.process.queue.len(), 0);
        assert_eq!(world.process.table.peek(world.new.id).is_some(), stored);
        if stored {
            // A second submit changes nothing, and the job ends.
            now(world.submit()).expect("memory never fails");
            assert_eq!(world.process.queue.len(), 1);
            world.recover(Recovery::Both, false).expect("the job ends");
        }
    }
}
