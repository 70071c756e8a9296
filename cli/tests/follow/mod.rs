//! Following a job by its event stream: the number of requests, and bad streams.

use serde_json::{Value, json};

use crate::fake::{Fake, JOB, Ran, Reply, result};
use crate::{COMPLETED, IN_PROGRESS, completed, in_progress};

const BEGINNING: &str = "retry: 10\n\n";

fn chunk(id: &str, index: usize, status: &str) -> String {
    let data = json!({ "index": index, "chunkStatus": status, "attempts": 1 });
    format!("id: {id}\nevent: chunk\ndata: {data}\n\n")
}

fn job(id: &str, data: &Value) -> String {
    format!("id: {id}\nevent: job\ndata: {data}\n\n")
}

fn in_progress_event(id: &str) -> String {
    job(id, &json!({ "jobId": JOB, "jobStatus": IN_PROGRESS, "chunkCount": 2 }))
}

fn ended_event(id: &str) -> String {
    job(id, &result(COMPLETED, Some("And so, my fellow Americans."), &[COMPLETED, COMPLETED]))
}

/// Asserts the output of `longhand watch` for a job whose two chunks complete one after the other.
fn assert_whole(ran: &Ran) {
    let lines = format!(
        "chunk 1 of 2 PENDING  a.wav\nchunk 2 of 2 IN_PROGRESS  a.wav\nchunk 1 of 2 COMPLETED  a.wav\n\
         chunk 2 of 2 COMPLETED  a.wav\njob {JOB} COMPLETED\n"
    );
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), lines.as_str()), "{ran:?}");
}

fn whole() -> String {
    let events = [
        BEGINNING.to_owned(),
        in_progress_event("I;."),
        chunk("I;P0.I1", 0, "PENDING"),
        ": alive\n\n".to_owned(),
        chunk("I;C1.I1", 0, COMPLETED),
        chunk("I;C1.C1", 1, COMPLETED),
        ended_event("C;C1.C1"),
    ];
    events.concat()
}

#[tokio::test]
async fn two_requests_follow_a_job_to_its_end() {
    let fake = Fake::start(vec![in_progress()]).await.on_events(vec![Reply::events(&whole()).open()]);
    assert_whole(&fake.run(&["watch", JOB]).await);
    assert_eq!((fake.looks(), fake.streams()), (1, vec![None]));

    // The end of the stream is the service's own answer.
    let ran = fake.run(&["get", JOB, "--wait", "--json"]).await;
    let answer = result(COMPLETED, Some("And so, my fellow Americans."), &[COMPLETED, COMPLETED]);
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("{answer}\n")));
    assert_eq!(fake.calls().len(), 4);
}

#[tokio::test]
async fn a_dropped_stream_resumes_from_the_last_event() {
    let half = [BEGINNING, &in_progress_event("I;."), &chunk("I;C1.I1", 0, COMPLETED)].concat();
    // Half an event is ignored.
    let torn = [BEGINNING, "id: I;C1.C1\nevent: chunk\ndata: {\"index\":1,"].concat();
    let rest = [BEGINNING, &chunk("I;C1.C1", 1, COMPLETED), &ended_event("C;C1.C1")].concat();
    let streams = [half.as_str(), &torn, &rest].map(Reply::events);
    let fake = Fake::start(vec![in_progress()]).await.on_events(streams.to_vec());
    assert_whole(&fake.run(&["watch", JOB]).await);
    let read = || Some("I;C1.I1".to_owned());
    assert_eq!((fake.looks(), fake.streams()), (1, vec![None, read(), read()]));

    // A server that does not know the id repeats all events; no line is printed twice.
    let again =
        [&half, &chunk("I;C1.C1", 1, COMPLETED), &ended_event("C;C1.C1")].map(String::as_str).concat();
    let fake =
        Fake::start(vec![in_progress()]).await.on_events([half.as_str(), &again].map(Reply::events).to_vec());
    assert_whole(&fake.run(&["watch", JOB]).await);
}

#[tokio::test]
async fn invalid_streams_are_replaced_by_polling() {
    for nonsense in [
        "event: chunk\ndata: nonsense\n\n".to_owned(),
        chunk("x", 7, COMPLETED),
        chunk("x", 0, "DONE"),
        job("x", &json!({ "jobStatus": COMPLETED })),
        // Another job's result.
        ended_event("x").replace(JOB, "0198c1d2-7a3e-7cc0-8000-000000000000"),
    ] {
        let half = Reply::ok(&result(IN_PROGRESS, Some("And so"), &[COMPLETED, IN_PROGRESS]));
        let bad = Reply::events(&[BEGINNING, &nonsense].concat()).open();
        let fake = Fake::start(vec![in_progress(), half, completed()]).await.on_events(vec![bad]);
        assert_whole(&fake.run(&["watch", JOB]).await);
        assert_eq!((fake.looks(), fake.streams().len()), (3, 1), "{nonsense}");
    }
    // An answer with another media type is not a stream.
    let page = Reply::text("<html>welcome</html>");
    let fake = Fake::start(vec![in_progress(), completed()]).await.on_events(vec![page]);
    assert_eq!(fake.run(&["watch", JOB]).await.code, Some(0));
    assert_eq!((fake.looks(), fake.streams().len()), (2, 1));
}

#[tokio::test]
async fn without_streams_each_poll_waits() {
    let fake = Fake::start(vec![in_progress(), in_progress(), completed()]).await;
    let ran = fake.run(&["get", JOB, "--wait"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "And so, my fellow Americans.\n"));
    assert_eq!((fake.looks(), fake.streams().len()), (3, 1), "a 406 ends the attempts to stream");
    let looks = fake.calls().into_iter().filter(|call| !call.line.ends_with("/events"));
    let waits: Vec<_> = looks.map(|call| call.headers.get("prefer").cloned()).collect();
    assert_eq!(waits[0], None, "the first look shows how it stands");
    assert!(waits[1..].iter().all(|wait| wait.as_ref().is_some_and(|wait| wait == "wait=5")), "{waits:?}");
}

#[tokio::test]
async fn a_server_that_refuses_or_drops_streams_is_polled() {
    let full = Reply::problem(503, "TOO_MANY_STREAMS", &json!([]));
    let mute = Reply::events("");
    for bad in [full, mute] {
        let half = Reply::ok(&result(IN_PROGRESS, Some("And so"), &[COMPLETED, IN_PROGRESS]));
        let streams = vec![bad, Reply::events(&whole())];
        let fake = Fake::start(vec![in_progress(), half]).await.on_events(streams);
        let ran = fake.run(&["watch", JOB]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!((fake.looks(), fake.streams().len()), (2, 2));
        // The user sees none of it.
        assert!(!ran.stderr.contains("trying again"), "{ran:?}");
    }
}

#[tokio::test]
async fn an_outage_of_the_stream_is_reported_once() {
    let down = || Reply::html(502);
    let fake = Fake::start(vec![in_progress(), down(), down(), in_progress()])
        .await
        .on_events(vec![down(), Reply::events(&whole())]);
    let ran = fake.run(&["watch", JOB]).await;
    assert_whole(&ran);
    assert_eq!(ran.stderr.matches("trying again").count(), 1, "{ran:?}");
}

#[tokio::test]
async fn a_silent_stream_ends_at_the_users_time_limit() {
    let silent = [BEGINNING, &in_progress_event("I;.")].concat();
    let fake = Fake::start(vec![in_progress()]).await.on_events(vec![Reply::events(&silent).open()]);
    let ran = fake.run(&["watch", JOB, "--timeout", "1s"]).await;
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert_eq!((fake.looks(), fake.streams().len()), (1, 1));
}
