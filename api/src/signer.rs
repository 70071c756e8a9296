//! Signs URLs of audio (uploads and playback) with credentials that are valid for long enough.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{Credentials, ProvideCredentials, SharedCredentialsProvider};
use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::presigning::PresigningConfig;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::error::ApiError;

/// How long a URL is valid, unless the credentials that sign it expire earlier.
const LIFETIME: Duration = Duration::from_mins(15);

/// Credentials that expire sooner are not used.
const SHORTEST: Duration = Duration::from_secs(1);

/// How long the provider may take to answer.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the provider is not asked again after it had no credentials that are valid for longer.
const PROVIDER_PAUSE: Duration = Duration::from_secs(10);

/// Signs URLs. S3 refuses a URL once the credentials that signed it have expired. The SDK refreshes credentials ten
/// seconds before they expire, so the signer caches its own, and refreshes them as soon as they are valid for less time
/// than a URL.
pub struct Signer {
    s3: Client,
    provider: SharedCredentialsProvider,
    /// The newest credentials, and when the provider was last asked for newer ones.
    kept: Mutex<Option<(Credentials, Instant)>>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

impl Signer {
    /// Signs for the endpoint of `s3`, with credentials from `provider`.
    pub fn new(s3: Client, provider: SharedCredentialsProvider) -> Self {
        Self { s3, provider, kept: Mutex::new(None) }
    }

    /// A client with credentials that last for [`LIFETIME`], or else as long as the provider's do.
    pub(crate) async fn begin(&self) -> Result<Signing, ApiError> {
        let credentials = self.credentials().await?;
        let left = credentials.expiry().map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        // Signed lifetimes are whole seconds.
        let lifetime = Duration::from_secs(left.unwrap_or(LIFETIME).min(LIFETIME).as_secs());
        let config = self.s3.config().to_builder().credentials_provider(credentials);
        let presigning = PresigningConfig::expires_in(lifetime).map_err(ApiError::internal)?;
        Ok(Signing { s3: Client::from_conf(config.build()), presigning })
    }

    async fn credentials(&self) -> Result<Credentials, ApiError> {
        let lasts = |credentials: &Credentials, least| {
            credentials.expiry().is_none_or(|end| end >= SystemTime::now() + least)
        };
        let mut kept = self.kept.lock().await;
        let old = kept.take().filter(|(old, _)| lasts(old, SHORTEST));
        if let Some((old, asked)) = &old
            && (lasts(old, LIFETIME) || asked.elapsed() < PROVIDER_PAUSE)
        {
            *kept = Some((old.clone(), *asked));
            return Ok(old.clone());
        }
        let answer = timeout(PROVIDER_TIMEOUT, self.provider.provide_credentials()).await;
        let new = match answer {
            Ok(Ok(new)) => Some(new).filter(|new| lasts(new, SHORTEST)),
            Ok(Err(error)) => {
                warn!(error = %DisplayErrorContext(&error), "cannot get AWS credentials to sign URLs of audio");
                None
            }
            Err(_) => {
                warn!("no answer from the AWS credentials provider (for signing URLs of audio)");
                None
            }
        };
        *kept = new.or(old.map(|(old, _)| old)).map(|credentials| (credentials, Instant::now()));
        let none =
            || ApiError::CannotSign { cause: "no AWS credentials are valid for long enough".to_owned() };
        kept.as_ref().map(|(credentials, _)| credentials.clone()).ok_or_else(none)
    }
}

/// A client that signs URLs for a while.
pub(crate) struct Signing {
    pub(crate) s3: Client,
    pub(crate) presigning: PresigningConfig,
}
