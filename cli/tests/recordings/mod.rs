//! Long recordings: cut into chunks, and submitted as one job or several.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::fake::{Fake, JOB, Reply, end, result};
use crate::{COMPLETED, FAILED};

const SECOND: &str = "0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6c";

/// A WAV file: tones of 2.5 s with pauses of 0.5 s, a length of whole seconds.
fn tones(folder: &TempDir, name: &str, seconds: u32) -> String {
    let path = folder.path().join(name);
    let mut file = File::create(&path).expect("created");
    let bytes = seconds * 32_000;
    file.write_all(b"RIFF").expect("written");
    file.write_all(&(bytes + 36).to_le_bytes()).expect("written");
    file.write_all(b"WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data").expect("written");
    file.write_all(&bytes.to_le_bytes()).expect("written");
    let sample = |n: u32| if n % 48_000 < 40_000 && (n / 20).is_multiple_of(2) { 8_000_i16 } else { 0 };
    let samples: Vec<u8> = (0..seconds * 16_000).flat_map(|n| sample(n).to_le_bytes()).collect();
    file.write_all(&samples).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

/// A long file, and as many short ones that all have 25 chunks.
fn of_25_chunks(folder: &TempDir) -> Vec<String> {
    let long = tones(folder, "talk.wav", 310);
    std::iter::once(long).chain((0..23).map(|n| tones(folder, &format!("{n:02}.wav"), 1))).collect()
}

fn line<'a>(files: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    let mut line = vec!["transcribe", "--user", "ana"];
    line.extend(files.iter().map(String::as_str));
    line.extend(more);
    line
}

fn accepted(job: &str) -> Reply {
    Reply::ok(&json!({ "jobId": job, "jobStatus": "IN_PROGRESS" }))
}

/// A result of one of two jobs.
fn part(job: &str, start: f64, status: &str, text: Option<&str>, chunks: &[&str]) -> Value {
    let mut part = result(status, text, chunks);
    part["jobId"] = json!(job);
    part["startOffset"] = json!(start);
    for chunk in part["chunks"].as_array_mut().expect("chunks") {
        chunk["audioChunkPath"] = json!(format!(
            "s3://audio/uploads/x/{:02}-talk.wav_0h0{}m00s-0h0{}m00s.ogg",
            chunk["index"].as_u64().expect("a number"),
            chunk["index"],
            chunk["index"].as_u64().expect("a number") + 1
        ));
    }
    part
}

async fn two_jobs(second: Value) -> Fake {
    let first = part(JOB, 0.0, COMPLETED, Some("And so,"), &[COMPLETED, COMPLETED]);
    Fake::start(vec![Reply::ok(&first), Reply::ok(&second)])
        .await
        .on_submit(vec![accepted(JOB), accepted(SECOND)])
}

fn second() -> Value {
    part(SECOND, 320.5, COMPLETED, Some("my fellow Americans."), &[COMPLETED])
}

#[tokio::test]
async fn a_long_file_is_cut_at_pauses_into_one_job() {
    let folder = tempfile::tempdir().expect("a folder");
    let talk = tones(&folder, "my talk.wav", 310);
    let fake = Fake::start(vec![Reply::ok(&result(COMPLETED, Some("hello"), &[COMPLETED, COMPLETED]))]).await;
    let ran = fake.run(&line(&[talk], &["--wait", "--timestamps", "word", "--translate"])).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "hello\n"), "{ran:?}");
    assert!(ran.stderr.contains("my talk.wav (0h05m10s) is cut into 2 chunks"), "{ran:?}");

    let objects = fake.objects();
    let names: Vec<_> = objects.keys().map(|path| path.rsplit('/').next().expect("a name")).collect();
    // The pause that is nearest to the limit, 30 s before the end.
    let cut = "0h04m38s";
    let expected =
        [format!("00-my_talk.wav_0h00m00s-{cut}.ogg"), format!("01-my_talk.wav_{cut}-0h05m10s.ogg")];
    assert_eq!(names, expected);
    assert!(objects.values().all(|object| object.starts_with(b"OggS")));
    let calls = fake.calls();
    let submitted = &calls.iter().find(|call| call.line == "POST /transcribe").expect("submitted").body;
    assert_eq!((&submitted["timestamps"], &submitted["translate"]), (&json!("word"), &json!(true)));
    // 0.1.0 rejects unknown fields.
    assert_eq!(submitted.get("startOffset"), None);
    let put = calls.iter().find(|call| call.line.starts_with("PUT")).expect("uploaded");
    assert_eq!(put.body["type"], "audio/ogg");
}

#[tokio::test]
async fn more_than_24_chunks_become_several_jobs() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = of_25_chunks(&folder);
    let fake = two_jobs(second()).await;
    let ran = fake.run(&line(&files, &["--idempotency-key", "k"])).await;
    assert_eq!((ran.code, &ran.stdout), (Some(0), &format!("{JOB}\n{SECOND}\n")), "{ran:?}");
    assert!(ran.stderr.contains(&format!("longhand get {JOB} {SECOND} --wait")), "{ran:?}");

    let calls = fake.calls();
    let submits: Vec<_> = calls.iter().filter(|call| call.line == "POST /transcribe").collect();
    let of = |name: &str| submits.iter().map(|call| call.body[name].clone()).collect::<Vec<_>>();
    let counts = of("audioChunkPaths").iter().map(|paths| paths.as_array().map(Vec::len)).collect::<Vec<_>>();
    assert_eq!(counts, [Some(13), Some(12)]);
    // 310 s, and eleven short files of one second.
    assert_eq!(of("startOffset"), [Value::Null, json!(321.0)]);
    let keys: Vec<_> = submits.iter().map(|call| &call.headers["idempotency-key"]).collect();
    assert_eq!(keys, ["k", "k-2"]);

    let fake = two_jobs(second()).await;
    let ran = fake.run(&line(&files, &["--json"])).await;
    let printed: Value = serde_json::from_str(&ran.stdout).expect("one document");
    assert_eq!((&printed["jobs"][0]["jobId"], &printed["jobs"][1]["jobId"]), (&json!(JOB), &json!(SECOND)));
}

#[tokio::test]
async fn several_jobs_become_one_transcript() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = of_25_chunks(&folder);
    let fake = two_jobs(second()).await;
    let ran = fake.run(&line(&files, &["--wait"])).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "And so, my fellow Americans.\n"), "{ran:?}");

    let srt =
        |from: u8, text: &str| Reply::text(&format!("1\n00:00:0{from},000 --> 00:00:09,000\n{text}\n\n"));
    let fake = two_jobs(second()).await.on_other(vec![srt(0, "And so,"), srt(8, "my fellow")]);
    // The order of the ids does not matter.
    let ran = fake.run(&["get", SECOND, JOB, "--wait", "--format", "srt", "--split"]).await;
    let cues = "1\n00:00:00,000 --> 00:00:09,000\nAnd so,\n\n2\n00:00:08,000 --> 00:00:09,000\nmy fellow\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), cues), "{ran:?}");
    assert!(fake.calls().last().expect("a call").line.ends_with(&format!("{SECOND}?split=true")));
}

fn with_segments(mut part: Value, start: f64, text: &str) -> Reply {
    let word = json!({ "word": text, "start": start, "end": start + 0.5 });
    part["segments"] =
        json!([{ "chunk": 0, "start": start, "end": start + 1.0, "text": text, "words": [word] }]);
    Reply::ok(&part)
}

#[tokio::test]
async fn the_json_of_several_jobs_is_one_document() {
    let first = part(JOB, 0.0, COMPLETED, Some("And so,"), &[COMPLETED, COMPLETED]);
    let replies = || vec![with_segments(first.clone(), 0.0, "And"), with_segments(second(), 320.5, "my")];
    let fake = two_jobs(second()).await.on_other(replies());
    let ran = fake.run(&["get", JOB, SECOND, "--json", "--words"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let document: Value = serde_json::from_str(&ran.stdout).expect("one document");
    assert_eq!(document["jobStatus"], COMPLETED);
    assert_eq!(document["transcription"], "And so, my fellow Americans.");
    assert_eq!((&document["jobs"][1]["jobId"], document["jobs"][1].get("segments")), (&json!(SECOND), None));
    let segments = document["segments"].as_array().expect("segments");
    let starts: Vec<_> = segments.iter().map(|segment| (&segment["start"], &segment["job"])).collect();
    assert_eq!(starts, [(&json!(0.0), &json!(0)), (&json!(320.5), &json!(1))]);
    assert!(fake.calls().last().expect("a call").line.contains("words=true"));

    let fake = fake.on_other(replies());
    let ran = fake.run(&["get", JOB, SECOND, "--words"]).await;
    assert_eq!(ran.stdout, "[0.000 - 0.500] And\n[320.500 - 321.000] my\n", "{ran:?}");
}

#[tokio::test]
async fn a_failed_part_is_named_with_its_retry() {
    let text = Some("[chunk 0 failed] fellow [chunk 2 failed]");
    let failed = part(SECOND, 320.5, FAILED, text, &[FAILED, COMPLETED, FAILED]);
    let fake = two_jobs(failed).await;
    let ran = fake.run(&["get", JOB, SECOND]).await;
    let named =
        "And so, [talk.wav_0h00m00s-0h01m00s.ogg failed] fellow [talk.wav_0h02m00s-0h03m00s.ogg failed]\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), named), "{ran:?}");
    assert!(ran.stderr.contains(&format!("job {SECOND} failed: 2 of 5 chunks")), "{ran:?}");
    assert!(ran.stderr.contains(&format!("longhand retry {SECOND}")), "{ran:?}");
    assert!(ran.stderr.contains("chunk 3 of 3 talk.wav_0h02m00s-0h03m00s.ogg: AUDIO_NOT_FOUND"), "{ran:?}");

    // A job without any text is a mark too.
    let nothing = part(SECOND, 320.5, FAILED, None, &[FAILED]);
    let ran = two_jobs(nothing).await.run(&["get", JOB, SECOND]).await;
    assert_eq!(ran.stdout, "And so, [talk.wav_0h00m00s-0h01m00s.ogg failed]\n");
}

#[tokio::test]
async fn jobs_with_one_beginning_are_not_one_recording() {
    let fake = two_jobs(part(SECOND, 0.0, COMPLETED, Some("again"), &[COMPLETED])).await;
    let ran = fake.run(&["get", JOB, SECOND, "--json"]).await;
    assert_eq!((ran.code, &ran.error()["code"]), (Some(2), &json!("NOT_ONE_RECORDING")), "{ran:?}");
    assert_eq!(ran.stdout, "");
}

#[tokio::test]
async fn a_refused_part_names_the_accepted_jobs() {
    let folder = tempfile::tempdir().expect("a folder");
    let fake = two_jobs(second()).await;
    let refused = Reply::problem(429, "TOO_MANY_REQUESTS", &json!([])).retry_after("60");
    let fake = fake.on_submit(vec![accepted(JOB), refused]);
    let ran = fake.run(&line(&of_25_chunks(&folder), &["--wait"])).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(4), ""), "{ran:?}");
    assert!(ran.stderr.contains("submitting job 2 of 2 of this recording failed"), "{ran:?}");
    let remedy =
        format!("The jobs before it were submitted: {JOB}. Delete all jobs of this recording (longhand ");
    assert!(ran.stderr.contains(&remedy), "{ran:?}");
}

#[tokio::test]
async fn recordings_of_unknown_length_fit_into_one_job_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut files = of_25_chunks(&folder);
    files[5] = "s3://archive/a.wav".to_owned();
    let fake = two_jobs(second()).await;
    let ran = fake.run(&line(&files, &["--json"])).await;
    assert_eq!((ran.code, fake.calls().len()), (Some(2), 0), "{ran:?}");
    assert_eq!(ran.error()["faults"][0]["file"], "s3://archive/a.wav");

    let ran = fake.run(&line(&files[..6], &["--json"])).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let last = fake.calls().pop().expect("submitted");
    assert_eq!(last.body["audioChunkPaths"].as_array().map(Vec::len), Some(7));
    assert_eq!(last.body["audioChunkPaths"][6], "s3://archive/a.wav");
}

#[tokio::test]
async fn without_ffmpeg_the_error_says_how_to_install_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (long, longer) = (tones(&folder, "a.wav", 310), folder.path().join("b.wav"));
    // Within 5 MB, but over five minutes.
    let compact = folder.path().join("c.wav");
    std::fs::copy(&long, &longer).expect("copied");
    std::fs::write(&compact, &std::fs::read(&long).expect("read")[..1_000_000]).expect("written");
    let fake = Fake::start(vec![]).await;
    let run = async |file: &Path| {
        let file = file.to_str().expect("UTF-8");
        let mut command = fake.command(&["transcribe", file, "--user", "ana", "--json"]);
        end(command.env("PATH", folder.path()).spawn().expect("it starts")).await
    };
    let ran = run(&longer).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let detail = ran.error()["faults"][0]["detail"].as_str().expect("a detail").to_owned();
    for part in ["more than the 5 MB", "apt install ffmpeg", "brew install ffmpeg"] {
        assert!(detail.contains(part), "{detail}");
    }
    assert_eq!(run(&compact).await.code, Some(0));
}

/// A program of this name in the folder, which ends only when it is killed, and writes its process id to `NAME.pid`.
fn endless(folder: &Path, name: &str) {
    let path = folder.join(name);
    let script =
        format!("#!/bin/sh\necho $$ > {0}.part\nmv {0}.part {0}.pid\nexec sleep 600\n", path.display());
    std::fs::write(&path, script).expect("written");
    std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("executable");
}

#[tokio::test]
async fn ctrl_c_ends_ffmpeg_and_leaves_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (programs, kept) = (folder.path().join("bin"), folder.path().join("kept"));
    std::fs::create_dir(&programs).and_then(|()| std::fs::create_dir(&kept)).expect("folders");
    endless(&programs, "ffmpeg");
    let talk = tones(&folder, "talk.wav", 310);
    let fake = Fake::start(vec![]).await;
    let mut command = fake.command(&["transcribe", &talk, "--user", "ana"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", programs.display())).env("TMPDIR", &kept);
    let child = command.spawn().expect("it starts");
    let ffmpeg = programs.join("ffmpeg.pid");
    eventually("ffmpeg runs", || ffmpeg.exists()).await;
    let id = child.id().expect("it runs").to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status().await.expect("kill is there");
    assert!(sent.success());
    let ran = end(child).await;
    assert_eq!((ran.code, fake.calls().len()), (Some(130), 0), "{ran:?}");
    let ffmpeg = std::fs::read_to_string(ffmpeg).expect("written");
    let process = Path::new("/proc").join(ffmpeg.trim());
    // A process that has ended may remain as a zombie without a command line.
    let ended = || std::fs::read(process.join("cmdline")).map_or(true, |line| line.is_empty());
    eventually("ffmpeg has ended", ended).await;
    assert_eq!(std::fs::read_dir(&kept).expect("a folder").count(), 0);
}

async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), holds)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}
