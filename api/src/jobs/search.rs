//! `GET /transcript/search`.
//!
//! The listing is an index that follows the table by a moment. What was submitted within the last minute is read from
//! the table itself.

use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use longhand_shared::domain::job::{JobHead, JobState, JobStatus, Metadata};
use longhand_shared::domain::transcript::TranscriptResult;
use longhand_shared::store::{self, Search, SearchPosition};
use longhand_shared::{JobId, Timestamp, UserId};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::schema::{AnyOfBuilder, Schema};
use utoipa::openapi::{Ref, RefOr};

use crate::auth::caller::Caller;
use crate::cursor;
use crate::error::ApiError;
use crate::error_codes::Code;
use crate::input::{Fields, number};
use crate::openapi::examples;
use crate::openapi::problems::{AUTHENTICATED, COMMON, problems};
use crate::state::App;

/// How many results a page has when the client does not say.
const DEFAULT_LIMIT: usize = 20;

/// The most results of a page.
const MAX_LIMIT: usize = 100;

/// A page of a listing.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SearchResults {
    results: Vec<TranscriptResult>,
    /// The cursor of the next page; null on the last one.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// A page of a listing with `fields=summary`.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobSummaries {
    results: Vec<JobSummary>,
    /// The cursor of the next page; null on the last one.
    #[schema(required)]
    next_cursor: Option<String>,
}

/// A job in a listing, without its text, its chunks and their attempts.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobSummary {
    job_id: JobId,
    user_id: UserId,
    job_status: JobStatus,
    submitted_time: Timestamp,
    /// When it ended; null while it is in progress.
    #[schema(required)]
    completed_time: Option<Timestamp>,
    /// How many chunks it has.
    chunk_count: usize,
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    metadata: Metadata,
}

/// Either page. Both fit an empty one, so this is not a `oneOf`.
struct Page;

impl utoipa::PartialSchema for Page {
    fn schema() -> RefOr<Schema> {
        let pages = [SearchResults::name(), JobSummaries::name()];
        pages.into_iter().fold(AnyOfBuilder::new(), |any, name| any.item(Ref::from_schema_name(name))).into()
    }
}

impl ToSchema for Page {}

/// The query in the description.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "`new_search` reads the query field by field, to report every fault")]
struct SearchParams {
    /// The owner of the jobs: by default the caller. Required where `LONGHAND_AUTH=none`.
    user_id: Option<UserId>,
    /// Only jobs with this status.
    job_status: Option<JobStatus>,
    /// Only jobs submitted at this time or later.
    submitted_after: Option<Timestamp>,
    /// Only jobs submitted before this time.
    submitted_before: Option<Timestamp>,
    /// The maximum number of results on a page. A page with long results may have fewer.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<usize>,
    /// `summary`: each job without its text, its chunks and their attempts.
    #[param(inline)]
    fields: Option<FieldSet>,
    /// `nextCursor` of the previous page, unchanged, with that page's other parameters.
    #[param(max_length = 512)]
    cursor: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "see `SearchParams`")]
enum FieldSet {
    Summary,
}

problems!(Problems: COMMON, AUTHENTICATED, &[
    Code::AnswerTooLarge,
    Code::InvalidRequest,
    Code::Forbidden,
    Code::StoreUnavailable,
    Code::RateLimited,
    Code::Busy,
]);

/// List a user's jobs
///
/// Newest first, in pages. A new job is listed at once. A change of status may appear with a short delay.
#[utoipa::path(
    get,
    path = "/transcript/search",
    tag = "Jobs",
    operation_id = "search",
    params(SearchParams),
    responses(
        (
            status = 200,
            description = "A page, newest first.",
            body = inline(Page),
            examples(("example" = (value = json!(examples::page())))),
        ),
        Problems,
    ),
)]
pub(crate) async fn search(State(app): State<App>, caller: Caller, uri: Uri) -> Result<Response, ApiError> {
    let (search, summary) = new_search(&uri, &caller, Timestamp::now())?;
    let user = caller.name().unwrap_or(&search.user);
    app.limits.read(Some(user))?;
    let reading = app.limits.reads().begin(Some(user)).await?;
    let next = |next: Option<SearchPosition>| next.map(|position| cursor::encode(&search, position));
    if summary {
        let page = app.store().search(&search).await?;
        let results = page.jobs.into_iter().map(JobSummary::from).collect();
        return Ok(reading.respond(Json(JobSummaries { results, next_cursor: next(page.next) })));
    }
    let (results, position) = store::read_page(app.store(), &search).await?;
    Ok(reading.respond(Json(SearchResults { results, next_cursor: next(position) })))
}

impl From<JobHead> for JobSummary {
    fn from(job: JobHead) -> Self {
        let completed_time = match job.state {
            JobState::Open => None,
            JobState::Ended { at, .. } => Some(at),
        };
        Self {
            job_id: job.id,
            job_status: job.status(),
            user_id: job.user,
            submitted_time: job.submitted,
            completed_time,
            chunk_count: job.chunk_count,
            metadata: job.metadata,
        }
    }
}

/// Parses the query: the search, and whether only summaries are asked for.
fn new_search(uri: &Uri, caller: &Caller, now: Timestamp) -> Result<(Search, bool), ApiError> {
    let mut fields = Fields::of_query(uri);
    let user = caller.user(&mut fields)?;
    let status = fields.parsed("jobStatus", str::parse::<JobStatus>);
    let (from, until) = (fields.parsed("submittedAfter", moment), fields.parsed("submittedBefore", moment));
    let limit = fields.optional_text::<String>("limit");
    let limit =
        limit.map_or(Some(DEFAULT_LIMIT), |limit| fields.check("limit", number(&limit, 1..=MAX_LIMIT)));
    let summary = fields.parsed("fields", |text| (text == "summary").then_some(()).ok_or("must be summary"));
    let cursor = fields.optional_text::<String>("cursor");
    let search =
        user.zip(limit).map(|(user, limit)| Search { status, from, until, ..Search::all(user, limit, now) });
    // A cursor is checked against its search.
    let after = match (cursor, &search) {
        (Some(text), Some(search)) => fields.check("cursor", cursor::decode(&text, search)),
        _ => None,
    };
    let search = fields.finish(search)?;
    Ok((Search { after, ..search }, summary.is_some()))
}

/// A time in a query. A plus sign that is not escaped arrives as a space: `..T10:00:00 02:00`.
fn moment(text: &str) -> Result<Timestamp, <Timestamp as FromStr>::Err> {
    let (time, offset) = text.rsplit_once(' ').unwrap_or_default();
    let plus_lost = time.contains(['T', 't']) && offset.len() == "02:00".len();
    if plus_lost { format!("{time}+{offset}").parse() } else { text.parse() }
}
