//! The form of transcripts, errors and odd answers.

use longhand_sim_asr::{Answer, Behaviour, ErrorBody, Odd, Script, text_for};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::{answer, answering, client, form, json, start, status};

type Holds<T> = fn(&T) -> bool;

#[tokio::test]
async fn the_text_contains_the_file_name() {
    let sim = start(Behaviour::default()).await;
    for file in ["chunk-01.wav", "chunk-02.wav", "größe 3.wav", "a;b\"c.wav"] {
        let body = json(answer(&sim, form(file)).await).await;
        assert_eq!(body, json!({"text": text_for(file)}));
        assert!(text_for(file).contains(file));
        assert_eq!(sim.books().file(file).ok, 1, "{file}");
    }
    assert_ne!(text_for("chunk-01.wav"), text_for("chunk-02.wav"));
}

#[tokio::test]
async fn verbose_json_has_timestamps_that_add_up() {
    let words = Answer::Words { count: 25, script: Script::Latin };
    let sim = answering(words.clone()).await;
    let asked = form("a.wav")
        .text("response_format", "verbose_json")
        .text("timestamp_granularities[]", "segment")
        .text("timestamp_granularities[]", "word");
    let body = json(answer(&sim, asked).await).await;

    let text = words.expected_text("a.wav").expect("a transcript");
    assert_eq!(body["text"], json!(text));
    assert_eq!(body["duration"], json!(12.5));
    let segments = body["segments"].as_array().expect("segments");
    let texts: String = segments.iter().filter_map(|one| one["text"].as_str()).collect();
    assert_eq!(texts.trim(), text);
    assert_eq!(segments[0]["start"], json!(0.0));
    assert!(segments.windows(2).all(|pair| pair[0]["end"] == pair[1]["start"]));
    assert_eq!(segments[segments.len() - 1]["end"], body["duration"]);
    assert_eq!(body["words"].as_array().map(Vec::len), Some(25));
    assert_eq!(body["words"][24]["end"], body["duration"]);
    assert_eq!(sim.books().file("a.wav").last_form["timestamp_granularities[]"], "segment,word");
}

#[tokio::test]
async fn words_are_sent_only_on_request_and_text_is_plain() {
    let sim = start(Behaviour::default()).await;
    let body = json(answer(&sim, form("a").text("response_format", "verbose_json")).await).await;
    assert_eq!(body.get("words"), None);

    let plain = answer(&sim, form("a").text("response_format", "text")).await;
    assert_eq!(plain.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(plain.text().await.expect("a body"), format!("{}\n", text_for("a")));
}

#[tokio::test]
async fn long_texts_are_available_in_any_script() {
    for script in [
        Script::Latin,
        Script::Cyrillic,
        Script::Arabic,
        Script::Devanagari,
        Script::Hangul,
        Script::Han,
        Script::Kana,
        Script::Thai,
    ] {
        let words = Answer::Words { count: 700, script };
        let sim = answering(words.clone()).await;
        let body = json(answer(&sim, form("a").text("response_format", "verbose_json")).await).await;
        let text = body["text"].as_str().expect("a text");
        assert_eq!(words.expected_text("a").as_deref(), Some(text));
        assert_eq!(text.contains(' '), script.has_spaces(), "{script:?}");
        assert_eq!(body["duration"], json!(350.0));
    }
}

#[tokio::test]
async fn a_text_is_sent_unchanged_and_silence_is_a_transcript() {
    let sim = answering(Answer::Text(" two  spaces ".to_owned())).await;
    assert_eq!(json(answer(&sim, form("a")).await).await["text"], " two  spaces ");

    sim.set(Behaviour::answering(Answer::Empty));
    let body = json(answer(&sim, form("a").text("response_format", "verbose_json")).await).await;
    assert_eq!((&body["text"], &body["segments"]), (&json!(""), &json!([])));
    assert_eq!(body["duration"], json!(1.0));
    assert_eq!(sim.books().file("a").ok, 2);
}

#[tokio::test]
async fn an_invalid_form_gets_a_400_that_names_the_field() {
    let sim = start(Behaviour::default()).await;
    let no_file_name = Form::new().text("model", "sim-1").text("file", "RIFF");
    let no_model = Form::new().part("file", Part::bytes(b"RIFF".as_slice()).file_name("a"));
    let cases = [
        (Form::new().text("model", "sim-1"), json!("file")),
        (no_file_name, json!("file")),
        (no_model, json!("model")),
        (form("a").text("response_format", "yaml"), json!("response_format")),
        (form("a").text("prompt", "sim:{\"no\": 1}"), json!("prompt")),
    ];
    for (form, param) in cases {
        let response = answer(&sim, form).await;
        assert_eq!(response.status(), 400);
        assert_eq!(json(response).await["error"]["param"], param);
    }
    let url = format!("{}/v1/audio/transcriptions", sim.base_url());
    let not_a_form = client().post(url).body("{}").send().await.expect("an answer");
    assert_eq!(not_a_form.status(), 400);
    assert_eq!(json(not_a_form).await["error"]["type"], "invalid_request_error");
    assert_eq!(sim.books().status(400), 6);
    assert_eq!(sim.books().in_flight, 0);
}

#[tokio::test]
async fn a_model_without_verbose_json_refuses_only_that() {
    let sim = start(Behaviour { supports_verbose_json: false, ..Behaviour::default() }).await;
    sim.script("a", [Answer::status(503)]);
    let refused = answer(&sim, form("a").text("response_format", "verbose_json")).await;
    assert_eq!(refused.status(), 400);
    let error = &json(refused).await["error"];
    assert_eq!(error["param"], "response_format");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("verbose_json")));
    // The refusal used no scripted answer.
    assert_eq!(status(&sim, form("a")).await, 503);
    assert_eq!(status(&sim, form("a")).await, 200);
}

#[tokio::test]
async fn errors_have_every_form_and_their_headers() {
    let sim = answering(Answer::Status {
        code: 429,
        body: ErrorBody::ErrorObject,
        retry_after: Some("Wed, 21 Oct 2037 07:28:00 GMT".to_owned()),
        retry_after_ms: Some(1500),
    })
    .await;
    let response = answer(&sim, form("a")).await;
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "Wed, 21 Oct 2037 07:28:00 GMT");
    assert_eq!(response.headers()["retry-after-ms"], "1500");
    assert_eq!(json(response).await["error"]["message"], "simulated 429");

    let shapes: [(ErrorBody, Holds<str>); 6] = [
        (ErrorBody::ErrorString, |body| parsed(body)["error"].is_string()),
        (ErrorBody::Detail, |body| parsed(body)["detail"].is_string()),
        (ErrorBody::ObjectError, |body| parsed(body)["object"] == "error"),
        (ErrorBody::Html, |body| body.starts_with("<!DOCTYPE html>")),
        (ErrorBody::Plain, |body| body == "simulated 500\n"),
        (ErrorBody::Empty, str::is_empty),
    ];
    for (shape, holds) in shapes {
        sim.set(Behaviour::answering(Answer::status_body(500, shape.clone())));
        let response = answer(&sim, form("a")).await;
        assert_eq!(response.status(), 500);
        let body = response.text().await.expect("a body");
        assert!(holds(&body), "{shape:?}: {body}");
    }
    assert_eq!(sim.books().file("a").errors, 7);
}

/// An odd answer contains either the expected transcript or none.
#[tokio::test]
async fn odd_answers_contain_the_expected_transcript() {
    let sim = start(Behaviour::default()).await;
    for odd in [
        Odd::NoText,
        Odd::TextNull,
        Odd::TextNotString,
        Odd::NotObject,
        Odd::NotJson,
        Odd::HalfJson,
        Odd::EmptyBody,
        Odd::NoContent,
        Odd::Html200,
        Odd::Error200,
        Odd::DurationAsString,
        Odd::NoDuration,
        Odd::WordsAsText,
        Odd::WordsInSegments,
        Odd::NullFields,
        Odd::UnknownFields,
        Odd::PaddedText,
        Odd::HugeText(100_000),
        Odd::WrongContentType,
        Odd::NoContentType,
    ] {
        let odd = Answer::Odd(odd);
        sim.reset_books();
        sim.set(Behaviour::answering(odd.clone()));
        let response = answer(&sim, form("a")).await;
        assert!(response.status().is_success());
        let body = response.bytes().await.expect("a whole body");
        let text = serde_json::from_slice::<Value>(&body)
            .ok()
            .and_then(|body| Some(body.get("text")?.as_str()?.trim().to_owned()));
        assert_eq!(text, odd.expected_text("a"), "{odd:?}");
        let book = sim.books().file("a");
        assert_eq!((book.ok, book.errors), if text.is_some() { (1, 0) } else { (0, 1) });
    }
}

#[tokio::test]
async fn odd_answers_have_their_odd_form() {
    let cases: [(Odd, Holds<Value>); 6] = [
        (Odd::DurationAsString, |body| body["duration"] == "2.5"),
        (Odd::NoDuration, |body| body.get("duration").is_none()),
        (Odd::WordsAsText, |body| body["words"][2]["text"] == "a"),
        (Odd::WordsInSegments, |body| body["segments"][0]["words"][2]["word"] == "a"),
        (Odd::NullFields, |body| body["segments"].is_null()),
        (Odd::PaddedText, |body| body["text"].as_str().is_some_and(|text| text.ends_with('\n'))),
    ];
    for (odd, holds) in cases {
        let sim = answering(Answer::Odd(odd.clone())).await;
        let body = json(answer(&sim, form("a")).await).await;
        assert!(holds(&body), "{odd:?}: {body}");
    }
    let sim = answering(Answer::Odd(Odd::WrongContentType)).await;
    assert_eq!(answer(&sim, form("a")).await.headers()["content-type"], "text/plain");
    sim.set(Behaviour::answering(Answer::Odd(Odd::NoContentType)));
    assert_eq!(answer(&sim, form("a")).await.headers().get("content-type"), None);
}

fn parsed(body: &str) -> Value {
    serde_json::from_str(body).expect("JSON")
}
