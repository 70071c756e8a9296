//! A transcript in the format that a client asks for.

use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::http::header::VARY;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::Response;
use longhand_shared::domain::transcript::TranscriptResult;
use serde::Serialize;

use crate::accept;
use crate::captions::{DEFAULT_LINE_CHARS, Timeline};
use crate::conditional::{self, Body};
use crate::error::ApiError;
use crate::input::Fields;
use crate::state::AppState;

/// The available formats, the default first.
const MEDIA_TYPES: [&str; 4] = ["application/json", "text/plain", "text/vtt", "application/x-subrip"];

const JSON: &str = MEDIA_TYPES[0];

/// Whether some of the text is missing, for formats without a place for it.
const PARTIAL: HeaderName = HeaderName::from_static("longhand-partial");

/// Whether the times of all words rest on measured lengths; `captions/mod.rs` has the rule.
const TIMES_EXACT: HeaderName = HeaderName::from_static("longhand-times-exact");

/// The format of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json { segments: bool, words: bool },
    Text,
    Vtt(Lines),
    Srt(Lines),
}

/// How the text of captions is laid out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    chars: LineChars,
    /// Whether long segments become several cues.
    split: bool,
}

/// The most characters of a line of captions.
type LineChars = Option<usize>;

/// The range of `maxLineChars`. Broadcasters use 42.
const LINE_CHARS: RangeInclusive<usize> = 10..=1000;

/// The query in the description.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "`Form::asked` reads the query field by field, to report every fault")]
pub(crate) struct FormParams {
    /// `true`: the JSON has `segments` and `timesExact`.
    #[param(default = false)]
    segments: Option<bool>,
    /// `true`: as `segments=true`, and the segments have their words with times. The job needs `timestamps: "word"`.
    #[param(default = false)]
    words: Option<bool>,
    /// `true`: long segments become several captions of at most two lines, cut between words.
    #[param(default = false)]
    split: Option<bool>,
    /// The maximum length of a caption line; without it each segment is one line, and with `split=true` it is 42.
    #[param(minimum = 10, maximum = 1000)]
    max_line_chars: Option<usize>,
}

/// A result with its segments. These are read after the rest, so they may be a little newer in a job in progress.
#[derive(Serialize)]
struct WithSegments<'a> {
    #[serde(flatten)]
    result: &'a TranscriptResult,
    #[serde(flatten)]
    timeline: Timeline,
}

impl Form {
    /// Parses `Accept` and the query.
    pub(crate) fn asked(headers: &HeaderMap, uri: &Uri) -> Result<Self, ApiError> {
        let mut fields = Fields::of_query(uri);
        let segments = fields.flag("segments");
        let words = fields.flag("words");
        let split = fields.flag("split");
        let line_chars = fields.optional_text::<String>("maxLineChars");
        let line_chars = line_chars.and_then(|text| fields.check("maxLineChars", line_length(&text)));
        let flags = segments.zip(words).zip(split);
        let ((segments, words), split) = fields.finish(flags)?;
        let lines = Lines { chars: line_chars.or(split.then_some(DEFAULT_LINE_CHARS)), split };
        match accept::choose(headers, &MEDIA_TYPES).map(|place| MEDIA_TYPES[place]) {
            Some("text/plain") => Ok(Self::Text),
            Some("text/vtt") => Ok(Self::Vtt(lines)),
            Some("application/x-subrip") => Ok(Self::Srt(lines)),
            Some(_) => Ok(Self::Json { segments: segments || words, words }),
            None => Err(ApiError::NotAcceptable { offers: &MEDIA_TYPES }),
        }
    }

    /// The answer, or `304` if the client has it. Segments are in the chunks, which are read only for the formats that
    /// need them.
    pub(crate) async fn respond(
        self,
        app: &AppState,
        request: &HeaderMap,
        result: &Arc<TranscriptResult>,
    ) -> Result<Response, ApiError> {
        let id = result.job_id;
        let timeline = async || match app.store().chunks(id).await? {
            chunks if chunks.is_empty() => Err(ApiError::NoSuchJob(id)),
            chunks => Ok(Timeline::new(&chunks).starting_at(result.start_offset)),
        };
        let captions = async |lines: Lines| {
            let timeline = timeline().await?;
            Ok::<_, ApiError>(match lines.chars.filter(|_| lines.split) {
                Some(chars) => timeline.split(chars),
                None => timeline,
            })
        };
        let has_speakers = result.chunks.iter().any(|chunk| !chunk.speakers.is_empty());
        let (content_type, body, notes) = match self {
            Self::Json { segments: false, .. } => {
                (JSON, app.rendered.json(result).map_err(not_json)?, [None, None])
            }
            Self::Json { segments: true, words } => {
                let timeline = timeline().await?;
                let timeline = if words { timeline } else { timeline.without_words() };
                let json = serde_json::to_vec(&WithSegments { result, timeline }).map_err(not_json)?;
                (JSON, Body::new(json), [None, None])
            }
            Self::Text => {
                let text = match &result.transcription {
                    Some(_) if has_speakers => timeline().await?.text_by_speaker(),
                    text => text.clone().unwrap_or_default(),
                };
                ("text/plain; charset=utf-8", Body::new(text), [Some((PARTIAL, flag(result.partial))), None])
            }
            Self::Vtt(lines) => {
                let timeline = captions(lines).await?;
                ("text/vtt; charset=utf-8", Body::new(timeline.vtt(lines.chars)), notes(&timeline))
            }
            Self::Srt(lines) => {
                let timeline = captions(lines).await?;
                (
                    "application/x-subrip; charset=utf-8",
                    Body::new(timeline.srt(lines.chars)),
                    notes(&timeline),
                )
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

fn line_length(text: &str) -> Result<usize, String> {
    let length = text.parse().ok().filter(|length| LINE_CHARS.contains(length));
    length.ok_or_else(|| format!("must be a number from {} to {}", LINE_CHARS.start(), LINE_CHARS.end()))
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn not_json(error: serde_json::Error) -> ApiError {
    ApiError::Internal { cause: error.to_string() }
}

fn notes(timeline: &Timeline) -> [Option<(HeaderName, &'static str)>; 2] {
    [Some((PARTIAL, flag(timeline.partial()))), Some((TIMES_EXACT, flag(timeline.times_exact)))]
}

fn flag(yes: bool) -> &'static str {
    if yes { "true" } else { "false" }
}
