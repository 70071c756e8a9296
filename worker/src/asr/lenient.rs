//! Answers that are almost JSON. Model servers write NaN and Infinity, numbers beyond every range, a byte order mark,
//! text that is not UTF-8, half surrogate pairs, and line breaks inside strings. What can be read is kept.

use serde_json::Value;

/// Reads an answer, as it is or repaired.
pub(super) fn parse(body: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice(body).or_else(|error| {
        let text = String::from_utf8_lossy(body);
        serde_json::from_str(&repair(text.trim_start_matches('\u{feff}'))).map_err(|_| error)
    })
}

fn repair(text: &str) -> String {
    let mut repaired = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => string(rest, &mut repaired),
            '-' | '+' | '0'..='9' | 'N' | 'I' | 'n' | 'i' => word(rest, &mut repaired),
            other => {
                repaired.push(other);
                other.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    repaired
}

/// A number or a word outside of strings. What no JSON number can be is `null`.
fn word(text: &str, repaired: &mut String) -> usize {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.');
    let length = text.find(|c: char| !is_part(c)).unwrap_or(text.len()).max(1);
    let word = &text[..length];
    let is_json = serde_json::from_str::<Value>(word).is_ok();
    repaired.push_str(if is_json { word } else { "null" });
    length
}

/// A string. Spaces replace its control characters, and U+FFFD half surrogate pairs.
fn string(text: &str, repaired: &mut String) -> usize {
    repaired.push('"');
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((place, c)) = chars.next() {
        match c {
            '"' => {
                repaired.push('"');
                return place + 1;
            }
            '\\' => {
                let length = escape(&text[place..], repaired);
                while chars.peek().is_some_and(|(next, _)| *next < place + length) {
                    chars.next();
                }
            }
            '\0'..' ' => repaired.push(' '),
            c => repaired.push(c),
        }
    }
    text.len()
}

/// One escape; its length.
fn escape(text: &str, repaired: &mut String) -> usize {
    if let Some(first) = unit(text) {
        return unicode(text, first, repaired);
    }
    let next = text[1..].chars().next();
    match next {
        Some(c @ ('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't')) => {
            repaired.push('\\');
            repaired.push(c);
        }
        // Not an escape of JSON: the character itself.
        Some(c) if c >= ' ' => repaired.push(c),
        _ => {}
    }
    1 + next.map_or(0, char::len_utf8)
}

/// An escape that begins with this unit of UTF-16, or a pair of them; its length.
fn unicode(text: &str, first: u16, repaired: &mut String) -> usize {
    if char::from_u32(u32::from(first)).is_some() {
        repaired.push_str(&text[..6]);
        return 6;
    }
    let pair = text.get(6..).and_then(unit).and_then(|second| String::from_utf16(&[first, second]).ok());
    repaired.push_str(pair.as_deref().unwrap_or("\u{fffd}"));
    if pair.is_some() { 12 } else { 6 }
}

fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(body: &[u8]) -> String {
        let value = parse(body).unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(body)));
        value["text"].as_str().expect("a text").to_owned()
    }

    #[test]
    fn the_text_of_almost_json_is_kept() {
        let cases: [(&[u8], &str); 14] = [
            (br#"{"text":"hello","p":NaN}"#, "hello"),
            (br#"{"text":"hello","p":[-Infinity,Infinity,-NaN,nan,inf]}"#, "hello"),
            (br#"{"text":"hello","id":1e999}"#, "hello"),
            (b"\xEF\xBB\xBF{\"text\":\"hello\"}", "hello"),
            (b"{\"text\":\"caf\xe9\"}", "caf\u{fffd}"),
            (b"{\"text\":\"caf\xc3\"}", "caf\u{fffd}"),
            (br#"{"text":"a\ud83db"}"#, "a\u{fffd}b"),
            (br#"{"text":"a\ude00b"}"#, "a\u{fffd}b"),
            (br#"{"p":NaN,"text":"\ud83d\ude00 \u00e9"}"#, "\u{1f600} \u{e9}"),
            (b"{\"text\":\"a\nb\tc\"}", "a b c"),
            (b"{\"text\":\"a\0b\"}", "a b"),
            (br#"{"text":"a\'b","p":NaN}"#, "a'b"),
            (br#"{"text":"say \"NaN\"","p":NaN}"#, "say \"NaN\""),
            (br#"{"p":NaN,"text":"a\\"}"#, "a\\"),
        ];
        for (body, expected) in cases {
            assert_eq!(text(body), expected);
        }
    }

    #[test]
    fn what_is_no_json_stays_an_error() {
        for body in [b"".as_slice(), b"<html>NaN</html>", b"{\"text\":\"half", b"{", b"hello"] {
            assert!(parse(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }

    proptest! {
        /// Good JSON means the same after a repair as before.
        #[test]
        fn good_json_is_left_as_it_is(text in ".{0,40}", number in any::<f64>()) {
            let good = serde_json::json!({"text": text, "n": number, "b": [true, null]}).to_string();
            let repaired: Value = serde_json::from_str(&repair(&good)).expect("JSON");
            let good: Value = serde_json::from_str(&good).expect("JSON");
            prop_assert_eq!(repaired, good);
        }

        /// Nothing that a server may send makes it panic.
        #[test]
        fn damaged_answers_never_panic(mut body in prop::collection::vec(any::<u8>(), 0..60), cut in 0..60_usize) {
            let _ = parse(&body);
            let good = br#"{"text":"a\ud83d\ude00\"b","segments":[{"start":0,"end":NaN,"text":"x"}]}"#;
            body.splice(..0, good[..cut.min(good.len())].iter().copied());
            let _ = parse(&body);
        }
    }
}
