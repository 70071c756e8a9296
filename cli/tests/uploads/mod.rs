//! Uploads of local files.

use axum::body::Bytes;
use longhand_shared::domain::id::MAX_CHUNKS;
use serde_json::json;
use tokio::process::Command;

use crate::fake::{Fake, end};
use crate::{completed, files};

#[tokio::test]
async fn with_a_bucket_files_are_uploaded_without_the_service() {
    let fake = Fake::start(vec![]).await;
    let (_folder, paths) = files(&["a.wav", "b"]);
    let ran =
        fake.run(&["transcribe", &paths[0], &paths[1], "--user", "ana", "--bucket", "mine,other"]).await;
    assert_eq!((ran.code, fake.count("POST /uploads")), (Some(0), 0), "{ran:?}");
    let objects: Vec<_> = fake.objects().into_iter().collect();
    assert!(
        objects[0].0.starts_with("/mine/uploads/ana/") && objects[0].0.ends_with("/00-a.wav"),
        "{objects:?}"
    );
    assert!(objects[1].0.ends_with("/01-b"), "{objects:?}");
    let calls = fake.calls();
    let submitted = calls.iter().find(|call| call.line == "POST /transcribe").expect("submitted");
    let paths = [format!("s3:/{}", objects[0].0), format!("s3:/{}", objects[1].0)];
    assert_eq!(submitted.body["audioChunkPaths"], json!(paths));

    // The service knows the user by a token, and rejects paths among the uploads of others.
    let fake = Fake::start(vec![]).await;
    let (_folder, paths) = files(&["a.wav"]);
    let ran = fake.run(&["transcribe", &paths[0], "--bucket", "mine"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let (path, _) = fake.objects().pop_first().expect("an upload");
    assert!(path.starts_with("/mine/recordings/"), "{path}");
}

#[tokio::test]
async fn a_failed_upload_is_retried_if_that_can_help() {
    let (_folder, paths) = files(&["a.wav"]);
    let line = ["transcribe", &paths[0], "--user", "ana", "--json"];
    let fake = Fake::start(vec![]).await.on_put(&[503, 429]);
    let ran = fake.run(&line).await;
    assert_eq!((ran.code, fake.count("PUT"), fake.count("POST /transcribe")), (Some(0), 3, 1), "{ran:?}");

    for (statuses, tries) in [(&[403][..], 1), (&[500, 500, 500], 3)] {
        let fake = Fake::start(vec![]).await.on_put(statuses);
        let ran = fake.run(&line).await;
        assert_eq!((ran.code, fake.count("PUT"), fake.count("POST /transcribe")), (Some(4), tries, 0));
        let error = ran.error();
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains(&statuses[0].to_string()) && message.contains("SlowDown"), "{message}");
        assert!(!message.contains("X-Amz"), "{message}");
    }
}

#[tokio::test]
async fn files_are_checked_before_any_request() {
    let fake = Fake::start(vec![]).await;
    let (folder, paths) = files(&["good.wav"]);
    let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    std::fs::write(at("empty.wav"), "").expect("written");
    std::fs::write(at("full.wav"), vec![1; 5 * 1024 * 1024]).expect("written");
    std::fs::write(at("large.wav"), vec![1; 5 * 1024 * 1024 + 1]).expect("written");
    let bad = [at("missing.wav"), at("empty.wav"), at("large.wav"), at("."), "s3://no-key".to_owned()];
    let mut line = vec!["transcribe", "--user", "ana", "--json", &paths[0]];
    line.extend(bad.iter().map(String::as_str));
    let ran = fake.run(&line).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    let error = ran.error();
    assert_eq!(error["code"], "BAD_FILES");
    let faults = error["faults"].as_array().expect("faults");
    assert_eq!(
        faults.iter().map(|fault| fault["file"].as_str()).collect::<Vec<_>>(),
        bad.each_ref().map(|f| Some(f.as_str()))
    );
    assert_eq!(fake.calls().len(), 0, "something was sent");

    // Exactly 5 MB is allowed.
    let ran = fake.run(&["transcribe", &at("full.wav"), "--user", "ana"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let objects = fake.objects();
    assert_eq!(objects.values().map(Bytes::len).collect::<Vec<_>>(), [5 * 1024 * 1024]);
}

#[tokio::test]
async fn a_job_has_a_maximum_number_of_files() {
    let fake = Fake::start(vec![]).await;
    let names: Vec<_> = (0..=MAX_CHUNKS).map(|n| format!("{n}.wav")).collect();
    let (_folder, paths) = files(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut line = vec!["transcribe", "--user", "ana"];
    line.extend(paths.iter().map(String::as_str));
    let ran = fake.run(&line).await;
    assert_eq!(ran.code, Some(2));
    let fault = format!("there are {} files, but one command takes 1 to {MAX_CHUNKS}", MAX_CHUNKS + 1);
    assert!(ran.stderr.contains(&fault), "{}", ran.stderr);
    assert_eq!(fake.calls().len(), 0, "something was sent");

    line.pop();
    let ran = fake.run(&line).await;
    let counts = (fake.count("PUT"), fake.count("POST /uploads"), fake.count("POST /transcribe"));
    assert_eq!((ran.code, counts), (Some(0), (MAX_CHUNKS, 1, 1)), "{ran:?}");
}

/// A profile of the AWS CLI, in a temporary folder.
fn profile(lines: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config");
    std::fs::write(&config, format!("[profile people]\nregion = us-east-1\n{lines}\n")).expect("written");
    let config = config.to_str().expect("UTF-8").to_owned();
    (folder, config)
}

/// `transcribe --bucket` with only the credentials of that profile.
fn by_profile(fake: &Fake, path: &str, config: &str) -> Command {
    let mut command = fake.command(&["transcribe", path, "--user", "ana", "--bucket", "audio"]);
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    command
        .env("AWS_CONFIG_FILE", config)
        .env("AWS_PROFILE", "people")
        .env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

#[tokio::test]
async fn the_credential_process_of_a_profile_is_used() {
    let fake = Fake::start(vec![completed()]).await;
    let (_files, paths) = files(&["a.wav"]);
    let keys = r#"{"Version": 1, "AccessKeyId": "ASIAPROCESS", "SecretAccessKey": "secret"}"#;
    let (_folder, config) = profile(&format!("credential_process = echo '{keys}'"));
    let ran = end(by_profile(&fake, &paths[0], &config).spawn().expect("it starts")).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let put = fake.calls().into_iter().find(|call| call.line.starts_with("PUT")).expect("an upload");
    assert!(
        put.authorization.is_some_and(|signed| signed.contains("Credential=ASIAPROCESS/")),
        "{}",
        put.line
    );
}

#[tokio::test]
async fn an_expired_sso_profile_is_an_error() {
    let fake = Fake::start(vec![completed()]).await;
    let (_files, paths) = files(&["a.wav"]);
    let (folder, config) = profile(
        "sso_session = people\nsso_account_id = 123456789012\nsso_role_name = uploads\n\n[sso-session people]\n\
         sso_region = us-east-1\nsso_start_url = https://people.example.com/start",
    );
    let mut command = by_profile(&fake, &paths[0], &config);
    let ran = end(command.env("HOME", folder.path()).spawn().expect("it starts")).await;
    assert_eq!(ran.code, Some(4), "{ran:?}");
    // The profile type is supported.
    assert!(ran.stderr.contains("failed to load the cached SSO token"), "{ran:?}");
}
