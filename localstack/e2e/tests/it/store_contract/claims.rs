//! Claims, verdicts, what is told of each attempt, and another try.

use longhand_e2e::eventually;
use longhand_shared::attempt::{Attempt, AttemptOutcome, MAX_HISTORY};
use longhand_shared::job::{ChunkState, ChunkStatus, ErrorCode, JobState, JobStatus, Verdict};
use longhand_shared::store::{Claim, Detail, Finish, Search, Settle, Strike, read};
use longhand_shared::transcript::TranscriptResult;

use super::{SILENCE, Store, at, by, chunk, claimed, failed, finished, heard, made};

pub(super) async fn a_claim_keeps_other_messages_off_until_it_is_long_silent(store: Store) {
    let job = made(&store, 1).await;
    let it = chunk(&job, 0);
    let claim = async |message, seconds| match store
        .claim(it, by(message), at(seconds), SILENCE)
        .await
        .expect("an answer")
    {
        Claim::Claimed(attempt) => Some(attempt.number),
        Claim::Busy => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(claim("first", 0).await, Some(1));
    assert_eq!(claim("other", 299).await, None);
    // Handed out again: whoever had it has lost it.
    assert_eq!(claim("first", 1).await, Some(2));
    assert_eq!(claim("other", 300).await, None);
    assert_eq!(claim("other", 301).await, Some(3));
    assert_eq!(claim("first", 302).await, None);
    let state = store.chunks(job.id).await.expect("read")[0].state.clone();
    assert_eq!(
        state,
        ChunkState::InProgress { claimed: at(301), by: "other".to_owned(), message: "id-other".to_owned() }
    );
}

pub(super) async fn a_claim_that_was_given_back_is_no_claim(store: Store) {
    let job = made(&store, 1).await;
    let it = chunk(&job, 0);
    let first = claimed(&store, it, at(0)).await;
    store.release(it, &first).await.expect("given back");
    let given_back = store.chunks(job.id).await.expect("read").remove(0);
    assert_eq!((given_back.status(), given_back.attempt, given_back.released), (ChunkStatus::Pending, 1, 1));

    let second = claimed(&store, it, at(1)).await;
    assert_eq!(second.number, 2);
    store.release(it, &first).await.expect("nothing happens");
    assert_eq!(store.chunks(job.id).await.expect("read")[0].status(), ChunkStatus::InProgress);

    store.settle(it, &second, &heard("x"), at(2)).await.expect("settled");
    store.release(it, &second).await.expect("nothing happens");
    assert_eq!(store.chunks(job.id).await.expect("read")[0].status(), ChunkStatus::Completed);
}

pub(super) async fn a_chunk_is_settled_once(store: Store) {
    let job = made(&store, 3).await;
    let settle = async |index, verdict: Verdict, seconds| {
        store.settle(chunk(&job, index), &Attempt::number(0), &verdict, at(seconds)).await.expect("an answer")
    };
    assert_eq!(settle(0, heard("first"), 1).await, Settle::Settled);
    assert_eq!(settle(0, heard("second"), 2).await, Settle::AlreadySettled);
    assert_eq!(settle(0, failed(), 2).await, Settle::AlreadySettled);
    assert_eq!(settle(1, failed(), 3).await, Settle::Settled);
    assert_eq!(settle(1, heard("late"), 4).await, Settle::AlreadySettled);

    let chunks = store.chunks(job.id).await.expect("read");
    assert_eq!(chunks[0].state, ChunkState::Settled { at: at(1), verdict: heard("first") });
    assert_eq!(chunks[1].state, ChunkState::Settled { at: at(3), verdict: failed() });
    assert_eq!(
        store.claim(chunk(&job, 0), by("message"), at(60), SILENCE).await.expect("an answer"),
        Claim::Settled
    );
}

pub(super) async fn a_failure_counts_for_the_newest_claim_only(store: Store) {
    let job = made(&store, 2).await;
    for index in [0, 1] {
        claimed(&store, chunk(&job, index), at(0)).await;
        claimed(&store, chunk(&job, index), at(20)).await;
    }
    let late_failure =
        store.settle(chunk(&job, 0), &Attempt::number(1), &failed(), at(21)).await.expect("an answer");
    assert_eq!(late_failure, Settle::Superseded);
    assert_eq!(store.chunks(job.id).await.expect("read")[0].status(), ChunkStatus::InProgress);
    // A transcription is true whoever brings it.
    let late_success =
        store.settle(chunk(&job, 1), &Attempt::number(1), &heard("x"), at(21)).await.expect("an answer");
    assert_eq!(late_success, Settle::Settled);
    let newest =
        store.settle(chunk(&job, 0), &Attempt::number(2), &failed(), at(22)).await.expect("an answer");
    assert_eq!(newest, Settle::Settled);
}

pub(super) async fn each_attempt_is_told(store: Store) {
    let job = made(&store, 1).await;
    let it = chunk(&job, 0);
    claimed(&store, it, at(0)).await;
    let second = claimed(&store, it, at(10)).await;
    store.release(it, &second.ended(AttemptOutcome::Drained, at(12), 1)).await.expect("given back");
    let third = claimed(&store, it, at(20)).await;
    store.release(it, &third.ended(AttemptOutcome::Overdue, at(320), 4)).await.expect("given back");
    let chunk = store.chunks(job.id).await.expect("read").remove(0);
    assert_eq!((chunk.status(), chunk.attempt, chunk.attempts()), (ChunkStatus::Pending, 3, 2));

    for turn in 0..MAX_HISTORY as u64 {
        let attempt = claimed(&store, it, at(400 + turn)).await;
        store
            .release(it, &attempt.ended(AttemptOutcome::Throttled, at(400 + turn), 4))
            .await
            .expect("given back");
    }
    let last = claimed(&store, it, at(500)).await;
    let told = store.chunks(job.id).await.expect("read").remove(0).told();
    assert_eq!(told.last().map(|attempt| attempt.outcome), Some(AttemptOutcome::Running));
    let verdict = failed();
    store.settle(it, &last.settled(&verdict, at(501), 2), &verdict, at(501)).await.expect("settled");

    let told = store.chunks(job.id).await.expect("read").remove(0).told();
    assert_eq!(told.len(), MAX_HISTORY);
    let newest = told.last().expect("ten");
    assert_eq!((newest.outcome, newest.code), (AttemptOutcome::Failed, Some(ErrorCode::AudioNotFound)));
    assert_eq!((newest.started_time, newest.seconds, newest.asr_calls), (at(500), Some(1.0), Some(2)));
    assert_eq!(newest.worker, "w-1");
    assert!(told[..MAX_HISTORY - 1].iter().all(|attempt| attempt.outcome == AttemptOutcome::Throttled));
}

pub(super) async fn a_failed_job_is_opened_again_once(store: Store) {
    let job = made(&store, 2).await;
    let first = claimed(&store, chunk(&job, 0), at(1)).await;
    store.settle(chunk(&job, 0), &first, &heard("kept"), at(1)).await.expect("settled");
    store.strike(chunk(&job, 0)).await.expect("struck");
    let second = claimed(&store, chunk(&job, 1), at(1)).await;
    store.settle(chunk(&job, 1), &second, &failed(), at(2)).await.expect("settled");
    let Strike::AllSettled(head) = store.strike(chunk(&job, 1)).await.expect("struck") else {
        panic!("both are settled");
    };
    let chunks = store.chunks(job.id).await.expect("chunks");
    let before = TranscriptResult::ended(&head, &chunks, at(3)).expect("all settled");
    store.finish(&head, &before).await.expect("finished");

    let ended = store.job(job.id).await.expect("read").expect("there").head;
    let index = chunk(&job, 1).index;
    let reopen = async |seconds| store.reopen(&ended, &[index], at(seconds), at(seconds + 30)).await;
    let (a, b) = tokio::join!(reopen(10), reopen(11));
    let reopened = [a.expect("an answer"), b.expect("an answer")];
    assert!(reopened.contains(&true) && reopened.contains(&false), "{reopened:?}");

    let open = store.job(job.id).await.expect("read").expect("there");
    assert_eq!(open.head.state, JobState::Open);
    assert_eq!(open.head.since(), at(if reopened[0] { 10 } else { 11 }));
    assert_eq!(open.unsettled.iter().copied().collect::<Vec<_>>(), [index]);
    let chunks = store.chunks(job.id).await.expect("chunks");
    assert_eq!(chunks[0].status(), ChunkStatus::Completed);
    assert_eq!((&chunks[1].state, chunks[1].last_claim), (&ChunkState::Pending, None));
    assert_eq!((chunks[1].attempt, chunks[1].attempts()), (2, 0));
    let details = store.details(std::slice::from_ref(&open.head)).await.expect("read");
    assert!(matches!(details.as_slice(), [Some(Detail::Chunks(_))]), "its result is gone");
    eventually("the job in both indexes again", async || {
        let (user, status) = (job.user.clone(), JobStatus::InProgress);
        let search = Search { status: Some(status), ..Search::all(user, 1, at(100_000)) };
        let listed =
            store.search(&search).await.expect("a listing").jobs.iter().any(|head| head.id == job.id);
        let due = store.due(at(41), 1000).await.expect("a listing");
        (listed && due.iter().any(|due| due.job == job.id)).then_some(())
    })
    .await;

    // What is left of the time before changes nothing.
    assert_eq!(store.finish(&head, &before).await.expect("an answer"), Finish::NotOpen);
    let late = store.settle(chunk(&job, 1), &second, &failed(), at(12)).await.expect("an answer");
    assert_eq!(late, Settle::Superseded);

    let third = claimed(&store, chunk(&job, 1), at(20)).await;
    store.settle(chunk(&job, 1), &third, &heard("too"), at(21)).await.expect("settled");
    let Strike::AllSettled(head) = store.strike(chunk(&job, 1)).await.expect("struck") else {
        panic!("both are settled");
    };
    let chunks = store.chunks(job.id).await.expect("chunks");
    let after = TranscriptResult::ended(&head, &chunks, at(22)).expect("all settled");
    assert_eq!(store.finish(&head, &after).await.expect("an answer"), Finish::Finished);
    let standing = read(store.as_ref(), job.id).await.expect("read").expect("there");
    assert_eq!(
        (standing.job_status, standing.transcription.as_deref()),
        (JobStatus::Completed, Some("kept too"))
    );

    let good = made(&store, 1).await;
    finished(&store, &good, &heard("x"), at(5)).await;
    let head = store.job(good.id).await.expect("read").expect("there").head;
    assert!(!store.reopen(&head, &[chunk(&good, 0).index], at(6), at(36)).await.expect("an answer"));
}
