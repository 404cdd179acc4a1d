//! Invite codes: `tn1-` + 20 Crockford base32 symbols (100 bits) + one check symbol (mod 37).
//!
//! A code is read aloud, typed and pasted: case and hyphens do not matter, `O` is `0`, `I` and `L`
//! are `1`, and the check symbol tells a typing error from a code that does not exist. Shown in
//! groups of four. Only a keyed hash of the normalised text is ever stored.
//!
//! A QR code is smallest with capitals and digits alone. There the five check symbols that are
//! neither are written as `U0` to `U4`, which no other text can end in.

use std::fmt;
use std::str::FromStr;

/// Begins every code; the `1` is the format's version.
pub const PREFIX: &str = "tn1-";

/// Symbols without prefix and check symbol.
const SYMBOLS: usize = 20;

/// Bits in one symbol.
const SYMBOL_BITS: u32 = 5;

/// Crockford's base32 alphabet, then the five symbols that only a check symbol may be.
const ALPHABET: &[u8; 37] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ*~$=U";

/// How many of them data symbols may be; those from here on only check.
const DATA: usize = 32;

/// The check symbol is the number modulo this prime.
const CHECK: u128 = 37;

/// The value of `U`, which stands before a check symbol that a QR code can't hold densely.
const UNWRITABLE: u128 = 36;

/// The longest text that is looked at, bytes: a code with a hyphen after every symbol fits.
const MAX_TEXT: usize = 64;

/// A well-formed invite code. `Debug` hides it: a code is a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct InviteCode {
    /// The 100 bits, right-aligned.
    bits: u128,
}

/// Why a text is no invite code. Never quotes the text: it may be one but for a typing error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadCode {
    /// Not of the shape `tn1-` + 21 symbols.
    #[error("an invite code is tn1- followed by 21 letters and digits")]
    Malformed,
    /// The right shape, but the check symbol says that a symbol is wrong or two are swapped.
    #[error("the invite code has a typing error: its check symbol does not fit")]
    Typo,
}

impl InviteCode {
    /// The code with these bits; only the low 100 of the 128 are used.
    #[must_use]
    pub fn from_entropy(entropy: [u8; 16]) -> Self {
        let mask = (1u128 << (SYMBOL_BITS * SYMBOLS as u32)) - 1;
        InviteCode {
            bits: u128::from_be_bytes(entropy) & mask,
        }
    }

    /// The normalised text: what is hashed and compared. `tn1-` and 21 symbols, no other hyphens.
    #[must_use]
    pub fn normalised(&self) -> String {
        let mut text = String::with_capacity(PREFIX.len() + SYMBOLS + 1);
        text.push_str(PREFIX);
        text.extend(self.symbols().map(char::from));
        text
    }

    /// For QR codes: capitals and digits alone, `TN1` and 21 symbols, or 22 where the check symbol
    /// is none of them.
    #[must_use]
    pub fn qr(&self) -> String {
        let mut text = PREFIX.to_ascii_uppercase().replace('-', "");
        text.extend(self.symbols().take(SYMBOLS).map(char::from));
        let check = usize::try_from(self.bits % CHECK).unwrap_or(0);
        match check.checked_sub(DATA) {
            None => text.push(char::from(ALPHABET[check])),
            Some(beyond) => text.push_str(&format!("U{beyond}")),
        }
        text
    }

    /// The 20 symbols and the check symbol.
    fn symbols(&self) -> impl Iterator<Item = u8> {
        let bits = self.bits;
        let data = (0..SYMBOLS as u32).rev().map(move |place| {
            let index = (bits >> (place * SYMBOL_BITS)) & 31;
            ALPHABET[usize::try_from(index).unwrap_or(0)]
        });
        let check = ALPHABET[usize::try_from(bits % CHECK).unwrap_or(0)];
        data.chain(std::iter::once(check))
    }
}

/// For people: groups of four, `tn1-XXXX-XXXX-XXXX-XXXX-XXXX-C`.
impl fmt::Display for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tn1")?;
        for (index, symbol) in self.symbols().enumerate() {
            if index % 4 == 0 {
                f.write_str("-")?;
            }
            write!(f, "{}", char::from(symbol))?;
        }
        Ok(())
    }
}

impl fmt::Debug for InviteCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InviteCode(…)")
    }
}

/// A symbol's value (0–36), with the usual misreadings put right; `U` and up are check symbols.
fn value(symbol: u8) -> Option<u128> {
    let read = match symbol.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        other => other,
    };
    ALPHABET
        .iter()
        .position(|&known| known == read)
        .map(|index| index as u128)
}

impl FromStr for InviteCode {
    type Err = BadCode;

    fn from_str(text: &str) -> Result<Self, BadCode> {
        let text = text.trim();
        if text.len() > MAX_TEXT || !text.is_ascii() {
            return Err(BadCode::Malformed);
        }
        let mut symbols = text.bytes().filter(|&byte| byte != b'-');
        // `tn1` itself may have been read as `tnl` or `tni`.
        let prefix = [symbols.next(), symbols.next(), symbols.next()];
        match prefix.map(|byte| byte.unwrap_or(0).to_ascii_uppercase()) {
            [b'T', b'N', b'1' | b'I' | b'L'] => {}
            _ => return Err(BadCode::Malformed),
        }
        let mut values: Vec<u128> = symbols
            .map(value)
            .collect::<Option<_>>()
            .ok_or(BadCode::Malformed)?;
        // `U0` to `U4` at the end of a QR code's text.
        if let [.., UNWRITABLE, beyond @ 0..=4] = values[..]
            && values.len() == SYMBOLS + 2
        {
            values.truncate(SYMBOLS);
            values.push(DATA as u128 + beyond);
        }
        let Some((&check, data)) = values
            .split_last()
            .filter(|(_, data)| data.len() == SYMBOLS)
        else {
            return Err(BadCode::Malformed);
        };
        if data.iter().any(|&value| value >= DATA as u128) {
            return Err(BadCode::Malformed);
        }
        let bits = data
            .iter()
            .fold(0, |bits, value| bits << SYMBOL_BITS | value);
        if bits % CHECK == check {
            Ok(InviteCode { bits })
        } else {
            Err(BadCode::Typo)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<InviteCode, BadCode> {
        text.parse()
    }

    #[test]
    fn shapes() {
        let zero = InviteCode::from_entropy([0; 16]);
        assert_eq!(zero.normalised(), "tn1-000000000000000000000");
        assert_eq!(zero.to_string(), "tn1-0000-0000-0000-0000-0000-0");
        assert_eq!(format!("{zero:?}"), "InviteCode(…)");
        for text in [
            "",
            "tn1-",
            "tn1",
            "tn2-000000000000000000000",
            "hello",
            "tn1-00000000000000000000",
        ] {
            assert_eq!(read(text), Err(BadCode::Malformed), "{text:?}");
        }
        assert_eq!(
            read("tn1-U00000000000000000000"),
            Err(BadCode::Malformed),
            "U only checks"
        );
        assert_eq!(read("tn1-000000000000000000001"), Err(BadCode::Typo));
        assert_eq!(read(&"-".repeat(5000)), Err(BadCode::Malformed));
        assert_eq!(read("tn1-٠٠٠"), Err(BadCode::Malformed));
    }

    #[test]
    fn every_check_symbol_is_used_and_read() {
        let mut seen = std::collections::BTreeSet::new();
        for n in 0u8..37 {
            let mut entropy = [0; 16];
            entropy[15] = n;
            let code = InviteCode::from_entropy(entropy);
            let text = code.normalised();
            seen.insert(text.bytes().next_back());
            assert_eq!(read(&text).as_ref(), Ok(&code));
            let qr = code.qr();
            let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit();
            assert!(qr.bytes().all(plain), "{qr}");
            assert_eq!(read(&qr).as_ref(), Ok(&code), "{qr}");
        }
        let beyond = |last: &str| read(&format!("TN1{}{last}", "0".repeat(20)));
        assert_eq!(beyond("U5"), Err(BadCode::Malformed));
        assert_eq!(beyond("U1"), Err(BadCode::Typo));
        assert_eq!(seen.len(), 37);
    }

    proptest! {
        #[test]
        fn read_as_written_in_any_dress(entropy: [u8; 16]) {
            let code = InviteCode::from_entropy(entropy);
            for text in [
                code.to_string(),
                code.normalised(),
                code.to_string().to_lowercase(),
                code.qr(),
                code.qr().to_lowercase(),
                format!(" {}\n", code.normalised().replace('-', "")),
                code.normalised().replace('0', "o").replace('1', "l"),
                code.normalised().replace('0', "O").replace('1', "I"),
            ] {
                prop_assert_eq!(read(&text), Ok(code.clone()), "{}", text);
            }
        }

        #[test]
        fn one_wrong_symbol_is_a_typo(entropy: [u8; 16], place in 0usize..20, other in 0usize..32) {
            let code = InviteCode::from_entropy(entropy).normalised();
            let mut wrong = code.clone().into_bytes();
            wrong[PREFIX.len() + place] = ALPHABET[other];
            let wrong = String::from_utf8(wrong).unwrap();
            prop_assume!(wrong != code);
            prop_assert_eq!(read(&wrong), Err(BadCode::Typo));
        }

        #[test]
        fn swapped_neighbours_are_a_typo(entropy: [u8; 16], place in 0usize..19) {
            let code = InviteCode::from_entropy(entropy).normalised();
            let mut wrong = code.clone().into_bytes();
            wrong.swap(PREFIX.len() + place, PREFIX.len() + place + 1);
            let wrong = String::from_utf8(wrong).unwrap();
            prop_assume!(wrong != code);
            prop_assert_eq!(read(&wrong), Err(BadCode::Typo));
        }

        #[test]
        fn any_text_is_an_answer(text in ".{0,80}") {
            let _ = read(&text);
        }
    }
}
