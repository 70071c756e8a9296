//! Runs `ffmpeg` and `ffprobe`.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use bytes::Bytes;
use futures::future::join3;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

/// Samples a second of decoded sound: what speech-to-text models use.
pub(super) const RATE: u64 = 16_000;

/// Bytes that are processed at once: two seconds, whole frames.
const BLOCK: usize = 64_000;

/// The most characters of a message of ffmpeg's.
const MESSAGE: usize = 300;

const MISSING: &str =
    "long recordings need ffmpeg and ffprobe, but one is missing: apt install ffmpeg, or brew install ffmpeg";

/// The length in seconds that a file states, if it states one.
pub(crate) async fn stated_seconds(path: &Path) -> Result<Option<f64>, String> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0"]).arg(input(path));
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| not_started(&error))?;
    if !output.status.success() {
        return Err(failed(output.status, &String::from_utf8_lossy(&output.stderr)));
    }
    let seconds = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
    Ok(seconds.filter(|seconds: &f64| seconds.is_finite()))
}

/// Decodes the first audio track to 16-bit samples, mono. Gaps between its packets become silence, so that times stay
/// those of the file.
pub(super) async fn decode(
    path: &Path,
    output: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i"]).arg(input(path));
    command.args(["-map", "0:a:0", "-af", "aresample=async=1:first_pts=0", "-ac", "1", "-ar", "16000"]);
    command.args(["-f", "s16le", "pipe:1"]);
    run(command, &[], output).await
}

/// Encodes samples as Ogg Opus. The file states its exact length, so a decoder returns as many samples.
pub(super) async fn encode(samples: Vec<u8>) -> Result<Bytes, String> {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-f", "s16le", "-ar", "16000", "-ac", "1", "-i", "pipe:0"]);
    command.args(["-c:a", "libopus", "-b:a", "32k", "-f", "ogg", "pipe:1"]);
    let mut encoded = Vec::new();
    let keep = |block: &[u8]| {
        encoded.extend_from_slice(block);
        Ok(())
    };
    run(command, &samples, keep).await?;
    Ok(encoded.into())
}

/// A file's name as an input. The protocol prevents another meaning of names such as `-` or `concat:a`.
fn input(path: &Path) -> OsString {
    let mut name = OsString::from("file:");
    name.push(path);
    name
}

/// Runs ffmpeg with `input` on its stdin and passes on its stdout in blocks.
async fn run(
    mut command: Command,
    input: &[u8],
    output: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| not_started(&error))?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(mut stderr)) = pipes else {
        return Err("ffmpeg was started without pipes".to_owned());
    };
    let write = async move {
        // If ffmpeg ends early, its status says so.
        let _ = stdin.write_all(input).await;
    };
    let errors = async {
        let mut errors = Vec::new();
        let _ = stderr.read_to_end(&mut errors).await;
        String::from_utf8_lossy(&errors).into_owned()
    };
    let ((), read, errors) = join3(write, blocks(stdout, output), errors).await;
    read?;
    let status = child.wait().await.map_err(|error| format!("ffmpeg stopped unexpectedly: {error}"))?;
    if status.success() { Ok(()) } else { Err(failed(status, &errors)) }
}

/// Reads in whole blocks; only the last one may be shorter.
async fn blocks(
    mut source: impl AsyncRead + Unpin,
    mut output: impl FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let mut block = Vec::with_capacity(BLOCK);
    loop {
        block.clear();
        let mut whole = (&mut source).take(BLOCK as u64);
        whole
            .read_to_end(&mut block)
            .await
            .map_err(|error| format!("the output of ffmpeg could not be read: {error}"))?;
        if block.is_empty() {
            return Ok(());
        }
        output(&block)?;
    }
}

fn not_started(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => MISSING.to_owned(),
        _ => format!("ffmpeg could not be started: {error}"),
    }
}

fn failed(status: ExitStatus, errors: &str) -> String {
    let reason = match errors.lines().find(|line| !line.trim().is_empty()) {
        Some(line) if line.starts_with("Stream map") => "it has no audio track".to_owned(),
        Some(line) => line.trim().chars().take(MESSAGE).collect(),
        None => status.to_string(),
    };
    format!("ffmpeg could not process it: {reason}")
}
