//! The language of what people read.

pub use totoro_api::reason::Lang;

/// One sentence in both languages: a text without its translation does not compile.
macro_rules! say {
    ($lang:expr, $en:literal, $zh:literal $(, $arg:expr)* $(,)?) => {
        match $lang {
            $crate::lang::Lang::En => format!($en $(, $arg)*),
            $crate::lang::Lang::Zh => format!($zh $(, $arg)*),
        }
    };
}
pub(crate) use say;

/// The language of a locale's name (`zh_CN.UTF-8`, `zh-Hans`): Chinese, or else English.
#[must_use]
pub fn of_locale(locale: &str) -> Lang {
    let language = locale.split(['_', '-', '.', '@']).next().unwrap_or("");
    if language.eq_ignore_ascii_case("zh") {
        Lang::Zh
    } else {
        Lang::En
    }
}

/// The language of this process's locale.
#[must_use]
pub fn of_system() -> Lang {
    sys_locale::get_locale().map_or(Lang::En, |locale| of_locale(&locale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locales() {
        for zh in ["zh_CN.UTF-8", "zh-Hans-CN", "zh", "ZH_tw"] {
            assert_eq!(of_locale(zh), Lang::Zh, "{zh}");
        }
        for en in ["en_GB.UTF-8", "C", "POSIX", "", "de_DE", "zhx"] {
            assert_eq!(of_locale(en), Lang::En, "{en}");
        }
    }
}
