//! Authorisation: what a caller may do is decided here alone.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use longhand_shared::domain::job::Job;
use longhand_shared::domain::upload::{PREFIX, folder};
use longhand_shared::store::JobStore;
use longhand_shared::{AudioPath, JobId, UserId};

use crate::error::ApiError;
use crate::fault::Fault;
use crate::input::{Fields, text};

/// The field, or parameter, with the owner of a job.
const USER: &str = "userId";

/// An authenticated caller. A handler takes it as an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// `None` when authentication is disabled.
    user: Option<UserId>,
    operator: bool,
}

impl Caller {
    /// The caller when authentication is disabled.
    pub(super) fn unidentified() -> Self {
        Self { user: None, operator: true }
    }

    pub(crate) fn new(user: UserId, operator: bool) -> Self {
        Self { user: Some(user), operator }
    }

    pub(crate) fn name(&self) -> Option<&UserId> {
        self.user.as_ref()
    }

    /// Refuses callers who are not operators.
    pub(crate) fn operator(&self) -> Result<(), ApiError> {
        if self.operator { Ok(()) } else { Err(ApiError::OperatorsOnly) }
    }

    pub(crate) fn is_operator(&self) -> bool {
        self.operator
    }

    fn may_act_for(&self, owner: &UserId) -> bool {
        self.operator || self.user.as_ref() == Some(owner)
    }

    /// Whether the caller may have this audio transcribed: anything except other users' uploads.
    pub(crate) fn may_transcribe(&self, path: &AudioPath) -> bool {
        match (path, &self.user) {
            (AudioPath::S3 { key, .. }, Some(user)) if key.starts_with(PREFIX) && !self.operator => {
                key.strip_prefix(&folder(user)).is_some_and(|rest| rest.starts_with('/'))
            }
            _ => true,
        }
    }

    /// The user that a request is about: its `userId`, by default the caller. Another user is 403, not 404: it does not
    /// reveal whether that user exists, since this is not checked.
    pub(crate) fn user(&self, fields: &mut Fields) -> Result<Option<UserId>, ApiError> {
        let given = match (fields.optional(USER), &self.user) {
            (Some(value), _) => fields.check(USER, text(value)),
            (None, Some(own)) => Some(own.clone()),
            (None, None) => {
                fields.fault(USER, "is required");
                None
            }
        };
        match given {
            Some(user) if !self.may_act_for(&user) => {
                let detail = "is not the caller: leave it out; only operators may act for other users";
                Err(ApiError::Forbidden(Fault::new(fields.pointer(USER), detail)))
            }
            given => Ok(given),
        }
    }

    /// What was found under a job's id, if the caller may see it. The error is the same whether the job does not exist or
    /// belongs to another user.
    pub(crate) fn visible<T>(
        &self,
        id: JobId,
        found: Option<T>,
        owner: impl FnOnce(&T) -> &UserId,
    ) -> Result<T, ApiError> {
        found.filter(|found| self.may_act_for(owner(found))).ok_or(ApiError::NoSuchJob(id))
    }

    /// The job of this id, if the caller may see it. Call it before anything else is read or done, so that the answer
    /// takes as long for another user's job as for one that does not exist.
    pub(crate) async fn job(&self, store: &dyn JobStore, id: JobId) -> Result<Job, ApiError> {
        self.visible(id, store.job(id).await?, |job| &job.head.user)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get().cloned().ok_or_else(|| ApiError::Internal {
            cause: "the route has no auth::authenticate layer".to_owned(),
        })
    }
}
