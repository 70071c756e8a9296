//! The response format that a call requests.
//!
//! `verbose_json` has segments with times, but not every model supports it, and servers refuse it in different ways, some
//! with a 500. So a refused verbose call is followed by a plain one (if it asked for words, first by one without them),
//! and two server errors by plain retries. If only plain calls succeed for two chunks in a row, and no verbose call has
//! succeeded within ten minutes, only plain calls are made for ten minutes. A single chunk does not change the format
//! of the others.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::answer::CallError;
use crate::failure::Failure;

/// How long the knowledge about the model's support of `verbose_json` is used.
const MEMORY: Duration = Duration::from_mins(10);

/// How many chunks in a row show that the model does not support `verbose_json`.
const ENOUGH: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// `verbose_json` rather than `json`.
    pub verbose: bool,
    /// Whether `verbose_json` has words too.
    pub words: bool,
    /// Whether the client's language is sent.
    pub language: bool,
}

impl Form {
    /// The form to request next after a refusal, if another one may be accepted.
    pub(super) fn after_refusal(self, refused: &CallError) -> Option<Self> {
        let status = refused.status?;
        let about_form =
            refused.failure == Failure::ChunkRefused || matches!(status.as_u16(), 404 | 405 | 501);
        if self.language && about_form && refused.answer.to_ascii_lowercase().contains("language") {
            Some(Self { language: false, ..self })
        } else if self.words && about_form {
            Some(Self { words: false, ..self })
        } else if self.verbose && about_form {
            Some(Self { verbose: false, ..self })
        } else {
            None
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Known(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The last `verbose_json` response.
    verbose: Option<Instant>,
    /// Chunks in a row for which only `json` succeeded.
    plain_in_a_row: u32,
    /// Only `json` is requested until then.
    plain_until: Option<Instant>,
}

impl Known {
    /// Whether to ask for `verbose_json`.
    pub(super) fn asks_verbose(&self) -> bool {
        self.0.lock().plain_until.is_none_or(|until| until <= Instant::now())
    }

    /// Records the success of `form`, after the refusal of `first` if they differ.
    pub(super) fn succeeded(&self, form: Form, first: Form) {
        let now = Instant::now();
        let mut state = self.0.lock();
        if form.verbose {
            *state = State { verbose: Some(now), ..State::default() };
        } else if first.verbose {
            state.plain_in_a_row += 1;
            let knows_verbose = state.verbose.is_some_and(|at| now - at < MEMORY);
            if state.plain_in_a_row >= ENOUGH && !knows_verbose {
                state.plain_until = Some(now + MEMORY);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::super::answer::classify;
    use super::*;

    const VERBOSE: Form = Form { verbose: true, words: false, language: true };
    const PLAIN: Form = Form { verbose: false, ..VERBOSE };

    fn refused(status: u16, body: &str) -> CallError {
        let status = StatusCode::from_u16(status).expect("a status");
        classify(status, None, body.as_bytes()).expect_err("refused")
    }

    #[test]
    fn any_refusal_of_verbose_json_is_worth_one_plain_call() {
        for status in [400, 404, 405, 406, 415, 422, 501] {
            assert_eq!(VERBOSE.after_refusal(&refused(status, "no")), Some(PLAIN), "{status}");
            assert_eq!(PLAIN.after_refusal(&refused(status, "no")), None, "{status}");
        }
        for status in [401, 402, 403, 408, 429, 500, 502, 503, 504] {
            assert_eq!(VERBOSE.after_refusal(&refused(status, "no")), None, "{status}");
        }
    }

    #[test]
    fn a_language_that_is_refused_is_left_out() {
        let without = Form { language: false, ..VERBOSE };
        let refused = refused(400, "Invalid Language 'xx'");
        assert_eq!(VERBOSE.after_refusal(&refused), Some(without));
        assert_eq!(without.after_refusal(&refused), Some(Form { verbose: false, ..without }));
    }

    #[test]
    fn words_that_are_refused_are_left_out_first() {
        let words = Form { words: true, ..VERBOSE };
        assert_eq!(words.after_refusal(&refused(400, "timestamp_granularities")), Some(VERBOSE));
        assert_eq!(words.after_refusal(&refused(500, "no")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn two_chunks_in_a_row_make_a_plain_model_for_ten_minutes() {
        let known = Known::default();
        known.succeeded(PLAIN, VERBOSE);
        assert!(known.asks_verbose(), "one chunk says nothing about the model");
        known.succeeded(PLAIN, VERBOSE);
        assert!(!known.asks_verbose());
        tokio::time::advance(MEMORY).await;
        assert!(known.asks_verbose(), "it is asked again");
        known.succeeded(VERBOSE, VERBOSE);
        known.succeeded(PLAIN, VERBOSE);
        known.succeeded(PLAIN, VERBOSE);
        assert!(known.asks_verbose(), "it has just answered in verbose_json");
    }
}
