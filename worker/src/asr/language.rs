//! Which language a model is asked for. Clients send tags of BCP 47, with regions and scripts, old codes and codes of
//! three letters; models know the codes that Whisper was trained with.

use isolang::Language as Iso;
use longhand_shared::domain::job::TranscribeOptions;

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

/// The language to ask for, if the client named one.
pub(super) fn of(options: &TranscribeOptions) -> Option<String> {
    let primary = options.language.as_ref()?.primary()?;
    let short = Iso::from_639_3(&primary).and_then(|language| language.to_639_1());
    let short = short.map_or(primary, str::to_owned);
    let instead = INSTEAD.into_iter().find(|(code, _)| *code == short);
    Some(instead.map_or(short, |(_, known)| known.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked_for(tag: &str) -> Option<String> {
        let language = Some(tag.to_owned().try_into().expect("a tag"));
        of(&TranscribeOptions { language, prompt: None })
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
}
