//! Which language a model is asked for. Clients send tags of BCP 47, with regions and scripts, old codes and codes of
//! three letters; models know the codes that Whisper was trained with.

use isolang::Language as Iso;
use longhand_shared::domain::job::{Language, TranscribeOptions};

/// What the model is asked for instead: withdrawn codes, parts of larger languages, and names of Whisper's own.
const INSTEAD: [(&str, &str); 44] = [
    // Withdrawn from ISO 639-1.
    ("in", "id"),
    ("iw", "he"),
    ("ji", "yi"),
    ("mo", "ro"),
    ("sh", "sr"),
    // Whisper's own names.
    ("jv", "jw"),
    ("nb", "no"),
    ("fil", "tl"),
    ("cmn", "zh"),
    // The codes of libraries (ISO 639-2/B).
    ("alb", "sq"),
    ("arm", "hy"),
    ("baq", "eu"),
    ("bur", "my"),
    ("chi", "zh"),
    ("cze", "cs"),
    ("dut", "nl"),
    ("fre", "fr"),
    ("geo", "ka"),
    ("ger", "de"),
    ("gre", "el"),
    ("ice", "is"),
    ("mac", "mk"),
    ("mao", "mi"),
    ("may", "ms"),
    ("per", "fa"),
    ("rum", "ro"),
    ("slo", "sk"),
    ("tib", "bo"),
    ("wel", "cy"),
    // The standard language of a group that has a code of two letters.
    ("arb", "ar"),
    ("azj", "az"),
    ("ekk", "et"),
    ("khk", "mn"),
    ("lvs", "lv"),
    ("npi", "ne"),
    ("pbt", "ps"),
    ("pes", "fa"),
    ("plt", "mg"),
    ("als", "sq"),
    ("swh", "sw"),
    ("uzn", "uz"),
    ("ydd", "yi"),
    ("zsm", "ms"),
    ("prs", "fa"),
];

/// English names of languages that models use and ISO 639-3 has in another form.
const NAMES: [(&str, &str); 14] = [
    ("burmese", "my"),
    ("cantonese", "yue"),
    ("greek", "el"),
    ("haitian creole", "ht"),
    ("khmer", "km"),
    ("malay", "ms"),
    ("myanmar", "my"),
    ("nepali", "ne"),
    ("nynorsk", "nn"),
    ("occitan", "oc"),
    ("pashto", "ps"),
    ("punjabi", "pa"),
    ("swahili", "sw"),
    // Whisper's code for Javanese.
    ("jw", "jv"),
];

/// The language to ask for, if the client named one.
pub(super) fn of(options: &TranscribeOptions) -> Option<String> {
    let primary = options.language.as_ref()?.primary()?;
    let short = Iso::from_639_3(&primary).and_then(|language| language.to_639_1());
    let short = short.map_or(primary, str::to_owned);
    let instead = INSTEAD.into_iter().find(|(code, _)| *code == short);
    Some(instead.map_or(short, |(_, known)| known.to_owned()))
}

/// The tag of the language that an answer names: by its code or by its English name.
pub(super) fn detected(named: &str) -> Option<String> {
    let named = named.trim().to_lowercase();
    if let Some((_, tag)) = NAMES.into_iter().find(|(name, _)| *name == named) {
        return Some(tag.to_owned());
    }
    let short = |language: Iso| language.to_639_1().unwrap_or(language.to_639_3()).to_owned();
    let tag = Language::try_from(named.clone()).ok().map(|tag| tag.as_str().to_owned());
    tag.map(|tag| Iso::from_639_3(&tag).map_or(tag, short))
        .or_else(|| Iso::from_name_lowercase(&named).map(short))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_for(tag: &str) -> Option<String> {
        let language = Some(tag.to_owned().try_into().expect("a tag"));
        of(&TranscribeOptions { language, ..TranscribeOptions::default() })
    }

    #[test]
    fn tags_become_the_codes_that_models_know() {
        for (tag, code) in [
            ("en", "en"),
            ("EN-us", "en"),
            ("pt_BR", "pt"),
            ("nb-NO", "no"),
            ("nob", "no"),
            ("nn", "nn"),
            ("fil-PH", "tl"),
            ("tgl", "tl"),
            ("jv", "jw"),
            ("jav", "jw"),
            ("iw", "he"),
            ("in", "id"),
            ("ji", "yi"),
            ("cmn-CN", "zh"),
            ("zho", "zh"),
            ("chi", "zh"),
            ("zh-Hans-CN", "zh"),
            ("zh-yue", "yue"),
            ("yue-HK", "yue"),
            ("haw", "haw"),
            ("eng", "en"),
            ("deu", "de"),
            ("ger", "de"),
            ("fra", "fr"),
            ("fre", "fr"),
            ("sr-Latn-RS", "sr"),
            ("de-CH-1996", "de"),
            ("arb", "ar"),
            ("swh", "sw"),
            ("tlh", "tlh"),
        ] {
            assert_eq!(asked_for(tag).as_deref(), Some(code), "{tag}");
        }
        for tag in ["und", "x-mine", "i-default"] {
            assert_eq!(asked_for(tag), None, "{tag}");
        }
    }

    #[test]
    fn detected_languages_become_tags() {
        for (named, tag) in [
            ("en", Some("en")),
            ("German", Some("de")),
            ("haw", Some("haw")),
            ("lao", Some("lo")),
            ("jw", Some("jv")),
            ("pt-br", Some("pt-br")),
            ("cantonese", Some("yue")),
            ("", None),
            ("no idea", None),
        ] {
            assert_eq!(detected(named).as_deref(), tag, "{named}");
        }
    }

    #[test]
    fn each_name_of_whisper_becomes_a_tag() {
        let names = "afrikaans albanian amharic arabic armenian assamese azerbaijani bashkir basque belarusian bengali \
            bosnian breton bulgarian cantonese catalan chinese croatian czech danish dutch english estonian faroese \
            finnish french galician georgian german greek gujarati hausa hawaiian hebrew hindi hungarian icelandic \
            indonesian italian japanese javanese kannada kazakh khmer korean lao latin latvian lingala lithuanian \
            luxembourgish macedonian malagasy malay malayalam maltese maori marathi mongolian myanmar nepali norwegian \
            nynorsk occitan pashto persian polish portuguese punjabi romanian russian sanskrit serbian shona sindhi \
            sinhala slovak slovenian somali spanish sundanese swahili swedish tagalog tajik tamil tatar telugu thai \
            tibetan turkish turkmen ukrainian urdu uzbek vietnamese welsh yiddish yoruba";
        let unknown: Vec<_> = names.split_whitespace().filter(|name| detected(name).is_none()).collect();
        assert_eq!(unknown, [""; 0]);
    }
}
