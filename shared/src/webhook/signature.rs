//! The signature of the Standard Webhooks scheme (standardwebhooks.com), by a secret for each user.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::domain::id::UserId;
use crate::service::secret;
use crate::service::settings::Reader;

/// The shortest master secret, in bytes: as many as the signature has.
pub const MIN_MASTER_BYTES: usize = 32;

/// What every user's secret is derived from. Never shown.
#[derive(Clone, Debug)]
pub struct MasterSecret(secret::Secret);

/// A master secret that is too short, with its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must have at least {MIN_MASTER_BYTES} bytes, has {0}")]
pub struct TooShort(usize);

impl MasterSecret {
    /// A text as it is; one that is base64 is not decoded.
    pub fn new(text: &str) -> Result<Self, TooShort> {
        let text = text.trim();
        if text.len() < MIN_MASTER_BYTES {
            return Err(TooShort(text.len()));
        }
        Ok(Self(text.to_owned().into()))
    }

    /// The secret of one user. It is derived, so it is not stored, and it does not reveal another user's secret.
    pub fn of(&self, user: &UserId) -> Secret {
        Secret(hmac_sha256(self.0.reveal().as_bytes(), &format!("longhand webhook v1{user}")))
    }
}

/// What signs one user's webhooks, and verifies them at the receiver. Without `Debug`, so it is never logged.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// As receivers are given it: `whsec_` and base64.
    pub fn reveal(&self) -> String {
        format!("whsec_{}", STANDARD.encode(&self.0))
    }

    /// `v1,` and the signature of a message in base64. `timestamp` is in seconds since 1970.
    pub fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let content = format!("{id}.{timestamp}.{body}");
        format!("v1,{}", STANDARD.encode(hmac_sha256(&self.0, &content)))
    }
}

fn hmac_sha256(key: &[u8], content: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), content.as_bytes()).as_ref().to_vec()
}

/// The master secret, and the one before it while receivers change over.
#[derive(Clone, Debug)]
pub struct MasterSecrets {
    /// `LONGHAND_WEBHOOK_SECRET`.
    pub current: MasterSecret,
    /// `LONGHAND_WEBHOOK_SECRET_PREVIOUS`.
    pub previous: Option<MasterSecret>,
}

impl MasterSecrets {
    /// Reads them. A secret that is wrong is not repeated.
    pub fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let mut master = |name: &'static str, about: &'static str| {
            let text: String = reader.optional(name, about)?;
            MasterSecret::new(&text).map_err(|error| reader.fault(name, error)).ok()
        };
        let current = master(
            "LONGHAND_WEBHOOK_SECRET",
            "master secret for signatures of webhooks, at least 32 bytes; required with LONGHAND_WEBHOOK_QUEUE_URL",
        );
        let previous = master(
            "LONGHAND_WEBHOOK_SECRET_PREVIOUS",
            "previous master secret during a rotation; webhooks are then signed with both",
        );
        Some(Self { current: current?, previous })
    }

    /// `webhook-signature`: the signatures by all secrets, spaces between. A receiver looks for one that fits.
    pub fn sign(&self, user: &UserId, id: &str, timestamp: i64, body: &str) -> String {
        let all = [Some(&self.current), self.previous.as_ref()];
        let signatures = all.into_iter().flatten().map(|master| master.of(user).sign(id, timestamp, body));
        signatures.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        name.parse().expect("a user")
    }

    fn master(text: &str) -> MasterSecret {
        MasterSecret::new(text).expect("long enough")
    }

    /// The example that the scheme's own libraries are tested with.
    #[test]
    fn the_published_example() {
        let secret = Secret(STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64"));
        let signature = secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_user_has_a_secret_of_their_own_which_stays() {
        let master = master("0123456789abcdef0123456789abcdef");
        let ana = master.of(&user("ana")).reveal();
        // openssl: printf 'longhand webhook v1ana' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef -binary | base64
        assert_eq!(ana, "whsec_gg270zGpCjqfFLIZD8W81LxfmduNE/wuQ/3Fvfg5tAU=");
        assert_ne!(ana, master.of(&user("bob")).reveal());
        assert_eq!(MasterSecret::new("0123456789abcdef0123456789abcde ").expect_err("short"), TooShort(31));
    }

    #[test]
    fn both_secrets_sign_while_they_change() {
        let (old, new) = (master(&"o".repeat(32)), master(&"n".repeat(32)));
        let secrets = MasterSecrets { current: new.clone(), previous: Some(old.clone()) };
        let by = |master: &MasterSecret| master.of(&user("ana")).sign("id", 7, "{}");
        assert_eq!(secrets.sign(&user("ana"), "id", 7, "{}"), format!("{} {}", by(&new), by(&old)));
    }

    #[test]
    fn secrets_never_show() {
        let lookup = |name: &str| match name {
            "LONGHAND_WEBHOOK_SECRET" => Some("a-secret-that-is-long-enough-0123456789".to_owned()),
            _ => Some("a-short-secret".to_owned()),
        };
        let mut reader = Reader::new(&lookup);
        let secrets = MasterSecrets::read(&mut reader).expect("the first is good");
        let shown = format!("{secrets:?}");
        let faults = reader.finish(None::<()>).expect_err("the second is short").to_string();
        assert!(
            faults.contains("LONGHAND_WEBHOOK_SECRET_PREVIOUS must have at least 32 bytes, has 14"),
            "{faults}"
        );
        assert!(!shown.contains("long-enough") && !faults.contains("a-short"), "{shown} {faults}");
    }
}
