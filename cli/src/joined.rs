//! Joins the transcripts of the jobs of one recording, in order of their offsets. One job stays as it is.

use longhand_shared::domain::job::{ChunkStatus, JobStatus};
use longhand_shared::domain::stitch;
use longhand_shared::domain::transcript::TranscriptResult;
use serde_json::{Map, Value, json};

use crate::chunk::own_name;
use crate::client::Layout;
use crate::context::Context;
use crate::error::{Exit, Failure};
use crate::options::Format;
use crate::output;

/// Sorts jobs by their offsets. Jobs with the same offset are not parts of one recording.
pub(crate) fn in_order<T>(jobs: &mut [T], result: impl Fn(&T) -> &TranscriptResult) -> Result<(), Failure> {
    jobs.sort_by(|one, other| result(one).start_offset.total_cmp(&result(other).start_offset));
    for pair in jobs.windows(2) {
        let (one, other) = (result(&pair[0]), result(&pair[1]));
        if one.start_offset >= other.start_offset {
            let message = format!(
                "jobs {} and {} are not parts of one recording: both begin at {} s. Get each in a command of its own",
                one.job_id, other.job_id, one.start_offset
            );
            return Err(Failure::new(Exit::Refused, "NOT_ONE_RECORDING", message));
        }
    }
    Ok(())
}

/// The texts, joined as the service joins chunks; with speakers, a line for each turn. `None` if there is no text.
pub(crate) async fn text(
    context: &Context,
    results: &[&TranscriptResult],
) -> Result<Option<String>, Failure> {
    let has_speakers =
        |result: &&TranscriptResult| result.chunks.iter().any(|chunk| !chunk.speakers.is_empty());
    if !results.iter().any(has_speakers) {
        return Ok(plain(results));
    }
    let mut turns = Vec::new();
    for result in results {
        let text = context.api.form(result.job_id, "text/plain", Layout::default()).await?.text;
        turns.push(named_marks(result, text.trim()));
    }
    Ok(Some(turns.join("\n")))
}

fn plain(results: &[&TranscriptResult]) -> Option<String> {
    if let [result] = results {
        return result.transcription.as_ref().map(|text| named_marks(result, text));
    }
    results.iter().any(|result| result.transcription.is_some()).then(|| {
        let parts: Vec<_> = results.iter().map(|result| part(result)).collect();
        stitch::join(parts.iter().map(String::as_str))
    })
}

/// The text of one of several jobs.
fn part(result: &TranscriptResult) -> String {
    match &result.transcription {
        Some(text) => named_marks(result, text),
        None => marks(result).map(|(_, named)| named).collect::<Vec<_>>().join(" "),
    }
}

/// The text with the file's name in each mark of a chunk without a text. The service's marks have the chunk's index, which
/// counts from 0 and in its own job. Messages for people count from 1, and may be about several jobs.
pub(crate) fn named_marks(result: &TranscriptResult, text: &str) -> String {
    marks(result).fold(text.to_owned(), |text, (mark, named)| text.replacen(&mark, &named, 1))
}

fn marks(result: &TranscriptResult) -> impl Iterator<Item = (String, String)> {
    result.chunks.iter().filter_map(|chunk| {
        let state = match chunk.chunk_status {
            ChunkStatus::Completed => return None,
            ChunkStatus::Failed => "failed",
            ChunkStatus::Pending | ChunkStatus::InProgress => "pending",
        };
        Some((format!("[chunk {} {state}]", chunk.index), format!("[{} {state}]", own_name(chunk))))
    })
}

/// One document: the segments and, with `words`, their words, from the service; and each job without its segments.
pub(crate) async fn json(
    context: &Context,
    results: &[&TranscriptResult],
    words: bool,
) -> Result<String, Failure> {
    let (mut segments, mut jobs) = (Vec::new(), Vec::new());
    for (place, result) in results.iter().enumerate() {
        let answer = context.api.segments(result.job_id, words).await?;
        let mut job: Map<String, Value> = serde_json::from_str(&answer.raw).map_err(|error| {
            let message = format!("the service did not answer with a JSON object: {error}");
            Failure::protocol(message).of_job(result.job_id)
        })?;
        let own = job.remove("segments").and_then(|own| own.as_array().cloned()).unwrap_or_default();
        segments.extend(own.into_iter().map(|mut segment| {
            segment["job"] = json!(place);
            segment
        }));
        jobs.push(Value::Object(job));
    }
    let document = json!({
        "jobStatus": status(results),
        "transcription": plain(results),
        "partial": results.iter().any(|result| result.partial),
        "segments": segments,
        "jobs": jobs,
    });
    Ok(document.to_string())
}

/// In progress until all jobs have ended, and failed if one has failed.
fn status(results: &[&TranscriptResult]) -> JobStatus {
    let any = |status| results.iter().any(|result| result.job_status == status);
    [JobStatus::InProgress, JobStatus::Failed]
        .into_iter()
        .find(|status| any(*status))
        .unwrap_or(JobStatus::Completed)
}

/// The captions of all jobs as one file.
pub(crate) async fn captions(context: &Context, results: &[&TranscriptResult]) -> Result<String, Failure> {
    let vtt = context.format == Format::Vtt;
    let media_type = if vtt { "text/vtt" } else { "application/x-subrip" };
    let (mut files, mut times_exact) = (Vec::new(), true);
    for result in results {
        let captions = context.api.form(result.job_id, media_type, context.layout).await?;
        times_exact &= captions.times_exact;
        files.push(captions.text);
    }
    if !times_exact {
        output::note(
            "longhand: some times are estimated: the model returned no usable times for them, or a chunk before them has \
             no measured length or no text",
        );
    }
    Ok(match files.len() {
        1 => files.remove(0),
        _ if vtt => one_vtt(&files),
        _ => one_srt(&files),
    })
}

/// One header, then the notes and cues of all files.
fn one_vtt(files: &[String]) -> String {
    let cues =
        files.iter().map(|file| file.trim_start_matches("WEBVTT").trim()).filter(|cues| !cues.is_empty());
    std::iter::once("WEBVTT").chain(cues).collect::<Vec<_>>().join("\n\n") + "\n"
}

/// The cues of all files, numbered from 1.
fn one_srt(files: &[String]) -> String {
    let cues = files.iter().flat_map(|file| file.split("\n\n")).map(str::trim).filter(|cue| !cue.is_empty());
    let cue = |(number, cue): (usize, &str)| {
        let rest = cue.split_once('\n').map_or("", |(_, rest)| rest);
        format!("{number}\n{rest}\n\n")
    };
    (1..).zip(cues).map(cue).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_become_one_file() {
        let file =
            |text: &str| format!("WEBVTT\n\nNOTE about {text}\n\n00:00:01.000 --> 00:00:02.000\n{text}\n");
        let cue = |text: &str| format!("NOTE about {text}\n\n00:00:01.000 --> 00:00:02.000\n{text}\n");
        let joined = one_vtt(&[file("one"), "WEBVTT\n".to_owned(), file("two")]);
        assert_eq!(joined, format!("WEBVTT\n\n{}\n{}", cue("one"), cue("two")));

        let srt = |number: u8, text: &str| format!("{number}\n00:00:01,000 --> 00:00:02,000\n{text}\n\n");
        let files = [srt(1, "one\nmore") + &srt(2, "7"), String::new(), srt(1, "three")];
        assert_eq!(one_srt(&files), srt(1, "one\nmore") + &srt(2, "7") + &srt(3, "three"));
    }
}
