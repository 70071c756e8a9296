//! The issuer's public keys: fetched at first use, then again when they are old or a token names an unknown one. While
//! the issuer is down, known keys stay valid.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use longhand_shared::net::causes;
use reqwest::{Client, redirect};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::MutexGuard;
use tokio::time::Instant;
use tracing::{info, warn};

use super::refusal::Refusal;
use super::settings::JwksUrl;

/// How long the issuer may take to answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer, in bytes.
const MAX_SET_BYTES: usize = 256 * 1024;

/// The interval between fetches, however many unknown keys are named.
const REFETCH_INTERVAL: Duration = Duration::from_secs(30);

/// The same while there are no keys at all, and so no caller is accepted.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);

/// How old keys may be before a request causes a fetch in the background. That request still uses them.
const MAX_AGE: Duration = Duration::from_mins(10);

/// How old they may be before a request waits for the fetch: how long a key that the issuer has withdrawn may be
/// accepted, while the issuer can be reached. A Lambda function is frozen between requests, so a fetch in the
/// background may never finish.
const OVERDUE: Duration = MAX_AGE.saturating_mul(2);

/// A key that tokens are verified with, and the algorithms that it may be used with.
#[derive(Clone, Debug)]
pub(super) struct TokenKey {
    pub(super) key: DecodingKey,
    pub(super) algorithms: Vec<Algorithm>,
}

/// The issuer's keys. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct KeySet(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    url: JwksUrl,
    keys: Mutex<Option<Keys>>,
    /// When a fetch last began. Held during a fetch, so that there is one at a time.
    tried: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Clone, Debug)]
struct Keys {
    by_id: Arc<Vec<(Option<String>, TokenKey)>>,
    fetched: Instant,
}

impl KeySet {
    pub(super) fn new(url: JwksUrl) -> Result<Self, String> {
        let client = Client::builder()
            .user_agent(concat!("longhand/", env!("CARGO_PKG_VERSION")))
            .timeout(FETCH_TIMEOUT)
            // A setting says where the keys are; an answer must not change it.
            .redirect(redirect::Policy::none())
            .build()
            .map_err(|error| format!("cannot create the HTTP client for the issuer's keys: {error}"))?;
        let inner = Inner { client, url, keys: Mutex::default(), tried: tokio::sync::Mutex::default() };
        Ok(Self(Arc::new(inner)))
    }

    /// The key of this id, whose algorithms the caller must check; without an id, the only one for this algorithm.
    pub(super) async fn key(&self, id: Option<&str>, algorithm: Algorithm) -> Result<TokenKey, Refusal> {
        if let Some(keys) = self.keys()
            && let Some(key) = keys.find(id, algorithm)
        {
            let age = keys.fetched.elapsed();
            if age <= OVERDUE {
                if age > MAX_AGE {
                    let set = self.clone();
                    tokio::spawn(async move { set.refresh().await });
                }
                return Ok(key);
            }
            // One request waits, the others use the old keys: the issuer may be down.
            let Ok(tried) = self.0.tried.try_lock() else { return Ok(key) };
            self.fetch_again(tried).await;
        } else {
            self.refresh().await;
        }
        let keys = self.keys().ok_or(Refusal::Unavailable)?;
        keys.find(id, algorithm).ok_or(Refusal::Invalid("the token is signed with an unknown key (kid)"))
    }

    fn keys(&self) -> Option<Keys> {
        self.0.keys.lock().expect("nothing panics with it locked").clone()
    }

    async fn refresh(&self) {
        self.fetch_again(self.0.tried.lock().await).await;
    }

    /// Fetches the keys, unless that was just done. A failure keeps the known keys.
    async fn fetch_again(&self, mut tried: MutexGuard<'_, Option<Instant>>) {
        let interval = if self.keys().is_some() { REFETCH_INTERVAL } else { FIRST_INTERVAL };
        if tried.is_some_and(|at| at.elapsed() < interval) {
            return;
        }
        let now = Instant::now();
        *tried = Some(now);
        match self.fetch().await {
            Ok(keys) => {
                info!(keys = keys.len(), url = ?self.0.url, "read the issuer's keys");
                let keys = Keys { by_id: Arc::new(keys), fetched: now };
                *self.0.keys.lock().expect("nothing panics with it locked") = Some(keys);
            }
            Err(error) => warn!(
                error,
                url = ?self.0.url,
                "cannot read the issuer's keys: known keys stay valid; without any, requests are answered with 503"
            ),
        }
    }

    async fn fetch(&self) -> Result<Vec<(Option<String>, TokenKey)>, String> {
        let mut answer =
            self.0.client.get(self.0.url.0.clone()).send().await.map_err(|error| chain(&error))?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(format!("the answer is {}", answer.status()));
        }
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|error| chain(&error))? {
            if body.len() + piece.len() > MAX_SET_BYTES {
                return Err(format!("the answer has more than {MAX_SET_BYTES} bytes"));
            }
            body.extend_from_slice(&piece);
        }
        let keys = parse(&body)?;
        if keys.is_empty() {
            Err("no key verifies signatures with a supported algorithm".to_owned())
        } else {
            Ok(keys)
        }
    }
}

impl Keys {
    /// The key of this id. Without an id on either side, the algorithm must leave exactly one key.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<TokenKey> {
        let named = id.and_then(|id| self.by_id.iter().find(|(key, _)| key.as_deref() == Some(id)));
        if let Some((_, key)) = named {
            return Some(key.clone());
        }
        let mut possible = self.by_id.iter().filter(|(key, token_key)| {
            (id.is_none() || key.is_none()) && token_key.algorithms.contains(&algorithm)
        });
        match (possible.next(), possible.next()) {
            (Some((_, only)), None) => Some(only.clone()),
            _ => None,
        }
    }
}

/// RFC 7517 section 5. Keys of an unknown kind, or not for signatures, are left out.
fn parse(body: &[u8]) -> Result<Vec<(Option<String>, TokenKey)>, String> {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let set: Set = serde_json::from_slice(body).map_err(|error| format!("not a key set: {error}"))?;
    let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok());
    Ok(keys.filter_map(|jwk| Some((jwk.common.key_id.clone(), token_key(&jwk)?))).collect())
}

fn token_key(jwk: &Jwk) -> Option<TokenKey> {
    let common = &jwk.common;
    let signs = common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    let mut algorithms = algorithms(jwk);
    if let Some(alone) = common.key_algorithm {
        algorithms.retain(|algorithm| Algorithm::try_from(alone).is_ok_and(|alone| alone == *algorithm));
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    (signs && !algorithms.is_empty()).then_some(TokenKey { key, algorithms })
}

/// The algorithms for a key of this type. Shared secrets (`oct`) are excluded from a public set: everybody who reads it
/// could sign.
fn algorithms(jwk: &Jwk) -> Vec<Algorithm> {
    match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms().to_vec(),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => vec![Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => vec![Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            vec![Algorithm::EdDSA]
        }
        _ => vec![],
    }
}

/// An error with its causes, without the address, which may hold a password.
fn chain(error: &reqwest::Error) -> String {
    let what = if error.is_timeout() { "no answer in time" } else { "the call failed" };
    format!("{what}: {}", causes(error))
}
