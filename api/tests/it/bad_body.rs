//! What `POST /transcribe` does not take. Every row: status, type, code, pointer and words.

use axum::body::{Body, Bytes};
use axum::http::Request;
use longhand_shared::domain::id::MAX_CHUNKS;
use serde_json::{Value, json};

use crate::support::{Api, body_with, good_body};

async fn assert_faults(rows: impl IntoIterator<Item = (Value, &str, &str)>) {
    let api = Api::new();
    for (body, pointer, detail) in rows {
        api.transcribe(&body).await.assert_fault(pointer, detail);
    }
}

#[tokio::test]
async fn no_body() {
    for body in ["", "  \r\n"] {
        let problem = Api::new().post(body).await.problem(400, "NO_BODY");
        assert_eq!(problem["detail"], "the body is missing: send a JSON object");
        assert_eq!(problem["errors"], json!([{"pointer": "#", "detail": "is missing"}]));
    }
}

#[tokio::test]
async fn not_json() {
    let rows = [
        ("{\"userId\": ", "EOF while parsing a value at line 1 column 11"),
        ("{\n  'userId': 1}", "key must be a string at line 2 column 3"),
        ("{} {}", "trailing characters at line 1 column 4"),
        ("userId=ana", "expected value at line 1 column 1"),
        ("{\"userId\": 1e999}", "number out of range at line 1 column 16"),
    ];
    for (body, detail) in rows {
        let problem = Api::new().post(body).await.problem(400, "INVALID_JSON");
        assert_eq!(problem["errors"], json!([{"pointer": "#", "detail": detail}]), "{body}");
        assert_eq!(problem["detail"], format!("the body cannot be read as JSON: {detail}"));
    }
    Api::new().post(&b"{\"userId\": \"\xff\"}"[..]).await.problem(400, "INVALID_JSON");
    Api::new().post("[".repeat(10_000)).await.problem(400, "INVALID_JSON");
}

#[tokio::test]
async fn bombs() {
    let bad = async |body: String| {
        let problem = Api::new().post(body).await.problem(400, "INVALID_JSON");
        problem["detail"].as_str().expect("text").to_owned()
    };
    let wrapped =
        |value: &str| format!("{{\"userId\":\"ana\",\"audioChunkPaths\":[\"a.wav\"],\"metadata\":{value}}}");
    // Deep: an answer, not a stack that overflows.
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        assert!(bad(wrapped(&deep)).await.contains("recursion limit exceeded"));
    }
    // Wide: many unknown keys, and an answer that is not larger than the request.
    let wide: Vec<String> = (0..6_000).map(|i| format!("\"k{i}\":0")).collect();
    let answer = Api::new().post(format!("{{{}}}", wide.join(","))).await;
    let faults = answer.faults();
    assert_eq!(faults.len(), 101);
    assert!(answer.body.len() < 64 * 1024, "{}", answer.body.len());
    let answer = Api::new().post(wrapped(&format!("{{{}}}", wide.join(",")))).await;
    assert_eq!(answer.faults().len(), 101);
    let many = vec!["7"; 30_000].join(",");
    let answer = Api::new().post(format!("{{\"userId\":\"ana\",\"audioChunkPaths\":[{many}]}}")).await;
    assert_eq!(answer.faults().len(), 1 + MAX_CHUNKS);
    // The same key over and over, plainly and spelled with escapes.
    assert!(bad(format!("{{{}}}", vec!["\"a\":1"; 8_000].join(","))).await.contains("is repeated"));
    assert!(
        bad(r#"{"userId":"ana","user\u0049d":"bob"}"#.to_owned()).await.contains("\"userId\" is repeated")
    );
    // Numbers that no computer holds.
    for number in ["1e400", "-1e400", &"9".repeat(60_000), &format!("1e{}", "9".repeat(1_000))] {
        let body = format!("{{\"userId\":{number}}}");
        let answer = Api::new().post(body).await;
        if answer.any_problem()["code"] == "INVALID_REQUEST" {
            assert_eq!(answer.faults()[0].1, "must be a string, is a number");
        } else {
            answer.problem(400, "INVALID_JSON");
        }
    }
    Api::new().post(wrapped("{\"a\":1e-999999}")).await.assert_fault("#/metadata/a", "must be a string");
    // Halves of characters.
    for half in [r"\ud800", r"\udc00", r"\ud800\ud800", r"\ud800x", r"\ud8", r"\udc00\ud800"] {
        bad(wrapped(&format!("{{\"a\":\"{half}\"}}"))).await;
        bad(wrapped(&format!("{{\"{half}\":\"a\"}}"))).await;
    }
    Api::new().post(wrapped(r#"{"a":"\ud83d\ude00\u0000"}"#)).await.json(202);
    for not in ["NaN", "Infinity", "0x10", "01", "1.", "+1", "'a'", "\"\t\"", "[1,]", "/**/1", "\u{feff}1"] {
        bad(wrapped(not)).await;
    }
}

#[tokio::test]
async fn a_compressed_body_is_refused() {
    // What would be 10 MB of blanks: it is refused for being packed, whatever length it claims.
    for (coding, length) in
        [("gzip", "100"), ("deflate", "99999999"), ("br", "0"), ("zstd", "1"), ("gzip, gzip", "100")]
    {
        let request = Request::post("/transcribe")
            .header("content-type", "application/json")
            .header("content-encoding", coding)
            .header("content-length", length);
        let answer = Api::new().send(request.body(vec![0x1f, 0x8b, 8, 0].into()).expect("a request")).await;
        let problem = answer.problem(415, "UNSUPPORTED_MEDIA_TYPE");
        assert!(problem["detail"].as_str().expect("text").contains(coding), "{problem}");
    }
}

#[tokio::test]
async fn a_repeated_key() {
    for body in [
        r#"{"userId": "ana", "userId": "bob", "audioChunkPaths": ["a.wav"]}"#,
        r#"{"metadata": {"userId": "1", "userId": "1"}}"#,
    ] {
        let problem = Api::new().post(body).await.problem(400, "INVALID_JSON");
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains("the key \"userId\" is repeated in one object at line 1"), "{detail}");
    }
}

#[tokio::test]
async fn no_object() {
    assert_faults([
        (json!([]), "#", "must be an object, is an array"),
        (json!("x"), "#", "must be an object, is a string"),
        (json!(null), "#", "must be an object, is null"),
    ])
    .await;
}

#[tokio::test]
async fn wrong_types() {
    let path = |value: Value| body_with("audioChunkPaths", value);
    assert_faults([
        (body_with("userId", json!(7)), "#/userId", "must be a string, is a number"),
        (path(json!("a.wav")), "#/audioChunkPaths", "must be an array of strings, is a string"),
        (path(json!({})), "#/audioChunkPaths", "must be an array of strings, is an object"),
        (path(json!(["a.wav", 7])), "#/audioChunkPaths/1", "must be a string, is a number"),
        (path(json!([null])), "#/audioChunkPaths/0", "must be a string, is null"),
        (path(json!([["a.wav"]])), "#/audioChunkPaths/0", "must be a string, is an array"),
        (body_with("language", json!(true)), "#/language", "must be a string, is a boolean"),
        (body_with("prompt", json!([])), "#/prompt", "must be a string, is an array"),
        (body_with("timestamps", json!("letter")), "#/timestamps", "must be \"segment\" or \"word\""),
        (body_with("translate", json!("yes")), "#/translate", "must be a boolean, is a string"),
        (
            body_with("startOffset", json!("7")),
            "#/startOffset",
            "must be a number of seconds from 0 to 1000000",
        ),
        (body_with("startOffset", json!(-0.5)), "#/startOffset", "from 0 to 1000000"),
        (body_with("startOffset", json!(1e300)), "#/startOffset", "from 0 to 1000000"),
        (body_with("metadata", json!([])), "#/metadata", "must be an object of strings, is an array"),
        (body_with("metadata", json!({"a": 1})), "#/metadata/a", "must be a string, is a number"),
    ])
    .await;
}

#[tokio::test]
async fn unknown_fields() {
    let known = "is unknown: expected userId, audioChunkPaths, language, prompt, timestamps, \
                 translate, startOffset, metadata, callbackUrl";
    assert_faults([
        (body_with("callbackURL", json!("https://example.com")), "#/callbackURL", known),
        (body_with("user_id", json!("ana")), "#/user_id", known),
        (body_with("a/b~ü", json!(null)), "#/a~1b~0%C3%BC", known),
    ])
    .await;
}

#[tokio::test]
async fn chunk_counts() {
    let paths = |count: usize| body_with("audioChunkPaths", json!(vec!["s3://audio/a.wav"; count]));
    assert_faults([
        (paths(0), "#/audioChunkPaths", &*format!("must have 1 to {MAX_CHUNKS} entries, has 0")),
        (
            paths(MAX_CHUNKS + 1),
            "#/audioChunkPaths",
            &*format!("must have 1 to {MAX_CHUNKS} entries, has {}", MAX_CHUNKS + 1),
        ),
        (paths(2000), "#/audioChunkPaths", &*format!("must have 1 to {MAX_CHUNKS} entries, has 2000")),
        (body_with("audioChunkPaths", Value::Null), "#/audioChunkPaths", "is required"),
        (json!({"userId": "ana"}), "#/audioChunkPaths", "is required"),
    ])
    .await;
}

#[tokio::test]
async fn a_key_has_at_most_the_bytes_that_s3_accepts() {
    let key = "k".repeat(100) + "/";
    let longest = format!("s3://audio/{}", &key.repeat(11)[..1024]);
    let body = body_with("audioChunkPaths", json!([longest]));
    let job = Api::new().post(body.to_string()).await.json(202);
    assert_eq!(job["chunkCount"], 1);
}

#[tokio::test]
async fn a_byte_order_mark_is_named() {
    for (mark, encoding) in
        [(&b"\xEF\xBB\xBF"[..], "UTF-8"), (b"\xFF\xFE", "UTF-16"), (b"\xFE\xFF", "UTF-16")]
    {
        let body = [mark, good_body().to_string().as_bytes()].concat();
        let request = Request::post("/transcribe").header("content-type", "application/json");
        let answer = Api::new().send(request.body(body.into()).expect("a request")).await;
        let problem = answer.problem(400, "INVALID_JSON");
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains(&format!("a byte order mark of {encoding}")), "{detail}");
        assert_eq!(problem["errors"][0]["pointer"], "#");
    }
}

#[tokio::test]
async fn paths() {
    let long = format!("s3://audio/{}", "x".repeat(1025));
    let long_local = "x".repeat(1025);
    let rows = [
        ("", "must not be empty"),
        ("   ", "must not be empty"),
        (".", "must not be empty"),
        (long.as_str(), "must have a key of at most 1024 bytes, has 1025"),
        (long_local.as_str(), "must have at most 1024 bytes, has 1025"),
        ("a\u{0}.wav", "must not contain control characters"),
        ("../secret.wav", "is outside the audio root"),
        ("x/../../secret.wav", "is outside the audio root"),
        ("..\\secret.wav", "has a backslash: use / between folders"),
        ("link.wav", "is outside the audio root"),
        ("/etc/passwd", "is absolute: give a path relative to the audio root"),
        ("s3://audio", "is not an S3 address: expected s3://bucket/key"),
        ("s3://audio/../other/a.wav", "has a key with . or .. between slashes"),
        ("s3://other/a.wav", "has the bucket \"other\", which this service is not configured to read"),
        (
            "ftp://host/a.wav",
            "has the scheme \"ftp\", which is not supported: use s3://bucket/key, https:// or a path",
        ),
        ("https://host/a.wav", "has the host \"host\", which this service is not configured to call"),
        ("http://good.example/a.wav", "must begin with https://"),
        ("https://good.example@127.0.0.1/a.wav", "must not contain a user name or a password"),
        ("https://2130706433/a.wav", "must have a host name, not an IP address"),
        ("https://[::ffff:169.254.169.254]/latest", "must have a host name, not an IP address"),
        ("https://good.example/a.wav#x", "must not have a fragment"),
        ("https://good.example:99999/", "is not a valid URL: invalid port number"),
        ("file:///etc/passwd", "has the scheme \"file\""),
    ];
    assert_faults(rows.map(|(path, detail)| {
        (
            body_with("audioChunkPaths", json!(["a.wav", path, "s3://audio/b.wav"])),
            "#/audioChunkPaths/1",
            detail,
        )
    }))
    .await;
}

#[tokio::test]
async fn user_ids() {
    let user = |text: &str| body_with("userId", json!(text));
    assert_faults([
        (body_with("userId", Value::Null), "#/userId", "is required"),
        (user(""), "#/userId", "must not be empty"),
        (user(&"x".repeat(300)), "#/userId", "must have at most 128 characters, has 300"),
        (user("a\u{7}b"), "#/userId", "no control characters); character 2 is not allowed"),
        (user("a b"), "#/userId", "no spaces"),
        (user("josé"), "#/userId", "character 4 is not allowed"),
    ])
    .await;
}

#[tokio::test]
async fn options_and_metadata() {
    let many: Value = (0..17).map(|i| (i.to_string(), json!("x"))).collect::<serde_json::Map<_, _>>().into();
    let long_key = "k".repeat(513);
    assert_faults([
        (body_with("language", json!("english")), "#/language", "is not a language tag: expected one like"),
        (body_with("prompt", json!("")), "#/prompt", "must have 1 to 1000 characters, has 0"),
        (body_with("prompt", json!("x".repeat(1001))), "#/prompt", "has 1001"),
        (body_with("metadata", many), "#/metadata", "must have at most 16 entries, has 17"),
        (body_with("metadata", json!({"a": "x".repeat(513)})), "#/metadata/a", "at most 512 bytes, has 513"),
        (body_with("metadata", json!({"": "x"})), "#/metadata/", "must have a name of 1 to 512 bytes"),
        (
            body_with("metadata", json!({&long_key: "x"})),
            &format!("#/metadata/{long_key}")[..200],
            "must have a name of 1 to 512 bytes, has one of 513 bytes",
        ),
    ])
    .await;
}

#[tokio::test]
async fn all_faults_at_once() {
    let body = json!({
        "userId": "",
        "audioChunkPaths": ["a.wav", "", "ftp://host/a", 7, "s3://other/a", "link.wav"],
        "language": "english",
        "prompt": 1,
        "metadata": {"a": 1, "b": "good", "c": []},
        "callbackUrl": "x",
    });
    let answer = Api::new().transcribe(&body).await;
    let pointers: Vec<String> = answer.faults().into_iter().map(|(pointer, _)| pointer).collect();
    let expected = [
        "#/userId",
        "#/audioChunkPaths/1",
        "#/audioChunkPaths/2",
        "#/audioChunkPaths/3",
        "#/audioChunkPaths/4",
        "#/audioChunkPaths/5",
        "#/language",
        "#/prompt",
        "#/metadata/a",
        "#/metadata/c",
        "#/callbackUrl",
    ];
    assert_eq!(pointers, expected);
    assert_eq!(answer.any_problem()["detail"], "#/userId must not be empty (and 10 more faults)");

    let both = json!({"userId": "ana", "audioChunkPaths": vec![""; MAX_CHUNKS + 1]});
    assert_eq!(Api::new().transcribe(&both).await.faults().len(), 1 + MAX_CHUNKS);
    let flood = json!({"userId": 1, "x": 1, "audioChunkPaths": []});
    assert_eq!(Api::new().transcribe(&flood).await.faults().len(), 3);
}

#[tokio::test]
async fn a_refused_request_leaves_nothing_behind() {
    let api = Api::new();
    api.transcribe(&body_with("audioChunkPaths", json!(["a.wav", ""]))).await.problem(400, "INVALID_REQUEST");
    let found = api.get("/transcript/search?userId=ana&jobStatus=IN_PROGRESS").await.json(200);
    assert_eq!(found, json!({"results": [], "nextCursor": null}));
}

#[tokio::test]
async fn bodies_over_64_kb() {
    let api = Api::new();
    let pad = |length: usize| {
        let body = good_body().to_string();
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    api.post(pad(64 * 1024)).await.json(202);
    let problem = api.post(pad(64 * 1024 + 1)).await.problem(413, "BODY_TOO_LARGE");
    assert_eq!(problem["detail"], "the body has more than 65536 bytes: send paths of audio, not audio");

    // A body that does not say how long it is.
    let pieces = (0..1000).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 100])));
    let endless = Body::from_stream(futures::stream::iter(pieces));
    api.post(endless).await.problem(413, "BODY_TOO_LARGE");

    // A length that is a lie is believed when it is too large: nothing is read.
    let request = Request::post("/transcribe").header("content-length", "65537");
    api.send(request.body(Body::empty()).expect("a request")).await.problem(413, "BODY_TOO_LARGE");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_arrive() {
    use futures::StreamExt;
    let api = Api::new();
    let beginning = || futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
    let stuck = Body::from_stream(beginning().chain(futures::stream::pending()));
    let problem = api.post(stuck).await.problem(408, "BODY_TIMEOUT");
    assert_eq!(problem["detail"], "the body did not arrive within 10 seconds: send it again");

    let cut = futures::stream::iter([Err(std::io::Error::other("connection reset"))]);
    let problem = api.post(Body::from_stream(beginning().chain(cut))).await.problem(400, "BODY_INCOMPLETE");
    assert_eq!(problem["detail"], "the body ended before it was complete: send it again");
}

#[tokio::test]
async fn content_types() {
    let send = async |name: &str, value: &[u8]| {
        let request = Request::post("/transcribe").header(name, value);
        Api::new().send(request.body(good_body().to_string().into()).expect("a request")).await
    };
    send("content-type", b"application/json; charset=utf-8").await.json(202);
    send("x-nothing", b"").await.json(202);
    for bad in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let problem = send("content-type", bad.as_bytes()).await.problem(415, "UNSUPPORTED_MEDIA_TYPE");
        let detail =
            format!("the body is of type {bad:?}: send plain JSON with Content-Type: application/json");
        assert_eq!(problem["detail"], detail);
    }
    send("content-type", b"\xff").await.problem(415, "UNSUPPORTED_MEDIA_TYPE");
    send("content-encoding", b"gzip").await.problem(415, "UNSUPPORTED_MEDIA_TYPE");
}
