//! Signing, and reading what was signed.

use ed25519_dalek::Signature;
use pasetors::Public;
use pasetors::token::UntrustedToken;
use pasetors::version4::{PublicToken, V4};
use serde::{Deserialize, Serialize};

use super::keys::Key;
use super::{Claims, Keys, MAX_LEN, SKEW_S, SigningKey};
use crate::{Reason, Refusal};

/// Begins every ticket: PASETO's version and purpose.
pub const HEADER: &str = PublicToken::HEADER;

/// An Ed25519 signature's length, bytes.
const SIGNATURE: usize = Signature::BYTE_SIZE;

/// The footer: read before the signature is, so that a ticket for another node can be told from a
/// forgery and the right key be found. The signature covers it.
#[derive(Serialize, Deserialize)]
struct Footer {
    kid: String,
    node: String,
}

/// What binds a ticket to its node without being sent.
fn assertion(node: &str) -> String {
    format!("totoro-ticket-v1|{node}")
}

/// The ticket that says this.
#[must_use]
pub fn sign(key: &SigningKey, claims: &Claims) -> String {
    let footer = Footer {
        kid: key.kid.clone(),
        node: claims.node.clone(),
    };
    let parts =
        serde_json::to_vec(claims).and_then(|text| Ok((text, serde_json::to_vec(&footer)?)));
    let (message, footer) = parts.expect("claims and footer have string keys only");
    PublicToken::sign(
        &key.secret,
        &message,
        Some(&footer),
        Some(assertion(&claims.node).as_bytes()),
    )
    .expect("the key was checked when it was read and the message is not empty")
}

/// What the signature is of: PASETO's pre-authentication encoding of header, message, footer and implicit
/// assertion (<https://github.com/paseto-standard/paseto-spec>, "Common Implementation Details"). The
/// library keeps its own to itself, and verifies one ticket at a time.
fn authenticated(pieces: [&[u8]; 4]) -> Vec<u8> {
    let length = |length: usize| (length as u64).to_le_bytes();
    let mut bytes =
        Vec::with_capacity(pieces.iter().map(|piece| 8 + piece.len()).sum::<usize>() + 8);
    bytes.extend(length(pieces.len()));
    for piece in pieces {
        bytes.extend(length(piece.len()));
        bytes.extend(piece);
    }
    bytes
}

/// A ticket that names this node and a key of the control plane's. Whether that key signed it is not
/// known yet, and what it claims is not looked at before.
#[derive(Debug)]
pub struct Unverified {
    pub(super) key: Key,
    pub(super) signed: Vec<u8>,
    pub(super) signature: Signature,
    token: UntrustedToken<Public, V4>,
    node: String,
}

/// A ticket that the control plane did sign for this node.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// What it says.
    pub claims: Claims,
    /// Past `exp`: no longer good for a new session, still good for a resume of its own.
    pub expired: bool,
}

/// Reads a ticket, and checks that it was signed for `node` with one of `keys`. `now` is Unix
/// seconds by the control plane's clock.
///
/// # Errors
/// `ticket_missing`, `ticket_malformed`, `ticket_wrong_node`, `ticket_key_unknown` or
/// `ticket_forged`, in the order in which they are found. Expiry is no error here.
pub fn verify(token: &str, node: &str, keys: &Keys, now: i64) -> Result<Verified, Refusal> {
    Unverified::read(token, node, keys)?.verify()?.claims(now)
}

impl Unverified {
    /// Reads a ticket for `node`.
    ///
    /// # Errors
    /// `ticket_missing`, `ticket_malformed`, `ticket_wrong_node` or `ticket_key_unknown`, in the order in
    /// which they are found.
    pub fn read(token: &str, node: &str, keys: &Keys) -> Result<Self, Refusal> {
        let refuse = |reason: Reason| Err(Refusal::new(reason));
        if token.is_empty() {
            return refuse(Reason::TicketMissing);
        }
        if token.len() > MAX_LEN {
            return refuse(Reason::TicketMalformed);
        }
        let Ok(token) = UntrustedToken::<Public, V4>::try_from(token) else {
            return refuse(Reason::TicketMalformed);
        };
        let Ok(footer) = serde_json::from_slice::<Footer>(token.untrusted_footer()) else {
            return refuse(Reason::TicketMalformed);
        };
        if footer.node != node {
            return refuse(Reason::TicketWrongNode);
        }
        let Some(key) = keys.find(&footer.kid) else {
            return refuse(Reason::TicketKeyUnknown);
        };
        let Some(signature) = token.untrusted_message().last_chunk::<SIGNATURE>() else {
            return refuse(Reason::TicketMalformed);
        };
        Ok(Unverified {
            key: key.clone(),
            signed: authenticated([
                HEADER.as_bytes(),
                token.untrusted_payload(),
                token.untrusted_footer(),
                assertion(node).as_bytes(),
            ]),
            signature: Signature::from_bytes(signature),
            token,
            node: footer.node,
        })
    }

    /// What it says, which is to be believed: its signature is the key's.
    pub(super) fn claims(&self, now: i64) -> Result<Verified, Refusal> {
        let Ok(claims) = serde_json::from_slice::<Claims>(self.token.untrusted_payload()) else {
            return Err(Reason::TicketMalformed.into());
        };
        if claims.node != self.node {
            return Err(Reason::TicketWrongNode.into());
        }
        let key = &self.key;
        let window = key.not_before.saturating_sub(SKEW_S)..=key.expires.saturating_add(SKEW_S);
        if !window.contains(&claims.iat) {
            return Err(Reason::TicketForged.into());
        }
        let expired = claims.exp.saturating_add(SKEW_S) < now;
        Ok(Verified { claims, expired })
    }
}

/// BLAKE3 of the ticket's text: what a resume is compared with.
#[must_use]
pub fn hash(token: &str) -> [u8; 32] {
    *blake3::hash(token.as_bytes()).as_bytes()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;
    use crate::limits::Limits;
    use crate::ticket::{Grant, KeyError, Revision, verify_all};
    use crate::wire::push::TicketKey;
    use proptest::prelude::*;

    const NOW: i64 = 1_700_000_000;

    fn claims(node: &str) -> Claims {
        Claims {
            jti: "00112233445566778899aabbccddeeff".to_owned(),
            node: node.to_owned(),
            grant: Grant::Invite("inv_1".to_owned()),
            subject: "198.51.100.7".to_owned(),
            epoch: 3,
            limits: Limits {
                max_conns: Some(5),
                ..Limits::default()
            },
            revision: Revision {
                generation: 7,
                rev: 42,
            },
            iat: NOW,
            exp: NOW + 3600,
            session_until: NOW + 86_400,
        }
    }

    fn published(key: &SigningKey) -> TicketKey {
        TicketKey {
            kid: key.kid().to_owned(),
            public: key.public(),
            not_before: NOW - 1000,
            expires: NOW + 100_000,
        }
    }

    fn keys(key: &SigningKey) -> Keys {
        vec![published(key)].into()
    }

    fn reason(token: &str, node: &str, keys: &Keys) -> Reason {
        verify(token, node, keys, NOW).expect_err("refused").reason
    }

    #[test]
    fn what_was_signed_is_what_is_read() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_bytes(key.to_bytes()).unwrap();
        assert_eq!((key.kid(), key.public()), (again.kid(), again.public()));
        for grant in [Grant::Invite("inv_1".to_owned()), Grant::Public(true)] {
            let claims = Claims {
                grant,
                ..claims("n1")
            };
            let token = sign(&again, &claims);
            assert!(
                token.starts_with(HEADER) && token.len() < 1024,
                "{} bytes",
                token.len()
            );
            let read = verify(&token, "n1", &keys(&key), NOW).unwrap();
            assert_eq!(
                read,
                Verified {
                    claims,
                    expired: false
                }
            );
        }
    }

    #[test]
    fn each_wrong_ticket_has_its_reason() {
        let (key, other) = (
            SigningKey::generate().unwrap(),
            SigningKey::generate().unwrap(),
        );
        let keys = keys(&key);
        let good = sign(&key, &claims("n1"));
        assert_eq!(reason("", "n1", &keys), Reason::TicketMissing);
        for bad in [
            "garbage",
            "v4.public.",
            "v4.public.AAAA",
            "v4.local.AAAA",
            &good[..60],
        ] {
            assert_eq!(reason(bad, "n1", &keys), Reason::TicketMalformed, "{bad:?}");
        }
        let bare = PublicToken::sign(&key.secret, b"{}", None, Some(b"totoro-ticket-v1|n1"));
        assert_eq!(
            reason(&bare.unwrap(), "n1", &keys),
            Reason::TicketMalformed,
            "no footer"
        );
        assert_eq!(
            reason(&good.repeat(9), "n1", &keys),
            Reason::TicketMalformed
        );
        assert_eq!(reason(&good, "n2", &keys), Reason::TicketWrongNode);
        assert_eq!(
            reason(&sign(&other, &claims("n1")), "n1", &keys),
            Reason::TicketKeyUnknown
        );

        // Signed by somebody else under our key's id.
        let forger = SigningKey {
            kid: key.kid.clone(),
            secret: other.secret.clone(),
        };
        assert_eq!(
            reason(&sign(&forger, &claims("n1")), "n1", &keys),
            Reason::TicketForged
        );

        // Another node's ticket whose footer was rewritten: the assertion and the footer are signed.
        let foreign = sign(&key, &claims("n2"));
        let footer = serde_json::json!({ "kid": key.kid(), "node": "n1" }).to_string();
        let body = foreign.rsplit_once('.').unwrap().0;
        let moved = format!("{body}.{}", URL_SAFE_NO_PAD.encode(footer));
        assert_eq!(reason(&moved, "n1", &keys), Reason::TicketForged);
    }

    #[test]
    fn a_ticket_outside_its_keys_window_is_forged() {
        let key = SigningKey::generate().unwrap();
        let published = published(&key);
        for (iat, good) in [
            (published.not_before - SKEW_S - 1, false),
            (published.not_before - SKEW_S, true),
            (published.expires + SKEW_S, true),
            (published.expires + SKEW_S + 1, false),
        ] {
            let token = sign(
                &key,
                &Claims {
                    iat,
                    ..claims("n1")
                },
            );
            let read = verify(&token, "n1", &vec![published.clone()].into(), NOW);
            assert_eq!(
                read.map_err(|refusal| refusal.reason).is_ok(),
                good,
                "iat {iat}"
            );
        }
    }

    #[test]
    fn expiry_is_told_apart() {
        let key = SigningKey::generate().unwrap();
        let token = sign(&key, &claims("n1"));
        let at = |now| verify(&token, "n1", &keys(&key), now).unwrap().expired;
        assert!(!at(NOW) && !at(NOW + 3600 + SKEW_S) && at(NOW + 3600 + SKEW_S + 1));
    }

    #[test]
    fn secrets_stay_hidden_and_bad_keys_are_refused() {
        let key = SigningKey::generate().unwrap();
        assert!(!format!("{key:?}").contains(&format!("{:?}", &key.to_bytes()[..2])));
        for bytes in [&[][..], &[0; 64], &[7; 64], &key.to_bytes()[..63]] {
            assert_eq!(
                SigningKey::from_bytes(bytes).map(|_| ()),
                Err(KeyError::Unreadable)
            );
        }
        let token = sign(&key, &claims("n1"));
        // No base64, too short, and a point of small order: the neutral one.
        let neutral = URL_SAFE_NO_PAD.encode([&[1][..], &[0; 31]].concat());
        for public in ["!", "AAAA", &neutral] {
            let broken = TicketKey {
                public: public.to_owned(),
                ..published(&key)
            };
            let keys = vec![broken].into();
            assert_eq!(reason(&token, "n1", &keys), Reason::TicketKeyUnknown);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn one_changed_symbol_never_passes(place: prop::sample::Index, other: prop::sample::Index) {
            let key = SigningKey::generate().unwrap();
            let token = sign(&key, &claims("n1"));
            let symbols = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
            let mut changed = token.clone().into_bytes();
            let place = place.index(changed.len());
            changed[place] = symbols[other.index(symbols.len())];
            let changed = String::from_utf8(changed).unwrap();
            prop_assume!(changed != token);
            prop_assert!(verify(&changed, "n1", &keys(&key), NOW).is_err());
        }

        #[test]
        fn several_verified_at_once_are_what_each_is_by_itself(
            forged in prop::collection::vec(any::<bool>(), 0..70),
            bit in 0..512_usize,
        ) {
            let (key, later) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
            let keys = Keys::from(vec![published(&key), published(&later)]);
            let read = |(number, forged): (usize, &bool)| {
                let key = [&key, &later][number % 2];
                let claims = Claims { jti: number.to_string(), ..claims("n1") };
                let mut one = Unverified::read(&sign(key, &claims), "n1", &keys).unwrap();
                let mut signature = one.signature.to_bytes();
                signature[bit / 8] ^= u8::from(*forged) << (bit % 8);
                one.signature = Signature::from_bytes(&signature);
                one
            };
            let all = forged.iter().enumerate().map(read).collect();
            let said: Vec<_> = verify_all(all)
                .into_iter()
                .map(|one| one.map(|one| one.claims(NOW).unwrap().claims.jti))
                .collect();
            let right = forged.iter().enumerate().map(|(number, forged)| match forged {
                false => Ok(number.to_string()),
                true => Err(Refusal::new(Reason::TicketForged)),
            });
            prop_assert_eq!(said, right.collect::<Vec<_>>());
        }

        #[test]
        fn any_text_is_an_answer(text in ".{0,200}", tail in "[A-Za-z0-9_.-]{0,200}") {
            let _ = verify(&text, "n1", &Keys::default(), NOW);
            let framed = format!("v4.public.{tail}");
            prop_assert!(verify(&framed, "n1", &Keys::default(), NOW).is_err());
        }
    }
}
