//! The state of webhooks in the table.

use std::time::Duration;

use longhand_e2e::eventually;
use longhand_shared::domain::callback::{Callback, CallbackAttempt, CallbackState};
use longhand_shared::store::FIRST_CHECK;
use longhand_shared::store::{DueJob, read};
use longhand_shared::{JobId, Timestamp};

use super::{Store, at, failed, finished, new_job, some_user, transcribed};

const URL: &str = "https://receiver.example/hook?token=t";

async fn listed(store: &Store, job: JobId) -> Option<Timestamp> {
    // The table has jobs of other cases too.
    let due = store.due(at(10_000_000), 1000).await.expect("a listing");
    due.into_iter().find(|due| due.job == job).map(|due| due.next_check)
}

/// Waits until the index has this time for the job.
async fn due_at(store: &Store, job: JobId, time: Option<Timestamp>) {
    eventually("the index to follow", async || (listed(store, job).await == time).then_some(())).await;
}

fn attempt(time: Timestamp, status: Option<u16>) -> CallbackAttempt {
    let error = status.is_none().then(|| "no connection".to_owned());
    CallbackAttempt { time, status, milliseconds: 12, error }
}

pub(super) async fn webhook_attempts_are_recorded_one_by_one(store: Store) {
    let mut job = new_job(&some_user(), 2, at(0));
    job.callback_url = Some(URL.to_owned());
    store.create(&job, at(30)).await.expect("made");
    let shown = async || {
        let result = read(store.as_ref(), job.id).await.expect("read").expect("there");
        result.callback.expect("a callback")
    };
    let new = Callback::new(URL);
    assert_eq!(shown().await, new);
    // A running job has no webhook to record.
    let (first, _) = new.after_failure(attempt(at(6), None), at(5), None, at(6));
    assert!(!store.note_callback(job.id, at(5), &first).await.expect("an answer"));

    finished(&store, &job, &failed(), at(5)).await;
    assert_eq!(shown().await, new, "the end of the job does not change the callback");
    due_at(&store, job.id, Some(at(5).plus(FIRST_CHECK))).await;
    let due = DueJob { job: job.id, next_check: at(5).plus(FIRST_CHECK) };
    assert!(store.postpone(&due, at(400), None).await.expect("an answer"));
    assert!(!store.postpone(&due, at(401), None).await.expect("an answer"), "another sweeper was first");

    assert!(!store.note_callback(job.id, at(4), &first).await.expect("an answer"), "of another end");
    assert!(store.note_callback(job.id, at(5), &first).await.expect("an answer"));
    assert!(!store.note_callback(job.id, at(5), &first).await.expect("an answer"), "already recorded");
    assert_eq!(shown().await, first);
    due_at(&store, job.id, first.next_check()).await;
    let (second, _) =
        first.after_failure(attempt(at(20), Some(500)), at(5), Some(Duration::from_hours(1)), at(21));
    assert!(store.note_callback(job.id, at(5), &second).await.expect("an answer"));
    due_at(&store, job.id, Some(at(21 + 3600))).await;

    // A retry of the job resets the webhook. The earlier end is stale.
    let head = store.job(job.id).await.expect("read").expect("there").head;
    let indexes: Vec<_> = job.chunks().iter().map(|chunk| chunk.index).collect();
    assert!(store.reopen(&head, &indexes, at(50), at(80)).await.expect("an answer"));
    assert_eq!(shown().await, new);
    assert!(!store.note_callback(job.id, at(5), &first).await.expect("an answer"));
    finished(&store, &job, &transcribed("x"), at(60)).await;
    assert!(!store.note_callback(job.id, at(5), &first).await.expect("an answer"));
    let callback = new.settled(CallbackState::Delivered, attempt(at(61), Some(204)));
    assert!(store.note_callback(job.id, at(60), &callback).await.expect("an answer"));
    assert_eq!(shown().await, callback);
    due_at(&store, job.id, None).await;

    assert!(store.erase(job.id).await.expect("an answer"));
    let again = callback.settled(CallbackState::Delivered, attempt(at(62), Some(204)));
    assert!(!store.note_callback(job.id, at(60), &again).await.expect("an answer"), "the job is erased");
    assert_eq!(read(store.as_ref(), job.id).await.expect("read"), None);
}

pub(super) async fn a_job_without_a_webhook_leaves_the_index_at_its_end(store: Store) {
    let job = super::made(&store, 1).await;
    due_at(&store, job.id, Some(at(30))).await;
    finished(&store, &job, &transcribed("x"), at(9)).await;
    due_at(&store, job.id, None).await;
    let callback = Callback::new(URL).settled(CallbackState::Delivered, attempt(at(10), Some(200)));
    assert!(!store.note_callback(job.id, at(9), &callback).await.expect("an answer"));
}
