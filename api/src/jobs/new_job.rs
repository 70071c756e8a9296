//! The body of `POST /transcribe`.

use longhand_shared::domain::job::{
    MAX_METADATA_BYTES, MAX_METADATA_ENTRIES, MAX_START_OFFSET, Metadata, NewJob, TranscribeOptions,
};
use longhand_shared::domain::path::{AudioSources, InvalidPath};
use longhand_shared::domain::url::{AllowedHosts, PublicUrl};
use longhand_shared::{AudioPath, Timestamp};
use serde_json::Value;
use tokio::task::spawn_blocking;

use crate::auth::caller::Caller;
use crate::error::ApiError;
use crate::fault::Fault;
use crate::input::{Fields, kind, text};

/// Parses a body. Every fault is reported.
pub(super) async fn new_job(
    mut fields: Fields,
    caller: &Caller,
    sources: &AudioSources,
    callback_hosts: &AllowedHosts,
    now: Timestamp,
) -> Result<NewJob, ApiError> {
    let user = caller.user(&mut fields)?;
    let paths = audio_paths(&mut fields, sources).await?;
    let language = fields.optional_text("language");
    let prompt = fields.optional_text("prompt");
    let timestamps = fields.optional_text("timestamps").unwrap_or_default();
    let translate = fields.optional_bool("translate").unwrap_or_default();
    let start_offset = start_offset(&mut fields);
    let metadata = metadata(&mut fields);
    let callback_url = callback_url(&mut fields, callback_hosts);
    let (user, paths) = fields.finish(user.zip(paths))?;
    let others = paths.iter().enumerate().filter(|(_, path)| !caller.may_transcribe(path));
    let others: Vec<_> = others
        .map(|(index, _)| Fault::new(format!("#/audioChunkPaths/{index}"), "is in another user's uploads"))
        .collect();
    if !others.is_empty() {
        return Err(ApiError::Invalid(others));
    }
    let count = paths.len();
    let options = TranscribeOptions { language, prompt, timestamps, translate };
    let mut job = NewJob::new(user, paths, options, metadata, now)
        .map_err(|_| ApiError::Internal { cause: format!("{count} paths were accepted") })?;
    job.callback_url = callback_url;
    job.start_offset = start_offset;
    Ok(job)
}

/// Where the first chunk begins in a longer recording, to the millisecond.
fn start_offset(fields: &mut Fields) -> f64 {
    const FIELD: &str = "startOffset";
    let seconds = match fields.optional(FIELD) {
        Some(Value::Number(number)) => {
            number.as_f64().filter(|seconds| (0.0..=MAX_START_OFFSET).contains(seconds))
        }
        Some(_) => None,
        None => return 0.0,
    };
    if seconds.is_none() {
        fields.fault(FIELD, format_args!("must be a number of seconds from 0 to {MAX_START_OFFSET}"));
    }
    (seconds.unwrap_or_default() * 1000.0).round() / 1000.0
}

/// Where the job's end is posted. Only the host's name is checked here, its IP addresses at each delivery.
fn callback_url(fields: &mut Fields, hosts: &AllowedHosts) -> Option<String> {
    const FIELD: &str = "callbackUrl";
    let url = fields.optional_text::<String>(FIELD)?;
    if hosts.is_empty() {
        fields
            .fault(FIELD, "is not accepted: webhooks are disabled on this server (LONGHAND_CALLBACK_HOSTS)");
        return None;
    }
    fields.check(FIELD, PublicUrl::parse(&url, hosts)).map(|_| url)
}

async fn audio_paths(
    fields: &mut Fields,
    sources: &AudioSources,
) -> Result<Option<Vec<AudioPath>>, ApiError> {
    const FIELD: &str = "audioChunkPaths";
    let Some(entries) = fields.for_chunks(FIELD, "strings") else {
        return Ok(None);
    };
    let entries: Vec<Result<AudioPath, String>> = entries.into_iter().map(text).collect();
    let mut paths = Vec::with_capacity(entries.len());
    for (index, path) in check_sources(entries, sources).await?.into_iter().enumerate() {
        match path {
            Ok(path) => paths.push(path),
            Err(detail) => fields.fault_inside(FIELD, index, detail),
        }
    }
    Ok(Some(paths))
}

/// Faults the paths that may not be read here. Local ones are checked on disk, off the threads that answer requests.
async fn check_sources(
    paths: Vec<Result<AudioPath, String>>,
    sources: &AudioSources,
) -> Result<Vec<Result<AudioPath, String>>, ApiError> {
    let any_local = paths.iter().any(|path| matches!(path, Ok(AudioPath::Local(_))));
    let sources = sources.clone();
    let check = move || {
        let check = |path: AudioPath| {
            let verdict = sources.check(&path);
            verdict.map(|()| path).map_err(|error: InvalidPath| error.to_string())
        };
        paths.into_iter().map(|path| path.and_then(check)).collect()
    };
    if !any_local {
        return Ok(check());
    }
    spawn_blocking(check).await.map_err(ApiError::internal)
}

fn metadata(fields: &mut Fields) -> Metadata {
    const FIELD: &str = "metadata";
    let entries = match fields.optional(FIELD) {
        Some(Value::Object(entries)) => entries,
        Some(other) => {
            fields.fault(FIELD, format_args!("must be an object of strings, is {}", kind(&other)));
            return Metadata::new();
        }
        None => return Metadata::new(),
    };
    if entries.len() > MAX_METADATA_ENTRIES {
        let count = entries.len();
        fields.fault(FIELD, format_args!("must have at most {MAX_METADATA_ENTRIES} entries, has {count}"));
    }
    let mut metadata = Metadata::new();
    for (key, value) in entries {
        match entry(&key, value) {
            Ok(text) => _ = metadata.insert(key, text),
            Err(detail) => fields.fault_inside(FIELD, key, detail),
        }
    }
    metadata
}

/// The text of an entry of the metadata.
fn entry(key: &str, value: Value) -> Result<String, String> {
    let text: String = text(value)?;
    let (key_bytes, text_bytes) = (key.len(), text.len());
    if !(1..=MAX_METADATA_BYTES).contains(&key_bytes) {
        return Err(format!(
            "must have a name of 1 to {MAX_METADATA_BYTES} bytes, has one of {key_bytes} bytes"
        ));
    }
    if text_bytes > MAX_METADATA_BYTES {
        return Err(format!("must have at most {MAX_METADATA_BYTES} bytes, has {text_bytes}"));
    }
    Ok(text)
}
