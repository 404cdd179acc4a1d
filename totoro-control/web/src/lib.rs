//! What Totoro's pages share: the control plane's and the local client's. One stylesheet, one script,
//! one frame; both languages side by side where a text is used; figures as people read them.
//!
//! The templates of a page extend `base.html` and import `parts.html`, both of `templates/` here: name
//! that directory in the crate's `askama.toml`.
//!
//! Style and script are part of the page, and its policy allows them by their hashes: a page is one
//! answer, and nothing that a node or a person wrote can become style or script.

mod frame;
mod lang;
mod shown;

pub use frame::{Frame, link};
pub use lang::{choose, say};
pub use shown::{bytes, class, duration, moment, rate, state};
pub use totoro_api::reason::Lang;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};

/// The one stylesheet.
pub const STYLE: &str = include_str!("../templates/style.css");
/// The one script: pages work without it.
pub const SCRIPT: &str = include_str!("../templates/page.js");

/// A page's `Content-Security-Policy`: our style, this script if any, forms and requests to where the
/// page is from, nothing else.
#[must_use]
pub fn policy(script: Option<&str>) -> String {
    let script = script.map_or_else(
        || "'none'".to_owned(),
        |script| format!("'{}'; connect-src 'self'", hash(script)),
    );
    format!(
        "default-src 'none'; style-src '{}'; script-src {script}; img-src data:; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'",
        hash(STYLE)
    )
}

/// As a policy names what is in the page.
fn hash(text: &str) -> String {
    format!(
        "sha256-{}",
        STANDARD.encode(digest(&SHA256, text.as_bytes()))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_allows_ours_alone() {
        for policy in [policy(None), policy(Some(SCRIPT))] {
            assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"));
            assert!(!policy.contains("unsafe"), "{policy}");
        }
        assert!(policy(None).contains("script-src 'none';"));
        assert!(policy(Some(SCRIPT)).contains(&hash(SCRIPT)));
    }

    /// Either would end the element that it is in, and what follows would be page.
    #[test]
    fn style_and_script_stay_in_their_elements() {
        for text in [STYLE, SCRIPT] {
            assert!(!text.contains("</") && !text.contains("<!--"));
        }
    }
}
