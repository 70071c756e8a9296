//! What a caller may do: the only place that decides it.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use longhand_shared::job::Job;
use longhand_shared::store::JobStore;
use longhand_shared::upload::{PREFIX, folder};
use longhand_shared::{AudioPath, JobId, UserId};

use crate::error::ApiError;
use crate::input::{Fault, Fields, text};

/// The field, or parameter, that says whose a job is.
const USER: &str = "userId";

/// Who is calling. A handler takes it as an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// `None` when nobody is asked who they are.
    user: Option<UserId>,
    operator: bool,
}

impl Caller {
    /// Whom [`super::Auth::none`] lets in.
    pub(super) fn anybody() -> Self {
        Self { user: None, operator: true }
    }

    pub(super) fn new(user: UserId, operator: bool) -> Self {
        Self { user: Some(user), operator }
    }

    /// Whether the caller may see, and change, what is `owner`'s.
    fn may_act_for(&self, owner: &UserId) -> bool {
        self.operator || self.user.as_ref() == Some(owner)
    }

    /// Whether the caller may have this audio transcribed: anything but what others have uploaded.
    pub(crate) fn may_hear(&self, path: &AudioPath) -> bool {
        match (path, &self.user) {
            (AudioPath::S3 { key, .. }, Some(user)) if key.starts_with(PREFIX) && !self.operator => {
                key.strip_prefix(&folder(user)).is_some_and(|rest| rest.starts_with('/'))
            }
            _ => true,
        }
    }

    /// Whom the request is about: its `userId`, which may be left out by whoever has said who they
    /// are. Another's is 403, not 404: nothing is told by it, since whether there is such a user is
    /// not looked at.
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
                let detail = "is not the caller: leave it out, only an operator acts for others";
                Err(ApiError::Forbidden(Fault::new(fields.pointer(USER), detail)))
            }
            given => Ok(given),
        }
    }

    /// What was found under a job's id, where the caller may see it. What they may not see is answered
    /// as what does not exist is.
    pub(crate) fn visible<T>(
        &self,
        id: JobId,
        found: Option<T>,
        owner: impl FnOnce(&T) -> &UserId,
    ) -> Result<T, ApiError> {
        found.filter(|found| self.may_act_for(owner(found))).ok_or(ApiError::NoSuchJob(id))
    }

    /// The job of this id, where the caller may see it. Called before anything else is read or done, so
    /// that the answer about another's job takes no longer than that about none.
    pub(crate) async fn job(&self, store: &dyn JobStore, id: JobId) -> Result<Job, ApiError> {
        self.visible(id, store.job(id).await?, |job| &job.head.user)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get().cloned().ok_or_else(|| ApiError::Internal {
            cause: "the route is not behind auth::authenticate".to_owned(),
        })
    }
}
