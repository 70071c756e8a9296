//! The contract of stores. `DynamoDB` and the in-memory store pass the same suite.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, TimeToLiveSpecification};
use longhand_e2e::calls::{Calls, LostAnswer};
use longhand_e2e::eventually;
use longhand_e2e::resources::{Clients, RETENTION, Resources};
use longhand_shared::domain::id::MAX_CHUNKS;
use longhand_shared::domain::job::{
    Chunk, ChunkError, ChunkState, ChunkStatus, ErrorCode, JobHead, JobState, JobStatus, Language, Metadata,
    NewJob, Prompt, Segment, Timestamps, TranscribeOptions, Transcription, Verdict, Warning, WarningCode,
    Word,
};
use longhand_shared::domain::stitch::stitch;
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::domain::worker_state::{Minute, WorkerState};
use longhand_shared::store::dynamo::DynamoStore;
use longhand_shared::store::memory::MemoryStore;
use longhand_shared::store::{
    Claim, Detail, DueJob, Finish, JobStore, RemoveUnsettled, Search, SearchPosition, Settle, StoreError,
    read, read_page,
};
use longhand_shared::{Attempt, ChunkIndex, ChunkRef, Claimant, JobId, Timestamp, UserId};
use tokio::sync::OnceCell;

type Store = Arc<dyn JobStore>;

/// How long a claim excludes other messages.
const CLAIM_TIMEOUT: Duration = Duration::from_mins(5);

fn memory() -> Store {
    Arc::new(MemoryStore::with_retention(RETENTION))
}

/// One table for the whole suite. Each case uses its own users and jobs.
async fn clients() -> Clients {
    static RESOURCES: OnceCell<Resources> = OnceCell::const_new();
    let resources = RESOURCES.get_or_init(deploy).await;
    resources.clients(&Calls::default()).await
}

/// The table keeps what has expired, as the real one does for up to two days. Emulators delete it within a minute.
async fn deploy() -> Resources {
    let resources = Resources::deploy().await;
    let clients = resources.clients(&Calls::default()).await;
    let off = TimeToLiveSpecification::builder().attribute_name("ttl").enabled(false).build();
    let update = clients.dynamodb.update_time_to_live().table_name(&clients.resources.table);
    update.time_to_live_specification(off.expect("complete")).send().await.expect("switched off");
    resources
}

async fn dynamo() -> Store {
    clients().await.store()
}

macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod in_memory { $(#[tokio::test] async fn $case() { super::$case(super::memory()).await; })* }
        mod in_dynamo { $(#[tokio::test] async fn $case() { super::$case(super::dynamo().await).await; })* }
    };
}

mod callbacks;
mod claims;
mod requests;

use callbacks::{
    a_job_without_a_webhook_leaves_the_index_at_its_end, webhook_attempts_are_recorded_one_by_one,
};
use claims::{
    a_chunk_is_settled_once, a_claim_excludes_other_messages_until_its_timeout,
    a_failed_job_is_reopened_once, a_released_chunk_is_pending, a_running_claim_shows_its_failed_calls,
    each_attempt_is_in_the_history, only_a_later_copy_may_claim, only_the_newest_claim_may_fail_a_chunk,
};

use requests::{
    a_new_job_is_in_searches_at_once, a_search_of_all_statuses_is_newest_first,
    a_search_with_many_pages_is_complete, an_erased_job_leaves_no_items, an_idempotency_key_creates_one_job,
};

contract!(
    create_is_idempotent,
    a_claim_excludes_other_messages_until_its_timeout,
    only_a_later_copy_may_claim,
    a_released_chunk_is_pending,
    a_running_claim_shows_its_failed_calls,
    a_chunk_is_settled_once,
    only_the_newest_claim_may_fail_a_chunk,
    each_attempt_is_in_the_history,
    a_failed_job_is_reopened_once,
    an_expired_job_is_gone_until_it_is_retried,
    the_last_removal_reports_all_settled,
    a_job_is_finished_once,
    an_idempotency_key_creates_one_job,
    a_new_job_is_in_searches_at_once,
    a_search_of_all_statuses_is_newest_first,
    a_search_with_many_pages_is_complete,
    an_erased_job_leaves_no_items,
    webhook_attempts_are_recorded_one_by_one,
    a_job_without_a_webhook_leaves_the_index_at_its_end,
    a_search_has_pages_newest_first,
    a_search_filters_by_status_and_user,
    a_check_is_postponed_once,
    details_cover_open_ended_and_missing_jobs,
    a_transcript_of_24_long_chunks_is_complete,
    unknown_jobs_are_gone,
    the_latest_report_of_each_worker_is_listed,
);

/// The current time: items of jobs in the past would have expired.
fn now() -> Timestamp {
    static NOW: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);
    *NOW
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
        timestamps: Timestamps::Word,
        translate: true,
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

fn transcribed(text: &str) -> Verdict {
    let speaker = Some("SPEAKER_00".to_owned());
    let words = vec![
        Word {
            text: "a".to_owned(),
            start: 0.25,
            end: 0.5,
            confidence: Some(0.125),
            speaker: speaker.clone(),
        },
        Word { text: text.to_owned(), start: 0.5, end: 1.5, confidence: None, speaker: None },
    ];
    let confidence = Some(0.75);
    let segment =
        Segment { start: 0.0, end: 1.5, text: text.to_owned(), repaired: true, speaker, confidence, words };
    let mut transcription = Transcription::new(text, Some(7.25), vec![segment]).expect("it fits");
    transcription.language = Some("en".to_owned());
    transcription.confidence = confidence;
    transcription.warnings =
        vec![Warning { code: WarningCode::TimesEstimated, message: "1 segment".to_owned() }];
    Verdict::Completed(transcription)
}

fn failed() -> Verdict {
    Verdict::Failed(ChunkError::new(ErrorCode::AudioNotFound, "no such audio"))
}

/// A search so late that no job is recent.
fn in_progress(user: &UserId, limit: usize) -> Search {
    Search { status: Some(JobStatus::InProgress), ..Search::all(user.clone(), limit, at(100_000)) }
}

fn by(message: &'static str) -> Claimant<'static> {
    // Leaks a few bytes of the test.
    let id = Box::leak(format!("id-{message}").into_boxed_str());
    Claimant { origin: message, message: id, generation: 0, redelivered: false, worker: "w-1" }
}

async fn removed(store: &Store, chunk: ChunkRef) -> Result<RemoveUnsettled, StoreError> {
    // A chunk whose message was delivered twice may be named twice.
    store.remove_unsettled(chunk.job, &[chunk.index, chunk.index]).await
}

fn again(message: &'static str) -> Claimant<'static> {
    Claimant { redelivered: true, ..by(message) }
}

async fn claimed(store: &Store, chunk: ChunkRef, now: Timestamp) -> Attempt {
    match store.claim(chunk, by("message"), now, CLAIM_TIMEOUT).await.expect("an answer") {
        Claim::Claimed(attempt) => attempt,
        other => panic!("not claimed: {other:?}"),
    }
}

/// Settles every chunk, removes it from the unsettled set, and finishes the job.
async fn finished(store: &Store, job: &NewJob, verdict: &Verdict, when: Timestamp) -> TranscriptResult {
    let mut head = None;
    for each in job.chunks() {
        let chunk = ChunkRef { job: job.id, index: each.index };
        let attempt = claimed(store, chunk, when).await;
        assert_eq!(store.settle(chunk, &attempt, verdict, when).await.expect("settled"), Settle::Settled);
        if let RemoveUnsettled::AllSettled(last) = removed(store, chunk).await.expect("removed") {
            head = Some(last);
        }
    }
    let head = head.expect("the last removal reports it");
    let chunks = store.chunks(job.id).await.expect("chunks");
    let result = TranscriptResult::ended(&head, &chunks, when).expect("all settled");
    assert_eq!(store.finish(&head, &result).await.expect("finished"), Finish::Finished);
    result
}

async fn create_is_idempotent(store: Store) {
    let mut job = new_job(&some_user(), 6, now());
    job.start_offset = 7201.345;
    store.create(&job, at(30)).await.expect("created");
    assert_eq!(store.job(job.id).await.expect("read"), Some(job.job()));
    assert_eq!(store.chunks(job.id).await.expect("read"), job.chunks());

    claimed(&store, chunk(&job, 2), now()).await;
    store.create(&job, at(30)).await.expect("again");
    assert_eq!(store.chunks(job.id).await.expect("read")[2].status(), ChunkStatus::InProgress);
}

async fn the_last_removal_reports_all_settled(store: Store) {
    let job = made(&store, 2).await;
    assert_eq!(removed(&store, chunk(&job, 1)).await.expect("removed"), RemoveUnsettled::Remaining);
    assert_eq!(removed(&store, chunk(&job, 1)).await.expect("removed again"), RemoveUnsettled::Remaining);
    let left = store.job(job.id).await.expect("read").expect("there").unsettled;
    assert_eq!(left, BTreeSet::from([chunk(&job, 0).index]));
    for _ in 0..2 {
        let all = RemoveUnsettled::AllSettled(Box::new(job.job().head));
        assert_eq!(removed(&store, chunk(&job, 0)).await.expect("removed"), all);
    }
}

async fn a_job_is_finished_once(store: Store) {
    let job = made(&store, 2).await;
    for each in [0, 1] {
        store
            .settle(chunk(&job, each), &Attempt::number(0), &transcribed("word"), at(5))
            .await
            .expect("settled");
        removed(&store, chunk(&job, each)).await.expect("removed");
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
    assert_eq!(removed(&store, chunk(&job, 0)).await.expect("removed"), RemoveUnsettled::Ended);
    let head = store.job(job.id).await.expect("read").expect("there").head;
    let time = standing.completed_time.expect("ended");
    assert_eq!(head.state, JobState::Ended { completely: true, at: time });
    // The index is eventually consistent.
    eventually("the job to leave the index of open jobs", async || {
        let due = store.due(at(100_000), 1000).await.expect("a listing");
        (!due.iter().any(|due| due.job == job.id)).then_some(())
    })
    .await;
}

async fn a_search_has_pages_newest_first(store: Store) {
    let user = some_user();
    let mut jobs = Vec::new();
    // The last two are in the same millisecond, so their ids decide about the order.
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

async fn a_search_filters_by_status_and_user(store: Store) {
    let (user, other) = (some_user(), some_user());
    let [open, good, bad] = [1, 2, 3].map(|seconds| new_job(&user, 2, at(seconds)));
    let others = new_job(&other, 1, at(4));
    for job in [&open, &good, &bad, &others] {
        store.create(job, at(30)).await.expect("made");
    }
    let good_result = finished(&store, &good, &transcribed("yes"), at(10)).await;
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

async fn a_check_is_postponed_once(store: Store) {
    let job = made(&store, 1).await;
    let find = async |by: Timestamp| {
        store.due(by, 1000).await.expect("a listing").into_iter().find(|due| due.job == job.id)
    };
    let due = eventually("the job to be due", async || find(at(30)).await).await;
    assert_eq!(due.next_check, at(30));
    assert_eq!(find(at(29)).await, None);
    let (a, b) = tokio::join!(store.postpone(&due, at(90), None), store.postpone(&due, at(91), Some(at(30))));
    let won = [a.expect("an answer"), b.expect("an answer")];
    assert!(won == [true, false] || won == [false, true], "{won:?}");
    eventually("the index to follow", async || find(at(30)).await.is_none().then_some(())).await;
    assert!(find(at(91)).await.is_some());
    let check_from = store.job(job.id).await.expect("an answer").expect("it is there").check_from;
    assert_eq!(check_from, won[1].then_some(at(30)));
}

/// After a deployment of a version with more shards, an older job is in another shard than its id suggests.
#[tokio::test]
async fn a_job_is_postponed_in_the_shard_where_it_was_found() {
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
            store.postpone(&due, due.next_check.plus(Duration::from_secs(1)), None).await.expect("an answer"),
            "{shard}"
        );
    }
}

/// The table deletes expired items within two days.
async fn an_expired_job_is_gone_until_it_is_retried(store: Store) {
    let user = some_user();
    let past = now().minus(RETENTION + Duration::from_secs(10));
    let job = new_job(&user, 3, past);
    store.create(&job, past).await.expect("made");
    let claim =
        async |index, by| store.claim(chunk(&job, index), by, now(), CLAIM_TIMEOUT).await.expect("an answer");
    let listed = async || {
        let search = Search::all(user.clone(), 10, at(100_000));
        (
            store.search(&search).await.expect("a page"),
            read_page(store.as_ref(), &search).await.expect("a page"),
        )
    };
    let is_gone = async |head: &JobHead| {
        assert_eq!(store.job(job.id).await.expect("an answer"), None);
        assert_eq!(store.chunks(job.id).await.expect("an answer"), []);
        assert_eq!(store.details(std::slice::from_ref(head)).await.expect("an answer"), [None]);
        assert_eq!(read(store.as_ref(), job.id).await.expect("an answer"), None);
        let (page, (results, _)) = listed().await;
        assert!(page.jobs.is_empty() && results.is_empty(), "{page:?} {results:?}");
    };
    is_gone(&job.job().head).await;
    assert_eq!([claim(0, by("m")).await, claim(0, again("m")).await], [Claim::Gone, Claim::Gone]);

    // It ended before, with one of its chunks completed.
    let verdicts = [transcribed("kept"), failed(), failed()];
    let mut chunks = job.chunks();
    for (index, verdict) in (0..).zip(&verdicts) {
        store.settle(chunk(&job, index), &Attempt::number(0), verdict, past).await.expect("settled");
        removed(&store, chunk(&job, index)).await.expect("struck");
        let state = ChunkState::Settled { at: past, verdict: verdict.clone() };
        chunks[usize::try_from(index).expect("small")].state = state;
    }
    let result = TranscriptResult::ended(&job.job().head, &chunks, past).expect("settled");
    assert_eq!(store.finish(&job.job().head, &result).await.expect("finished"), Finish::Finished);
    let ended = JobHead { state: JobState::Ended { completely: false, at: past }, ..job.job().head };
    is_gone(&ended).await;

    let index = [1, 2].map(|index| chunk(&job, index).index);
    assert!(store.reopen(&ended, &index, now(), at(30)).await.expect("an answer"));
    let opened = store.job(job.id).await.expect("an answer").expect("it is kept again");
    assert_eq!((opened.head.state, opened.unsettled), (JobState::Open, BTreeSet::from(index)));
    let kept = store.chunks(job.id).await.expect("an answer");
    assert_eq!(kept.iter().map(Chunk::status).collect::<Vec<_>>(), {
        [ChunkStatus::Completed, ChunkStatus::Pending, ChunkStatus::Pending]
    });
    for index in [1, 2] {
        assert!(matches!(claim(index, by("message")).await, Claim::Claimed(_)));
        store
            .settle(chunk(&job, index), &Attempt::number(2), &transcribed("now"), at(1))
            .await
            .expect("settled");
        removed(&store, chunk(&job, index)).await.expect("struck");
    }
    let chunks = store.chunks(job.id).await.expect("an answer");
    let result = TranscriptResult::ended(&opened.head, &chunks, at(2)).expect("settled");
    assert_eq!(store.finish(&opened.head, &result).await.expect("finished"), Finish::Finished);
    assert_eq!(read(store.as_ref(), job.id).await.expect("an answer"), Some(result.clone()));
    eventually("the index to follow", async || (listed().await.1.0 == [result.clone()]).then_some(())).await;
}

/// The SDK repeats a successful write, and the condition fails because of the first one.
#[tokio::test]
async fn a_write_with_a_lost_answer_is_recognised() {
    let (calls, lost) = (Calls::default(), LostAnswer::default());
    let clients = clients().await.resources.clients(&calls).await;
    let config = clients.dynamodb.config().to_builder().interceptor(lost.clone()).build();
    let client = aws_sdk_dynamodb::Client::from_conf(config);
    let store: Store = Arc::new(DynamoStore::new(client, &clients.resources.table, RETENTION));
    let job = made(&store, 1).await;
    let it = chunk(&job, 0);
    let twice = |what: &str| {
        assert_eq!(calls.of("UpdateItem"), 2, "{what}");
        calls.reset();
    };

    let due = DueJob { job: job.id, next_check: at(30) };
    calls.reset();
    lost.next_update();
    assert!(store.postpone(&due, at(60), Some(at(30))).await.expect("an answer"));
    twice("postpone");
    assert!(!store.postpone(&due, at(90), None).await.expect("an answer"), "that turn is over");
    calls.reset();

    let begin = claimed(&store, it, at(0)).await;
    assert_eq!(begin.number, 1);
    calls.reset();
    lost.next_update();
    assert!(store.release(it, &begin).await.expect("an answer"));
    twice("release");
    let mut standing = store.chunks(job.id).await.expect("an answer").remove(0);
    assert_eq!((standing.status(), standing.released), (ChunkStatus::Pending, 1));

    lost.next_update();
    let again = claimed(&store, it, at(1)).await;
    twice("claim");
    standing = store.chunks(job.id).await.expect("an answer").remove(0);
    assert_eq!((again.number, standing.attempt), (2, 2), "one claim");
}

/// Each write to a large item costs by its size, even if its condition fails.
#[tokio::test]
async fn a_redelivered_settled_chunk_is_claimed_without_a_write() {
    let calls = Calls::default();
    let store: Store = clients().await.resources.clients(&calls).await.store();
    let job = made(&store, 1).await;
    let it = chunk(&job, 0);
    store.settle(it, &Attempt::number(0), &transcribed(&"word ".repeat(700)), at(1)).await.expect("settled");
    calls.reset();
    assert_eq!(
        store.claim(it, again("message"), at(2), CLAIM_TIMEOUT).await.expect("an answer"),
        Claim::Settled
    );
    assert_eq!((calls.of("UpdateItem"), calls.of("GetItem"), calls.counts().len()), (0, 1, 1));
}

async fn details_cover_open_ended_and_missing_jobs(store: Store) {
    let (open, ended) = (made(&store, MAX_CHUNKS).await, made(&store, 2).await);
    let gone = new_job(&some_user(), 1, now());
    let half = made(&store, 2).await;
    let attempt = claimed(&store, chunk(&half, 1), at(5)).await;
    store.settle(chunk(&half, 1), &attempt, &transcribed("words"), at(6)).await.expect("settled");
    let details = store.details(&[half.job().head]).await.expect("details");
    let shown: Vec<_> =
        store.chunks(half.id).await.expect("chunks").into_iter().map(Chunk::without_segments).collect();
    assert_eq!(details, [Some(Detail::Chunks(shown))], "without segments");
    // A reader whose job is retried during the read.
    let state = JobState::Ended { completely: false, at: at(7) };
    let before = JobHead { state, ..half.job().head };
    assert_eq!(store.details(&[before]).await.expect("details"), [None]);
    let result = finished(&store, &ended, &failed(), at(9)).await;
    let ended_head = store.job(ended.id).await.expect("read").expect("there").head;
    let heads = [open.job().head, gone.job().head, ended_head];
    let details = store.details(&heads).await.expect("details");
    assert_eq!(details, [Some(Detail::Chunks(open.chunks())), None, Some(Detail::Ended(Box::new(result)))]);
    assert_eq!(store.details(&[]).await.expect("details"), []);
}

/// The most chunks, of 700 words with three bytes per letter are larger than an item may be.
async fn a_transcript_of_24_long_chunks_is_complete(store: Store) {
    let job = made(&store, MAX_CHUNKS).await;
    let text = vec!["การถอดเสียง"; 700].join(" ");
    let result = finished(&store, &job, &transcribed(&text), at(9)).await;
    let whole = result.transcription.clone().expect("a text");
    assert!(whole.len() > 400 * 1024, "{} bytes", whole.len());
    assert_eq!(Some(whole), stitch(&store.chunks(job.id).await.expect("chunks")));
    assert_eq!(read(store.as_ref(), job.id).await.expect("read"), Some(result));
}

async fn unknown_jobs_are_gone(store: Store) {
    let unknown = ChunkRef { job: JobId::random(), index: ChunkIndex::try_from(0).expect("an index") };
    assert_eq!(store.job(unknown.job).await.expect("an answer"), None);
    assert_eq!(store.chunks(unknown.job).await.expect("an answer"), []);
    for by in [by("message"), again("message")] {
        assert_eq!(store.claim(unknown, by, now(), CLAIM_TIMEOUT).await.expect("an answer"), Claim::Gone);
    }
    assert_eq!(
        store.settle(unknown, &Attempt::number(1), &failed(), now()).await.expect("an answer"),
        Settle::Gone
    );
    assert_eq!(
        store.settle(unknown, &Attempt::number(0), &transcribed("x"), now()).await.expect("an answer"),
        Settle::Gone
    );
    assert_eq!(removed(&store, unknown).await.expect("an answer"), RemoveUnsettled::Gone);
    store.release(unknown, &Attempt::number(1)).await.expect("nothing happens");
    let job = new_job(&some_user(), 1, now());
    let mut chunks = job.chunks();
    chunks[0].state = ChunkState::Settled { at: now(), verdict: failed() };
    let head = job.job().head;
    let result = TranscriptResult::ended(&head, &chunks, now()).expect("settled");
    let ended = JobHead { state: JobState::Ended { completely: false, at: now() }, ..head.clone() };
    let index = unknown.index;
    assert!(!store.reopen(&ended, &[index], now(), now()).await.expect("an answer"));
    assert_eq!(store.finish(&head, &result).await.expect("an answer"), Finish::NotOpen);
    // No items were written.
    assert_eq!(read(store.as_ref(), job.id).await.expect("read"), None);
    assert_eq!(store.chunks(unknown.job).await.expect("an answer"), []);
}

async fn the_latest_report_of_each_worker_is_listed(store: Store) {
    let started = now();
    let report = |name: &str, in_hand, reported| WorkerState {
        name: name.to_owned(),
        started,
        reported,
        slots: 4,
        ceiling: 8,
        in_hand,
        circuit_open: true,
        problem: Some("no answer".to_owned()),
        last_minute: 29_397_540,
        minutes: vec![Minute { completed: 3, call_ms: 1500, ..Minute::default() }],
        failures: BTreeMap::from([("INTERNAL".to_owned(), 2)]),
    };
    let minute_ago = now().minus(Duration::from_secs(61));
    for (name, in_hand, reported) in [("one", 1, now()), ("two", 2, minute_ago), ("one", 3, now())] {
        store.report(&report(name, in_hand, reported)).await.expect("the store answers");
    }
    let reports = store.reports(now()).await.expect("the store answers");
    assert_eq!(reports, [report("one", 3, reports[0].reported)]);
}
