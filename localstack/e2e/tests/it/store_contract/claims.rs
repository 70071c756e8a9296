//! Claims, verdicts, the history of attempts, and retries.

use longhand_e2e::eventually;
use longhand_shared::Claimant;
use longhand_shared::domain::attempt::{Attempt, AttemptOutcome, MAX_HISTORY};
use longhand_shared::domain::job::{ChunkState, ChunkStatus, ErrorCode, JobState, JobStatus, Verdict};
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::store::{Claim, Detail, Finish, RemoveUnsettled, Search, Settle, read};

use super::{
    CLAIM_TIMEOUT, Store, again, at, by, chunk, claimed, failed, finished, made, removed, transcribed,
};

pub(super) async fn a_claim_excludes_other_messages_until_its_timeout(store: Store) {
    let job = made(&store, 1).await;
    let it = chunk(&job, 0);
    let claim = async |message, seconds| match store
        .claim(it, by(message), at(seconds), CLAIM_TIMEOUT)
        .await
        .expect("an answer")
    {
        Claim::Claimed(attempt) => Some(attempt.number),
        Claim::Busy => None,
        other => panic!("{other:?}"),
    };
    assert_eq!(claim("first", 0).await, Some(1));
    assert_eq!(claim("other", 299).await, None);
    // The message is delivered again, so the first worker has lost its lease.
    assert_eq!(claim("first", 1).await, Some(2));
    assert_eq!(claim("other", 300).await, None);
    assert_eq!(claim("other", 301).await, Some(3));
    assert_eq!(claim("first", 302).await, None);
    let state = store.chunks(job.id).await.expect("read")[0].state.clone();
    assert_eq!(state, ChunkState::InProgress { claimed: at(301), by: by("other").into() });
}

pub(super) async fn only_a_later_copy_may_claim(store: Store) {
    let job = made(&store, 1).await;
    let it = chunk(&job, 0);
    let claim = async |message, generation, seconds| {
        let by =
            Claimant { origin: "origin", message, generation, redelivered: generation > 9, worker: "w-1" };
        match store.claim(it, by, at(seconds), CLAIM_TIMEOUT).await.expect("an answer") {
            Claim::Claimed(attempt) => Some(attempt),
            Claim::Busy => None,
            other => panic!("{other:?}"),
        }
    };
    let first = claim("first", 9, 0).await.expect("the chunk was not claimed");
    assert!(store.is_claimed_by(it, &first).await.expect("an answer"));
    assert_eq!(claim("twin", 9, 1).await, None, "another copy of the same generation");
    assert_eq!(claim("earlier", 8, 1).await, None);
    let later = claim("later", 10, 2).await.expect("the first message was requeued");
    assert!(!store.is_claimed_by(it, &first).await.expect("an answer"), "the chunk was claimed again");
    assert!(!store.release(it, &first).await.expect("an answer"), "the chunk was claimed again");
    assert_eq!(claim("first", 9, 3).await, None);
    assert!(store.release(it, &later).await.expect("an answer"));
    assert!(store.release(it, &later).await.expect("an answer"), "the first answer may be lost");
    assert!(!store.is_claimed_by(it, &later).await.expect("an answer"), "the chunk was released");

    // The chunk is pending. The message that it was claimed for, or a later copy, is delivered again.
    assert_eq!(claim("first", 9, 4).await, None);
    assert_eq!(claim("twin", 10, 4).await, None);
    let again = claim("later", 10, 5).await.expect("the same message");
    assert_eq!(claim("first", 9, 304).await, None);
    assert_eq!(claim("first", 9, 305).await.map(|attempt| attempt.number), Some(4), "the claim timed out");
    assert!(!store.release(it, &again).await.expect("an answer"));
    let settled = store.settle(it, &Attempt::number(4), &failed(), at(306)).await.expect("an answer");
    assert_eq!(settled, Settle::Settled);
    assert!(!store.release(it, &Attempt::number(4)).await.expect("an answer"), "the chunk is settled");
    assert!(!store.is_claimed_by(it, &Attempt::number(4)).await.expect("an answer"), "the chunk is settled");

    // At the maximum count, a copy must not be deleted as an earlier one.
    let it = chunk(&made(&store, 1).await, 0);
    for message in ["last", "copy of the last"] {
        let by =
            Claimant { origin: "origin", message, generation: u32::MAX, redelivered: true, worker: "w-1" };
        let answer = store.claim(it, by, at(0), CLAIM_TIMEOUT).await.expect("an answer");
        assert!(matches!(answer, Claim::Claimed(_)), "{message}");
    }
}

pub(super) async fn a_released_chunk_is_pending(store: Store) {
    let job = made(&store, 1).await;
    let it = chunk(&job, 0);
    let first = claimed(&store, it, at(0)).await;
    store.release(it, &first).await.expect("released");
    let released = store.chunks(job.id).await.expect("read").remove(0);
    assert_eq!((released.status(), released.attempt, released.released), (ChunkStatus::Pending, 1, 1));

    let second = claimed(&store, it, at(1)).await;
    assert_eq!(second.number, 2);
    store.release(it, &first).await.expect("nothing happens");
    assert_eq!(store.chunks(job.id).await.expect("read")[0].status(), ChunkStatus::InProgress);

    store.settle(it, &second, &transcribed("x"), at(2)).await.expect("settled");
    store.release(it, &second).await.expect("nothing happens");
    assert_eq!(store.chunks(job.id).await.expect("read")[0].status(), ChunkStatus::Completed);
}

pub(super) async fn a_running_claim_shows_its_failed_calls(store: Store) {
    let job = made(&store, 1).await;
    let it = chunk(&job, 0);
    let first = claimed(&store, it, at(0)).await;
    let last = async || store.chunks(job.id).await.expect("read").remove(0).history.pop();
    store.note(it, &first.retrying(ErrorCode::AsrTimeout, 2, 4)).await.expect("noted");
    let noted = last().await.expect("an attempt");
    assert_eq!((noted.outcome, noted.code), (AttemptOutcome::Running, Some(ErrorCode::AsrTimeout)));
    assert_eq!((noted.asr_calls, noted.most_calls), (Some(2), Some(4)));

    // Only for the newest claim, and only while it runs.
    store.release(it, &first).await.expect("released");
    store.note(it, &first.retrying(ErrorCode::AsrRejected, 3, 4)).await.expect("nothing happens");
    let second = claimed(&store, it, at(1)).await;
    store.note(it, &first.retrying(ErrorCode::AsrRejected, 3, 4)).await.expect("nothing happens");
    assert_eq!(last().await.and_then(|attempt| attempt.code), None);
    store.settle(it, &second, &transcribed("x"), at(2)).await.expect("settled");
    store.note(it, &second.retrying(ErrorCode::AsrRejected, 1, 4)).await.expect("nothing happens");
    assert_eq!(last().await.and_then(|attempt| attempt.code), None);
}

pub(super) async fn a_chunk_is_settled_once(store: Store) {
    let job = made(&store, 3).await;
    let settle = async |index, verdict: Verdict, seconds| {
        store.settle(chunk(&job, index), &Attempt::number(0), &verdict, at(seconds)).await.expect("an answer")
    };
    assert_eq!(settle(0, transcribed("first"), 1).await, Settle::Settled);
    assert_eq!(settle(0, transcribed("second"), 2).await, Settle::AlreadySettled);
    assert_eq!(settle(0, failed(), 2).await, Settle::AlreadySettled);
    assert_eq!(settle(1, failed(), 3).await, Settle::Settled);
    assert_eq!(settle(1, transcribed("late"), 4).await, Settle::AlreadySettled);

    let chunks = store.chunks(job.id).await.expect("read");
    assert_eq!(chunks[0].state, ChunkState::Settled { at: at(1), verdict: transcribed("first") });
    assert_eq!(chunks[1].state, ChunkState::Settled { at: at(3), verdict: failed() });
    for by in [by("message"), again("message")] {
        let answer = store.claim(chunk(&job, 0), by, at(60), CLAIM_TIMEOUT).await.expect("an answer");
        assert_eq!(answer, Claim::Settled);
    }
}

pub(super) async fn only_the_newest_claim_may_fail_a_chunk(store: Store) {
    let job = made(&store, 2).await;
    for index in [0, 1] {
        claimed(&store, chunk(&job, index), at(0)).await;
        claimed(&store, chunk(&job, index), at(20)).await;
    }
    let late_failure =
        store.settle(chunk(&job, 0), &Attempt::number(1), &failed(), at(21)).await.expect("an answer");
    assert_eq!(late_failure, Settle::Superseded);
    assert_eq!(store.chunks(job.id).await.expect("read")[0].status(), ChunkStatus::InProgress);
    // A transcription is valid from any claim.
    let late_success = store
        .settle(chunk(&job, 1), &Attempt::number(1), &transcribed("x"), at(21))
        .await
        .expect("an answer");
    assert_eq!(late_success, Settle::Settled);
    let newest =
        store.settle(chunk(&job, 0), &Attempt::number(2), &failed(), at(22)).await.expect("an answer");
    assert_eq!(newest, Settle::Settled);
}

pub(super) async fn each_attempt_is_in_the_history(store: Store) {
    let job = made(&store, 1).await;
    let it = chunk(&job, 0);
    claimed(&store, it, at(0)).await;
    let second = claimed(&store, it, at(10)).await;
    store.release(it, &second.ended(AttemptOutcome::Drained, at(12), 1)).await.expect("released");
    let third = claimed(&store, it, at(20)).await;
    store.release(it, &third.ended(AttemptOutcome::Overdue, at(320), 4)).await.expect("released");
    let chunk = store.chunks(job.id).await.expect("read").remove(0);
    assert_eq!((chunk.status(), chunk.attempt, chunk.attempts()), (ChunkStatus::Pending, 3, 2));

    for turn in 0..MAX_HISTORY as u64 {
        let attempt = claimed(&store, it, at(400 + turn)).await;
        store
            .release(it, &attempt.ended(AttemptOutcome::Throttled, at(400 + turn), 4))
            .await
            .expect("released");
    }
    let last = claimed(&store, it, at(500)).await;
    let history = store.chunks(job.id).await.expect("read").remove(0).visible_history();
    assert_eq!(history.last().map(|attempt| attempt.outcome), Some(AttemptOutcome::Running));
    let verdict = failed();
    store.settle(it, &last.settled(&verdict, at(501), 2), &verdict, at(501)).await.expect("settled");

    let history = store.chunks(job.id).await.expect("read").remove(0).visible_history();
    assert_eq!(history.len(), MAX_HISTORY);
    let newest = history.last().expect("ten");
    assert_eq!((newest.outcome, newest.code), (AttemptOutcome::Failed, Some(ErrorCode::AudioNotFound)));
    assert_eq!((newest.started_time, newest.seconds, newest.asr_calls), (at(500), Some(1.0), Some(2)));
    assert!(newest.worker.starts_with("worker-") && !newest.worker.contains("w-1"), "{}", newest.worker);
    assert!(history.iter().all(|attempt| attempt.worker == newest.worker), "one name per worker");
    assert!(history[..MAX_HISTORY - 1].iter().all(|attempt| attempt.outcome == AttemptOutcome::Throttled));
}

pub(super) async fn a_failed_job_is_reopened_once(store: Store) {
    let job = made(&store, 2).await;
    let first = claimed(&store, chunk(&job, 0), at(1)).await;
    store.settle(chunk(&job, 0), &first, &transcribed("kept"), at(1)).await.expect("settled");
    removed(&store, chunk(&job, 0)).await.expect("removed");
    let second = claimed(&store, chunk(&job, 1), at(1)).await;
    store.settle(chunk(&job, 1), &second, &failed(), at(2)).await.expect("settled");
    let RemoveUnsettled::AllSettled(head) = removed(&store, chunk(&job, 1)).await.expect("removed") else {
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
    assert!(matches!(details.as_slice(), [Some(Detail::Chunks(_))]), "the result is deleted");
    eventually("the job in both indexes again", async || {
        let (user, status) = (job.user.clone(), JobStatus::InProgress);
        let search = Search { status: Some(status), ..Search::all(user, 1, at(100_000)) };
        let listed =
            store.search(&search).await.expect("a listing").jobs.iter().any(|head| head.id == job.id);
        let due = store.due(at(41), 1000).await.expect("a listing");
        (listed && due.iter().any(|due| due.job == job.id)).then_some(())
    })
    .await;

    // Late calls from before the retry change nothing.
    assert_eq!(store.finish(&head, &before).await.expect("an answer"), Finish::NotOpen);
    let late = store.settle(chunk(&job, 1), &second, &failed(), at(12)).await.expect("an answer");
    assert_eq!(late, Settle::Superseded);

    let third = claimed(&store, chunk(&job, 1), at(20)).await;
    store.settle(chunk(&job, 1), &third, &transcribed("too"), at(21)).await.expect("settled");
    let RemoveUnsettled::AllSettled(head) = removed(&store, chunk(&job, 1)).await.expect("removed") else {
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
    finished(&store, &good, &transcribed("x"), at(5)).await;
    let head = store.job(good.id).await.expect("read").expect("there").head;
    assert!(!store.reopen(&head, &[chunk(&good, 0).index], at(6), at(36)).await.expect("an answer"));
}
