//! The forms of a transcript: text, captions, and JSON with segments.

use axum::body::Body;
use axum::http::Request;
use longhand_shared::domain::id::{ChunkRef, MAX_CHUNKS};
use longhand_shared::domain::job::{ChunkError, ErrorCode, Segment, Transcription, Verdict, Word};
use longhand_shared::{Attempt, JobId, Timestamp};
use serde_json::{Value, json};

use crate::support::{Answer, Api, body_with};

/// Three chunks of which none is done.
async fn job(api: &Api) -> JobId {
    let paths = json!(["s3://audio/0", "s3://audio/1", "s3://audio/2"]);
    let accepted = api.transcribe(&body_with("audioChunkPaths", paths)).await.json(202);
    accepted["jobId"].as_str().expect("text").parse().expect("a job id")
}

async fn settle(api: &Api, job: JobId, index: u64, verdict: Verdict) {
    let chunk = ChunkRef { job, index: index.try_into().expect("an index") };
    let settled = api.lifecycle().settle(chunk, &Attempt::number(0), &verdict, Timestamp::now()).await;
    settled.expect("a store in memory");
}

/// Words of two seconds; the first half of a second is silence.
fn words(text: &str) -> Verdict {
    let segments = vec![Segment { start: 0.5, end: 2.0, text: text.to_owned(), ..Segment::default() }];
    Verdict::Completed(Transcription::new(text, Some(2.0), segments).expect("small"))
}

async fn get(api: &Api, path: &str, accept: &str) -> Answer {
    let request = Request::get(path).header("accept", accept).body(Body::empty());
    api.send(request.expect("a request")).await
}

#[track_caller]
fn assert_form(answer: &Answer, media_type: &str, partial: &str, times_exact: &str, body: &str) {
    assert_eq!((answer.status.as_u16(), answer.text()), (200, body));
    assert_eq!(answer.header("content-type"), format!("{media_type}; charset=utf-8"));
    assert_eq!(answer.header("longhand-partial"), partial);
    assert_eq!(answer.header("longhand-times-exact"), times_exact);
    assert_eq!(answer.header("vary"), "accept");
    assert!(answer.header("cache-control").starts_with("private"), "{}", answer.header("cache-control"));
    assert!(answer.headers.contains_key("etag"));
}

#[tokio::test]
async fn a_growing_transcript_in_each_format() {
    let api = Api::new();
    let id = job(&api).await;
    let path = format!("/transcript/{id}");

    assert_form(&get(&api, &path, "text/plain").await, "text/plain", "true", "", "");
    settle(&api, id, 0, words("Salt & pepper,")).await;
    settle(&api, id, 2, words("the end.")).await;
    let text = "Salt & pepper, [chunk 1 pending] the end.";
    assert_form(&get(&api, &path, "text/plain").await, "text/plain", "true", "", text);
    let vtt = "WEBVTT\n\nNOTE This transcript is partial: 1 chunk is missing.\n\n\
        00:00:00.500 --> 00:00:02.000\nSalt &amp; pepper,\n\n\
        00:00:02.000 --> 00:00:03.000\n[chunk 1 pending]\n\n\
        NOTE Times from here on are estimated: the length of chunk 1 is not known.\n\n\
        00:00:03.500 --> 00:00:05.000\nthe end.\n";
    assert_form(&get(&api, &path, "text/vtt").await, "text/vtt", "true", "false", vtt);

    settle(&api, id, 1, words("the middle,")).await;
    let text = "Salt & pepper, the middle, the end.";
    assert_form(&get(&api, &path, "text/plain").await, "text/plain", "false", "", text);
    let srt = "1\n00:00:00,500 --> 00:00:02,000\nSalt & pepper,\n\n\
        2\n00:00:02,500 --> 00:00:04,000\nthe middle,\n\n\
        3\n00:00:04,500 --> 00:00:06,000\nthe end.\n\n";
    let answer = get(&api, &path, "application/x-subrip, */*;q=0.1").await;
    assert_form(&answer, "application/x-subrip", "false", "true", srt);
    let head = Request::head(&path).header("accept", "text/vtt").body(Body::empty()).expect("a request");
    assert_form(&api.send(head).await, "text/vtt", "false", "true", "");
}

#[tokio::test]
async fn lines_of_captions_are_short_on_request() {
    let api = Api::new();
    let id = job(&api).await;
    let text =
        "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power.";
    for index in 0..3 {
        settle(&api, id, index, words(text)).await;
    }
    for accept in ["text/vtt", "application/x-subrip"] {
        let path = format!("/transcript/{id}?maxLineChars=42");
        let answer = get(&api, &path, accept).await;
        let lines: Vec<&str> = answer.text().lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= 42), "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line.contains("prudently")).count(), 3);
        let words = answer.text().split_whitespace().filter(|word| text.split(' ').any(|one| one == *word));
        assert_eq!(words.count(), 3 * text.split(' ').count(), "every word is there");
        let whole = get(&api, &format!("/transcript/{id}"), accept).await;
        assert!(whole.text().contains(text), "a line without a limit");
    }
    for bad in ["9", "1001", "", "many", "-42"] {
        let answer = api.get(&format!("/transcript/{id}?maxLineChars={bad}")).await;
        answer.assert_fault("?maxLineChars", "must be a number from 10 to 1000");
    }
}

#[tokio::test]
async fn json_has_segments_when_asked() {
    let api = Api::new();
    let id = job(&api).await;
    settle(&api, id, 0, words("One.")).await;
    let error = ChunkError::new(ErrorCode::AudioNotFound, "gone");
    settle(&api, id, 1, Verdict::Failed(error)).await;
    settle(&api, id, 2, words("Three.")).await;
    let path = format!("/transcript/{id}");
    let plain = api.get(&path).await;
    assert_eq!(plain.header("vary"), "accept");
    let plain = plain.json(200);
    assert_eq!(plain["jobStatus"], "FAILED");
    assert_eq!(api.get(&format!("{path}?segments=false")).await.json(200), plain);

    let mut expected = plain;
    expected["segments"] = json!([
        {"chunk": 0, "start": 0.5, "end": 2.0, "text": "One."},
        {"chunk": 1, "start": 2.0, "end": 3.0, "text": "[chunk 1 failed]", "gap": true},
        {"chunk": 2, "start": 3.5, "end": 5.0, "text": "Three."},
    ]);
    expected["timesExact"] = Value::Bool(false);
    assert_eq!(api.get(&format!("{path}?segments=true")).await.json(200), expected);
    // Captions have segments anyway.
    let vtt = get(&api, &format!("{path}?segments=false"), "text/vtt").await;
    assert!(vtt.text().contains("[chunk 1 failed]"), "{}", vtt.text());
}

#[tokio::test]
async fn unknown_formats_and_parameters_are_refused() {
    let api = Api::new();
    let path = format!("/transcript/{}", job(&api).await);
    let answer = get(&api, &path, "text/html, application/pdf").await;
    let problem = answer.problem(406, "NOT_ACCEPTABLE");
    let detail = "no available format matches the Accept header: use one of \
        application/json, text/plain, text/vtt, application/x-subrip";
    assert_eq!(problem["detail"], detail);
    assert_eq!(answer.header("vary"), "accept");

    for bad in ["yes", "", "True", "1"] {
        let answer = api.get(&format!("{path}?segments={bad}")).await;
        answer.assert_fault("?segments", "must be true or false");
    }
    api.get(&format!("{path}?cues=true"))
        .await
        .assert_fault("?cues", "is unknown: expected segments, words, split, maxLineChars");
    let unknown = "/transcript/0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b";
    for accept in ["text/vtt", "text/plain", "application/json"] {
        get(&api, &format!("{unknown}?segments=true"), accept).await.problem(404, "JOB_NOT_FOUND");
    }
}

fn word(text: &str, start: f64, speaker: Option<&str>) -> Word {
    let speaker = speaker.map(str::to_owned);
    Word { text: text.to_owned(), start, end: start + 0.5, confidence: Some(0.9), speaker }
}

/// A chunk of two speakers with the times of their words.
fn dialogue() -> Verdict {
    let turn = |speaker: &str, text: &str, start: f64| Segment {
        start,
        end: start + 1.0,
        text: text.to_owned(),
        speaker: Some(speaker.to_owned()),
        confidence: Some(0.75),
        words: (0_u32..)
            .zip(text.split(' '))
            .map(|(n, text)| word(text, start + f64::from(n) * 0.5, None))
            .collect(),
        ..Segment::default()
    };
    let segments = vec![turn("Ana & Co", "Who <are> you?", 0.0), turn("Bo", "Me?", 1.5)];
    let mut transcription = Transcription::new("Who <are> you? Me?", Some(3.0), segments).expect("small");
    transcription.language = Some("en".to_owned());
    Verdict::Completed(transcription)
}

#[tokio::test]
async fn speakers_are_shown_in_each_format() {
    let api = Api::new();
    let id = job(&api).await;
    let path = format!("/transcript/{id}");
    settle(&api, id, 0, dialogue()).await;
    settle(&api, id, 1, words("The end.")).await;
    settle(&api, id, 2, words("")).await;
    assert_eq!(get(&api, &path, "text/plain").await.text(), "Ana & Co: Who <are> you?\nBo: Me?\nThe end.");
    let vtt = get(&api, &path, "text/vtt").await.text().to_owned();
    assert!(vtt.contains("\n<v Ana &amp; Co>Who &lt;are&gt; you?\n"), "{vtt}");
    assert!(vtt.contains("\n<v Bo>Me?\n") && vtt.contains("\nThe end.\n"), "{vtt}");
    let srt = get(&api, &path, "application/x-subrip").await.text().to_owned();
    assert!(srt.contains("\nBo: Me?\n"), "{srt}");
    let read = api.get(&path).await.json(200);
    assert_eq!(read["chunks"][0]["speakers"], json!(["Ana & Co", "Bo"]));
    assert_eq!((&read["language"], &read["chunks"][0]["language"]), (&json!("en"), &json!("en")));
    assert_eq!(read["transcription"], "Who <are> you? Me? The end.", "as before");
}

#[tokio::test]
async fn words_are_returned_on_request() {
    let api = Api::new();
    let id = job(&api).await;
    settle(&api, id, 0, dialogue()).await;
    let read = api.get(&format!("/transcript/{id}?words=true")).await.json(200);
    let expected = json!({
        "chunk": 0, "start": 1.5, "end": 2.5, "text": "Me?", "speaker": "Bo", "confidence": 0.75,
        "words": [{"word": "Me?", "start": 1.5, "end": 2.0, "confidence": 0.9}],
    });
    assert_eq!(read["segments"][1], expected);
    let read = api.get(&format!("/transcript/{id}?segments=true")).await.json(200);
    assert!(read["segments"][1].get("words").is_none());
    let answer = api.get(&format!("/transcript/{id}?words=7")).await;
    answer.assert_fault("?words", "must be true or false");
}

#[tokio::test]
async fn times_begin_at_the_start_offset() {
    let api = Api::new();
    let accepted = api.transcribe(&body_with("startOffset", json!(7200.5))).await.json(202);
    let id: JobId = accepted["jobId"].as_str().expect("text").parse().expect("a job id");
    settle(&api, id, 0, dialogue()).await;
    let path = format!("/transcript/{id}");
    let read = api.get(&format!("{path}?words=true")).await.json(200);
    assert_eq!(read["startOffset"], 7200.5);
    assert_eq!(
        (&read["segments"][0]["start"], &read["segments"][0]["words"][1]["start"]),
        (&json!(7200.5), &json!(7201.0))
    );
    let vtt = get(&api, &path, "text/vtt").await.text().to_owned();
    assert!(vtt.contains("\n02:00:00.500 --> 02:00:01.500\n"), "{vtt}");
    let one = api.transcribe(&body_with("startOffset", json!(0))).await.json(202);
    let read = api.get(&format!("/transcript/{}", one["jobId"].as_str().expect("text"))).await.json(200);
    assert!(read.get("startOffset").is_none(), "0 is left out");
}

/// The limits of a job, with the times of its words, in one answer.
#[tokio::test]
async fn a_full_job_with_all_its_words_is_returned() {
    let api = Api::new();
    let paths: Vec<String> = (0..MAX_CHUNKS).map(|n| format!("s3://audio/{n}")).collect();
    let accepted = api.transcribe(&body_with("audioChunkPaths", json!(paths))).await.json(202);
    let id: JobId = accepted["jobId"].as_str().expect("text").parse().expect("a job id");
    let segment = |place: u32| Segment {
        start: f64::from(place) * 4.0,
        end: f64::from(place) * 4.0 + 3.9,
        text: ["longword"; 10].join(" "),
        words: (0..10).map(|n| word("longword", f64::from(place) * 4.0 + f64::from(n) * 0.3, None)).collect(),
        ..Segment::default()
    };
    let segments: Vec<_> = (0..70).map(segment).collect();
    let transcription =
        Transcription::new(["longword"; 700].join(" "), Some(300.0), segments).expect("it fits");
    for index in 0..MAX_CHUNKS as u64 {
        settle(&api, id, index, Verdict::Completed(transcription.clone())).await;
    }
    let answer = api.get(&format!("/transcript/{id}?words=true")).await;
    assert!(answer.text().len() < 4_000_000, "{} bytes", answer.text().len());
    let read = answer.json(200);
    let segments = read["segments"].as_array().expect("segments");
    let words: usize = segments.iter().map(|segment| segment["words"].as_array().expect("words").len()).sum();
    assert_eq!((words, &read["timesExact"]), (700 * MAX_CHUNKS, &json!(true)));
    assert_eq!(segments.last().expect("one")["words"][9]["start"], 23.0 * 300.0 + 69.0 * 4.0 + 2.7);
}
