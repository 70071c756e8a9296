//! Joins the texts of chunks, in order of chunk index.

use unicode_script::{Script, UnicodeScript};

use crate::domain::job::{Chunk, ChunkState, Transcription, Verdict};

/// The text of `chunks` (in order of index), joined by a space, or by nothing between scripts
/// without spaces. A chunk without a text becomes a mark: `[chunk 3 pending]`, `[chunk 3 failed]`.
/// `None` if no chunk has a text.
///
/// Chunks do not overlap, so nothing is de-duplicated.
pub fn stitch(chunks: &[Chunk]) -> Option<String> {
    let parts: Vec<_> = chunks.iter().map(text_or_mark).collect();
    let texts = parts.iter().map(|part| match part {
        Ok(transcription) => transcription.text().trim(),
        Err(mark) => mark.as_str(),
    });
    parts.iter().any(Result::is_ok).then(|| join(texts))
}

/// Texts that follow each other, joined as [`stitch`] joins chunks.
pub fn join<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut joined = String::new();
    for text in texts {
        push(&mut joined, text);
    }
    joined
}

/// The transcription of a chunk, or the mark that stands for it.
pub fn text_or_mark(chunk: &Chunk) -> Result<&Transcription, String> {
    match &chunk.state {
        ChunkState::Settled { verdict: Verdict::Completed(transcription), .. } => Ok(transcription),
        ChunkState::Settled { verdict: Verdict::Failed(_), .. } => {
            Err(format!("[chunk {} failed]", chunk.index))
        }
        ChunkState::Pending | ChunkState::InProgress { .. } => {
            Err(format!("[chunk {} pending]", chunk.index))
        }
    }
}

fn push(text: &mut String, next: &str) {
    let (Some(last), Some(first)) = (text.chars().next_back(), next.chars().next()) else {
        text.push_str(next);
        return;
    };
    if !(is_unspaced(last) && is_unspaced(first)) {
        text.push(' ');
    }
    text.push_str(next);
}

/// Whether a character belongs to a script without spaces between words. East Asian punctuation belongs
/// to no single script, so it is matched by its Unicode block.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{3000}'..='\u{303F}' | '\u{FF00}'..='\u{FFEF}')
        || matches!(
            c.script(),
            Script::Han
                | Script::Hiragana
                | Script::Katakana
                | Script::Bopomofo
                | Script::Yi
                | Script::Thai
                | Script::Lao
                | Script::Khmer
                | Script::Myanmar
                | Script::Tibetan
                | Script::Javanese
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::clock::Timestamp;
    use crate::domain::id::ChunkIndex;
    use crate::domain::job::{ChunkError, ErrorCode};

    fn chunks(texts: &[Option<&str>]) -> Vec<Chunk> {
        let at = Timestamp::from_unix(0);
        ChunkIndex::first(texts.len())
            .zip(texts)
            .map(|(index, text)| {
                let mut chunk = Chunk::new(index, "a.wav".parse().expect("a path"));
                if let Some(text) = text {
                    let words = Transcription::new(*text, None, vec![]).expect("small");
                    chunk.state = ChunkState::Settled { at, verdict: Verdict::Completed(words) };
                }
                chunk
            })
            .collect()
    }

    fn joined(texts: &[&str]) -> Option<String> {
        stitch(&chunks(&texts.iter().copied().map(Some).collect::<Vec<_>>()))
    }

    #[test]
    fn chunks_are_joined_by_one_space() {
        assert_eq!(
            joined(&[" And so,", "my fellow  Americans. "]).as_deref(),
            Some("And so, my fellow  Americans.")
        );
        assert_eq!(joined(&["안녕", "하세요"]).as_deref(), Some("안녕 하세요"));
    }

    #[test]
    fn scripts_without_spaces_are_joined_directly() {
        assert_eq!(joined(&["今日は。", "明日は"]).as_deref(), Some("今日は。明日は"));
        assert_eq!(joined(&["你好", "世界"]).as_deref(), Some("你好世界"));
        assert_eq!(joined(&["สวัสดี", "ครับ"]).as_deref(), Some("สวัสดีครับ"));
        assert_eq!(joined(&["你好", "world"]).as_deref(), Some("你好 world"));
    }

    #[test]
    fn silent_chunks_add_nothing() {
        assert_eq!(joined(&["a", "", "  ", "b"]).as_deref(), Some("a b"));
        assert_eq!(joined(&["", ""]).as_deref(), Some(""));
    }

    #[test]
    fn chunks_without_a_text_are_marked() {
        let mut some = chunks(&[Some("a"), None, Some("c"), None]);
        some[3].state = ChunkState::Settled {
            at: Timestamp::from_unix(0),
            verdict: Verdict::Failed(ChunkError::new(ErrorCode::AudioNotFound, "gone")),
        };
        assert_eq!(stitch(&some).as_deref(), Some("a [chunk 1 pending] c [chunk 3 failed]"));
        assert_eq!(stitch(&chunks(&[None, None])), None);
    }
}
