//! Random texts: bearer tokens and ids.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// What a bearer text is for: told by its prefix, so that a person who pastes the wrong one is
/// told, and secret scanners find them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A node's own key.
    NodeKey,
    /// A one-time enrolment token.
    Enrolment,
    /// An admin's token.
    Admin,
}

impl TokenKind {
    const fn prefix(self) -> &'static str {
        match self {
            TokenKind::NodeKey => "tk1-",
            TokenKind::Enrolment => "te1-",
            TokenKind::Admin => "ta1-",
        }
    }

    /// A new one: 256 random bits.
    #[must_use]
    pub fn generate(self) -> String {
        self.of(random())
    }

    /// The one of these bits.
    #[must_use]
    pub fn of(self, bits: [u8; 32]) -> String {
        format!("{}{}", self.prefix(), URL_SAFE_NO_PAD.encode(bits))
    }

    /// Whether the text has the shape of one.
    #[must_use]
    pub fn fits(self, text: &str) -> bool {
        text.strip_prefix(self.prefix()).is_some_and(|rest| {
            rest.len() == 43
                && rest
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        })
    }
}

/// Random bytes from the system.
///
/// # Panics
/// When the system has none: nothing here could go on safely.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}

/// Random bytes in hex.
#[must_use]
pub fn random_hex<const N: usize>() -> String {
    hex::encode(random::<N>())
}

/// A new id: `prefix-` and 12 symbols (60 bits) of lower-case Crockford base32.
#[must_use]
pub fn new_id(prefix: &str) -> String {
    const SYMBOLS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut id = String::with_capacity(prefix.len() + 13);
    id.push_str(prefix);
    id.push('-');
    id.extend(
        random::<12>()
            .iter()
            .map(|byte| char::from(SYMBOLS[usize::from(byte & 31)])),
    );
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        for kind in [TokenKind::NodeKey, TokenKind::Enrolment, TokenKind::Admin] {
            let text = kind.generate();
            assert!(kind.fits(&text) && text.len() == 47);
            assert!(!kind.fits(&text[..46]) && !kind.fits(""));
            assert_ne!(text, kind.generate());
        }
        assert!(!TokenKind::Admin.fits(&TokenKind::NodeKey.generate()));
        assert_eq!(new_id("inv").len(), 16);
    }
}
