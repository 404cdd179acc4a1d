//! What is around a page.

use totoro_api::reason::Lang;

use crate::{STYLE, say};

/// What `base.html` needs of every page; templates have it as `page`.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The language.
    pub lang: Lang,
    /// The script in the page, if any.
    pub script: Option<&'static str>,
    /// This page in the other language: a path with its query.
    pub other: String,
}

impl Frame {
    /// A page at this path, with what of its query is to be kept in the other language.
    #[must_use]
    pub fn new(
        lang: Lang,
        script: Option<&'static str>,
        path: &str,
        query: &[(&str, &str)],
    ) -> Self {
        let other = match lang {
            Lang::En => Lang::Zh,
            Lang::Zh => Lang::En,
        };
        Frame {
            lang,
            script,
            other: link(other, path, query),
        }
    }

    /// One of two texts.
    #[must_use]
    pub const fn say<'a>(&self, en: &'a str, zh: &'a str) -> &'a str {
        say(self.lang, en, zh)
    }

    /// The language's tag.
    #[must_use]
    pub const fn tag(&self) -> &'static str {
        say(self.lang, "en", "zh")
    }

    /// The page itself in its language, as a form's action.
    #[must_use]
    pub const fn here(&self) -> &'static str {
        say(self.lang, "?lang=en", "?lang=zh")
    }

    /// For the `lang` attribute: `zh` alone leaves open which glyphs are meant.
    #[must_use]
    pub const fn html_lang(&self) -> &'static str {
        say(self.lang, "en", "zh-Hans")
    }

    /// What ends a sentence.
    #[must_use]
    pub const fn stop(&self) -> &'static str {
        say(self.lang, ".", "。")
    }

    /// A span of time, from seconds.
    #[must_use]
    pub fn duration(&self, seconds: &u64) -> String {
        crate::duration(self.lang, *seconds)
    }

    /// A moment, from Unix time.
    #[must_use]
    pub fn moment(&self, unix: &i64) -> String {
        crate::moment(*unix)
    }

    /// The stylesheet.
    #[must_use]
    pub const fn style(&self) -> &'static str {
        STYLE
    }
}

/// A page at this path in a language, with what of its query says something.
#[must_use]
pub fn link(lang: Lang, path: &str, query: &[(&str, &str)]) -> String {
    let mut link = form_urlencoded::Serializer::for_suffix(format!("{path}?"), path.len() + 1);
    link.append_pair("lang", say(lang, "en", "zh"));
    link.extend_pairs(query.iter().filter(|(_, value)| !value.is_empty()));
    link.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_language_keeps_the_query() {
        let query = [("region", "a&b=\"<"), ("isp", "")];
        let frame = Frame::new(Lang::En, None, "/", &query);
        assert_eq!(frame.other, "/?lang=zh&region=a%26b%3D%22%3C");
    }
}
