//! What each failure leads to: the one table that decides about the model, the audio, the table and the queue.
//!
//! `process.rs` and `asr/` ask [`Failure::rule`] and do what it says. A new kind of failure is a line here and a line
//! in the test below.

use longhand_shared::domain::attempt::AttemptOutcome;
use longhand_shared::domain::job::ErrorCode;
use longhand_shared::lifecycle::MAX_REQUEUES;

/// How often a chunk goes back to the queue because its audio is not there or may not be read: about a quarter of an
/// hour, since recordings appear late and wrong policies are corrected.
pub const MAX_AUDIO_RELEASES: u32 = 10;

/// A chunk that was in flight at the start of so many outages fails: it may be what stops the model.
pub const MAX_OUTAGES: u32 = 3;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// 429.
    Throttled,
    /// 408, 409, 425, 498, or a 5xx.
    ServerError,
    /// No answer within `ASR_TIMEOUT_SECONDS`.
    Timeout,
    /// The connection ended before the answer did.
    ConnectionLost,
    /// No connection could be made: nothing of the chunk was sent.
    Unreachable,
    /// 401, 403, 404, 405, 407 or a redirect: the key, the address, or a firewall that refuses this body.
    CallRefused,
    /// 402, or a quota that is used up.
    NoQuota,
    /// Any other 4xx: the model refuses the chunk.
    ChunkRefused,
    /// 200 without a transcription.
    NotATranscription,
    /// The transcription does not fit in the table.
    TranscriptTooLarge,
    /// No call was made: the circuit is open.
    CircuitOpen,
    /// No call was made: others used all that the concurrency limit allows.
    NoPermit,
    /// The audio cannot be transcribed: missing, empty, too large, of no known format.
    BadAudio,
    /// The audio is not there yet, or may not be read yet: recordings appear late, and policies get corrected.
    AudioNotYet,
    /// The audio's store does not answer.
    AudioUnavailable,
    /// The table does not answer.
    TableUnavailable,
    /// The table holds something unreadable, or refused what was written.
    TableCorrupt,
    /// The worker stops.
    Draining,
    /// The message became another worker's.
    LeaseLost,
    /// The chunk took longer than `LONGHAND_MAX_CHUNK_SECONDS`.
    Overdue,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Call again after a pause, with the message in hand. After the last try: fail if the tries were counted, else
    /// send the message back.
    Retry,
    /// Send the message back to the queue with a new receive count, at most this often; then the chunk fails.
    GiveBack(u32),
    /// Let the message be received again; the third receive makes it a dead letter.
    Redeliver,
    /// The chunk fails.
    Fail,
}

/// What a failure says about the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Nothing.
    Nothing,
    /// It has too many calls.
    Busy,
    /// The chunk or the model is at fault: Longhand's own probe decides. If the model is down, the failure is
    /// never counted and the message goes back.
    Suspect,
}

/// A line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What to do next.
    pub next: Next,
    /// Whether it counts as one of the chunk's tries.
    pub counts: bool,
    /// What it says about the model.
    pub signal: Signal,
    /// The code that a chunk fails with after this. Audio brings its own.
    pub code: ErrorCode,
    /// How the attempt is recorded when the message goes back.
    pub recorded: AttemptOutcome,
}

const COUNTS: bool = true;
const FREE: bool = false;

impl Failure {
    /// What it leads to.
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
    fn every_failure_has_one_rule_and_the_rules_fit_together() {
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
    fn what_counts_and_what_does_not() {
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
