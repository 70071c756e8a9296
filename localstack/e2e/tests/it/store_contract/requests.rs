//! Idempotency keys, searches, and erasure.

use std::time::Duration;

use longhand_e2e::eventually;
use longhand_shared::domain::idempotency::Idempotency;
use longhand_shared::domain::job::{JobStatus, NewJob};
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::store::{Created, MAX_PAGE_BYTES, RemoveUnsettled, Search, Settle, read, read_page};
use longhand_shared::{Attempt, JobId, Timestamp};

use super::{Store, at, chunk, claimed, failed, finished, made, new_job, removed, some_user, transcribed};

fn under(key: &str, digest: &str, mut job: NewJob) -> NewJob {
    let key = key.to_owned().try_into().expect("a key");
    job.idempotency = Some(Idempotency { key, digest: digest.to_owned() });
    job
}

pub(super) async fn an_idempotency_key_creates_one_job(store: Store) {
    let user = some_user();
    let new = |key, digest, seconds| under(key, digest, new_job(&user, 2, at(seconds)));
    let create = async |job: &NewJob| store.create(job, at(30)).await.expect("an answer");
    let first = new("k", "content", 0);
    assert_eq!(create(&first).await, Created::New);
    assert_eq!(create(&first).await, Created::New, "a repeated create of the same job");
    let again = new("k", "content", 5);
    assert_eq!(create(&again).await, Created::Replayed(first.id));
    assert_eq!(store.job(again.id).await.expect("read"), None);
    assert_eq!(store.chunks(again.id).await.expect("read"), []);
    assert_eq!(create(&new("k", "other content", 5)).await, Created::Mismatch);
    assert_eq!(create(&new("other", "other content", 5)).await, Created::New);
    let earlier = async |digest: &str, seconds| {
        let asked = under("k", digest, new_job(&user, 1, at(seconds))).idempotency.expect("a key");
        store.earlier(&user, &asked, at(seconds)).await.expect("an answer")
    };
    assert_eq!(earlier("content", 5).await, Some(Created::Replayed(first.id)));
    assert_eq!(earlier("other content", 5).await, Some(Created::Mismatch));
    assert_eq!(earlier("content", 24 * 3600 + 5).await, None);
    let others = under("k", "other content", new_job(&some_user(), 1, at(5)));
    assert_eq!(create(&others).await, Created::New);

    // The key expires after a day.
    let late = new("k", "other content", 24 * 3600 + 5);
    assert_eq!(create(&late).await, Created::New);

    // Five concurrent requests create one job.
    let at_once: Vec<_> = (0..5).map(|_| new("rush", "content", 9)).collect();
    let answers = futures::future::join_all(at_once.iter().map(create)).await;
    let made: Vec<JobId> =
        at_once.iter().zip(&answers).filter(|(_, it)| **it == Created::New).map(|(job, _)| job.id).collect();
    assert_eq!(made.len(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|it| **it == Created::Replayed(made[0])).count(), 4, "{answers:?}");
}

pub(super) async fn a_new_job_is_in_searches_at_once(store: Store) {
    let user = some_user();
    let old = new_job(&user, 1, at(0));
    store.create(&old, at(30)).await.expect("made");
    eventually("the old one in the index", async || {
        let page = store.search(&Search::all(user.clone(), 10, at(500))).await.expect("a page");
        (page.jobs.len() == 1).then_some(())
    })
    .await;
    let [ended, open] = [490, 491].map(|seconds| new_job(&user, 1, at(seconds)));
    for job in [&ended, &open] {
        store.create(job, at(600)).await.expect("made");
    }
    finished(&store, &ended, &transcribed("x"), at(499)).await;
    let ids = async |search: Search| -> Vec<JobId> {
        store.search(&search).await.expect("a page").jobs.iter().map(|head| head.id).collect()
    };
    let all = Search::all(user.clone(), 10, at(500));
    assert_eq!(ids(all.clone()).await, [open.id, ended.id, old.id]);
    let of = |status| Search { status: Some(status), ..all.clone() };
    assert_eq!(ids(of(JobStatus::InProgress)).await, [open.id, old.id]);
    assert_eq!(ids(of(JobStatus::Completed)).await, [ended.id]);
    assert_eq!(ids(Search { until: Some(at(491)), ..all.clone() }).await, [ended.id, old.id]);
    assert_eq!(ids(Search { from: Some(at(491)), ..all.clone() }).await, [open.id]);
}

pub(super) async fn a_search_of_all_statuses_is_newest_first(store: Store) {
    let user = some_user();
    let mut jobs = Vec::new();
    for seconds in [1, 2, 3, 4, 4, 5] {
        let job = new_job(&user, 1, at(seconds));
        store.create(&job, at(30)).await.expect("made");
        jobs.push((at(seconds), job.id));
        match seconds {
            2 => drop(finished(&store, &job, &transcribed("x"), at(10)).await),
            3 => drop(finished(&store, &job, &failed(), at(10)).await),
            _ => {}
        }
    }
    jobs.sort();
    jobs.reverse();
    let search =
        |from: Option<Timestamp>, limit| Search { from, ..Search::all(user.clone(), limit, at(100_000)) };
    eventually("all in the index, under their statuses", async || {
        let page = store.search(&search(None, 100)).await.expect("a page");
        let ended = page.jobs.iter().filter(|head| head.status() != JobStatus::InProgress).count();
        (page.jobs.len() == 6 && ended == 2).then_some(())
    })
    .await;
    let (mut seen, mut after) = (Vec::new(), None);
    for size in [2, 2, 1] {
        let page = store.search(&Search { after, ..search(Some(at(2)), 2) }).await.expect("a page");
        assert_eq!(page.jobs.len(), size);
        seen.extend(page.jobs.iter().map(|head| (head.submitted, head.id)));
        after = page.next;
    }
    assert_eq!((seen.as_slice(), after), (&jobs[..5], None));
}

/// More than one page of `DynamoDB`, with two statuses, so that the pages of each end at different positions.
pub(super) async fn a_search_with_many_pages_is_complete(store: Store) {
    let user = some_user();
    let mut made = Vec::new();
    for seconds in 0..150_u64 {
        let mut job = new_job(&user, 1, at(seconds));
        if seconds % 5 != 0 {
            job.metadata = (0..16).map(|n| (format!("{n:02}{}", "k".repeat(500)), "v".repeat(512))).collect();
        }
        store.create(&job, at(30)).await.expect("made");
        if seconds % 5 == 0 {
            finished(&store, &job, &failed(), at(200)).await;
        }
        made.insert(0, job.id);
    }
    let pages = async |status| {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let search = Search { status, after, ..Search::all(user.clone(), 100, at(100_000)) };
            let (results, next) = read_page(store.as_ref(), &search).await.expect("a page");
            let bytes: usize = results.iter().map(TranscriptResult::weight).sum();
            assert!(bytes <= MAX_PAGE_BYTES && !results.is_empty(), "{bytes} bytes");
            seen.extend(results.iter().map(|result| result.job_id));
            match next {
                Some(next) => after = Some(next),
                None => return seen,
            }
        }
    };
    eventually("all in the index, once each", async || (pages(None).await == made).then_some(())).await;
    assert_eq!(pages(Some(JobStatus::InProgress)).await.len(), 120);
    assert_eq!(pages(Some(JobStatus::Failed)).await.len(), 30);
}

pub(super) async fn an_erased_job_leaves_no_items(store: Store) {
    let user = some_user();
    let open = under("k", "d", new_job(&user, 2, at(0)));
    store.create(&open, at(30)).await.expect("made");
    let attempt = claimed(&store, chunk(&open, 0), at(1)).await;
    let ended = made(&store, 2).await;
    finished(&store, &ended, &transcribed("x"), at(5)).await;
    for job in [&open, &ended] {
        assert!(store.erase(job.id).await.expect("an answer"));
        assert!(!store.erase(job.id).await.expect("an answer"));
        assert_eq!(read(store.as_ref(), job.id).await.expect("read"), None);
        assert_eq!(store.chunks(job.id).await.expect("read"), []);
    }
    // A worker finds the job gone and cannot restore it.
    let late = store.settle(chunk(&open, 0), &attempt, &transcribed("x"), at(6)).await.expect("an answer");
    assert_eq!(late, Settle::Gone);
    store.release(chunk(&open, 0), &Attempt::number(1)).await.expect("nothing happens");
    assert_eq!(removed(&store, chunk(&open, 0)).await.expect("an answer"), RemoveUnsettled::Gone);
    assert_eq!(store.chunks(open.id).await.expect("read"), []);
    // Its key can be used again, and searches do not find it.
    let new = under("k", "other", new_job(&user, 1, at(7)));
    assert_eq!(store.create(&new, at(30)).await.expect("an answer"), Created::New);
    eventually("the index to follow", async || {
        let page = store.search(&Search::all(user.clone(), 10, at(7).plus(Duration::from_secs(1)))).await;
        let ids: Vec<_> = page.expect("a page").jobs.iter().map(|head| head.id).collect();
        (ids == [new.id]).then_some(())
    })
    .await;
}
