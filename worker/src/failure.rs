//! The table of failures of the model, the audio, the table and the queue, and of what follows from each.
//!
//! `process.rs` and `asr/` follow [`Failure::rule`]. A new failure is a line here and in the tests below.

use longhand_shared::domain::attempt::AttemptOutcome;
use longhand_shared::domain::job::ErrorCode;
use longhand_shared::lifecycle::MAX_REQUEUES;

/// How often a chunk returns to the queue because its audio is missing or forbidden: for about 15 minutes, since
/// recordings may be uploaded late and policies corrected.
pub const MAX_AUDIO_RELEASES: u32 = 10;

/// A chunk that was in flight at the start of this many outages fails, since it may be their cause.
pub const MAX_OUTAGES: u32 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The model answered 429.
    Throttled,
    /// The model answered 408, 409, 425, 498 or 5xx.
    ServerError,
    /// No answer within `ASR_TIMEOUT_SECONDS`.
    Timeout,
    /// The connection ended before the response was complete.
    ConnectionLost,
    /// The connection failed, so nothing was sent.
    Unreachable,
    /// The model answered 401, 403, 404, 405, 407 or a redirect: a wrong API key or URL, or a firewall that refuses this
    /// body.
    CallRefused,
    /// The model answered 402, or that the quota is used up.
    NoQuota,
    /// Any other 4xx: the model rejects the chunk.
    ChunkRefused,
    /// The model answered 2xx without a transcription.
    NotATranscription,
    /// The transcription does not fit in the table.
    TranscriptTooLarge,
    /// The circuit is open, so no call was made.
    CircuitOpen,
    /// No permit of the concurrency limit was free, so no call was made.
    NoPermit,
    /// The audio is missing, forbidden, empty, too large, too long or not audio, and a retry would not help.
    BadAudio,
    /// The audio is missing or forbidden, perhaps not for long.
    AudioNotYet,
    /// The audio cannot be read now: its host does not answer, fails or throttles.
    AudioUnavailable,
    /// The table does not answer.
    TableUnavailable,
    /// The table contains an invalid item, or rejected a write.
    TableCorrupt,
    /// The worker is shutting down.
    Draining,
    /// Another worker may have received the message.
    LeaseLost,
    /// The chunk took longer than `LONGHAND_MAX_CHUNK_SECONDS`.
    Overdue,
}

/// What follows a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Call again after a backoff, with the message in hand. After the last retry the chunk fails if the calls count;
    /// otherwise the message returns to the queue.
    Retry,
    /// The message returns to the queue with a new receive count, at most this often. Then the chunk fails.
    GiveBack(u32),
    /// The message is delivered again. After the third delivery it is a dead letter.
    Redeliver,
    /// The chunk fails.
    Fail,
}

/// What a failure indicates about the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Nothing.
    Nothing,
    /// The model has too many concurrent calls.
    Busy,
    /// The chunk or the model causes the failure. Longhand's probe decides: if the model is down, the failure does not
    /// count and the message returns to the queue.
    Suspect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub next: Next,
    /// Whether it counts against the chunk.
    pub counts: bool,
    pub signal: Signal,
    /// The chunk's error code, except for `BadAudio` and `AudioNotYet`, whose errors have their own.
    pub code: ErrorCode,
    /// The attempt's outcome when the message returns to the queue.
    pub recorded: AttemptOutcome,
}

const COUNTS: bool = true;
const FREE: bool = false;

impl Failure {
    #[rustfmt::skip] // one failure a line
    #[expect(clippy::match_same_arms, reason = "a table has a line for each")]
    pub const fn rule(self) -> Rule {
        use AttemptOutcome::{AudioDown, Drained, LeaseLost, ModelDown, Overdue, Throttled};
        use ErrorCode::{AsrProtocol, AsrRejected, AsrTimeout, AsrUnavailable, Internal, TranscriptTooLarge};
        use Next::{Fail, GiveBack, Redeliver, Retry};
        use Signal::{Busy, Nothing, Suspect};
        const ALWAYS: Next = GiveBack(u32::MAX);
        const A_DAY: Next = GiveBack(MAX_REQUEUES);
        let (next, counts, signal, code, recorded) = match self {
            Self::Throttled          => (Retry,     FREE,   Busy,    AsrUnavailable,     Throttled),
            Self::ServerError        => (Retry,     COUNTS, Suspect, AsrUnavailable,     ModelDown),
            Self::Timeout            => (Retry,     COUNTS, Suspect, AsrTimeout,         ModelDown),
            Self::ConnectionLost     => (Retry,     COUNTS, Suspect, AsrUnavailable,     ModelDown),
            Self::Unreachable        => (Retry,     FREE,   Suspect, AsrUnavailable,     ModelDown),
            Self::CallRefused        => (Fail,      COUNTS, Suspect, AsrRejected,        ModelDown),
            Self::NoQuota            => (A_DAY,     FREE,   Suspect, AsrUnavailable,     ModelDown),
            Self::ChunkRefused       => (Fail,      COUNTS, Nothing, AsrRejected,        ModelDown),
            Self::NotATranscription  => (Fail,      COUNTS, Suspect, AsrProtocol,        ModelDown),
            Self::TranscriptTooLarge => (Fail,      COUNTS, Nothing, TranscriptTooLarge, ModelDown),
            Self::CircuitOpen        => (A_DAY,     FREE,   Nothing, AsrUnavailable,     ModelDown),
            Self::NoPermit           => (A_DAY,     FREE,   Nothing, AsrUnavailable,     Throttled),
            Self::BadAudio           => (Fail,      COUNTS, Nothing, Internal,           AudioDown),
            Self::AudioNotYet        => (GiveBack(MAX_AUDIO_RELEASES), FREE, Nothing, Internal, AudioDown),
            Self::AudioUnavailable   => (A_DAY,     FREE,   Nothing, AsrUnavailable,     AudioDown),
            Self::TableUnavailable   => (ALWAYS,    FREE,   Nothing, Internal,           ModelDown),
            Self::TableCorrupt       => (Redeliver, COUNTS, Nothing, Internal,           ModelDown),
            Self::Draining           => (ALWAYS,    FREE,   Nothing, Internal,           Drained),
            Self::LeaseLost          => (Redeliver, FREE,   Nothing, Internal,           LeaseLost),
            Self::Overdue            => (Redeliver, COUNTS, Nothing, Internal,           Overdue),
        };
        Rule { next, counts, signal, code, recorded }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Failure; 20] = [
        Failure::Throttled,
        Failure::ServerError,
        Failure::Timeout,
        Failure::ConnectionLost,
        Failure::Unreachable,
        Failure::CallRefused,
        Failure::NoQuota,
        Failure::ChunkRefused,
        Failure::NotATranscription,
        Failure::TranscriptTooLarge,
        Failure::CircuitOpen,
        Failure::NoPermit,
        Failure::BadAudio,
        Failure::AudioNotYet,
        Failure::AudioUnavailable,
        Failure::TableUnavailable,
        Failure::TableCorrupt,
        Failure::Draining,
        Failure::LeaseLost,
        Failure::Overdue,
    ];

    #[test]
    fn rules_are_consistent() {
        for failure in ALL {
            let Rule { next, counts, signal, code, .. } = failure.rule();
            if next == Next::Retry {
                assert_ne!(signal, Signal::Nothing, "{failure:?}: a retry is about the model");
                assert_ne!(code, ErrorCode::Internal, "{failure:?}");
            }
            if let Next::GiveBack(turns) = next {
                assert!(!counts && turns > 0, "{failure:?}: what goes back is not counted");
            }
        }
        let all: std::collections::HashSet<_> = ALL.into_iter().collect();
        assert_eq!(all.len(), ALL.len());
    }

    #[test]
    fn only_failures_of_a_healthy_model_count() {
        let counted = |failure: Failure| failure.rule().counts;
        for (failure, counts) in [
            (Failure::Throttled, false),
            (Failure::ServerError, true),
            (Failure::Timeout, true),
            (Failure::ConnectionLost, true),
            (Failure::Unreachable, false),
            (Failure::NoQuota, false),
            (Failure::CircuitOpen, false),
            (Failure::Draining, false),
            (Failure::Overdue, true),
        ] {
            assert_eq!(counted(failure), counts, "{failure:?}");
        }
    }
}
