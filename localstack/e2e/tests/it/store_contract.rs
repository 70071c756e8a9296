//! What every store must do. The real one and the one in memory pass the same suite.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use longhand_e2e::calls::Calls;
use longhand_e2e::eventually;
use longhand_e2e::resources::{Clients, Resources};
use longhand_shared::cache::Cache;
use longhand_shared::cache::observed::ObservedStore;
use longhand_shared::job::{
    ChunkError, ChunkState, ChunkStatus, ErrorCode, JobHead, JobState, JobStatus, Language, Metadata, NewJob,
    Prompt, Segment, TranscribeOptions, Transcription, Verdict,
};
use longhand_shared::stitch::stitch;
use longhand_shared::store::memory::MemoryStore;
use longhand_shared::store::{
    Claim, Detail, Finish, JobStore, Search, SearchPosition, Settle, Strike, read, read_page,
};
use longhand_shared::transcript::TranscriptResult;
use longhand_shared::{Attempt, ChunkIndex, ChunkRef, Claimant, JobId, Timestamp, UserId};
use tokio::sync::OnceCell;

type Store = Arc<dyn JobStore>;

/// How long a claim keeps other messages off.
const SILENCE: Duration = Duration::from_mins(5);

fn memory() -> Store {
    Arc::new(MemoryStore::new())
}

fn observed() -> Store {
    Arc::new(ObservedStore::new(memory(), Cache::local()))
}

/// One table for the whole suite: cases use users and jobs of their own.
async fn clients() -> Clients {
    static RESOURCES: OnceCell<Resources> = OnceCell::const_new();
    RESOURCES.get_or_init(Resources::deploy).await.clients(&Calls::default()).await
}

async fn dynamo() -> Store {
    clients().await.store()
}

macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod in_memory { $(#[tokio::test] async fn $case() { super::$case(super::memory()).await; })* }
        mod observed { $(#[tokio::test] async fn $case() { super::$case(super::observed()).await; })* }
        mod in_dynamo { $(#[tokio::test] async fn $case() { super::$case(super::dynamo().await).await; })* }
    };
}

mod callbacks;
mod claims;
mod requests;

use callbacks::{a_job_that_tells_nobody_leaves_the_list_with_its_end, a_told_end_is_noted_try_by_try};
use claims::{
    a_chunk_is_settled_once, a_claim_keeps_other_messages_off_until_it_is_long_silent,
    a_claim_that_was_given_back_is_no_claim, a_failed_job_is_opened_again_once,
    a_failure_counts_for_the_newest_claim_only, each_attempt_is_told,
};

use requests::{
    a_listing_of_all_statuses_goes_newest_first, a_request_is_made_once_under_its_key,
    an_erased_job_leaves_nothing, what_was_just_submitted_is_listed_at_once,
};

contract!(
    a_job_is_made_once,
    a_claim_keeps_other_messages_off_until_it_is_long_silent,
    a_claim_that_was_given_back_is_no_claim,
    a_chunk_is_settled_once,
    a_failure_counts_for_the_newest_claim_only,
    each_attempt_is_told,
    a_failed_job_is_opened_again_once,
    striking_off_tells_when_none_is_left,
    a_job_is_finished_once,
    a_request_is_made_once_under_its_key,
    what_was_just_submitted_is_listed_at_once,
    a_listing_of_all_statuses_goes_newest_first,
    an_erased_job_leaves_nothing,
    a_told_end_is_noted_try_by_try,
    a_job_that_tells_nobody_leaves_the_list_with_its_end,
    a_listing_goes_newest_first_in_pages,
    a_listing_knows_statuses_and_users_apart,
    a_check_is_put_off_by_one,
    details_of_jobs_of_every_kind,
    a_transcript_of_24_long_chunks_is_kept_whole,
    what_is_unknown_is_gone,
);

fn now() -> Timestamp {
    "2026-11-22T10:00:00.123Z".parse().expect("a time")
}

fn at(seconds: u64) -> Timestamp {
    now().plus(Duration::from_secs(seconds))
}

fn some_user() -> UserId {
    format!("user-{}", JobId::random()).parse().expect("a user")
}

fn new_job(user: &UserId, chunks: usize, submitted: Timestamp) -> NewJob {
    let paths = (0..chunks).map(|n| format!("s3://audio/{n}.wav").parse().expect("a path")).collect();
    let options = TranscribeOptions {
        language: Some(Language::try_from("en".to_owned()).expect("a language")),
        prompt: Some(Prompt::try_from("names: Ana".to_owned()).expect("a prompt")),
    };
    let metadata = Metadata::from([("case".to_owned(), "7 \u{1F3A7}".to_owned())]);
    NewJob::new(user.clone(), paths, options, metadata, submitted).expect("a job")
}

async fn made(store: &Store, chunks: usize) -> NewJob {
    let job = new_job(&some_user(), chunks, now());
    store.create(&job, at(30)).await.expect("made");
    job
}

fn chunk(job: &NewJob, index: u64) -> ChunkRef {
    ChunkRef { job: job.id, index: ChunkIndex::try_from(index).expect("an index") }
}

fn heard(text: &str) -> Verdict {
    let segments = vec![Segment { start: 0.0, end: 1.5, text: text.to_owned() }];
    Verdict::Completed(Transcription::new(text, Some(7.25), segments).expect("it fits"))
}

fn failed() -> Verdict {
    Verdict::Failed(ChunkError::new(ErrorCode::AudioNotFound, "no such audio"))
}

/// Long after: nothing is recent.
fn in_progress(user: &UserId, limit: usize) -> Search {
    Search { status: Some(JobStatus::InProgress), ..Search::all(user.clone(), limit, at(100_000)) }
}

fn by(message: &'static str) -> Claimant<'static> {
    // Leaked: a few bytes of a test.
    let id = Box::leak(format!("id-{message}").into_boxed_str());
    Claimant { origin: message, message: id, worker: "w-1" }
}

async fn claimed(store: &Store, chunk: ChunkRef, now: Timestamp) -> Attempt {
    match store.claim(chunk, by("message"), now, SILENCE).await.expect("an answer") {
        Claim::Claimed(attempt) => attempt,
        other => panic!("not claimed: {other:?}"),
    }
}

/// Settles and strikes off every chunk, and ends the job.
async fn finished(store: &Store, job: &NewJob, verdict: &Verdict, when: Timestamp) -> TranscriptResult {
    let mut head = None;
    for each in job.chunks() {
        let chunk = ChunkRef { job: job.id, index: each.index };
        let attempt = claimed(store, chunk, when).await;
        assert_eq!(store.settle(chunk, &attempt, verdict, when).await.expect("settled"), Settle::Settled);
        if let Strike::AllSettled(last) = store.strike(chunk).await.expect("struck") {
            head = Some(last);
        }
    }
    let head = head.expect("the last strike says so");
    let chunks = store.chunks(job.id).await.expect("chunks");
    let result = TranscriptResult::ended(&head, &chunks, when).expect("all settled");
    assert_eq!(store.finish(&head, &result).await.expect("finished"), Finish::Finished);
    result
}

async fn a_job_is_made_once(store: Store) {
    let job = made(&store, 6).await;
    assert_eq!(store.job(job.id).await.expect("read"), Some(job.job()));
    assert_eq!(store.chunks(job.id).await.expect("read"), job.chunks());

    claimed(&store, chunk(&job, 2), now()).await;
    store.create(&job, at(30)).await.expect("again");
    assert_eq!(store.chunks(job.id).await.expect("read")[2].status(), ChunkStatus::InProgress);
}

async fn striking_off_tells_when_none_is_left(store: Store) {
    let job = made(&store, 2).await;
    assert_eq!(store.strike(chunk(&job, 1)).await.expect("struck"), Strike::Remaining);
    assert_eq!(store.strike(chunk(&job, 1)).await.expect("struck again"), Strike::Remaining);
    let left = store.job(job.id).await.expect("read").expect("there").unsettled;
    assert_eq!(left, BTreeSet::from([chunk(&job, 0).index]));
    for _ in 0..2 {
        let all = Strike::AllSettled(Box::new(job.job().head));
        assert_eq!(store.strike(chunk(&job, 0)).await.expect("struck"), all);
    }
}

async fn a_job_is_finished_once(store: Store) {
    let job = made(&store, 2).await;
    for each in [0, 1] {
        store.settle(chunk(&job, each), &Attempt::number(0), &heard("word"), at(5)).await.expect("settled");
        store.strike(chunk(&job, each)).await.expect("struck");
    }
    let chunks = store.chunks(job.id).await.expect("chunks");
    let ended =
        |seconds| TranscriptResult::ended(&job.job().head, &chunks, at(seconds)).expect("all settled");
    let (first, second) = (ended(6), ended(7));
    let head = job.job().head;
    let (a, b) = tokio::join!(store.finish(&head, &first), store.finish(&head, &second));
    let outcomes = [a.expect("an answer"), b.expect("an answer")];
    assert!(outcomes.contains(&Finish::Finished) && outcomes.contains(&Finish::NotOpen), "{outcomes:?}");
    let standing = if outcomes[0] == Finish::Finished { first } else { second };

    assert_eq!(read(store.as_ref(), job.id).await.expect("read"), Some(standing.clone()));
    assert_eq!(standing.transcription.as_deref(), Some("word word"));
    assert!(!standing.partial);
    assert_eq!(store.strike(chunk(&job, 0)).await.expect("struck"), Strike::Ended);
    let head = store.job(job.id).await.expect("read").expect("there").head;
    let time = standing.completed_time.expect("ended");
    assert_eq!(head.state, JobState::Ended { completely: true, at: time });
    // The index follows.
    eventually("the job to leave the index of open jobs", async || {
        let due = store.due(at(100_000), 1000).await.expect("a listing");
        (!due.iter().any(|due| due.job == job.id)).then_some(())
    })
    .await;
}

async fn a_listing_goes_newest_first_in_pages(store: Store) {
    let user = some_user();
    let mut jobs = Vec::new();
    // The last two in the same millisecond: ties go by name.
    for seconds in [1, 2, 3, 4, 4] {
        let job = new_job(&user, 1, at(seconds));
        store.create(&job, at(30)).await.expect("made");
        jobs.push(SearchPosition { submitted: job.submitted, job: job.id });
    }
    jobs.sort();
    jobs.reverse();
    let page = async |after| {
        let search = Search { after, ..in_progress(&user, 2) };
        store.search(&search).await.expect("a page")
    };
    eventually("all five in the index", async || {
        let search = in_progress(&user, 100);
        (store.search(&search).await.expect("a page").jobs.len() == 5).then_some(())
    })
    .await;
    let mut seen = Vec::new();
    let mut after = None;
    for size in [2, 2, 1] {
        let page = page(after).await;
        assert_eq!(page.jobs.len(), size);
        seen.extend(page.jobs.iter().map(|head| head.id));
        after = page.next;
    }
    assert_eq!(after, None);
    assert_eq!(seen, jobs.iter().map(|position| position.job).collect::<Vec<_>>());
}

async fn a_listing_knows_statuses_and_users_apart(store: Store) {
    let (user, other) = (some_user(), some_user());
    let [open, good, bad] = [1, 2, 3].map(|seconds| new_job(&user, 2, at(seconds)));
    let others = new_job(&other, 1, at(4));
    for job in [&open, &good, &bad, &others] {
        store.create(job, at(30)).await.expect("made");
    }
    let good_result = finished(&store, &good, &heard("yes"), at(10)).await;
    let bad_result = finished(&store, &bad, &failed(), at(11)).await;
    let page = async |user: &UserId, status| {
        eventually("the index to follow", async || {
            let search = Search { status: Some(status), ..Search::all(user.clone(), 10, at(100_000)) };
            let (results, next) = read_page(store.as_ref(), &search).await.expect("a page");
            (results.len() == 1 && next.is_none()).then_some(results)
        })
        .await
    };
    let listed = page(&user, JobStatus::InProgress).await;
    assert_eq!(listed, [TranscriptResult::new(&open.job().head, &open.chunks())]);
    assert_eq!(page(&user, JobStatus::Completed).await, [good_result]);
    assert_eq!(page(&user, JobStatus::Failed).await, [bad_result]);
    assert_eq!(page(&other, JobStatus::InProgress).await[0].job_id, others.id);
}

async fn a_check_is_put_off_by_one(store: Store) {
    let job = made(&store, 1).await;
    let find = async |by: Timestamp| {
        store.due(by, 1000).await.expect("a listing").into_iter().find(|due| due.job == job.id)
    };
    let due = eventually("the job to be due", async || find(at(30)).await).await;
    assert_eq!(due.next_check, at(30));
    assert_eq!(find(at(29)).await, None);
    let (a, b) = tokio::join!(store.postpone(&due, at(90)), store.postpone(&due, at(91)));
    let won = [a.expect("an answer"), b.expect("an answer")];
    assert!(won == [true, false] || won == [false, true], "{won:?}");
    eventually("the index to follow", async || find(at(30)).await.is_none().then_some(())).await;
    assert!(find(at(91)).await.is_some());
}

/// As after a deployment of a version with more shards, whose new ones an older job's id would be in.
#[tokio::test]
async fn a_job_is_put_off_in_whichever_shard_it_was_found() {
    let clients = clients().await;
    let store: Store = clients.store();
    let job = made(&store, 1).await;
    for shard in ["0", "1"] {
        let move_it = clients.dynamodb.update_item().table_name(&clients.resources.table);
        let move_it = move_it.key("jobId", AttributeValue::S(job.id.to_string()));
        let move_it = move_it.key("item", AttributeValue::S("job".to_owned()));
        let move_it = move_it.update_expression("SET openShard = :shard");
        move_it
            .expression_attribute_values(":shard", AttributeValue::S(shard.to_owned()))
            .send()
            .await
            .expect("moved");
        let find = async || {
            store.due(at(400), 1000).await.expect("a listing").into_iter().find(|due| due.job == job.id)
        };
        let due = eventually("the job to be due", find).await;
        assert!(
            store.postpone(&due, due.next_check.plus(Duration::from_secs(1))).await.expect("an answer"),
            "{shard}"
        );
    }
}

async fn details_of_jobs_of_every_kind(store: Store) {
    let (open, ended) = (made(&store, 24).await, made(&store, 2).await);
    let gone = new_job(&some_user(), 1, now());
    let result = finished(&store, &ended, &failed(), at(9)).await;
    let ended_head = store.job(ended.id).await.expect("read").expect("there").head;
    let heads = [open.job().head, gone.job().head, ended_head];
    let details = store.details(&heads).await.expect("details");
    assert_eq!(details, [Some(Detail::Chunks(open.chunks())), None, Some(Detail::Ended(Box::new(result)))]);
    assert_eq!(store.details(&[]).await.expect("details"), []);
}

/// 24 chunks of 700 words in a script of three bytes a letter: more than an item holds.
async fn a_transcript_of_24_long_chunks_is_kept_whole(store: Store) {
    let job = made(&store, 24).await;
    let text = vec!["การถอดเสียง"; 700].join(" ");
    let result = finished(&store, &job, &heard(&text), at(9)).await;
    let whole = result.transcription.clone().expect("a text");
    assert!(whole.len() > 400 * 1024, "{} bytes", whole.len());
    assert_eq!(Some(whole), stitch(&store.chunks(job.id).await.expect("chunks")));
    assert_eq!(read(store.as_ref(), job.id).await.expect("read"), Some(result));
}

async fn what_is_unknown_is_gone(store: Store) {
    let nobody = ChunkRef { job: JobId::random(), index: ChunkIndex::try_from(0).expect("an index") };
    assert_eq!(store.job(nobody.job).await.expect("an answer"), None);
    assert_eq!(store.chunks(nobody.job).await.expect("an answer"), []);
    assert_eq!(store.claim(nobody, by("message"), now(), SILENCE).await.expect("an answer"), Claim::Gone);
    assert_eq!(
        store.settle(nobody, &Attempt::number(1), &failed(), now()).await.expect("an answer"),
        Settle::Gone
    );
    assert_eq!(
        store.settle(nobody, &Attempt::number(0), &heard("x"), now()).await.expect("an answer"),
        Settle::Gone
    );
    assert_eq!(store.strike(nobody).await.expect("an answer"), Strike::Gone);
    store.release(nobody, &Attempt::number(1)).await.expect("nothing happens");
    let job = new_job(&some_user(), 1, now());
    let mut chunks = job.chunks();
    chunks[0].state = ChunkState::Settled { at: now(), verdict: failed() };
    let head = job.job().head;
    let result = TranscriptResult::ended(&head, &chunks, now()).expect("settled");
    let ended = JobHead { state: JobState::Ended { completely: false, at: now() }, ..head.clone() };
    let index = nobody.index;
    assert!(!store.reopen(&ended, &[index], now(), now()).await.expect("an answer"));
    assert_eq!(store.finish(&head, &result).await.expect("an answer"), Finish::NotOpen);
    // Nothing of it was left behind.
    assert_eq!(read(store.as_ref(), job.id).await.expect("read"), None);
    assert_eq!(store.chunks(nobody.job).await.expect("an answer"), []);
}
