//! How callers are told apart: the settings.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use longhand_shared::secret::Secret;
use longhand_shared::settings::Reader;
use reqwest::Url;

/// The shortest shared secret, in bytes: as long as what it signs with (RFC 7518 section 3.2).
const MIN_SECRET_BYTES: usize = 32;

const AUTH: &str = "LONGHAND_AUTH";
const AUTH_NONE: &str = "LONGHAND_AUTH_NONE";
const KEYS: &str = "LONGHAND_API_KEYS";
const KEYS_FILE: &str = "LONGHAND_API_KEYS_FILE";
const JWKS_URL: &str = "LONGHAND_JWT_JWKS_URL";
const SECRET: &str = "LONGHAND_JWT_SECRET";
const ISSUER: &str = "LONGHAND_JWT_ISSUER";
const AUDIENCE: &str = "LONGHAND_JWT_AUDIENCE";

/// How callers are told apart.
#[derive(Clone, Debug)]
pub enum AuthSettings {
    /// Not at all.
    None,
    /// By keys.
    ApiKeys(ApiKeys),
    /// By signed tokens.
    Jwt(JwtSettings),
}

/// Where API keys are known from.
#[derive(Clone, Debug)]
pub enum ApiKeys {
    /// A file, which is read again when it changes.
    File(PathBuf),
    /// What such a file holds, for platforms that hand secrets over in the environment.
    Text(Secret),
}

/// Which tokens are accepted.
#[derive(Clone, Debug)]
pub struct JwtSettings {
    /// What they are signed with.
    pub keys: JwtKeys,
    /// Their `iss`.
    pub issuer: String,
    /// What their `aud` is, or has among others.
    pub audience: String,
    /// How far the issuer's clock may be from ours.
    pub leeway: Duration,
}

/// What tokens are signed with.
#[derive(Clone, Debug)]
pub enum JwtKeys {
    /// A secret that the issuer shares with us.
    Secret(Secret),
    /// Where the issuer's public keys are.
    Set(JwksUrl),
}

/// Where a JSON Web Key Set is: `https`, or `http` on this machine. Whoever can change it on its way can
/// sign tokens.
#[derive(Clone)]
pub struct JwksUrl(pub(super) Url);

/// Without what may be a password.
impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.origin().ascii_serialization())
    }
}

impl FromStr for JwksUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| error.to_string())?;
        let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        match url.scheme() {
            "https" => Ok(Self(url)),
            "http" if local => Ok(Self(url)),
            _ => Err("must begin with https:// (http:// is for this machine alone)".to_owned()),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    None,
    ApiKey,
    Jwt,
}

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "apikey" => Ok(Self::ApiKey),
            "jwt" => Ok(Self::Jwt),
            _ => Err("must be jwt, apikey or none"),
        }
    }
}

/// Reads them. `listen` is where the api listens, `None` where it is a Lambda function, which anybody may
/// be let reach.
pub(crate) fn read(reader: &mut Reader<'_>, listen: Option<SocketAddr>) -> Option<AuthSettings> {
    let mode = reader.optional::<Mode>(AUTH, "how callers are told apart: jwt, apikey or none; needed unless LONGHAND_LISTEN is a loopback address");
    let said_twice =
        reader.optional::<String>(AUTH_NONE, "i-know: none is meant, though others may reach the api");
    let file = reader.optional::<PathBuf>(
        KEYS_FILE,
        "file of API keys, as `longhand key new` prints their lines; read again when it changes",
    );
    let text =
        reader.optional::<Secret>(KEYS, "what such a file holds, in place of it; a change needs a restart");
    let url = reader.optional::<String>(JWKS_URL, "where the issuer's public keys are (JSON Web Key Set)");
    let secret = reader.optional::<Secret>(
        SECRET,
        "secret that the issuer signs tokens with (HS256), 32 bytes or more, in place of its public keys",
    );
    let issuer = reader.optional::<String>(ISSUER, "iss of the tokens");
    let audience = reader.optional::<String>(AUDIENCE, "aud of the tokens");
    let leeway = reader.within(
        "LONGHAND_JWT_LEEWAY_SECONDS",
        30,
        0..=300,
        "how far the issuer's clock may be from ours",
    );
    let loopback = listen.is_some_and(|address| address.ip().is_loopback());
    match mode {
        None if reader.is_faulted(AUTH) => None,
        None if loopback => Some(AuthSettings::None),
        None => {
            reader.fault(
                AUTH,
                "is not set, and others than this machine may reach the api: set it to jwt or apikey",
            );
            None
        }
        Some(Mode::None) => {
            if !loopback && said_twice.is_none_or(|said| said != "i-know") {
                let what = format!(
                    "is none, and others than this machine may reach the api: if that is meant, set {AUTH_NONE}=i-know too"
                );
                reader.fault(AUTH, what);
            }
            Some(AuthSettings::None)
        }
        Some(Mode::ApiKey) => {
            let keys = match (file, text) {
                (Some(_), Some(_)) => {
                    reader.fault(KEYS, format_args!("and {KEYS_FILE} are both set: keys are in one place"));
                    None
                }
                (Some(file), None) => Some(ApiKeys::File(file)),
                (None, Some(text)) => Some(ApiKeys::Text(text)),
                (None, None) if reader.is_faulted(KEYS_FILE) => None,
                (None, None) => {
                    reader.fault(
                        KEYS_FILE,
                        format_args!("and {KEYS} are both not set: LONGHAND_AUTH is apikey"),
                    );
                    None
                }
            };
            keys.map(AuthSettings::ApiKeys)
        }
        Some(Mode::Jwt) => {
            for (name, missing) in [(ISSUER, issuer.is_none()), (AUDIENCE, audience.is_none())] {
                if missing {
                    reader.fault(name, "is not set: LONGHAND_AUTH is jwt");
                }
            }
            let keys = keys(reader, url, secret);
            let (issuer, audience) = (issuer?, audience?);
            let leeway = Duration::from_secs(leeway);
            Some(AuthSettings::Jwt(JwtSettings { keys: keys?, issuer, audience, leeway }))
        }
    }
}

fn keys(reader: &mut Reader<'_>, url: Option<String>, secret: Option<Secret>) -> Option<JwtKeys> {
    match (url, secret) {
        (Some(_), Some(_)) => {
            reader.fault(SECRET, format_args!("and {JWKS_URL} are both set: tokens are signed in one way"));
            None
        }
        // Read as text before, so that a fault does not quote it: it may hold a password.
        (Some(url), None) => match url.parse() {
            Ok(url) => Some(JwtKeys::Set(url)),
            Err(error) => {
                reader.fault(JWKS_URL, error);
                None
            }
        },
        (None, Some(secret)) => {
            let bytes = secret.reveal().len();
            if bytes < MIN_SECRET_BYTES {
                reader.fault(SECRET, format_args!("has {bytes} bytes: must have {MIN_SECRET_BYTES} or more"));
            }
            Some(JwtKeys::Secret(secret))
        }
        (None, None) => {
            reader.fault(JWKS_URL, format_args!("and {SECRET} are both not set: LONGHAND_AUTH is jwt"));
            None
        }
    }
}
