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
use crate::input::{Fields, number};
use crate::state::AppState;

/// The available formats, the default first.
const MEDIA_TYPES: [&str; 4] = ["application/json", "text/plain", "text/vtt", "application/x-subrip"];

const JSON: &str = MEDIA_TYPES[0];

/// Whether some of the text is missing, for formats without a place for it.
const PARTIAL: HeaderName = HeaderName::from_static("longhand-partial");

/// Whether the times of all words are exact; `captions/mod.rs` has the rule.
const TIMES_EXACT: HeaderName = HeaderName::from_static("longhand-times-exact");

/// The format of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Form {
    Json { segments: bool, words: bool },
    Text,
    Captions(Captions),
}

/// A format of captions, and how its text is laid out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Captions {
    content_type: &'static str,
    write: fn(&Timeline, Option<usize>) -> String,
    /// The most characters of a line.
    line_chars: Option<usize>,
    /// Whether long segments become several cues.
    split: bool,
}

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
    /// The maximum length of a caption line. By default each segment is one line; with `split=true` the
    /// default is 42.
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
        let line_chars = fields.parsed("maxLineChars", |text| number(text, LINE_CHARS));
        fields.finish(Some(()))?;
        let line_chars = line_chars.or(split.then_some(DEFAULT_LINE_CHARS));
        let captions =
            |content_type, write| Ok(Self::Captions(Captions { content_type, write, line_chars, split }));
        match accept::choose(headers, &MEDIA_TYPES).map(|place| MEDIA_TYPES[place]) {
            Some("text/plain") => Ok(Self::Text),
            Some("text/vtt") => captions("text/vtt; charset=utf-8", Timeline::vtt),
            Some("application/x-subrip") => captions("application/x-subrip; charset=utf-8", Timeline::srt),
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
        let has_speakers = result.chunks.iter().any(|chunk| !chunk.speakers.is_empty());
        let (content_type, body, notes) = match self {
            Self::Json { segments: false, .. } => {
                (JSON, app.rendered.json(result).map_err(ApiError::internal)?, vec![])
            }
            Self::Json { segments: true, words } => {
                let timeline = timeline().await?;
                let timeline = if words { timeline } else { timeline.without_words() };
                let json =
                    serde_json::to_vec(&WithSegments { result, timeline }).map_err(ApiError::internal)?;
                (JSON, Body::new(json), vec![])
            }
            Self::Text => {
                let text = match &result.transcription {
                    Some(_) if has_speakers => timeline().await?.text_by_speaker(),
                    text => text.clone().unwrap_or_default(),
                };
                ("text/plain; charset=utf-8", Body::new(text), vec![(PARTIAL, result.partial)])
            }
            Self::Captions(Captions { content_type, write, line_chars, split }) => {
                let timeline = timeline().await?;
                let timeline = match line_chars {
                    Some(chars) if split => timeline.split(chars),
                    _ => timeline,
                };
                let notes = vec![(PARTIAL, timeline.partial()), (TIMES_EXACT, timeline.times_exact)];
                (content_type, Body::new(write(&timeline, line_chars)), notes)
            }
        };
        let content_type = HeaderValue::from_static(content_type);
        let mut response = conditional::representation(request, result.job_status, content_type, body);
        let headers = response.headers_mut();
        for (name, yes) in notes {
            headers.insert(name, HeaderValue::from_static(if yes { "true" } else { "false" }));
        }
        headers.append(VARY, HeaderValue::from_static("accept"));
        Ok(response)
    }
}
