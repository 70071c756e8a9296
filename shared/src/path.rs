//! Where a chunk's audio is: `s3://bucket/key`, `https://host/..`, or a path under the configured audio root.

use std::borrow::Cow;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::outbound::{self, AllowedHosts, InvalidUrl, PublicUrl};

/// The longest path that is no web address, in bytes: S3's limit on a key.
pub const MAX_PATH_BYTES: usize = 1024;

/// A place that audio can be read from. Its text is exactly what the client sent.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AudioPath {
    /// An object in S3.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// The object's key.
        key: String,
    },
    /// A web address, well-formed. [`AudioSources::url`] tells whether it may be called.
    Web(String),
    /// A file under the audio root: relative, without `..`.
    Local(String),
}

/// Why a text is no [`AudioPath`], or one that may not be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// It has no characters.
    #[error("must not be empty")]
    Empty,
    /// It is over [`MAX_PATH_BYTES`].
    #[error("must have at most {MAX_PATH_BYTES} bytes, has {0}")]
    TooLong(usize),
    /// It has a control character.
    #[error("must not hold control characters")]
    ControlCharacter,
    /// `s3://` without a bucket or a key.
    #[error("is not an S3 address: expected s3://bucket/key")]
    S3,
    /// A key with `.` or `..` between its slashes. S3 takes it as it is, but whoever stands between may tidy
    /// it away, into another bucket.
    #[error("has . or .. in its key")]
    Dots,
    /// A scheme that is not read here.
    #[error(
        "has the scheme \"{0}\", which is not supported: use s3://bucket/key, https:// or a path under the audio root"
    )]
    Scheme(String),
    /// A web address that is none, or one that may not be called.
    #[error(transparent)]
    Web(#[from] InvalidUrl),
    /// There are no hosts to read from.
    #[error("is a web address, but this service reads from no host: use s3://bucket/key")]
    NoHosts,
    /// An absolute path.
    #[error("is absolute: give a path relative to the audio root")]
    Absolute,
    /// `..`, or a link that leaves the root.
    #[error("leaves the audio root")]
    Escapes,
    /// The bucket is not one of those configured.
    #[error("names the bucket \"{0}\", which is not one that this service reads")]
    Bucket(String),
    /// There is no audio root.
    #[error("is a local path, but this service has no audio root: use s3://bucket/key")]
    NoRoot,
}

impl AudioPath {
    /// The last part of the path: the file's name.
    pub fn file_name(&self) -> &str {
        let whole = match self {
            Self::S3 { key, .. } => key,
            Self::Web(url) => outbound::shown(url),
            Self::Local(path) => path,
        };
        whole.rsplit('/').find(|part| !part.is_empty()).unwrap_or(whole)
    }

    /// The path for messages and logs: a web address without its query, which may hold a signature.
    pub fn shown(&self) -> Cow<'_, str> {
        match self {
            Self::S3 { bucket, key } => Cow::Owned(format!("s3://{bucket}/{key}")),
            Self::Web(url) => Cow::Borrowed(outbound::shown(url)),
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
            outbound::well_formed(text)?;
            return Ok(Self::Web(text.to_owned()));
        }
        if text.len() > MAX_PATH_BYTES {
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
                Some((bucket, key)) if is_bucket_name(bucket) && !key.is_empty() => {
                    Ok(Self::S3 { bucket: bucket.to_owned(), key: key.to_owned() })
                }
                _ => Err(InvalidPath::S3),
            };
        }
        if let Some(scheme) = scheme(text) {
            return Err(InvalidPath::Scheme(scheme.to_owned()));
        }
        // A backslash separates on one platform and not on another; no audio file needs one.
        if text.contains('\\') {
            return Err(InvalidPath::Escapes);
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

/// The scheme of a URI, in the sense of RFC 3986 section 3.1, when `text` begins with one.
/// One letter before a colon is a drive, not a scheme; it is caught here all the same.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    let mut characters = scheme.chars();
    (characters.next()?.is_ascii_alphabetic()
        && characters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)))
    .then_some(scheme)
}

/// S3's own rule: 3 to 63 lower-case letters, digits, dots and hyphens.
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

/// What this deployment reads audio from. The API refuses the rest, and the worker looks again,
/// since a message may be older than the setting and a link may have been put there since.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AudioSources {
    /// Buckets that `s3://` paths may name.
    pub buckets: Vec<String>,
    /// Hosts that web addresses may name.
    pub hosts: AllowedHosts,
    /// The folder that local paths are under.
    pub root: Option<PathBuf>,
}

impl AudioSources {
    /// Says whether `path` may be read here. Local files are looked at on disk, for links that
    /// leave the root; one that does not exist passes, since it may be there by the time it is read.
    pub fn check(&self, path: &AudioPath) -> Result<(), InvalidPath> {
        match path {
            AudioPath::S3 { bucket, .. } => {
                if self.buckets.contains(bucket) {
                    Ok(())
                } else {
                    Err(InvalidPath::Bucket(bucket.clone()))
                }
            }
            AudioPath::Web(text) => self.url(text).map(drop),
            AudioPath::Local(relative) => self.resolve(relative).map(drop),
        }
    }

    /// The address that a web path means, when it may be called.
    pub fn url(&self, text: &str) -> Result<PublicUrl, InvalidPath> {
        if self.hosts.is_empty() {
            return Err(InvalidPath::NoHosts);
        }
        Ok(PublicUrl::parse(text, &self.hosts)?)
    }

    /// The file on disk that a local path means, every link in it followed and still under the root.
    pub fn resolve(&self, relative: &str) -> Result<PathBuf, InvalidPath> {
        let root = self.root.as_ref().ok_or(InvalidPath::NoRoot)?;
        let joined = root.join(relative);
        let (Ok(root), Ok(real)) = (root.canonicalize(), joined.canonicalize()) else {
            return Ok(joined);
        };
        if real.starts_with(root) { Ok(real) } else { Err(InvalidPath::Escapes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AudioPath, InvalidPath> {
        text.parse()
    }

    #[test]
    fn good_paths_read_back_as_they_were() {
        for text in [
            "s3://audio/a/b c.wav",
            "a.wav",
            "2026/11/a.wav",
            "./a.wav",
            "..a/b..wav",
            "HTTPS://Host.Example/a.wav?sig=x%2F",
            // Dots in disguise are letters like others on disk and in S3.
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
    fn bad_paths_say_why() {
        assert_eq!(parse(""), Err(InvalidPath::Empty));
        assert_eq!(parse("  "), Err(InvalidPath::Empty));
        assert_eq!(parse("."), Err(InvalidPath::Empty));
        assert_eq!(parse("../etc/passwd"), Err(InvalidPath::Escapes));
        assert_eq!(parse("a/../../b"), Err(InvalidPath::Escapes));
        assert_eq!(parse("a\\..\\b"), Err(InvalidPath::Escapes));
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
    fn a_signature_does_not_show() {
        let path = parse("https://good.example/b/a.wav?sig=secret").expect("a path");
        assert_eq!((path.file_name(), &*path.shown()), ("a.wav", "https://good.example/b/a.wav"));
        assert_eq!(format!("{path:?}"), "AudioPath(\"https://good.example/b/a.wav\")");
        assert_eq!(String::from(path), "https://good.example/b/a.wav?sig=secret");
    }

    #[test]
    fn a_link_may_not_leave_the_root() {
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
        std::fs::remove_dir_all(home).expect("removed");
    }
}
