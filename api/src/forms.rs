//! A transcript in the form that a client asks for.

use axum::http::header::VARY;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::Response;
use longhand_shared::captions::Timeline;
use longhand_shared::transcript::TranscriptResult;
use serde::Serialize;

use crate::error::ApiError;
use crate::input::Fields;
use crate::{AppState, accept, conditional};

/// What there is, the default first.
pub(crate) const MEDIA_TYPES: [&str; 4] =
    ["application/json", "text/plain", "text/vtt", "application/x-subrip"];

const JSON: &str = MEDIA_TYPES[0];

/// Whether some of the text is missing, for the forms that have no other place to say so.
const PARTIAL: HeaderName = HeaderName::from_static("longhand-partial");

/// Whether the times of all words rest on measured lengths; `captions.rs` has the rule.
const TIMES_EXACT: HeaderName = HeaderName::from_static("longhand-times-exact");

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json { segments: bool },
    Text,
    Vtt,
    Srt,
}

/// A result with what is said when. The segments are read after the rest, so of a job in progress they
/// may know a little more.
#[derive(Serialize)]
struct WithSegments<'a> {
    #[serde(flatten)]
    result: &'a TranscriptResult,
    #[serde(flatten)]
    timeline: Timeline,
}

impl Form {
    /// What a request asks for, by `Accept` and `segments`.
    pub(crate) fn asked(headers: &HeaderMap, uri: &Uri) -> Result<Self, ApiError> {
        let mut fields = Fields::of_query(uri);
        let segments = fields.flag("segments");
        let segments = fields.finish(segments)?;
        match accept::choose(headers, &MEDIA_TYPES).map(|place| MEDIA_TYPES[place]) {
            Some("text/plain") => Ok(Self::Text),
            Some("text/vtt") => Ok(Self::Vtt),
            Some("application/x-subrip") => Ok(Self::Srt),
            Some(_) => Ok(Self::Json { segments }),
            None => Err(ApiError::NotAcceptable),
        }
    }

    /// The answer, or `304` where the client has it. Segments are in the chunks, which are read only for
    /// the forms that need them.
    pub(crate) async fn respond(
        self,
        app: &AppState,
        request: &HeaderMap,
        result: &TranscriptResult,
    ) -> Result<Response, ApiError> {
        let id = result.job_id;
        let timeline = async || match app.store.chunks(id).await? {
            chunks if chunks.is_empty() => Err(ApiError::NoSuchJob(id)),
            chunks => Ok(Timeline::new(&chunks)),
        };
        let (content_type, body, notes) = match self {
            Self::Json { segments: false } => (JSON, json(result)?, [None, None]),
            Self::Json { segments: true } => {
                let timeline = timeline().await?;
                (JSON, json(&WithSegments { result, timeline })?, [None, None])
            }
            Self::Text => {
                let text = result.transcription.clone().unwrap_or_default();
                (
                    "text/plain; charset=utf-8",
                    text.into_bytes(),
                    [Some((PARTIAL, told(result.partial))), None],
                )
            }
            Self::Vtt => {
                let timeline = timeline().await?;
                ("text/vtt; charset=utf-8", timeline.vtt().into_bytes(), notes(&timeline))
            }
            Self::Srt => {
                let timeline = timeline().await?;
                ("application/x-subrip; charset=utf-8", timeline.srt().into_bytes(), notes(&timeline))
            }
        };
        let content_type = HeaderValue::from_static(content_type);
        let mut response = conditional::representation(request, result.job_status, content_type, body);
        let headers = response.headers_mut();
        for (name, value) in notes.into_iter().flatten() {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.append(VARY, HeaderValue::from_static("accept"));
        Ok(response)
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(value).map_err(|error| ApiError::Internal { cause: error.to_string() })
}

fn notes(timeline: &Timeline) -> [Option<(HeaderName, &'static str)>; 2] {
    [Some((PARTIAL, told(timeline.partial()))), Some((TIMES_EXACT, told(timeline.times_exact)))]
}

fn told(yes: bool) -> &'static str {
    if yes { "true" } else { "false" }
}
