//! The settings of authentication.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use futures::future::Either;
use longhand_shared::service::secret::Secret;
use longhand_shared::service::settings::Reader;
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

/// How callers are authenticated.
#[derive(Clone, Debug)]
pub enum AuthSettings {
    /// Disabled.
    None,
    /// By API keys.
    ApiKeys(ApiKeys),
    /// By signed tokens.
    Jwt(JwtSettings),
}

/// Where API keys come from.
#[derive(Clone, Debug)]
pub enum ApiKeys {
    /// A file, which is read again when it changes.
    File(PathBuf),
    /// The content of such a file, for platforms that pass secrets in the environment.
    Text(Secret),
}

/// Which tokens are accepted.
#[derive(Clone, Debug)]
pub struct JwtSettings {
    /// What they are signed with.
    pub keys: JwtKeys,
    /// Their `iss`.
    pub issuer: String,
    /// Their `aud`, or one of it.
    pub audience: String,
    /// The allowed difference between the issuer's clock and ours.
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

/// The URL of a JSON Web Key Set: `https`, or `http` on this machine. Who can change it in transit can sign tokens.
#[derive(Clone)]
pub struct JwksUrl(pub(super) Url);

/// Without a password that it may contain.
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
            _ => Err("must begin with https:// (http:// only for this machine)".to_owned()),
        }
    }
}

/// The settings as they are given.
struct Given {
    mode: Option<String>,
    /// `i-know`, where disabled authentication is meant.
    confirmation: Option<String>,
    keys_file: Option<PathBuf>,
    keys: Option<Secret>,
    jwks_url: Option<String>,
    secret: Option<Secret>,
    issuer: Option<String>,
    audience: Option<String>,
    leeway_seconds: u64,
}

/// Reads them. `listen` is the address of a server, `None` for a Lambda function, which everybody may be able to reach.
pub(crate) fn read(reader: &mut Reader<'_>, listen: Option<SocketAddr>) -> Option<AuthSettings> {
    let given = Given::read(reader);
    let loopback = listen.is_some_and(|address| address.ip().is_loopback());
    match given.mode.as_deref() {
        None if loopback => Some(AuthSettings::None),
        None => {
            reader.fault(
                AUTH,
                "is not set, and the api can be reached from other machines: set it to jwt or apikey",
            );
            None
        }
        Some("none") => {
            if !loopback && given.confirmation.is_none_or(|text| text != "i-know") {
                let detail = format!(
                    "disables authentication, and the api can be reached from other machines: to confirm, set {AUTH_NONE}=i-know too"
                );
                reader.fault(AUTH, detail);
            }
            Some(AuthSettings::None)
        }
        Some("apikey") => {
            let keys = [given.keys_file.map(ApiKeys::File), given.keys.map(ApiKeys::Text)];
            one_of(reader, "apikey", [KEYS_FILE, KEYS], keys).map(AuthSettings::ApiKeys)
        }
        Some("jwt") => jwt(reader, given).map(AuthSettings::Jwt),
        Some(other) => {
            reader.fault(AUTH, format_args!("is {other:?}: must be jwt, apikey or none"));
            None
        }
    }
}

impl Given {
    fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            mode: reader.optional(AUTH, "how callers are authenticated: jwt, apikey or none; if it is not set, a server on a loopback address uses the value none; required on other addresses and in Lambda"),
            confirmation: reader
                .optional(AUTH_NONE, "set to i-know to confirm LONGHAND_AUTH=none where other machines can reach the api"),
            keys_file: reader.optional(
                KEYS_FILE,
                "file of API keys: for each key the second line that `longhand key new` prints; read again when it changes",
            ),
            keys: reader
                .optional(KEYS, "API keys in the form of LONGHAND_API_KEYS_FILE; a change needs a restart"),
            jwks_url: reader.optional(JWKS_URL, "URL of the issuer's public keys (JSON Web Key Set)"),
            secret: reader.optional(
                SECRET,
                "secret that the issuer signs tokens with (HS256), 32 bytes or more, instead of public keys",
            ),
            issuer: reader.optional(ISSUER, "value that the iss claim of tokens must have"),
            audience: reader.optional(AUDIENCE, "value that the aud claim of tokens must have"),
            leeway_seconds: reader.within(
                "LONGHAND_JWT_LEEWAY_SECONDS",
                30,
                0..=300,
                "allowed difference between the clocks of issuer and api, in seconds",
            ),
        }
    }
}

/// The value of the one setting of two that is set.
fn one_of<T>(
    reader: &mut Reader<'_>,
    mode: &str,
    [first, second]: [&str; 2],
    values: [Option<T>; 2],
) -> Option<T> {
    match values {
        [Some(_), Some(_)] => {
            reader.fault(second, format_args!("and {first} are both set: set one of them"));
            None
        }
        [None, None] => {
            let detail = format!("and {second} are both not set: LONGHAND_AUTH={mode} needs one of them");
            reader.fault(first, detail);
            None
        }
        [one, other] => one.or(other),
    }
}

fn jwt(reader: &mut Reader<'_>, given: Given) -> Option<JwtSettings> {
    for (name, missing) in [(ISSUER, given.issuer.is_none()), (AUDIENCE, given.audience.is_none())] {
        if missing {
            reader.fault(name, "is not set: LONGHAND_AUTH=jwt requires it");
        }
    }
    let keys = keys(reader, given.jwks_url, given.secret);
    let leeway = Duration::from_secs(given.leeway_seconds);
    Some(JwtSettings { issuer: given.issuer?, audience: given.audience?, leeway, keys: keys? })
}

fn keys(reader: &mut Reader<'_>, url: Option<String>, secret: Option<Secret>) -> Option<JwtKeys> {
    match one_of(reader, "jwt", [JWKS_URL, SECRET], [url.map(Either::Left), secret.map(Either::Right)])? {
        // Parsed here and not by the reader, whose fault would quote it: it may contain a password.
        Either::Left(url) => match url.parse() {
            Ok(url) => Some(JwtKeys::Set(url)),
            Err(error) => {
                reader.fault(JWKS_URL, error);
                None
            }
        },
        Either::Right(secret) => {
            let bytes = secret.reveal().len();
            if bytes < MIN_SECRET_BYTES {
                reader.fault(SECRET, format_args!("has {bytes} bytes: must have {MIN_SECRET_BYTES} or more"));
            }
            Some(JwtKeys::Secret(secret))
        }
    }
}
