//! Which language a page is in.

use totoro_api::reason::Lang;

/// The language that a person asks for by name, else the one that the browser prefers, else English.
#[must_use]
pub fn choose(asked: Option<&str>, accept_language: Option<&str>) -> Lang {
    let named = |tag: &str| match tag.split(['-', '_']).next() {
        Some(primary) if primary.eq_ignore_ascii_case("zh") => Some(Lang::Zh),
        Some(primary) if primary.eq_ignore_ascii_case("en") => Some(Lang::En),
        _ => None,
    };
    if let Some(lang) = asked.and_then(named) {
        return lang;
    }
    let mut best = (0.0, Lang::En);
    // A browser names a handful.
    for part in accept_language.unwrap_or_default().split(',').take(20) {
        let (tag, rest) = part.split_once(';').unwrap_or((part, ""));
        let quality = rest.trim().strip_prefix("q=");
        let quality = quality.map_or(1.0, |q| q.trim().parse::<f32>().unwrap_or(0.0));
        if let Some(lang) = named(tag.trim())
            && quality > best.0
        {
            best = (quality, lang);
        }
    }
    best.1
}

/// One of two texts.
#[must_use]
pub const fn say<'a>(lang: Lang, en: &'a str, zh: &'a str) -> &'a str {
    match lang {
        Lang::En => en,
        Lang::Zh => zh,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name_then_by_preference() {
        for (asked, accepted, lang) in [
            (None, None, Lang::En),
            (None, Some("zh-CN,zh;q=0.9,en;q=0.8"), Lang::Zh),
            (None, Some("de, en;q=0.5, zh;q=0.4"), Lang::En),
            (None, Some("de, en ; q=0.3, zh-Hant; q=0.4"), Lang::Zh),
            (None, Some("fr"), Lang::En),
            (None, Some("zh;q=NaN, zh;q=x,,;;"), Lang::En),
            (Some("en"), Some("zh"), Lang::En),
            (Some("zh"), Some("en"), Lang::Zh),
            (Some("<script>"), Some("zh"), Lang::Zh),
        ] {
            assert_eq!(choose(asked, accepted), lang, "{asked:?} {accepted:?}");
        }
    }
}
