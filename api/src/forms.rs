//! A transcript in the form that a client asks for.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use longhand_shared::captions::Timeline;
use longhand_shared::transcript::TranscriptResult;
use serde::Serialize;

use crate::error::ApiError;
use crate::input::Fields;
use crate::{AppState, accept};

/// What there is, the default first.
pub(crate) const MEDIA_TYPES: [&str; 4] =
    ["application/json", "text/plain", "text/vtt", "application/x-subrip"];

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
struct WithSegments {
    #[serde(flatten)]
    result: TranscriptResult,
    #[serde(flatten)]
    timeline: Timeline,
}

impl Form {
    /// What a request asks for, by `Accept` and `segments`.
    pub(crate) fn asked(headers: &HeaderMap, uri: &Uri) -> Result<Self, ApiError> {
        let mut fields = Fields::of_query(uri);
        let segments = fields.optional_text::<String>("segments");
        let segments = segments.map_or(Some(false), |text| {
            fields.check("segments", text.parse::<bool>().map_err(|_| "must be true or false"))
        });
        let segments = fields.finish(segments)?;
        match accept::choose(headers, &MEDIA_TYPES).map(|place| MEDIA_TYPES[place]) {
            Some("text/plain") => Ok(Self::Text),
            Some("text/vtt") => Ok(Self::Vtt),
            Some("application/x-subrip") => Ok(Self::Srt),
            Some(_) => Ok(Self::Json { segments }),
            None => Err(ApiError::NotAcceptable),
        }
    }

    /// The answer. Segments are in the chunks, which are read only for the forms that need them.
    pub(crate) async fn respond(
        self,
        app: &AppState,
        result: TranscriptResult,
    ) -> Result<Response, ApiError> {
        let id = result.job_id;
        let timeline = async || match app.store.chunks(id).await? {
            chunks if chunks.is_empty() => Err(ApiError::NoSuchJob(id)),
            chunks => Ok(Timeline::new(&chunks)),
        };
        let mut response = match self {
            Self::Json { segments: false } => Json(result).into_response(),
            Self::Json { segments: true } => {
                Json(WithSegments { result, timeline: timeline().await? }).into_response()
            }
            Self::Text => {
                let partial = [(PARTIAL, told(result.partial))];
                let text = result.transcription.unwrap_or_default();
                ([(CONTENT_TYPE, "text/plain; charset=utf-8")], partial, text).into_response()
            }
            Self::Vtt => {
                let timeline = timeline().await?;
                ([(CONTENT_TYPE, "text/vtt; charset=utf-8")], notes(&timeline), timeline.vtt())
                    .into_response()
            }
            Self::Srt => {
                let timeline = timeline().await?;
                ([(CONTENT_TYPE, "application/x-subrip; charset=utf-8")], notes(&timeline), timeline.srt())
                    .into_response()
            }
        };
        response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
        Ok(response)
    }
}

fn notes(timeline: &Timeline) -> [(HeaderName, &'static str); 2] {
    [(PARTIAL, told(timeline.partial())), (TIMES_EXACT, told(timeline.times_exact))]
}

fn told(yes: bool) -> &'static str {
    if yes { "true" } else { "false" }
}
