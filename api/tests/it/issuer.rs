//! An issuer of tokens: keys made for each test, and a server that publishes them as scripted.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use longhand_api::auth::settings::{AuthSettings, JwtKeys, JwtSettings};
use longhand_api::{AppState, Auth};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::Api;

pub(crate) const SECRET: &str = "a secret of more than thirty-two bytes";

const ISSUER: &str = "https://issuer.example/";
const AUDIENCE: &str = "longhand";

/// A private key, and its public half as the issuer publishes it.
pub(crate) struct Key {
    pub(crate) id: &'static str,
    pub(crate) algorithm: Algorithm,
    pub(crate) private: EncodingKey,
    pub(crate) public: Value,
}

impl Key {
    fn new(id: &'static str, algorithm: Algorithm, private: EncodingKey) -> Self {
        let jwk = Jwk::from_encoding_key(&private, algorithm).expect("a key");
        let mut public = serde_json::to_value(jwk).expect("JSON");
        public["kid"] = json!(id);
        public["use"] = json!("sig");
        Self { id, algorithm, private, public }
    }

    pub(crate) fn rsa(id: &'static str) -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let der: Pkcs8V1Der<'_> = pair.as_der().expect("a key");
        // PKCS#8 wraps PKCS#1, which is what is asked for: version, algorithm (26 bytes in all), then the key.
        let pkcs1 = &der.as_ref()[26..];
        Self::new(id, Algorithm::RS256, EncodingKey::from_rsa_der(pkcs1))
    }

    pub(crate) fn ec(id: &'static str) -> Self {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        Self::new(id, Algorithm::ES256, EncodingKey::from_ec_der(der.as_ref()))
    }

    pub(crate) fn ed(id: &'static str) -> Self {
        let der = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).expect("a key");
        Self::new(id, Algorithm::EdDSA, EncodingKey::from_ed_der(der.as_ref()))
    }

    /// The same key as an issuer publishes it that gives its keys no ids.
    pub(crate) fn without_id(&self) -> Value {
        let mut public = self.public.clone();
        public.as_object_mut().expect("an object").remove("kid");
        public
    }

    /// `Bearer` with a token that is signed with an unknown key.
    pub(crate) fn token_without_id(&self, user: &str) -> String {
        format!(
            "Bearer {}",
            encode(&Header::new(self.algorithm), &claims(user), &self.private).expect("a token")
        )
    }

    /// `Bearer` with a token of these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.id.to_owned());
        format!("Bearer {}", encode(&header, claims, &self.private).expect("a token"))
    }

    /// The same for a user, with all that is asked for.
    pub(crate) fn token(&self, user: &str) -> String {
        self.sign(&claims(user))
    }
}

/// Good claims.
pub(crate) fn claims(user: &str) -> Value {
    json!({"iss": ISSUER, "aud": AUDIENCE, "sub": user, "exp": get_current_timestamp() + 600})
}

/// [`claims`] with one changed; null takes it away.
pub(crate) fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims("ana");
    claims[name] = value;
    if claims[name].is_null() {
        claims.as_object_mut().expect("an object").remove(name);
    }
    claims
}

/// `Bearer` with a token of these claims, signed with [`SECRET`].
pub(crate) fn token_by_secret(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    format!("Bearer {}", encode(&Header::new(Algorithm::HS256), claims, &key).expect("a token"))
}

/// How the issuer answers.
#[derive(Clone)]
pub(crate) enum Publishes {
    Keys(Vec<Value>),
    Text(StatusCode, String),
    Redirect(String),
    Nothing,
}

/// The issuer's server.
#[derive(Clone)]
pub(crate) struct Issuer {
    address: SocketAddr,
    state: Arc<Mutex<(Publishes, usize)>>,
}

impl Issuer {
    pub(crate) async fn start(publishes: Publishes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new((publishes, 0)));
        let router = Router::new().fallback(publish).with_state(state.clone());
        tokio::spawn(async { axum::serve(listener, router).await });
        Self { address, state }
    }

    pub(crate) fn now(&self, publishes: Publishes) {
        self.state.lock().expect("not poisoned").0 = publishes;
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.state.lock().expect("not poisoned").1
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    /// An api that asks it.
    pub(crate) fn api(&self) -> Api {
        api(JwtKeys::Set(self.url().parse().expect("an address")))
    }
}

async fn publish(State(state): State<Arc<Mutex<(Publishes, usize)>>>) -> Response {
    let publishes = {
        let mut state = state.lock().expect("not poisoned");
        state.1 += 1;
        state.0.clone()
    };
    match publishes {
        Publishes::Keys(keys) => json!({"keys": keys}).to_string().into_response(),
        Publishes::Text(status, text) => (status, text).into_response(),
        Publishes::Redirect(to) => (StatusCode::FOUND, [("location", to)]).into_response(),
        Publishes::Nothing => std::future::pending().await,
    }
}

/// An api that takes tokens.
pub(crate) fn api(keys: JwtKeys) -> Api {
    let auth = Auth::new(AuthSettings::Jwt(settings(keys))).expect("good settings");
    Api::with(|state| AppState { auth: Arc::new(auth), ..state })
}

fn settings(keys: JwtKeys) -> JwtSettings {
    JwtSettings {
        keys,
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        leeway: Duration::from_secs(30),
    }
}

/// For tokens signed with [`SECRET`].
pub(crate) fn settings_by_secret() -> JwtSettings {
    settings(JwtKeys::Secret(SECRET.parse().expect("any text")))
}

/// An api that takes tokens signed with [`SECRET`].
pub(crate) fn api_by_secret() -> Api {
    api(JwtKeys::Secret(SECRET.parse().expect("any text")))
}
