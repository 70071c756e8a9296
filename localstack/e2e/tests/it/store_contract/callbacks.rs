//! The telling of a job's end, as the table keeps it.

use std::time::Duration;

use longhand_e2e::eventually;
use longhand_shared::lifecycle::FIRST_CHECK;
use longhand_shared::store::{DueJob, read};
use longhand_shared::webhook::{Callback, CallbackAttempt, CallbackState};
use longhand_shared::{JobId, Timestamp};

use super::{Store, at, failed, finished, heard, new_job, some_user};

const URL: &str = "https://receiver.example/hook?token=t";

async fn listed(store: &Store, job: JobId) -> Option<Timestamp> {
    // Other cases' jobs are in the same table.
    let due = store.due(at(10_000_000), 1000).await.expect("a listing");
    due.into_iter().find(|due| due.job == job).map(|due| due.next_check)
}

/// Waits for the index to show the job there, or nowhere.
async fn due_at(store: &Store, job: JobId, time: Option<Timestamp>) {
    eventually("the index to follow", async || (listed(store, job).await == time).then_some(())).await;
}

fn attempt(time: Timestamp, status: Option<u16>) -> CallbackAttempt {
    let error = status.is_none().then(|| "no connection".to_owned());
    CallbackAttempt { time, status, milliseconds: 12, error }
}

pub(super) async fn a_told_end_is_noted_try_by_try(store: Store) {
    let mut job = new_job(&some_user(), 2, at(0));
    job.callback_url = Some(URL.to_owned());
    store.create(&job, at(30)).await.expect("made");
    let shown = async || {
        let result = read(store.as_ref(), job.id).await.expect("read").expect("there");
        result.callback.expect("it was asked for")
    };
    let new = Callback::new(URL);
    assert_eq!(shown().await, new);
    // While the job runs there is no end to tell of.
    let (first, _) = new.tried(attempt(at(6), None), at(5), None, at(6));
    assert!(!store.note_callback(job.id, at(5), &first).await.expect("an answer"));

    finished(&store, &job, &failed(), at(5)).await;
    assert_eq!(shown().await, new, "the end itself changes nothing");
    due_at(&store, job.id, Some(at(5).plus(FIRST_CHECK))).await;
    let due = DueJob { job: job.id, next_check: at(5).plus(FIRST_CHECK) };
    assert!(store.postpone(&due, at(400)).await.expect("an answer"));
    assert!(!store.postpone(&due, at(401)).await.expect("an answer"), "another did so first");

    assert!(!store.note_callback(job.id, at(4), &first).await.expect("an answer"), "not this end");
    assert!(store.note_callback(job.id, at(5), &first).await.expect("an answer"));
    assert!(!store.note_callback(job.id, at(5), &first).await.expect("an answer"), "noted before");
    assert_eq!(shown().await, first);
    due_at(&store, job.id, first.next_check()).await;
    let (second, _) = first.tried(attempt(at(20), Some(500)), at(5), Some(Duration::from_hours(1)), at(21));
    assert!(store.note_callback(job.id, at(5), &second).await.expect("an answer"));
    due_at(&store, job.id, Some(at(21 + 3600))).await;

    // Another try of the job begins the telling anew; the old end is nobody's any more.
    let head = store.job(job.id).await.expect("read").expect("there").head;
    let indexes: Vec<_> = job.chunks().iter().map(|chunk| chunk.index).collect();
    assert!(store.reopen(&head, &indexes, at(50), at(80)).await.expect("an answer"));
    assert_eq!(shown().await, new);
    assert!(!store.note_callback(job.id, at(5), &first).await.expect("an answer"));
    finished(&store, &job, &heard("x"), at(60)).await;
    assert!(!store.note_callback(job.id, at(5), &first).await.expect("an answer"));
    let told = new.settled(CallbackState::Delivered, attempt(at(61), Some(204)));
    assert!(store.note_callback(job.id, at(60), &told).await.expect("an answer"));
    assert_eq!(shown().await, told);
    due_at(&store, job.id, None).await;

    assert!(store.erase(job.id).await.expect("an answer"));
    let again = told.settled(CallbackState::Delivered, attempt(at(62), Some(204)));
    assert!(!store.note_callback(job.id, at(60), &again).await.expect("an answer"), "it is gone");
    assert_eq!(read(store.as_ref(), job.id).await.expect("read"), None);
}

pub(super) async fn a_job_that_tells_nobody_leaves_the_list_with_its_end(store: Store) {
    let job = super::made(&store, 1).await;
    due_at(&store, job.id, Some(at(30))).await;
    finished(&store, &job, &heard("x"), at(9)).await;
    due_at(&store, job.id, None).await;
    let callback = Callback::new(URL).settled(CallbackState::Delivered, attempt(at(10), Some(200)));
    assert!(!store.note_callback(job.id, at(9), &callback).await.expect("an answer"));
}
