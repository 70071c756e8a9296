//! A queue's recent refusals: whether it accepts `MessageGroupId`, and the last refusal.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{QueueError, Standing};

/// How long messages are sent without `MessageGroupId` after the queue refused it, until the next try.
const RETRY_GROUPS: Duration = Duration::from_mins(10);

/// How long a refusal is reported if no later message was accepted.
const REPORTED: Duration = Duration::from_mins(5);

/// The state of one queue. All clones of its client share it.
#[derive(Debug, Default)]
pub(super) struct Acceptance(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the queue last refused `MessageGroupId`.
    groups_refused: Option<Instant>,
    /// The last refusal for another reason, with SQS's code.
    refused: Option<(Instant, String)>,
}

impl Acceptance {
    /// Whether to send `MessageGroupId`.
    pub(super) fn wants_groups(&self) -> bool {
        self.with(|state| state.groups_refused.is_none_or(|at| at.elapsed() >= RETRY_GROUPS))
    }

    /// Records the response to messages with a `MessageGroupId`.
    pub(super) fn groups(&self, queue: &str, refused: bool) {
        let before = self.with(|state| {
            let now = refused.then(Instant::now);
            std::mem::replace(&mut state.groups_refused, now).is_some()
        });
        if refused && !before {
            warn!(
                queue,
                "the queue refuses MessageGroupId; messages are sent without it, so one user's backlog may delay others"
            );
        } else if before && !refused {
            info!(queue, "the queue accepts MessageGroupId again");
        }
    }

    /// Records the response to a batch, one answer per message.
    pub(super) fn answered(&self, queue: &str, answers: &[Result<(), QueueError>]) {
        let refused =
            answers.iter().filter(|answer| !refuses_group(answer)).find_map(|answer| match answer {
                // "Code: message"; the message may name users or accounts.
                Err(QueueError::Refused(what)) => what.split(':').next(),
                _ => None,
            });
        if let Some(code) = refused {
            self.refused(queue, code);
        } else if answers.iter().any(Result::is_ok) {
            self.with(|state| state.refused = None);
        }
    }

    /// Records the refusal of a message or a call for a reason other than `MessageGroupId`.
    pub(super) fn refused(&self, queue: &str, code: &str) {
        self.with(|state| state.refused = Some((Instant::now(), code.to_owned())));
        metrics::counter!("longhand_queue_refusals_total", "code" => code.to_owned()).increment(1);
        // An alarm counts log lines with `queue_refused`.
        error!(queue_refused = 1, code, queue, "the queue refuses messages");
    }

    pub(super) fn standing(&self) -> Standing {
        self.with(|state| Standing {
            groups_refused: state.groups_refused.is_some(),
            refused: state
                .refused
                .as_ref()
                .filter(|(at, _)| at.elapsed() < REPORTED)
                .map(|(_, code)| code.clone()),
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock())
    }
}

/// Whether the queue refused a message because of its `MessageGroupId`. There is no error code for that.
pub(super) fn refuses_group(answer: &Result<(), QueueError>) -> bool {
    matches!(answer, Err(QueueError::Refused(what) | QueueError::Unavailable(what)) if what.contains("MessageGroupId"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: &str = "http://localhost/chunks";

    #[tokio::test(start_paused = true)]
    async fn refused_groups_are_tried_again_after_a_pause() {
        let acceptance = Acceptance::default();
        assert!(acceptance.wants_groups());
        acceptance.groups(QUEUE, true);
        assert!(!acceptance.wants_groups());
        tokio::time::advance(RETRY_GROUPS).await;
        assert!(acceptance.wants_groups());
        // The refusal is reported until the queue accepts a group.
        assert!(acceptance.standing().groups_refused);
        acceptance.groups(QUEUE, false);
        assert!(acceptance.wants_groups() && !acceptance.standing().groups_refused);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_reported_until_a_message_is_accepted() {
        let acceptance = Acceptance::default();
        let refused = || Err(QueueError::Refused("AccessDenied: arn:aws:iam::1:user/x may not".to_owned()));
        let code = || acceptance.standing().refused;
        acceptance.answered(QUEUE, &[Ok(()), refused()]);
        assert_eq!(code().as_deref(), Some("AccessDenied"));
        acceptance.answered(QUEUE, &[Err(QueueError::Unavailable("no answer".to_owned()))]);
        assert_eq!(code().as_deref(), Some("AccessDenied"));
        acceptance.answered(QUEUE, &[Ok(())]);
        assert_eq!(code(), None);
        acceptance.answered(QUEUE, &[refused()]);
        tokio::time::advance(REPORTED).await;
        assert_eq!(code(), None);
    }
}
