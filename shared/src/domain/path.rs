//! The path of a chunk's audio: `s3://bucket/key`, `https://host/..`, or a path under the configured audio root.

use std::borrow::Cow;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::domain::url::{self, AllowedHosts, InvalidUrl, PublicUrl};

/// The maximum length of a local path and of an S3 key, in bytes: S3's own limit.
pub const MAX_PATH_BYTES: usize = 1024;

/// A well-formed path. Its text is exactly what the client sent.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AudioPath {
    S3 {
        bucket: String,
        key: String,
    },
    /// A well-formed URL. [`AudioSources::url`] checks whether it may be called.
    Web(String),
    /// A file under the audio root: relative, without `..`.
    Local(String),
}

/// Why a path is malformed or not allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    #[error("must not be empty")]
    Empty,
    #[error("must have at most {MAX_PATH_BYTES} bytes, has {0}")]
    TooLong(usize),
    #[error("must have a key of at most {MAX_PATH_BYTES} bytes, has {0}")]
    LongKey(usize),
    #[error("must not contain control characters")]
    ControlCharacter,
    #[error("is not an S3 address: expected s3://bucket/key")]
    S3,
    /// A key with `.` or `..` between slashes. S3 takes it literally, but a client or proxy may resolve it, which could
    /// lead into another bucket.
    #[error("has a key with . or .. between slashes")]
    Dots,
    #[error(
        "has the scheme \"{0}\", which is not supported: use s3://bucket/key, https:// or a path under the audio root"
    )]
    Scheme(String),
    #[error(transparent)]
    Web(#[from] InvalidUrl),
    /// No hosts are configured.
    #[error("is a URL, but this service reads from no host (LONGHAND_AUDIO_HOSTS)")]
    NoHosts,
    #[error("is absolute: give a path relative to the audio root")]
    Absolute,
    /// A path with `..`, or a symbolic link that leaves the audio root.
    #[error("is outside the audio root")]
    Escapes,
    #[error("has a backslash: use / between folders")]
    Backslash,
    #[error("has the bucket \"{0}\", which this service is not configured to read")]
    Bucket(String),
    #[error("is a local path, but this service has no audio root (LONGHAND_AUDIO_ROOT)")]
    NoRoot,
}

impl AudioPath {
    /// The last part of the path.
    pub fn file_name(&self) -> &str {
        let whole = match self {
            Self::S3 { key, .. } => key,
            Self::Web(address) => url::shown(address),
            Self::Local(path) => path,
        };
        whole.rsplit('/').find(|part| !part.is_empty()).unwrap_or(whole)
    }

    /// Whether a key or a local path looks URL-encoded, as in S3's event notifications. Longhand does not decode it.
    pub fn looks_url_encoded(&self) -> bool {
        let text = match self {
            Self::S3 { key, .. } => key,
            Self::Web(_) => return false,
            Self::Local(path) => path,
        };
        let escapes = |part: &[u8]| part[0] == b'%' && part[1..].iter().all(u8::is_ascii_hexdigit);
        text.contains('+') || text.as_bytes().windows(3).any(escapes)
    }

    /// The path for messages and logs. A URL has no query there, since it may contain a signature.
    pub fn shown(&self) -> Cow<'_, str> {
        match self {
            Self::S3 { bucket, key } => Cow::Owned(format!("s3://{bucket}/{key}")),
            Self::Web(address) => Cow::Borrowed(url::shown(address)),
            Self::Local(path) => Cow::Borrowed(path),
        }
    }
}

impl fmt::Debug for AudioPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AudioPath({:?})", self.shown())
    }
}

impl FromStr for AudioPath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        if text.is_empty() {
            return Err(InvalidPath::Empty);
        }
        if scheme(text).is_some_and(|scheme| matches!(&*scheme.to_ascii_lowercase(), "http" | "https")) {
            url::well_formed(text)?;
            return Ok(Self::Web(text.to_owned()));
        }
        let in_s3 = text.starts_with("s3://");
        if text.len() > MAX_PATH_BYTES && !in_s3 {
            return Err(InvalidPath::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidPath::ControlCharacter);
        }
        if let Some(rest) = text.strip_prefix("s3://") {
            return match rest.split_once('/') {
                Some((_, key)) if key.split('/').any(|part| matches!(part, "." | "..")) => {
                    Err(InvalidPath::Dots)
                }
                Some((bucket, key)) if is_bucket_name(bucket) && key.len() > MAX_PATH_BYTES => {
                    Err(InvalidPath::LongKey(key.len()))
                }
                Some((bucket, key)) if is_bucket_name(bucket) && !key.is_empty() => {
                    Ok(Self::S3 { bucket: bucket.to_owned(), key: key.to_owned() })
                }
                _ => Err(InvalidPath::S3),
            };
        }
        if let Some(scheme) = scheme(text) {
            return Err(InvalidPath::Scheme(scheme.to_owned()));
        }
        // A backslash is a separator on some platforms, and audio files do not need it.
        if text.contains('\\') {
            return Err(InvalidPath::Backslash);
        }
        if text.trim().is_empty() {
            return Err(InvalidPath::Empty);
        }
        let mut named = false;
        for part in Path::new(text).components() {
            match part {
                Component::Normal(_) => named = true,
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => return Err(InvalidPath::Absolute),
                Component::ParentDir => return Err(InvalidPath::Escapes),
            }
        }
        if named { Ok(Self::Local(text.to_owned())) } else { Err(InvalidPath::Empty) }
    }
}

/// The URI scheme (RFC 3986, section 3.1) that `text` begins with. A drive letter counts as a scheme too.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    let mut characters = scheme.chars();
    (characters.next()?.is_ascii_alphabetic()
        && characters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)))
    .then_some(scheme)
}

/// S3's rule: 3 to 63 lower-case letters, digits, dots and hyphens.
fn is_bucket_name(name: &str) -> bool {
    (3..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'.' || b == b'-')
}

impl TryFrom<String> for AudioPath {
    type Error = InvalidPath;

    fn try_from(text: String) -> Result<Self, InvalidPath> {
        text.parse()
    }
}

impl From<AudioPath> for String {
    fn from(path: AudioPath) -> Self {
        path.to_string()
    }
}

impl fmt::Display for AudioPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Self::Web(text) | Self::Local(text) => f.write_str(text),
        }
    }
}

/// The sources that this deployment reads audio from. The api rejects other paths. The worker checks again,
/// since the setting or a symbolic link may have changed since the submission.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AudioSources {
    /// The allowed buckets of `s3://` paths.
    pub buckets: Vec<String>,
    /// The allowed hosts of URLs.
    pub hosts: AllowedHosts,
    /// The folder that local paths are relative to.
    pub root: Option<PathBuf>,
}

impl AudioSources {
    /// Checks whether `path` may be read. For a local path this follows symbolic links, which must not leave
    /// the root. A missing file passes, since it may exist when a worker reads it.
    pub fn check(&self, path: &AudioPath) -> Result<(), InvalidPath> {
        match path {
            AudioPath::S3 { bucket, .. } if self.buckets.contains(bucket) => Ok(()),
            AudioPath::S3 { bucket, .. } => Err(InvalidPath::Bucket(bucket.clone())),
            AudioPath::Web(text) => self.url(text).map(drop),
            AudioPath::Local(relative) => self.resolve(relative).map(drop),
        }
    }

    /// The address of a web path, if it may be called.
    pub fn url(&self, text: &str) -> Result<PublicUrl, InvalidPath> {
        if self.hosts.is_empty() {
            return Err(InvalidPath::NoHosts);
        }
        Ok(PublicUrl::parse(text, &self.hosts)?)
    }

    /// The file of a local path, with all symbolic links resolved and checked to be under the root.
    pub fn resolve(&self, relative: &str) -> Result<PathBuf, InvalidPath> {
        let root = self.root.as_ref().ok_or(InvalidPath::NoRoot)?;
        let joined = root.join(relative);
        let Ok(root) = root.canonicalize() else {
            return Ok(joined);
        };
        // The result must not reveal whether a file exists behind a link that leaves the root.
        for part in joined.ancestors() {
            match part.canonicalize() {
                Ok(real) if !real.starts_with(&root) => return Err(InvalidPath::Escapes),
                Ok(real) if part == joined => return Ok(real),
                Ok(_) => return Ok(joined),
                Err(_) if part.is_symlink() => return Err(InvalidPath::Escapes),
                Err(_) => {}
            }
        }
        Ok(joined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AudioPath, InvalidPath> {
        text.parse()
    }

    #[test]
    fn valid_paths_keep_their_text() {
        for text in [
            "s3://audio/a/b c.wav",
            "a.wav",
            "2026/11/a.wav",
            "./a.wav",
            "..a/b..wav",
            "HTTPS://Host.Example/a.wav?sig=x%2F",
            // Encoded or full-width dots are ordinary characters on disk and in S3.
            "%2e%2e/a.wav",
            "．．/a.wav",
            "s3://audio/a..b/...wav",
        ] {
            assert_eq!(parse(text).map(|path| path.to_string()), Ok(text.to_owned()));
        }
        assert_eq!(parse("s3://audio/a/b.wav").map(|p| p.file_name().to_owned()), Ok("b.wav".to_owned()));
        assert_eq!(parse("x/y.flac").map(|p| p.file_name().to_owned()), Ok("y.flac".to_owned()));
    }

    #[test]
    fn invalid_paths_name_the_fault() {
        assert_eq!(parse(""), Err(InvalidPath::Empty));
        assert_eq!(parse("  "), Err(InvalidPath::Empty));
        assert_eq!(parse("."), Err(InvalidPath::Empty));
        assert_eq!(parse("../etc/passwd"), Err(InvalidPath::Escapes));
        assert_eq!(parse("a/../../b"), Err(InvalidPath::Escapes));
        assert_eq!(parse("a\\..\\b"), Err(InvalidPath::Backslash));
        assert_eq!(parse("/etc/passwd"), Err(InvalidPath::Absolute));
        assert_eq!(parse("ftp://host/a.wav"), Err(InvalidPath::Scheme("ftp".into())));
        assert_eq!(parse("https://user@host/a.wav"), Err(InvalidPath::Web(InvalidUrl::UserInfo)));
        assert_eq!(parse("http:host/a.wav").map_err(|error| matches!(error, InvalidPath::Web(_))), Err(true));
        assert_eq!(parse("file:///etc/passwd"), Err(InvalidPath::Scheme("file".into())));
        assert_eq!(parse("S3://bucket/key"), Err(InvalidPath::Scheme("S3".into())));
        assert_eq!(parse("s3://bucket"), Err(InvalidPath::S3));
        assert_eq!(parse("s3://mine/../other/a.wav"), Err(InvalidPath::Dots));
        assert_eq!(parse("s3://mine/a/.."), Err(InvalidPath::Dots));
        assert_eq!(parse("s3://../a"), Err(InvalidPath::S3));
        assert_eq!(parse("s3:///key"), Err(InvalidPath::S3));
        assert_eq!(parse("s3://UPPER/key"), Err(InvalidPath::S3));
        assert_eq!(parse("a\0b"), Err(InvalidPath::ControlCharacter));
        assert_eq!(parse(&"x".repeat(1025)), Err(InvalidPath::TooLong(1025)));
        let key = |bytes: usize| format!("s3://{}/{}", "b".repeat(63), "é".repeat(bytes / 2));
        assert_eq!(parse(&key(1024)).map(|path| path.to_string()), Ok(key(1024)));
        assert_eq!(parse(&key(1026)), Err(InvalidPath::LongKey(1026)));
    }

    #[test]
    fn url_encoded_paths_are_detected() {
        let hint = |text: &str| parse(text).expect("a path").looks_url_encoded();
        for encoded in ["s3://audio/a%20b.wav", "s3://audio/d%C3%ADa.wav", "s3://audio/a+b.wav", "a%2fb.wav"]
        {
            assert!(hint(encoded), "{encoded}");
        }
        for plain in
            ["s3://audio/a b.wav", "s3://audio/100%.wav", "s3://audio/50%off.wav", "https://h.example/a%20b"]
        {
            assert!(!hint(plain), "{plain}");
        }
    }

    #[test]
    fn only_configured_sources_are_read() {
        let sources = AudioSources { buckets: vec!["mine".into()], ..AudioSources::default() };
        assert_eq!(sources.check(&parse("s3://mine/a").expect("a path")), Ok(()));
        assert_eq!(
            sources.check(&parse("s3://other/a").expect("a path")),
            Err(InvalidPath::Bucket("other".into()))
        );
        assert_eq!(sources.check(&parse("a.wav").expect("a path")), Err(InvalidPath::NoRoot));
        let web = parse("https://good.example/a.wav?sig=x").expect("a path");
        assert_eq!(sources.check(&web), Err(InvalidPath::NoHosts));
        let hosts = "good.example".parse().expect("a host");
        let sources = AudioSources { hosts, ..sources };
        assert_eq!(sources.check(&web), Ok(()));
        let refused = |text: &str| sources.check(&parse(text).expect("well-formed"));
        let host = InvalidUrl::Host("evil.example".into());
        assert_eq!(refused("https://evil.example/a"), Err(InvalidPath::Web(host)));
        assert_eq!(refused("https://2130706433/a"), Err(InvalidPath::Web(InvalidUrl::Address)));
        assert_eq!(refused("http://good.example/a"), Err(InvalidPath::Web(InvalidUrl::NotHttps)));
    }

    #[test]
    fn signatures_are_not_shown() {
        let path = parse("https://good.example/b/a.wav?sig=secret").expect("a path");
        assert_eq!((path.file_name(), &*path.shown()), ("a.wav", "https://good.example/b/a.wav"));
        assert_eq!(format!("{path:?}"), "AudioPath(\"https://good.example/b/a.wav\")");
        assert_eq!(String::from(path), "https://good.example/b/a.wav?sig=secret");
    }

    #[test]
    fn symbolic_links_may_not_leave_the_root() {
        let home = std::env::temp_dir().join(format!("longhand-path-{}", uuid::Uuid::now_v7()));
        let root = home.join("root");
        std::fs::create_dir_all(root.join("in")).expect("a folder");
        std::fs::write(home.join("secret.wav"), "x").expect("a file");
        std::fs::write(root.join("in/a.wav"), "x").expect("a file");
        std::os::unix::fs::symlink(home.join("secret.wav"), root.join("out.wav")).expect("a link");
        std::os::unix::fs::symlink(root.join("in"), root.join("alias")).expect("a link");
        let sources = AudioSources { root: Some(root.clone()), ..AudioSources::default() };
        let check = |text: &str| sources.check(&parse(text).expect("a path"));
        assert_eq!(check("in/a.wav"), Ok(()));
        assert_eq!(check("alias/a.wav"), Ok(()));
        assert_eq!(check("not-there.wav"), Ok(()));
        assert_eq!(check("out.wav"), Err(InvalidPath::Escapes));
        // A path through a link to an outside folder is rejected whether or not the target exists.
        std::os::unix::fs::symlink(&home, root.join("away")).expect("a link");
        std::os::unix::fs::symlink(home.join("nothing"), root.join("nowhere")).expect("a link");
        for text in ["away", "away/secret.wav", "away/missing.wav", "away/no/such", "nowhere", "nowhere/a"] {
            assert_eq!(check(text), Err(InvalidPath::Escapes), "{text}");
        }
        assert_eq!(check("alias/missing.wav"), Ok(()));
        std::fs::remove_dir_all(home).expect("removed");
    }
}
