//! Audio from a URL.

use futures::{StreamExt, TryStreamExt};
use longhand_shared::domain::job::ErrorCode;
use longhand_shared::domain::url::PublicUrl;
use longhand_shared::net::causes;
use longhand_shared::net::outbound::{NotPublic, Outbound, UnknownHost, cause};
use reqwest::{Method, StatusCode};

use super::opened::{AudioError, Opened};
use super::spool::spool;

/// Reads the audio at `url`. The caller limits the time.
pub(super) async fn open(outbound: &Outbound, url: &PublicUrl) -> Result<Opened, AudioError> {
    let request = outbound.request(Method::GET, url);
    let response = request.send().await.map_err(|error| no_answer(url, &error))?;
    judge(url, response.status())?;
    let stated = response.content_length();
    let body = response.bytes_stream().map_err(|error| causes(&error));
    spool(&url.to_string(), stated, body.boxed()).await
}

/// What an answer means before its body is read. Unlike in S3, 404 is tried again, and 403 is final.
fn judge(url: &PublicUrl, status: StatusCode) -> Result<(), AudioError> {
    let forbidden = |why: &str| {
        Err(AudioError::bad(ErrorCode::AudioForbidden, format!("{url} answered {}: {why}", status.as_u16())))
    };
    match status {
        _ if status.is_success() => Ok(()),
        StatusCode::GONE => Err(AudioError::bad(ErrorCode::AudioNotFound, format!("there is no {url}"))),
        // Recordings appear late, and hosts hide what may not be read yet.
        StatusCode::NOT_FOUND => {
            Err(AudioError::not_yet(ErrorCode::AudioNotFound, format!("there is no {url}")))
        }
        StatusCode::CONFLICT | StatusCode::LOCKED => Err(AudioError::not_yet(
            ErrorCode::AudioForbidden,
            format!("{url} answered {}: the audio is not ready", status.as_u16()),
        )),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => forbidden("no permission to read it"),
        _ if status.is_redirection() => forbidden("redirects are not followed: submit the final address"),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Err(AudioError::Unavailable(format!("{url} answered {}", status.as_u16())))
        }
        _ if status.is_client_error() => forbidden("the host refuses the request"),
        _ => Err(AudioError::Unavailable(format!("{url} answered {}", status.as_u16()))),
    }
}

/// A name that means no public address is not asked again. One that does not exist may be entered in DNS yet. All else
/// may pass.
fn no_answer(url: &PublicUrl, error: &reqwest::Error) -> AudioError {
    if let Some(refusal) = cause::<NotPublic>(error) {
        return AudioError::bad(ErrorCode::AudioForbidden, format!("{url} is not allowed: {refusal}"));
    }
    if let Some(unknown) = cause::<UnknownHost>(error) {
        return AudioError::not_yet(ErrorCode::AudioNotFound, format!("there is no {url}: {unknown}"));
    }
    AudioError::Unavailable(format!("{url} cannot be read at the moment: {}", causes(error)))
}
