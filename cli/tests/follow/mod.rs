//! Following a job by its stream of events: in how many requests, and what bad streams do.

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

fn goes_on(id: &str) -> String {
    job(id, &json!({ "jobId": JOB, "jobStatus": IN_PROGRESS, "chunkCount": 2 }))
}

fn the_end(id: &str) -> String {
    job(id, &result(COMPLETED, Some("And so, my fellow Americans."), &[COMPLETED, COMPLETED]))
}

/// What `longhand watch` says of a job whose two chunks are done one after the other.
fn is_told_whole(ran: &Ran) {
    let lines = format!(
        "chunk 0 PENDING  00-a.wav\nchunk 1 IN_PROGRESS  01-a.wav\nchunk 0 COMPLETED  00-a.wav\n\
         chunk 1 COMPLETED  01-a.wav\njob {JOB} COMPLETED\n"
    );
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), lines.as_str()), "{ran:?}");
}

fn whole() -> String {
    let events = [
        BEGINNING.to_owned(),
        goes_on("I;."),
        chunk("I;P0.I1", 0, "PENDING"),
        ": alive\n\n".to_owned(),
        chunk("I;C1.I1", 0, COMPLETED),
        chunk("I;C1.C1", 1, COMPLETED),
        the_end("C;C1.C1"),
    ];
    events.concat()
}

#[tokio::test]
async fn two_requests_follow_a_job_to_its_end() {
    let fake = Fake::start(vec![in_progress()]).await.on_events(vec![Reply::events(&whole()).open()]);
    is_told_whole(&fake.run(&["watch", JOB]).await);
    assert_eq!((fake.looks(), fake.streams()), (1, vec![None]));

    // The end of the stream is the service's own answer.
    let ran = fake.run(&["get", JOB, "--wait", "--json"]).await;
    let answer = result(COMPLETED, Some("And so, my fellow Americans."), &[COMPLETED, COMPLETED]);
    assert_eq!((ran.code, ran.stdout), (Some(0), format!("{answer}\n")));
    assert_eq!(fake.calls().len(), 4);
}

#[tokio::test]
async fn a_stream_that_is_cut_is_gone_on_with() {
    let half = [BEGINNING, &goes_on("I;."), &chunk("I;C1.I1", 0, COMPLETED)].concat();
    // Half an event is no event.
    let torn = [BEGINNING, "id: I;C1.C1\nevent: chunk\ndata: {\"index\":1,"].concat();
    let rest = [BEGINNING, &chunk("I;C1.C1", 1, COMPLETED), &the_end("C;C1.C1")].concat();
    let streams = [half.as_str(), &torn, &rest].map(Reply::events);
    let fake = Fake::start(vec![in_progress()]).await.on_events(streams.to_vec());
    is_told_whole(&fake.run(&["watch", JOB]).await);
    let read = || Some("I;C1.I1".to_owned());
    assert_eq!((fake.looks(), fake.streams()), (1, vec![None, read(), read()]));

    // A server that does not know the id tells everything again, and no line is told twice.
    let again = [&half, &chunk("I;C1.C1", 1, COMPLETED), &the_end("C;C1.C1")].map(String::as_str).concat();
    let fake =
        Fake::start(vec![in_progress()]).await.on_events([half.as_str(), &again].map(Reply::events).to_vec());
    is_told_whole(&fake.run(&["watch", JOB]).await);
}

#[tokio::test]
async fn streams_that_make_no_sense_are_left_for_looks() {
    for nonsense in [
        "event: chunk\ndata: nonsense\n\n".to_owned(),
        chunk("x", 7, COMPLETED),
        chunk("x", 0, "DONE"),
        job("x", &json!({ "jobStatus": COMPLETED })),
        // Another's.
        the_end("x").replace(JOB, "0198c1d2-7a3e-7cc0-8000-000000000000"),
    ] {
        let half = Reply::ok(&result(IN_PROGRESS, Some("And so"), &[COMPLETED, IN_PROGRESS]));
        let bad = Reply::events(&[BEGINNING, &nonsense].concat()).open();
        let fake = Fake::start(vec![in_progress(), half, completed()]).await.on_events(vec![bad]);
        is_told_whole(&fake.run(&["watch", JOB]).await);
        assert_eq!((fake.looks(), fake.streams().len()), (3, 1), "{nonsense}");
    }
    // Nor is an answer that is no stream one.
    let page = Reply::text("<html>welcome</html>");
    let fake = Fake::start(vec![in_progress(), completed()]).await.on_events(vec![page]);
    assert_eq!(fake.run(&["watch", JOB]).await.code, Some(0));
    assert_eq!((fake.looks(), fake.streams().len()), (2, 1));
}

#[tokio::test]
async fn without_streams_the_service_is_asked_to_wait() {
    let fake = Fake::start(vec![in_progress(), in_progress(), completed()]).await;
    let ran = fake.run(&["get", JOB, "--wait"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "And so, my fellow Americans.\n"));
    assert_eq!((fake.looks(), fake.streams().len()), (3, 1), "501 is heard once");
    let looks = fake.calls().into_iter().filter(|call| !call.line.ends_with("/events"));
    let waits: Vec<_> = looks.map(|call| call.headers.get("prefer").cloned()).collect();
    assert_eq!(waits[0], None, "the first look shows how it stands");
    assert!(waits[1..].iter().all(|wait| wait.as_ref().is_some_and(|wait| wait == "wait=5")), "{waits:?}");
}

#[tokio::test]
async fn a_server_with_too_many_streams_or_one_that_cuts_them_at_once_is_asked_too() {
    let full = Reply::problem(503, "TOO_MANY_STREAMS", &json!([]));
    let mute = Reply::events("");
    for bad in [full, mute] {
        let half = Reply::ok(&result(IN_PROGRESS, Some("And so"), &[COMPLETED, IN_PROGRESS]));
        let streams = vec![bad, Reply::events(&whole())];
        let fake = Fake::start(vec![in_progress(), half]).await.on_events(streams);
        let ran = fake.run(&["watch", JOB]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert_eq!((fake.looks(), fake.streams().len()), (2, 2));
        // None of that is the user's trouble.
        assert!(!ran.stderr.contains("trying again"), "{ran:?}");
    }
}

#[tokio::test]
async fn an_outage_of_the_stream_is_told_once_and_waited_out() {
    let down = || Reply::html(502);
    let fake = Fake::start(vec![in_progress(), down(), down(), in_progress()])
        .await
        .on_events(vec![down(), Reply::events(&whole())]);
    let ran = fake.run(&["watch", JOB]).await;
    is_told_whole(&ran);
    assert_eq!(ran.stderr.matches("trying again").count(), 1, "{ran:?}");
}

#[tokio::test]
async fn a_stream_that_says_nothing_more_does_not_outlast_the_users_time() {
    let silent = [BEGINNING, &goes_on("I;.")].concat();
    let fake = Fake::start(vec![in_progress()]).await.on_events(vec![Reply::events(&silent).open()]);
    let ran = fake.run(&["watch", JOB, "--timeout", "1s"]).await;
    assert_eq!(ran.code, Some(5), "{ran:?}");
    assert_eq!((fake.looks(), fake.streams().len()), (1, 1));
}
