//! `GET /transcript/{jobId}/audio/{index}`: the audio of a chunk, to be played.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use aws_sdk_s3::error::DisplayErrorContext;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, LOCATION,
    RANGE,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use longhand_shared::AudioPath;
use longhand_shared::domain::id::{ChunkIndex, MAX_CHUNKS};
use longhand_shared::domain::media;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio::task::spawn_blocking;
use tokio_util::io::ReaderStream;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{KnownFormat, Required, SchemaFormat};

use super::path::JobPath;
use crate::auth::caller::Caller;
use crate::edge::only;
use crate::error::ApiError;
use crate::error_codes::Code;
use crate::fault::Fault;
use crate::input::Fields;
use crate::openapi::problems::{AUTHENTICATED, COMMON, JOB_PATH, problems};
use crate::state::{App, AppState};

/// A file may be replaced, and is private.
const FILE_CACHE: HeaderValue = HeaderValue::from_static("private, no-cache");

/// `index` in the path, in the description. utoipa's attributes accept only literals as limits.
pub(crate) struct IndexParam;

impl utoipa::IntoParams for IndexParam {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let schema = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
            .minimum(Some(0))
            .maximum(Some(MAX_CHUNKS - 1));
        let index = ParameterBuilder::new()
            .name("index")
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .description(Some("The chunk."))
            .schema(Some(schema))
            .example(Some(0.into()));
        vec![index.build()]
    }
}

/// The query in the description.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the layer of `tickets.rs` reads the ticket")]
pub(crate) struct TicketParam {
    /// A ticket from `POST /transcript/{jobId}/tickets`, in place of a credential.
    ticket: Option<String>,
}

problems!(Problems: COMMON, AUTHENTICATED, JOB_PATH, &[
    Code::AudioUnavailable,
    Code::Busy,
    Code::InvalidRequest,
    Code::RangeNotSatisfiable,
    Code::RateLimited,
    Code::UploadsUnavailable,
]);

/// Play a chunk's audio
///
/// Audio in S3 is a redirect to a link that is valid for at most 15 minutes. Audio on the web is a redirect to its address.
/// Local audio is sent, also in ranges.
#[utoipa::path(
    get,
    path = "/transcript/{jobId}/audio/{index}",
    tag = "Jobs",
    operation_id = "getAudio",
    params(
        JobPath,
        IndexParam,
        TicketParam,
        ("Range" = Option<String>, Header, description = "One range of bytes. Others are ignored.", example = "bytes=0-"),
        ("If-Range" = Option<String>, Header, description = "The `ETag` of the answer that the range continues."),
    ),
    responses(
        (
            status = 200,
            description = "The whole file.",
            body = Vec<u8>,
            content_type = "audio/*",
            headers(
                ("ETag" = String, description = "Identifies the file's content, for `If-Range`."),
                ("Accept-Ranges" = String, description = "`bytes`."),
            ),
        ),
        (
            status = 206,
            description = "The range of the file.",
            body = Vec<u8>,
            content_type = "audio/*",
            headers(
                ("ETag" = String, description = "Identifies the file's content, for `If-Range`."),
                ("Content-Range" = String, description = "Which bytes these are, and of how many."),
            ),
        ),
        (
            status = 307,
            description = "Where the audio is.",
            headers(("Location" = String, description = "A secret until it expires.")),
        ),
        Problems,
    ),
)]
pub(crate) async fn fetch(
    State(app): State<App>,
    caller: Caller,
    JobPath(job): JobPath,
    Path((_, index)): Path<(String, String)>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, ApiError> {
    let index = index.parse::<u64>().ok().and_then(|index| ChunkIndex::try_from(index).ok());
    let index = index.ok_or_else(|| {
        let detail = format!("must be the index of a chunk, from 0 to {}", MAX_CHUNKS - 1);
        ApiError::Invalid(vec![Fault::new("/{index}", detail)])
    })?;
    let mut fields = Fields::of_query(&uri);
    let _ = fields.optional("ticket");
    fields.finish(Some(()))?;
    // Not from a cache: an erased job's audio is gone at once.
    caller.job(app.store(), job).await?;
    app.limits.read(caller.name())?;
    let reading = app.limits.reads().begin(caller.name()).await?;
    let result = app.waiting.read(job).await?.ok_or(ApiError::NoSuchJob(job))?;
    let path = result.chunks.get(usize::from(index.get())).map(|chunk| chunk.audio_chunk_path.clone());
    drop((reading, result));
    let path = path.ok_or_else(|| ApiError::no_audio("the job has no such chunk"))?;
    match path {
        AudioPath::S3 { .. } | AudioPath::Web(_) => elsewhere(&app, &path).await,
        AudioPath::Local(relative) => local(&app, relative, &headers).await,
    }
}

/// Sends the client to audio that is not here.
async fn elsewhere(app: &AppState, path: &AudioPath) -> Result<Response, ApiError> {
    app.sources.check(path).map_err(|error| ApiError::no_audio(format_args!("its path {error}")))?;
    let address = match path {
        AudioPath::S3 { bucket, key } => {
            let signing = app.upload_signer.begin().await?;
            let signed = signing.s3.get_object().bucket(bucket).key(key).presigned(signing.presigning).await;
            let failed = |error| ApiError::CannotSign { cause: DisplayErrorContext(&error).to_string() };
            signed.map_err(failed)?.uri().to_owned()
        }
        other => other.to_string(),
    };
    let address = HeaderValue::try_from(address)
        .map_err(|_| ApiError::no_audio("its address has characters other than ASCII"))?;
    Ok((StatusCode::TEMPORARY_REDIRECT, [(LOCATION, address)]).into_response())
}

/// Sends a file under the audio root, or the range of it that the client asks for.
async fn local(app: &AppState, relative: String, request: &HeaderMap) -> Result<Response, ApiError> {
    let sources = app.sources.clone();
    let resolved = spawn_blocking(move || sources.resolve(&relative).map(found)).await;
    let resolved = resolved.map_err(ApiError::internal)?;
    let found = resolved.map_err(|error| ApiError::no_audio(format_args!("its path {error}")))?;
    let Found { file, length, tag, content_type } =
        found.map_err(|_| ApiError::no_audio("there is no readable file at its path"))?;
    let valid = only(request, IF_RANGE.as_str()).is_none_or(|known| known == tag);
    let range = only(request, RANGE.as_str()).filter(|_| valid).and_then(|range| wanted(range, length));
    let (status, range) = match range {
        None => (StatusCode::OK, 0..length),
        Some(range) if range.is_empty() => return Err(ApiError::RangeNotSatisfiable { length }),
        Some(range) => (StatusCode::PARTIAL_CONTENT, range),
    };
    let mut file = File::from_std(file);
    file.seek(SeekFrom::Start(range.start)).await.map_err(ApiError::internal)?;
    let bytes = range.end - range.start;
    let tag = HeaderValue::try_from(tag).expect("digits and quotes");
    let headers = [(ETAG, tag), (CACHE_CONTROL, FILE_CACHE)];
    let format = [
        (CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (CONTENT_LENGTH, bytes.into()),
        (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
    ];
    let body = Body::from_stream(ReaderStream::new(file.take(bytes)));
    let mut response = (status, headers, format, body).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let place = format!("bytes {}-{}/{length}", range.start, range.end - 1);
        response.headers_mut().insert(CONTENT_RANGE, HeaderValue::try_from(place).expect("ASCII"));
    }
    Ok(response)
}

/// A file that is open.
struct Found {
    file: std::fs::File,
    length: u64,
    /// Its `ETag`: a replaced file has another time or length.
    tag: String,
    content_type: &'static str,
}

fn found(path: PathBuf) -> io::Result<Found> {
    // Before it is opened: opening a pipe waits for its writer.
    if !std::fs::metadata(&path)?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut file = std::fs::File::open(path)?;
    let metadata = file.metadata()?;
    let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let head = media::read_head(&mut file)?;
    // Only audio and video is announced as something: no browser shows a file as a page.
    let content_type = media::detect(&head).map_or("application/octet-stream", |format| format.mime());
    let length = metadata.len();
    Ok(Found { file, length, tag: format!("\"{changed:x}-{length:x}\""), content_type })
}

/// The range of `Range` (RFC 9110 section 14). Empty if no byte of it exists; `None` if it is to be ignored: several
/// ranges, or none that can be read.
fn wanted(text: &str, length: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    if first.is_empty() {
        let suffix = number(last)?;
        return Some(length.saturating_sub(suffix)..length);
    }
    let first = number(first)?;
    let end = if last.is_empty() { length } else { number(last)?.saturating_add(1) };
    // The wrong way round is not a range.
    (first < end || last.is_empty()).then(|| first.min(length)..end.min(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, range) in [
            ("bytes=0-", Some(0..10)),
            ("bytes=2-4", Some(2..5)),
            ("bytes=2-99999999999999999999", Some(2..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=-30", Some(0..10)),
            ("bytes=9-9", Some(9..10)),
            // None of these bytes exists.
            ("bytes=10-", Some(10..10)),
            ("bytes=10-12", Some(10..10)),
            ("bytes=-0", Some(10..10)),
            // Ignored.
            ("bytes=4-2", None),
            ("bytes=0-1,3-4", None),
            ("bytes=a-b", None),
            ("bytes=+1-2", None),
            ("bytes=-", None),
            ("items=0-1", None),
            ("", None),
        ] {
            assert_eq!(wanted(text, 10), range, "{text}");
        }
    }
}
