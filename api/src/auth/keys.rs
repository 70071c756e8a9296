//! Callers by API keys: a file of digests, read again when it changes, so that keys are added and revoked without a
//! restart. Or the same text from the environment, where a platform passes secrets that way.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use longhand_shared::service::api_key::{self, KeyDigest, KeyEntry, MAX_ID_BYTES};
use serde::Deserialize;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{error, info};

use super::caller::Caller;
use super::refusal::Refusal;
use super::settings::ApiKeys;

/// The interval between checks of the file: how long a revoked key is still accepted.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The largest file that is read, in bytes: some 50,000 keys.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// The accepted keys.
#[derive(Debug)]
pub(super) enum KnownKeys {
    File(KeyFile),
    Fixed(Keys),
}

impl KnownKeys {
    pub(super) fn read(source: ApiKeys) -> Result<Self, String> {
        match source {
            ApiKeys::File(path) => KeyFile::open(path).map(Self::File),
            // A file may get its first key later; this text cannot.
            ApiKeys::Text(text) => {
                match parse(text.reveal()).map_err(|error| format!("LONGHAND_API_KEYS: {error}"))? {
                    keys if keys.is_empty() => {
                        Err("LONGHAND_API_KEYS has no keys: add one (longhand key new)".to_owned())
                    }
                    keys => Ok(Self::Fixed(Arc::new(keys))),
                }
            }
        }
    }

    /// The caller that a key identifies.
    pub(super) async fn caller(&self, key: &str) -> Result<Caller, Refusal> {
        if !key.starts_with(api_key::PREFIX) {
            return Err(Refusal::Invalid("not an API key: API keys begin with lh_"));
        }
        let keys = match self {
            Self::File(file) => file.keys().await,
            Self::Fixed(keys) => Arc::clone(keys),
        };
        keys.get(&KeyDigest::of(key)).cloned().ok_or(Refusal::Invalid("unknown API key"))
    }
}

/// The file of keys.
#[derive(Debug)]
pub(super) struct KeyFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    keys: Keys,
    stamp: Stamp,
    checked: Instant,
}

/// By digest. The time of a lookup depends on the digest of what was sent, which a sender cannot steer towards a digest
/// in the file: comparing in constant time would add nothing.
type Keys = Arc<HashMap<KeyDigest, Caller>>;

/// Identifies a state of the file: time of change, length, inode.
type Stamp = (SystemTime, u64, u64);

impl KeyFile {
    fn open(path: PathBuf) -> Result<Self, String> {
        let (keys, stamp) = read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let state = State { keys: Arc::new(keys), stamp, checked: Instant::now() };
        Ok(Self { path, state: Mutex::new(state) })
    }

    async fn keys(&self) -> Keys {
        let (keys, stamp) = {
            let mut state = self.state.lock().expect("nothing panics with it locked");
            if state.checked.elapsed() < CHECK_INTERVAL {
                return state.keys.clone();
            }
            // Requests that arrive during this check use the known keys.
            state.checked = Instant::now();
            (state.keys.clone(), state.stamp)
        };
        let path = self.path.clone();
        let checked = spawn_blocking(move || match stamp_of(&path) {
            Ok(now) if now == stamp => Ok(None),
            _ => read(&path).map(Some),
        });
        match checked.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(None) => keys,
            Ok(Some((keys, stamp))) => {
                info!(keys = keys.len(), "the file of API keys has changed");
                let mut state = self.state.lock().expect("nothing panics with it locked");
                state.keys = Arc::new(keys);
                state.stamp = stamp;
                state.keys.clone()
            }
            // A file that is half written must not lock everybody out.
            Err(error) => {
                error!(error, path = %self.path.display(), "cannot read the file of API keys; the known keys stay valid");
                keys
            }
        }
    }
}

fn stamp_of(path: &PathBuf) -> Result<Stamp, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    let modified = metadata.modified().map_err(|error| error.to_string())?;
    Ok((modified, metadata.len(), metadata.ino()))
}

fn read(path: &PathBuf) -> Result<(HashMap<KeyDigest, Caller>, Stamp), String> {
    // Read before the content: what is written in between is found by the next check.
    let stamp = stamp_of(path)?;
    if stamp.1 > MAX_FILE_BYTES {
        return Err(format!("has more than {MAX_FILE_BYTES} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok((parse(&text)?, stamp))
}

/// Parses a JSON array of entries, or one entry per line.
fn parse(text: &str) -> Result<HashMap<KeyDigest, Caller>, String> {
    let entries: Vec<KeyEntry> = if text.trim_start().starts_with('[') {
        entry(text).map_err(|(line, column)| format!("line {line}, column {column}: {ENTRY}"))?
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let one = |(index, line)| {
            entry(line).map_err(|(_, column)| format!("line {}, column {column}: {ENTRY}", index + 1))
        };
        lines.map(one).collect::<Result<_, _>>()?
    };
    let (mut keys, mut ids) = (HashMap::new(), HashSet::new());
    for KeyEntry { id, sha256, user, operator } in entries {
        if id.is_empty() || id.len() > MAX_ID_BYTES || !ids.insert(id.clone()) {
            return Err(format!("the id {id:?} is repeated, or does not have 1 to {MAX_ID_BYTES} bytes"));
        }
        if keys.insert(sha256, Caller::new(user, operator)).is_some() {
            return Err(format!("the key of {id:?} is repeated"));
        }
    }
    Ok(keys)
}

/// What an entry must be. Serde's own message might quote the file.
const ENTRY: &str = "must be {\"id\",\"sha256\" (64 hexadecimal digits),\"user\",\"operator\"?}";

/// The error is the line and the column of the fault.
fn entry<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, (usize, usize)> {
    serde_json::from_str(text).map_err(|error| (error.line(), error.column()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_lines_or_an_array() {
        let line = |id: &str, key: &str, more: &str| {
            let sha256 = String::from(KeyDigest::of(key));
            format!("{{\"id\":\"{id}\",\"sha256\":\"{sha256}\",\"user\":\"{id}\"{more}}}")
        };
        let (ana, ops) = (line("ana", "lh_a", ""), line("ops", "lh_o", ",\"operator\":true"));
        for text in [format!("{ana}\n\n{ops}\n"), format!(" [{ana},\n{ops}]")] {
            let keys = parse(&text).expect("good");
            assert_eq!(keys.len(), 2);
            let user = |name: &str| name.parse().expect("a user");
            assert_eq!(keys[&KeyDigest::of("lh_a")], Caller::new(user("ana"), false));
            assert_eq!(keys[&KeyDigest::of("lh_o")], Caller::new(user("ops"), true));
        }
        assert_eq!(parse("").map(|keys| keys.len()), Ok(0));
        assert!(parse(&format!("{ana}\n{ana}")).expect_err("twice").contains("\"ana\" is repeated"));
        let twice = parse(&format!("{ana}\n{}", line("bob", "lh_a", "")));
        assert_eq!(twice.expect_err("twice"), "the key of \"bob\" is repeated");
    }

    #[test]
    fn keys_in_the_environment_must_not_be_empty() {
        let read = |text: &str| KnownKeys::read(ApiKeys::Text(text.to_owned().into()));
        for none in ["[]", " [ ] "] {
            assert!(read(none).expect_err("no keys").contains("LONGHAND_API_KEYS has no keys"), "{none}");
        }
        let sha256 = String::from(KeyDigest::of("lh_a"));
        assert!(read(&format!("[{{\"id\":\"a\",\"sha256\":\"{sha256}\",\"user\":\"ana\"}}]")).is_ok());
    }

    #[test]
    fn a_fault_names_the_line_and_quotes_nothing() {
        let digest = "0".repeat(64);
        for bad in [
            "{\"id\":\"a\",\"sha256\":\"lh_SECRET\",\"user\":\"ana\"}".to_owned(),
            format!("{{\"id\":\"a\",\"sha256\":\"{digest}\",\"user\":\"ana\",\"operator\":\"lh_SECRET\"}}"),
            format!("{{\"id\":\"a\",\"sha256\":\"{digest}\",\"user\":\"ana\",\"key\":\"lh_SECRET\"}}"),
            format!("{{\"id\":\"a\",\"sha256\":\"{digest}\",\"user\":\"\"}}"),
            "lh_SECRET".to_owned(),
        ] {
            let error = parse(&format!("\n{bad}")).expect_err("bad");
            assert!(error.starts_with("line 2, column ") && error.contains(": must be"), "{error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }
}
