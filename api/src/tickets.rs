//! Tickets: signed permissions for one job and one purpose, for clients that cannot send headers. `jobs/tickets.rs` issues
//! them.
//!
//! A ticket stands for the job's owner, so that its request passes the same checks as any other. It is in the query,
//! which neither the log nor the traces contain (`edge.rs` has the pattern of the path alone).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Query, RawPathParams, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use longhand_shared::domain::id::InvalidJobId;
use longhand_shared::service::secret::Secret;
use longhand_shared::service::settings::Reader;
use longhand_shared::{JobId, Timestamp, UserId};
use sha2::Sha256;

use crate::auth::caller::Caller;
use crate::auth::refusal::Refusal;
use crate::auth::{Auth, X_API_KEY};
use crate::error::ApiError;

/// How long a ticket is valid.
pub(crate) const LIFETIME: Duration = Duration::from_hours(1);

/// The shortest secret, in bytes: as long as what it signs with.
const MIN_SECRET_BYTES: usize = 32;

const SECRET: &str = "LONGHAND_TICKET_SECRET";

/// Signs and verifies tickets.
#[derive(Clone, Debug)]
pub struct Tickets {
    key: Secret,
}

/// What a ticket permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display, strum::EnumString, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub(crate) enum Purpose {
    Events,
    Audio,
}

impl Purpose {
    /// The purpose of a route.
    fn of(route: &str) -> Self {
        if route.ends_with("/events") { Self::Events } else { Self::Audio }
    }
}

impl TryFrom<String> for Purpose {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map_err(|_| "must be events or audio")
    }
}

impl Tickets {
    /// With the secret that all servers share; without one, with a secret of this process.
    pub fn new(secret: Option<&Secret>) -> Self {
        let own = || BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()).into();
        Self { key: secret.cloned().unwrap_or_else(own) }
    }

    /// Reads the secret. `None` has recorded a fault.
    pub(crate) fn read_settings(reader: &mut Reader<'_>) -> Option<Self> {
        let secret: Option<Secret> = reader.optional(
            SECRET,
            "secret that signs tickets for audio and events, at least 32 bytes, the same at all servers; without it each \
             server accepts only its own tickets",
        );
        match secret.as_ref().map(|secret| secret.reveal().len()) {
            Some(bytes) if bytes < MIN_SECRET_BYTES => {
                reader.fault(
                    SECRET,
                    format_args!("has {bytes} bytes: it must have {MIN_SECRET_BYTES} or more"),
                );
                None
            }
            _ => Some(Self::new(secret.as_ref())),
        }
    }

    /// A ticket for this job, in the name of its owner, until `expires` (seconds since 1970).
    pub(crate) fn issue(&self, job: JobId, purpose: Purpose, owner: &UserId, expires: i64) -> String {
        let mac = self.mac(job, purpose, owner, expires).finalize().into_bytes();
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        format!("{expires}.{}.{}", encode(owner.as_str().as_bytes()), encode(&mac))
    }

    /// The owner in whose name a ticket was issued, if it is valid for this at `now`.
    fn owner(&self, ticket: &str, job: JobId, purpose: Purpose, now: Timestamp) -> Result<UserId, Refusal> {
        const INVALID: Refusal = Refusal::Invalid(
            "the ticket is not valid for this job and purpose, or another server issued it: request a new one",
        );
        let mut parts = ticket.split('.');
        let (Some(expires), Some(owner), Some(mac), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(INVALID);
        };
        let decode = |text| BASE64_URL_SAFE_NO_PAD.decode(text).map_err(|_| INVALID);
        let expires: i64 = expires.parse().map_err(|_| INVALID)?;
        let owner = String::from_utf8(decode(owner)?).map_err(|_| INVALID)?;
        let owner: UserId = owner.try_into().map_err(|_| INVALID)?;
        // In constant time.
        self.mac(job, purpose, &owner, expires).verify_slice(&decode(mac)?).map_err(|_| INVALID)?;
        if expires <= now.unix() {
            return Err(Refusal::Invalid("the ticket has expired: get a new one"));
        }
        Ok(owner)
    }

    fn mac(&self, job: JobId, purpose: Purpose, owner: &UserId, expires: i64) -> Hmac<Sha256> {
        let key = self.key.reveal().as_bytes();
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        // The owner is last: only it may contain anything.
        let signed = format!("longhand ticket v1\n{job}\n{purpose}\n{expires}\n{owner}");
        mac.update(signed.as_bytes());
        mac
    }
}

/// The layer before all routes that accept a ticket in place of a credential.
pub(crate) async fn authenticate(
    State((auth, tickets)): State<(Arc<Auth>, Tickets)>,
    route: MatchedPath,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let caller = match given(&request) {
        None => auth.caller(request.headers()).await,
        Some(_) if [AUTHORIZATION, X_API_KEY].iter().any(|name| request.headers().contains_key(name)) => {
            Err(Refusal::Invalid("there is more than one credential: send one"))
        }
        Some(ticket) => {
            let job = params.iter().find(|(name, _)| *name == "jobId").map(|(_, id)| id.parse());
            let Some(Ok(job)) = job else {
                return Err(ApiError::InvalidJobId(InvalidJobId));
            };
            let owner = tickets.owner(&ticket, job, Purpose::of(route.as_str()), Timestamp::now());
            owner.map(|owner| Caller::new(owner, false))
        }
    };
    request.extensions_mut().insert(caller.map_err(ApiError::Unauthorized)?);
    Ok(next.run(request).await)
}

fn given(request: &Request) -> Option<String> {
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()).ok()?;
    pairs.into_iter().find(|(name, _)| name == "ticket").map(|(_, ticket)| ticket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(secret: &str) -> Tickets {
        Tickets::new(Some(&Secret::from(secret.to_owned())))
    }

    #[test]
    fn a_ticket_is_valid_only_for_what_it_was_issued_for() {
        let (ours, job, now) = (tickets("one"), JobId::random(), Timestamp::from_unix(1_763_852_400));
        let ana: UserId = "ana@example.com".parse().expect("a user");
        let ticket = ours.issue(job, Purpose::Audio, &ana, now.unix() + 1);
        let owner = |tickets: &Tickets, ticket: &str, job, purpose, now| {
            tickets.owner(ticket, job, purpose, now).map_err(|refusal| refusal.to_string())
        };
        assert_eq!(owner(&ours, &ticket, job, Purpose::Audio, now), Ok(ana));
        let (expires, rest) = ticket.split_once('.').expect("a part");
        let later: i64 = expires.parse::<i64>().expect("a number") + 1;
        let bob = BASE64_URL_SAFE_NO_PAD.encode("bob");
        let mac = rest.split_once('.').expect("a part").1;
        let invalid = "the ticket is not valid for this job and purpose, or another server issued it: request a new one";
        let second = now.plus(Duration::from_secs(1));
        for (what, tickets, text, job, purpose, now, why) in [
            (
                "expired",
                &ours,
                ticket.clone(),
                job,
                Purpose::Audio,
                second,
                "the ticket has expired: get a new one",
            ),
            ("other purpose", &ours, ticket.clone(), job, Purpose::Events, now, invalid),
            ("other job", &ours, ticket.clone(), JobId::random(), Purpose::Audio, now, invalid),
            ("other secret", &tickets("two"), ticket.clone(), job, Purpose::Audio, now, invalid),
            ("prolonged", &ours, format!("{later}.{rest}"), job, Purpose::Audio, now, invalid),
            ("other user", &ours, format!("{expires}.{bob}.{mac}"), job, Purpose::Audio, now, invalid),
            ("cut", &ours, ticket[..ticket.len() - 1].to_owned(), job, Purpose::Audio, now, invalid),
            ("longer", &ours, format!("{ticket}."), job, Purpose::Audio, now, invalid),
            ("no signature", &ours, format!("{expires}.{bob}."), job, Purpose::Audio, now, invalid),
            ("empty", &ours, String::new(), job, Purpose::Audio, now, invalid),
        ] {
            assert_eq!(owner(tickets, &text, job, purpose, now), Err(why.to_owned()), "{what}");
        }
    }
}
