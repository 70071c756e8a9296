//! The response of `POST /uploads`, and the keys of uploads in the bucket.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Timestamp, UserId};

/// The key prefix of all uploads.
pub const PREFIX: &str = "uploads/";

/// The maximum length of a file name in a key, in characters. A longer name loses its beginning.
const MAX_NAME_CHARS: usize = 100;

/// The answer of `POST /uploads`: one entry for each file, in order.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Uploads {
    pub uploads: Vec<Upload>,
}

/// How to upload a file, and the path to submit afterwards.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upload {
    /// The path for `audioChunkPaths`: `s3://bucket/key`.
    pub audio_chunk_path: String,
    /// The presigned URL for the file. It is a secret until it expires, since it gives permission to upload.
    pub url: String,
    /// The HTTP method: `PUT`.
    pub method: String,
    /// The headers to send unchanged: S3 rejects another size or type.
    pub headers: BTreeMap<String, String>,
    /// When the URL expires.
    pub expires_time: Timestamp,
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("audio_chunk_path", &self.audio_chunk_path).finish_non_exhaustive()
    }
}

/// The key prefix of a user's uploads, unique to the user.
pub fn folder(user: &UserId) -> String {
    let mut folder = PREFIX.to_owned();
    for (position, byte) in user.as_str().bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => folder.push(char::from(byte)),
            // Not as the first character, since clients and proxies may resolve `.` and `..` in an address.
            b'.' if position > 0 => folder.push('.'),
            other => {
                let _ = write!(folder, "={other:02X}");
            }
        }
    }
    folder
}

/// A file name for a key: never empty, and without characters that are special in shells, addresses or logs.
pub fn safe_name(name: &str) -> String {
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let surplus = name.chars().count().saturating_sub(MAX_NAME_CHARS);
    let name: String = name.chars().skip(surplus).map(safe).collect();
    match name.strip_prefix('.') {
        Some(rest) => format!("_{rest}"),
        None if name.is_empty() => "_".to_owned(),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_safe_and_keep_their_extension() {
        assert_eq!(safe_name("/a/b c/día 1 (2).wav"), "d_a_1__2_.wav");
        assert_eq!(safe_name("C:\\voices\\a.wav"), "a.wav");
        assert_eq!(safe_name("plain-1.0_x.flac"), "plain-1.0_x.flac");
        assert_eq!(
            (safe_name(".."), safe_name("../.."), safe_name("a\r\n%2e")),
            ("_.".into(), "_.".into(), "a___2e".into())
        );
        let long = safe_name(&format!("{}.mp3", "x".repeat(300)));
        assert_eq!((long.len(), long.ends_with("x.mp3")), (MAX_NAME_CHARS, true));
    }

    #[test]
    fn each_user_has_a_folder_of_their_own() {
        let folder = |user: &str| folder(&user.parse().expect("a user"));
        assert_eq!(folder("ana-1_B"), "uploads/ana-1_B");
        assert_eq!(folder("ana@example.com"), "uploads/ana=40example.com");
        assert_eq!(folder("a/../b"), "uploads/a=2F..=2Fb");
        assert_eq!((folder("."), folder("..")), ("uploads/=2E".into(), "uploads/=2E.".into()));
        assert_ne!(folder("a=40b"), folder("a@b"));
    }
}
