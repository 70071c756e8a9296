//! Telling of the end of a job: receivers of every kind, crashes in between, and the schedule of a day.

use std::cell::OnceCell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use longhand_shared::domain::callback::{Callback, CallbackAttempt, CallbackState};
use longhand_shared::domain::job::{ChunkError, ErrorCode, JobStatus, NewJob, Transcription, Verdict};
use longhand_shared::lifecycle::{Lifecycle, Retry, Settled};
use longhand_shared::net::outbound::Outbound;
use longhand_shared::queue::memory::MemoryQueue;
use longhand_shared::queue::{ChunkQueue, Delivery};
use longhand_shared::store::FIRST_CHECK;
use longhand_shared::store::JobStore;
use longhand_shared::webhook::signature::{MasterSecret, MasterSecrets};
use longhand_shared::{Attempt, JobId, Timestamp, UserId};
use longhand_sim_asr::Behaviour;
use longhand_worker::lease::{Lease, Stop};
use longhand_worker::runner::{Handler, Outcome};
use longhand_worker::sweeper::{SweepSettings, Sweeper};
use longhand_worker::webhooks::Webhooks;
use standardwebhooks::Webhook;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::support::{
    CLAIM_TIMEOUT, FaultyQueue, Op, Running, StoreFault, World, by, chunk_of, limits, secs,
};

/// The time as tokio's clock goes on from the first look at it. Each test has a thread of its own.
fn clock() -> Timestamp {
    thread_local!(static BEGAN: OnceCell<(Timestamp, Instant)> = const { OnceCell::new() });
    BEGAN.with(|began| {
        let (time, instant) = began.get_or_init(|| (Timestamp::now(), Instant::now()));
        // What is written is whole milliseconds.
        time.plus(Duration::from_millis(u64::try_from(instant.elapsed().as_millis()).expect("small")))
    })
}

fn user() -> UserId {
    "ana".parse().expect("a user")
}

fn master(letter: &str) -> MasterSecret {
    MasterSecret::new(&letter.repeat(32)).expect("long enough")
}

fn secrets() -> MasterSecrets {
    MasterSecrets { current: master("n"), previous: Some(master("o")) }
}

/// A world, and the queues of its webhooks.
struct Post {
    world: World,
    queue: Arc<FaultyQueue>,
    dead: Arc<FaultyQueue>,
}

impl Post {
    async fn new() -> Self {
        let dead = Arc::new(MemoryQueue::new());
        Self {
            world: World::new(Behaviour::default()).await,
            queue: FaultyQueue::over(MemoryQueue::with_redrive(3, Arc::clone(&dead))),
            dead: FaultyQueue::around(dead),
        }
    }

    fn webhooks(&self, hosts: &str) -> Webhooks {
        Webhooks {
            store: Arc::clone(&self.world.store) as _,
            outbound: Outbound::new().expect("a client"),
            hosts: hosts.parse().expect("hosts"),
            secrets: secrets(),
            clock,
        }
    }

    fn lifecycle(&self) -> Lifecycle {
        self.world.lifecycle().with_webhooks(Some(Arc::clone(&self.queue) as _))
    }

    fn sweeper(&self) -> Sweeper {
        Sweeper {
            lifecycle: self.lifecycle(),
            settings: SweepSettings { every: secs(15) },
            claim_timeout: CLAIM_TIMEOUT,
        }
    }

    async fn sweep(&self, now: Timestamp) {
        self.sweeper().sweep(now).await.expect("nothing is down");
    }

    /// A job of one chunk that has just ended, without a webhook message in the queue.
    async fn ended(&self, url: &str, failed: bool) -> JobId {
        let mut new: NewJob = self.world.job(&["a.wav"], true);
        new.callback_url = Some(url.to_owned());
        let store = &self.world.store.inner;
        store.create(&new, new.submitted.plus(FIRST_CHECK)).await.expect("memory answers");
        self.end(new.id, failed).await;
        new.id
    }

    async fn end(&self, job: JobId, failed: bool) {
        let (store, chunk, now) = (&self.world.store.inner, chunk_of(job, 0), clock());
        store.claim(chunk, by("a"), now, CLAIM_TIMEOUT).await.expect("memory answers");
        let attempt = store.chunks(job).await.expect("memory answers")[0].attempt;
        let verdict = if failed {
            Verdict::Failed(ChunkError::new(ErrorCode::AudioEmpty, "no bytes"))
        } else {
            Verdict::Completed(Transcription::new("secret words", None, vec![]).expect("small"))
        };
        let settled = self.world.lifecycle().settle(chunk, &Attempt::number(attempt), &verdict, now).await;
        assert_eq!(settled.expect("memory answers"), Settled::Done { mine: true, finished: true });
    }

    /// The one message that is there.
    async fn message(&self) -> Delivery {
        let mut messages = self.queue.receive(10, Duration::ZERO, secs(30)).await.expect("memory answers");
        assert_eq!(messages.len(), 1, "{messages:?}");
        messages.remove(0)
    }

    async fn announced(&self, job: JobId) -> Delivery {
        self.lifecycle().announce(job).await;
        self.message().await
    }

    async fn callback(&self, job: JobId) -> Callback {
        self.world.result(job).await.callback.expect("it was asked for")
    }

    async fn due(&self, job: JobId) -> Option<Timestamp> {
        let far = Timestamp::from_unix(u32::MAX);
        let due = self.world.store.inner.due(far, 100).await.expect("memory answers");
        due.into_iter().find(|due| due.job == job).map(|due| due.next_check)
    }
}

/// The requests that a receiver received.
type Received = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// A receiver with this answer: its URL, the entry of the list that allows it, and the requests it receives.
async fn receiver(
    answer: impl Fn() -> Response + Clone + Send + Sync + 'static,
) -> (String, String, Received) {
    let received = Received::default();
    let noted = Arc::clone(&received);
    let router = Router::new().fallback(move |headers: HeaderMap, body: Bytes| {
        noted.lock().expect("not poisoned").push((headers, body));
        let answer = answer();
        async move { answer }
    });
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let host = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
    (format!("{host}/hook?token=t"), host, received)
}

fn ids(received: &Received) -> Vec<String> {
    let received = received.lock().expect("not poisoned");
    received.iter().map(|(headers, _)| headers["webhook-id"].to_str().expect("ASCII").to_owned()).collect()
}

async fn handle(webhooks: &Webhooks, message: &Delivery) -> Outcome {
    webhooks.handle(message, &Lease::default()).await
}

#[tokio::test]
async fn the_public_library_verifies_an_event_that_has_no_transcript() {
    let (url, host, received) = receiver(|| StatusCode::NO_CONTENT.into_response()).await;
    let post = Post::new().await;
    let job = post.ended(&url, false).await;
    let message = post.announced(job).await;
    assert_eq!(handle(&post.webhooks(&host), &message).await, Outcome::Done);

    let (headers, body) = received.lock().expect("not poisoned")[0].clone();
    for letter in ["n", "o"] {
        let secret = master(letter).of(&user()).reveal();
        Webhook::new(&secret).expect("a secret").verify(&body, &headers).expect("either secret verifies");
    }
    let others = master("n").of(&"bob".parse().expect("a user")).reveal();
    Webhook::new(&others).expect("a secret").verify(&body, &headers).expect_err("another user's does not");

    let result = post.world.result(job).await;
    let event: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    let completed = result.completed_time.expect("ended").to_string();
    assert_eq!(
        (event["type"].as_str(), event["timestamp"].as_str()),
        (Some("transcript.completed"), Some(&*completed))
    );
    assert_eq!(event["data"]["jobId"], job.to_string());
    assert_eq!(event["data"]["transcriptPath"], format!("/transcript/{job}"));
    assert_eq!(headers["content-type"], "application/json");
    assert!(!String::from_utf8_lossy(&body).contains("secret words"));

    let callback = result.callback.expect("it was asked for");
    assert_eq!((callback.state, callback.tries), (CallbackState::Delivered, 1));
    assert_eq!((callback.attempts[0].status, &callback.attempts[0].error), (Some(204), &None));
    assert_eq!(post.due(job).await, None, "nothing is left to do");
    // A copy of the message.
    assert_eq!(handle(&post.webhooks(&host), &message).await, Outcome::Done);
    assert_eq!(ids(&received).len(), 1);
}

#[tokio::test]
async fn an_end_for_which_nobody_sent_a_message_is_the_sweepers() {
    let (url, host, received) = receiver(|| StatusCode::OK.into_response()).await;
    let post = Post::new().await;
    let job = post.ended(&url, false).await;
    let ended = post.world.result(job).await.completed_time.expect("ended");
    assert_eq!(post.due(job).await, Some(ended.plus(FIRST_CHECK)));
    post.sweep(ended.plus(secs(29))).await;
    assert_eq!(post.queue.len().await, 0);
    post.sweep(ended.plus(FIRST_CHECK)).await;
    post.sweep(ended.plus(FIRST_CHECK)).await;
    let message = post.message().await;
    // The next reminder is not sent while this one may be on its way.
    post.sweep(ended.plus(FIRST_CHECK + secs(299))).await;
    assert_eq!(post.queue.len().await, 1);
    assert_eq!(handle(&post.webhooks(&host), &message).await, Outcome::Done);
    post.sweep(ended.plus(secs(100_000))).await;
    assert_eq!((post.queue.len().await, ids(&received).len()), (1, 1));
}

#[tokio::test]
async fn a_repeated_delivery_keeps_its_id_and_a_new_end_has_another() {
    let (url, host, received) = receiver(|| StatusCode::OK.into_response()).await;
    let post = Post::new().await;
    let job = post.ended(&url, true).await;
    let message = post.announced(job).await;
    let webhooks = post.webhooks(&host);
    post.world.store.fault_next(Op::NoteCallback, StoreFault::Fail, 1);
    assert!(matches!(handle(&webhooks, &message).await, Outcome::Requeue { .. }));
    assert_eq!(post.callback(job).await.state, CallbackState::Pending);
    // Noted, but the answer was lost: the event is not delivered again.
    post.world.store.fault_next(Op::NoteCallback, StoreFault::LostAnswer, 1);
    assert!(matches!(handle(&webhooks, &message).await, Outcome::Requeue { .. }));
    assert_eq!(handle(&webhooks, &message).await, Outcome::Done);
    let first = ids(&received);
    assert_eq!((first.len(), &first[0]), (2, &first[1]));

    // A retried job ends a second time, which the old message does not cover.
    let retried = post.lifecycle().retry(job, clock()).await;
    assert_eq!(retried.expect("memory answers"), Retry::Retried(1));
    assert_eq!(post.callback(job).await, Callback::new(&url));
    assert_eq!(handle(&webhooks, &message).await, Outcome::Done);
    sleep(Duration::from_millis(2)).await;
    post.end(job, false).await;
    assert_eq!(handle(&webhooks, &message).await, Outcome::Done);
    assert_eq!(ids(&received).len(), 2, "that end is no longer the job's");
    post.queue.delete(&[message.receipt]).await;
    let message = post.announced(job).await;
    assert_eq!(handle(&webhooks, &message).await, Outcome::Done);
    let all = ids(&received);
    assert_eq!(all.len(), 3);
    assert_ne!(all[2], first[0]);
}

/// An answer, the outcome for the message, the state of the callback, and the pause in seconds.
type Case = (fn() -> Response, Outcome, CallbackState, Option<u64>);

#[tokio::test]
async fn what_each_answer_means() {
    let redirect = || (StatusCode::FOUND, [("location", "http://127.0.0.1:1/")]).into_response();
    let busy = || (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "120")]).into_response();
    let later = || (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "7200")]).into_response();
    let error = || (StatusCode::INTERNAL_SERVER_ERROR, [("retry-after", "7200")]).into_response();
    let gone = || StatusCode::GONE.into_response();
    let retry = |seconds| Outcome::Requeue { delay: secs(seconds) };
    let cases: [Case; 5] = [
        (redirect, retry(5), CallbackState::Pending, Some(5)),
        (busy, retry(120), CallbackState::Pending, Some(120)),
        // Longer than the queue can wait: the sweeper's.
        (later, Outcome::Done, CallbackState::Pending, Some(7200)),
        (error, retry(5), CallbackState::Pending, Some(5)),
        (gone, Outcome::Done, CallbackState::Gone, None),
    ];
    for (answer, outcome, state, pause) in cases {
        let status = answer().status();
        let (url, host, received) = receiver(answer).await;
        let post = Post::new().await;
        let job = post.ended(&url, true).await;
        let message = post.announced(job).await;
        let actual = handle(&post.webhooks(&host), &message).await;
        let callback = post.callback(job).await;
        match (actual, outcome) {
            (Outcome::Requeue { delay }, Outcome::Requeue { delay: expected }) => assert_eq!(delay, expected),
            (actual, outcome) => assert_eq!(actual, outcome, "{status}"),
        }
        assert_eq!((callback.state, callback.attempts[0].status), (state, Some(status.as_u16())));
        let next = callback.next_try_time.map(|next| next.since(callback.attempts[0].time).as_secs());
        assert_eq!(next, pause, "{status}");
        assert_eq!(post.due(job).await.is_some(), pause.is_some(), "{status}");
        assert_eq!(ids(&received).len(), 1);
        if state == CallbackState::Gone {
            assert_eq!(handle(&post.webhooks(&host), &message).await, Outcome::Done);
            assert_eq!(ids(&received).len(), 1, "410 ends the delivery");
        }
    }
}

#[tokio::test]
async fn a_copy_that_comes_before_its_time_is_dropped() {
    let answer = || (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "3600")]).into_response();
    let (url, host, received) = receiver(answer).await;
    let post = Post::new().await;
    let job = post.ended(&url, false).await;
    let message = post.announced(job).await;
    let webhooks = post.webhooks(&host);
    assert_eq!(handle(&webhooks, &message).await, Outcome::Done);
    assert_eq!(handle(&webhooks, &message).await, Outcome::Superfluous);
    assert_eq!(ids(&received).len(), 1);
}

/// One who takes the connection, and what it does with it.
async fn odd(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let host = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer).await;
            if answer.is_empty() {
                std::future::pending::<()>().await;
            }
        }
    });
    host
}

/// Posts to `url` once and returns the recorded error.
async fn fails(url: &str, hosts: &str) -> String {
    let post = Post::new().await;
    let job = post.ended(url, false).await;
    let message = post.announced(job).await;
    assert_eq!(handle(&post.webhooks(hosts), &message).await, Outcome::Requeue { delay: secs(5) }, "{url}");
    let callback = post.callback(job).await;
    assert_eq!(
        (callback.state, callback.tries, callback.attempts[0].status),
        (CallbackState::Pending, 1, None)
    );
    callback.attempts[0].error.clone().expect("a reason")
}

#[tokio::test]
async fn receivers_that_make_no_sense_are_failed_tries() {
    let garbage = odd(b"SSH-2.0-OpenSSH_9.9\r\n").await;
    assert_eq!(fails(&format!("{garbage}/hook"), &garbage).await, "no HTTP answer");
    let endless = odd(b"HTTP/1.1 500 x\r\ncontent-length: 99999999999\r\n\r\nab").await;
    let post = Post::new().await;
    let job = post.ended(&format!("{endless}/hook"), false).await;
    let message = post.announced(job).await;
    let outcome = handle(&post.webhooks(&endless), &message).await;
    assert_eq!(outcome, Outcome::Requeue { delay: secs(5) }, "its body is not waited for");
    assert_eq!(post.callback(job).await.attempts[0].status, Some(500));
    assert_eq!(fails("http://127.0.0.1:1/", "http://127.0.0.1:1").await, "no connection");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_hangs_is_a_failed_try() {
    let hangs = odd(b"").await;
    let error = fails(&format!("{hangs}/hook"), &hangs).await;
    assert_eq!(error, "no answer within 10 s");
}

#[tokio::test]
async fn a_worker_that_stops_gives_the_message_back_and_notes_nothing() {
    let hangs = odd(b"").await;
    let post = Post::new().await;
    let job = post.ended(&format!("{hangs}/hook"), false).await;
    let message = post.announced(job).await;
    for (why, outcome) in
        [(Stop::Draining, Outcome::Requeue { delay: Duration::ZERO }), (Stop::LeaseLost, Outcome::Abandon)]
    {
        let (webhooks, lease) = (post.webhooks(&hangs), Lease::default());
        let (actual, ()) = tokio::join!(webhooks.handle(&message, &lease), async { lease.stop(why) });
        assert_eq!(actual, outcome);
    }
    assert_eq!(post.callback(job).await.tries, 0);
}

#[tokio::test]
async fn addresses_that_are_not_public_are_refused_when_they_are_connected_to() {
    // The list allows the name; what it means is this machine.
    let error = fails("https://localhost:8443/hook", "localhost:8443").await;
    assert_eq!(error, "the host has no public address");
    // It was allowed when the job was taken.
    let error = fails("https://receiver.example/hook", "").await;
    assert!(error.contains("has the host \"receiver.example\""), "{error}");
}

#[tokio::test]
async fn a_message_that_says_nothing() {
    let post = Post::new().await;
    let webhooks = post.webhooks("");
    let job = post.ended("https://receiver.example/", false).await;
    let mut message = post.announced(job).await;
    post.world.store.inner.expire(job);
    assert_eq!(handle(&webhooks, &message).await, Outcome::Done, "the job is gone");
    message.body = "{}".to_owned();
    assert!(matches!(handle(&webhooks, &message).await, Outcome::Reject { .. }));
}

#[tokio::test]
async fn what_was_given_up_is_tried_once_more_when_a_person_sends_its_dead_letter_back() {
    let status = Arc::new(Mutex::new(StatusCode::NOT_FOUND));
    let answers = Arc::clone(&status);
    let (url, host, received) = receiver(move || answers.lock().expect("not poisoned").into_response()).await;
    let (post, webhooks) = (Post::new().await, |post: &Post| post.webhooks(&host));
    let job = post.ended(&url, false).await;
    let mut message = post.announced(job).await;
    let store = &post.world.store.inner;
    let ended = post.world.result(job).await.completed_time.expect("it has ended");
    let nobody = CallbackAttempt { time: ended, status: None, milliseconds: 1, error: Some("no".to_owned()) };
    let given_up = post.callback(job).await.settled(CallbackState::Failed, nobody);
    assert!(store.note_callback(job, ended, &given_up).await.expect("memory answers"));

    // A late copy does not ask for a redrive.
    assert!(matches!(handle(&webhooks(&post), &message).await, Outcome::Reject { .. }));
    assert_eq!(ids(&received).len(), 0);

    message.envelope.reason = Some("gave up after 1 attempts: no".to_owned());
    let (stopping, lease) = (webhooks(&post), Lease::default());
    lease.stop(Stop::Draining);
    // As a copy it would not say any more what it is.
    assert_eq!(stopping.handle(&message, &lease).await, Outcome::Retry { delay: Duration::ZERO });
    let clock = || Timestamp::now().plus(Duration::from_hours(25));
    let later = |post: &Post| Webhooks { clock, ..webhooks(post) };
    let again = Outcome::Reject { reason: "gave up after 2 attempts: HTTP 404".to_owned() };
    assert_eq!(handle(&later(&post), &message).await, again);
    *status.lock().expect("not poisoned") = StatusCode::NO_CONTENT;
    assert_eq!(handle(&later(&post), &message).await, Outcome::Done);
    let callback = post.callback(job).await;
    assert_eq!((callback.state, callback.tries), (CallbackState::Delivered, 3), "{callback:?}");
    assert_eq!(ids(&received).len(), 2);
    // It is delivered; any further message is late.
    assert_eq!(handle(&later(&post), &message).await, Outcome::Done);
    assert_eq!(ids(&received).len(), 2);
}

/// Tokio's clock goes on by itself while nothing is to be done, so a day takes no time.
#[tokio::test(start_paused = true)]
async fn a_dead_receiver_is_tried_for_a_day_and_ends_as_a_dead_letter() {
    let post = Post::new().await;
    let dead = "http://127.0.0.1:1";
    let began = clock();
    let mut processor = post.world.processor();
    processor.lifecycle = post.lifecycle();
    let working = post.world.work_with(processor, limits(8));
    let telling = Running::start(&post.queue, Some(&post.dead), Arc::new(post.webhooks(dead)), limits(16));
    let sweeper = post.sweeper();
    let sweeping = tokio::spawn(async move {
        loop {
            sweeper.sweep(clock()).await.expect("nothing is down");
            sleep(secs(15)).await;
        }
    });
    let mut new = post.world.job(&["a.wav"], true);
    new.callback_url = Some(format!("{dead}/hook"));
    let job = post.world.send(&new).await;
    let ended = post.world.ended(job).await;
    assert_eq!(ended.job_status, JobStatus::Completed);

    while post.callback(job).await.state == CallbackState::Pending {
        assert!(clock().since(began) < Duration::from_hours(25), "{:?}", post.callback(job).await);
        sleep(secs(60)).await;
    }
    let callback = post.callback(job).await;
    assert_eq!((callback.state, callback.tries), (CallbackState::Failed, 12), "{callback:?}");
    let times: Vec<_> = callback.attempts.iter().map(|attempt| attempt.time).collect();
    let pauses: Vec<_> = times.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    let expected = [120, 600, 1800, 3600, 7200, 14_400, 28_800, 28_800];
    for (pause, expected) in pauses.iter().zip(expected) {
        // A try takes up to ten seconds, and a sweep comes every fifteen.
        let late = pause.checked_sub(secs(expected)).expect("not before its time");
        assert!(late < secs(60), "{pauses:?}");
    }
    assert!(times[9].since(began) >= Duration::from_hours(24));
    while post.dead.len().await == 0 {
        sleep(secs(1)).await;
    }
    let letter = post.dead.receive(10, Duration::ZERO, secs(30)).await.expect("memory answers").remove(0);
    let reason = letter.envelope.reason.expect("why it is there");
    assert!(reason.starts_with("gave up after 12 attempts: no "), "{reason}");
    assert_eq!((post.due(job).await, post.queue.len().await), (None, 0), "nothing is left to do");
    sweeping.abort();
    telling.stop().await;
    working.stop().await;
}
