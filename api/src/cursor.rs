//! The cursor of a search: where its last page ended, and a digest of the search.
//!
//! Opaque to clients, so that it can change. It gives access to nothing that the search itself does not.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use longhand_shared::JobId;
use longhand_shared::store::{Search, SearchPosition};
use serde::{Deserialize, Serialize};

/// The version that is written and read here.
const VERSION: u8 = 1;

/// The longest cursor that is decoded, in bytes; ours have about 160.
const MAX_BYTES: usize = 512;

/// Why a text is not a cursor of this search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidCursor {
    #[error("is not a cursor: send the nextCursor of the previous page unchanged")]
    Unreadable,
    #[error(
        "belongs to another search: send the previous page's parameters; only limit and fields may differ"
    )]
    OtherSearch,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cursor {
    v: u8,
    submitted: String,
    job: JobId,
    search: String,
}

/// The cursor for the page after `position`.
pub(crate) fn encode(search: &Search, position: SearchPosition) -> String {
    let SearchPosition { submitted, job } = position;
    let cursor = Cursor { v: VERSION, submitted: submitted.to_string(), job, search: digest(search) };
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&cursor).expect("only strings and numbers"))
}

/// Where the previous page ended.
pub(crate) fn decode(text: &str, search: &Search) -> Result<SearchPosition, InvalidCursor> {
    if text.len() > MAX_BYTES {
        return Err(InvalidCursor::Unreadable);
    }
    let json = BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| InvalidCursor::Unreadable)?;
    let cursor: Cursor = serde_json::from_slice(&json).map_err(|_| InvalidCursor::Unreadable)?;
    // Ours are in UTC. Another offset could move a time past the end of the calendar.
    let submitted = cursor.submitted.strip_suffix('Z').and_then(|_| cursor.submitted.parse().ok());
    let (VERSION, Some(submitted)) = (cursor.v, submitted) else {
        return Err(InvalidCursor::Unreadable);
    };
    if cursor.search != digest(search) {
        return Err(InvalidCursor::OtherSearch);
    }
    Ok(SearchPosition { submitted, job: cursor.job })
}

/// Identifies a search, in every process and version alike: FNV-1a, 64 bits. It guards against mistakes, not against
/// malice: a forged cursor shows only what its search shows.
fn digest(search: &Search) -> String {
    let Search { user, status, from, until, .. } = search;
    let text = format!("{status:?} {from:?} {until:?} {user}");
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use longhand_shared::Timestamp;
    use longhand_shared::domain::job::JobStatus;

    use super::*;

    fn search(user: &str, status: Option<JobStatus>) -> Search {
        let user = user.parse().expect("a user");
        Search { status, ..Search::all(user, 20, Timestamp::from_unix(1_763_852_400)) }
    }

    fn decoded(json: &str) -> Result<SearchPosition, InvalidCursor> {
        decode(&BASE64_URL_SAFE_NO_PAD.encode(json), &search("ana", None))
    }

    #[test]
    fn a_cursor_continues_only_its_own_search() {
        let submitted = Timestamp::from_unix(1_763_852_400);
        let position = SearchPosition { submitted, job: JobId::random() };
        let ours = search("ana", Some(JobStatus::Failed));
        let cursor = encode(&ours, position);
        assert_eq!(decode(&cursor, &ours), Ok(position));
        assert_eq!(decode(&cursor, &Search { limit: 7, ..ours.clone() }), Ok(position));
        for other in [
            search("bob", Some(JobStatus::Failed)),
            search("ana", Some(JobStatus::Completed)),
            search("ana", None),
            Search { from: Some(submitted), ..ours.clone() },
            Search { until: Some(submitted), ..ours.clone() },
        ] {
            assert_eq!(decode(&cursor, &other), Err(InvalidCursor::OtherSearch), "{other:?}");
        }
    }

    #[test]
    fn invalid_cursors_are_refused() {
        let unreadable = Err(InvalidCursor::Unreadable);
        for text in ["", "x", "%", "e30", &"A".repeat(10_000)] {
            assert_eq!(decode(text, &search("ana", None)), unreadable, "{text}");
        }
        for json in [
            "null",
            r#"{"v":2,"submitted":"2025-11-22T23:00:00.000Z","job":"0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b","search":""}"#,
            r#"{"v":1,"submitted":"yesterday","job":"0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b","search":""}"#,
            r#"{"v":1,"submitted":"2025-11-22T23:00:00.000Z","job":"7","search":""}"#,
            r#"{"v":1,"submitted":"9999-12-31T23:59:59.000-23:59","job":"0198c1d2-7a3e-7cc0-8000-1c2d3e4f5a6b","search":""}"#,
        ] {
            assert_eq!(decoded(json), unreadable, "{json}");
        }
    }
}
