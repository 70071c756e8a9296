//! One chunk's life: from the message to the end of the job, and what repeats, races and comes late.

use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::job::{ChunkStatus, ErrorCode, JobStatus, Transcription, Verdict};
use longhand_shared::queue::{ChunkMessage, ChunkQueue};
use longhand_shared::store::{JobStore, RemoveUnsettled, Settle};
use longhand_shared::{Attempt, Timestamp};
use longhand_sim_asr::{Answer, Behaviour, Latency, text_for};
use longhand_worker::runner::Limits;
use tokio::time::{Instant, sleep};

use crate::support::{CLAIM_TIMEOUT, Fault, Kind, Op, World, by, chunk_of, limits, secs, unavailable};

fn completed(text: &str) -> Verdict {
    Verdict::Completed(Transcription::new(text, None, vec![]).expect("small"))
}

#[tokio::test(start_paused = true)]
async fn a_chunk_costs_two_writes_and_a_job_in_one_worker_one_more() {
    let world = World::new(Behaviour::taking(Latency::Uniform { from_ms: 5_000, to_ms: 9_000 })).await;
    let files = ["a.wav", "b.wav", "c.wav", "d.wav", "e.wav", "f.wav"];
    let job = world.submit(&files).await;
    let running = world.work();
    let result = world.ended(job).await;
    world.emptied().await;
    running.stop().await;

    assert_eq!((result.job_status, result.partial), (JobStatus::Completed, false));
    let expected: Vec<String> = files.iter().map(|file| text_for(file)).collect();
    assert_eq!(result.transcription, Some(expected.join(" ")));
    assert!(result.chunks.iter().all(|chunk| chunk.attempts == 1 && chunk.error.is_none()));
    let counts = [Op::Claim, Op::Settle, Op::Job, Op::RemoveUnsettled, Op::Chunks, Op::Finish, Op::Release]
        .map(|op| world.store.count(op));
    assert_eq!(counts, [6, 6, 1, 0, 1, 1, 0]);
    assert_eq!((world.sim.books().calls, world.dead.len().await), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn a_slow_or_stopped_sibling_delays_no_other_message() {
    let world = World::new(Behaviour::taking(Latency::Fixed(1_000))).await;
    world.sim.script("a.wav", [Answer::Hang, Answer::Hang, Answer::Hang, Answer::Hang]);
    let job = world.submit(&["a.wav", "b.wav", "c.wav"]).await;
    let running = world.work();
    // The settled chunks wait for the one that hangs, but not for long.
    assert!(world.sim.wait_until(|books| books.in_flight == 1, secs(5)).await);
    sleep(secs(25)).await;
    assert_eq!((world.queue.len().await, world.store.count(Op::RemoveUnsettled)), (1, 2));
    running.stop().await;

    world.sim.set(Behaviour::default());
    let next = world.work();
    let result = world.ended(job).await;
    world.emptied().await;
    next.stop().await;
    assert_eq!((result.job_status, world.store.count(Op::RemoveUnsettled)), (JobStatus::Completed, 3));
}

#[tokio::test(start_paused = true)]
async fn a_job_ends_at_once_though_its_chunks_wait_in_several_workers() {
    let world = World::new(Behaviour::default()).await;
    for (file, ms) in [("a.wav", 2_000), ("b.wav", 9_000), ("c.wav", 1_000), ("d.wav", 8_000)] {
        world.sim.script(file, [Answer::After { ms, answer: Box::new(Answer::Echo) }]);
    }
    let began = Instant::now();
    let job = world.submit(&["a.wav", "b.wav", "c.wav", "d.wav"]).await;
    let workers = [(); 2].map(|()| world.work_with(world.processor(), limits(2)));
    let result = world.ended(job).await;
    assert!(began.elapsed() < secs(10), "{:?}", began.elapsed());
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(result.job_status, JobStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_transcript() {
    let world = World::new(Behaviour::answering(Answer::Empty)).await;
    let job = world.submit(&["a.wav"]).await;
    let running = world.work();
    let result = world.ended(job).await;
    running.stop().await;
    assert_eq!((result.job_status, result.transcription.as_deref()), (JobStatus::Completed, Some("")));
}

#[tokio::test(start_paused = true)]
async fn one_bad_chunk_among_good_ones_fails_the_job_and_keeps_the_rest() {
    let world = World::new(Behaviour::default()).await;
    world.sim.script("c.wav", [Answer::status(400), Answer::status(400)]);
    let job = world.job(&["a.wav", "b.wav", "c.wav"], true);
    std::fs::remove_file(world.root.path().join("a.wav")).expect("removed");
    let job = world.send(&job).await;
    let running = world.work();
    let result = world.ended(job).await;
    world.emptied().await;
    running.stop().await;
    assert_eq!((result.job_status, result.partial), (JobStatus::Failed, true));
    let text = format!("[chunk 0 failed] {} [chunk 2 failed]", text_for("b.wav"));
    assert_eq!(result.transcription, Some(text));
    let codes: Vec<_> = result.chunks.iter().map(|it| it.error.as_ref().map(|error| error.code)).collect();
    assert_eq!(codes, [Some(ErrorCode::AudioNotFound), None, Some(ErrorCode::AsrRejected)]);
    assert_eq!(world.sim.books().calls, 3);
    // Only a job without failed chunks is read to end without the removal.
    assert_eq!([Op::Job, Op::RemoveUnsettled].map(|op| world.store.count(op)), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_first_transcription_of_the_last_chunk_stands() {
    let world = World::new(Behaviour::taking(Latency::Fixed(5_000))).await;
    let job = world.submit(&["a.wav"]).await;
    let running = world.work();
    assert!(world.sim.wait_until(|books| books.in_flight == 1, secs(5)).await);
    // Another worker has the same claim, and dies right after this write.
    let store = &world.store.inner;
    let settled =
        store.settle(chunk_of(job, 0), &Attempt::number(1), &completed("first"), Timestamp::now()).await;
    assert_eq!(settled.expect("memory answers"), Settle::Settled);
    let result = world.ended(job).await;
    running.stop().await;
    assert_eq!(result.transcription.as_deref(), Some("first"));
}

#[tokio::test(start_paused = true)]
async fn the_message_of_a_settled_chunk_ends_a_job_that_a_crash_left_open() {
    // After each write of the worker that died: settled; settled and removed.
    for removed in [false, true] {
        let world = World::new(Behaviour::default()).await;
        let job = world.submit(&["a.wav"]).await;
        let store = &world.store.inner;
        let chunk = chunk_of(job, 0);
        store.claim(chunk, by("a"), Timestamp::now(), CLAIM_TIMEOUT).await.expect("memory answers");
        let settled = store.settle(chunk, &Attempt::number(1), &completed("before"), Timestamp::now()).await;
        assert_eq!(settled.expect("memory answers"), Settle::Settled);
        if removed {
            assert!(matches!(
                store.remove_unsettled(job, &[chunk.index]).await,
                Ok(RemoveUnsettled::AllSettled(_))
            ));
        }
        let running = world.work();
        let result = world.ended(job).await;
        world.emptied().await;
        running.stop().await;
        assert_eq!(result.transcription.as_deref(), Some("before"), "removed: {removed}");
        assert_eq!(world.sim.books().calls, 0, "the model is not asked again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_of_a_job_that_is_gone_is_deleted() {
    let world = World::new(Behaviour::default()).await;
    let job = world.submit(&["a.wav", "b.wav"]).await;
    world.store.inner.expire(job);
    let running = world.work();
    world.emptied().await;
    running.stop().await;
    assert_eq!((world.sim.books().calls, world.dead.len().await), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_job_erased_while_its_chunk_is_transcribed_harms_nothing() {
    let world = World::new(Behaviour::taking(Latency::Fixed(5_000))).await;
    let job = world.submit(&["a.wav"]).await;
    let running = world.work();
    assert!(world.sim.wait_until(|books| books.in_flight == 1, secs(5)).await);
    world.store.inner.expire(job);
    world.emptied().await;
    running.stop().await;
    assert_eq!(world.dead.len().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_chunk_delivered_twice_at_once_is_transcribed_once_and_settled_once() {
    let world = World::new(Behaviour::taking(Latency::Fixed(9_000))).await;
    let new = world.job(&["a.wav"], true);
    let job = world.send(&new).await;
    let copy = ChunkMessage::outgoing(&new.job(), &new.chunks()[0], None);
    world.queue.put(&[copy]).await;
    let running = world.work();
    let result = world.ended(job).await;
    world.emptied().await;
    running.stop().await;
    assert_eq!(result.job_status, JobStatus::Completed);
    assert_eq!((world.sim.books().calls, world.store.count(Op::Finish)), (1, 1));
    assert_eq!((result.chunks[0].attempts, world.dead.len().await), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_chunk_in_hand_goes_and_leaves_it_to_the_message_in_charge() {
    let world = World::new(Behaviour::taking(Latency::Fixed(20_000))).await;
    let new = world.job(&["a.wav"], true);
    let job = world.send(&new).await;
    let running = world.work();
    assert!(world.sim.wait_until(|books| books.calls == 1, secs(5)).await);
    for _ in 0..5 {
        world.queue.put(&[ChunkMessage::outgoing(&new.job(), &new.chunks()[0], None)]).await;
        sleep(secs(3)).await;
        assert_eq!(world.queue.len().await, 1, "the copy is deleted, the one in charge is not");
    }
    let result = world.ended(job).await;
    running.stop().await;
    assert_eq!((world.sim.books().calls, result.chunks[0].attempts), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_chunk_whose_worker_died_is_taken_over_as_soon_as_its_message_comes_again() {
    let world = World::new(Behaviour::default()).await;
    let job = world.submit(&["a.wav"]).await;
    // A worker receives and claims, and dies.
    let dead = world.queue.receive(1, secs(0), secs(30)).await.expect("up").swap_remove(0);
    let now = Timestamp::now();
    world.store.claim(chunk_of(job, 0), by(dead.origin()), now, CLAIM_TIMEOUT).await.expect("up");
    let began = Instant::now();
    let running = world.work();
    let result = world.ended(job).await;
    assert!((30..=31).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    running.stop().await;
    assert_eq!((result.job_status, result.chunks[0].attempts), (JobStatus::Completed, 2));
}

#[tokio::test(start_paused = true)]
async fn a_chunk_whose_message_was_lost_is_taken_over_by_another_after_the_silence() {
    let world = World::new(Behaviour::default()).await;
    let new = world.job(&["a.wav"], true);
    let job = world.send(&new).await;
    world.store.claim(chunk_of(job, 0), by("lost"), Timestamp::now(), CLAIM_TIMEOUT).await.expect("up");
    let running = world.work();
    world.emptied().await;
    assert_eq!(world.sim.books().calls, 0);
    sleep(CLAIM_TIMEOUT).await;
    world.queue.put(&[ChunkMessage::outgoing(&new.job(), &new.chunks()[0], None)]).await;
    assert_eq!(world.ended(job).await.job_status, JobStatus::Completed);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_queue_hands_out_twice_at_once_is_settled_once() {
    let world = World::new(Behaviour::taking(Latency::Fixed(5_000))).await;
    world.queue.fault(|call| if call.kind == Kind::Receive { Fault::Duplicate } else { Fault::None });
    let job = world.submit(&["a.wav", "b.wav"]).await;
    let running = world.work();
    let result = world.ended(job).await;
    world.emptied().await;
    running.stop().await;
    assert_eq!((result.job_status, world.dead.len().await), (JobStatus::Completed, 0));
    assert!(world.sim.books().calls <= 4);
}

#[tokio::test(start_paused = true)]
async fn a_late_delivery_changes_nothing() {
    let world = World::new(Behaviour::default()).await;
    let new = world.job(&["a.wav", "b.wav"], true);
    let job = world.send(&new).await;
    let running = world.work();
    let before = world.ended(job).await;
    world.emptied().await;
    world.sim.set(Behaviour::answering(Answer::Text("other".to_owned())));
    let copies: Vec<_> =
        new.chunks().iter().map(|chunk| ChunkMessage::outgoing(&new.job(), chunk, None)).collect();
    world.queue.put(&copies).await;
    world.emptied().await;
    running.stop().await;
    assert_eq!(world.result(job).await, before);
    assert_eq!((world.sim.books().calls, world.dead.len().await), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn one_who_lost_the_chunk_may_still_complete_it_but_not_fail_it() {
    // What it then does with its message: deletes it, or keeps it until it knows who is in charge. It does not call
    // again in another form.
    let cases =
        [(Answer::Echo, ChunkStatus::Completed, 1, 1), (Answer::status(400), ChunkStatus::InProgress, 2, 1)];
    for (answer, status, claims, calls) in cases {
        let world = World::new(Behaviour::default()).await;
        let answer = answer.after_ms(9_000);
        world.sim.script("a.wav", [answer.clone(), answer]);
        let job = world.submit(&["a.wav"]).await;
        let running = world.work();
        assert!(world.sim.wait_until(|books| books.calls == 1, secs(5)).await);
        let much_later = Timestamp::now().plus(CLAIM_TIMEOUT + secs(60));
        world
            .store
            .inner
            .claim(chunk_of(job, 0), by("another"), much_later, CLAIM_TIMEOUT)
            .await
            .expect("up");
        world.emptied().await;
        running.stop().await;
        let chunk = world.chunk(job, 0).await;
        assert_eq!((chunk.status(), chunk.attempt), (status, 2));
        assert_eq!(world.store.count(Op::Claim), claims);
        assert_eq!(world.sim.books().calls, calls);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_two_chunks_at_the_same_moment_finish_the_job_once() {
    let world = World::new(Behaviour::taking(Latency::Fixed(5_000))).await;
    let job = world.submit(&["a.wav", "b.wav"]).await;
    let workers = [(); 2].map(|()| world.work_with(world.processor(), limits(1)));
    let result = world.ended(job).await;
    world.emptied().await;
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!((result.job_status, world.store.count(Op::RemoveUnsettled)), (JobStatus::Completed, 2));
    let again = world.lifecycle().conclude(job, &[chunk_of(job, 0).index], Timestamp::now()).await;
    assert!(!again.expect("memory answers"), "it has ended before");
    assert_eq!(world.result(job).await, result);
}

#[tokio::test(start_paused = true)]
async fn a_drain_gives_the_claim_back_and_burns_no_attempt() {
    let world = World::new(Behaviour::answering(Answer::Hang)).await;
    let job = world.submit(&["a.wav"]).await;
    let running = world.work();
    assert!(world.sim.wait_until(|books| books.in_flight == 1, secs(5)).await);
    let took = running.stop().await;
    assert!(took < secs(17), "{took:?}");
    let chunk = world.chunk(job, 0).await;
    assert_eq!((chunk.status(), chunk.attempt, chunk.released), (ChunkStatus::Pending, 1, 1));
    assert!(world.sim.wait_until(|books| books.in_flight == 0, secs(5)).await, "the call was cancelled");
    assert_eq!(world.queue.held().await.visible, 1);

    world.sim.set(Behaviour::default());
    let next = world.work();
    let result = world.ended(job).await;
    next.stop().await;
    assert_eq!((result.job_status, result.chunks[0].attempts), (JobStatus::Completed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_chunk_received_after_the_stop_is_not_sent_to_the_model() {
    let world = World::new(Behaviour::default()).await;
    let running = world.work();
    sleep(secs(2)).await;
    running.stop.cancel();
    let job = world.submit(&["a.wav"]).await;
    running.stop().await;
    assert_eq!((world.sim.books().calls, world.queue.held().await.visible), (0, 1));
    assert_eq!(world.chunk(job, 0).await.status(), ChunkStatus::Pending);
}

#[tokio::test(start_paused = true)]
async fn five_deploys_in_the_middle_of_a_chunk_dead_letter_nothing() {
    let world = World::new(Behaviour::answering(Answer::Hang)).await;
    let job = world.submit(&["a.wav", "b.wav"]).await;
    for turn in 1..=5 {
        let running = world.work();
        assert!(world.sim.wait_until(|books| books.calls == 2 * turn, secs(60)).await);
        running.stop().await;
    }
    world.sim.set(Behaviour::default());
    let running = world.work();
    let result = world.ended(job).await;
    running.stop().await;
    assert_eq!((result.job_status, world.dead.len().await), (JobStatus::Completed, 0));
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_always_takes_too_long_ends_as_a_dead_letter() {
    let world = World::new(Behaviour::answering(Answer::Hang)).await;
    let job = world.submit(&["a.wav"]).await;
    let limits = Limits { longest: secs(40), ..limits(2) };
    let (running, consumer) = (world.work_with(world.processor(), limits), world.consume_dead_letters());
    let result = world.ended(job).await;
    running.stop().await;
    consumer.stop().await;
    let error = result.chunks[0].error.as_ref().expect("it failed");
    assert_eq!(error.code, ErrorCode::DeadLettered);
    let aborted = world.sim.books().aborted;
    assert!(aborted >= 3, "each of three claims was cut off: {aborted}");
    assert!(world.store.count(Op::Claim) >= 3);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_cancels_the_call_to_the_model() {
    let world = World::new(Behaviour::answering(Answer::Hang)).await;
    let job = world.submit(&["a.wav"]).await;
    world.queue.fail(Kind::Change, unavailable());
    let running = world.work();
    let began = Instant::now();
    assert!(world.sim.wait_until(|books| books.aborted == 2, secs(100)).await);
    assert!(began.elapsed() < secs(70), "the timeout cuts one call, the lost lease the next");
    world.sim.set(Behaviour::default());
    world.queue.heal();
    let result = world.ended(job).await;
    running.stop().await;
    assert_eq!(result.job_status, JobStatus::Completed);
}

#[tokio::test(start_paused = true)]
async fn many_jobs_of_many_workers_are_each_settled_once() {
    let world = World::new(Behaviour::taking(Latency::Uniform { from_ms: 100, to_ms: 9_000 })).await;
    let files: Vec<String> = (0..MAX_CHUNKS).map(|number| format!("{number}.wav")).collect();
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let mut jobs = Vec::new();
    for _ in 0..4 {
        jobs.push(world.submit(&files).await);
    }
    let running = [world.work(), world.work(), world.work()];
    for job in jobs {
        let result = world.ended(job).await;
        assert_eq!(result.job_status, JobStatus::Completed);
        let texts: Vec<String> = files.iter().map(|file| text_for(file)).collect();
        assert_eq!(result.transcription, Some(texts.join(" ")));
    }
    for running in running {
        running.stop().await;
    }
    assert_eq!(world.sim.books().calls, 96);
    assert!(world.sim.books().most_in_flight <= MAX_CHUNKS);
    assert_eq!(world.store.count(Op::Settle), 96);
}
