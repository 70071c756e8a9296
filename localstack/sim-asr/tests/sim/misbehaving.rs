//! Hanging and cut calls, refusals, stops, and their records in the books.

use std::{io::ErrorKind, iter};

use bytes::Bytes;
use futures::{StreamExt as _, future::join_all, stream};
use longhand_sim_asr::{Answer, Behaviour, Latency, SimAsr};
use reqwest::{
    Body,
    multipart::{Form, Part},
};

use crate::{SOON, answer, answering, form, post, start, status};

#[tokio::test]
async fn a_hanging_call_is_in_flight_until_the_client_aborts() {
    let sim = answering(Answer::Hang).await;
    let client = tokio::spawn(post(&sim, form("a")));
    assert!(sim.wait_until(|books| books.hung == 1, SOON).await);
    assert_eq!((sim.books().in_flight, sim.books().aborted), (1, 0));
    client.abort();
    assert!(sim.wait_until(|books| books.in_flight == 0, SOON).await);
    let books = sim.books();
    assert_eq!((books.aborted, books.file("a").aborted), (1, 1));
    assert_eq!((books.file("a").ok, books.file("a").errors), (0, 0));
}

#[tokio::test]
async fn a_call_that_hangs_within_its_answer_is_in_flight() {
    let sim = answering(Answer::HangMidBody).await;
    let mut response = answer(&sim, form("a")).await;
    assert_eq!(response.status(), 200);
    assert!(response.chunk().await.expect("a first half").is_some());
    assert_eq!((sim.books().in_flight, sim.books().hung), (1, 1));
    drop(response);
    assert!(sim.wait_until(|books| books.in_flight == 0 && books.aborted == 1, SOON).await);
}

#[tokio::test]
async fn a_cut_connection_is_an_error_before_or_within_the_answer() {
    let sim = answering(Answer::Cut).await;
    let error = post(&sim, form("a")).await.expect_err("no answer");
    assert!(error.is_request(), "{error:?}");

    sim.set(Behaviour::answering(Answer::CutMidBody));
    let response = answer(&sim, form("a")).await;
    assert_eq!(response.status(), 200);
    response.bytes().await.expect_err("half a body");

    sim.set(Behaviour { reads_upload: false, ..Behaviour::answering(Answer::Cut) });
    post(&sim, form("a")).await.expect_err("no answer");

    let books = sim.books();
    assert_eq!((books.cut, books.in_flight, books.aborted), (3, 0, 0));
    assert_eq!(books.file("a").errors, 2);
    assert!(books.by_status.is_empty());
}

#[tokio::test]
async fn calls_over_the_concurrency_limit_get_a_429() {
    let sim = start(Behaviour {
        max_concurrent: Some(2),
        retry_after: Some("7".to_owned()),
        ..Behaviour::answering(Answer::Hang)
    })
    .await;
    let hanging = [post(&sim, form("a")), post(&sim, form("b"))];
    let hanging = join_all(hanging);
    let refused = async {
        assert!(sim.wait_until(|books| books.hung == 2, SOON).await);
        answer(&sim, form("c")).await
    };
    let refused = tokio::select! {
        _ = hanging => unreachable!("they hang"),
        refused = refused => refused,
    };
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers()["retry-after"], "7");
    assert_eq!((sim.books().refused, sim.books().most_in_flight), (1, 3));

    // The hanging clients have disconnected, so the sim has capacity again.
    assert!(sim.wait_until(|books| books.in_flight == 0, SOON).await);
    sim.set(Behaviour { max_concurrent: Some(1), ..Behaviour::default() });
    assert_eq!(status(&sim, form("c")).await, 200);
}

#[tokio::test]
async fn an_upload_is_recorded_with_its_size_and_first_bytes() {
    const SIZE: usize = 5_000_000;
    let sim = start(Behaviour::default()).await;
    let audio = iter::once(Bytes::from_static(b"ID3\x04 sixteen bytes and more"))
        .chain(iter::repeat_n(Bytes::from_static(&[7; 1000]), SIZE / 1000));
    let body = Body::wrap_stream(stream::iter(audio.map(Ok::<_, std::io::Error>)));
    let part = Part::stream(body).file_name("long.mp3").mime_str("audio/mpeg").expect("a content type");
    let form = Form::new().part("file", part).text("model", "sim-1").text("language", "de");
    assert_eq!(status(&sim, form).await, 200);

    let book = sim.books().file("long.mp3");
    assert_eq!(book.bytes, SIZE as u64 + 27);
    assert_eq!(book.first_bytes, b"ID3\x04 sixteen byt");
    assert_eq!(book.content_type.as_deref(), Some("audio/mpeg"));
    assert_eq!(book.last_form["language"], "de");
    assert_eq!(book.last_form["model"], "sim-1");
}

#[tokio::test]
async fn an_incomplete_upload_counts_as_aborted() {
    let sim = start(Behaviour::default()).await;
    sim.script("a", [Answer::status(503)]);
    let endless =
        stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"RIFF"))]).chain(stream::pending());
    let part = Part::stream(Body::wrap_stream(endless)).file_name("a");
    let call = post(&sim, Form::new().text("model", "sim-1").part("file", part));
    tokio::select! {
        _ = call => unreachable!("the upload never ends"),
        arrived = sim.wait_until(|books| books.file("a").calls == 1, SOON) => assert!(arrived),
    }
    assert!(sim.wait_until(|books| books.in_flight == 0, SOON).await);
    assert_eq!((sim.books().aborted, sim.books().file("a").aborted), (1, 1));
    assert!(sim.books().by_status.is_empty());
    assert_eq!(status(&sim, form("a")).await, 503, "the aborted call used no scripted answer");
}

#[tokio::test]
async fn a_stopped_sim_can_start_again_on_the_same_port() {
    let sim = answering(Answer::Hang).await;
    let address = sim.address();
    let client = tokio::spawn(post(&sim, form("a")));
    assert!(sim.wait_until(|books| books.hung == 1, SOON).await);
    let second = SimAsr::start_on(address, Behaviour::default()).await;
    assert_eq!(second.expect_err("the port is in use").kind(), ErrorKind::AddrInUse);

    sim.stop().await;
    client.await.expect("no panic").expect_err("no answer");
    let again = SimAsr::start_on(address, Behaviour::default()).await.expect("the port is free");
    assert_eq!(status(&again, form("a")).await, 200);
}

#[tokio::test]
async fn dropping_the_sim_closes_its_connections() {
    let sim = answering(Answer::HangMidBody).await;
    let mut response = answer(&sim, form("a")).await;
    assert!(response.chunk().await.expect("a first half").is_some());
    drop(sim);
    response.chunk().await.expect_err("no second half");
}

#[tokio::test]
async fn a_reset_of_the_books_keeps_calls_in_flight() {
    let sim = answering(Answer::Hang).await;
    let call = post(&sim, form("a"));
    tokio::select! {
        _ = call => unreachable!("it hangs"),
        hung = sim.wait_until(|books| books.hung == 1, SOON) => assert!(hung),
    }
    sim.reset_books();
    assert!(sim.wait_until(|books| books.in_flight == 0, SOON).await);
    assert_eq!((sim.books().calls, sim.books().hung), (0, 0));
}

#[tokio::test]
async fn five_hundred_calls_at_once_are_all_in_flight() {
    let sim = start(Behaviour::taking(Latency::Fixed(300))).await;
    let names: Vec<String> = (0..500).map(|index| format!("{index}.wav")).collect();
    let statuses = join_all(names.iter().map(|name| status(&sim, form(name)))).await;
    assert!(statuses.iter().all(|&status| status == 200));
    let books = sim.books();
    assert!(names.iter().all(|name| books.file(name).ok == 1));
    assert_eq!((books.calls, books.in_flight), (500, 0));
}
