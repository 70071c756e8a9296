//! Tokens and new API keys.

use longhand_shared::service::api_key::{KeyDigest, KeyEntry};
use serde_json::{Value, json};

use crate::fake::{Fake, JOB, Reply, end, longhand};

#[tokio::test]
async fn a_token_is_sent_only_to_the_service_and_not_printed() {
    const TOKEN: &str = "lh_some-token";
    let fake = Fake::start(vec![Reply::problem(401, "UNAUTHORIZED", &json!([]))]).await;
    let folder = tempfile::tempdir().expect("a folder");
    let audio = folder.path().join("a.wav");
    std::fs::write(&audio, crate::sound(b"x")).expect("written");
    let audio = audio.to_str().expect("UTF-8");
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).expect("written");
    let file = file.to_str().expect("UTF-8");

    let by_environment = |args: &[&str]| {
        let mut command = fake.command(args);
        command.env("LONGHAND_TOKEN", TOKEN);
        command
    };
    let args = ["transcribe", audio, "--user", "ana", "--wait"];
    let ran = end(by_environment(&args).spawn().expect("it starts")).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("the token is from LONGHAND_TOKEN or --token-file"), "{ran:?}");
    assert!(!format!("{ran:?}").contains(TOKEN));
    let bearer = Some(format!("Bearer {TOKEN}"));
    let calls = fake.calls();
    assert!(calls.len() >= 3, "{calls:?}");
    for call in calls {
        let to_service = !call.line.starts_with("PUT");
        assert_eq!(call.authorization == bearer, to_service, "{}", call.line);
    }
    let ran = fake.run(&["get", JOB]).await;
    assert!(ran.stderr.contains("set LONGHAND_TOKEN, or give --token-file"), "{ran:?}");

    // The file takes precedence over the environment.
    let mut command = fake.command(&["get", JOB, "--token-file", file]);
    command.env("LONGHAND_TOKEN", "another");
    end(command.spawn().expect("it starts")).await;
    assert_eq!(fake.calls().last().map(|call| call.authorization.clone()), Some(bearer));

    for bad in ["two words", "caf\u{e9}"] {
        std::fs::write(file, bad).expect("written");
        let ran = fake.run(&["get", JOB, "--token-file", file]).await;
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains("holds no token") && !ran.stderr.contains(bad), "{ran:?}");
    }
    let ran = fake.run(&["get", JOB, "--token-file", "/no/such/file"]).await;
    assert!(ran.code == Some(2) && ran.stderr.contains("No such file"), "{ran:?}");
}

#[tokio::test]
async fn key_new_prints_the_key_and_its_entry() {
    let run = async |args: &[&str]| end(longhand(args).spawn().expect("it starts")).await;
    let ran = run(&["key", "new", "--user", "ana"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let (key, line) = ran.stdout.trim_end().split_once('\n').expect("two lines");
    let entry: KeyEntry = serde_json::from_str(line).expect("an entry");
    assert_eq!((entry.user.as_str(), entry.operator, entry.id.len()), ("ana", false, 36));
    assert_eq!(entry.sha256, KeyDigest::of(key));
    assert!(!line.contains(key) && !ran.stderr.contains(key));

    let ran = run(&["key", "new", "--user", "ops", "--id", "ci", "--operator", "--json"]).await;
    let document: Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let entry: KeyEntry = serde_json::from_value(document["entry"].clone()).expect("an entry");
    assert_eq!((entry.id.as_str(), entry.operator), ("ci", true));
    assert_eq!(entry.sha256, KeyDigest::of(document["key"].as_str().expect("text")));
    assert_eq!(run(&["key", "new", "--user", "a b"]).await.code, Some(2));
}
