//! Callers by API keys: a file of digests, read again when it changes, so that a key is given or taken
//! without a restart. Or, where a platform hands secrets over in the environment, the same text from there.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use longhand_shared::api_key::{KeyDigest, KeyEntry, MAX_ID_BYTES};
use serde::Deserialize;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{error, info};

use super::settings::ApiKeys;
use super::{Caller, Refusal, is_key};

/// From one look at the file to the next: how long a key that was taken out is still accepted.
const LOOK: Duration = Duration::from_secs(1);

/// The largest file that is read, in bytes: some 50,000 keys.
const MAX_FILE_BYTES: u64 = 8 * 1024 * 1024;

/// The keys that are known.
#[derive(Debug)]
pub(super) enum KnownKeys {
    File(KeyFile),
    Fixed(Keys),
}

impl KnownKeys {
    pub(super) fn read(source: ApiKeys) -> Result<Self, String> {
        match source {
            ApiKeys::File(path) => KeyFile::open(path).map(Self::File),
            ApiKeys::Text(text) => parse(text.reveal()).map(|keys| Self::Fixed(Arc::new(keys))),
        }
    }

    /// Whom a key speaks for.
    pub(super) async fn caller(&self, key: &str) -> Result<Caller, Refusal> {
        if !is_key(key) {
            return Err(Refusal::Invalid("it is not an API key: these begin with lh_"));
        }
        let keys = match self {
            Self::File(file) => file.keys().await,
            Self::Fixed(keys) => Arc::clone(keys),
        };
        keys.get(&KeyDigest::of(key)).cloned().ok_or(Refusal::Invalid("the API key is not known"))
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
    looked: Instant,
}

/// By digest. A lookup takes longer or shorter by the digest of what was sent, which whoever sends it
/// cannot steer towards a digest that is in the file: to compare in constant time would add nothing.
type Keys = Arc<HashMap<KeyDigest, Caller>>;

/// What tells one state of the file from another.
type Stamp = (SystemTime, u64, u64);

impl KeyFile {
    fn open(path: PathBuf) -> Result<Self, String> {
        let (keys, stamp) = read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let state = State { keys: Arc::new(keys), stamp, looked: Instant::now() };
        Ok(Self { path, state: Mutex::new(state) })
    }

    async fn keys(&self) -> Keys {
        let (keys, stamp) = {
            let mut state = self.state.lock().expect("nothing panics with it locked");
            if state.looked.elapsed() < LOOK {
                return state.keys.clone();
            }
            // Whoever comes while this one looks goes on with what is known.
            state.looked = Instant::now();
            (state.keys.clone(), state.stamp)
        };
        let path = self.path.clone();
        let looked = spawn_blocking(move || match stamp_of(&path) {
            Ok(now) if now == stamp => Ok(None),
            _ => read(&path).map(Some),
        });
        match looked.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(None) => keys,
            Ok(Some((keys, stamp))) => {
                info!(keys = keys.len(), "the file of API keys has changed");
                let mut state = self.state.lock().expect("nothing panics with it locked");
                state.keys = Arc::new(keys);
                state.stamp = stamp;
                state.keys.clone()
            }
            // Half a file, in the middle of being written, must not lock everybody out.
            Err(error) => {
                error!(error, path = %self.path.display(), "cannot read the file of API keys; those that are known stay");
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
    // Taken before the content: what is written in between is seen at the next look.
    let stamp = stamp_of(path)?;
    if stamp.1 > MAX_FILE_BYTES {
        return Err(format!("has more than {MAX_FILE_BYTES} bytes"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Ok((parse(&text)?, stamp))
}

/// A JSON array of entries, or one to a line.
fn parse(text: &str) -> Result<HashMap<KeyDigest, Caller>, String> {
    let entries: Vec<KeyEntry> = if text.trim_start().starts_with('[') {
        entry(text)?
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let one = |(index, line)| entry(line).map_err(|error| format!("line {}: {error}", index + 1));
        lines.map(one).collect::<Result<_, _>>()?
    };
    let (mut keys, mut ids) = (HashMap::new(), HashSet::new());
    for KeyEntry { id, sha256, user, operator } in entries {
        if id.is_empty() || id.len() > MAX_ID_BYTES || !ids.insert(id.clone()) {
            return Err(format!("the id {id:?} is there twice, or does not have 1 to {MAX_ID_BYTES} bytes"));
        }
        if keys.insert(sha256, Caller::new(user, operator)).is_some() {
            return Err(format!("the key of {id:?} is there twice"));
        }
    }
    Ok(keys)
}

/// Serde's own words might quote what is in the file.
fn entry<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!(
            "cannot be read as {{\"id\",\"sha256\" (64 hexadecimal digits),\"user\",\"operator\"?}}, at line {line} column {column}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_arrays() {
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
        assert!(parse(&format!("{ana}\n{ana}")).expect_err("twice").contains("\"ana\" is there twice"));
        let twice = parse(&format!("{ana}\n{}", line("bob", "lh_a", "")));
        assert_eq!(twice.expect_err("twice"), "the key of \"bob\" is there twice");
    }

    #[test]
    fn a_fault_tells_where_and_quotes_nothing() {
        let digest = "0".repeat(64);
        for bad in [
            "{\"id\":\"a\",\"sha256\":\"lh_SECRET\",\"user\":\"ana\"}".to_owned(),
            format!("{{\"id\":\"a\",\"sha256\":\"{digest}\",\"user\":\"ana\",\"operator\":\"lh_SECRET\"}}"),
            format!("{{\"id\":\"a\",\"sha256\":\"{digest}\",\"user\":\"ana\",\"key\":\"lh_SECRET\"}}"),
            format!("{{\"id\":\"a\",\"sha256\":\"{digest}\",\"user\":\"\"}}"),
            "lh_SECRET".to_owned(),
        ] {
            let error = parse(&format!("\n{bad}")).expect_err("bad");
            assert!(error.starts_with("line 2: cannot be read as"), "{error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }
}
